"""Paths that preserve the variance: alpha^2 + sigma^2 = 1."""

from __future__ import annotations

import jax.numpy as jnp

from fmjax.types import Array

__all__ = ["sigma"]


def sigma(integral: Array) -> Array:
    """Returns sqrt(1 - alpha^2) where alpha^2 is the exponential of minus an integral of rates."""
    # expm1 keeps sigma accurate near the data; near the noise its derivative, which jax
    # computes as expm1 + 1, would lose the digits that exp keeps.
    near, far = -jnp.expm1(-integral), 1.0 - jnp.exp(-integral)
    return jnp.sqrt(jnp.where(integral < 1.0, near, far))
