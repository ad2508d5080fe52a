"""The checkerboard on its way from noise: the law against which a model is held at any time.

At t = 1 no model's mean log-likelihood can be above -3.67646 nats, minus the entropy of the board.
"""

import jax.numpy as jnp
import numpy as np

import fmjax
from fmjax.types import Array

density = fmjax.toy.checkerboard()
path = fmjax.paths.linear()
SIDE = 1.0 / 0.45  # of a square
STD = 4.0 * SIDE / 12**0.5  # of a coordinate, which is uniform over four squares, with mean 0
CEILING = 0.45**2 / 8.0  # exp of the greatest mean log-likelihood
EXTENT = 5.0  # half the side of the window in which densities are drawn and compared


def log_density(x: Array, t: Array) -> Array:
    """Returns log p_t(x) in nats.

    Args:
      x: `[2]`.
      t: `[]`, in (0, 1).
    """
    return density.log_marginal(path, x, t)


def velocity(x: Array, t: Array) -> Array:
    """Returns the exact marginal velocity.

    Args:
      x: `[2]`.
      t: `[]`, in (0, 1).
    """
    return density.velocity(path, x, t)


def log_blurred(x: Array, std: float) -> Array:
    """Returns the log-density of data plus Gaussian noise, in nats.

    Args:
      x: `[2]`.
      std: of the noise in each coordinate, positive.
    """
    t = 1.0 / (1.0 + std)  # where the state is t times the data with that noise
    return log_density(t * x, t) + 2.0 * jnp.log(t)


def grid(points: int) -> tuple[Array, float]:
    """Returns the centers `[points^2, 2]` of a grid over the window, and the area of a cell."""
    step = 2.0 * EXTENT / points
    centers = -EXTENT + step * (np.arange(points) + 0.5)
    return jnp.asarray(np.stack(np.meshgrid(centers, centers), axis=-1).reshape(-1, 2)), step**2
