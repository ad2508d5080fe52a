"""Static checks of the arguments of public functions.

The checks look only at shapes, ranks and Python numbers. Those are known while jax traces, so a
check costs nothing at run time and works the same under `jit`, `vmap` and `grad`. No check reads
the values of arrays; docstrings say what the values must be.
"""

from __future__ import annotations

import numbers
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np

from fmjax.types import Array

__all__ = [
    "MAX_DENSE",
    "bank",
    "bank_shape",
    "dense",
    "floating",
    "positive_alpha",
    "positive_sigma",
    "real",
    "same_shape",
    "time",
    "wide",
    "wide_dtype",
]


def time(t: Array | float, name: str = "t") -> Array:
    """Converts `t` to a floating scalar, or raises an error that says what is wrong with it.

    Args:
      t: scalar array or number. Python and NumPy numbers must lie in [0, 1]; the value of a
        jax array is not read.
      name: the name of `t` in the error message.

    Returns:
      `[]`; a Python number stays weakly typed, so that it never widens the data.

    Raises:
      ValueError: if `t` is not a scalar, or is a static number outside [0, 1].
    """
    message = (
        f"{name} must be a scalar, got shape {jnp.shape(t)}: fmjax functions take one example; "
        "wrap the call in jax.vmap."
    )
    chex.assert_rank(jnp.asarray(t), 0, exception_type=ValueError, custom_message=message)
    if isinstance(t, np.generic | np.ndarray):
        t = float(t)  # a NumPy scalar would widen the data under x64, a Python number does not
    if isinstance(t, numbers.Number) and not 0.0 <= float(t) <= 1.0:
        message = (
            f"{name} must lie in [0, 1], got {float(t)}: time runs from noise at t = 0 to data "
            "at t = 1; rescale the times of a model that counts otherwise."
        )
        raise ValueError(message)
    return jnp.asarray(t * 1.0)  # an integer becomes a float, a Python number stays weak


def floating(x: Array) -> Array:
    """Converts `x` to an array of floating dtype.

    Without this, a constant cast to the dtype of an integer array would be rounded silently.
    """
    x = jnp.asarray(x)
    return x if jnp.issubdtype(x.dtype, jnp.inexact) else x.astype(float)


def wide_dtype(*arrays: Array) -> jnp.dtype:
    """Returns the dtype in which to average, sum squares or count time: float32 or wider."""
    return jnp.promote_types(jnp.result_type(*arrays), jnp.float32)


def wide(x: Array) -> Array:
    """Returns `x` as an array of floating dtype, of float32 at least.

    Half precision serves to store numbers. Sums of squares, inner products that are exponentiated
    and linear algebra need more digits, or more range, than it has.
    """
    x = floating(x)
    return x if jnp.finfo(x.dtype).bits >= 32 else x.astype(jnp.float32)  # a weak type stays weak


def real(**arrays: Array) -> None:
    """Raises ValueError for complex arrays, whose squares are not squared distances.

    Args:
      **arrays: the arrays, under the names that the message should use.
    """
    for name, array in arrays.items():
        dtype = jnp.result_type(array)
        if jnp.issubdtype(dtype, jnp.complexfloating):
            message = (
                f"{name} must be real, got {dtype}: stack the real and the imaginary part along a "
                "new axis."
            )
            raise ValueError(message)


def same_shape(**arrays: Array) -> None:
    """Raises ValueError unless all arrays have one shape.

    Args:
      **arrays: the arrays, under the names that the message should use.
    """
    shapes = ", ".join(f"{name} {jnp.shape(array)}" for name, array in arrays.items())
    message = (
        f"shapes must be equal, got {shapes}: fmjax functions take one example; for a batch of "
        "them wrap the call in jax.vmap."
    )
    chex.assert_equal_shape(
        [jnp.asarray(array) for array in arrays.values()],
        exception_type=ValueError,
        custom_message=message,
    )


def positive_sigma(path: Any, t: Array | float) -> None:
    """Raises ValueError if the path has no noise at a static time; reads no array's value."""
    _positive("sigma", path.sigma, t, "take t below 1, or a path that keeps some noise, such as "
              "paths.linear(sigma_min=1e-3)")  # fmt: skip


def positive_alpha(path: Any, t: Array | float, instead: str) -> None:
    """Raises ValueError if the path has no data at a static time; reads no array's value.

    Args:
      path: the path.
      t: scalar array or number.
      instead: the end of the message, which says what to do.
    """
    _positive("alpha", path.alpha, t, instead)


def _positive(name: str, coefficient: Any, t: Array | float, instead: str) -> None:
    if isinstance(t, jax.Array):
        return
    with jax.ensure_compile_time_eval():  # a number inside `jit` is known as well
        value = coefficient(time(t))
    if not isinstance(value, jax.core.Tracer) and not float(value) > 0:
        message = (
            f"{name} must be positive, got {float(value)} at t = {float(t)}, and is divided by: "
            f"{instead}."
        )
        raise ValueError(message)


MAX_DENSE = 4096
"""The largest d for which fmjax builds a `[d, d]` matrix; in float32 it takes 67 MB."""


def dense(x: Array, instead: str) -> None:
    """Raises ValueError if a `[d, d]` matrix over the entries of `x` would be too large.

    Args:
      x: `[*dims]`, the state.
      instead: the end of the message, which names a function that needs no matrix.
    """
    if x.size <= MAX_DENSE:
        return
    gigabytes = x.size**2 * x.dtype.itemsize / 1e9
    message = (
        f"a matrix over the {x.size} entries of x {x.shape} would take {gigabytes:.1f} GB, more "
        f"than the {MAX_DENSE} entries that are allowed: {instead}."
    )
    raise ValueError(message)


def bank(points: Array, x: Array) -> None:
    """Raises ValueError unless `points` is a floating, non-empty stack of arrays like `x`."""
    dtype = jnp.asarray(points).dtype
    if not jnp.issubdtype(dtype, jnp.floating):
        message = (
            f"the bank must be of floating dtype, got {dtype}: integer products wrap around; "
            "scale it as the states are, for example bank.astype(jnp.float32) / 127.5 - 1, or by "
            "empirical.prepare(bank, scale=1 / 127.5, shift=-1), which scales chunk by chunk."
        )
        raise ValueError(message)
    bank_shape(points, x)


def bank_shape(points: Array, x: Array) -> None:
    """Raises ValueError unless `points` is a non-empty stack of arrays like `x`."""
    shape = jnp.shape(points)
    if len(shape) == 0 or shape[0] == 0 or shape[1:] != jnp.shape(x):
        message = (
            "the bank must have shape [n, *dims] with n >= 1, and x shape [*dims]; got bank "
            f"{shape} and x {jnp.shape(x)}: pass the data set whole and one x; for many x wrap the "
            "call in jax.vmap."
        )
        raise ValueError(message)
