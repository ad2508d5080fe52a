"""A user's own images as arrays: an .npz or .npy file, or a folder of PNG or JPEG files.

A folder holds the files themselves, or one folder of them for each class; the classes are then
numbered in the order of their names. Files are read in the order of their names. Nothing is
converted that would lose anything: images must have one size, 8 bits and no transparency.
"""

import os
import pathlib
from types import ModuleType

import numpy as np
from etils import epath

from experiments.images import decoded, hub, prepared
from experiments.run import arrays as npz
from experiments.run import errors, progress

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")


def is_own(name: str) -> bool:
    """Returns whether a data set is of the user or of Hugging Face, and not the name of one."""
    return (
        name.startswith(hub.PREFIX)
        or name.endswith((".npz", ".npy"))
        or os.path.isdir(os.path.expanduser(name))
    )


def label(name: str) -> str:
    """Returns the name of a data set, of a user's own without its place and ending."""
    base = os.path.basename(name.removeprefix(hub.PREFIX).rstrip("/"))
    return base[:-4] if base.endswith((".npz", ".npy", ".csv")) else base


def read(name: str) -> dict[str, np.ndarray]:
    """Returns the arrays of a user's data set by their names.

    Args:
      name: a path that ends in .npz or .npy, a folder, or hf:NAME (`experiments.images.hub`).

    Returns:
      Of an .npz file what it holds; else "images", uint8 `[n, h, w, c]` of a folder, and "labels"
      `[n]` of a folder with one folder for each class.

    Raises:
      ValueError: if a file cannot be read, or the images of a folder are not of one kind.
      OSError: if there is no such file.
    """
    if name.startswith(hub.PREFIX):
        return hub.read(name)
    path = pathlib.Path(os.path.expanduser(name))
    kind = path.suffix
    if kind not in (".npz", ".npy"):
        return _folder(path)
    if not path.exists():
        message = f"no file {path}: expected an {kind} file with uint8 images; check the path."
        raise FileNotFoundError(message)
    try:
        return npz.members(epath.Path(path)) if kind == ".npz" else {"images": _npy(path)}
    except (ValueError, OSError, EOFError) as error:
        how = "np.savez(path, images=images)" if kind == ".npz" else "np.save(path, images)"
        message = (
            f"{path} cannot be read as an {kind} file ({errors.first_line(error)}): write it again "
            f"with {how}, images uint8."
        )
        raise ValueError(message) from error


def _npy(path: pathlib.Path) -> np.ndarray:
    # A map cannot be larger than its file, whatever that claims, and nothing is unpickled.
    return np.array(np.lib.format.open_memmap(path, mode="r"))


def _folder(path: pathlib.Path) -> dict[str, np.ndarray]:
    """Returns the images of a folder, and their labels if it has a folder for each class."""
    here, classes = _files(path), [p for p in _visible(path) if p.is_dir() and _files(p)]
    if bool(here) == bool(classes):
        what = "both images and folders of images" if here else "no images"
        message = (
            f"{path} holds {what}: give a folder of {', '.join(SUFFIXES)} files, or one with one "
            "such folder for each class."
        )
        raise ValueError(message)
    groups = [_files(one) for one in classes] or [here]
    images = _images([file for group in groups for file in group])
    if not classes:
        return {"images": images}
    return {"images": images, "labels": np.repeat(np.arange(len(groups)), [*map(len, groups)])}


def _visible(path: pathlib.Path) -> list[pathlib.Path]:
    return sorted(p for p in path.iterdir() if not p.name.startswith("."))


def _files(path: pathlib.Path) -> list[pathlib.Path]:
    return [p for p in _visible(path) if p.suffix.lower() in SUFFIXES and p.is_file()]


def _images(files: list[pathlib.Path]) -> np.ndarray:
    """Returns images of one size as uint8 `[n, h, w, c]`, gray ones only if all are."""
    pillow = prepared.require("PIL.Image", "folder of images")
    read = [_pixels(pillow, file) for file in progress.each(files, "images", unit="image")]
    return decoded.stacked([*map(str, files)], read)


def _pixels(pillow: ModuleType, file: pathlib.Path) -> np.ndarray:
    """Returns one image as uint8 `[h, w, 1]` or `[h, w, 3]`."""
    try:
        deep, image = _is_deep(file), pillow.open(file)
        with image:
            image.load()
    except (OSError, SyntaxError, ValueError, pillow.DecompressionBombError) as error:
        message = f"{file} cannot be read as an image ({errors.first_line(error)}): remove it."
        raise ValueError(message) from error
    return decoded.pixels(str(file), image, deep=deep)


def _is_deep(file: pathlib.Path) -> bool:
    """Tells whether a PNG file has 16 bits for each color; of colors pillow drops 8 in silence."""
    with file.open("rb") as opened:
        head = opened.read(25)
    return head.startswith(b"\x89PNG") and head[24:] == b"\x10"
