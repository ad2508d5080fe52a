"""The checks of times: of one, of a vector of them, and of the ends of an interval."""

from __future__ import annotations

import numbers
from typing import Any

import jax.numpy as jnp
import numpy as np

from fmjax._checks.arrays import array
from fmjax.types import Array

__all__ = ["every", "moments", "time", "times"]


def time(t: Array | float, name: str = "t") -> Array:
    """Converts `t` to a floating scalar, or raises an error that says what is wrong with it.

    Args:
      t: scalar array or number. Python and NumPy numbers must lie in [0, 1]; the value of a
        jax array is not read.
      name: the name of `t` in the error message.

    Returns:
      `[]`; a Python number stays weakly typed, so that it never widens the data.

    Raises:
      ValueError: if `t` is not a scalar, is complex, or is a static number outside [0, 1].
    """
    moments(**{name: t})
    if isinstance(t, np.generic | np.ndarray):
        t = float(t)  # a NumPy scalar would widen the data under x64, a Python number does not
    if isinstance(t, numbers.Number) and not 0.0 <= float(t) <= 1.0:
        message = (
            f"{name} must lie in [0, 1], got {float(t)}: time runs from noise at t = 0 to data "
            "at t = 1; rescale the times of a model that counts otherwise."
        )
        raise ValueError(message)
    return jnp.asarray(t * 1.0)  # an integer becomes a float, a Python number stays weak


def moments(**named: Any) -> None:
    """Raises ValueError unless every argument is one real number, whatever its value.

    Args:
      **named: times, and ends of intervals of them, under the names that the message should use.
    """
    for name, value in named.items():
        made = array(value, name)
        _real_time(made, name)
        if made.ndim != 0:
            message = (
                f"{name} must be a scalar, got shape {made.shape}: fmjax functions take one "
                "example; wrap the call in jax.vmap."
            )
            raise ValueError(message)


def every(values: Any, name: str) -> Array:
    """Returns several times as an array, each of them checked; the caller looks at its shape."""
    if isinstance(values, list | tuple) or (isinstance(values, np.ndarray) and values.ndim):
        for t in values:
            time(t, f"every entry of {name}")
    made = array(values, name)
    _real_time(made, name)
    return made


def times(values: Any, dtype: jnp.dtype, at_least: int, instead: str) -> Array:
    """Converts a vector of times, or raises an error that says what is wrong with it.

    Args:
      values: `[n]`, an array, or a list or tuple of numbers. Those of Python and NumPy must lie in
        [0, 1]; the values of a jax array are not read.
      dtype: the dtype of the result.
      at_least: the least n, 1 or 2.
      instead: the end of the message about another shape, what to give.

    Returns:
      `[n]`, in that dtype.

    Raises:
      ValueError: if the values are no vector of `at_least` times, are complex, or if one is a
        static number outside [0, 1].
    """
    made = every(values, "times")
    if made.ndim != 1 or made.shape[0] < at_least:
        message = (
            f"times must be a vector of {('one', 'two')[at_least - 1]} or more times in [0, 1], "
            f"got shape {made.shape}: {instead}."
        )
        raise ValueError(message)
    return made.astype(dtype)


def _real_time(made: Array, name: str) -> None:
    if jnp.issubdtype(made.dtype, jnp.complexfloating):
        message = f"{name} must be real, got {made.dtype}: give the real part, a time in [0, 1]."
        raise ValueError(message)
