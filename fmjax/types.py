"""The types that appear in the signatures of fmjax.

Everything is a plain function of one example, so the types are aliases of `Callable`. There is
no base class to inherit from and nothing to register. Docstrings write the shape of one example
as `[*dims]` and a scalar as `[]`. `fmjax.predictions` defines one more type, `Prediction`.
"""

from collections.abc import Callable
from typing import Any

import jax

__all__ = ["Array", "AverageVelocity", "Divergence", "Key", "PyTree", "Solve", "Velocity"]

Array = jax.Array
"""An array of JAX; where a time or a data set is meant, NumPy's arrays and numbers do as well."""

Key = jax.Array
"""One typed key, as `jax.random.key` makes it."""

PyTree = Any
"""Nested tuples, lists and dicts of arrays, such as the parameters of a network."""

Velocity = Callable[[Array, Array], Array]
"""`(x[*dims], t[]) -> dx[*dims]`, the velocity of a flow at one point and time."""

AverageVelocity = Callable[[Array, Array, Array], Array]
"""`(x[*dims], r[], t[]) -> u[*dims]`, the mean velocity between times t and r along the
trajectory that passes through x at time t."""

Divergence = Callable[[Callable[[Array], Array], Array], tuple[Array, Array]]
"""`(f, x[*dims]) -> (f(x)[*dims], div f(x)[])`, exact or an unbiased estimate."""

Solve = Callable[..., PyTree]
"""`(field, x, t0, t1) -> x at t1`, for any pytree `x`; `field(x, t)` returns the same tree."""
