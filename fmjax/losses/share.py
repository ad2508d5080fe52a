"""A penalty on a share of a batch: lower cost, the same mean, more noise.

Let m of n examples carry the penalty, each with its weight times n / m. If the choice does not
depend on the examples, the expected loss equals the loss with the penalty on every example.

Reference:
  Horvitz and Thompson (1952), A Generalization of Sampling Without Replacement From a Finite
  Universe, Journal of the American Statistical Association 47. [horvitz1952generalization]
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from fmjax import _checks
from fmjax.types import Array, PyTree

__all__ = ["probe_every"]


def probe_every(
    every: int, loss: Callable[..., Array], weight: Array | float, *arrays: PyTree
) -> Array:
    """Computes the mean loss of a batch, with the divergence penalty on every k-th example only.

    The weight of the penalty is scaled by n over the number of these examples. So the expected
    gradient does not change, the cost of the divergence falls to a k-th, and its noise grows. It
    takes a whole batch.

    Args:
      every: k, an integer from 1 (all) to the size of the batch.
      loss: `(weight, *example) -> []` of one example, such as `fdm` with its weight first; it
        is called with the number 0.0 for the examples without a penalty.
      weight: the weight of the penalty over the whole batch.
      *arrays: `[n, *dims]` each, or pytrees of such arrays: what the loss takes for one example,
        keys too. Their order must be random, as for times from `times.stratified`.

    Returns:
      `[]`, the mean over the batch.

    Raises:
      ValueError: if `every` is no integer from 1 to n, or the arrays are not equally long.

    Example:
      >>> import fmjax
      >>> import jax.numpy as jnp
      >>> loss = lambda weight, x: x + weight * 10.0
      >>> float(fmjax.losses.probe_every(2, loss, 1.0, jnp.zeros(3)))  # 2 of 3, with weight 1.5
      10.0
    """
    example = "pass, for example, lambda weight, x0, x1, t: losses.fdm(..., weight=weight)"
    signature = f"(weight, {', '.join(f'array{i}' for i in range(len(arrays)))}) -> loss"
    _checks.function(loss, "loss", signature, example)
    sizes = {len(array) for array in jax.tree.leaves(arrays)}
    integer = isinstance(every, int | np.integer)
    if len(sizes) != 1 or not integer or not 1 <= every <= min(sizes):
        message = (
            "probe_every needs arrays of one length n and 1 <= every <= n, got lengths "
            f"{sorted(sizes)} and every = {every}: every k-th example is probed."
        )
        raise ValueError(message)
    (n,) = sizes
    probed = jax.tree.map(lambda array: _split(array, every)[0], arrays)
    others = jax.tree.map(lambda array: _split(array, every)[1], arrays)
    total = jnp.sum(jax.vmap(partial(loss, weight * n / -(-n // every)))(*probed))
    if every > 1:
        total = total + jnp.sum(jax.vmap(partial(loss, 0.0))(*others))
    return total / n


def _split(array: Array, every: int) -> tuple[Array, Array]:
    """Returns every k-th entry along the first axis and the others, by slices alone.

    An index into the batch would be a gather, and a scatter on the way back.
    """
    whole = len(array) // every * every
    blocks = array[:whole].reshape(-1, every, *array.shape[1:])
    rest = array[whole:]
    others = blocks[:, 1:].reshape(-1, *array.shape[1:])
    return (
        jnp.concatenate([blocks[:, 0], rest[:1]]),
        jnp.concatenate([others, rest[1:]]),
    )
