"""Images as uint8 arrays, and batches of them that can start at any step.

| name                                 | images                                   | levels |
|--------------------------------------|------------------------------------------|--------|
| digits                               | 1,797 of 8x8, shipped with scikit-learn  | 17     |
| mnist, fashion_mnist, cifar10        | tensorflow-datasets, official split      | 256    |
| cifar10_subset, or another name      | the same, from a prepared folder only    | 256    |
| path/to/images.npz or images.npy     | your own array                           | 256    |
| path/to/folder                       | your own PNG or JPEG files               | 256    |
| hf:OWNER/NAME or hf:path/to/folder   | a Hugging Face data set                  | 256    |

A pixel is an integer in 0 ... levels - 1. A density needs real numbers, so uniform noise fills
the bin of each pixel (uniform dequantization):

    x = 2 (pixel + u) / levels - 1,   u ~ U[0, 1),   x in [-1, 1]                      (1)

A bin is 2 / levels wide. The mean of log p(x) over u is a lower bound of the log-probability
of the pixels once log(2 / levels) per pixel is added.

Reference:
  Theis et al. (2016), A note on the evaluation of generative models, arXiv 1511.01844,
  section 3.1.
"""

import os
from typing import NamedTuple

import jax
import numpy as np

from experiments.images import own, prepared
from experiments.run import errors, numbers
from experiments.run.batches import check_seed

Array = jax.Array
Key = jax.Array

NAMES = ("digits", *prepared.DOWNLOADED, *prepared.FOLDER_ONLY)
_TITLES = {
    "mnist": "MNIST", "fashion_mnist": "Fashion-MNIST", "cifar10": "CIFAR-10",
    "cifar10_subset": "a part of CIFAR-10",
}  # fmt: skip
_BESIDES = ("held_out", "levels", "labels", "held_out_labels")  # what may be beside "images"
_MIN_IMAGES = 10


class Images(NamedTuple):
    """A data set of images in two parts.

    Attributes:
      train: uint8 `[n, h, w, c]`.
      held_out: uint8 `[m, h, w, c]`, not seen in training.
      levels: number of values that a pixel can take, 0 ... levels - 1.
    """

    train: np.ndarray
    held_out: np.ndarray
    levels: int


def load(name: str, *, data_dir: str | None = None, held_out: float = 0.2, seed: int = 0) -> Images:
    """Returns a data set by its name, or a user's own from a file or folder.

    Args:
      name: one of `NAMES`, another data set of images in data_dir, or a user's own. An .npz file
        holds uint8 `[n, h, w]` or `[n, h, w, c]` as "images" (or as its only array), and may hold
        the same as "held_out", one integer as "levels", and what `experiments.images.labels`
        reads. An .npy file holds the images alone. Of a folder see `experiments.images.own`, of
        hf:NAME `experiments.images.hub`.
      data_dir: folder with data sets prepared by tensorflow-datasets; its default folder if
        None, where a missing data set is downloaded. No other data set reads it.
      held_out: share of the images to hold out, in (0, 1), where no split is given.
      seed: for the permutation before that split, not negative.

    Returns:
      The two parts and the number of levels.

    Raises:
      ValueError: if the name is unknown, or what was found is damaged or not as described.
      OSError: if a file or folder is missing, or a download failed.
      ModuleNotFoundError: if the data set needs a package that is not installed.
    """
    if not 0.0 < held_out < 1.0:
        message = f"held_out must lie in (0, 1), got {held_out}: it is a share of the images."
        raise ValueError(message)
    check_seed(seed)
    if name == "digits":
        sklearn = prepared.require("sklearn.datasets", "data set digits")
        return Images(*split(np.uint8(sklearn.load_digits().images[..., None]), held_out, seed), 17)
    if prepared.knows(name, data_dir):
        return Images(*prepared.load(name, data_dir), 256)
    if own.is_own(name):
        return _own(os.path.expanduser(name), held_out, seed)
    message = (
        f"unknown data set {name!r}: give one of {', '.join(NAMES)}, or a path ending in .npz or "
        ".npy, a folder of images, hf:NAME of a Hugging Face data set, or the name of a data set "
        "that tensorflow-datasets has prepared in --data-dir."
    )
    raise ValueError(message)


def title(name: str) -> str:
    """Returns a data set's name as a figure shows it; a user's own is shown as it is."""
    return _TITLES.get(name, name)


def dequantize(key: Key, images: Array, levels: int) -> Array:
    """Returns pixels as real numbers in [-1, 1], spread uniformly over their bins, eq. (1)."""
    u = jax.random.uniform(key, images.shape)
    return 2.0 * (images.astype(u.dtype) + u) / levels - 1.0


