"""The common paths, and the path of blurred data.

Alpha and sigma are functions of this module, with their parameters bound: so every path can be
pickled.
"""

from __future__ import annotations

import math
from functools import partial

import jax
import jax.numpy as jnp

from fmjax import _checks
from fmjax.paths import _preserving
from fmjax.paths.path import Path
from fmjax.types import Array

__all__ = ["cosine", "linear", "smoothed", "ve", "ve_to_zero", "vp"]


def _linear_alpha(t: Array) -> Array:
    return t


def _linear_sigma(t: Array, sigma_min: float = 0.0) -> Array:
    return 1.0 - (1.0 - sigma_min) * t


def _cosine_alpha(t: Array) -> Array:
    return jnp.sin(0.5 * jnp.pi * t)


def _cosine_sigma(t: Array) -> Array:
    # As a sine it is exactly zero at t = 1; cos(pi / 2) is -4e-8 in float32.
    return jnp.sin(0.5 * jnp.pi * (1.0 - t))


def _vp_integral(beta_min: float, beta_max: float, t: Array) -> Array:
    """Returns the integral of the noise rate from t to the data."""
    s = 1.0 - t
    return beta_min * s + 0.5 * (beta_max - beta_min) * s**2


def _vp_alpha(beta_min: float, beta_max: float, t: Array) -> Array:
    return jnp.exp(-0.5 * _vp_integral(beta_min, beta_max, t))


def _vp_sigma(beta_min: float, beta_max: float, t: Array) -> Array:
    return _preserving.sigma(_vp_integral(beta_min, beta_max, t))


def _one(t: Array) -> Array:
    return jnp.ones_like(t)


def _ve_sigma(sigma_min: float, sigma_max: float, t: Array) -> Array:
    return sigma_max * (sigma_min / sigma_max) ** t


def _ve_to_zero_sigma(sigma_min: float, rate: float, t: Array) -> Array:
    # expm1 keeps the digits of sigma near the data, where the power is close to one.
    return sigma_min * jnp.sqrt(jnp.expm1(rate * (1.0 - t)))


def _smoothed_sigma(path: Path, bandwidth: Array | float, t: Array) -> Array:
    return jnp.hypot(path.sigma(t), bandwidth * path.alpha(t))


def linear(sigma_min: float = 0.0) -> Path:
    """Makes the straight path, `alpha = t` and `sigma = 1 - (1 - sigma_min) t`.

    Args:
      sigma_min: standard deviation of the noise that is left at t = 1, in [0, 1).

    Returns:
      The path. `linear() == linear()`, so calls share compiled code.

    Raises:
      ValueError: if `sigma_min` is outside [0, 1).

    Example:
      >>> import fmjax
      >>> path = fmjax.paths.linear()
      >>> fmjax.paths.coefficients(path, 0.25).sigma_dot.item()
      -1.0

    Reference:
      Lipman et al. (2023), arXiv 2210.02747, eq. (20), called the "OT" path there. [lipman2023flow]
    """
    if not 0.0 <= sigma_min < 1.0:
        message = f"sigma_min must lie in [0, 1), got {sigma_min}: it is the noise left at t = 1."
        raise ValueError(message)
    if sigma_min == 0.0:
        return Path(_linear_alpha, _linear_sigma)
    return Path(_linear_alpha, partial(_linear_sigma, sigma_min=sigma_min))


def cosine() -> Path:
    """Makes the trigonometric, variance-preserving path, `alpha^2 + sigma^2 = 1`.

    Returns:
      The path `alpha = sin(pi t / 2)`, `sigma = cos(pi t / 2)`; `cosine() == cosine()`.

    Example:
      >>> import fmjax
      >>> path = fmjax.paths.cosine()
      >>> round(float(path.alpha(1 / 3) ** 2 + path.sigma(1 / 3) ** 2), 6)
      1.0

    Reference:
      Albergo et al. (2023), arXiv 2303.08797, section 3. [albergo2023stochastic]
    """
    return Path(_cosine_alpha, _cosine_sigma)


def vp(beta_min: float = 0.1, beta_max: float = 20.0) -> Path:
    """Makes the variance-preserving diffusion path with a linear noise rate.

    The velocity is singular at t = 1, where `sigma_dot` is infinite: integrate to `1 - eps`.

    Args:
      beta_min: noise rate at the data end, per unit of time, positive.
      beta_max: noise rate at the noise end, at least `beta_min`.

    Returns:
      The path. Each call makes a new path, so build it once and close over it.

    Raises:
      ValueError: unless `0 < beta_min <= beta_max`.

    Example:
      >>> import fmjax
      >>> path = fmjax.paths.vp()
      >>> round(float(path.alpha(0.0)), 4)  # t = 0 is not pure noise
      0.0066

    Reference:
      Song et al. (2021), arXiv 2011.13456, eq. (33). [song2021score]
    """
    if not 0.0 < beta_min <= beta_max:
        message = f"vp needs 0 < beta_min <= beta_max, got {beta_min} and {beta_max}."
        raise ValueError(message)

    return Path(partial(_vp_alpha, beta_min, beta_max), partial(_vp_sigma, beta_min, beta_max))


