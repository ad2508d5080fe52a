"""The training loop of every experiment, and the folder in which it leaves its run.

The loop owns what a paper does not talk about: devices, checkpoints, logs and resuming. The
step it repeats is `fmjax.train.make_step`'s; step k draws from `fold_in(key, k)` and
`batches(k)` starts at batch k, so a run that was stopped and resumed ends in the same bits as
one that was not. The newest states lie under checkpoints/ in the run folder, by orbax, beside
the files of `experiments.run.folder`, and are restored when the same command runs again.

Several hosts: `open_run` joins them when the environment names them (a TPU pod's worker list,
a Slurm or Open MPI job, or JAX_COORDINATOR_ADDRESS with JAX_NUM_PROCESSES and JAX_PROCESS_ID),
so call it before anything touches a device.
"""

import contextlib
import functools
import math
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, NoReturn

import jax
import optax
from etils import epath

from experiments.run import (
    board,
    calls,
    checkpoints,
    devices,
    layout,
    lines,
    lock,
    paths,
    rehearsal,
    signals,
)
from experiments.run import folder as run_folder
from experiments.run.log import Log
from fmjax import train
from fmjax.types import Array, Key, PyTree


def open_run(workdir: str | os.PathLike, config: Any, **facts: Any) -> epath.Path:
    """Joins the hosts of a multi-host run, says on what it computes, and opens the run folder.

    Args:
      workdir: the folder, made if it is not there; may be gs://.
      config: a dataclass of options, recorded in config.json; those that are `Free` or a `Place`
        (`experiments.run.options`) may change in a run folder.
      **facts: what else makes the run what it is, such as the data; recorded and compared too.

    Returns:
      The folder.

    Raises:
      ValueError: if the folder holds another run; nothing is changed.
      BlockingIOError: if another process writes in the folder; nothing is changed.
      OSError: if the folder cannot be written.
    """
    devices.join_hosts()
    devices.announce()
    layout.make_mesh()  # or says how the devices may be split, before anything is written
    board.check(workdir)
    if rehearsal.is_on():
        return rehearsal.open_folder(workdir, config, facts)
    return run_folder.open_folder(workdir, config, **facts)


def fit(
    loss: Callable[[PyTree, Key, PyTree], Array],
    params: PyTree,
    batches: Callable[[int], Iterator[PyTree]],
    optimizer: optax.GradientTransformation,
    evaluate: Callable[[PyTree, Key], dict[str, float]],
    *,
    workdir: str | os.PathLike,
    num_steps: int,
    seed: int,
    ema_decay: float = 0.999,
    log_every: int = 50,
    eval_every: int,
    save_every: int,
    shared: dict[str, PyTree] | None = None,
    steps_per_call: int | None = None,
    max_skipped: int = 0,
) -> train.TrainState:
    """Trains from the newest checkpoint of the run folder, or from the start, to the end.

    Args:
      loss: `(params, key, batch) -> scalar`, the mean over the batch.
      params: initial parameters; they are copied.
      batches: `start_step -> iterator` of this process's share of each batch (`layout.rows`),
        NumPy arrays with the examples along the first axis; the number of all of them must divide
        by the number of devices.
      optimizer: any optax transformation.
      evaluate: `(ema_params, key) -> floats`, for the metrics; `lambda *_: {}` for none. It is
        called on all hosts, with NumPy arrays.
      workdir: the run folder.
      num_steps: at which to end; a run that has ended is only restored.
      seed: for all noise drawn in training and evaluation.
      ema_decay: decay of the moving average of the parameters, per step.
      log_every: steps between two looks at the loss.
      eval_every: steps between two evaluations; there is always one at the end.
      save_every: steps between two checkpoints; there is always one at the end.
      shared: what every batch holds beside its share of the examples, such as the data set itself;
        it goes to the devices once (`layout.shared`), where a loss that closes over it would have
        it compiled in as a constant. The batches must be dicts then.
      steps_per_call: steps that one call of the compiled program takes, where the next look,
        evaluation or checkpoint is not nearer; None times the first steps and takes several where
        a step is shorter than its start (`experiments.run.calls`). The results are the same.
      max_skipped: steps between two lines of the metrics that may be skipped because their loss or
        gradient is not finite (`fmjax.train.skip_nonfinite`); the metrics then count them as
        `skipped`. 0 stops at the first that is seen.

    Returns:
      The state after `num_steps`, on all devices as `layout` says; `layout.on_host` makes NumPy
      arrays of its parts.

    Raises:
      rehearsal.Told: in a dry run, once its few steps are measured.
      SystemExit: code 128 + signal, after SIGTERM or SIGHUP: the step that was under way is saved;
        in an evaluation, who handled the signal before does so at once, and nothing is saved.
      FloatingPointError: if the loss or the gradient is not finite, and may not be skipped; that
        state is not saved.
      ValueError: if no checkpoint is whole, or the newest is of another configuration or beyond
        `num_steps`; if the batch does not divide; if an interval is not positive.
    """
    _check_intervals(
        max_skipped,
        num_steps=num_steps,
        log_every=log_every,
        eval_every=eval_every,
        save_every=save_every,
    )
    mesh = layout.make_mesh()
    state = layout.made(mesh, functools.partial(train.init, optimizer=optimizer), params)
    shared = layout.shared(mesh, shared)
    key_train, key_evaluate = jax.random.split(jax.random.key(seed))
    every = (log_every, eval_every, save_every)
    compiled = calls.programs(loss, optimizer, ema_decay, mesh, skipping=max_skipped > 0)
    folder = paths.absolute(workdir)
    if rehearsal.is_on():
        gap = min(every)
        several = calls.Calls(
            compiled, key_train, shared, mesh, steps_per_call, left=num_steps, gap=gap
        )
        measure = lambda params: evaluate(layout.on_host(params), key_evaluate)  # noqa: E731
        place = {"workdir": folder, "num_steps": num_steps, "every": every}
        return rehearsal.of_training(several, state, batches(0), measure, **place)
    record = lines.read(folder / "metrics.jsonl")
    with checkpoints.opened(folder / "checkpoints") as saved:
        state = checkpoints.newest(saved, state, num_steps, record)
        start = done = int(state.step)
        _begin(start, num_steps, folder)
        left, gap = num_steps - start, min(every)
        several = calls.Calls(compiled, key_train, shared, mesh, steps_per_call, left=left, gap=gap)
        stream = iter(batches(start))
        log_to = contextlib.closing(Log(folder / "metrics.jsonl", start, num_steps))
        with log_to as log, signals.Held() as held:
            watch = _Watch(evaluate, key_evaluate, saved, log, held, num_steps, max_skipped)
            while done < num_steps:
                room = min(num_steps - done, *(k - done % k for k in every))
                state, info, taken = several.take(state, stream, room)
                if not taken:
                    break
                done += taken
                log.tick(taken, several.waited)
                steps = range(done - taken + 1, done + 1)
                ending = held.asked(saved.reached_preemption, steps, info.loss)
                due = [done % k == 0 or done == num_steps for k in every]
                if ending or any(due):  # else without waiting for the device
                    watch.look(state, info, done, several.skipped(), due, ending=ending)
        with checkpoints.failure_named(saved.directory):
            saved.wait_until_finished()
    return _ended(state, num_steps)


