"""The checks of points on the simplex, and of classes."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fmjax._checks.arrays import array, state
from fmjax._checks.words import described
from fmjax.types import Array

__all__ = ["alphabet", "classes", "letters", "positions"]


def classes(values: Any, num_classes: int, name: str) -> Array:
    """Returns an array of classes, or raises ValueError; the values of a jax array are not read."""
    made = array(values, name)
    wrong = not jnp.issubdtype(made.dtype, jnp.integer)
    if not (wrong or isinstance(values, jax.Array)) and np.size(values):
        least, most = np.min(values), np.max(values)
        wrong = not 0 <= least <= most < num_classes
        came = f"values from {least} to {most}"
    else:
        came = f"{made.dtype} of shape {made.shape}"
    if wrong:
        message = (
            f"{name} must hold classes, integers from 0 to {num_classes - 1}, got {came}: from "
            f"one-hot vectors take {name}.argmax(-1)."
        )
        raise ValueError(message)
    return made


def positions(x: Array) -> Array:
    """Returns a state, or raises ValueError unless its last axis holds two classes or more."""
    if len(x.shape) == 0 or x.shape[-1] < 2:
        message = (
            f"the last axis must hold the classes, two or more, got shape {x.shape}: a sequence of "
            "300 letters of 4 classes is [300, 4]."
        )
        raise ValueError(message)
    return x


def alphabet(path: Any) -> int:
    """Returns the number of classes of a path on the simplex, or raises ValueError."""
    if hasattr(path, "num_classes"):
        return path.num_classes
    message = (
        f"path must be a path on the simplex, got {described(path)}: pass, for example, "
        "fmjax.simplex.linear(4); the paths of fmjax.paths are for real numbers."
    )
    raise ValueError(message)


def letters(path: Any, x: Array) -> Array:
    """Returns a checked point of the simplex; of a NumPy array the values are looked at too."""
    num_classes = alphabet(path)
    given, x = x, positions(state(x))
    if x.shape[-1] != num_classes:
        message = (
            f"x must end in the {num_classes} classes of the path, got shape {x.shape}: the "
            "path was made for another alphabet, or the axes are in another order."
        )
        raise ValueError(message)
    if isinstance(given, np.ndarray) and given.size:
        off = np.abs(given.sum(-1, dtype=np.float64) - 1).max()
        if given.min() < 0 or off > 1e-2:
            message = (
                "x must be a point of the simplex at every position: its entries must sum to one "
                f"and none be negative, got a least entry of {given.min():.3g} and a sum that is "
                f"off by {off:.3g}."
            )
            raise ValueError(message)
    return x
