"""The saved states of a training, by orbax: written, restored, and read without a training.

The newest `KEEP` states lie under checkpoints/ in the folder of a network. One that is damaged is
moved to set_aside/, and the run goes on from the one before. Every failure of orbax, of tensorstore
or of the disk becomes one error that names the checkpoint and says what to do.
"""

import contextlib
import errno
import logging
import os
import sys
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
from etils import epath
from jax.experimental import multihost_utils

from experiments.run import devices, errors, paths, stored
from experiments.run.lines import Lines
from fmjax import train
from fmjax.types import Array, PyTree

KEEP = 3  # checkpoints
Manager = ocp.CheckpointManager
# What tensorstore hides behind three lines of paths.
_REASONS = [os.strerror(code) for code in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES)]


@jax.jit
def norm(tree: PyTree) -> Array:
    """Returns the norm of all arrays, in float32 or wider: float16 ends at 65504."""
    return optax.tree.norm(jax.tree.map(lambda x: x.astype(jnp.result_type(x, "f4")), tree))


@contextlib.contextmanager
def opened(folder: epath.Path, *, keep: int | None = KEEP) -> Iterator[ocp.CheckpointManager]:
    """Opens the checkpoints, and at the end waits for the last one to be written.

    Args:
      folder: where they lie.
      keep: the number of the newest ones that stay; None opens them only to read.

    Raises:
      OSError: if one could not be written.
    """
    # The threads of orbax log each failure with its traceback, which comes as an exception too.
    logging.getLogger("absl").addFilter(_is_not_orbax)
    with failure_named(folder):
        manager = _manager(folder, keep)
    try:
        yield manager
    except BaseException:
        with contextlib.suppress(Exception):  # that of a state which is lost anyway
            manager.close()
        raise
    with failure_named(folder):
        manager.close()


def _manager(folder: epath.Path, keep: int | None) -> ocp.CheckpointManager:
    options = ocp.CheckpointManagerOptions(
        max_to_keep=keep,
        create=keep is not None,
        read_only=keep is None,
        # A folder that a thread fails to make is waited for by the others, for five minutes.
        async_options=ocp.AsyncOptions(create_directories_asynchronously=False),
    )
    # With its handler named, the manager can tell what a checkpoint holds before reading it. The
    # standard one writes what that of trees reads, which can leave out a part.
    handler = ocp.PyTreeCheckpointHandler if keep is None else ocp.StandardCheckpointHandler
    return ocp.CheckpointManager(folder, options=options, item_handlers=handler())


def _is_not_orbax(record: logging.LogRecord) -> bool:
    return "/orbax/" not in record.pathname


def newest(
    checkpoints: ocp.CheckpointManager,
    state: train.TrainState,
    num_steps: int,
    record: Lines | None = None,
) -> train.TrainState:
    """Restores the newest state that is whole, and sets newer ones aside.

    Args:
      checkpoints: as `opened` gives them.
      state: the first one of the training, returned if nothing was saved. What is restored is
        placed like it.
      num_steps: at which the training ends.
      record: the lines of metrics.jsonl; a state up to which they are not whole is not taken.

    Raises:
      ValueError: if no state is whole, or if the newest is of another configuration or beyond
        `num_steps`; nothing is changed.
    """
    steps = sorted(checkpoints.all_steps(), reverse=True)
    if steps and steps[0] > num_steps:
        message = (
            f"{checkpoints.directory / str(steps[0])} is beyond num_steps {num_steps}: train to at "
            f"least {steps[0]} steps, or give another --workdir."
        )
        raise ValueError(message)
    wrong: dict[int, ValueError] = {}
    for step in steps:
        found = _attempt(checkpoints, step, stored.bare(state), record)
        if not isinstance(found, ValueError):
            _set_aside(checkpoints, step, wrong)
            return jax.tree.map(stored.like, found, state)
        wrong[step] = found
    if wrong:
        raise _none_whole(checkpoints.directory, wrong)
    return state


def _attempt(
    checkpoints: ocp.CheckpointManager, step: int, bare: train.TrainState, record: Lines | None
) -> train.TrainState | ValueError:
    """Returns a saved state, or what is wrong with it, on all processes alike."""
    try:
        found: Any = stored.restored(checkpoints, step, bare)
    except ValueError as error:
        found = error.with_traceback(None)  # which would keep the arrays
    failed = isinstance(found, ValueError)
    if jax.process_count() > 1 and multihost_utils.process_allgather(np.asarray(failed)).any():
        return found if failed else stored.Damage("another process cannot read it")
    if failed:
        return found
    damage = stored.changed(found)
    if record is not None and not damage:
        damage = record.damage_until(step, stored.record(found))
    if damage:
        return stored.Damage(damage)
    return train.TrainState(*(found[name] for name in train.TrainState._fields))


