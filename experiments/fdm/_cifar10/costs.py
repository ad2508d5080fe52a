"""What a training step costs with the penalty, in steps of flow matching run in turn with it."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from experiments.images import training
from experiments.images.options import Training
from experiments.run import clock
from fmjax import train
from fmjax.types import Array, PyTree


def of_steps(
    losses: dict[str, Callable[..., Array]], params: PyTree, pixels: Array, asked: Training
) -> dict[str, dict[str, float]]:
    """Returns the milliseconds of a step by each loss, and how many of the first's they are.

    Args:
      losses: of a batch, by method; the first is the unit.
      params: of the network.
      pixels: a batch, uint8 `[n, h, w, c]`.
      asked: of the training.
    """
    optimizer = training.adamw(asked.learning_rate, asked.weight_decay, asked.num_steps)
    state, key = train.init(params, optimizer), jax.random.key(0)

    def call(loss: Callable[..., Array]) -> Callable[[], Any]:
        step = train.make_step(loss, optimizer, ema_decay=asked.ema_decay)
        program = jax.jit(step, compiler_options=train.compiler_options())
        return partial(program, state, key, {"x": jnp.asarray(pixels)})

    seconds = clock.seconds({name: call(loss) for name, loss in losses.items()}, rounds=15)
    unit = next(iter(seconds.values()))
    return {
        name: {"milliseconds": 1e3 * taken, "time_ratio": taken / unit}
        for name, taken in seconds.items()
    }
