"""Arrays in a folder: a tree of them in one .npz file, whole or not there.

The name of an array in the file is its way through the tree, such as held_out/0.3/uncertainty.
"""

import io
import os
import zipfile
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

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
    np.savez(buffer, **dict(_named(tree)))
    replace(path, buffer.getvalue())


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
    path, tree = absolute(path), {}
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            found = dict(archive)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        message = f"{path} is missing or damaged ({error}): run the same command again."
        raise ValueError(message) from error
    for name, array in found.items():
        *branch, leaf = name.split("/")
        place = tree
        for key in branch:
            place = place.setdefault(key, {})
        place[leaf] = array
    return tree
