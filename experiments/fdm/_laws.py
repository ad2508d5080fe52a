"""The mixtures of round Gaussians on which FDM is measured, and the path to them."""

from typing import NamedTuple

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
FAR = Mixture(
    np.array([0.35, 0.3, 0.2, 0.1, 0.05]),
    np.random.default_rng(1).standard_normal((5, 64)),
    np.array([0.3, 0.5, 0.8, 0.4, 0.6]),
)


def law(mixture: Mixture) -> fmjax.toy.Density:
    """Makes the sampler, the densities and the exact velocity of a mixture."""
    return fmjax.toy.isotropic_mixture(*mixture)


def log_density(mixture: Mixture, x: Array, t: Array) -> Array:
    """Returns log p_t(x), `[]`, in nats, for x `[d]` and t in [0, 1]."""
    return law(mixture).log_marginal(path, x, t)


def velocity(mixture: Mixture, x: Array, t: Array) -> Array:
    """Returns the marginal velocity `[d]` at x `[d]` and t in [0, 1]."""
    return law(mixture).velocity(path, x, t)


def sample(key: Key, mixture: Mixture) -> Array:
    """Returns one draw of the data, `[d]`."""
    return law(mixture).sample(key)
