"""What a run would take, told before it begins: `--dry-run`.

The command reads its data and makes its network as ever. The first training takes a few of its real
steps and one of its evaluations, says what they took, and the command ends: no folder is made, and
nothing in one is changed. A training of a helper that comes first, such as a classifier, is told
too, and is left after its few steps.
"""

import contextlib
import contextvars
import dataclasses
import itertools
import os
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from etils import epath

from experiments.run import configs, lock, options, paths, provenance, units
from fmjax.types import PyTree

SECONDS = 3.0  # for which steps are timed
_SHOWN = 6  # names of networks
_REST = ("held_out", "test")  # what no training sees


class Told(Exception):
    """Ends a dry run: everything is told."""


@dataclasses.dataclass
class _Plan:
    """The run: its options, how its networks are read, its folder, the folder opened last."""

    config: Any
    restore: Callable[[Any, Any], dict[str, Any]]
    folder: epath.Path | None = None
    opened: epath.Path | None = None
    count: int | None = 1


_plan: contextvars.ContextVar[_Plan | None] = contextvars.ContextVar("plan", default=None)


class Timed(NamedTuple):
    """What the first calls of a training took.

    Attributes:
      state: after them.
      steps: that were timed.
      seconds: that one of them took.
      compiling: seconds before the first.
      workspace: bytes on each device that the compiled step needs beside its arguments, None
        where the compiler does not tell.
    """

    state: Any
    steps: int
    seconds: float
    compiling: float
    workspace: int | None = None


@contextlib.contextmanager
def of(config: Any, restore: Callable[[Any, Any], dict[str, Any]]) -> Iterator[None]:
    """Makes what runs in the context a dry run, which ends by itself once everything is told.

    Args:
      config: the options of the run.
      restore: the function of the experiment that tells how its networks are read.
    """
    token = _plan.set(_Plan(config, restore))
    _say("dry run", f"of {provenance.module_of(config)}; nothing is written")
    try:
        yield
        _say("time", "every network of this run is trained already")
    except Told:
        pass
    finally:
        _plan.reset(token)
        lock.release_all()


def is_on() -> bool:
    """Tells whether this is a dry run."""
    return _plan.get() is not None


def open_folder(workdir: str | os.PathLike, config: Any, facts: dict[str, Any]) -> epath.Path:
    """Names a run folder, of which nothing will be changed.

    Args:
      workdir: the folder, which need not be there.
      config: the options.
      facts: as for `experiments.run.folder.open_folder`.

    Raises:
      ValueError: if the folder holds another run.
    """
    plan, folder = _plan.get(), paths.absolute(workdir)
    paths.check_reachable(folder)
    lock.only_read(folder)
    configs.check_same(folder, config, facts)
    plan.opened = folder
    if config is plan.config:
        plan.folder = folder
        _say("folder", str(folder))
        _tell_data(plan)
    return folder


def _tell_data(plan: _Plan) -> None:
    """Says what the run learns from, and which networks it trains."""
    try:
        networks = plan.restore(plan.config, plan.folder)
    except FileNotFoundError:  # of an experiment that chooses its trainings by the first ones
        plan.count = None
        _say("trainings", "several; the first ones decide about the others")
        return
    # Networks with an index are trained side by side.
    names = [n if w.index is None else n.rpartition("/")[0] for n, w in networks.items()]
    names = list(dict.fromkeys(names))
    named = options.flat(plan.config)
    name = next((f"{named[key]}, " for key in ("dataset", "system") if key in named), "")
    first, *_, last = (network.data for network in (*networks.values(),) * 2)
    for said in dict.fromkeys(described(data()) for data in (first, last)):
        _say("data", f"{name}{said}")
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    _say("trainings", f"{len(names)}: {', '.join(names[:_SHOWN])}{more}")
    plan.count = len(names)


def described(data: Any) -> str:
    """Says in a few words what examples a run learns from.

    Args:
      data: as an experiment reads it: an array, or a tuple with the arrays `train` and `held_out`
        or `test`; anything else is a law, from which every step draws its own.
    """
    if isinstance(data, np.ndarray | jax.Array):
        return f"{data.dtype} {list(data.shape[1:])}: {len(data):,} training examples"
    train = getattr(data, "train", None)
    if train is None:
        return "examples drawn for every step from a law that is known"
    rest = next((getattr(data, name) for name in _REST if hasattr(data, name)), ())
    return f"{described(train)}" + (f", {len(rest):,} held out" if len(rest) else "")


