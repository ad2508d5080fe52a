"""Mixtures of round Gaussians on the linear path, in any dimension, all in closed form.

With data `sum_k w_k N(mu_k, s_k^2 I)` component k of the state `x_t = t x1 + (1 - t) x0` is

    N(t mu_k, V_k I),    V_k = t^2 s_k^2 + (1 - t)^2                                  (1)

and within it x1 - x0 has the mean `mu_k + (t s_k^2 - (1 - t)) (x - t mu_k) / V_k`, so that the
velocity is their average under the posterior weights of the components.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import fmjax
from fmjax.types import Array, Key

path = fmjax.paths.linear()


class Mixture(NamedTuple):
    """The law of the data.

    Attributes:
      weights: `[k]`, summing to one.
      means: `[k, d]`.
      deviations: `[k]`, in every direction.
    """

    weights: np.ndarray
    means: np.ndarray
    deviations: np.ndarray


LINE = Mixture(
    np.array([0.4, 0.3, 0.2, 0.1]),
    np.array([[-3.0], [-1.0], [1.5], [3.0]]),
    np.array([0.3, 0.25, 0.4, 0.2]),
)
PLANE = Mixture(
    np.array([0.4, 0.3, 0.15, 0.1, 0.05]),
    np.array([[1.5, -0.5], [-1.2, 1.4], [0.4, -2.2], [2.2, 1.8], [-2.4, -1.0]]),
    np.array([0.3, 0.5, 0.2, 0.15, 0.25]),
)
SPACE = Mixture(
    np.array([0.45, 0.3, 0.2, 0.05]),
    1.2 * np.random.default_rng(0).standard_normal((4, 16)),
    np.array([0.3, 0.6, 0.9, 0.4]),
)


def _components(mixture: Mixture, x: Array, t: Array) -> tuple[Array, Array]:
    """Returns the log of each component's joint density `[k]` and `(x - t mu) / V`, `[k, d]`."""
    weights, means, deviations = (jnp.asarray(part, x.dtype) for part in mixture)
    variance = (t * deviations) ** 2 + (1.0 - t) ** 2  # eq. (1)
    offset = x[None] - t * means
    squares = jnp.sum(offset**2, axis=1) / variance
    logs = jnp.log(weights) - 0.5 * (squares + x.size * jnp.log(2.0 * jnp.pi * variance))
    return logs, offset / variance[:, None]


def log_density(mixture: Mixture, x: Array, t: Array) -> Array:
    """Returns log p_t(x), `[]`, in nats, for x `[d]` and t in [0, 1]."""
    return jax.nn.logsumexp(_components(mixture, x, t)[0])


def velocity(mixture: Mixture, x: Array, t: Array) -> Array:
    """Returns the marginal velocity `[d]` at x `[d]` and t in [0, 1]."""
    logs, pull = _components(mixture, x, t)
    means, deviations = (jnp.asarray(part, x.dtype) for part in mixture[1:])
    within = means + (t * deviations**2 - (1.0 - t))[:, None] * pull
    return jnp.sum(jax.nn.softmax(logs)[:, None] * within, axis=0)  # no product in TF32


def sample(key: Key, mixture: Mixture) -> Array:
    """Returns one draw of the data, `[d]`."""
    key_component, key_noise = jax.random.split(key)
    k = jax.random.choice(key_component, len(mixture.weights), p=jnp.asarray(mixture.weights))
    noise = jax.random.normal(key_noise, mixture.means.shape[1:])
    return jnp.asarray(mixture.means)[k] + jnp.asarray(mixture.deviations)[k] * noise
