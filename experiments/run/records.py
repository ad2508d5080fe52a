"""Files of JSON as a run has written them, read as such whoever has written them.

A run folder may come from somebody else. What stands in its files is taken for numbers, words,
lists and names, and never for more of them than a run writes: anything else is one error.
"""

import json
import math
from typing import Any

import jax
import numpy as np
from etils import epath

from experiments.run import checksums, errors

_DEPTH = 50  # of lists in lists; the deepest file of a run has 6


def read(file: epath.Path) -> dict[str, Any]:
    """Reads a file of one record, and its checksum if it has one.

    Args:
      file: such as config.json.

    Returns:
      The record without its checksum.

    Raises:
      FileNotFoundError: if there is no such file.
      ValueError: if it is not what a run has written; it says why, and names no file.
    """
    if file.exists() and not file.is_file():  # a folder, or a pipe that nobody fills
        raise ValueError("it is no file")
    return checksums.checked(parsed(file.read_bytes()))


def parsed(text: bytes) -> dict[str, Any]:
    """Returns what one record of JSON says.

    Args:
      text: the record.

    Raises:
      ValueError: if it is no JSON, names nothing, is nested deeply, or holds a number that is not
        finite or has more than 64 bits.
    """
    try:
        found = json.loads(text)
    except (ValueError, RecursionError, MemoryError) as error:
        raise ValueError(errors.first_line(error)) from error
    if not isinstance(found, dict):
        raise ValueError("it holds no names")  # noqa: TRY004, damage, not a mistake of the caller
    _check(found, _DEPTH)
    return found


def _check(value: Any, room: int) -> None:
    """Raises ValueError for what no run writes."""
    if isinstance(value, int) and not -(2**63) <= value < 2**64:
        raise ValueError("it holds a number of more than 64 bits")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("it holds a number that is not finite")
    if isinstance(value, dict | list):
        if not room:
            message = f"it is nested more than {_DEPTH} deep"
            raise ValueError(message)
        for part in value.values() if isinstance(value, dict) else value:
            _check(part, room - 1)


def plain(value: Any) -> Any:
    """Returns what JSON can hold: arrays as lists, numbers that are not finite as None."""
    if isinstance(value, dict):
        return {str(name): plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [plain(part) for part in value]
    if isinstance(value, jax.Array | np.ndarray | np.generic):
        return plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, str | int | float | None) else str(value)
