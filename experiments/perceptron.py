"""The plain perceptron of the paper's density experiments, as a pure function.

    h <- silu(W h + b),   started from (x, t),   ended by W h + b                  (1)

`fmjax.models.MLP` is the better network (residual, with embedded time); this one is what the
numbers of the paper were measured with. Its weights and biases start uniform in
+-1 / sqrt(inputs), as those of the paper's framework do.
"""

import itertools
import math

import jax
import jax.numpy as jnp

from fmjax.types import Array, Key, PyTree


def init(key: Key, size: int, *, width: int, depth: int) -> PyTree:
    """Returns the parameters of a perceptron from `[size]` and a time to `[size]`.

    Args:
      key: a typed PRNG key.
      size: entries of x.
      width: of the hidden layers.
      depth: number of hidden layers.
    """
    sizes = [size + 1, *[width] * depth, size]

    def layer(key: Key, before: int, after: int) -> dict[str, Array]:
        key_kernel, key_bias = jax.random.split(key)
        limit = 1.0 / math.sqrt(before)
        kernel = jax.random.uniform(key_kernel, (before, after), minval=-limit, maxval=limit)
        bias = jax.random.uniform(key_bias, (after,), minval=-limit, maxval=limit)
        return {"kernel": kernel, "bias": bias}

    keys = jax.random.split(key, depth + 1)
    pairs = itertools.pairwise(sizes)
    return {
        f"layer_{i}": layer(k, *pair) for i, (k, pair) in enumerate(zip(keys, pairs, strict=True))
    }


def apply(params: PyTree, x: Array, t: Array) -> Array:
    """Returns the velocity `[size]` at one state `[size]` and time `[]`, eq. (1)."""
    hidden = jnp.append(x, t)
    for i in range(len(params)):
        layer = params[f"layer_{i}"]
        hidden = jnp.dot(hidden if i == 0 else jax.nn.silu(hidden), layer["kernel"]) + layer["bias"]
    return hidden
