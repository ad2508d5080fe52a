"""What is audited: the velocity of a run of ours, or that of a user's function."""

import functools
import importlib
import os
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

import experiments.run
import fmjax
from experiments.run import batches, errors
from experiments.uncertainty._audit.options import Facts, Subject
from fmjax.paths import Path
from fmjax.types import Array, PyTree, Velocity


class Audited(NamedTuple):
    """A velocity, and what is known of it.

    Attributes:
      name: for the run folder and the titles.
      velocity: `(x, t) -> dx` of one example.
      path: on which it was trained.
      data: what it was trained on, as its run gives it; None of a user's model.
      facts: what no measurement shows.
    """

    name: str
    velocity: Velocity
    path: Path
    data: Any
    facts: Facts


class Field(NamedTuple):
    """A velocity as a function of its parameters, on its path.

    Attributes:
      apply: `(params, x, t) -> dx` of one example.
      params: the parameters.
      path: the path.
    """

    apply: Callable[..., Array]
    params: PyTree
    path: Path

    def many(self, function: Callable[..., PyTree], *bound: object) -> Callable[..., PyTree]:
        """Returns a function of a velocity, compiled for batches of its other arguments."""
        return batches.batched(self.apply, self.params, function, *bound)


def load(subject: Subject, facts: Facts) -> Audited:
    """Returns what is audited.

    Args:
      subject: of the options.
      facts: of the options; of a run of ours what its networks are called is believed, too.

    Raises:
      ValueError: unless one thing is to be audited, or if the folder is no run, or the model none.
    """
    _check_one(subject)
    if subject.model is not None:
        velocity, path = _model(subject.model)
        module, _, function = subject.model.partition(":")
        name = f"{module.rpartition('.')[2]}.{function}"
        return Audited(name, velocity, path, None, facts)
    run = experiments.run.load(subject.run, subject.network)
    parts = [os.path.basename(os.path.abspath(subject.run)), *(subject.network or "").split("/")]
    if parts[-1] == "OT-CFM":  # the one method of ours that couples
        facts = Facts(coupled=True, guided=facts.guided)
    return Audited("_".join(filter(None, parts)), run.velocity, run.path, run.data, facts)


def _check_one(subject: Subject) -> None:
    """Raises ValueError unless one thing is to be audited."""
    message = ""
    if (subject.run is None) == (subject.model is None):
        message = (
            "give one of --run FOLDER, a run of ours, and --model MODULE:FUNCTION, your own; got "
            f"{'both' if subject.run else 'none'}."
        )
    elif subject.network is not None and subject.run is None:
        message = (
            f"--network {subject.network} names a network of a run, and a model of yours has one "
            "velocity: let your function return that one."
        )
    if message:
        raise ValueError(message)


def _model(spec: str) -> tuple[Velocity, Path]:
    """Returns the velocity and the path of a user's function."""
    module, _, name = spec.partition(":")
    if not module or not name:
        message = (
            f"--model must be MODULE:FUNCTION, such as mymodel:velocity for the function velocity "
            f"of mymodel.py in the current folder, got {spec!r}."
        )
        raise ValueError(message)
    function = getattr(_imported(spec, module), name, None)
    if not callable(function):
        got = "has nothing of that name" if function is None else f"is a {type(function).__name__}"
        message = f"--model {spec}: {name} must be a function of {module}, which {got}."
        raise ValueError(message)  # noqa: TRY004 (a user's mistake, one line of the command)
    made = _called(spec, f"calling {name}()", function)
    velocity, path = made if _is_pair(made) else (made, fmjax.paths.linear())
    if callable(velocity) and isinstance(path, Path):
        return velocity, path
    message = (
        f"--model {spec}: {name}() must return a velocity (x, t) -> dx, or a pair of it and its "
        f"fmjax.paths.Path, got {errors.short(type(made).__name__)}."
    )
    raise ValueError(message)


def _is_pair(made: Any) -> bool:
    return isinstance(made, tuple) and len(made) == 2


def _imported(spec: str, module: str) -> Any:
    """Imports a module of the current folder, or an installed one."""
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    return _called(spec, f"importing {module}", importlib.import_module, module)


def _called(spec: str, what: str, function: Callable, *arguments: Any) -> Any:
    """Returns the value of a user's code, or says in one line what went wrong in it."""
    try:
        return function(*arguments)
    except Exception as error:
        message = (
            f"--model {spec}: {what} failed, {type(error).__name__}: {errors.first_line(error)}. "
            f'python -c "import {spec.split(":")[0]} as m; m.{spec.split(":")[-1]}()" shows where.'
        )
        raise ValueError(message) from error


def check(velocity: Velocity, x: Array) -> None:
    """Raises ValueError unless the velocity takes such an example and returns its like.

    Args:
      velocity: `(x, t) -> dx`.
      x: `[*dims]`, one example of the data.
    """
    t = jax.ShapeDtypeStruct((), np.float32)
    wanted = f"a velocity must take one example {list(x.shape)} and a scalar time"
    try:
        found = jax.eval_shape(velocity, jax.ShapeDtypeStruct(x.shape, np.float32), t)
    except Exception as error:
        message = (
            f"{wanted}; called so it failed, {type(error).__name__}: {errors.first_line(error)}. "
            "fmjax.predictions.unbatched takes a model of batches, time_first one of (t, x)."
        )
        raise ValueError(message) from error
    shape = getattr(found, "shape", type(found).__name__)
    if shape != x.shape:
        message = (
            f"{wanted}, and return its like; got {shape}: fmjax.predictions.unbatched takes a "
            "model of batches."
        )
        raise ValueError(message)


def split(velocity: Velocity) -> tuple[Callable[..., Array], PyTree]:
    """Returns a velocity as a function of its parameters, and these.

    Closed over, parameters are compiled in as constants. `functools.partial(apply, params)`, which
    is what our runs give and most users write, is taken apart again; of another function nothing
    is known, and it keeps its constants.

    Args:
      velocity: `(x, t) -> dx`.

    Returns:
      `(params, x, t) -> dx`, and the parameters.
    """
    if isinstance(velocity, functools.partial) and not velocity.keywords:
        leaves = jax.tree.leaves(velocity.args)
        if leaves and all(isinstance(leaf, jax.Array | np.ndarray) for leaf in leaves):
            return lambda params, x, t: velocity.func(*params, x, t), velocity.args
    return lambda params, x, t: velocity(x, t), ()  # noqa: ARG005
