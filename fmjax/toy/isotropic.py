"""Mixtures of round Gaussians in any dimension, and their exact field along a path.

With data `sum_k w_k N(mu_k, s_k^2 I)` component k of the state `x_t = alpha x1 + sigma x0` is

    N(alpha mu_k, V_k I),    V_k = alpha^2 s_k^2 + sigma^2,                               (1)

and within it `dx_t/dt` has the mean

    alpha' mu_k + (alpha' alpha s_k^2 + sigma' sigma) (x - alpha mu_k) / V_k,             (2)

whose average under the posterior shares of the components is the velocity.

Reference: Lipman et al. (2023), arXiv 2210.02747, section 4.1, for the path and its velocity.
"""

from __future__ import annotations

import math
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fmjax import _checks
from fmjax.paths import Path, coefficients
from fmjax.toy import _sums
from fmjax.toy.density import Density
from fmjax.types import Array, Key

__all__ = ["isotropic_mixture"]


def isotropic_mixture(weights: Array, means: Array, deviations: Array) -> Density:
    """Makes a mixture of round Gaussians, in any shape of the data.

    Args:
      weights: `[k]`, not negative; the function divides them by their sum.
      means: `[k, *dims]`.
      deviations: `[k]`, positive, the standard deviation of each component in every direction.

    Returns:
      The law of examples `[*dims]`.

    Raises:
      ValueError: if the shapes do not fit; from the functions of the law, if x is not `[*dims]`.

    Example:
      >>> import fmjax
      >>> import jax.numpy as jnp
      >>> law = fmjax.toy.isotropic_mixture([0.4, 0.6], [[-3.0], [1.5]], [0.3, 0.4])
      >>> path = fmjax.paths.linear()
      >>> mean = law.velocity(path, jnp.array([0.0]), 0.0)  # at the start, the mean of the data
      >>> round(float(mean[0]), 4)
      -0.3
    """
    parts = _IsotropicMixture(*map(_given, (weights, means, deviations)))
    shapes = [part.shape for part in parts]
    if len(shapes[0]) != 1 or 0 in shapes[0] or {shapes[1][:1], shapes[2]} != {shapes[0]}:
        message = (
            "isotropic_mixture needs weights [k], means [k, *dims] and deviations [k], got "
            f"{shapes[0]}, {shapes[1]} and {shapes[2]}."
        )
        raise ValueError(message)
    parts = parts._replace(weights=parts.weights / parts.weights.sum())
    functions = (_sample, _log_prob, _log_marginal, _velocity)
    return Density(*(partial(function, parts) for function in functions))


class _IsotropicMixture(NamedTuple):
    """Weights `[k]` of sum one, means `[k, *dims]` and standard deviations `[k]`."""

    weights: Array
    means: Array
    deviations: Array


def _given(x: Array) -> Array:
    """Keeps jax arrays and lets NumPy keep its digits until x says how many are wanted."""
    return _checks.wide(x) if isinstance(x, jax.Array) else np.asarray(x, np.float64)


def _sample(mixture: _IsotropicMixture, key: Key) -> Array:
    key_component, key_noise = jax.random.split(key)
    weights, means, deviations = map(jnp.asarray, mixture)
    k = jax.random.choice(key_component, len(weights), p=weights)
    return means[k] + deviations[k] * jax.random.normal(key_noise, means.shape[1:], means.dtype)


def _log_prob(mixture: _IsotropicMixture, x: Array) -> Array:
    return _sums.log_sum(*_components(mixture, x, 1.0, 0.0)[:2])


def _log_marginal(mixture: _IsotropicMixture, path: Path, x: Array, t: Array) -> Array:
    """Returns log p_t(x) of the mixture along a path, `[]`, in nats."""
    c = coefficients(path, t)
    return _sums.log_sum(*_components(mixture, x, c.alpha, c.sigma)[:2])


def _velocity(mixture: _IsotropicMixture, path: Path, x: Array, t: Array) -> Array:
    """Returns the marginal velocity of the mixture along a path, `[*dims]`, eq. (2)."""
    c, x = coefficients(path, t), _checks.wide(x)
    weights, logs, pull = _components(mixture, x, c.alpha, c.sigma)
    means, deviations = (jnp.asarray(part, x.dtype) for part in mixture[1:])
    slope = _like(c.alpha_dot * c.alpha * deviations**2 + c.sigma_dot * c.sigma, pull)
    return _sums.average(weights, logs, c.alpha_dot * means + slope * pull)


def _components(
    mixture: _IsotropicMixture, x: Array, alpha: Array, sigma: Array
) -> tuple[Array, Array, Array]:
    """Returns weights and log-densities `[k]`, and `(x - alpha mu) / V`, `[k, *dims]`."""
    x = _checks.wide(x)
    weights, means, deviations = (jnp.asarray(part, x.dtype) for part in mixture)
    _checks.same_shape(x=x, mean=means[0])
    variance = (alpha * deviations) ** 2 + sigma**2
    offset = x[None] - alpha * means
    squares = jnp.sum(offset**2, axis=tuple(range(1, offset.ndim))) / variance
    logs = -0.5 * (squares + x.size * jnp.log(2.0 * math.pi * variance))
    return weights, logs.astype(x.dtype), offset / _like(variance, offset)


def _like(values: Array, offset: Array) -> Array:
    return values.reshape(-1, *(1,) * (offset.ndim - 1))
