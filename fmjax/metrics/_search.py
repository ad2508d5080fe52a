"""The order of the rows of a data set by distance, from a matrix product."""

import jax.numpy as jnp

from fmjax.types import Array


def rows(x: Array) -> Array:
    """Returns every example flattened, `[n, d]`."""
    return jnp.asarray(x).reshape(x.shape[0], -1)


def half_norms(data: Array) -> Array:
    """Returns `|b|^2 / 2` of every row, `[m]`."""
    return 0.5 * jnp.sum(data**2, axis=1)


def scores(row: Array, data: Array, half_norms: Array) -> Array:
    """Returns `|b|^2 / 2 - a.b` of every row b of the data, `[m]`, for the row a."""
    # In full precision, which accelerators do not give by default.
    return half_norms - jnp.matmul(data, row, precision="highest")
