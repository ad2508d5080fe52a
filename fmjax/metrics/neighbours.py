"""The nearest sample of a data set.

Reference: none beyond the definition.
"""

import jax
import jax.numpy as jnp

from fmjax.metrics import _search
from fmjax.metrics._common import check_chunk, check_samples, squared_distance
from fmjax.types import Array


def nearest_neighbor(x: Array, data: Array, *, chunk: int = 256) -> tuple[Array, Array]:
    """Returns, for each row of x, the index of the nearest row of data and its distance.

    The search compares `|b|^2 / 2 - x.b`, one matrix product per chunk, and its rounding may
    confuse neighbours whose squared distances agree to the float precision of the squared
    norms. The distance itself is computed from the difference: that of a copy is exactly zero.

    Args:
      x: `[n, *dims]`, for example generated images.
      data: `[m, *dims]`, for example the training set.
      chunk: rows of x that are compared at once; memory is `chunk * m` numbers.

    Returns:
      `(index, distance)`, both `[n]`; the distance is Euclidean, over all of `[*dims]`.

    Raises:
      ValueError: if the examples differ in shape or are not floating, or `chunk` < 1.

    Example:
      >>> data = jnp.array([[0.0, 0.0], [10.0, 0.0]])
      >>> index, distance = nearest_neighbor(jnp.array([[7.0, 4.0], [0.0, 0.0]]), data)
      >>> index.tolist(), distance.tolist()
      ([1, 0], [5.0, 0.0])
    """
    check_samples(x, data)
    check_chunk(chunk)
    x, data = _search.rows(x), _search.rows(data)
    half_norms = _search.half_norms(data)

    def nearest(row: Array) -> tuple[Array, Array]:
        index = jnp.argmin(_search.scores(row, data, half_norms))
        return index, jnp.sqrt(squared_distance(row, data[index]))

    return jax.lax.map(nearest, x, batch_size=chunk)
