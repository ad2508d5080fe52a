"""The uniform law on the black squares of a board, and its exact field along a path.

Along `x_t = alpha x1 + sigma x0`, x1 uniform on a square with the corner a and the side s, each
coordinate is a uniform blurred by a normal. With the normal distribution function Phi

    p_t(x) = 1/8 sum_squares prod_i [Phi((x_i - alpha a_i) / sigma)
                                     - Phi((x_i - alpha (a_i + s)) / sigma)] / (alpha s).      (1)
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np

from fmjax import _checks, predictions
from fmjax.paths import Path, coefficients
from fmjax.toy.density import Density
from fmjax.types import Array, Key

__all__ = ["checkerboard"]

_UNIT = 0.45  # the board is drawn on unit cells and divided by this
_CORNERS = np.array([[i, j] for i in range(-2, 2) for j in range(-2, 2) if (i + j) % 2 == 0])


def checkerboard() -> Density:
    """Makes the uniform law on eight squares of a four by four board.

    In units of 1 / 0.45 the squares are the unit cells of `[-2, 2)^2` whose lower left corner has
    an even sum of coordinates. The density is 0.45^2 / 8 = 0.0253125 on them and zero elsewhere.
    The entropy is 3.67646 nats, so no model has a mean log-likelihood above -3.67646.

    Returns:
      The law on the plane; `log_prob` is -inf outside the squares. Edges count as inside, so
      rounding never puts a sample outside. `log_marginal` and `velocity` need alpha and sigma
      above zero, so a t inside (0, 1); they lose digits as 1 / alpha towards the noise.
      `checkerboard() == checkerboard()`.

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
    return Density(_sample, _log_prob, _log_marginal, _velocity)


def _sample(key: Key) -> Array:
    key_first, key_second, key_row = jax.random.split(key, 3)
    first = jax.random.uniform(key_first, minval=-2.0, maxval=2.0)
    row = 2.0 * jax.random.bernoulli(key_row)
    second = jax.random.uniform(key_second) - row + jnp.floor(first) % 2.0
    return jnp.stack([first, second]) * (1.0 / _UNIT)


def _log_prob(x: Array) -> Array:
    x = _checks.floating(x)
    _checks.same_shape(x=x, corner=jnp.zeros(2))
    # The same product as in the sampler: rounding is monotone, so a cell maps between its edges.
    edges = jnp.arange(-2, 3, dtype=x.dtype) * (1.0 / _UNIT)
    column, row = ((edges[:-1] <= coordinate) & (coordinate <= edges[1:]) for coordinate in x)
    even = (np.arange(4)[:, None] + np.arange(4)[None, :]) % 2 == 0
    inside = jnp.any(column[:, None] & row[None, :] & even)
    log_density = jnp.asarray(math.log(_UNIT**2 / 8.0), _checks.wide(x).dtype)
    outside = jnp.where(jnp.isnan(x).any(), jnp.nan, -jnp.inf)  # a NaN is on no side of an edge
    return jnp.where(inside, log_density, outside)


def _log_marginal(path: Path, x: Array, t: Array) -> Array:
    """Returns log p_t(x), eq. (1)."""
    x = _checks.wide(x)
    _checks.same_shape(x=x, corner=jnp.zeros(2))
    c = coefficients(path, t)
    corners, side = c.alpha * jnp.asarray(_CORNERS, x.dtype) / _UNIT, c.alpha / _UNIT
    low, high = (x[None] - corners - side) / c.sigma, (x[None] - corners) / c.sigma
    squares = jnp.sum(_log_between(low, high), axis=1)
    log_density = jax.nn.logsumexp(squares) - jnp.log(8.0) - 2.0 * jnp.log(side)
    return log_density.astype(x.dtype)


def _log_between(low: Array, high: Array) -> Array:
    """Returns log(Phi(high) - Phi(low)), low < high, also far out in either tail."""
    flip = low > 0
    low, high = jnp.where(flip, -high, low), jnp.where(flip, -low, high)
    above = jax.scipy.special.log_ndtr(high)
    return above + jnp.log(-jnp.expm1(jax.scipy.special.log_ndtr(low) - above))


def _velocity(path: Path, x: Array, t: Array) -> Array:
    """Returns the marginal velocity, from the score of eq. (1)."""
    x = _checks.wide(x)
    score = jax.grad(_log_marginal, argnums=1)(path, x, t)
    kinds = {"given": predictions.score, "wanted": predictions.velocity}
    return predictions.convert(path, score, x, t, **kinds)
