"""Correlations of two sequences of numbers: between the values, or between the ranks.

Reference: Pearson's and Spearman's coefficients, as in any textbook of statistics.
"""

from __future__ import annotations

import jax.numpy as jnp

from fmjax import _checks
from fmjax.metrics._common import check_equal
from fmjax.types import Array

__all__ = ["pearson", "spearman"]


def pearson(x: Array, y: Array) -> Array:
    """Computes the linear correlation of two sequences of numbers.

    Args:
      x: `[*dims]`; all entries together are one sequence.
      y: `[*dims]`, the other sequence.

    Returns:
      `[]`, in [-1, 1]; NaN if either sequence is constant.

    Raises:
      ValueError: if the shapes differ.

    Example:
      >>> import fmjax
      >>> import jax.numpy as jnp
      >>> x, y = jnp.array([1.0, 2.0, 3.0]), jnp.array([2.0, 4.0, 5.0])
      >>> round(float(fmjax.metrics.pearson(x, y)), 4)
      0.982
    """
    check_equal(x, y, at_least=2)

    def center(z: Array) -> Array:
        z = _checks.wide(z)  # bytes become floats
        z = z - jnp.ravel(z)[0]  # a constant becomes exactly zero
        z = z - jnp.mean(z)
        return z / jnp.max(jnp.abs(z))  # so that squares neither overflow nor vanish

    x, y = center(x), center(y)
    return jnp.clip(jnp.sum(x * y) / jnp.sqrt(jnp.sum(x**2) * jnp.sum(y**2)), -1.0, 1.0)


def spearman(x: Array, y: Array) -> Array:
    """Computes the rank correlation of two sequences; equal values share their mean rank.

    Args:
      x: `[*dims]`; all entries together are one sequence.
      y: `[*dims]`, the other sequence.

    Returns:
      `[]`, in [-1, 1]; NaN if either sequence is constant or holds a NaN.

    Raises:
      ValueError: if the shapes differ.

    Example:
      >>> import fmjax
      >>> import jax.numpy as jnp
      >>> x = jnp.array([0.1, 0.2, 0.3, 4.0])
      >>> round(float(fmjax.metrics.spearman(x, jnp.exp(x))), 4)  # any increasing function of x
      1.0
    """
    check_equal(x, y, at_least=2)
    return pearson(_ranks(x), _ranks(y))


def _ranks(x: Array) -> Array:
    """Ranks each entry among all; ties get their mean rank, NaN stays NaN."""
    ordered = jnp.sort(x, axis=None)
    below, upto = (jnp.searchsorted(ordered, x, side=side) for side in ("left", "right"))
    # At least float32: sixteen bits cannot count far.
    ranks = (below + upto).astype(jnp.promote_types(jnp.result_type(x, 0.0), jnp.float32))
    return jnp.where(jnp.isnan(x), jnp.nan, 0.5 * ranks)
