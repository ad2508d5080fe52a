"""Labels for the data sets of `experiments.images.data`, loaded apart: few experiments need them.

A user's own .npz file holds them beside its images, as integers 0, 1, ...: "labels" `[n]`, and
"held_out_labels" `[m]` where it also holds "held_out". A folder of images has them if it holds one
folder for each class.
"""

import os
from typing import NamedTuple

import numpy as np

from experiments.images import data, own, prepared
from experiments.images.options import Source
from experiments.run import numbers


class Labels(NamedTuple):
    """The classes of the images of a data set, in the order of its images.

    Attributes:
      train: int32 `[n]`, from 0 on.
      held_out: int32 `[m]`.
    """

    train: np.ndarray
    held_out: np.ndarray


def load(
    name: str,
    images: data.Images,
    *,
    data_dir: str | None = None,
    held_out: float = 0.2,
    seed: int = 0,
) -> Labels:
    """Returns the labels of images that `data.load` has returned for the same arguments.

    Args:
      name: the name of the data set, or the path of a user's own.
      images: what `data.load` has returned.
      data_dir: folder with data sets prepared by tensorflow-datasets.
      held_out: share of the images that is held out where no split is given.
      seed: for the permutation before that split.

    Returns:
      The labels of both parts.

    Raises:
      ValueError: if there are no labels, or they do not fit the images.
      OSError: if a file or folder is missing.
      ModuleNotFoundError: if the data set needs a package that is not installed.
    """
    if name == "digits":
        sklearn = prepared.require("sklearn.datasets", "data set digits")
        found = data.split(sklearn.load_digits().target, held_out, seed)
    elif prepared.knows(name, data_dir):
        found = prepared.load_labels(name, data_dir)
    else:
        found = _own(os.path.expanduser(name), images, held_out, seed)
    return Labels(*(part.astype(np.int32) for part in found))


def matching(source: Source, seed: int, images: data.Images) -> Labels:
    """Returns the labels of the images of `training.load`, the held-out ones shuffled with them.

    Args:
      source: which images.
      seed: of the split and of the order of the held-out images.
      images: what `training.load` has returned for both.
    """
    found = load(
        source.dataset, images, data_dir=source.data_dir, held_out=source.held_out, seed=seed
    )
    return found._replace(held_out=data.shuffle(found.held_out, seed=seed))


def fingerprint(labels: Labels) -> str:
    """Returns a short text that changes with any label."""
    return f"{max(part.max() for part in labels) + 1} classes, crc32 {numbers.crc32(*labels)}"


def _own(
    path: str, images: data.Images, held_out: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    arrays = own.read(path)
    if "held_out" in arrays:
        train = _checked(path, arrays, "labels", len(images.train))
        return train, _checked(path, arrays, "held_out_labels", len(images.held_out))
    count = len(images.train) + len(images.held_out)
    return data.split(_checked(path, arrays, "labels", count), held_out, seed)


def _checked(path: str, arrays: dict[str, np.ndarray], name: str, count: int) -> np.ndarray:
    """Returns labels as `[count]` integers, or says what is wrong with them."""
    values = arrays.get(name)
    if values is None:
        wrong = "is missing, and the classes of the images are needed"
    elif values.dtype.kind not in "iu" or values.shape != (count,):
        wrong = f"must be {count} integers, one for each image, got {values.dtype} {values.shape}"
    elif values.min() < 0 or values.max() >= 2**31:
        wrong = f"must count from 0, got {values.min()} ... {values.max()}"
    else:
        return values
    how = f"write it with np.savez(path, images=images, {name}=...)"
    if os.path.isdir(path):
        how = "put the images into one folder for each class"
    message = f'{path}: "{name}" {wrong}: {how}.'
    raise ValueError(message)
