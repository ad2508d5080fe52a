"""The calls of a training: one step each, or several where starting a step takes as long as itself.

The host needs some tenths of a millisecond to hand a batch and a compiled step to the device. A
large network computes for longer, and the host is ready before it. A small network waits for the
host. So the first steps of a training are timed, and `how_many` tells from their times how many
steps the calls after them take.

A run must not depend on a clock. On CPUs the steps of a call have the bits of single steps
(`fmjax.train.repeat`), but for networks with convolutions: these take single steps, which are
faster there as well. For other devices compilers promise no such thing, so the clock is not asked:
`by_size` tells the number from the operations of a step.
"""

import functools
import itertools
import math
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.run import layout
from fmjax import train
from fmjax.types import Array, Key, PyTree

TIMED = 8  # single steps; the shortest times decide
WORTH = 64  # steps; a shorter training is not timed
SECONDS = 0.1  # that a call may take: a run is stopped between two calls
HIDDEN = 16.0  # a step this many times as long as its start wins nothing by fewer starts
OPERATIONS = 1e10  # of a call on an accelerator, some milliseconds


class Programs(NamedTuple):
    """What a training compiles.

    Attributes:
      one: `(state, key, batch, shared) -> (state, info)`, one step.
      many: `(state, key, batches, shared, count) -> (state, info of the last)`, several steps.
    """

    one: Callable[..., tuple[train.TrainState, train.Info]]
    many: Callable[..., tuple[train.TrainState, train.Info]]


class Counted(NamedTuple):
    """What the last step of a call tells where steps may be skipped, and how many of it were."""

    loss: Array
    grad_norm: Array
    skipped: Array


@functools.lru_cache(maxsize=32)
def programs(
    loss: Callable[[PyTree, Key, PyTree], Array],
    optimizer: optax.GradientTransformation,
    ema_decay: float,
    mesh: jax.sharding.Mesh,
    *,
    skipping: bool = False,
) -> Programs:
    """Returns the programs; trainings with the very same loss and optimizer compile them once."""
    step = train.make_step(layout.gathering(mesh, loss), optimizer, ema_decay=ema_decay)
    step = layout.keeping(mesh, train.skip_nonfinite(step) if skipping else step)

    def one(state: train.TrainState, key: Key, batch: PyTree, shared: PyTree) -> tuple:
        state, info = step(state, key, batch | shared if shared else batch)
        return state, Counted(*info, jnp.int32(~info.finite)) if skipping else info

    def many(
        state: train.TrainState, key: Key, batches: PyTree, shared: PyTree, count: int
    ) -> tuple:
        whole = lambda state, key, batch: one(state, key, batch, shared)  # noqa: E731
        state, infos = train.repeat(whole, num_steps=count)(state, key, batches)
        last = jax.tree.map(lambda x: x[-1], infos)
        return state, last._replace(skipped=infos.skipped.sum()) if skipping else last

    compiled = functools.partial(
        jax.jit, donate_argnums=0, compiler_options=train.compiler_options()
    )
    return Programs(compiled(one), compiled(many, static_argnums=4))


def how_many(start: float, step: float, compiling: float, *, left: int, gap: int) -> int:
    """Tells how many steps go into one call.

    Args:
      start: seconds in which the host starts a step.
      step: seconds from there until its results are there.
      compiling: seconds to compile a program.
      left: steps that are left.
      gap: steps from one look at the loss, evaluation or checkpoint to the next.

    Returns:
      The number, at most `gap`; 1 where more would win nothing.
    """
    if step > HIDDEN * start or left * start < compiling:
        return 1
    limit = 1  # powers of 4, so that trainings of one kind mostly compile one program
    while 4 * limit * (start + step) <= SECONDS:
        limit *= 4
    return _equal_parts(gap, limit)


def by_size(operations: float, *, gap: int) -> int:
    """Tells how many steps go into one call, without a clock.

    Args:
      operations: of a step, as XLA counts them.
      gap: as for `how_many`.

    Returns:
      The number, at most `gap` and 256.
    """
    return _equal_parts(gap, int(min(max(OPERATIONS / max(operations, 1.0), 1.0), 256.0)))


def _equal_parts(gap: int, limit: int) -> int:
    """Returns the largest part of a gap in few equal parts, so that few single steps are left."""
    return gap // -(-gap // limit)


