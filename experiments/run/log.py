"""The metrics of a run, line by line, and its one line of progress."""

import math
import os
import sys
import time
from typing import Any

import jax
import tqdm
from etils import epath

from experiments.run import board, lines, progress, records
from experiments.run.folder import replace


class Log:
    """The metrics file and the one line of progress, both of process 0 only.

    Its `checksum` is the one of all lines so far, which a checkpoint keeps.

    Args:
      path: metrics.jsonl; its lines of steps after `start` are dropped.
      start: the step from which the run goes on.
      num_steps: the step at which it ends.
    """

    def __init__(self, path: epath.Path, start: int, num_steps: int) -> None:
        self._path, self._num_steps, self._step = path, num_steps, start
        self._writes = jax.process_index() == 0
        self._shows = self._writes and start < num_steps
        self._terminal = sys.stderr.isatty()
        self._cold, self._clock, self._shown = True, math.nan, time.monotonic()
        kept = _kept(path, start) if self._writes else None
        self.checksum = kept.checksum if kept else 0
        self._board = board.Board(path.parent, kept.lines if kept else []) if self._writes else None
        self._bar = tqdm.tqdm(
            desc="train",
            initial=start,
            total=num_steps,
            unit=" steps",
            dynamic_ncols=True,
            disable=not (self._shows and self._terminal),
        )

    def tick(self, steps: int, waited: float) -> None:
        """Counts the steps of a call; the first one compiled, so the clock starts after it.

        Args:
          steps: taken in the call.
          waited: seconds for which it compiled, which do not count.
        """
        self._bar.update(steps)
        self._clock += waited
        if self._cold:
            self._cold, self._step, self._clock = False, self._step + steps, time.perf_counter()

    def speed(self, step: int) -> float:
        """Returns the steps per second since the last line; nan if only the first was taken."""
        steps = step - self._step
        return steps / (time.perf_counter() - self._clock) if steps else math.nan

    def write(self, step: int, values: dict[str, Any]) -> None:
        """Adds a line to the metrics and the loss to the progress."""
        if self._writes:
            plain = records.plain(values)
            line, self.checksum = lines.text(step, plain, self.checksum)
            _add(self._path, line)
            self._board.write(step, **plain)
        self._show(step, values)
        self._step, self._clock = step, time.perf_counter()

    def _show(self, step: int, values: dict[str, Any]) -> None:
        self._bar.set_postfix_str(f"loss {values['loss']:.4g}")
        now = time.monotonic()
        if self._terminal or not self._shows:
            return
        if step == self._num_steps or now - self._shown >= progress.QUIET_SECONDS:
            more, speed = f", loss {values['loss']:.4g}", values["steps_per_second"]
            more += f", {speed:.3g} steps/s" if speed > 0 else ""
            seconds = 1 / speed if speed > 0 else 0.0
            progress.say("train", step, self._num_steps, "step", seconds=seconds, more=more)
            self._shown = now

    def close(self) -> None:
        """Ends the line of progress and the files of TensorBoard."""
        self._bar.close()
        if self._board is not None:
            self._board.close()


def _add(path: epath.Path, line: str) -> None:
    """Adds a line to a file; in a bucket, where nothing can be added, the file is written anew."""
    if "://" not in os.fspath(path):
        with path.open("a") as file:
            file.write(line)
    else:
        before = path.read_text() if path.exists() else ""
        path.write_text(before + line)


def _kept(path: epath.Path, step: int) -> lines.Lines | None:
    """Drops the lines after the restored step, which will be written again; returns the others."""
    found = lines.read(path)
    if found is None:
        if step:
            message = f"{path} is missing: the record of this training begins after step {step}"
            print(message, file=sys.stderr, flush=True)
        return None
    kept = found.until(step)
    if b"".join(kept.texts) != path.read_bytes():
        replace(path, b"".join(kept.texts))
    return kept
