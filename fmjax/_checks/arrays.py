"""The checks of states, shapes, banks and counts."""

from __future__ import annotations

import numbers
import operator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fmjax._checks.words import described, is_array
from fmjax.types import Array

__all__ = [
    "MAX_DENSE",
    "array",
    "bank",
    "bank_shape",
    "count",
    "dense",
    "entries",
    "fitting",
    "floating",
    "penalty",
    "real",
    "same_shape",
    "state",
    "wide",
    "wide_dtype",
]


def array(x: Any, name: str = "x") -> Array:
    """Returns `x` as an array, or says in a few words what came in its place."""
    numeric = is_array(x) or hasattr(x, "__jax_array__")
    if not numeric and type(x) in {list, tuple}:
        numeric = all(is_array(leaf) for leaf in jax.tree.leaves(x))
    if numeric and hasattr(x, "dtype"):
        numeric = x.dtype != object and not jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
    if not numeric:
        message = (
            f"{name} must be an array, got {described(x)}: look up the order of the arguments, "
            "the key and functions come first."
        )
        raise ValueError(message)
    return jnp.asarray(x)


def floating(x: Any, name: str = "x") -> Array:
    """Converts `x` to an array of real floating dtype; refuses complex numbers.

    Without this, a constant cast to the dtype of an integer array would be rounded silently.
    """
    x = array(x, name)
    real(**{name: x})
    return x if jnp.issubdtype(x.dtype, jnp.floating) else x.astype(float)


def wide_dtype(*arrays: Array) -> jnp.dtype:
    """Returns the dtype in which to average, sum squares or count time: float32 or wider."""
    return jnp.promote_types(jnp.result_type(*arrays), jnp.float32)


def wide(x: Any, name: str = "x") -> Array:
    """Returns `x` as an array of floating dtype, of float32 at least.

    Half precision serves to store numbers. Sums of squares, inner products that are exponentiated
    and linear algebra need more digits, or more range, than it has.
    """
    x = floating(x, name)
    return x if jnp.finfo(x.dtype).bits >= 32 else x.astype(jnp.float32)  # a weak type stays weak


def real(**arrays: Array) -> None:
    """Raises ValueError for complex arrays, whose squares are not squared distances.

    Args:
      **arrays: the arrays, under the names that the message should use.
    """
    for name, value in arrays.items():
        dtype = jnp.result_type(array(value, name))
        if jnp.issubdtype(dtype, jnp.complexfloating):
            message = (
                f"{name} must be real, got {dtype}: stack the real and the imaginary part along a "
                "new axis."
            )
            raise ValueError(message)


def state(x: Any, name: str = "x") -> Array:
    """Returns a state as a real floating array; refuses arrays of integers, such as images.

    Python numbers, and lists of them, are converted.
    """
    made = array(x, name)
    real(**{name: made})
    if jnp.issubdtype(made.dtype, jnp.floating):
        return made
    if hasattr(x, "dtype"):
        message = (
            f"{name} must be of floating dtype, got {made.dtype}: scale it as the states are, for "
            "example images.astype(jnp.float32) / 127.5 - 1."
        )
        raise ValueError(message)
    return made.astype(float)


def count(why: str, *, at_least: int = 1, **counts: Any) -> None:
    """Raises ValueError unless every number is an integer that is large enough.

    Args:
      why: the end of the message, what is counted.
      at_least: the least count.
      **counts: the numbers, under the names that the message should use.
    """
    for name, number in counts.items():
        try:
            whole = not isinstance(number, bool) and operator.index(number) is not None
        except TypeError:  # no integer, or a traced one
            whole = False
        if not whole or number < at_least:
            kind = "" if whole else "an integer of "
            message = f"{name} must be {kind}at least {at_least}, got {described(number)}: {why}."
            raise ValueError(message)


def penalty(weight: Any, without: str) -> Any:
    """Raises ValueError for a negative weight of the divergence penalty, where it is no array.

    Args:
      weight: of the penalty.
      without: the loss without it, for the message.

    Returns:
      The weight; a NumPy scalar, which would widen the loss under x64, as a Python number.
    """
    if isinstance(weight, np.generic | np.ndarray) and np.ndim(weight) == 0:
        weight = float(weight)
    if isinstance(weight, numbers.Number) and not weight >= 0:
        message = (
            f"weight must not be negative, got {weight}: it multiplies the divergence penalty, and "
            f"0 is {without} alone."
        )
        raise ValueError(message)
    return weight


def entries(x: Array, why: str) -> None:
    """Raises ValueError for a state without entries.

    Args:
      x: the state.
      why: the end of the message, what cannot be computed.
    """
    if x.size == 0:
        message = f"x must have entries, got shape {x.shape}: {why}."
        raise ValueError(message)


def same_shape(**arrays: Array) -> None:
    """Raises ValueError unless all arrays have one shape.

    Args:
      **arrays: the arrays, under the names that the message should use.
    """
    shapes = {name: jnp.shape(array(value, name)) for name, value in arrays.items()}
    if len(set(shapes.values())) == 1:
        return
    listed = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
    message = (
        f"shapes must be equal, got {listed}: fmjax functions take one example; for a batch of "
        "them wrap the call in jax.vmap."
    )
    raise ValueError(message)


def fitting(x: Array, **values: Any) -> list[Array]:
    """Returns numbers or arrays in float32 at least, with as many axes as the state they fit.

    Args:
      x: `[*dims]`, the state.
      **values: what must broadcast to `[*dims]`, under the names that the message should use.
    """
    made = [wide(value, name) for name, value in values.items()]
    for name, value in zip(values, made, strict=True):
        ends = zip(value.shape[::-1], x.shape[::-1], strict=False)
        if value.ndim > x.ndim or any(own not in (1, size) for own, size in ends):
            message = (
                f"{name} must broadcast to the shape of x {x.shape}, got {value.shape}: give a "
                "number, one for each channel (the last axis), or one for each entry."
            )
            raise ValueError(message)
    return [value.reshape((1,) * (x.ndim - value.ndim) + value.shape) for value in made]


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
    dtype = array(points, "the bank").dtype
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
    shape = jnp.shape(array(points, "the bank"))
    if len(shape) == 0 or shape[0] == 0 or shape[1:] != jnp.shape(array(x)):
        message = (
            "the bank must have shape [n, *dims] with n >= 1, and x shape [*dims]; got bank "
            f"{shape} and x {jnp.shape(x)}: pass the data set whole and one x; for many x wrap the "
            "call in jax.vmap."
        )
        raise ValueError(message)
