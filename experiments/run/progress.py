"""How far a long loop is: a bar in a terminal; a line every ten seconds in a log or a notebook.

Only a terminal can write over a line. A log would hold every state of a bar, one after another.
"""

import sys
import time
from collections.abc import Iterator, Sequence
from typing import TypeVar

import tqdm

T = TypeVar("T")
QUIET_SECONDS = 10.0  # between two lines where stderr is no terminal


def each(items: Sequence[T], label: str, *, unit: str, shows: bool = True) -> Iterator[T]:
    """Yields the items, and says on stderr how many are done.

    Args:
      items: of the loop.
      label: what is done to them.
      unit: what an item is.
      shows: False says nothing.
    """
    if not shows or sys.stderr.isatty():
        yield from tqdm.tqdm(
            items, desc=label, unit=unit, leave=False, dynamic_ncols=True, disable=not shows
        )
        return
    begun = shown = time.monotonic()
    for done, item in enumerate(items):
        now = time.monotonic()
        if done and now - shown >= QUIET_SECONDS:
            say(label, done, len(items), unit, seconds=(now - begun) / done)
            shown = now
        yield item


def say(label: str, done: int, total: int, unit: str, *, seconds: float, more: str = "") -> None:
    """Prints one line of progress.

    Args:
      label: of the loop.
      done: how much of it is done.
      total: all of it.
      unit: of both.
      seconds: that one takes; nothing is said of the time that is left unless it is positive.
      more: what else the line says.
    """
    line = f"{label}: {unit} {done}/{total}{more}"
    if seconds > 0:
        line = f"{line}, {tqdm.tqdm.format_interval((total - done) * seconds)} left"
    print(line, file=sys.stderr, flush=True)