def _none_whole(directory: epath.Path, wrong: dict[int, ValueError]) -> ValueError:
    """Makes the error of a run without a state from which it could go on."""
    first = next(iter(wrong.values()))
    if not isinstance(first, stored.Damage):
        return first  # of another configuration
    reasons = ", ".join(f"step {step} ({reason})" for step, reason in wrong.items())
    without = ", move it away to go on without the record" if "metrics.jsonl" in reasons else ""
    message = (
        f"no checkpoint in {directory} is whole: {reasons}. Restore what is damaged from a copy"
        f"{without}, or give another --workdir. Nothing was changed."
    )
    return ValueError(message)


def _set_aside(checkpoints: ocp.CheckpointManager, step: int, wrong: dict[int, ValueError]) -> None:
    """Moves the states that are newer than the one of a step out of the way, and says so."""
    if not wrong:
        return
    place = checkpoints.directory.parent / "set_aside"
    if jax.process_index() == 0:
        place.mkdir(exist_ok=True)
        for number in wrong:
            if (place / str(number)).exists():
                (place / str(number)).rmtree()
            (checkpoints.directory / str(number)).rename(place / str(number))
        reasons = ", ".join(f"step {number} ({reason})" for number, reason in wrong.items())
        message = f"damaged, and moved from checkpoints to {place}: {reasons}"
        print(f"{message}; going on from step {step}", file=sys.stderr, flush=True)
    multihost_utils.sync_global_devices("checkpoints set aside")
    checkpoints.reload()


def save(
    checkpoints: ocp.CheckpointManager, step: int, state: train.TrainState, record: int = 0
) -> None:
    """Starts to save a state; the manager waits for the last one when it is closed.

    Args:
      checkpoints: as `opened` gives them.
      step: of the state.
      state: on devices.
      record: the checksum of metrics.jsonl up to this step.
    """
    with failure_named(checkpoints.directory):
        place = checkpoints.directory  # gone, orbax would make it anew, without a config.json
        if "://" not in os.fspath(place) and not place.exists():  # a bucket has no empty folders
            raise FileNotFoundError("the folder is gone")
        checkpoints.save(step, args=ocp.args.StandardSave(stored.parts(state, record)))


def averaged(workdir: str | os.PathLike, like: PyTree, num_steps: int) -> PyTree:
    """Reads the averaged parameters that a training has ended with.

    No training is needed for it, no optimizer, and not as many devices. Nothing else is read but
    their checksums: the rest of the state is three times as large with Adam.

    Args:
      workdir: the folder in which a network was trained.
      like: arrays, or descriptions of arrays, in the tree of the parameters.
      num_steps: the step at which the training ends.

    Returns:
      The parameters, NumPy arrays in the tree of `like`.

    Raises:
      ValueError: if the training has not ended, or if the checkpoint is damaged or of another
        network.
    """
    place = paths.absolute(workdir) / "checkpoints"
    step = None
    if place.exists():
        with opened(place, keep=None) as checkpoints:
            step = checkpoints.latest_step()
            if step == num_steps:
                return _read(checkpoints, step, like)
    message = (
        f"{workdir} holds no finished training: {step or 0} of {num_steps} steps are saved. Run "
        "the same command again to its end."
    )
    raise ValueError(message)


def _read(checkpoints: ocp.CheckpointManager, step: int, like: PyTree) -> PyTree:
    """Returns the averaged parameters of one checkpoint."""
    try:
        return stored.read(checkpoints, step, "ema_params", like)
    except stored.Damage as error:
        folder = checkpoints.directory / str(step)
        message = (
            f"the checkpoint {folder} is damaged ({error}): run the same command again, which "
            "goes on from the one before. Nothing was changed."
        )
        raise ValueError(message) from error


@contextlib.contextmanager
def failure_named(folder: epath.Path) -> Iterator[None]:
    """Turns whatever saving a checkpoint raises into one error that says what is left.

    What JAX says of another process that was lost meanwhile is left as it is.
    """
    try:
        yield
    except Exception as error:  # a full disk, permissions, a bucket out of reach
        if isinstance(error, jax.errors.JaxRuntimeError) and devices.has_lost_another(error):
            raise
        reason = next((text for text in _REASONS if text in str(error)), errors.first_line(error))
        try:
            steps = sorted(int(path.name) for path in folder.iterdir() if path.name.isdigit())
        except OSError:
            steps = []
        message = (
            f"could not save a checkpoint in {folder} ({reason}): make room or "
            f"change its permissions, then run again; the saved steps are {steps or 'none'}."
        )
        raise OSError(message) from error