def ve(sigma_min: float = 0.01, sigma_max: float = 50.0) -> Path:
    """Makes the variance-exploding path, `alpha = 1` and a geometric `sigma`.

    Start a sampler from `sigma_max * N(0, I)`, and use the log-density of that noise for
    likelihoods.

    Args:
      sigma_min: standard deviation of the noise that is left at t = 1, positive.
      sigma_max: standard deviation of the noise at t = 0, larger than `sigma_min`.

    Returns:
      The path. Each call makes a new path, so build it once and close over it.

    Raises:
      ValueError: unless `0 < sigma_min < sigma_max`.

    Example:
      >>> import fmjax
      >>> path = fmjax.paths.ve()
      >>> float(path.sigma(0.0)), round(float(path.sigma(1.0)), 6)
      (50.0, 0.01)

    Reference:
      Song et al. (2021), arXiv 2011.13456, appendix C; Lipman et al. (2023), arXiv
      2210.02747, eq. (16). [song2021score; lipman2023flow]
    """
    if not 0.0 < sigma_min < sigma_max:
        message = f"ve needs 0 < sigma_min < sigma_max, got {sigma_min} and {sigma_max}."
        raise ValueError(message)
    return Path(_one, partial(_ve_sigma, sigma_min, sigma_max))


def ve_to_zero(sigma_min: float = 1e-3, sigma_max: float = 300.0) -> Path:
    """Makes the variance-exploding path that ends without noise.

    The path is `ve` with `sigma_min^2` subtracted from the variance, so it reaches the data
    exactly. Near t = 1 sigma falls to zero like a square root. There `sigma_dot` is infinite and
    the velocity singular, so train and integrate to `1 - eps` (1e-3 in the paper). Start a sampler
    from `sigma_max * N(0, I)`.

    Args:
      sigma_min: noise scale at which the square root begins, positive.
      sigma_max: standard deviation of the noise at t = 0, exact up to a relative error of
        `(sigma_min / sigma_max)^2 / 2`; larger than `sigma_min`.

    Returns:
      The path. Each call makes a new path, so build it once and close over it.

    Raises:
      ValueError: unless `0 < sigma_min < sigma_max`.

    Example:
      >>> import fmjax
      >>> path = fmjax.paths.ve_to_zero()
      >>> round(float(path.sigma(0.0))), float(path.sigma(1.0))
      (300, 0.0)

    Reference:
      Finzi et al. (2023), arXiv 2306.07526; the schedule of Song et al. (2021), arXiv 2011.13456,
      appendix C, shifted to zero. [finzi2023user; song2021score]
    """
    if not 0.0 < sigma_min < sigma_max:
        message = f"ve_to_zero needs 0 < sigma_min < sigma_max, got {sigma_min} and {sigma_max}."
        raise ValueError(message)
    rate = 2.0 * math.log(sigma_max / sigma_min)
    return Path(_one, partial(_ve_to_zero_sigma, sigma_min, rate))


def smoothed(path: Path, bandwidth: Array | float) -> Path:
    """Makes the path of data points blurred by Gaussian noise.

    With `x1 = b + h z`, z ~ N(0, I), the state is `alpha b + s x0'` with
    `s^2 = sigma^2 + alpha^2 h^2` and a standard normal x0'. On this path `fmjax.empirical` computes
    the velocity, divergence and log-density of a kernel density estimate with bandwidth h. They
    stay finite up to t = 1 wherever `sigma_dot` does; on vp and ve_to_zero stop at 1 - eps.

    The velocity equals the velocity of the blurred data on `path`. For the mean and covariance of
    the blurred data pass it to `fmjax.predictions` or `fmjax.posterior` together with `path`. With
    the smoothed path, `empirical.mean` and `empirical.covariance` describe the points b.

    Args:
      path: the path from noise to the blurred data.
      bandwidth: h, the standard deviation of the blur, not negative, in the units of the data.

    Returns:
      The path. Each call makes a new path, so build it once and close over it.

    Raises:
      ValueError: if `bandwidth` is a negative number.

    Example:
      >>> import fmjax
      >>> path = fmjax.paths.smoothed(fmjax.paths.linear(), 0.25)
      >>> float(path.sigma(0.0)), float(path.sigma(1.0))
      (1.0, 0.25)

    Reference:
      Parzen (1962), On Estimation of a Probability Density Function and Mode, Annals of
      Mathematical Statistics 33. [parzen1962estimation]
    """
    _checks.path(path)
    if not isinstance(bandwidth, jax.Array) and not bandwidth >= 0:
        message = f"bandwidth must not be negative, got {bandwidth}: it is a standard deviation."
        raise ValueError(message)
    return Path(path.alpha, partial(_smoothed_sigma, path, bandwidth))
