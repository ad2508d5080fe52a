"""How far a network is from the exact field of a mixture, and how smooth it is.

The distance of the laws is their Kullback-Leibler divergence at t = 1 and, in the plane, their
total variation on the way. Smoothness is what an ODE solver meets: the size of the derivative of v
along the network's own trajectories.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import fmjax
from experiments.fdm import _laws
from experiments.fdm._errors import bounded
from experiments.fdm._laws import Mixture
from fmjax.types import Array, Velocity

TIMES = np.linspace(0.0, 0.98, 25, dtype=np.float32)  # of the trajectories
TV_TIMES = (0.5, 0.9, 1.0)
SOLVE = partial(fmjax.samplers.fixed, num_steps=64)


def laws(mixture: Mixture, velocity: Velocity, keys: Array, points: int) -> dict[str, Any]:
    """Returns KL(data, model) in nats, and in the plane the total variation on the way.

    Args:
      mixture: the law of the data.
      velocity: the learned field.
      keys: one for each fresh data point over which the mean is taken.
      points: along each side of the grid, at each of `TV_TIMES`.
    """
    x1 = jax.vmap(lambda key: _laws.sample(key, mixture))(keys)
    x, t = x1, jnp.ones(len(keys))
    line = np.linspace(-5.0, 5.0, points, dtype=np.float32)
    if x1.shape[1] == 2:
        grid = np.stack(np.meshgrid(line, line), axis=-1).reshape(-1, 2)
        x = jnp.concatenate([x1, *[grid] * len(TV_TIMES)])
        t = jnp.concatenate([t, np.repeat(np.float32(TV_TIMES), len(grid))])
    learned = jax.vmap(lambda x, t: fmjax.likelihood.log_prob(velocity, x, solve=SOLVE, t1=t))(x, t)
    true = jax.vmap(partial(_laws.log_density, mixture))(x, t)
    n, cell = len(keys), float(line[1] - line[0]) ** 2
    result = {"relative_entropy": jnp.mean(true[:n] - learned[:n])}
    if x1.shape[1] == 2:
        both = (cell * jnp.exp(a[n:]).reshape(len(TV_TIMES), -1) for a in (true, learned))
        values = bounded(jax.vmap(fmjax.metrics.total_variation)(*both), 1.0)
        names = (f"{t:g}" for t in TV_TIMES)
        result["total_variation"] = dict(zip(names, values, strict=True))
    return result


def smoothness(velocity: Velocity, x0: Array) -> dict[str, Array]:
    """Returns the derivative's size along trajectories, over `TIMES`.

    Args:
      velocity: a field, learned or exact.
      x0: `[n, d]`, noise.

    Returns:
      Mean and maximum over trajectories of the spectral norm of the Jacobian and of the absolute
      divergence per dimension, `[times]` each.
    """
    solve = partial(fmjax.samplers.fixed, num_steps=4)
    states = jax.vmap(lambda x: fmjax.samplers.trajectory(velocity, x, TIMES, solve=solve))(x0)

    def at(x: Array, t: Array) -> tuple[Array, Array]:
        jacobian = jax.jacfwd(velocity)(x, t)
        largest = jnp.linalg.eigvalsh(jacobian.T @ jacobian)[-1]
        return jnp.sqrt(jnp.maximum(largest, 0.0)), jnp.abs(jnp.trace(jacobian)) / x.size

    norm, div = jax.vmap(lambda states: jax.vmap(at)(states, jnp.asarray(TIMES)))(states)
    return {
        "norm_mean": norm.mean(axis=0),
        "norm_max": norm.max(axis=0),
        "divergence_mean": div.mean(axis=0),
        "divergence_max": div.max(axis=0),
    }