class _Watch(NamedTuple):
    """What looks at a training between two calls: it measures, writes and saves.

    Attributes:
      evaluate: as in `fit`.
      key: of the evaluations.
      saved: the checkpoints.
      log: the metrics.
      held: the signals.
      num_steps: at which the training ends.
      max_skipped: as in `fit`.
    """

    evaluate: Callable[[PyTree, Key], dict[str, float]]
    key: Key
    saved: checkpoints.Manager
    log: Log
    held: signals.Held
    num_steps: int
    max_skipped: int

    def look(
        self,
        state: train.TrainState,
        info: Any,
        done: int,
        skipped: int,
        due: list[bool],
        *,
        ending: bool,
    ) -> None:
        """Does what is due after a step: log, evaluate, save; saves and leaves where it ends."""
        _, evaluating, saving = due
        values = _finite(state, info, done, self.saved, skipped, self.max_skipped)
        values["steps_per_second"] = self.log.speed(done)
        if evaluating:
            averaged = layout.on_host(state.ema_params)
            with self.held.let_through():
                values |= self.evaluate(averaged, jax.random.fold_in(self.key, done))
        if any(due):
            self.log.write(done, values)
        if ending or saving:
            checkpoints.save(self.saved, done, state, self.log.checksum)
        if ending:
            _leave(self.saved, self.held, done, self.num_steps)


def _begin(start: int, num_steps: int, folder: epath.Path) -> None:
    """Says where a run that was interrupted goes on; raises OSError where it may not write."""
    if start and jax.process_index() == 0:
        what = "already trained" if start == num_steps else "continuing"
        print(f"{what}: step {start} of {num_steps}, from {folder}", file=sys.stderr, flush=True)
    if start < num_steps and not lock.may_write(folder):
        message = f"{folder} is read-only, and its training has not ended: copy it or change it"
        raise OSError(message)


def _check_intervals(max_skipped: int, **numbers: int) -> None:
    if max_skipped < 0:
        message = f"max_skipped must be at least 0, got {max_skipped}: it counts steps."
        raise ValueError(message)
    for name, number in numbers.items():
        if number < 1:
            message = f"{name} must be at least 1, got {number}: it counts steps."
            raise ValueError(message)


def _finite(
    state: train.TrainState,
    info: Any,
    step: int,
    saved: checkpoints.Manager,
    skipped: int,
    most: int,
) -> dict[str, float]:
    """Returns the step's numbers as floats, or stops the run if one may not be what it is.

    Of the steps before it, `skipped` were skipped, and at most `most` may be.
    """
    names = (*info._fields, "param_norm")
    values = map(float, jax.device_get((*info, checkpoints.norm(state.params))))
    numbers = dict(zip(names, values, strict=True))
    finite = ("param_norm",) if most else names
    wrong = [f"{name} is {numbers[name]}" for name in finite if not math.isfinite(numbers[name])]
    if skipped > most:
        wrong.append(f"{skipped} steps were skipped, more than max_skipped {most},")
    if wrong:
        saved.wait_until_finished()
        newest = saved.latest_step()
        last = f"the last checkpoint is step {newest}" if newest else "there is no checkpoint"
        message = (
            f"{', '.join(wrong)} at step {step}; {last}, nothing after it was saved. Try a smaller "
            "learning rate, a longer warm-up or gradient clipping, in another --workdir, or let "
            "more steps be skipped (max_skipped), in this one."
        )
        raise FloatingPointError(message)
    found = {name: numbers[name] for name in info._fields}
    return found | {"skipped": skipped} if most else found


def _leave(saved: checkpoints.Manager, held: signals.Held, done: int, num_steps: int) -> NoReturn:
    """Ends the program after a step, once its state is saved."""
    with checkpoints.failure_named(saved.directory):
        saved.wait_until_finished()
    what = f"step {done} of {num_steps} is saved, the same command continues from there."
    signals.leave(held.signum, what)


def _ended(state: train.TrainState, num_steps: int) -> train.TrainState:
    if int(state.step) != num_steps:
        ended = f"the batches ended after step {int(state.step)} of {num_steps}: make them endless."
        raise ValueError(ended)
    return state
