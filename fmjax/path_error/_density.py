"""The log-density of a true law, as the functions of `fmjax.path_error` take it."""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp

from fmjax.types import Array

__all__ = ["LogDensity", "scalar"]

LogDensity = Callable[[Array, Array], Array]
"""`(x[*dims], t[]) -> []`, the log-density of the true law at time t, in nats."""


def scalar(log_density: LogDensity, x: Array, t: Array) -> Array:
    """Returns the log-density, or says that it is not one number."""
    value = log_density(x, t)
    if jnp.shape(value) != ():
        message = (
            f"log_density must return a scalar, got shape {jnp.shape(value)}: it is the "
            "log-density of one example, summed over its dimensions."
        )
        raise ValueError(message)
    return value
