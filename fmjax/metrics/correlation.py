"""Correlations of two sequences of numbers, of their values or of their ranks.

Reference: Pearson's and Spearman's coefficients, as in any textbook of statistics.
"""

from __future__ import annotations

import jax.numpy as jnp

from fmjax import _checks
from fmjax.metrics._common import check_equal
from fmjax.types import Array


def pearson(x: Array, y: Array) -> Array:
    """Returns the linear correlation of two sequences of numbers.

    Args:
      x: `[*dims]`; all entries count as one sequence.
      y: `[*dims]`.

    Returns:
      `[]`, in [-1, 1]; NaN if either sequence is constant.

    Raises:
      ValueError: if the shapes differ.

    Example:
      >>> round(float(pearson(jnp.array([1.0, 2.0, 3.0]), jnp.array([2.0, 4.0, 5.0]))), 4)
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
    """Returns the rank correlation of two sequences, equal values sharing their mean rank.

    Args:
      x: `[*dims]`; all entries count as one sequence.
      y: `[*dims]`.

    Returns:
      `[]`, in [-1, 1]; NaN if either sequence is constant or holds a NaN.

    Raises:
      ValueError: if the shapes differ.

    Example:
      >>> x = jnp.array([0.1, 0.2, 0.3, 4.0])
      >>> round(float(spearman(x, jnp.exp(x))), 4)  # any increasing function of x
      1.0
    """
    check_equal(x, y, at_least=2)
    return pearson(_ranks(x), _ranks(y))


def _ranks(x: Array) -> Array:
    """Returns the rank of each entry among all, ties averaged; NaN stays NaN."""
    ordered = jnp.sort(x, axis=None)
    below, upto = (jnp.searchsorted(ordered, x, side=side) for side in ("left", "right"))
    # At least float32: sixteen bits cannot count far.
    ranks = (below + upto).astype(jnp.promote_types(jnp.result_type(x, 0.0), jnp.float32))
    return jnp.where(jnp.isnan(x), jnp.nan, 0.5 * ranks)
