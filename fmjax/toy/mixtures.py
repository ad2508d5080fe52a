"""Mixtures of Gaussians with full covariances, and their exact field along a path.

With data `sum_k w_k N(mu_k, S_k)` component k of the state `x_t = alpha x1 + sigma x0` is

    N(alpha mu_k, V_k),    V_k = alpha^2 S_k + sigma^2 I,                                 (1)

and within it `dx_t/dt` has the mean

    alpha' mu_k + (alpha' alpha S_k + sigma' sigma I) V_k^-1 (x - alpha mu_k),            (2)

whose average under the posterior shares of the components is the velocity. S_k and V_k have the
same eigenvectors, so one factorization serves every time.

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

__all__ = ["eight_gaussians", "gaussian_mixture"]

_HIGHEST = jax.lax.Precision.HIGHEST


def gaussian_mixture(weights: Array, means: Array, covariances: Array) -> Density:
    """Makes a mixture of Gaussians with full covariances.

    Args:
      weights: `[k]`, not negative; the function divides them by their sum.
      means: `[k, d]`.
      covariances: `[k, d, d]`, symmetric and positive definite (else the density is NaN).

    Returns:
      The law on `R^d`.

    Raises:
      ValueError: if the shapes do not fit; from `log_prob`, if x is not `[d]`.

    Example:
      >>> import fmjax
      >>> import jax.numpy as jnp
      >>> weights, means, covariances = jnp.ones(1), jnp.zeros((1, 2)), jnp.eye(2)[None]
      >>> density = fmjax.toy.gaussian_mixture(weights, means, covariances)
      >>> round(float(density.log_prob(jnp.zeros(2))), 4)  # -log(2 pi)
      -1.8379
    """
    weights, means, covariances = map(_checks.wide, (weights, means, covariances))
    _check_mixture(weights.shape, means.shape, covariances.shape)
    factors = jnp.linalg.cholesky(covariances)
    half_log_dets = jnp.sum(jnp.log(jnp.diagonal(factors, axis1=1, axis2=2)), axis=1)
    log_norms = half_log_dets + 0.5 * math.log(2.0 * math.pi) * means.shape[1]
    eigen = jnp.linalg.eigh(covariances)
    parts = _Mixture(weights / jnp.sum(weights), means, factors, log_norms, *eigen)
    functions = (_sample, _log_prob, _log_marginal, _velocity)
    return Density(*(partial(function, parts) for function in functions))


class _Mixture(NamedTuple):
    """Weights of sum one, means, and the covariances as Cholesky factors and eigenvectors."""

    weights: Array
    means: Array
    factors: Array
    log_norms: Array
    eigenvalues: Array
    eigenvectors: Array


def _sample(mixture: _Mixture, key: Key) -> Array:
    key_component, key_noise = jax.random.split(key)
    component = jax.random.categorical(key_component, jnp.log(mixture.weights))
    mean, factor = mixture.means[component], mixture.factors[component]
    noise = jax.random.normal(key_noise, mean.shape, mean.dtype)
    return mean + jnp.matmul(factor, noise, precision=_HIGHEST)


def _log_prob(mixture: _Mixture, x: Array) -> Array:
    weights, means, factors, log_norms = mixture[:4]
    x = _checks.wide(x)
    _checks.same_shape(x=x, mean=means[0])
    solve = partial(jax.scipy.linalg.solve_triangular, lower=True)
    white = jax.vmap(solve)(factors, x[None] - means)
    return _sums.log_sum(weights, -log_norms - 0.5 * jnp.sum(white**2, axis=1))


def _log_marginal(mixture: _Mixture, path: Path, x: Array, t: Array) -> Array:
    """Returns log p_t(x), `[]`, eq. (1)."""
    c = coefficients(path, t)
    return _sums.log_sum(mixture.weights, _components(mixture, c.alpha, c.sigma, x)[0])


def _velocity(mixture: _Mixture, path: Path, x: Array, t: Array) -> Array:
    """Returns the marginal velocity, `[d]`, eq. (2)."""
    c = coefficients(path, t)
    logs, pull = _components(mixture, c.alpha, c.sigma, x)
    slope = c.alpha_dot * c.alpha * mixture.eigenvalues + c.sigma_dot * c.sigma
    turned = jnp.einsum("kij,kj->ki", mixture.eigenvectors, slope * pull, precision=_HIGHEST)
    return _sums.average(mixture.weights, logs, c.alpha_dot * mixture.means + turned)


def _components(mixture: _Mixture, alpha: Array, sigma: Array, x: Array) -> tuple[Array, Array]:
    """Returns log-densities `[k]` and `V^-1 (x - alpha mu)` in the eigenvectors, `[k, d]`."""
    x = _checks.wide(x)
    _checks.same_shape(x=x, mean=mixture.means[0])
    offset = x[None] - alpha * mixture.means
    turned = jnp.einsum("kij,ki->kj", mixture.eigenvectors, offset, precision=_HIGHEST)
    variances = alpha**2 * mixture.eigenvalues + sigma**2
    squares = turned**2 / variances + jnp.log(2.0 * math.pi * variances)
    return -0.5 * jnp.sum(squares, axis=1), turned / variances


def eight_gaussians() -> Density:
    """Makes the mixture of eight equal Gaussians on a circle of radius 5.

    Each has the covariance `sqrt(0.1) I`, a standard deviation of 0.562.

    Returns:
      The law on the plane.

    Example:
      >>> import fmjax
      >>> import jax.numpy as jnp
      >>> density = fmjax.toy.eight_gaussians()
      >>> round(float(jnp.exp(density.log_prob(jnp.array([5.0, 0.0])))), 4)  # 1/(16 pi sqrt(.1))
      0.0629

    Reference:
      Tong et al. (2024), arXiv 2302.00482, two-dimensional experiments. [tong2024improving]
    """
    angles = 2.0 * np.pi * np.arange(8) / 8
    means = 5.0 * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    return gaussian_mixture(np.ones(8), means, np.tile(0.1**0.5 * np.eye(2), (8, 1, 1)))


def _check_mixture(weights: tuple, means: tuple, covariances: tuple) -> None:
    """Raises ValueError unless the shapes are `[k]`, `[k, d]` and `[k, d, d]`."""
    fits = len(weights) == 1 and len(means) == 2 and means[0] == weights[0] > 0 and means[1] > 0
    if not fits or covariances != (*means, means[-1]):
        message = (
            "gaussian_mixture needs weights [k], means [k, d] and covariances [k, d, d], got "
            f"{weights}, {means} and {covariances}."
        )
        raise ValueError(message)
