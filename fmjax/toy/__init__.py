"""Toy laws with a sampler, an exact density, and the exact field of a path to them.

A law is a tuple of functions of one example:

    density = fmjax.toy.checkerboard()
    x1 = density.sample(key)                     # [d], data
    density.log_prob(x1)                         # [], nats
    density.log_marginal(path, x, t)             # [], nats, of a noisy state x at time t
    density.velocity(path, x, t)                 # [d], the velocity that flow matching looks for

So what a network has learned is measured against the truth at any state and time of any path. The
noise of the path is standard normal. Your own law is `fmjax.toy.Density(sample, log_prob)`, with
the last two functions where they are known. Samples have the default float type, log-densities
float32 at least. The laws of this package can be pickled.

References: Tong et al. (2024), arXiv 2302.00482; Huang et al. (2025), arXiv 2602.00869.
"""

from fmjax.toy.checkerboard import checkerboard
from fmjax.toy.density import Density
from fmjax.toy.isotropic import isotropic_mixture
from fmjax.toy.mixtures import eight_gaussians, gaussian_mixture
from fmjax.toy.moons import moons

__all__ = [
    "Density",
    "checkerboard",
    "eight_gaussians",
    "gaussian_mixture",
    "isotropic_mixture",
    "moons",
]
