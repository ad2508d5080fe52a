"""Trainings of several seeds side by side, and the cost of their steps.

The seeds are an axis of one program, which `loop.fit` does not have; nothing is saved halfway.
"""

import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial

import jax

from experiments.run import rehearsal
from fmjax import train
from fmjax.types import Array, PyTree

_COMPARED = 4  # stretches after which one of flow matching is timed; the first is compiled


@partial(jax.jit, static_argnums=(0, 1))
def _advance(step: Callable, count: int, states: PyTree, keys: Array, batches: PyTree) -> PyTree:
    """Returns the states of all seeds after more steps."""
    steps = train.repeat(step, num_steps=count)
    return jax.vmap(lambda state, key: steps(state, key, batches)[0])(states, keys)


def stretches(
    number: int,
    count: int,
    step: Callable,
    plain: Callable,
    states: PyTree,
    keys: Array,
    batches: PyTree = None,
) -> Iterator[tuple[PyTree, float]]:
    """Yields the states of all seeds after every stretch, and the time of a step so far.

    Args:
      number: of stretches.
      count: steps of each.
      step: the training step.
      plain: the step of flow matching, whose time is 1; it may be the training step.
      states: of all seeds, along the first axis.
      keys: one for each seed.
      batches: of every stretch, alike for all seeds, with `count` entries along the first axis;
        None where the loss draws its data from the key.
    """
    first, ratios = states, []

    def timed(step: Callable, states: PyTree) -> tuple[PyTree, float]:
        begin = time.perf_counter()
        states = jax.block_until_ready(_advance(step, count, states, keys, batches))
        return states, time.perf_counter() - begin

    if rehearsal.is_on():
        states, whole = timed(step, states)
        states, taken = timed(step, states)
        found = rehearsal.Timed(states, count, taken / count, whole - taken)
        rehearsal.tell(found, number * count)
    for index in range(number):
        states, taken = timed(step, states)
        if step is not plain and index < _COMPARED:
            ratios.append(taken / timed(plain, first)[1])
        yield states, statistics.median(ratios[1:] or ratios) if ratios else 1.0
