"""The error of a density at one point: its residual, its source, and its transport by the flow.

The equations are numbered as in `fmjax.path_error`.

Reference:
  Huang et al. (2025), Improving Flow Matching by Aligning Flow Divergence, arXiv 2602.00869.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp

from fmjax import _checks, divergence, likelihood, samplers
from fmjax.path_error._density import LogDensity, scalar
from fmjax.types import Array, Divergence, Solve, Velocity

__all__ = ["duhamel", "forcing", "residual"]


def residual(
    log_density: LogDensity,
    velocity: Velocity,
    x: Array,
    t: Array,
    *,
    divergence: Divergence = divergence.exact,
) -> Array:
    """Computes the residual r of the continuity equation, eq. (2).

    Args:
      log_density: the log-density of the true law, `(x[*dims], t[]) -> []`, in nats.
      velocity: the learned field, `(x[*dims], t[]) -> [*dims]`.
      x: `[*dims]`, a point where the density is positive.
      t: `[]`, in [0, 1].
      divergence: any estimator of `fmjax.divergence`.

    Returns:
      `[]`, per unit of time; 0 for the true velocity.

    Raises:
      ValueError: if the log-density is not a scalar, if the velocity is not shaped like `x`, or if
        `t` is batched or a static number outside [0, 1].

    Example:
      >>> import fmjax
      >>> import jax.numpy as jnp
      >>> widening = lambda x, t: fmjax.likelihood.standard_normal(x, scale=1 + t)
      >>> x, true, still = jnp.array([2.0, 1.0]), lambda x, t: x / (1 + t), lambda x, t: 0 * x
      >>> abs(round(float(fmjax.path_error.residual(widening, true, x, 0.5)), 4))
      0.0
      >>> float(fmjax.path_error.residual(widening, still, x, 0.0))  # d - |x|^2
      -3.0

    Reference:
      Huang et al. (2025), arXiv 2602.00869, Proposition 3.1. [huang2025improving]
    """
    _checks.functions(log_density=log_density, velocity=velocity, divergence=divergence)
    x = _checks.state(x)
    t = _checks.time(t).astype(_checks.wide_dtype(x))
    value, div = _checks.divergence_of(divergence, _checks.at(velocity, t), x)
    score, rate = jax.grad(partial(scalar, log_density), argnums=(0, 1))(x, t)
    return -(rate + div + jnp.sum(_checks.wide(value) * _checks.wide(score)))


def forcing(
    log_density: LogDensity,
    velocity: Velocity,
    x: Array,
    t: Array,
    *,
    divergence: Divergence = divergence.exact,
) -> Array:
    """Computes the source of the density's error, `-p r`, the right side of eq. (1).

    Args:
      log_density: the log-density of the true law, `(x[*dims], t[]) -> []`, in nats.
      velocity: the learned field, `(x[*dims], t[]) -> [*dims]`.
      x: `[*dims]`.
      t: `[]`, in [0, 1].
      divergence: any estimator of `fmjax.divergence`.

    Returns:
      `[]`, a density per unit of time. Its integral over x is 0.

    Raises:
      ValueError: as `residual`.

    Example:
      >>> import fmjax
      >>> import jax.numpy as jnp
      >>> widening = lambda x, t: fmjax.likelihood.standard_normal(x, scale=1 + t)
      >>> still = lambda x, t: 0 * x
      >>> value = fmjax.path_error.forcing(widening, still, jnp.zeros(1), 0.0)
      >>> print(f"{value:.4f}")  # -1 / sqrt(2 pi)
      -0.3989

    Reference:
      Huang et al. (2025), arXiv 2602.00869, eq. (8). [huang2025improving]
    """
    _checks.functions(log_density=log_density, velocity=velocity, divergence=divergence)
    x = _checks.state(x)
    t = _checks.time(t).astype(_checks.wide_dtype(x))
    rest = residual(log_density, velocity, x, t, divergence=divergence)
    return -jnp.exp(log_density(x, t)) * rest


def duhamel(
    log_density: LogDensity,
    velocity: Velocity,
    x0: Array,
    t: Array,
    *,
    log_prob0: Callable[[Array], Array] = likelihood.standard_normal,
    divergence: Divergence = divergence.exact,
    solve: Solve = samplers.adaptive,
) -> tuple[Array, Array]:
    """Moves a point along the learned flow and computes the error of the density there, eq. (3).

    One solve integrates the point, the logarithm of J and the integral. The density of the learned
    flow is never formed. So `exp(log_density) - exp(likelihood.log_prob)` at the same point is an
    independent check.

    Args:
      log_density: the log-density of the true law, `(x[*dims], t[]) -> []`, in nats.
      velocity: the learned field, `(x[*dims], t[]) -> [*dims]`.
      x0: `[*dims]`, the point at time 0.
      t: `[]`, in [0, 1], where to stop.
      log_prob0: log-density of the noise that the learned flow starts from, `[*dims] -> []`.
      divergence: any estimator of `fmjax.divergence`; for a random one bind one key.
      solve: `samplers.adaptive` or `samplers.fixed`, with options bound.

    Returns:
      The point at time t, `[*dims]`, and `p_t - q_t` there, `[]`.

    Raises:
      ValueError: as `residual`.

    Example:
      >>> import fmjax
      >>> import jax.numpy as jnp
      >>> widening = lambda x, t: fmjax.likelihood.standard_normal(x, scale=1 + t)
      >>> still = lambda x, t: 0 * x
      >>> x, error = fmjax.path_error.duhamel(widening, still, jnp.zeros(1), 1.0)
      >>> print(f"{x[0]:.1f}, {error:.4f}")  # N(0; 0, 4) - N(0; 0, 1)
      0.0, -0.1995

    Reference:
      Huang et al. (2025), arXiv 2602.00869, Corollary 3.2. [huang2025improving]
    """
    _checks.functions(
        log_density=log_density,
        velocity=velocity,
        log_prob0=log_prob0,
        divergence=divergence,
        solve=solve,
    )

    def field(state: tuple[Array, Array, Array], t: Array) -> tuple[Array, Array, Array]:
        x, log_det, _ = state
        value, div = _checks.divergence_of(divergence, _checks.at(velocity, t), x)
        # The same linearization serves the residual.
        known = lambda _, x: (value, div)  # noqa: ARG005, E731
        drive = forcing(log_density, velocity, x, t, divergence=known)
        return value, div, drive * jnp.exp(log_det)

    _checks.time(t)
    x0 = _checks.state(x0, "x0")
    start = jnp.zeros((), _checks.wide_dtype(x0))
    error0 = jnp.exp(scalar(log_density, x0, start)) - jnp.exp(log_prob0(x0))
    x, log_det, total = solve(field, (x0, start, error0), 0.0, t)
    return x, total * jnp.exp(-log_det)
