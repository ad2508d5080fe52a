"""Four Gaussian peaks on a line and the linear path to them: how far a trained flow is from it.

Density and velocity of the path are in closed form (`experiments.fdm._laws`), so the distance of a
trained flow from its path is computed, not estimated; the equations of the bounds are those of
`fmjax.path_error`. A function that takes `velocity` takes one network.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import fmjax
from experiments.fdm import _laws
from experiments.run import numbers
from fmjax import path_error
from fmjax.types import Array, Velocity

path = _laws.path

GRID = np.linspace(-6.0, 6.0, 401, dtype=np.float32)
CELL = 12.0 / 400
# Four decades towards the data, twenty times in each: evenly in log(1 - t).
NEAR_DATA = 1.0 - np.geomspace(1.0, 1e-4, 81)
DECADES = (20, 40, 60, 80)  # where 1 - t is 0.1, 0.01, ...
ERRORS = ("conditional_flow", "conditional_divergence", "flow", "divergence", "residual")


def sample_data(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """Returns draws of the data, float32 `[*shape]`."""
    weights, means, deviations = _laws.LINE
    k = rng.choice(len(weights), size=shape, p=weights)
    return np.float32(means[k, 0] + deviations[k] * rng.standard_normal(shape))


def log_density(x: Array, t: Array) -> Array:
    """Returns log p_t(x), `[]`, in nats."""
    return _laws.log_density(_laws.LINE, x[None], t)


def true_velocity(x: Array, t: Array) -> Array:
    """Returns the velocity of the path, `[]`."""
    return _laws.velocity(_laws.LINE, x[None], t)[0]


def errors(velocity: Velocity, x0: Array, x1: Array, t: Array) -> dict[str, Array]:
    """Returns the losses of one pair, and the errors of velocity and divergence at its state.

    The conditional losses are what training sees; most of them is the noise of the pair, which no
    velocity can remove. The errors are 0 for the true velocity: `(v - u)^2`, `(sigma r)^2` and
    `|r|`, half the mean of which bounds the total variation at t = 1.
    """
    x = fmjax.paths.interpolate(path, x0, x1, t)
    residual = path_error.residual(log_density, velocity, x, t)
    values = (
        fmjax.losses.cfm(velocity, path, x0, x1, t),
        fmjax.losses.cdm(velocity, path, x0, x1, t),
        (velocity(x, t) - true_velocity(x, t)) ** 2,
        (path.sigma(t) * residual) ** 2,
        jnp.abs(residual),
    )
    return dict(zip(ERRORS, values, strict=True))


def true_densities(times: Array) -> Array:
    """Returns p_t on the grid, `[times, grid]`."""
    over_grid = jax.vmap(log_density, (0, None))
    return jnp.exp(jax.vmap(over_grid, (None, 0))(jnp.asarray(GRID), times))


def densities(velocity: Velocity, times: Array, *, tolerance: float) -> Array:
    """Returns the density of the flow on the grid, `[times, grid]`.

    Args:
      velocity: the field.
      times: `[n]`, in (0, 1].
      tolerance: relative and absolute, of a step of the adaptive solver.
    """
    solve = partial(fmjax.samplers.adaptive, rtol=tolerance, atol=tolerance)
    log_prob = partial(fmjax.likelihood.log_prob, velocity, solve=solve)
    over_grid = lambda t: jax.vmap(partial(log_prob, t1=t))(jnp.asarray(GRID))  # noqa: E731
    return jnp.exp(jax.lax.map(over_grid, times))


def bound(velocity: Velocity, times: Array) -> Array:
    """Returns the bound of theorem 3.3 at the times, which follow 0."""
    times = jnp.concatenate([jnp.zeros_like(times[:1]), times])
    grid = jnp.asarray(GRID)
    return path_error.bound(log_density, velocity, grid, CELL, times, num_nodes=2)[1:]


def conditional_bound(velocity: Velocity, x0: Array, x1: Array) -> Array:
    """Returns half the integral of E|r(x | x1)| from 0 to each time of `NEAR_DATA` (theorem 4.1).

    Args:
      velocity: the field.
      x0: `[n]`, noise; the mean over the pairs stands for the expectation.
      x1: `[n]`, data.
    """
    t = jnp.asarray(NEAR_DATA, x0.dtype)
    absolute = partial(fmjax.losses.cdm_absolute, velocity, path)
    rate = jax.lax.map(lambda t: jax.vmap(absolute, (0, 0, None))(x0, x1, t).mean(), t)
    # In -log(1 - t) the integrand (1 - t) E|r| is smooth and bounded: the trapezium rule.
    height = 0.5 * rate * jnp.asarray(1.0 - NEAR_DATA, t.dtype)
    steps = jnp.asarray(np.diff(-np.log1p(-NEAR_DATA)), t.dtype)
    areas = 0.5 * steps * (height[1:] + height[:-1])
    return jnp.concatenate([jnp.zeros_like(t[:1]), jnp.cumsum(areas)])


def tables(made: dict[str, np.ndarray], times: np.ndarray) -> dict[str, Any]:
    """Returns the numbers of one method.

    Args:
      made: `total_variation` and `bound`, `[seeds, times]`; `conditional_bound`,
        `[seeds, len(NEAR_DATA)]`; and the mean of each of `ERRORS`, `[seeds]`.
      times: `[times]`.
    """
    return {
        "by_time": [
            {"t": t}
            | {part: numbers.summary(made[part][:, i]) for part in ("total_variation", "bound")}
            for i, t in enumerate(times)
        ],
        "conditional_bound": [
            {"t": NEAR_DATA[i]} | numbers.summary(made["conditional_bound"][:, i]) for i in DECADES
        ],
        "errors": {part: numbers.summary(made[part]) for part in ERRORS},
    }
