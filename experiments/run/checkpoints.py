"""The saved states of a training, by orbax: written, restored, and read without a training.

The newest `KEEP` states lie under checkpoints/ in the folder of a network. Every failure of orbax,
of tensorstore or of the disk becomes one error that names the checkpoint and says what to do.
"""

import contextlib
import math
import os
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
from etils import epath

from experiments.run import paths
from fmjax import train
from fmjax.types import Array, PyTree

KEEP = 3  # checkpoints
Manager = ocp.CheckpointManager


@jax.jit
def norm(tree: PyTree) -> Array:
    """Returns the norm of all arrays, in float32 or wider: float16 ends at 65504."""
    return optax.tree.norm(jax.tree.map(lambda x: x.astype(jnp.result_type(x, "f4")), tree))


def opened(folder: epath.Path, *, keep: int | None = KEEP) -> ocp.CheckpointManager:
    """Opens the checkpoints; used in `with`, which waits for the last one to be written."""
    options = ocp.CheckpointManagerOptions(max_to_keep=keep, create=True)
    # With its handler named, the manager can tell what a checkpoint holds before reading it.
    return ocp.CheckpointManager(
        folder, options=options, item_handlers=ocp.StandardCheckpointHandler()
    )


def newest(
    checkpoints: ocp.CheckpointManager, state: train.TrainState, num_steps: int
) -> train.TrainState:
    """Returns the newest saved state, placed like `state`, or `state` if nothing was saved."""
    step = checkpoints.latest_step()
    if step is None:
        return state
    folder = checkpoints.directory / str(step)
    if step > num_steps:
        message = (
            f"{folder} is beyond num_steps {num_steps}: train to at least {step} steps, or give "
            "another --workdir."
        )
        raise ValueError(message)
    stored = _leaves(_described(checkpoints, step))
    _check_tree(folder, stored, _leaves(bare := _bare(state)))
    describe = lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding)  # noqa: E731
    with _damage_named(checkpoints, folder):
        wanted = ocp.args.StandardRestore(jax.tree.map(describe, bare))
        state = jax.tree.map(_like, checkpoints.restore(step, args=wanted), state)
        # The arrays carry no checksum; a flipped byte mostly shows in one of these.
        if int(state.step) != step or not math.isfinite(float(norm(state.params))):
            raise FileNotFoundError("its numbers are not those that were saved")
        return state


def save(checkpoints: ocp.CheckpointManager, step: int, state: train.TrainState) -> None:
    """Starts to save a state; the manager waits for the last one when it is closed."""
    with failure_named(checkpoints):
        checkpoints.save(step, args=ocp.args.StandardSave(_bare(state)))


def averaged(workdir: str | os.PathLike, like: PyTree, num_steps: int) -> PyTree:
    """Reads the averaged parameters that a training has ended with.

    No training is needed for it, no optimizer, and not as many devices.

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
    folder, tree = checkpoints.directory / str(step), _described(checkpoints, step)
    _check_tree(folder, _leaves(tree["ema_params"]), _leaves(like))
    here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    describe = lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here)  # noqa: E731
    with _damage_named(checkpoints, folder):
        args = ocp.args.StandardRestore(jax.tree.map(describe, tree))
        found = _by_name(checkpoints.restore(step, args=args)["ema_params"])
        if not all(np.isfinite(leaf).all() for leaf in found.values()):
            raise FileNotFoundError("its numbers are not those that were saved")
    paths, structure = jax.tree_util.tree_flatten_with_path(like)
    return jax.tree.unflatten(structure, [np.asarray(found[_name(path)]) for path, _ in paths])


def _described(checkpoints: ocp.CheckpointManager, step: int) -> PyTree:
    """Returns the tree of a checkpoint, with descriptions in the place of its arrays."""
    with _damage_named(checkpoints, checkpoints.directory / str(step)):
        metadata = checkpoints.item_metadata(step)
        if metadata is None:
            raise FileNotFoundError("its description is missing")
        return metadata.tree


def _bare(state: train.TrainState) -> train.TrainState:
    """Returns the state with its typed keys, such as optax.add_noise has, as plain numbers."""
    is_key = lambda x: jnp.issubdtype(x.dtype, jax.dtypes.prng_key)  # noqa: E731
    return jax.tree.map(lambda x: jax.random.key_data(x) if is_key(x) else x, state)


def _like(stored: Array, leaf: Array) -> Array:
    """Returns a restored array, as a key where the state has one."""
    if stored.dtype == leaf.dtype:
        return stored
    return jax.random.wrap_key_data(stored, impl=jax.random.key_impl(leaf))


@contextlib.contextmanager
def _damage_named(checkpoints: ocp.CheckpointManager, folder: epath.Path) -> Iterator[None]:
    """Turns whatever reading a checkpoint raises into one error that names its folder."""
    try:
        yield
    except Exception as error:  # orbax, tensorstore, json and the disk have their own each
        reason = next(iter(str(error).splitlines()), type(error).__name__)[:120]
        older = sorted(checkpoints.all_steps())[:-1]
        message = (
            f"the checkpoint {folder} is damaged ({reason}): move it away to continue from step "
            f"{older[-1] if older else 0}, or give another --workdir. Nothing was changed."
        )
        raise ValueError(message) from error


@contextlib.contextmanager
def failure_named(checkpoints: ocp.CheckpointManager) -> Iterator[None]:
    """Turns whatever saving a checkpoint raises into one error that says what is left."""
    try:
        yield
    except Exception as error:  # a full disk, permissions, a bucket out of reach
        reason = next(iter(str(error).splitlines()), type(error).__name__)[:120]
        message = (
            f"could not save a checkpoint in {checkpoints.directory} ({reason}): make room or "
            "change its permissions, then run again; the saved steps are "
            f"{checkpoints.all_steps() or 'none'}."
        )
        raise OSError(message) from error


def _name(path: tuple) -> str:
    return jax.tree_util.keystr(path, simple=True, separator=".")


def _by_name(tree: PyTree) -> dict[str, Array]:
    """Returns every leaf of a tree by its dotted name."""
    return {_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def _leaves(tree: PyTree) -> dict[str, str]:
    """Returns by dotted name what each array is, such as float32[3, 2]."""
    return {name: f"{x.dtype}{list(x.shape)}" for name, x in _by_name(tree).items()}


def _check_tree(folder: epath.Path, stored: dict[str, str], wanted: dict[str, str]) -> None:
    """Raises ValueError unless a checkpoint holds the arrays of this run's state."""
    differing = [
        f"{name} ({stored.get(name, 'absent')} there, {wanted.get(name, 'absent')} now)"
        for name in {**wanted, **stored}
        if stored.get(name) != wanted.get(name)
    ]
    if differing:
        more = f" and {len(differing) - 3} more" if len(differing) > 3 else ""
        message = (
            f"the checkpoint {folder} is of another configuration: {', '.join(differing[:3])}"
            f"{more}; give the options of that run, or another --workdir. Nothing was changed."
        )
        raise ValueError(message)
