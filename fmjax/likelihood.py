"""Exact likelihoods of a flow by the change of variables.

If x moves with velocity v, the log-density at the moving point changes at the rate `-div v`.
Integrating from a data point back to noise gives

    log p1(x1) = log p0(x0) - integral_0^1 div v(x_t, t) dt                       (1)

The state and the integral form one ODE. Any solver of `fmjax.samplers` can solve it, with any
estimator of `fmjax.divergence`. With an unbiased estimator and an accurate solver the estimate of
(1) is unbiased.

Everything works on one example. An adaptive solver chooses the steps of each example separately,
so a log-density never depends on the rest of the batch. Differentiate results in reverse mode,
with respect to x1 or the parameters of the velocity. For second derivatives bind a solver with
`adjoint=diffrax.DirectAdjoint()`. Wrap calls in `jax.jit`, as for every solver.

References:
  Chen et al. (2018), Neural Ordinary Differential Equations, arXiv 1806.07366, eq. (8).
  Grathwohl et al. (2019), FFJORD, arXiv 1810.01367.
  Theis, van den Oord and Bethge (2016), A note on the evaluation of generative models, arXiv
  1511.01844 (dequantization, bits per dimension).
"""

from __future__ import annotations

import numbers
from collections.abc import Callable

import jax
import jax.numpy as jnp

from fmjax import _checks, divergence, samplers
from fmjax.types import Array, Divergence, Solve, Velocity

__all__ = ["bits_per_dim", "log_prob", "standard_normal"]


def standard_normal(x: Array, *, scale: float = 1.0) -> Array:
    """Computes the log-density of `N(0, scale^2 I)`.

    Args:
      x: `[*dims]`.
      scale: standard deviation, positive; `sigma_max` for the variance-exploding path.

    Returns:
      `[]`, in nats.

    Raises:
      ValueError: if `scale` is a static number that is not positive, or if x is complex.

    Example:
      >>> import fmjax
      >>> import jax.numpy as jnp
      >>> round(float(fmjax.likelihood.standard_normal(jnp.zeros(2), scale=2.0)), 4)
      -3.2242

    Reference:
      Any textbook of statistics.
    """
    if isinstance(scale, numbers.Number) and not scale > 0:
        message = f"scale must be positive, got {scale}: it is a standard deviation."
        raise ValueError(message)
    _checks.real(x=x)
    x = _checks.wide(x)
    log_scale = jnp.log(jnp.asarray(scale, dtype=x.dtype))
    return -0.5 * jnp.sum((x / scale) ** 2) - x.size * (0.5 * jnp.log(2 * jnp.pi) + log_scale)


def log_prob(
    velocity: Velocity,
    x1: Array,
    *,
    log_prob0: Callable[[Array], Array] = standard_normal,
    divergence: Divergence = divergence.exact,
    solve: Solve = samplers.adaptive,
    t0: float = 0.0,
    t1: float = 1.0,
) -> Array:
    """Computes the log-density of a data point under the flow, eq. (1).

    Args:
      velocity: the field, `(x[*dims], t[]) -> [*dims]`, from noise at t0 to data at t1.
      x1: `[*dims]`, the point.
      log_prob0: log-density of the noise at t0, `[*dims] -> []`.
      divergence: any estimator of `fmjax.divergence`. For a random estimator bind one key per
        example, which keeps the right-hand side smooth in time.
      solve: `samplers.adaptive` or `samplers.fixed`, with options bound.
      t0: time of the noise, in [0, 1).
      t1: time of the data, in (t0, 1]; below 1 for a velocity that is singular at 1.

    Returns:
      `[]`, in nats.

    Raises:
      ValueError: if the velocity is not shaped like `x1`, if x1 is complex, if a time is outside
        [0, 1], or unless t0 < t1.

    Example:
      >>> import fmjax
      >>> import jax.numpy as jnp
      >>> widen = lambda x, t: jnp.log(2.0) * x  # carries N(0, 1) to N(0, 4)
      >>> log_prob = fmjax.likelihood.log_prob(widen, jnp.array([3.0]))
      >>> round(float(log_prob), 3)  # log N(3; 0, 4)
      -2.737

    Reference:
      Chen et al. (2018), arXiv 1806.07366, eq. (8). [chen2018neural]
    """
    _checks.functions(velocity=velocity, log_prob0=log_prob0, divergence=divergence, solve=solve)

    for time, name in ((t0, "t0"), (t1, "t1")):
        _checks.time(time, name)

    def field(state: tuple[Array, Array], t: Array) -> tuple[Array, Array]:
        return _checks.divergence_of(divergence, _checks.at(velocity, t), state[0])

    if not isinstance(t0, jax.Array) and not isinstance(t1, jax.Array) and not t0 < t1:
        message = f"log_prob needs t0 < t1, got {t0} and {t1}: noise is at t0 and data at t1."
        raise ValueError(message)
    x1 = _checks.state(x1, "x1")
    # Solved from t1 down to t0, the second entry becomes minus the integral in (1).
    x0, minus_integral = solve(field, (x1, jnp.zeros((), _checks.wide_dtype(x1))), t1, t0)
    return log_prob0(x0) + minus_integral


def bits_per_dim(log_prob: Array, num_dims: int, *, bin_width: float = 1.0) -> Array:
    """Converts a log-density to a negative log-likelihood in bits per dimension.

    For data with discrete levels, add uniform noise that fills a bin. The result is then an upper
    bound on the bits per dimension of a discrete model.

    Args:
      log_prob: log-density in nats, `[]` or any shape.
      num_dims: number of dimensions of one example, d.
      bin_width: width of one level in the units of the data: 2 / 256 for 8-bit images scaled to
        [-1, 1]; 1 does not change the density.

    Returns:
      Like `log_prob`, `-(log_prob + d log(bin_width)) / (d log 2)`.

    Raises:
      ValueError: if `num_dims` or `bin_width` is not positive.

    Example:
      >>> import fmjax
      >>> import jax.numpy as jnp
      >>> bits = fmjax.likelihood.bits_per_dim(jnp.array(-2.0), 2, bin_width=0.5)
      >>> round(float(bits), 4)
      2.4427

    Reference:
      Theis et al. (2016), arXiv 1511.01844, section 3.1. [theis2016note]
    """
    _checks.count("give the size of one example, x.size", num_dims=num_dims)
    if not isinstance(bin_width, jax.Array) and not bin_width > 0:
        message = f"bin_width must be positive, got {bin_width}: it is the width of one level."
        raise ValueError(message)
    log_prob = _checks.floating(log_prob, "log_prob")
    return -(log_prob / num_dims + jnp.log(bin_width)) / jnp.log(2.0)