def of_training(
    several: Any,
    state: PyTree,
    stream: Iterator[PyTree],
    evaluate: Callable[[PyTree], Any],
    *,
    workdir: epath.Path,
    num_steps: int,
    every: tuple[int, int, int],
) -> PyTree:
    """Takes a few steps of a training and one evaluation, and says what the whole will take.

    Args:
      several: the calls of the training, `experiments.run.calls.Calls`.
      state: its first state.
      stream: its batches.
      evaluate: `ema_params -> anything`, as the training calls it.
      workdir: its folder.
      num_steps: at which it ends.
      every: steps between two looks, evaluations and checkpoints.

    Returns:
      The state after the steps, as `tell`.
    """
    timed = _timed(several, state, stream, num_steps, every)
    begun = time.perf_counter()
    evaluate(timed.state.ema_params)
    middle = time.perf_counter()
    evaluate(timed.state.ema_params)
    taken = time.perf_counter() - middle
    compiling = timed.compiling + max(middle - begun - taken, 0.0)
    evaluations = Evaluations(every[1], taken)
    return tell(timed._replace(compiling=compiling), num_steps, workdir, evaluations)


class Evaluations(NamedTuple):
    """Steps from one evaluation of a training to the next, and the seconds of one."""

    every: int
    seconds: float


def tell(
    timed: Timed,
    num_steps: int,
    workdir: epath.Path | None = None,
    evaluations: Evaluations | None = None,
) -> PyTree:
    """Says what a training takes.

    Args:
      timed: what its first calls took.
      num_steps: all of its steps.
      workdir: its folder; None where nothing is saved halfway.
      evaluations: if there are any during the training.

    Returns:
      The state after the steps, if this is the training of a helper.

    Raises:
      Told: if it is the training that the command is about.
    """
    plan = _plan.get()
    is_helper = plan.opened != plan.folder
    saved = _saved(workdir) if workdir else 0
    where = f", step {saved} of {num_steps} is saved there" if saved else ""
    _say("helper" if is_helper else "measured", f"{workdir or 'the first training'}{where}")
    _say("network", f"{sum(p.size for p in jax.tree.leaves(timed.state.params)):,} parameters")
    _say("memory", _memory(timed))
    count = 1 if is_helper else plan.count
    _say("time", _time(timed, max(num_steps - saved, 0), evaluations, count))
    device = jax.devices()[0].device_kind
    asked = f"{timed.steps} real steps" + (" and an evaluation" if evaluations else "")
    _say("how", f"{asked} were timed once compiled, on {jax.device_count()} x {device}")
    _say("", "not in it: what is measured and drawn after a training")
    if not is_helper:
        raise Told
    plan.opened = plan.folder  # to which the run goes back
    return timed.state


def _timed(
    several: Any, state: PyTree, stream: Iterator[PyTree], num_steps: int, every: tuple[int, ...]
) -> Timed:
    """Takes the first steps of a training, in calls as it takes them."""
    first, begun = next(stream), time.perf_counter()
    workspace = several.workspace(state, first)
    compiling, stream, taken = time.perf_counter() - begun, itertools.chain([first], stream), []
    done = 0
    while done < num_steps and sum(seconds for _, seconds, _ in taken) < SECONDS:
        begun, room = time.perf_counter(), min(num_steps - done, *(k - done % k for k in every))
        state, info, steps = several.take(state, stream, room)
        jax.block_until_ready(info)
        compiling, done = compiling + several.waited, done + steps
        taken.append((steps, time.perf_counter() - begun - several.waited, several.waited > 0))
    # The calls in their last form, without those that compiled; of a single call that one.
    warm = [call for call in taken if not call[2]] or taken
    most = max(steps for steps, *_ in warm)
    used = [seconds / most for steps, seconds, _ in warm if steps == most]
    return Timed(state, most * len(used), statistics.median(used), compiling, workspace)


def _memory(timed: Timed) -> str:
    """Says what lies on each device during a training."""
    state = timed.state
    parts = {
        "parameters": _bytes(state.params),
        "their average": _bytes(state.ema_params),
        "the optimizer's state": _bytes(state.opt_state),
    }
    if timed.workspace is not None:
        parts["what a step needs beside them"] = timed.workspace
    sizes = ", ".join(f"{units.size(size)} {name}" for name, size in parts.items())
    return f"{units.size(sum(parts.values()))} on each device: {sizes}"


def _time(timed: Timed, left: int, evaluations: Evaluations | None, count: int | None) -> str:
    """Says how long a training takes from here on, and all of them."""
    total, what = left * timed.seconds, f"{left:,} steps of {units.duration(timed.seconds)}"
    if evaluations:
        number = -(-left // evaluations.every)
        total += number * evaluations.seconds
        what += f", {number:,} evaluations of {units.duration(evaluations.seconds)}"
    said = f"{units.duration(total)}: {what}; and {units.duration(timed.compiling)} to compile"
    if count is None or count == 1:
        return said
    return f"{said}; {units.duration(count * total)} for all {count} if each takes as long"


def _bytes(tree: PyTree) -> int:
    """Returns the bytes of arrays on the first device of this process."""
    return sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(tree))


def _saved(workdir: epath.Path) -> int:
    """Returns the newest step that is saved in the folder of a training, 0 if none is."""
    place = workdir / "checkpoints"
    names = [path.name for path in place.iterdir()] if place.exists() else []
    return max((int(name) for name in names if name.isdigit()), default=0)


def _say(name: str, what: str) -> None:
    if jax.process_index() == 0:
        print(f"{name:10s} {what}".rstrip(), flush=True)
