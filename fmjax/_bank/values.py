"""Checks of values: points, weights and indices, where they are known, so outside of `jit`.

All of them read NumPy arrays: inside `jit` an operation of jax would hide a constant's value.
"""

from __future__ import annotations

import jax
import numpy as np

from fmjax.types import Array

__all__ = ["check_distinct", "check_finite", "check_index", "check_weights"]


def check_finite(half_squares: Array) -> None:
    """Raises ValueError for points that are not finite."""
    if isinstance(half_squares, jax.core.Tracer):
        return
    wrong = np.flatnonzero(~np.isfinite(np.asarray(half_squares)))
    if len(wrong):
        message = (
            f"{len(wrong)} of {len(half_squares)} points of the bank are not finite, the first at "
            f"index {int(wrong[0])}: every velocity would be NaN; leave them out."
        )
        raise ValueError(message)


def check_weights(weights: Array) -> None:
    """Raises ValueError for weights that give no law."""
    if isinstance(weights, jax.core.Tracer):
        return
    weights = np.asarray(weights)
    low, high = float(weights.min()), float(weights.max())
    if not (low >= 0.0 and 0.0 < high < np.inf):
        message = (
            f"weights must be finite, not negative and not all zero, got {low} to {high}: no state "
            "would have a velocity."
        )
        raise ValueError(message)


def check_index(index: Array, n: int, name: str = "index") -> None:
    """Raises ValueError for an index of no point among n; `name` is the argument's."""
    if isinstance(index, jax.core.Tracer) or not index.size:
        return
    index = np.asarray(index)
    low, high = index.min(), index.max()
    if low < 0 or high >= n:
        message = f"{name} must be from 0 to {n - 1}, got {low} to {high}: it counts the points."
        raise ValueError(message)


def check_distinct(index: Array) -> None:
    """Raises ValueError for a batch in which an index occurs twice."""
    if isinstance(index, jax.core.Tracer):
        return
    different = len(np.unique(np.asarray(index)))
    if different < len(index):
        message = (
            f"the {len(index)} indices of the batch must be distinct, got {different} different "
            "ones: draw the batch without replacement, or the target is biased."
        )
        raise ValueError(message)
