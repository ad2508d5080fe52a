"""What a run has trained, given back from its folder: `experiments.run.load`.

An experiment that trains has a function `restore(config, folder)` that returns its networks by
name, each a `Network`. Its module is the one that provenance.json names, so a folder tells by
itself how to read it, and no module of this floor knows an experiment. Only experiments of this
project are imported for it, or what the caller has imported already.
"""

import contextlib
import functools
import importlib
import os
import pathlib
import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any, NamedTuple

import jax
from etils import epath

from experiments import PAPERS
from experiments.run import errors, paths
from experiments.run import folder as run_folder
from fmjax.types import Array, PyTree, Velocity

_UNLIKE = (
    *(KeyError, TypeError, IndexError, AttributeError, MemoryError),
    jax.errors.JaxRuntimeError,  # of arrays that no machine can hold
)


class Network(NamedTuple):
    """How one network of a run is read.

    Attributes:
      apply: `(params, x, t) -> dx` of one example.
      read: `() -> params`, reads the averaged parameters, or says that they are not all there.
      path: of noise and data, on which the network was trained.
      data: `() -> data`, gives the data as the experiment reads it.
      velocity: `params -> velocity`, where `apply` is not the velocity itself.
      index: of the network, where `read` gives the parameters of several, stacked along a leading
        axis.
    """

    apply: Callable[..., Array]
    read: Callable[[], PyTree]
    path: Any
    data: Callable[[], Any]
    velocity: Callable[[PyTree], Velocity] | None = None
    index: int | None = None


class Run(NamedTuple):
    """What a run has trained.

    Attributes:
      velocity: `(x, t) -> dx` of one example, with the averaged parameters.
      path: the path of noise and data on which it was trained.
      params: the averaged parameters.
      apply: the network, `(params, x, t) -> dx`.
      data: what it was trained on, as the experiment reads it: `Images`, trajectories, points, or
        the law that the data are drawn from.
      options: the `Config` of the run.
    """

    velocity: Velocity
    path: Any
    params: PyTree
    apply: Callable[..., Array]
    data: Any
    options: Any


def load(folder: str | os.PathLike, name: str | None = None) -> Run:
    """Gives back what a run has trained.

    Args:
      folder: the run folder, the one that holds config.json.
      name: of the network, where the run has trained several; an error lists their names.

    Returns:
      `Run`.

    Raises:
      ImportError: if it is gs:// and the package that reaches a bucket is not installed.
      ValueError: if the folder is no run, or a run of another version; if the training has not
        ended; if the name is missing or unknown; if the data are no longer those of the run; if
        the folder is damaged, or holds a link that leads out of it.

    Example: after `python -m experiments.uncertainty.maps`,
      run = experiments.run.load("runs/uncertainty/maps/digits")
      uncertainty = fmjax.posterior.trace(run.velocity, run.path, x, t)
    """
    folder = paths.absolute(folder)
    paths.check_reachable(folder)
    module = _experiment(folder)
    paths.check_own(folder)
    config = run_folder.read_config(folder, module.Config)
    with _named(folder):
        network = _chosen(folder, module.restore(config, folder), name)
        params = network.read()
        if network.index is not None:
            params = jax.tree.map(lambda leaf: leaf[network.index], params)
        bind = network.velocity or functools.partial(functools.partial, network.apply)
        return Run(bind(params), network.path, params, network.apply, network.data(), config)


@contextlib.contextmanager
def _named(folder: epath.Path) -> Iterator[None]:
    """Turns what options that no run can have, or records that miss something, lead to."""
    try:
        yield
    except _UNLIKE as error:
        message = (
            f"{folder} does not hold what a run of this version does ({type(error).__name__}: "
            f"{errors.first_line(error)}): restore it from a copy, or train again."
        )
        raise ValueError(message) from error


def _experiment(folder: epath.Path) -> ModuleType:
    """Returns the module whose run a folder holds."""
    check_is_run(folder)
    name = run_folder.field(folder / "provenance.json", "module", str)
    if name not in sys.modules and name not in known():
        message = (
            f"{folder} is a run of {errors.short(repr(name))}, which this version does not have: a "
            "module that is not of this project is not imported on the word of a file; if it is "
            "yours, import it before."
        )
        raise ValueError(message)
    module = importlib.import_module(name)
    if not hasattr(module, "restore"):
        message = f"{folder} is a run of {name}, which trains no velocity: read its results.json."
        raise ValueError(message)
    return module


def check_is_run(folder: epath.Path) -> None:
    """Raises ValueError if a folder is not that of a run, or of one of an older version."""
    for name in ("config.json", "provenance.json"):
        if not (folder / name).exists():
            message = (
                f"{folder} is no run folder of this version: it has no {name}. Give the folder "
                "that holds config.json; in the folder of an older run, the same command adds "
                "provenance.json."
            )
            raise ValueError(message)


def known() -> set[str]:
    """Names the experiments of this version, without importing any."""
    root = pathlib.Path(__file__).parents[1]
    files = (file for paper in PAPERS for file in (root / paper).glob("[a-z]*.py"))
    return {f"experiments.{file.parent.name}.{file.stem}" for file in files}


def _chosen(folder: epath.Path, networks: dict[str, Network], name: str | None) -> Network:
    """Returns the network of this name, or the only one."""
    if name is None and len(networks) == 1:
        return next(iter(networks.values()))
    if name not in networks:
        message = (
            f"{folder} holds {len(networks)} networks, got name {name!r}: give one of "
            f"{', '.join(map(repr, networks))}."
        )
        raise ValueError(message)
    return networks[name]
