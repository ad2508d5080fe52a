"""The error of a whole density in one or two dimensions, summed over a grid of points.

The equations are numbered as in `fmjax.path_error`. Sums over equally spaced points are accurate
once the grid resolves the narrowest peak; for |r|, which has kinks, the error is quadratic in the
spacing.

Reference:
  Huang et al. (2025), Improving Flow Matching by Aligning Flow Divergence, arXiv 2602.00869.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from fmjax import _checks, divergence, likelihood, metrics, samplers
from fmjax.path_error._density import LogDensity
from fmjax.path_error.pointwise import residual
from fmjax.types import Array, Divergence, Solve, Velocity

__all__ = ["bound", "total_variation"]


def bound(
    log_density: LogDensity,
    velocity: Velocity,
    grid: Array,
    cell: float,
    times: Array,
    *,
    divergence: Divergence = divergence.exact,
    num_nodes: int = 8,
    batch_size: int = 4096,
) -> Array:
    """Computes the bound on the total variation at several times, the integral of eq. (4).

    It takes a batch: a grid of points over which the law is summed. Times are integrated by
    Gauss-Legendre nodes inside each interval, never at its ends. If the two laws differ at
    `times[0]`, add their total variation there.

    Args:
      log_density: the log-density of the true law, `(x[*dims], t[]) -> []`, in nats.
      velocity: the learned field, `(x[*dims], t[]) -> [*dims]`.
      grid: `[m, *dims]`, equally spaced points that cover the law at all times; the sum over them
        should resolve its narrowest peak.
      cell: volume of the cell around one point, positive.
      times: `[n]`, n >= 2, increasing, in [0, 1].
      divergence: any exact divergence of `fmjax.divergence`.
      num_nodes: nodes in each interval of time.
      batch_size: number of points evaluated at a time; memory grows with it.

    Returns:
      `[n]`, the bound at `times`; the first is 0.

    Raises:
      ValueError: as `residual`; if the grid has no point; if `times` is not a vector of two or
        more, or static and not increasing; if `cell`, `num_nodes` or `batch_size` is not positive.

    Example:
      >>> import fmjax
      >>> import jax.numpy as jnp
      >>> widening = lambda x, t: fmjax.likelihood.standard_normal(x, scale=1 + t)
      >>> grid, cell, times = jnp.linspace(-12.0, 12.0, 400), 24 / 399, jnp.array([0.0, 1.0])
      >>> start, end = fmjax.path_error.bound(widening, lambda x, t: 0 * x, grid, cell, times)
      >>> print(f"{start:.3f}, {end:.3f}")  # E|1 - z^2| / 2 log 2
      0.000, 0.335

    Reference:
      Huang et al. (2025), arXiv 2602.00869, Theorem 3.3. [huang2025improving]
    """
    _checks.functions(log_density=log_density, velocity=velocity, divergence=divergence)
    _check_cell(cell)
    _checks.count("it counts evaluations", num_nodes=num_nodes, batch_size=batch_size)
    grid = _points(grid)
    times = _increasing(times, _checks.wide_dtype(grid))
    points, weights = np.polynomial.legendre.leggauss(num_nodes)  # on [-1, 1]

    def rate(t: Array) -> Array:
        def at(x: Array) -> Array:
            p = jnp.exp(log_density(x, t))
            rest = residual(log_density, velocity, x, t, divergence=divergence)
            # Off the law r may be infinite; a density that is NaN is not off it.
            return jnp.where(p == 0, 0.0, p * jnp.abs(rest))

        return 0.5 * cell * jnp.sum(_checks.wide(_over(at, grid, batch_size)))

    half = 0.5 * jnp.diff(times)[:, None]
    inside = times[:-1, None] + half * jnp.asarray(points + 1.0, times.dtype)[None]
    rates = jax.lax.map(rate, inside.ravel()).reshape(inside.shape)
    integrals = jnp.sum(half * jnp.asarray(weights, times.dtype)[None] * rates, axis=1)
    return jnp.concatenate([jnp.zeros_like(times[:1]), jnp.cumsum(integrals)])


def total_variation(
    log_density: LogDensity,
    velocity: Velocity,
    grid: Array,
    cell: float,
    t: Array,
    *,
    log_prob0: Callable[[Array], Array] = likelihood.standard_normal,
    divergence: Divergence = divergence.exact,
    solve: Solve = samplers.adaptive,
    batch_size: int = 4096,
) -> Array:
    """Computes the total variation distance of the true law and the learned law at one time.

    It takes a batch: a grid of points over which both densities are summed. The learned density
    comes from `likelihood.log_prob`.

    Args:
      log_density: the log-density of the true law, `(x[*dims], t[]) -> []`, in nats.
      velocity: the learned field, `(x[*dims], t[]) -> [*dims]`.
      grid: `[m, *dims]`, equally spaced points that cover both laws.
      cell: volume of the cell around one point, positive.
      t: `[]`, in (0, 1].
      log_prob0: log-density of the noise that the learned flow starts from, `[*dims] -> []`.
      divergence: any exact divergence of `fmjax.divergence`.
      solve: `samplers.adaptive` or `samplers.fixed`, with options bound.
      batch_size: number of points evaluated at a time; memory grows with it.

    Returns:
      `[]`, in [0, 1] if the grid covers both laws.

    Raises:
      ValueError: as `likelihood.log_prob`; if the grid has no point; if `cell` or `batch_size` is
        not positive.

    Example:
      >>> import fmjax
      >>> import jax.numpy as jnp
      >>> widening = lambda x, t: fmjax.likelihood.standard_normal(x, scale=1 + t)
      >>> still, grid, cell = lambda x, t: 0 * x, jnp.linspace(-12.0, 12.0, 400), 24 / 399
      >>> tv = fmjax.path_error.total_variation(widening, still, grid, cell, 1.0)
      >>> print(f"{tv:.3f}")
      0.323

    Reference:
      Huang et al. (2025), arXiv 2602.00869, section 3. [huang2025improving]
    """
    _checks.functions(
        log_density=log_density,
        velocity=velocity,
        log_prob0=log_prob0,
        divergence=divergence,
        solve=solve,
    )
    _check_cell(cell)
    _checks.count("it counts points", batch_size=batch_size)
    grid = _points(grid)
    _checks.time(t)
    options = {"log_prob0": log_prob0, "divergence": divergence, "solve": solve, "t1": t}
    learned = _over(partial(likelihood.log_prob, velocity, **options), grid, batch_size)
    true = _over(
        lambda x: log_density(x, _checks.time(t).astype(_checks.wide_dtype(x))), grid, batch_size
    )
    return metrics.total_variation(cell * jnp.exp(true), cell * jnp.exp(learned))


def _over(function: Callable[[Array], Array], grid: Array, batch_size: int) -> Array:
    """Returns the function at every point of the grid, some at a time."""
    return jax.lax.map(function, grid, batch_size=min(batch_size, len(grid)))


def _points(grid: Array) -> Array:
    """Returns the points of a grid, or says that there are none."""
    grid = _checks.state(grid, "grid")
    if grid.ndim == 0 or grid.shape[0] == 0:
        message = (
            f"grid must be [m, *dims] with m >= 1, got shape {grid.shape}: the laws are summed "
            "over its points."
        )
        raise ValueError(message)
    return grid


def _increasing(times: Array, dtype: jnp.dtype) -> Array:
    """Returns the times in a dtype, or says what is wrong with them."""
    made = _checks.times(times, dtype, 2, "give the time at which the integral starts too")
    known = not any(isinstance(t, jax.Array) for t in jax.tree.leaves(times))
    if known and np.any(np.diff(times) <= 0):
        message = f"times must increase, got {list(times)}: the bound adds up along them."
        raise ValueError(message)
    return made


def _check_cell(cell: float) -> None:
    if not isinstance(cell, jax.Array) and not cell > 0:
        message = f"cell must be positive, got {cell}: it is the volume around one point."
        raise ValueError(message)
