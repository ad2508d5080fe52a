"""Gaussian probability paths from noise at t = 0 to data at t = 1.

A path joins noise `x0 ~ N(0, I)` and data `x1` by

    x_t = alpha(t) x1 + sigma(t) x0                                               (1)

so that `x_t | x1 ~ N(alpha x1, sigma^2 I)`. A path is nothing but the two functions `alpha`
and `sigma` in a tuple; their derivatives come from `jax.jvp`, so a path of your own is two
lines:

    path = Path(alpha=lambda t: t**2, sigma=lambda t: 1 - t**2)

| path       | alpha                | sigma                                           | sigma(1)  |
|------------|----------------------|-------------------------------------------------|-----------|
| linear     | t                    | 1 - (1 - sigma_min) t                           | sigma_min |
| cosine     | sin(pi t / 2)        | cos(pi t / 2)                                   | 0         |
| vp         | exp(-T(1 - t) / 2)   | sqrt(1 - exp(-T(1 - t)))                        | 0         |
| ve         | 1                    | sigma_min r^(1-t), r = sigma_max / sigma_min    | sigma_min |
| ve_to_zero | 1                    | sigma_min sqrt(r^(2 (1-t)) - 1)                 | 0         |

with `T(s) = beta_min s + (beta_max - beta_min) s^2 / 2`. Only linear and cosine start at pure
noise of variance one: vp keeps `alpha(0) = exp(-T(1) / 2)`, about 0.0066, and both ve start from
`sigma(0) * N(0, I) + x1`. The derivative of sigma is infinite at t = 1 of vp and ve_to_zero.

References:
  Lipman et al. (2023), Flow Matching for Generative Modeling, arXiv 2210.02747, section 4.1.
  Albergo et al. (2023), Stochastic Interpolants, arXiv 2303.08797 (trigonometric path).
  Song et al. (2021), Score-Based Generative Modeling through SDEs, arXiv 2011.13456 (VP, VE).
  Finzi et al. (2023), User-defined Event Sampling and Uncertainty Quantification in Diffusion
  Models for Physical Dynamical Systems, arXiv 2306.07526 (VE to zero).
"""

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from fmjax import _checks
from fmjax.types import Array


class Path(NamedTuple):
    """The two coefficient functions of `x_t = alpha(t) x1 + sigma(t) x0`.

    Attributes:
      alpha: `t[] -> []`, the share of the data, increasing from about 0 to 1 (1 for ve).
      sigma: `t[] -> []`, the standard deviation of the noise, decreasing.
    """

    alpha: Callable[[Array], Array]
    sigma: Callable[[Array], Array]


class Coefficients(NamedTuple):
    """The values and time derivatives of a path's coefficients at one time, all scalars."""

    alpha: Array
    sigma: Array
    alpha_dot: Array
    sigma_dot: Array

    @property
    def wronskian(self) -> Array:
        """`alpha_dot sigma - alpha sigma_dot`, positive; 1 on the linear path."""
        return self.alpha_dot * self.sigma - self.alpha * self.sigma_dot


def _linear_alpha(t: Array) -> Array:
    return t


def _linear_sigma(t: Array, sigma_min: float = 0.0) -> Array:
    return 1.0 - (1.0 - sigma_min) * t


def _cosine_alpha(t: Array) -> Array:
    return jnp.sin(0.5 * jnp.pi * t)


def _cosine_sigma(t: Array) -> Array:
    # As a sine it is exactly zero at t = 1; cos(pi / 2) is -4e-8 in float32.
    return jnp.sin(0.5 * jnp.pi * (1.0 - t))


def linear(sigma_min: float = 0.0) -> Path:
    """Returns the straight path, `alpha = t` and `sigma = 1 - (1 - sigma_min) t`.

    Args:
      sigma_min: standard deviation of the noise that is left at t = 1, in [0, 1).

    Returns:
      The path; `linear() == linear()`, so compiled code is shared.

    Raises:
      ValueError: if `sigma_min` is outside [0, 1).

    Example:
      >>> coefficients(linear(), 0.25).sigma_dot.item()
      -1.0

    Reference:
      Lipman et al. (2023), arXiv 2210.02747, eq. (20), there the "OT" path. [lipman2023flow]
    """
    if not 0.0 <= sigma_min < 1.0:
        message = f"sigma_min must lie in [0, 1), got {sigma_min}: it is the noise left at t = 1."
        raise ValueError(message)
    if sigma_min == 0.0:
        return Path(_linear_alpha, _linear_sigma)
    return Path(_linear_alpha, partial(_linear_sigma, sigma_min=sigma_min))


def cosine() -> Path:
    """Returns the trigonometric, variance-preserving path, `alpha^2 + sigma^2 = 1`.

    Returns:
      The path `alpha = sin(pi t / 2)`, `sigma = cos(pi t / 2)`; `cosine() == cosine()`.

    Example:
      >>> path = cosine()
      >>> round(float(path.alpha(1 / 3) ** 2 + path.sigma(1 / 3) ** 2), 6)
      1.0

    Reference:
      Albergo et al. (2023), arXiv 2303.08797, section 3. [albergo2023stochastic]
    """
    return Path(_cosine_alpha, _cosine_sigma)


