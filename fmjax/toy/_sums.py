"""Sums over the components of a mixture, some of which may have no weight."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from fmjax.types import Array

__all__ = ["average", "log_sum"]


def log_sum(weights: Array, logs: Array) -> Array:
    """Returns `log sum_k w_k exp(l_k)`, with derivatives in the weights, also at zero.

    Args:
      weights: `[k]`, not negative.
      logs: `[k]`, log-densities.
    """
    parts, peak = _parts(weights, logs)
    # A weight of zero has no logarithm, but its derivative is a number: it stays a factor.
    return peak + jnp.log(jnp.sum(jnp.where(weights == 0, weights, 1.0) * parts))


def average(weights: Array, logs: Array, values: Array) -> Array:
    """Returns the mean of values `[k, *dims]` under the shares `w_k exp(l_k)`, `[*dims]`."""
    parts, _ = _parts(weights, logs)
    parts = jnp.where(weights == 0, weights, 1.0) * parts
    shares = (parts / jnp.sum(parts)).reshape(-1, *(1,) * (values.ndim - 1))
    return jnp.sum(shares * values, axis=0)  # no product in TF32


def _parts(weights: Array, logs: Array) -> tuple[Array, Array]:
    """Returns every term over a common factor, terms of no weight without it, and its logarithm."""
    none = weights == 0
    logs = jnp.log(jnp.where(none, 1.0, weights)) + logs
    peak = jax.lax.stop_gradient(jnp.max(jnp.where(none, -jnp.inf, logs)))
    peak = jnp.where(peak == -jnp.inf, 0.0, peak)  # so far away that every density is zero
    # Only the exponential of a component without weight may overflow.
    return jnp.exp(jnp.minimum(logs - peak, 0.5 * math.log(jnp.finfo(logs.dtype).max))), peak
