"""What is measured of a network on the checkerboard: likelihoods, errors along the path, edges.

A smooth velocity cannot make the density jump at the sides of the squares, so what a network lacks
of the greatest possible log-likelihood is looked at by the distance of the data from there.
"""

import functools
import math

import diffrax
import jax
import jax.numpy as jnp
import numpy as np

import fmjax
from experiments.fdm._checkerboard import law
from experiments.fdm._checkerboard.fields import Apply
from fmjax.types import Array, PyTree

EDGE = 0.1  # of the side of a square


@functools.partial(jax.jit, static_argnames=("apply", "tolerance"))
def log_likelihoods(apply: Apply, params: PyTree, points: Array, *, tolerance: float) -> Array:
    """Returns the log-density of many points at t = 1; compiled once for all networks.

    Args:
      apply: `(params, x, t) -> dx`.
      params: the parameters of the network.
      points: `[n, 2]`.
      tolerance: relative and absolute, of the adaptive solver.
    """
    solve = functools.partial(fmjax.samplers.adaptive, rtol=tolerance, atol=tolerance)
    return _log_likelihoods(apply, params, points, solve)


@functools.partial(jax.jit, static_argnames=("apply", "num_steps"))
def log_likelihoods_by_euler(
    apply: Apply, params: PyTree, points: Array, *, num_steps: int
) -> Array:
    """Returns the same by the paper's solver, Euler's method; not the density of any model.

    Its mean over probes is the loss with the exact divergence, which is taken here.

    Args:
      apply: `(params, x, t) -> dx`.
      params: the parameters of the network.
      points: `[n, 2]`.
      num_steps: equal steps.
    """
    euler = functools.partial(fmjax.samplers.fixed, num_steps=num_steps, solver=diffrax.Euler())
    return _log_likelihoods(apply, params, points, euler)


def _log_likelihoods(
    apply: Apply, params: PyTree, points: Array, solve: fmjax.types.Solve
) -> Array:
    velocity = functools.partial(apply, params)
    one = functools.partial(fmjax.likelihood.log_prob, velocity, solve=solve)
    return jax.lax.map(one, points, batch_size=1024)


@functools.partial(jax.jit, static_argnames=("apply", "tolerance"))
def variation(
    apply: Apply, params: PyTree, grid: Array, area: float, t: Array, *, tolerance: float
) -> Array:
    """Returns the total variation between a network's density and the exact one at one time."""
    velocity = functools.partial(apply, params)
    solve = functools.partial(fmjax.samplers.adaptive, rtol=tolerance, atol=tolerance)
    return fmjax.path_error.total_variation(
        law.log_density, velocity, grid, area, t, solve=solve, batch_size=1024
    )


@functools.partial(jax.jit, static_argnames="apply")
def curves(
    apply: Apply, params: PyTree, points: Array, pairs: tuple[Array, ...]
) -> dict[str, Array]:
    """Returns what the curves show: the log-likelihood of a few points, and the errors left.

    The errors are those of the velocity and of what it does to the density, without the noise of a
    pair that the losses contain.
    """
    velocity = functools.partial(apply, params)

    def errors(x0: Array, x1: Array, t: Array) -> dict[str, Array]:
        t = 0.02 + 0.96 * t  # where the exact score is finite in float32
        x = fmjax.paths.interpolate(law.path, x0, x1, t)
        r = fmjax.path_error.residual(law.log_density, velocity, x, t)
        gap = velocity(x, t) - law.velocity(x, t)
        return {"flow_error": jnp.mean(gap**2), "residual": jnp.abs(law.path.sigma(t) * r)}

    log_p = log_likelihoods(apply, params, points, tolerance=1e-3).mean()
    return {"log_likelihood": log_p} | jax.tree.map(jnp.mean, jax.vmap(errors)(*pairs))


def lost(points: Array, log_p: Array) -> dict[str, float]:
    """Returns what is missing to the greatest mean log-likelihood, in nats, and how much at edges.

    Args:
      points: `[n, 2]`, data.
      log_p: `[n]`, their log-density under a model.
    """
    gap = math.log(law.CEILING) - np.asarray(log_p, np.float64)
    near = edge_distance(np.asarray(points, np.float64)) < EDGE
    total = gap.mean()
    return {"nats": float(total), "share_at_edges": float(np.mean(gap * near) / total)}


def blurred(points: Array, std: float) -> float:
    """Returns what the exact law, blurred, loses of the greatest mean log-likelihood, in nats.

    Args:
      points: `[n, 2]`, data.
      std: of the noise that blurs it.
    """
    log_p = _log_blurred(points, std)
    return float(math.log(law.CEILING) - np.asarray(log_p, np.float64).mean())


_log_blurred = jax.jit(jax.vmap(law.log_blurred, (0, None)))  # compiled once for all blurs


def edge_distance(points: np.ndarray) -> np.ndarray:
    """Returns the distance `[n]` of data `[n, 2]` from the sides of their square, over its side."""
    inside = np.mod(points / law.SIDE, 1.0)
    return np.minimum(inside, 1.0 - inside).min(axis=1)


def edge_area() -> float:
    """Returns the share of a square that lies within `EDGE` of its sides."""
    return 1.0 - (1.0 - 2.0 * EDGE) ** 2
