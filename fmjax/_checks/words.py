"""What an argument is, in a few words: a network's parameters never enter a message."""

from __future__ import annotations

import functools
import numbers
from typing import Any

import jax
import jax.numpy as jnp

__all__ = ["described", "is_array", "is_path", "name_of"]


def is_array(value: Any) -> bool:
    """Returns whether the value has a shape and a dtype, or is a number."""
    return isinstance(value, numbers.Number) or (
        hasattr(value, "shape") and hasattr(value, "dtype") and not isinstance(value, type)
    )


def is_path(value: Any) -> bool:
    """Returns whether the value has the two functions of a path, whatever its class."""
    both = (getattr(value, name, None) for name in ("alpha", "sigma"))
    return not isinstance(value, type) and all(callable(one) for one in both)


def name_of(function: Any) -> str:
    """Returns the name of a function, of what it wraps or of its class."""
    while isinstance(function, functools.partial):
        function = function.func
    return getattr(function, "__name__", None) or type(function).__name__


def described(value: Any) -> str:
    """Returns what a value is in at most about sixty characters."""
    if value is None or isinstance(value, numbers.Number):
        return repr(value)
    if isinstance(value, str):
        return f"the string {_short(repr(value))}"
    if isinstance(value, type):
        return f"the class `{value.__name__}`"
    if is_array(value):
        return _array(value)
    if isinstance(value, functools.partial):
        return f"a partial of `{name_of(value)}`"
    if isinstance(value, dict):
        return (
            f"a dict with keys {_short(', '.join(map(str, value)))}" if value else "an empty dict"
        )
    if type(value) in {tuple, list}:
        if all(isinstance(one, numbers.Number) for one in value):
            return f"the {type(value).__name__} {_short(repr(value))}"
        return f"a {type(value).__name__} of {len(value)}"
    name = getattr(value, "__name__", None)
    if name is not None and callable(value):
        return "a lambda" if name == "<lambda>" else f"the function `{name}`"
    kind = type(value).__name__
    return f"{'an' if kind[0] in 'AEIOU' else 'a'} {kind}"


def _array(value: Any) -> str:
    if jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
        return "a random key"
    return f"an array of {value.dtype} and shape {tuple(value.shape)}"


def _short(text: str, limit: int = 40) -> str:
    return text if len(text) <= limit else f"{text[: limit - 3]}..."
