"""One saved state: what is written of it, and how it is read and compared with it.

Beside the parts of the state, a checkpoint holds the checksum of each array, so that a byte that
changed on the disk is noticed. A checkpoint of an older version has none; its parameters must be
finite.
"""

import contextlib
from collections.abc import Iterator
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from experiments.run import checksums, errors
from fmjax import train
from fmjax.types import Array, PyTree

_CHECKSUMS = "checksums"  # uint32: of the arrays in the order of their names, and of the record


class Damage(ValueError):
    """What is wrong with a checkpoint."""


def parts(state: train.TrainState, record: int) -> dict[str, PyTree]:
    """Returns what is saved of a state.

    Args:
      state: on devices.
      record: the checksum of metrics.jsonl up to this state.
    """
    found = bare(state)._asdict()
    sums = checksums.of_arrays(found)
    kept = [*(sums[name] for name in sorted(sums)), record]
    return found | {_CHECKSUMS: np.array(kept, np.uint32)}


def record(found: dict[str, PyTree]) -> int | None:
    """Returns the checksum of the record up to a state, None for one of an older version."""
    return int(np.asarray(found[_CHECKSUMS])[-1]) if _CHECKSUMS in found else None


def restored(
    checkpoints: ocp.CheckpointManager, step: int, like: train.TrainState
) -> dict[str, PyTree]:
    """Reads the parts of a saved state, with their checksums if it has any.

    Args:
      checkpoints: the manager.
      step: of the state.
      like: a bare state; its arrays say where the restored ones are to lie.

    Raises:
      Damage: if it cannot be read.
      ValueError: if it holds other arrays.
    """
    there, wanted = described(checkpoints, step), like._asdict()
    held = {name: part for name, part in there.items() if name != _CHECKSUMS}
    check_tree(checkpoints.directory / str(step), held, wanted)
    if _CHECKSUMS in there:
        wanted[_CHECKSUMS] = np.zeros(_count(there), np.uint32)

    def describe(x: Array) -> Any:
        own = isinstance(x, np.ndarray)
        return x if own else jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding)

    with reading():
        args = ocp.args.StandardRestore(jax.tree.map(describe, wanted))
        found = checkpoints.restore(step, args=args)
    if (saved := int(found["step"])) != step:
        message = f"it holds step {saved}"
        raise Damage(message)
    return found


def read(checkpoints: ocp.CheckpointManager, step: int, part: str, like: PyTree) -> PyTree:
    """Reads one part of a saved state, and nothing else of it but its checksums.

    Args:
      checkpoints: the manager, opened only to read.
      step: of the state.
      part: of the state, such as ema_params.
      like: arrays, or descriptions of arrays, in the tree of the part.

    Returns:
      NumPy arrays in the tree of `like`.

    Raises:
      Damage: if it cannot be read, or is not what was saved.
      ValueError: if it holds other arrays.
    """
    there = described(checkpoints, step)
    check_tree(checkpoints.directory / str(step), there.get(part, {}), like)
    wanted = {part: there[part]}
    if _CHECKSUMS in there:
        wanted[_CHECKSUMS] = jax.ShapeDtypeStruct((_count(there),), np.uint32)
    here = ocp.ArrayRestoreArgs(sharding=jax.sharding.SingleDeviceSharding(jax.local_devices()[0]))
    with reading():
        args = ocp.args.PyTreeRestore(
            wanted, restore_args=jax.tree.map(lambda _: here, wanted), partial_restore=True
        )
        found = checkpoints.restore(step, args=args)
    if damage := changed(found, there):
        raise Damage(damage)
    by_name, names = checksums.by_name(found[part]), checksums.by_name(like)
    return jax.tree.unflatten(jax.tree.structure(like), [np.asarray(by_name[n]) for n in names])


def _count(there: dict[str, PyTree]) -> int:
    """Returns how many checksums a checkpoint has: one for each array, and that of the record."""
    count = 1 + len(checksums.by_name(_state(there)))
    if (shape := there[_CHECKSUMS].shape) != (count,):
        message = f"it has checksums of shape {shape} for {count - 1} arrays"
        raise Damage(message)
    return count


def _state(found: dict[str, PyTree]) -> dict[str, PyTree]:
    """Returns the parts of the state, without what is saved beside them."""
    return {name: found[name] for name in train.TrainState._fields if name in found}


def changed(found: dict[str, PyTree], there: dict[str, PyTree] | None = None) -> str:
    """Names the first array that is not what was saved; "" if there is none.

    Args:
      found: what was read, with its checksums if it has any; arrays of all processes.
      there: the parts of the whole checkpoint, where only some of them were read.
    """
    asked = _state(found)
    if _CHECKSUMS not in found:
        averages = checksums.by_name({n: part for n, part in asked.items() if "params" in n})
        finite = (bool(jnp.isfinite(leaf).all()) for leaf in averages.values())
        return "" if all(finite) else "its parameters are not finite"
    names = sorted(checksums.by_name(_state(there or found)))
    saved = np.asarray(found[_CHECKSUMS])[:-1].tolist()
    if len(names) != len(saved):
        return "its checksums are not those that were saved"
    kept, now = dict(zip(names, saved, strict=True)), checksums.of_arrays(asked)
    return next((f"{name} is not what was saved" for name in now if now[name] != kept[name]), "")


def described(checkpoints: ocp.CheckpointManager, step: int) -> dict[str, PyTree]:
    """Returns the tree of a checkpoint, with descriptions in the place of its arrays."""
    with reading():
        metadata = checkpoints.item_metadata(step)
        return dict(metadata.tree) if metadata else _missing()


def _missing() -> NoReturn:
    raise FileNotFoundError("its description is missing")


def bare(state: train.TrainState) -> train.TrainState:
    """Returns the state with its typed keys, such as optax.add_noise has, as plain numbers."""
    is_key = lambda x: jnp.issubdtype(x.dtype, jax.dtypes.prng_key)  # noqa: E731
    return jax.tree.map(lambda x: jax.random.key_data(x) if is_key(x) else x, state)


def like(stored: Array, leaf: Array) -> Array:
    """Returns a restored array, as a key where the state has one."""
    if stored.dtype == leaf.dtype:
        return stored
    return jax.random.wrap_key_data(stored, impl=jax.random.key_impl(leaf))


@contextlib.contextmanager
def reading() -> Iterator[None]:
    """Turns whatever reading a checkpoint raises into what is wrong with it."""
    try:
        yield
    except Exception as error:  # orbax, tensorstore, json and the disk have their own each
        raise Damage(errors.first_line(error)) from error


def _kinds(tree: PyTree) -> dict[str, str]:
    """Returns by dotted name what each array is, such as float32[3, 2]."""
    return {name: f"{x.dtype}{list(x.shape)}" for name, x in checksums.by_name(tree).items()}


def check_tree(folder: epath.Path, there: PyTree, wanted: PyTree) -> None:
    """Raises ValueError unless a checkpoint holds arrays like those that are wanted."""
    stored, wanted = _kinds(there), _kinds(wanted)
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
