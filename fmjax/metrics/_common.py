"""What the metrics share: the squared distance, and the checks of samples."""

from __future__ import annotations

import jax.numpy as jnp

from fmjax import _checks
from fmjax.types import Array

__all__ = ["check_chunk", "check_equal", "check_floating", "check_samples", "squared_distance"]


def squared_distance(a: Array, b: Array) -> Array:
    """Computes `|a - b|^2`, `[]`, for two examples of one shape, in float32 at least."""
    _checks.same_shape(a=a, b=b)
    return jnp.sum((_checks.wide(a) - _checks.wide(b)) ** 2)


def check_floating(**arrays: Array) -> None:
    """Raises ValueError for integers: differences of bytes wrap around, squares overflow."""
    for name, dtype in ((name, jnp.result_type(array)) for name, array in arrays.items()):
        if not jnp.issubdtype(dtype, jnp.floating):
            message = f"{name} must be floating, got {dtype}: convert it, or normalize the counts."
            raise ValueError(message)


def check_samples(x: Array, y: Array, at_least: int = 1) -> None:
    """Raises ValueError unless x and y are floating, of one example shape and large enough."""
    check_floating(x=x, y=y)
    shapes = jnp.shape(x), jnp.shape(y)
    if shapes[0][1:] != shapes[1][1:] or any(shape[:1] < (at_least,) for shape in shapes):
        message = (
            f"samples must be [n, *dims] and [m, *dims] with {at_least} rows or more, got "
            f"{shapes[0]} and {shapes[1]}: the first axis counts examples, the others must agree."
        )
        raise ValueError(message)


def check_equal(x: Array, y: Array, at_least: int = 1) -> None:
    """Raises ValueError unless x and y have one shape, with enough entries."""
    shapes = jnp.shape(x), jnp.shape(y)
    if shapes[0] != shapes[1] or jnp.size(x) < at_least:
        wanted = f"one shape with {at_least} entries or more, got {shapes[0]} and {shapes[1]}"
        message = f"the two arrays must have {wanted}: match them."
        raise ValueError(message)


def check_chunk(chunk: int) -> None:
    """Raises ValueError unless `chunk` counts rows."""
    _checks.count("it counts rows", chunk=chunk)
