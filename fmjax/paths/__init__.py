"""Gaussian probability paths from noise at t = 0 to data at t = 1.

A path joins noise `x0 ~ N(0, I)` and data `x1` by

    x_t = alpha(t) x1 + sigma(t) x0                                               (1)

so that `x_t | x1 ~ N(alpha x1, sigma^2 I)`. A path is a tuple of the two functions `alpha` and
`sigma`. `jax.jvp` computes their derivatives, so defining your own path takes one line:

    path = fmjax.paths.Path(alpha=lambda t: t**2, sigma=lambda t: 1 - t**2)

| path       | alpha                | sigma                                           | sigma(1)  |
|------------|----------------------|-------------------------------------------------|-----------|
| linear     | t                    | 1 - (1 - sigma_min) t                           | sigma_min |
| cosine     | sin(pi t / 2)        | cos(pi t / 2)                                   | 0         |
| vp         | exp(-T(1 - t) / 2)   | sqrt(1 - exp(-T(1 - t)))                        | 0         |
| ve         | 1                    | sigma_min r^(1-t), r = sigma_max / sigma_min    | sigma_min |
| ve_to_zero | 1                    | sigma_min sqrt(r^(2 (1-t)) - 1)                 | 0         |

with `T(s) = beta_min s + (beta_max - beta_min) s^2 / 2`. Only linear and cosine start at pure
noise of variance one. vp keeps `alpha(0) = exp(-T(1) / 2)`, about 0.0066, and both ve paths start
from `sigma(0) * N(0, I) + x1`. On vp and ve_to_zero the derivative of sigma is infinite at t = 1.
`from_betas` makes the path of a diffusion model that has a table of noise rates.

References:
  Ho et al. (2020), Denoising Diffusion Probabilistic Models, arXiv 2006.11239 (tables of rates).
  Lipman et al. (2023), Flow Matching for Generative Modeling, arXiv 2210.02747, section 4.1.
  Albergo et al. (2023), Stochastic Interpolants, arXiv 2303.08797 (trigonometric path).
  Song et al. (2021), Score-Based Generative Modeling through SDEs, arXiv 2011.13456 (VP, VE).
  Finzi et al. (2023), User-defined Event Sampling and Uncertainty Quantification in Diffusion
  Models for Physical Dynamical Systems, arXiv 2306.07526 (VE to zero).
"""

from fmjax.paths.discrete import from_betas
from fmjax.paths.path import Coefficients, Path, coefficients, interpolate
from fmjax.paths.schedules import cosine, linear, smoothed, ve, ve_to_zero, vp

__all__ = [
    "Coefficients",
    "Path",
    "coefficients",
    "cosine",
    "from_betas",
    "interpolate",
    "linear",
    "smoothed",
    "ve",
    "ve_to_zero",
    "vp",
]