def centers(images: np.ndarray, levels: int) -> np.ndarray:
    """Returns pixels as x in [-1, 1] at the centers of their bins, float32."""
    return (2.0 / levels) * images.astype(np.float32) + np.float32(1.0 / levels - 1.0)


def quantize(x: Array, levels: int) -> Array:
    """Returns the integer pixel, uint8, in whose bin x lies; what lies outside is clipped."""
    return jax.numpy.clip((x + 1.0) * (levels / 2), 0, levels - 1).astype(jax.numpy.uint8)


def shuffle(images: np.ndarray, *, seed: int) -> np.ndarray:
    """Returns the images in random order: the first of a test set are often the easier ones."""
    return images[np.random.default_rng([seed, len(images)]).permutation(len(images))]


def split(examples: np.ndarray, held_out: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns a random training and held-out part of `[n, ...]`, neither of them empty."""
    order = np.random.default_rng(seed).permutation(len(examples))
    count = min(max(round(held_out * len(examples)), 1), len(examples) - 1)
    return examples[order[count:]], examples[order[:count]]


def fingerprint(images: Images) -> str:
    """Returns a short text that changes with any pixel of the data set."""
    parts = (images.train, images.held_out)
    sizes = f"{len(images.train)} + {len(images.held_out)} of {list(images.train.shape[1:])}"
    return f"{sizes}, {images.levels} levels, crc32 {numbers.crc32(*parts)}"


def bin_width(levels: int) -> float:
    """Returns the width of a pixel's bin in the units of x, eq. (1)."""
    return 2.0 / levels


# A user's own images.


def _own(path: str, held_out: float, seed: int) -> Images:
    arrays = own.read(path)
    extra = {name: arrays.pop(name) for name in _BESIDES if name in arrays}
    if "images" not in arrays and len(arrays) != 1:
        names = errors.short(", ".join(arrays)) or "none"
        message = (
            f'{path} must hold one array named "images", got {names}: '
            "write it with np.savez(path, images=images)."
        )
        raise ValueError(message)
    images = arrays["images"] if "images" in arrays else next(iter(arrays.values()))
    levels = _levels(path, extra.get("levels", np.array(256)))
    images = _checked(path, "images", images, levels, _MIN_IMAGES)
    if "held_out" not in extra:
        return Images(*split(images, held_out, seed), levels)
    rest = _checked(path, "held_out", extra["held_out"], levels, 1)
    if rest.shape[1:] != images.shape[1:]:
        message = (
            f'{path}: "held_out" must hold images of shape {images.shape[1:]} like "images", got '
            f"{rest.shape[1:]}."
        )
        raise ValueError(message)
    return Images(images, rest, levels)


def _levels(path: str, levels: np.ndarray) -> int:
    if levels.shape or levels.dtype.kind not in "iu" or not 2 <= levels <= 256:
        message = f'{path}: "levels" must be one integer between 2 and 256, got {levels!r}.'
        raise ValueError(message)
    return int(levels)


def _checked(path: str, name: str, images: np.ndarray, levels: int, at_least: int) -> np.ndarray:
    """Returns images as uint8 `[n, h, w, c]`, or says what is wrong with them."""
    if images.dtype != np.uint8:
        eight = "if all lie in 0 ... 255, use images.astype(np.uint8)"
        sixteen = "16 bits that fill 0 ... 65535 become 8 by np.uint8(images // 257)"
        convert = {
            "f": "floats in [0, 1] become pixels by np.round(255 * images).astype(np.uint8)",
            "b": "use images.astype(np.uint8) together with levels=2",
            "u": sixteen if images.dtype == np.uint16 else eight,
        }.get(images.dtype.kind, eight)
        wrong = f"must be uint8, got {images.dtype}: {convert}"
    elif images.ndim not in (3, 4) or 0 in images.shape[1:]:
        wrong = f"must have shape [n, h, w] or [n, h, w, c], got {list(images.shape)}"
    elif images.ndim == 4 and images.shape[-1] not in (1, 3):
        wrong = (
            f"must have 1 or 3 channels in the last axis, got {list(images.shape)}: channels in "
            "front move there by images.transpose(0, 2, 3, 1)"
        )
    elif len(images) < at_least:
        wrong = f"must hold at least {at_least} images, got {len(images)}"
    elif images.max() >= levels:
        wrong = f"must lie in 0 ... {levels - 1}, got {images.max()}: store a larger levels"
    else:
        return images if images.ndim == 4 else images[..., None]
    message = f'{path}: "{name}" {wrong}.'
    raise ValueError(message)
