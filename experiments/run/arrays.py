"""Arrays in a folder: a tree of them in one .npz file, whole or not there.

The name of an array in the file is its way through the tree, such as held_out/0.3/uncertainty. Each
array has the checksum of its zip archive; one of all names and arrays shows that none is missing.
"""

import io
import os
import zipfile
import zlib
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from etils import epath

from experiments.run import errors, numbers
from experiments.run.checksums import NAME
from experiments.run.folder import replace
from experiments.run.paths import absolute
from fmjax.types import PyTree


def write(path: str | os.PathLike, tree: PyTree) -> None:
    """Writes a tree of arrays as a whole or not at all, on process 0.

    Args:
      path: the file, ending in .npz; an older one is replaced, and its folder is made.
      tree: nested dicts, lists and tuples of arrays and numbers. A tuple as a key, such as
        ("flow", 4), is the name "flow 4".
    """
    if jax.process_index() != 0:
        return
    path, buffer = absolute(path), io.BytesIO()
    named = dict(_named(tree))
    first = {NAME: np.uint32(_checksum(named))}  # where losing the end of the directory spares it
    np.savez(buffer, **first, **named)
    replace(path, buffer.getvalue())


def _checksum(named: dict[str, np.ndarray]) -> int:
    """Returns the checksum of names and arrays."""
    parts = (f"{name} {numbers.crc32(array)}" for name, array in named.items())
    return zlib.crc32("\n".join(parts).encode())


def _check(found: dict[str, np.ndarray]) -> None:
    """Takes the checksum out of what was read, which older files do not have, and compares it."""
    kept = found.pop(NAME, None)
    if kept is not None and kept != _checksum(found):
        raise ValueError("an array is missing or not what was written")


def _named(tree: PyTree, name: str = "") -> Iterator[tuple[str, np.ndarray]]:
    """Yields every array with its name, in the order of the tree."""
    if isinstance(tree, list | tuple):
        tree = dict(enumerate(tree))
    if not isinstance(tree, dict):
        yield name, np.asarray(tree)
        return
    for key, branch in tree.items():
        own = " ".join(map(str, key)) if isinstance(key, tuple) else str(key)
        yield from _named(branch, f"{name}/{own}" if name else own)


def read(path: str | os.PathLike) -> dict[str, Any]:
    """Reads a tree of arrays.

    Args:
      path: a file that `write` has written.

    Returns:
      Nested dicts with string keys; what was a list or a tuple has the keys "0", "1", ...

    Raises:
      ValueError: if the file is missing or damaged.
    """
    path = absolute(path)
    try:
        found = members(path)
        _check(found)
        return _tree(found)
    except ValueError as error:
        message = f"{path} is missing or damaged ({error}): run the same command again."
        raise ValueError(message) from error


def _tree(found: dict[str, np.ndarray]) -> dict[str, Any]:
    """Returns the tree of arrays by their names."""
    tree = {}
    for name, array in found.items():
        *branch, leaf = name.split("/")
        place = tree
        for key in branch:
            place = place.setdefault(key, {}) if isinstance(place, dict) else place
        if not isinstance(place, dict) or leaf in place:
            message = f"two arrays are named {errors.short(name)}, or one in the other"
            raise ValueError(message)
        place[leaf] = array
    return tree


def members(path: epath.Path) -> dict[str, np.ndarray]:
    """Reads the arrays of an .npz file by their names, whoever has written it.

    Nothing is unpickled, and nothing is unpacked to the disk.

    Args:
      path: the file.

    Raises:
      ValueError: if it cannot be read, or holds something other than arrays or more than this
        machine has memory; it says why, and names no file.
    """
    try:
        with path.open("rb") as file, zipfile.ZipFile(file) as archive:
            _check_size(sum(member.file_size for member in archive.infolist()))
            return dict(_member(archive, name) for name in archive.namelist())
    except Exception as error:  # zipfile, its compressions, NumPy and the disk have their own each
        raise ValueError(errors.first_line(error)) from error


def _member(archive: zipfile.ZipFile, name: str) -> tuple[str, np.ndarray]:
    """Reads one array and its name."""
    if not name.endswith(".npy"):
        message = f"{name!r} is no array"
        raise ValueError(message)
    with archive.open(name) as file:
        array = np.lib.format.read_array(file, allow_pickle=False)
    return name.removesuffix(".npy"), array


def _check_size(size: int) -> None:
    """Raises ValueError for more bytes than this machine has memory, if the system tells."""
    try:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return
    if size > memory:
        message = f"its arrays are {size / 1e9:.3g} GB, and this machine has {memory / 1e9:.3g} GB"
        raise ValueError(message)
