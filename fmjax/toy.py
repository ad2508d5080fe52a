"""Toy laws in the plane with a sampler and an exact density, for testing flows.

A law is a tuple of two functions of one example, `sample(key) -> x` and `log_prob(x) -> nats`:

    density = fmjax.toy.checkerboard()
    x = jax.vmap(density.sample)(jax.random.split(key, n))      # [n, 2]
    jax.vmap(density.log_prob)(x)                               # [n], nats

Your own law is `fmjax.toy.Density(sample, log_prob)`. Samples have the default float type,
log-densities float32 at least. The laws of this module can be pickled.

References: Tong et al. (2024), arXiv 2302.00482; Huang et al. (2025), arXiv 2602.00869.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fmjax import _checks
from fmjax.types import Array, Key

__all__ = ["Density", "checkerboard", "eight_gaussians", "gaussian_mixture", "moons"]

# The checkerboard is drawn on unit cells and divided by this.
_CHECKERBOARD_UNIT = 0.45


class Density(NamedTuple):
    """A law with a sampler and a log-density.

    Attributes:
      sample: `key -> x[d]`, one example; vmap it over split keys.
      log_prob: `x[d] -> []`, the log-density of one example, nats.
    """

    sample: Callable[[Key], Array]
    log_prob: Callable[[Array], Array]


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
    parts = _Mixture(weights / jnp.sum(weights), means, factors, log_norms)
    return Density(partial(_mixture_sample, parts), partial(_mixture_log_prob, parts))


class _Mixture(NamedTuple):
    """Weights of sum one, means, Cholesky factors of the covariances and logs of normalizers."""

    weights: Array
    means: Array
    factors: Array
    log_norms: Array


def _mixture_sample(mixture: _Mixture, key: Key) -> Array:
    key_component, key_noise = jax.random.split(key)
    component = jax.random.categorical(key_component, jnp.log(mixture.weights))
    mean, factor = mixture.means[component], mixture.factors[component]
    noise = jax.random.normal(key_noise, mean.shape, mean.dtype)
    return mean + jnp.matmul(factor, noise, precision=jax.lax.Precision.HIGHEST)


def _mixture_log_prob(mixture: _Mixture, x: Array) -> Array:
    weights, means, factors, log_norms = mixture
    x = _checks.wide(x)
    _checks.same_shape(x=x, mean=means[0])
    solve = partial(jax.scipy.linalg.solve_triangular, lower=True)
    white = jax.vmap(solve)(factors, x[None] - means)
    # A weight of zero has no logarithm, but its derivative is a number: it stays a factor.
    none = weights == 0
    logs = jnp.log(jnp.where(none, 1.0, weights)) - log_norms - 0.5 * jnp.sum(white**2, axis=1)
    peak = jax.lax.stop_gradient(jnp.max(jnp.where(none, -jnp.inf, logs)))
    peak = jnp.where(peak == -jnp.inf, 0.0, peak)  # so far away that every density is zero
    # Only the exponential of a component without weight may overflow.
    parts = jnp.exp(jnp.minimum(logs - peak, 0.5 * math.log(jnp.finfo(logs.dtype).max)))
    return peak + jnp.log(jnp.sum(jnp.where(none, weights, 1.0) * parts))


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


def checkerboard() -> Density:
    """Makes the uniform law on eight squares of a four by four board.

    In units of 1 / 0.45 the squares are the unit cells of `[-2, 2)^2` whose lower left corner has
    an even sum of coordinates. The density is 0.45^2 / 8 = 0.0253125 on them and zero elsewhere.
    The entropy is 3.67646 nats, so no model has a mean log-likelihood above -3.67646.

    Returns:
      The law on the plane; `log_prob` is -inf outside the squares. Edges count as inside, so
      rounding never puts a sample outside. `checkerboard() == checkerboard()`.

    Example:
      >>> import fmjax
      >>> import jax.numpy as jnp
      >>> density = fmjax.toy.checkerboard()
      >>> round(float(jnp.exp(density.log_prob(jnp.array([1.0, 1.0])))), 7)
      0.0253125
      >>> float(density.log_prob(jnp.array([1.0, -1.0])))
      -inf

    Reference:
      Huang et al. (2025), Improving Flow Matching by Aligning Flow Divergence, section 5.1.1.
      [huang2025improving]
    """
    return Density(_checkerboard_sample, _checkerboard_log_prob)


def _checkerboard_sample(key: Key) -> Array:
    key_first, key_second, key_row = jax.random.split(key, 3)
    first = jax.random.uniform(key_first, minval=-2.0, maxval=2.0)
    row = 2.0 * jax.random.bernoulli(key_row)
    second = jax.random.uniform(key_second) - row + jnp.floor(first) % 2.0
    return jnp.stack([first, second]) * (1.0 / _CHECKERBOARD_UNIT)


def _checkerboard_log_prob(x: Array) -> Array:
    x = _checks.floating(x)
    _checks.same_shape(x=x, corner=jnp.zeros(2))
    # The same product as in the sampler: rounding is monotone, so a cell maps between its edges.
    edges = jnp.arange(-2, 3, dtype=x.dtype) * (1.0 / _CHECKERBOARD_UNIT)
    column, row = ((edges[:-1] <= coordinate) & (coordinate <= edges[1:]) for coordinate in x)
    even = (np.arange(4)[:, None] + np.arange(4)[None, :]) % 2 == 0
    inside = jnp.any(column[:, None] & row[None, :] & even)
    log_density = jnp.asarray(math.log(_CHECKERBOARD_UNIT**2 / 8.0), _checks.wide(x).dtype)
    outside = jnp.where(jnp.isnan(x).any(), jnp.nan, -jnp.inf)  # a NaN is on no side of an edge
    return jnp.where(inside, log_density, outside)


def moons(noise: float = 0.1) -> Density:
    """Makes two interleaving half circles of radius one, blurred by Gaussian noise.

    As in scikit-learn, the upper half circle is `(cos a, sin a)` and the lower one is
    `(1 - cos a, 1/2 - sin a)`, with a uniform on [0, pi]. The density integrates the noise along
    both by Gauss-Legendre quadrature, with `16 + 16 / noise` nodes for each. In float64 the
    log-density is accurate to 1e-8 nats for `|x| <= 5` and any allowed noise (to 1e-10 for noise
    of at least 0.1).

    Args:
      noise: standard deviation of the noise, at least 0.01.

    Returns:
      The law on the plane. Each call makes a new law, so build it once and close over it.

    Raises:
      ValueError: if `noise` is below 0.01 or not finite; from `log_prob`, if x is not `[2]`.

    Example:
      >>> import fmjax
      >>> import jax.numpy as jnp
      >>> density = fmjax.toy.moons()
      >>> top, between = jnp.array([0.0, 1.0]), jnp.array([0.5, 0.25])
      >>> [round(float(jnp.exp(density.log_prob(x))), 2) for x in (top, between)]
      [0.64, 0.0]

    Reference:
      Pedregosa et al. (2011), Scikit-learn, JMLR 12, `make_moons`. [pedregosa2011scikit]
    """
    if not 0.01 <= noise < math.inf:
        message = (
            f"noise must be finite and at least 0.01, got {noise}: the number of quadrature nodes "
            "of the density grows as 1 / noise."
        )
        raise ValueError(message)
    nodes, node_weights = np.polynomial.legendre.leggauss(16 + math.ceil(16.0 / noise))
    centers = np.concatenate(_moon_points(0.5 * np.pi * (nodes + 1.0)))
    weights = 0.25 * np.concatenate([node_weights, node_weights])  # they sum to one

    return Density(partial(_moons_sample, noise), partial(_moons_log_prob, noise, centers, weights))


def _moons_sample(noise: float, key: Key) -> Array:
    key_moon, key_angle, key_noise = jax.random.split(key, 3)
    upper, lower = _moon_points(jax.random.uniform(key_angle, maxval=math.pi))
    center = jnp.where(jax.random.bernoulli(key_moon), upper, lower)
    return center + noise * jax.random.normal(key_noise, (2,))


def _moons_log_prob(noise: float, centers: np.ndarray, weights: np.ndarray, x: Array) -> Array:
    x = _checks.wide(x)
    _checks.same_shape(x=x, center=centers[0])
    distances = jnp.sum((x[None] - jnp.asarray(centers, x.dtype)) ** 2, axis=1)
    # The least one is taken out before the scaling: a difference of large products would
    # lose digits. It cancels, so it needs no derivative.
    least = jax.lax.stop_gradient(jnp.min(distances))
    exponents = -0.5 / noise**2 * (distances - least)
    integral = jnp.sum(jnp.asarray(weights, x.dtype) * jnp.exp(exponents))
    return jnp.log(integral) - 0.5 / noise**2 * least - math.log(2.0 * math.pi * noise**2)


def _moon_points(angle: Array) -> tuple[Array, Array]:
    """Returns the points `[..., 2]` of both half circles at an angle `[...]` in [0, pi]."""
    library = jnp if isinstance(angle, jax.Array) else np
    upper = library.stack([library.cos(angle), library.sin(angle)], axis=-1)
    return upper, library.asarray([1.0, 0.5]) - upper


def _check_mixture(weights: tuple, means: tuple, covariances: tuple) -> None:
    """Raises ValueError unless the shapes are `[k]`, `[k, d]` and `[k, d, d]`."""
    fits = len(weights) == 1 and len(means) == 2 and means[0] == weights[0] > 0 and means[1] > 0
    if not fits or covariances != (*means, means[-1]):
        message = (
            "gaussian_mixture needs weights [k], means [k, d] and covariances [k, d, d], got "
            f"{weights}, {means} and {covariances}."
        )
        raise ValueError(message)
