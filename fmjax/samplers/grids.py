"""Times for a solver with fixed steps, small where the field asks for it."""

from __future__ import annotations

import jax.numpy as jnp

from fmjax import _checks
from fmjax.types import Array

__all__ = ["graded"]


def graded(times: Array, density: Array, num_steps: int) -> Array:
    """Chooses times between which the integral of a density is shared evenly.

    For a method of order p the leading error of a step of length h is `c h^(p+1)` at a state, and
    by the end it has grown by a factor g. The sum over steps is least for the density
    `(c g)^(1 / (p + 1))`: measure c and g on a few trajectories, average, and solve every other one
    along the times that come out, by `trajectory` with one step per interval. With the greatest
    rate of stretching in the place of `c g` (`fmjax.strain.extremes`) each step turns or stretches
    as much as any other. The integral is the trapezoidal one between the given times.

    Args:
      times: `[n]`, n >= 2, in [0, 1], increasing.
      density: `[n]`, at these times, not negative and finite; its unit does not matter. Where it is
        0 everywhere the steps are equal.
      num_steps: number of steps, positive.

    Returns:
      `[num_steps + 1]`, increasing from `times[0]` to `times[-1]`. Where the density is 0 no time
      is placed.

    Raises:
      ValueError: if `times` is not a vector of two or more real numbers in [0, 1], if the shapes
        differ, or if `num_steps` is not positive.

    Example:
      >>> from functools import partial
      >>> import fmjax
      >>> import jax.numpy as jnp
      >>> fine = jnp.linspace(0.0, 1.0, 101)
      >>> times = fmjax.samplers.graded(fine, fine, 4)
      >>> [round(float(t), 3) for t in times]
      [0.0, 0.5, 0.707, 0.866, 1.0]
      >>> one = partial(fmjax.samplers.fixed, num_steps=1)
      >>> states = fmjax.samplers.trajectory(lambda x, t: 2 * t, jnp.array(0.0), times, solve=one)
      >>> round(float(states[-1]), 3)
      1.0

    Reference:
      Ascher and Petzold (1998), Computer Methods for Ordinary Differential Equations, SIAM, section
      9.1, for equidistribution.
    """
    given = _checks.floating(density, "density")
    dtype = _checks.wide_dtype(given)
    times = _checks.times(times, dtype, 2, "give where the density is known")
    _checks.same_shape(times=times, density=given)
    _checks.count("it counts steps", num_steps=num_steps)
    density = given.astype(dtype)
    parts = 0.5 * (density[1:] + density[:-1]) * jnp.diff(times)
    total = parts.sum()
    # Where there is nothing to share, time itself is shared; a NaN is not zero and stays.
    parts = jnp.where(total == 0, jnp.diff(times), parts / jnp.where(total == 0, 1, total))
    reached = jnp.concatenate([jnp.zeros(1, dtype), jnp.cumsum(parts)])
    shares = jnp.linspace(0, 1, num_steps + 1, dtype=dtype) * reached[-1]
    inner = jnp.interp(shares, reached, times)
    return inner.at[0].set(times[0]).at[-1].set(times[-1] + 0 * total)
