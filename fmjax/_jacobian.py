"""Products with a Jacobian, and means over random probes with their standard error.

The estimators, posterior covariances and the sensitivities of one-step models share these parts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from fmjax import _checks
from fmjax.types import Array, Key

__all__ = ["Estimate", "Field", "linearized", "parts", "root", "summary", "symmetric", "widened"]

Field = Callable[[Array], Array]


class Estimate(NamedTuple):
    """A random estimate and its standard error.

    Attributes:
      mean: the estimate, `[]` or `[*dims]`.
      standard_error: of the same shape, eq. (4) of `fmjax.estimators`.
    """

    mean: Array
    standard_error: Array


def linearized(f: Field, x: Array, num_probes: int) -> tuple[Array, Array, Field]:
    """Linearizes f at x; gives the checked point, the value and the product with the Jacobian.

    A point of half precision is converted to float32: half precision has no linear algebra. Only
    the value keeps the dtype that the field gives it at the given point.
    """
    why = (
        "the standard error is the spread over the probes; fmjax.divergence.hutchinson takes one "
        "probe and gives no error"
    )
    _checks.count(why, at_least=2, num_probes=num_probes)
    given, x = _checks.floating(x), _checks.wide(x)
    value, tangent_map = jax.linearize(f, x)
    _checks.returned(x, field=value)
    if given.dtype != x.dtype:
        value = value.astype(jax.eval_shape(f, given).dtype)
    return x, value, lambda w: tangent_map(w).astype(x.dtype)


def widened(f: Field, x: Array, name: str = "field") -> tuple[Field, Array]:
    """Gives f and its point in float32 at least, so that sums over tangents are as wide.

    The function that is asked still sees the dtype of x, and may return any other. What it returns
    is checked; the message calls it by `name`.
    """
    x = _checks.floating(x)

    def wide(z: Array) -> Array:
        value = f(z.astype(x.dtype))
        _checks.returned(x, **{name: value})
        return _checks.wide(value)

    return wide, _checks.wide(x)


def summary(terms: Array) -> Estimate:
    """Computes the mean over the first axis and its standard error, eq. (4) of the estimators."""
    return Estimate(terms.mean(0), root(jnp.var(terms, axis=0, ddof=1) / len(terms)))


def root(square: Array) -> Array:
    """Returns the square root, whose derivative at zero is zero."""
    zero = square == 0  # a NaN is not zero and stays
    return jnp.where(zero, 0.0, jnp.sqrt(jnp.where(zero, 1.0, square)))


def symmetric(tangent_map: Field, x: Array) -> Field:
    """Makes the symmetric part of a Jacobian; a product costs one tangent and one cotangent."""
    transposed = jax.linear_transpose(tangent_map, x)
    dtype = jax.eval_shape(tangent_map, x).dtype  # wider than x where the network is
    return lambda w: 0.5 * (tangent_map(w) + transposed(w.astype(dtype))[0])


def parts(
    key: Key, f: Field, x: Array, num_probes: int, name: str = "field"
) -> tuple[Array, Array]:
    """Returns `|J + J^T|_F^2` and `|J - J^T|_F^2`, estimated without bias by random signs.

    From d probes on unit vectors are taken in their place, and both are exact.
    """
    _checks.count("it counts random probes", num_probes=num_probes)
    f, x = widened(f, x, name)
    value, tangent = jax.linearize(f, x)
    transposed = jax.linear_transpose(tangent, x)

    def squares(probe: Array) -> tuple[Array, Array]:
        back = transposed(probe.astype(value.dtype))[0]
        forward, backward = _checks.wide(tangent(probe)), _checks.wide(back)
        return jnp.sum((forward + backward) ** 2), jnp.sum((forward - backward) ** 2)

    exact = num_probes >= x.size
    if exact:
        probes = jnp.eye(x.size, dtype=x.dtype)
    else:
        probes = jax.random.rademacher(key, (num_probes, x.size), x.dtype)
    even, odd = jax.lax.map(lambda probe: squares(probe.reshape(x.shape)), probes)
    count = 1 if exact else num_probes
    return even.sum() / count, odd.sum() / count
