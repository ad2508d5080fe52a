"""The path of a diffusion model with a table of noise rates, one for each of its timesteps.

A model with rates beta_1, ..., beta_N was trained on the states

    x_i = sqrt(abar_i) x1 + sqrt(1 - abar_i) x0,     abar_i = (1 - beta_1) ... (1 - beta_i)   (1)

so it knows its path at N levels of noise only. Time is spread over them evenly: t = 1 - i / N.
Between two levels log(abar) is a monotone cubic, which has a continuous derivative.
"""

from __future__ import annotations

from functools import partial

import jax.numpy as jnp
import numpy as np

from fmjax.paths import _preserving
from fmjax.paths.path import Path
from fmjax.types import Array

__all__ = ["from_betas"]


def from_betas(betas: Array) -> Path:
    """Makes the variance-preserving path of a diffusion model from its table of noise rates.

    Level i of the model, i = 1, ..., N, is the time `1 - i / N`; there alpha and sigma are exactly
    the model's. The path ends without noise at t = 1, which is no level of the model: between its
    first level and t = 1 the path is a continuation. As on `vp` the derivative of sigma is infinite
    at t = 1, and alpha(0) is not zero. `predictions.from_timesteps` makes a velocity of the model.

    Args:
      betas: `[N]`, concrete, each in (0, 1), the first one of the level nearest to the data. If a
        model has a table of abar, its betas are `1 - abar[1:] / abar[:-1]` after `1 - abar[0]`.

    Returns:
      The path. Each call makes a new path, so build it once and close over it.

    Raises:
      ValueError: unless `betas` is one row of at least two numbers in (0, 1).

    Example:
      >>> import fmjax
      >>> import numpy as np
      >>> path = fmjax.paths.from_betas(np.linspace(1e-4, 0.02, 1000))  # of the first DDPMs
      >>> round(float(path.alpha(0.5)), 4), round(float(path.sigma(0.5)), 4)
      (0.2803, 0.9599)

    Reference:
      Ho et al. (2020), Denoising Diffusion Probabilistic Models, arXiv 2006.11239, eq. (4).
      [ho2020denoising]
    """
    from scipy.interpolate import PchipInterpolator  # takes as long to load as the rest of fmjax

    rates = np.asarray(betas, np.float64)
    if rates.ndim != 1 or rates.size < 2:
        message = f"betas must be one row of at least two rates, got shape {rates.shape}."
        raise ValueError(message)
    if not ((rates > 0) & (rates < 1)).all():
        message = (
            f"betas must lie between 0 and 1, got {rates.min():g} to {rates.max():g}: a rate of 1 "
            "leaves no signal at its level; leave that level out."
        )
        raise ValueError(message)
    integral = -np.cumsum(np.log1p(-rates))
    cubics = PchipInterpolator(np.arange(rates.size + 1), np.append(0.0, integral)).c
    return Path(partial(_alpha, cubics), partial(_sigma, cubics))


def _integral(cubics: np.ndarray, t: Array) -> Array:
    """Returns -log(abar) at a time, from the cubics `[4, N]` between two levels each."""
    count = cubics.shape[1]
    level = jnp.asarray(count * (1.0 - t))
    below = jnp.clip(jnp.floor(level), 0, count - 1)
    beyond = level - below
    a, b, c, d = jnp.asarray(cubics, level.dtype)[:, below.astype(int)]
    return ((a * beyond + b) * beyond + c) * beyond + d


def _alpha(cubics: np.ndarray, t: Array) -> Array:
    return jnp.exp(-0.5 * _integral(cubics, t))


def _sigma(cubics: np.ndarray, t: Array) -> Array:
    return _preserving.sigma(_integral(cubics, t))
