"""Means and spreads, rows of a table put together, and checksums of arrays."""

import zlib
from collections.abc import Iterable
from typing import Any

import numpy as np


def crc32(*arrays: np.ndarray) -> str:
    """Returns the checksum of each array in hexadecimal, which changes with any of its bits."""
    return " ".join(f"{zlib.crc32(np.ascontiguousarray(array).tobytes()):08x}" for array in arrays)


def by_method(rows: Iterable[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Returns the rows of every method, in the order of their appearance."""
    rows = list(rows)
    names = dict.fromkeys(row["method"] for row in rows)
    return {name: [row for row in rows if row["method"] == name] for name in names}


def with_spread(values: Iterable[float], form: str) -> str:
    """Returns the mean and, of more than one value, the standard deviation."""
    values = np.asarray(list(values))
    if not np.isfinite(values).all():
        return "-"
    mean = format(values.mean(), form)
    return f"{mean} ± {format(values.std(ddof=1), form.lstrip('+'))}" if len(values) > 1 else mean


def summary(values: np.ndarray) -> dict[str, Any]:
    """Returns the mean over seeds, their standard deviation, and the values themselves."""
    return {"mean": values.mean(), "std": values.std(ddof=1), "seeds": values}


def share(happened: np.ndarray) -> dict[str, float]:
    """Returns how often something happened, with its standard error."""
    p = float(np.mean(happened))
    return {"share": p, "standard_error": (p * (1.0 - p) / len(happened)) ** 0.5}


def mean(values: np.ndarray) -> dict[str, float]:
    """Returns a mean with its standard error."""
    error = np.std(values, ddof=1) / len(values) ** 0.5
    return {"mean": float(np.mean(values)), "standard_error": float(error)}
