"""The data that a velocity is asked about, in its own units, whatever they come from."""

import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import fmjax
from experiments.images import data, own, training
from experiments.images.options import Source
from experiments.run import numbers
from experiments.uncertainty._audit.options import Examples
from fmjax.types import Array, Key

DRAWN = 4096
"""Examples that are drawn where the data of a run are a law."""


class Data(NamedTuple):
    """Examples in the units of the velocity.

    Attributes:
      name: for titles.
      held_out: `[n, *dims]`, floating, which the velocity was not trained on.
      train: `[m, *dims]`, what it was trained on, or None.
      levels: values that a pixel can take, if these are images `[n, h, w, c]` in [-1, 1], or None.
    """

    name: str
    held_out: Array
    train: Array | None = None
    levels: int | None = None


def load(examples: Examples, recorded: Any, seed: int) -> Data:
    """Returns the data of an audit.

    Args:
      examples: of the options.
      recorded: the data of the run that is audited, None of a user's model.
      seed: of the split, of the dequantization, and of what is drawn from a law.

    Raises:
      ValueError: if there are none, or they are damaged or not as described.
      OSError: if a file is missing.
    """
    key = jax.random.fold_in(jax.random.key(seed), 3000)
    if examples.dataset is None:
        return _of_run(recorded, key)
    if examples.dataset.endswith((".npy", ".npz")):
        arrays = own.read(examples.dataset)
        if not {array.dtype.kind for array in arrays.values()} <= set("uib"):
            return _numbers(examples.dataset, arrays)
    source = Source(examples.dataset, examples.data_dir, examples.held_out)
    name, images = training.load(source, seed)
    return _images(name, images, key)


def _images(name: str, images: data.Images, key: Key) -> Data:
    held_out = data.dequantize(key, jnp.asarray(images.held_out), images.levels)
    train = data.centers(images.train, images.levels)
    return Data(data.title(name), held_out, train, images.levels)


def _of_run(recorded: Any, key: Key) -> Data:
    """Returns the data of a run: images, trajectories, or what is drawn from a law."""
    if isinstance(recorded, data.Images):
        return _images("its images", recorded, key)
    if getattr(recorded, "_fields", ()) == ("weights", "means", "deviations"):
        recorded = fmjax.toy.isotropic_mixture(*recorded)
    if hasattr(recorded, "sample"):
        keys = jax.random.split(key, DRAWN)
        return Data("its law", jax.jit(jax.vmap(recorded.sample))(keys))
    if hasattr(recorded, "train") and hasattr(recorded, "test"):
        return Data("its data", jnp.asarray(recorded.test), jnp.asarray(recorded.train))
    what = "a model of yours brings no data" if recorded is None else "the run has none held out"
    message = (
        f"{what}: give --dataset, a name such as digits, a folder of images, or an .npy file of "
        "examples in the model's units."
    )
    raise ValueError(message)


def _numbers(name: str, arrays: dict[str, np.ndarray]) -> Data:
    """Returns the arrays of a file of floating numbers."""
    if name.endswith(".npy"):
        arrays = {"held_out": arrays["images"]}
    if "held_out" not in arrays or set(arrays) - {"held_out", "train"}:
        message = (
            f'{name} must hold "held_out", and "train" if there are training data, got '
            f"{', '.join(arrays)}: write it with np.savez(path, held_out=..., train=...)."
        )
        raise ValueError(message)
    made = {part: _checked(f"{name}: {part}", array) for part, array in arrays.items()}
    shapes = {array.shape[1:] for array in made.values()}
    if len(shapes) > 1:
        message = f"{name}: held_out and train must have examples of one shape, got {shapes}."
        raise ValueError(message)
    return Data(own.label(pathlib.Path(name).name), made["held_out"], made.get("train"))


def _checked(what: str, array: np.ndarray) -> Array:
    if array.dtype.kind != "f" or array.ndim < 1 or len(array) < 2:
        wrong = f"must be floating numbers [n, ...], n at least 2, got {array.dtype} {array.shape}"
    elif not np.isfinite(array).all():
        wrong = "must be finite, got NaN or infinity: leave those examples out"
    else:
        return jnp.asarray(array, jnp.float32)
    message = f"{what} {wrong}."
    raise ValueError(message)


def fingerprint(found: Data) -> str:
    """Returns a short text that changes with any number of the data."""
    parts = [np.asarray(part) for part in (found.held_out, found.train) if part is not None]
    return f"{[list(part.shape) for part in parts]}, crc32 {numbers.crc32(*parts)}"
