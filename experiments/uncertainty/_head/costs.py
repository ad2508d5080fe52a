"""What a variance costs beside the velocity: of one evaluation, and of a training step.

Times are ratios of programs that are run in turn in one process (`experiments.run.clock`).
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.run import clock
from experiments.uncertainty._head import losses
from experiments.uncertainty._head.losses import Network
from experiments.uncertainty._head.measures import VARIANCE
from experiments.uncertainty._head.problems import Problem, path
from fmjax.types import Array, Key, PyTree

FORWARD, STEP = "velocity", "flow matching"  # the units of cost


def of_evaluation(
    network: Network, params: PyTree, problem: Problem, x: np.ndarray
) -> list[dict[str, Any]]:
    """Returns the time of every variance as a ratio to a pass of the velocity.

    Args:
      network: of both outputs.
      params: of one seed.
      problem: the data.
      x: `[n, *dims]`, the states, at t = 1/2.
    """
    t = jnp.full(len(x), 0.5)
    velocity = lambda p, x, t: network(p["velocity"], x, t)  # noqa: E731
    programs = {
        FORWARD: (velocity, params),
        "head": (lambda p, x, t: jnp.exp(network(p["log_variance"], x, t)), params),
        "jacobian": (lambda p, x, t: VARIANCE(partial(velocity, p), path, x, t), params),
        "exact": (lambda b, x, t: VARIANCE(partial(problem.exact, b), path, x, t), problem.bank),
    }
    calls = {
        name: partial(jax.jit(jax.vmap(one, (None, 0, 0))), jax.device_put(shared), x, t)
        for name, (one, shared) in programs.items()
    }
    return _ratios(clock.seconds(calls, rounds=15), FORWARD)


def of_step(
    network: Network, width: float, params: PyTree, key: Key, batch: dict[str, Array]
) -> list[dict[str, Any]]:
    """Returns the time of the gradient of every loss as a ratio to that of flow matching.

    Args:
      network: of both outputs.
      width: as for `losses.of_batch`.
      params: of all seeds.
      key: of the noise.
      batch: as the training has it, with the bank in it.
    """
    every = {STEP: losses.flow, "beside": losses.beside, "joint": losses.joint}
    arguments = jax.device_put((params, key, batch))
    calls = {
        name: partial(jax.jit(jax.grad(losses.of_batch(network, one, width))), *arguments)
        for name, one in every.items()
    }
    return _ratios(clock.seconds(calls, rounds=15), STEP)


def _ratios(seconds: dict[str, float], unit: str) -> list[dict[str, Any]]:
    return [
        {"method": name, "milliseconds": 1e3 * taken, "time_ratio": taken / seconds[unit]}
        for name, taken in seconds.items()
    ]
