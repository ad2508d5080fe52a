"""Exact likelihoods of a flow by the change of variables.

If x moves with velocity v, the log-density at the moving point changes at the rate `-div v`.
Integrating from a data point back to noise gives

    log p1(x1) = log p0(x0) - integral_0^1 div v(x_t, t) dt                       (1)

The state and the integral form one ODE. Any solver of `fmjax.samplers` can solve it, with any
estimator of `fmjax.divergence`. With an unbiased estimator and an accurate solver the estimate of
(1) is unbiased.

A second way needs no Jacobian. By the relation of information and mean squared error, the
log-density of a law along a path from pure noise to the data is its flow matching loss at the exact
velocity u of the law, with a weight, and with a term of known mean that removes most of the noise:

    log p1(x1) = -d/2 log(2 pi e) - int_0^1 E[ alpha / (sigma D) |u_pair - u|^2
                     - alpha D / (sigma (alpha^2 + sigma^2)) |x0|^2 ] dt          (2)

where `D = alpha_dot sigma - alpha sigma_dot`, the mean is over the noise x0, u_pair is the velocity
of the pair (x0, x1) and u is evaluated at its x_t. A learned velocity gives two numbers by (1) and
(2) where an exact one gives one: their difference measures its error.

Everything works on one example. An adaptive solver chooses the steps of each example separately,
so a log-density never depends on the rest of the batch. Differentiate results in reverse mode,
with respect to x1 or the parameters of the velocity. For second derivatives bind a solver with
`adjoint=diffrax.DirectAdjoint()`. Wrap calls in `jax.jit`, as for every solver.

References:
  Chen et al. (2018), Neural Ordinary Differential Equations, arXiv 1806.07366, eq. (8).
  Grathwohl et al. (2019), FFJORD, arXiv 1810.01367.
  Kong, Brekelmans and Ver Steeg (2023), Information-Theoretic Diffusion, arXiv 2302.03792 (2).
  Theis, van den Oord and Bethge (2016), A note on the evaluation of generative models, arXiv
  1511.01844 (dequantization, bits per dimension).
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable

import jax
import jax.numpy as jnp

from fmjax import _checks, _jacobian, divergence, paths, predictions, samplers, times
from fmjax._jacobian import Estimate
from fmjax.paths import Path
from fmjax.types import Array, Divergence, Key, Solve, Velocity

__all__ = ["bits_per_dim", "from_errors", "log_prob", "standard_normal"]

_END = 0.05


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


def from_errors(
    key: Key, velocity: Velocity, path: Path, x1: Array, *, num_draws: int = 256
) -> Estimate:
    """Estimates the log-density from the errors of denoising, eq. (2), without a Jacobian.

    It is unbiased for the exact velocity of a law with a density, but for the little that a path
    leaves out whose alpha(0) or sigma(1) is not zero. Of a learned velocity it is the bound that
    diffusion models are trained on. An error of v that does not vanish with sigma counts without
    bound near the data: take a path that keeps some noise, `linear(sigma_min=1e-2)`, for the
    density of data with that noise.

    Args:
      key: a typed PRNG key, of the noise and the times.
      velocity: the field, `(x[*dims], t[]) -> [*dims]`.
      path: the path that it was trained on, from noise to data: `linear`, `cosine` or `vp`.
      x1: `[*dims]`, a data point, in the units of the model.
      num_draws: pairs of a noise and a time, at least 2; the times are stratified.

    Returns:
      `[]`, in nats, with a standard error, which the strata make a little too large.

    Raises:
      ValueError: if the path starts or ends elsewhere, `num_draws` is less than 2, or the velocity
        is not shaped like x1.

    Example:
      >>> import fmjax
      >>> import jax
      >>> import jax.numpy as jnp
      >>> gaussian = lambda x, t: (2 * t - 1) / (t**2 + (1 - t) ** 2) * x  # N(0, I) to N(0, I)
      >>> key, path, x1 = jax.random.key(0), fmjax.paths.linear(), jnp.array([1.0, -2.0])
      >>> found = fmjax.likelihood.from_errors(key, gaussian, path, x1)
      >>> exact = fmjax.likelihood.standard_normal(x1)
      >>> bool(abs(found.mean - exact) < 5 * found.standard_error)
      True

    Reference:
      Kong, Brekelmans and Ver Steeg (2023), arXiv 2302.03792. [kong2023information]
    """
    _checks.functions(velocity=velocity, path=path)
    _checks.count("the standard error is over draws", at_least=2, num_draws=num_draws)
    x1 = _checks.state(x1, "x1")
    _check_ends(path)

    def term(key: Key, t: Array) -> Array:
        x0 = jax.random.normal(key, x1.shape, _checks.wide_dtype(x1))
        c = paths.coefficients(path, t)
        x = c.alpha * x1 + c.sigma * x0
        value = _checks.at(velocity, t)(x.astype(x1.dtype))
        error = predictions.target(predictions.velocity, path, x0, x1, t) - value
        total = c.alpha**2 + c.sigma**2
        known = c.wronskian / total * jnp.sum(jnp.square(x0))
        return c.alpha / c.sigma * (known - jnp.sum(jnp.square(error)) / c.wronskian)

    key_time, key_noise = jax.random.split(key)
    ts = times.stratified(key_time, (num_draws,)).astype(_checks.wide_dtype(x1))
    terms = jax.vmap(term)(jax.random.split(key_noise, num_draws), ts)
    found = _jacobian.summary(terms)
    entropy = 0.5 * x1.size * math.log(2 * math.pi * math.e)
    return Estimate(found.mean - entropy, found.standard_error)


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


def _check_ends(path: Path) -> None:
    """Raises ValueError unless the path leads from next to no data to next to no noise."""
    with jax.ensure_compile_time_eval():
        data = path.alpha(0.0) / path.sigma(0.0)
        noise = path.sigma(1.0) / path.alpha(1.0)
    if isinstance(data, jax.core.Tracer) or isinstance(noise, jax.core.Tracer):
        return  # a path with a traced parameter
    if not (float(data) < _END and float(noise) < _END):
        message = (
            "path must lead from pure noise to the data, got alpha / sigma = "
            f"{float(data):.3g} at t = 0 and sigma / alpha = {float(noise):.3g} at t = 1: eq. (2) "
            "integrates over all levels of noise; take linear(), cosine() or vp()."
        )
        raise ValueError(message)
