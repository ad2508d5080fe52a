"""Calls timed in turn, the better of a peer's settings chosen first, and the ratios of a turn.

A busy machine slows whatever runs at the time, so every turn runs all calls one after the other,
and a ratio is formed within a turn. A short call is repeated within its turn for `LEAST` seconds.
PyTorch is tried on one and on two threads: with two, its threads wait for each other, which on a
busy machine takes up to a hundred times as long.
"""

import math
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

LEAST = 0.03  # seconds of a call in a turn
_TRIES = 3


class Call(NamedTuple):
    """What is timed.

    Attributes:
      run: takes no argument; what it returns is waited for at the end of a turn, so a call that
        does not depend on the one before waits for itself.
      setting: words for the table, such as the number of threads.
      threads: of PyTorch; None for calls that are not its.
      parts: how many of what is counted, such as steps, one call does.
    """

    run: Callable[[], object]
    setting: str = ""
    threads: int | None = None
    parts: int = 1


class Program(NamedTuple):
    """A compiled function with its arguments.

    Attributes:
      run: computes and waits.
      mib: the temporary memory that the compiler plans, in MiB.
    """

    run: Callable[[], Any]
    mib: float


def compiled(function: Callable[..., Any], *arguments: Any) -> Program:
    """Compiles a function for its arguments."""
    program = jax.jit(function).lower(*arguments).compile()
    mib = program.memory_analysis().temp_size_in_bytes / 2**20
    return Program(lambda: jax.block_until_ready(program(*arguments)), mib)


class Times(NamedTuple):
    """Seconds of every turn and the chosen setting, both by the name of the contender."""

    seconds: dict[str, list[float]]
    setting: dict[str, str]


def by_threads(*runs: Callable[[], object], words: Sequence[str] = ("",)) -> list[Call]:
    """Returns a peer's calls on one and two threads of PyTorch, each with its words.

    Args:
      *runs: one for each of the words.
      words: what distinguishes the runs.
    """
    counts = [count for count in (1, 2) if count <= (os.cpu_count() or 1)]
    return [
        Call(run, ", ".join(filter(None, (word, f"{n} thread{'s' * (n > 1)}"))), n)
        for run, word in zip(runs, words, strict=True)
        for n in counts
    ]


def in_turn(calls: Mapping[str, Call | Sequence[Call]], turns: int) -> Times:
    """Returns the seconds of every contender in every turn; of several calls the fastest is taken.

    Args:
      calls: one call for each contender, or several between which three runs of each decide.
      turns: how often all are timed; the runs before do not count.
    """
    chosen = {name: _fastest(one) for name, one in calls.items()}
    counts = {name: _repetitions(call) for name, call in chosen.items()}
    seconds: dict[str, list[float]] = {name: [] for name in chosen}
    for _ in range(turns):
        for name, call in chosen.items():
            seconds[name].append(_seconds(call, counts[name]))
    return Times(seconds, {name: call.setting for name, call in chosen.items()})


def _fastest(calls: Call | Sequence[Call]) -> Call:
    """Returns the call that was fastest in one of three runs, after one that does not count."""
    if isinstance(calls, Call):
        return calls
    best = {call: math.inf for call in calls}
    for again in range(1 + _TRIES):
        for call in calls:
            if again > 1 and best[call] > 3 * min(best.values()):
                continue  # threads that wait for each other
            taken = _seconds(call, 1)
            if again > 0:
                best[call] = min(best[call], taken)
    return min(calls, key=best.get)


def _repetitions(call: Call) -> int:
    """Returns how often a call runs in `LEAST` seconds, after one run that does not count."""
    _seconds(call, 1)
    return max(1, math.ceil(LEAST / (_seconds(call, 1) * call.parts)))


def _seconds(call: Call, count: int) -> float:
    """Returns the seconds of one part of a call, of `count` calls in a row."""
    if call.threads is not None:
        import torch

        torch.set_num_threads(call.threads)
    begin = time.perf_counter()
    for _ in range(count):
        done = call.run()
    jax.block_until_ready(done)
    return (time.perf_counter() - begin) / (count * call.parts)


def ratios(times: Times, name: str, other: str) -> list[float]:
    """Returns the time of one contender over that of another in every turn."""
    pairs = zip(times.seconds[name], times.seconds[other], strict=True)
    return [a / b for a, b in pairs]


def spread(values: Sequence[float], *, bar: float | None = None, least: bool = True) -> str:
    """Writes the median and the quartiles, bold where the median misses its bar.

    Args:
      values: at least one number.
      bar: what the median is held against, if anything.
      least: whether the bar is the least median or the greatest.
    """
    quarters = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else []
    low, middle, high = quarters or 3 * [values[0]]
    missed = bar is not None and (middle < bar if least else middle > bar)
    text = f"**{_short(middle)}**" if missed else _short(middle)
    return f"{text} ({_short(low)} to {_short(high)})"


def against(times: Times, peer: str, ours: str, bar: float | None) -> list[str]:
    """Writes two cells of a table: a peer's fastest setting, and its time over ours."""
    if peer not in times.seconds:
        return ["not installed", ""]
    return [times.setting[peer], spread(ratios(times, peer, ours), bar=bar)]


def milliseconds(values: Sequence[float]) -> str:
    """Writes the median of seconds in milliseconds, in three digits."""
    return _short(1e3 * statistics.median(values))


def _short(value: float) -> str:
    """Writes a positive number in two or three digits that count, and whole from 100 on."""
    if value < 0.1:
        return f"{value:.2g}"
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:,.0f}"


def same(what: str, ours: object, theirs: object, *, atol: float, rtol: float = 0.0) -> None:
    """Raises ValueError unless both sides computed the same numbers.

    Args:
      what: was computed, for the message.
      ours: an array, or what NumPy makes one of.
      theirs: the peer's, of the same shape.
      atol: the largest difference that rounding or the solver's tolerance explains.
      rtol: the same, relative to theirs.
    """
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    if ours.shape != theirs.shape or not np.allclose(ours, theirs, atol=atol, rtol=rtol):
        far = np.abs(ours - theirs).max() if ours.shape == theirs.shape else "another shape"
        message = f"{what}: the peer computes something else, they differ by {far}."
        raise ValueError(message)
