"""What the divergence of a velocity is matched to, and how.

Let p_t be the law of `x_t = alpha x1 + sigma x0` with marginal velocity u and score
`s = grad log p_t`, and v a learned velocity. The density that v transports differs from p_t by
an error whose source is the residual

    r = div(u - v) + (u - v) . s = -[d_t log p_t + div v + v . s]                 (1)

(`fmjax.path_error`). It contains the field of all data; given one x1, of whose path everything is
known, the conditional residual with `u = alpha_dot x1 + sigma_dot x0` and `s = -x0 / sigma` is

    sigma r = sigma_dot (d - |x0|^2) - (alpha_dot x1 - v) . x0 - sigma div v      (2)

in which nothing is divided by sigma. A `Target` holds what (1) needs, of one pair or of a
whole data set (`fmjax.losses.dm`):

    sigma r = rate + v . n - sigma div v,    n = -sigma s,  rate = sigma (div u + u . s)   (3)

A matching is a function `(field, target) -> (value, penalty)`, the field taken at the time of the
target; value and derivative come out of one linearisation. Three facts make (3) trainable:

* The factor sigma: at v = u the conditional r grows as 1 / sigma, so its mean over all times is
  infinite wherever sigma vanishes, and a bound made of it empty.
* The square: under a pair's noise the minimiser of a mean square is a mean, here the marginal
  residual; that of a mean absolute value is a median.
* No gradient through the v beside n: the noise of n given x_t is correlated with that of the
  rate, and by moving v the network could trade one against the other. With `stop_gradient` the
  expected gradient over pairs is that of the marginal loss: conditional mean of (3) given x_t is
  (1) times sigma, as for conditional flow matching. Without, v = u is not stationary.

References:
  Huang et al. (2025), Improving Flow Matching by Aligning Flow Divergence, arXiv 2602.00869.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from fmjax import _bank, _checks, divergence, paths
from fmjax.paths import Path
from fmjax.types import Array, Divergence, Key


class Target(NamedTuple):
    """What a velocity and its divergence are regressed on at one state.

    Attributes:
      x: `[*dims]`, the state.
      velocity: `[*dims]`, u.
      noise: `[*dims]`, n = -sigma s: x0 of one pair, its posterior mean for a data set.
      rate: `[]`, sigma (div u + u . s), minus sigma times the time derivative of log p.
      sigma: `[]`, the noise of the path.
      slope: `z[*dims] -> [*dims]`, sigma (grad u) z.
    """

    x: Array
    velocity: Array
    noise: Array
    rate: Array
    sigma: Array
    slope: Callable[[Array], Array]


Matching = Callable[[Callable[[Array], Array], Target], tuple[Array, Array]]
"""`(field, target) -> (field(target.x)[*dims], penalty[])`, by one linearisation."""


def of_pair(path: Path, x0: Array, x1: Array, t: Array) -> Target:
    """Returns the target of one pair, eq. (2).

    Args:
      path: the path.
      x0: `[*dims]`, noise, N(0, I) and independent of x1.
      x1: `[*dims]`, data.
      t: `[]`, in [0, 1].

    Returns:
      The target, finite also where sigma vanishes.

    Raises:
      ValueError: if the shapes differ, or `t` is batched or a static number outside [0, 1].

    Example:
      >>> target = of_pair(paths.linear(), jnp.array([1.0, -1.0]), jnp.array([2.0, 0.0]), 0.5)
      >>> target.velocity.tolist(), float(target.rate)
      ([1.0, 1.0], -2.0)

    Reference:
      Huang et al. (2025), arXiv 2602.00869, section 4. [huang2025improving]
    """
    x = paths.interpolate(path, x0, x1, t)
    c = paths.coefficients(path, t)
    rate = c.sigma_dot * (x0.size - jnp.sum(x0**2)) - c.alpha_dot * jnp.sum(x1 * x0)
    velocity = c.alpha_dot * x1 + c.sigma_dot * x0
    return Target(x, velocity, x0, rate, c.sigma, lambda z: c.sigma_dot * z)


def of_bank(path: Path, bank: Array, x0: Array, x1: Array, t: Array) -> Target:
    """Returns the target of a whole data set at the state of one pair, eq. (3).

    Args:
      path: the path.
      bank: `[n, *dims]`, the data set or a minibatch of it, with x1 in it.
      x0: `[*dims]`, noise, N(0, I) and independent of the bank.
      x1: `[*dims]`, data.
      t: `[]`, in [0, 1], with `sigma(t) > 0`.

    Returns:
      The target; its velocity is `empirical.anchored_velocity`.

    Raises:
      ValueError: if the bank is empty or shapes differ, or if `t` is batched or a static number
        outside [0, 1].

    Example:
      >>> bank = jnp.array([[2.0, 0.0], [1.0, 0.0]])
      >>> target = of_bank(paths.linear(), bank, jnp.array([1.0, -1.0]), bank[0], 0.5)
      >>> [round(float(u), 4) for u in target.velocity]
      [0.6351, 1.0]

    Reference:
      Bertrand et al. (2025), arXiv 2506.03719, eq. (6), and its divergence. [bertrand2025closed]
    """
    weights, gaps, c = _bank.anchored(path, bank, x0, x1, t)
    pull = _bank.average(weights, gaps)  # E[x1 | x_t] - x1
    offsets = (gaps - pull[None]).reshape(bank.shape[0], -1)
    gain = c.wronskian * c.alpha / c.sigma**2  # sigma grad u = sigma_dot I + gain Cov
    spread = jnp.sum(weights * jnp.sum(offsets**2, axis=1))

    def slope(z: Array) -> Array:
        along = jnp.matmul(offsets, z.ravel(), precision=_bank.HIGHEST)
        moved = _bank.average(weights * along, offsets)
        return c.sigma_dot * z + gain * moved.reshape(z.shape)

    velocity = c.alpha_dot * x1 + c.sigma_dot * x0 + c.wronskian / c.sigma * pull
    noise = x0 - c.alpha / c.sigma * pull
    rate = x0.size * c.sigma_dot + gain * spread - jnp.sum(velocity * noise)
    x = paths.interpolate(path, x0, x1, t)
    return Target(x, velocity, noise, rate, c.sigma, slope)


def match_trace(
    field: Callable[[Array], Array],
    target: Target,
    *,
    divergence: Divergence = divergence.exact,
) -> tuple[Array, Array]:
    """Returns the value of the field and the square of its residual per dimension, eq. (3).

    With an exact divergence the penalty is `(sigma r / d)^2`. An estimate with K probes adds
    `sigma^2 / d^2` times its variance, which shrinks what that variance is made of, the symmetric
    part of the Jacobian: `match_product` does not.

    Args:
      field: the velocity at the time of the target, `[*dims] -> [*dims]`.
      target: of a pair or of a data set.
      divergence: `(f, x) -> (f(x), div f(x))`. For two or three dimensions and a gradient through
        it `divergence.unrolled`; for images `partial(divergence.hutchinson, key)`.

    Returns:
      `field(target.x)`, `[*dims]`, and the penalty, `[]`.

    Raises:
      ValueError: if the field is not shaped like the state.

    Example:
      >>> target = of_pair(paths.linear(), jnp.array([1.0, -1.0]), jnp.array([2.0, 0.0]), 0.5)
      >>> value, penalty = match_trace(lambda x: 0.0 * x, target)
      >>> float(penalty)  # sigma r = -(2 - 2) - 2 over d = 2, squared
      1.0

    Reference:
      Huang et al. (2025), arXiv 2602.00869, section 4.1 and appendix D. [huang2025improving]
    """
    value, div = divergence(field, target.x)
    _checks.same_shape(x=target.x, velocity=value)
    return value, jnp.square(residual(value, div, target) / target.x.size)


def match_product(
    key: Key,
    field: Callable[[Array], Array],
    target: Target,
    *,
    probe: Callable[..., Array] = jax.random.rademacher,
) -> tuple[Array, Array]:
    """Returns the value of the field and an unbiased estimate of its squared residual.

    The product of the residuals of two independent probes: its mean is the exact square, where
    the square of one probe is too large by the variance of the probe. It may be negative.

    Args:
      key: a typed PRNG key, one per example.
      field: the velocity at the time of the target, `[*dims] -> [*dims]`.
      target: of a pair or of a data set.
      probe: `(key, shape, dtype) -> z` with `E[z z^T] = I`.

    Returns:
      `field(target.x)`, `[*dims]`, and the estimate, `[]`.

    Raises:
      ValueError: if the field is not shaped like the state.

    Example:
      >>> target = of_pair(paths.linear(), jnp.array([1.0, -1.0]), jnp.array([2.0, 0.0]), 0.5)
      >>> float(match_product(jax.random.key(0), lambda x: 0.0 * x, target)[1])
      1.0

    Reference:
      The paper's efficient loss, Huang et al. (2025), arXiv 2602.00869, appendix D.1, without
      the bias of its single probe. [huang2025improving]
    """
    value, tangents, probes = _tangents(key, field, target.x, 2, probe)
    first, second = (
        residual(value, jnp.sum(z * tangent), target) / target.x.size
        for z, tangent in zip(probes, tangents, strict=True)
    )
    return value, first * second


def match_jacobian(
    key: Key,
    field: Callable[[Array], Array],
    target: Target,
    *,
    num_probes: int = 1,
    probe: Callable[..., Array] = jax.random.rademacher,
) -> tuple[Array, Array]:
    """Returns the value of the field and the mean square of its residual as a matrix.

    The residual (1) is the trace of `M = grad(u - v) + (u - v) s^T`, which vanishes at v = u as
    the trace does, and in the conditional mean as well. The penalty estimates
    `sigma^2 |M|_F^2 / d`, at least the square of `match_trace`: a stronger condition, on all
    derivatives of the velocity.

    Args:
      key: a typed PRNG key, one per example.
      field: the velocity at the time of the target, `[*dims] -> [*dims]`.
      target: of a pair or of a data set.
      num_probes: directions z of `M z`; one is unbiased.
      probe: `(key, shape, dtype) -> z` with `E[z z^T] = I`.

    Returns:
      `field(target.x)`, `[*dims]`, and the penalty, `[]`.

    Raises:
      ValueError: if the field is not shaped like the state, or `num_probes` is not positive.

    Example:
      >>> target = of_pair(paths.linear(), jnp.array([1.0, -1.0]), jnp.array([2.0, 0.0]), 0.5)
      >>> float(match_jacobian(jax.random.key(0), lambda x: 0.0 * x, target)[1])
      5.0

    Reference:
      The variant called "derivative" in the paper's experiments, Huang et al. (2025), arXiv
      2602.00869. [huang2025improving]
    """
    value, tangents, probes = _tangents(key, field, target.x, num_probes, probe)
    gap = target.velocity - jax.lax.stop_gradient(value)
    penalties = []
    for z, tangent in zip(probes, tangents, strict=True):
        # sigma (grad u - grad v) z + (u - v) (sigma s . z)
        row = target.slope(z) - target.sigma * tangent - gap * jnp.sum(target.noise * z)
        penalties.append(jnp.mean(jnp.square(row)))
    return value, sum(penalties) / num_probes


def residual(value: Array, div: Array, target: Target) -> Array:
    """Returns sigma r of eq. (3), `[]`, without a gradient through the value.

    Args:
      value: `[*dims]`, the velocity at the state.
      div: `[]`, its divergence.
      target: of a pair or of a data set.

    Returns:
      `[]`, per unit of time, times sigma.

    Example:
      >>> target = of_pair(paths.linear(), jnp.array([1.0, -1.0]), jnp.array([2.0, 0.0]), 0.5)
      >>> value, div = divergence.exact(lambda x: 0.0 * x, target.x)
      >>> float(residual(value, div, target))
      -2.0

    Reference:
      Huang et al. (2025), arXiv 2602.00869, eqs. (8) and (14). [huang2025improving]
    """
    pushed = jnp.sum(jax.lax.stop_gradient(value) * target.noise)
    return target.rate + pushed - target.sigma * div


def _tangents(
    key: Key,
    field: Callable[[Array], Array],
    x: Array,
    num_probes: int,
    probe: Callable[..., Array],
) -> tuple[Array, list[Array], list[Array]]:
    """Returns the value of a field and its derivatives along random probes, and the probes."""
    if num_probes < 1:
        message = f"num_probes must be at least 1, got {num_probes}: it counts random probes."
        raise ValueError(message)
    value, tangent_map = jax.linearize(field, x)
    _checks.same_shape(x=x, velocity=value)
    probes = [probe(k, x.shape, x.dtype) for k in jax.random.split(key, num_probes)]
    return value, [tangent_map(z) for z in probes], probes
