"""Mixtures of round Gaussians on the linear path, in closed form and in any dimension.

With data `sum_k w_k N(mu_k, s_k^2 I)` and noise N(0, I), component k of `x_t = t x1 + (1 - t) x0`
is `N(t mu_k, V_k I)`, `V_k = t^2 s_k^2 + (1 - t)^2`; within it x1 and x0 have the means
`mu_k + t s_k^2 (x - t mu_k) / V_k` and `(1 - t) (x - t mu_k) / V_k`. The velocity is the mean of
x1 - x0, and nothing here calls fmjax or takes a derivative.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Mixture(NamedTuple):
    """Weights `[k]`, means `[k, *dims]` and standard deviations `[k]`."""

    weights: np.ndarray
    means: np.ndarray
    deviations: np.ndarray


LINE = Mixture(  # four peaks on the line, x of shape []
    np.array([0.4, 0.3, 0.2, 0.1]),
    np.array([-3.0, -1.0, 1.5, 3.0]),
    np.array([0.3, 0.25, 0.4, 0.2]),
)
PLANE = Mixture(  # three in the plane, x of shape [2]
    np.array([0.6, 0.3, 0.1]),
    np.array([[1.2, -0.4], [-1.0, 1.5], [0.3, -1.8]]),
    np.array([0.5, 0.7, 0.4]),
)


def _components(mixture, x, t):
    """Returns the log of the joint density `[k]`, the offsets over V_k `[k, *dims]`, V_k `[k]`."""
    weights, means, deviations = (jnp.asarray(part, x.dtype) for part in mixture)
    variance = t**2 * deviations**2 + (1 - t) ** 2
    offset = x[None] - t * means
    squares = jnp.sum(offset**2, axis=tuple(range(1, offset.ndim)))
    log_joint = jnp.log(weights) - 0.5 * (
        squares / variance + x.size * jnp.log(2 * np.pi * variance)
    )
    return log_joint, offset / _like(variance, offset), variance


def _like(values, offset):
    return values.reshape(-1, *(1,) * (offset.ndim - 1))


def log_density(mixture, x, t):
    """Returns log p_t(x), `[]`."""
    return jax.nn.logsumexp(_components(mixture, x, t)[0])


def score(mixture, x, t):
    """Returns grad log p_t(x), `[*dims]`."""
    log_joint, pull, _ = _components(mixture, x, t)
    return -jnp.tensordot(jax.nn.softmax(log_joint), pull, 1)


def velocity(mixture, x, t):
    """Returns `E[x1 - x0 | x_t = x]`, `[*dims]`."""
    log_joint, pull, _ = _components(mixture, x, t)
    means, deviations = (jnp.asarray(part, x.dtype) for part in mixture[1:])
    within = means + _like(t * deviations**2 - (1 - t), pull) * pull
    return jnp.tensordot(jax.nn.softmax(log_joint), within, 1)


def sample(key, mixture, n):
    """Returns n draws of the data, `[n, *dims]`."""
    key_component, key_noise = jax.random.split(key)
    k = jax.random.choice(key_component, len(mixture.weights), (n,), p=jnp.asarray(mixture.weights))
    means, deviations = (jnp.asarray(part)[k] for part in mixture[1:])
    return means + _like(deviations, means) * jax.random.normal(key_noise, means.shape)