def vp(beta_min: float = 0.1, beta_max: float = 20.0) -> Path:
    """Returns the variance-preserving diffusion path with a linear noise rate.

    Its velocity is singular at t = 1, where `sigma_dot` is infinite: solve to `1 - eps`.

    Args:
      beta_min: noise rate at the data end, per unit of time, positive.
      beta_max: noise rate at the noise end, at least `beta_min`.

    Returns:
      The path; each call makes a new one, so build it once and close over it.

    Raises:
      ValueError: unless `0 < beta_min <= beta_max`.

    Example:
      >>> round(float(vp().alpha(0.0)), 4)  # noise is not reached entirely
      0.0066

    Reference:
      Song et al. (2021), arXiv 2011.13456, eq. (33). [song2021score]
    """
    if not 0.0 < beta_min <= beta_max:
        message = f"vp needs 0 < beta_min <= beta_max, got {beta_min} and {beta_max}."
        raise ValueError(message)

    def rate_integral(t: Array) -> Array:
        s = 1.0 - t
        return beta_min * s + 0.5 * (beta_max - beta_min) * s**2

    def variance(t: Array) -> Array:
        integral = rate_integral(t)
        # expm1 keeps sigma accurate near the data; near the noise its derivative, which jax
        # computes as expm1 + 1, would lose the digits that exp keeps.
        return jnp.where(integral < 1.0, -jnp.expm1(-integral), 1.0 - jnp.exp(-integral))

    return Path(
        alpha=lambda t: jnp.exp(-0.5 * rate_integral(t)),
        sigma=lambda t: jnp.sqrt(variance(t)),
    )


def ve(sigma_min: float = 0.01, sigma_max: float = 50.0) -> Path:
    """Returns the variance-exploding path, `alpha = 1` and a geometric `sigma`.

    A sampler must start it from `sigma_max * N(0, I)`, and a likelihood from the density of
    that noise.

    Args:
      sigma_min: standard deviation of the noise that is left at t = 1, positive.
      sigma_max: standard deviation of the noise at t = 0, larger than `sigma_min`.

    Returns:
      The path; each call makes a new one, so build it once and close over it.

    Raises:
      ValueError: unless `0 < sigma_min < sigma_max`.

    Example:
      >>> path = ve()
      >>> float(path.sigma(0.0)), round(float(path.sigma(1.0)), 6)
      (50.0, 0.01)

    Reference:
      Song et al. (2021), arXiv 2011.13456, appendix C; Lipman et al. (2023), arXiv
      2210.02747, eq. (16). [song2021score; lipman2023flow]
    """
    if not 0.0 < sigma_min < sigma_max:
        message = f"ve needs 0 < sigma_min < sigma_max, got {sigma_min} and {sigma_max}."
        raise ValueError(message)
    return Path(
        alpha=lambda t: jnp.ones_like(t),
        sigma=lambda t: sigma_max * (sigma_min / sigma_max) ** t,
    )


def ve_to_zero(sigma_min: float = 1e-3, sigma_max: float = 300.0) -> Path:
    """Returns the variance-exploding path that ends without noise.

    `ve` with `sigma_min^2` taken off its variance, so that the data are met exactly. Its velocity
    is singular at t = 1, where sigma falls to zero like a square root and `sigma_dot` is infinite:
    train and solve to `1 - eps` (1e-3 in the paper). A sampler must start it from
    `sigma_max * N(0, I)`.

    Args:
      sigma_min: the scale at which the square root sets in, positive.
      sigma_max: standard deviation of the noise at t = 0, up to a share of
        `(sigma_min / sigma_max)^2 / 2`; larger than `sigma_min`.

    Returns:
      The path; each call makes a new one, so build it once and close over it.

    Raises:
      ValueError: unless `0 < sigma_min < sigma_max`.

    Example:
      >>> path = ve_to_zero()
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
    return Path(
        alpha=lambda t: jnp.ones_like(t),
        # expm1 keeps the digits of sigma near the data, where the power is close to one.
        sigma=lambda t: sigma_min * jnp.sqrt(jnp.expm1(rate * (1.0 - t))),
    )


def coefficients(path: Path, t: Array) -> Coefficients:
    """Returns alpha, sigma and their time derivatives at one time.

    Args:
      path: the path.
      t: `[]`, in [0, 1].

    Returns:
      Four scalars; the derivatives are `jax.jvp`'s, so they are exact for any path.

    Raises:
      ValueError: if `t` is batched, or a static number outside [0, 1].

    Example:
      >>> [round(float(c), 3) for c in coefficients(cosine(), 0.5)]
      [0.707, 0.707, 1.111, -1.111]
    """
    t = _checks.time(t)
    one = jnp.ones_like(t)
    alpha, alpha_dot = jax.jvp(path.alpha, (t,), (one,))
    sigma, sigma_dot = jax.jvp(path.sigma, (t,), (one,))
    return Coefficients(alpha, sigma, alpha_dot, sigma_dot)


def interpolate(path: Path, x0: Array, x1: Array, t: Array) -> Array:
    """Returns the point of the path between one noise and one data example, eq. (1).

    Args:
      path: the path.
      x0: `[*dims]`, noise.
      x1: `[*dims]`, data.
      t: `[]`, in [0, 1].

    Returns:
      `[*dims]`, `alpha(t) x1 + sigma(t) x0`.

    Raises:
      ValueError: if the shapes differ, or `t` is batched or a static number outside [0, 1].

    Example:
      >>> interpolate(linear(), jnp.array([0.0, 4.0]), jnp.array([2.0, 0.0]), 0.25).tolist()
      [0.5, 3.0]
    """
    _checks.same_shape(x0=x0, x1=x1)
    t = _checks.time(t)
    return path.alpha(t) * x1 + path.sigma(t) * x0
