"""The pairs of a mixture, and how far a velocity is from its exact field.

Flow error and divergence error are what the two terms of the loss estimate, without the noise of
the pairs: `E |v - u|^2 / d` and `E (sigma r)^2 / d` over the path, r the marginal residual.
"""

from functools import partial

import jax
import jax.numpy as jnp

import fmjax
from experiments.fdm import _laws
from experiments.fdm._laws import Mixture, path
from fmjax.types import Array, Key, Velocity

ERROR_UP_TO = 0.99  # the last time at which errors are measured

RUN_AWAY = 1e6
"""What counts for an error, or for nats, of a network that has run away."""


def sample_pair(mixture: Mixture, key: Key) -> tuple[Array, Array, Array]:
    """Returns noise, data and time of one example."""
    key_noise, key_data, key_time = jax.random.split(key, 3)
    x1 = _laws.sample(key_data, mixture)
    return jax.random.normal(key_noise, x1.shape), x1, jax.random.uniform(key_time)


def bounded(value: Array, most: float = RUN_AWAY) -> Array:
    """Returns a measure of a network; `most` where it is more, infinite, or not a number."""
    return jnp.where(value < most, value, most)


def errors(mixture: Mixture, velocity: Velocity, keys: Array) -> dict[str, Array]:
    """Returns the flow error and the divergence error, means over pairs on the path."""

    def at(key: Key) -> tuple[Array, Array]:
        x0, x1, t = sample_pair(mixture, key)
        t = t * ERROR_UP_TO
        x = fmjax.paths.interpolate(path, x0, x1, t)
        r = fmjax.path_error.residual(partial(_laws.log_density, mixture), velocity, x, t)
        gap = velocity(x, t) - _laws.velocity(mixture, x, t)
        return jnp.mean(gap**2), (path.sigma(t) * r) ** 2 / x.size

    flow, divergence = jax.vmap(at)(keys)
    return {"flow": flow.mean(), "divergence": divergence.mean()}
