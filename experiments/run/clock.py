"""Programs timed in turn, so that a busy machine slows all of them alike."""

import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from experiments.run import progress
from fmjax.types import Array


def seconds(calls: dict[str, Callable[[], Array]], rounds: int = 7) -> dict[str, float]:
    """Returns the median time of each call, timed in turn; long ones are timed once."""
    taken = {name: [] for name in calls}
    for again in range(rounds + 1):
        for name, call in calls.items():
            if again > 1 and taken[name][-1] > 2.0:
                continue
            begin = time.perf_counter()
            jax.block_until_ready(call())
            taken[name].append(time.perf_counter() - begin)
    return {name: statistics.median(values[1:]) for name, values in taken.items()}


class Case(NamedTuple):
    """A program, the number of products with the bank in it, and what it is called with."""

    call: Callable[..., Any]
    products: int
    arguments: tuple[Any, ...]


def in_turn(cases: dict[str, Case], turns: int) -> dict[str, list[float]]:
    """Returns the seconds of every run of every program."""
    taken: dict[str, list[float]] = {name: [] for name in cases}
    for turn in progress.each(range(turns + 1), "time", unit="turn"):
        for name, case in cases.items():
            begin = time.perf_counter()
            jax.block_until_ready(case.call(*case.arguments))
            if turn > 0:  # the first run is slower
                taken[name].append(time.perf_counter() - begin)
    return taken
