"""Exponential numbers, which divided by their sum are uniform on the simplex."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from fmjax.types import Array, Key

__all__ = ["exponentials"]


def exponentials(key: Key, shape: tuple[int, ...], dtype: jnp.dtype) -> Array:
    """Draws exponential numbers of mean one, never zero: half a unit of the grid is the least."""
    least = jnp.finfo(dtype).eps / 2
    return -jnp.log1p(-jax.random.uniform(key, shape, dtype, minval=least))
