"""The signals that ask a run to end: SIGTERM, as before a preemption, and SIGHUP, of a terminal.

A command that is asked ends with one line and the exit code 128 + signal (`ending`). A training
holds the signal back (`Held`) until the step it is in is done and saved. Handlers are those of the
whole process: both restore the old ones at their end, and do nothing outside the main thread,
where Python sets none, or with a signal that is ignored, as nohup ignores SIGHUP.

On several hosts SIGTERM belongs to JAX once they have met: it tells the other hosts, and all agree
on the step to end after. It is heard by a training only, not by what is measured after it.
"""

import collections
import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, NoReturn

import jax

from experiments.run import devices
from fmjax.types import Array

_LAG_SECONDS = 1.0  # of the device behind the program
_SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))


def leave(signum: int, what: str) -> NoReturn:
    """Ends the program on behalf of a signal, with one line on stderr.

    Args:
      signum: the signal.
      what: what has become of the run.

    Raises:
      SystemExit: code 128 + signal.
    """
    with contextlib.suppress(OSError):  # the terminal that has sent SIGHUP is gone
        print(f"stopped by {signal.Signals(signum).name}: {what}", file=sys.stderr, flush=True)
    raise SystemExit(128 + signum)


@contextlib.contextmanager
def ending() -> Iterator[None]:
    """Lets SIGTERM and SIGHUP end the program where it stands; the second one kills it."""

    def end(signum: int, frame: FrameType | None) -> None:  # noqa: ARG001
        signal.signal(signum, signal.SIG_DFL)
        try:
            leave(signum, "the same command continues from the last checkpoint.")
        finally:
            devices.leave(128 + signum)  # of several, where the others do not know of the signal

    before = _set(end, _SIGNALS)
    try:
        yield
    finally:
        _restore(before)


class Held:
    """Holds SIGTERM and SIGHUP back, for use in `with`.

    Attributes:
      signum: the signal that has come, None so far.
    """

    def __init__(self) -> None:
        self.signum: int | None = None
        self._before: dict[int, Any] = {}
        self._queue: collections.deque[Array] = collections.deque()
        self._begun, self._finished = time.monotonic(), 0

    def __enter__(self) -> "Held":
        self._hold()
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        _restore(self._before)
        if kind is None and self.signum is not None:  # it came too late to be asked for
            signal.raise_signal(self.signum)

    def asked(self, reached: Callable[[int], bool], steps: range, result: Array) -> bool:
        """Returns whether to end after these steps; of several hosts, all end after the same.

        Args:
          reached: orbax's `CheckpointManager.reached_preemption`.
          steps: taken since the last call; JAX has to be asked about each.
          result: of the last step. If the device is more than a second behind, an older one is
            waited for, so that a signal is answered soon; else hundreds of steps may be queued.
        """
        self._keep_up(result)
        agreed = any([reached(step) for step in steps])  # a list, for JAX counts the calls
        if jax.process_count() == 1:
            return self.signum is not None
        if agreed and self.signum is None:
            self.signum = signal.SIGTERM  # which this host or another one has got
        return agreed

    @contextlib.contextmanager
    def let_through(self) -> Iterator[None]:
        """Gives the signals to those who had them before, at once if one has come."""
        _restore(self._before)
        if jax.process_count() == 1 and self.signum is not None:
            signal.raise_signal(self.signum)
        try:
            yield
        finally:
            self._hold()

    def _keep_up(self, result: Array) -> None:
        queue = self._queue
        queue.append(result)
        while queue and queue[0].is_ready():
            queue.popleft()
            self._finished += 1
        seconds = max(time.monotonic() - self._begun, 1e-6)
        if len(queue) > 2 + self._finished * _LAG_SECONDS / seconds:
            queue.popleft().block_until_ready()
            self._finished += 1

    def _hold(self) -> None:
        several = jax.process_count() > 1
        self._before = _set(self._note, [s for s in _SIGNALS if s != signal.SIGTERM or not several])

    def _note(self, signum: int, frame: FrameType | None) -> None:  # noqa: ARG002
        self.signum = signum
        if jax.process_count() > 1:
            os.kill(os.getpid(), signal.SIGTERM)  # JAX's notice, so that all hosts end together


def _set(handler: Callable[[int, FrameType | None], None], signals: Iterator[int]) -> dict:
    """Sets a handler where one may be set, and returns the handlers that were there."""
    if threading.current_thread() is not threading.main_thread():
        return {}
    free = [s for s in signals if signal.getsignal(s) not in (signal.SIG_IGN, None)]
    return {signum: signal.signal(signum, handler) for signum in free}


def _restore(before: dict) -> None:
    for signum, handler in before.items():
        signal.signal(signum, handler)
