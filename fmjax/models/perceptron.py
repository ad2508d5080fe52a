"""The plain perceptron of the density experiments of 2602.00869, as a pure function.

    h <- W silu(h) + b,     started by W [x, t] + b,     as often as there are hidden layers   (1)

`fmjax.models.MLP` is the better network: it is residual, and it embeds the time. This network was
used for the numbers of the paper. Its weights and biases start uniform in +-1 / sqrt(inputs), as in
the paper's framework, so its output does not start at zero.

Reference:
  Huang et al. (2025), Improving Flow Matching by Aligning Flow Divergence, arXiv 2602.00869.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from fmjax import _checks
from fmjax.models import layers
from fmjax.types import Array, Key, PyTree

__all__ = ["apply", "perceptron"]


def perceptron(
    key: Key, size: int, *, width: int, depth: int
) -> tuple[Callable[[PyTree, Array, Array], Array], PyTree]:
    """Makes a plain perceptron of a vector and a time, eq. (1).

    Args:
      key: PRNG key, for the parameters.
      size: entries of x.
      width: entries of a hidden layer.
      depth: number of hidden layers.

    Returns:
      `(apply, params)`. `apply(params, x, t)` gives the velocity `[size]`; it is the same function
      for every network. `params` is a nested dict of arrays with string keys.

    Raises:
      ValueError: if a size is not a positive integer; on a call, if `x` has another shape, or `t`
        is batched or a static number outside [0, 1].

    Example:
      >>> import fmjax
      >>> import jax
      >>> import jax.numpy as jnp
      >>> apply, params = fmjax.models.perceptron(jax.random.key(0), 2, width=8, depth=2)
      >>> apply(params, jnp.ones(2), 0.5).shape
      (2,)

    Reference:
      Huang et al. (2025), arXiv 2602.00869, section 5.1.1. [huang2025improving]
    """
    layers.positive(size=size, width=width, depth=depth)
    keys = jax.random.split(key, depth + 1)
    pairs = itertools.pairwise([size + 1, *[width] * depth, size])
    params = {
        f"layer_{i}": _layer(k, *pair) for i, (k, pair) in enumerate(zip(keys, pairs, strict=True))
    }
    return apply, params


def apply(params: PyTree, x: Array, t: Array) -> Array:
    """Evaluates a plain perceptron, eq. (1), with the parameters that `perceptron` makes.

    Args:
      params: the parameters that `perceptron` made, or a tree like them.
      x: `[size]`, the state.
      t: `[]`, in [0, 1].

    Returns:
      `[size]`, the velocity.

    Raises:
      ValueError: if `x` has another shape, or `t` is batched or a static number outside [0, 1].

    Example:
      >>> import fmjax
      >>> import jax
      >>> import jax.numpy as jnp
      >>> apply, params = fmjax.models.perceptron(jax.random.key(0), 2, width=8, depth=2)
      >>> still = jax.tree.map(jnp.zeros_like, params)
      >>> apply(still, jnp.ones(2), 0.5).tolist()
      [0.0, 0.0]

    Reference:
      Huang et al. (2025), arXiv 2602.00869, section 5.1.1. [huang2025improving]
    """
    layers.example(x, (t,), shape=(len(params["layer_0"]["kernel"]) - 1,), num_times=1)
    dtype = jnp.result_type(x, params["layer_0"]["kernel"])
    hidden = jnp.append(x, _checks.time(t).astype(dtype))
    for i in range(len(params)):
        layer = params[f"layer_{i}"]
        hidden = jnp.dot(hidden if i == 0 else jax.nn.silu(hidden), layer["kernel"]) + layer["bias"]
    return hidden


def _layer(key: Key, before: int, after: int) -> dict[str, Array]:
    """Returns the parameters of one layer, uniform in +-1 / sqrt(before)."""
    key_kernel, key_bias = jax.random.split(key)
    limit = 1.0 / math.sqrt(before)
    kernel = jax.random.uniform(key_kernel, (before, after), minval=-limit, maxval=limit)
    bias = jax.random.uniform(key_bias, (after,), minval=-limit, maxval=limit)
    return {"kernel": kernel, "bias": bias}
