"""A user's own points and trajectories: numbers in an .npy or a .csv file.

A .csv file has one example in each line, its numbers with commas between them, and may begin with
a line of names. Nothing is scaled: flow matching begins at noise of standard deviation 1, so that
data should have about that size.
"""

import os
import pathlib
import warnings

import numpy as np

from experiments.run import errors

SUFFIXES = (".npy", ".csv")


def is_own(name: str) -> bool:
    """Returns whether a data set is a file of numbers, and not the name of one."""
    return name.endswith(SUFFIXES)


def holds(name: str) -> bool:
    """Returns whether a file holds points, one in each row, rather than images.

    That is every .csv file, and an .npy file of two axes. One that cannot be read holds none.
    """
    path = os.path.expanduser(name)
    if not name.endswith(".npy"):
        return is_own(name)
    try:
        return np.lib.format.open_memmap(path, mode="r").ndim == 2
    except (ValueError, OSError, EOFError):
        return False


def label(name: str) -> str:
    """Returns the name of a file of numbers without its folder and ending."""
    return pathlib.Path(name).stem


def read(name: str, shape: str, *, trailing: int | None = None) -> np.ndarray:
    """Reads examples of one shape.

    Args:
      name: path of the file; ~ is the home folder.
      shape: that is wanted, as "[n, 2]" or "[n, length, channels]"; its number of axes counts, and
        for the error all of it.
      trailing: what the last axis must be; None for any.

    Returns:
      float32 `[n, ...]`. Of a .csv file of examples with two axes the last one is 1.

    Raises:
      OSError: if there is no such file.
      ValueError: if it cannot be read, holds another shape, or something that is no finite number.
    """
    path = pathlib.Path(os.path.expanduser(name))
    if not path.is_file():
        message = f"no file {path}: an .npy or .csv file of numbers {shape} is wanted."
        raise FileNotFoundError(message)
    found, axes = _read(path), shape.count(",") + 1
    if path.suffix == ".csv" and axes == 3:
        found = found[..., None]
    if found.dtype.kind not in "fiu":
        wrong = f"holds {found.dtype}, and numbers are wanted: write floats"
    elif found.ndim != axes or 0 in found.shape or trailing not in (None, found.shape[-1]):
        wrong = f"has shape {list(found.shape)}, and {shape} is wanted: one example in each row"
    elif not (finite := _is_finite(found)).all():
        first = int(np.argmin(finite))
        wrong = (
            f"has {int((~finite).sum())} examples with numbers that are not finite in float32, the "
            f"first of them example {first}: remove or repair them"
        )
    else:
        return np.float32(found)
    message = f"{path} {wrong}."
    raise ValueError(message)


def split(name: str, examples: np.ndarray, sizes: dict[str, int], seed: int) -> list[np.ndarray]:
    """Returns random parts of the examples that have none in common.

    Args:
      name: of the file, for the error.
      examples: `[n, ...]`.
      sizes: from the option that asks for each part to its size.
      seed: of the permutation.

    Raises:
      ValueError: if there are too few examples.
    """
    if sum(sizes.values()) > len(examples):
        asked = " and ".join(f"{option} {size}" for option, size in sizes.items())
        message = (
            f"{name} holds {len(examples)} examples, too few for {asked}, which have none in "
            "common: give smaller numbers or more examples."
        )
        raise ValueError(message)
    order = np.random.default_rng(seed).permutation(len(examples))
    ends = zip(np.cumsum([*sizes.values()]), sizes.values(), strict=True)
    return [examples[order[end - size : end]] for end, size in ends]


def _is_finite(examples: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        return np.isfinite(np.float32(examples)).reshape(len(examples), -1).all(axis=1)


def _read(path: pathlib.Path) -> np.ndarray:
    how = "np.save(path, x)" if path.suffix == ".npy" else 'np.savetxt(path, x, delimiter=",")'
    try:
        if path.suffix == ".npy":
            # A map cannot be larger than its file, whatever that claims; nothing is unpickled.
            return np.array(np.lib.format.open_memmap(path, mode="r"))
        return _csv(path)
    except (ValueError, OSError, EOFError, UnicodeDecodeError) as error:
        message = (
            f"{path} cannot be read as numbers ({errors.first_line(error)}): write it again with "
            f"{how}."
        )
        raise ValueError(message) from error


def _csv(path: pathlib.Path) -> np.ndarray:
    """Reads lines of numbers, without a first line of names."""
    with path.open(encoding="utf-8-sig") as file, warnings.catch_warnings():
        warnings.simplefilter("error")  # of a file without lines
        first = file.readline()
        how = {"delimiter": ",", "ndmin": 2, "encoding": "utf-8-sig"}
        try:
            found = np.loadtxt(path, skiprows=int(not _is_numbers(first)), **how)
        except UserWarning as error:
            raise ValueError("it holds no numbers") from error
    return found


def _is_numbers(line: str) -> bool:
    try:
        [float(word) for word in line.split(",")]
    except ValueError:
        return False
    return True
