"""The few types every function of fmjax speaks.

Everything is a plain function of one example, so the types are aliases of `Callable`:
nothing to inherit from, nothing to register. Shapes are written in prose as `[*dims]`, the
shape of one example; a scalar is `[]`. The prediction row, a function of a path, stands
beside `Path` in `fmjax.predictions`.
"""

from collections.abc import Callable
from typing import Any

import jax

Array = jax.Array
Key = jax.Array
PyTree = Any

Velocity = Callable[[Array, Array], Array]
"""`(x[*dims], t[]) -> dx[*dims]`, the velocity of a flow at one point and time."""

AverageVelocity = Callable[[Array, Array, Array], Array]
"""`(x[*dims], r[], t[]) -> u[*dims]`, the mean velocity between times t and r of the path
that passes through x at time t."""

Divergence = Callable[[Callable[[Array], Array], Array], tuple[Array, Array]]
"""`(f, x[*dims]) -> (f(x)[*dims], div f(x)[])`, exact or an unbiased estimate."""

Solve = Callable[..., PyTree]
"""`(field, x, t0, t1) -> x at t1`, for any pytree `x` and `field(x, t)` of the same tree."""
