"""The checkerboard on its way from noise: its exact density at every time.

A square `[a, b]` of the board moves along the linear path as `x = t x1 + (1 - t) x0`, x1 uniform on
it, so that with the normal distribution function Phi

    p_t(x) = 1/8 sum_squares prod_i [Phi((x_i - t a_i) / sigma) - Phi((x_i - t b_i) / sigma)]
             / (t (b_i - a_i)),    sigma = 1 - t,                                     (1)

against which a model is held at any time; at t = 1 no model's mean log-likelihood can be above
-3.67646 nats, minus the entropy of the board.
"""

import jax
import jax.numpy as jnp
import numpy as np

import fmjax
from fmjax.types import Array

density = fmjax.toy.checkerboard()
path = fmjax.paths.linear()
SIDE = 1.0 / 0.45  # of a square
CEILING = 0.45**2 / 8.0  # exp of the greatest mean log-likelihood
_CORNERS = np.array([[i, j] for i in range(-2, 2) for j in range(-2, 2) if (i + j) % 2 == 0])
EXTENT = 5.0  # half the side of the window in which densities are drawn and compared


def log_density(x: Array, t: Array) -> Array:
    """Returns log p_t(x) in nats, eq. (1).

    Args:
      x: `[2]`.
      t: `[]`, in (0, 1).
    """
    sigma = path.sigma(t)
    low = (x[None] - t * (_CORNERS + 1.0) * SIDE) / sigma
    high = (x[None] - t * _CORNERS * SIDE) / sigma
    squares = jnp.sum(_log_between(low, high), axis=1)
    return jax.nn.logsumexp(squares) - jnp.log(8.0) - 2.0 * jnp.log(t * SIDE)


def _log_between(low: Array, high: Array) -> Array:
    """Returns log(Phi(high) - Phi(low)), low < high, also far out in either tail."""
    flip = low > 0
    low, high = jnp.where(flip, -high, low), jnp.where(flip, -low, high)
    above = jax.scipy.special.log_ndtr(high)
    return above + jnp.log(-jnp.expm1(jax.scipy.special.log_ndtr(low) - above))


def velocity(x: Array, t: Array) -> Array:
    """Returns the exact marginal velocity, by the score of eq. (1).

    Args:
      x: `[2]`.
      t: `[]`, in (0, 1).
    """
    score = jax.grad(log_density)(x, t)
    kinds = {"given": fmjax.predictions.score, "wanted": fmjax.predictions.velocity}
    return fmjax.predictions.convert(path, score, x, t, **kinds)


def grid(points: int) -> tuple[Array, float]:
    """Returns the centres `[points^2, 2]` of a grid over the window, and the area of a cell."""
    step = 2.0 * EXTENT / points
    centres = -EXTENT + step * (np.arange(points) + 0.5)
    return jnp.asarray(np.stack(np.meshgrid(centres, centres), axis=-1).reshape(-1, 2)), step**2