def has_convolution(jaxpr: Any) -> bool:
    """Tells whether a traced function, or one that it calls, computes a convolution."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "conv_general_dilated":
            return True
        inner = jax.tree.leaves(list(equation.params.values()), is_leaf=_is_traced)
        if any(has_convolution(getattr(f, "jaxpr", f)) for f in inner if _is_traced(f)):
            return True
    return False


def _is_traced(value: Any) -> bool:
    return hasattr(getattr(value, "jaxpr", value), "eqns")


class Calls:
    """The calls of one training.

    Args:
      compiled: from `programs`.
      key: of the training.
      shared: what every batch holds whole, on all devices.
      mesh: the devices.
      count: steps of a call; None times the first steps and chooses.
      left: steps that are left.
      gap: steps from one look at the loss, evaluation or checkpoint to the next.

    Attributes:
      waited: seconds for which the last call compiled.
    """

    def __init__(
        self,
        compiled: Programs,
        key: Key,
        shared: PyTree,
        mesh: jax.sharding.Mesh,
        count: int | None,
        *,
        left: int,
        gap: int,
    ) -> None:
        self._programs, self._key, self._shared, self._mesh = compiled, key, shared, mesh
        self._count, self._left, self._gap = count or 1, left, gap
        self._times: list[tuple[float, float]] = []
        self._open = count is None and gap > 1 and left >= WORTH
        self._used: set[Callable[..., Any]] = set()
        self._skipped: list[Array] = []
        self.waited = 0.0

    def take(
        self, state: train.TrainState, batches: Iterator[PyTree], room: int
    ) -> tuple[train.TrainState, train.Info | None, int]:
        """Takes the steps of one call; does not wait for their results, once none is timed.

        Args:
          state: the state, which is donated.
          batches: the batches of the steps to come.
          room: the steps that may be taken, one or more.

        Returns:
          The state, what the last step tells, and the number of steps; 0 if there was no batch.
        """
        self.waited, info = 0.0, None
        count = self._count if self._count <= room else 1
        given = list(itertools.islice(batches, count))
        if len(given) == count > 1:
            stacked = jax.tree.map(lambda *x: np.stack(x), *given)
            stacked = layout.shard(self._mesh, stacked, axis=1)
            state, info = self._run(self._programs.many, state, stacked, count)
        else:
            for batch in given:
                begin = time.perf_counter()
                here = layout.shard(self._mesh, batch)
                state, info = self._run(self._programs.one, state, here)
                if self._open:
                    self._choose(begin, state, here)
        return state, info, len(given)

    def _run(self, program: Callable[..., Any], state: PyTree, batch: PyTree, *count: int) -> Any:
        begin = time.perf_counter()
        state, info = program(state, self._key, batch, self._shared, *count)
        if program not in self._used:
            self._used.add(program)
            self.waited += time.perf_counter() - begin
        if isinstance(info, Counted):
            self._skipped.append(info.skipped)
        return state, info

    def workspace(self, state: train.TrainState, batch: PyTree) -> int | None:
        """Compiles a single step, and tells what it needs on each device beside its arguments.

        Args:
          state: the state, which stays.
          batch: of one step.

        Returns:
          Bytes, or None where the compiler does not tell.
        """
        arguments = (state, self._key, layout.shard(self._mesh, batch), self._shared)
        found = self._programs.one.lower(*arguments).compile().memory_analysis()
        return None if found is None else found.temp_size_in_bytes

    def skipped(self) -> int:
        """Returns how many steps were skipped since this was asked last."""
        counts, self._skipped = jax.device_get(self._skipped), []
        return int(sum(counts))

    def _choose(self, begin: float, state: PyTree, batch: PyTree) -> None:
        """Chooses the number of steps of a call, on CPUs once enough single steps are timed."""
        one, arguments = self._programs.one, (state, self._key, batch, self._shared)
        if jax.default_backend() != "cpu":
            cost = one.lower(*arguments).cost_analysis() or {}
            self._count, self._open = by_size(cost.get("flops", math.inf), gap=self._gap), False
            return
        started = time.perf_counter()
        jax.block_until_ready(state)
        self._times.append((started - begin, time.perf_counter() - started))
        if len(self._times) > TIMED:
            count = 1 if has_convolution(one.trace(*arguments).jaxpr) else self._quickest()
            self._count, self._open = layout.said_by_first(count), False

    def _quickest(self) -> int:
        """Returns the number of steps that the measured times advise."""
        (compiling, _), *times = self._times
        start, whole = min(start for start, _ in times), min(map(sum, times))  # less of other work
        left = self._left - len(self._times)
        return how_many(start, whole - start, compiling, left=left, gap=self._gap)
