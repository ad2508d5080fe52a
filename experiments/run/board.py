"""The metrics in the format of TensorBoard, beside metrics.jsonl: `--tensorboard`.

The writer is tensorboardX, which needs no TensorFlow. Its files are made anew from metrics.jsonl
whenever a training begins or continues, so that they hold what that holds, and no line twice.
"""

import contextlib
import contextvars
import importlib.util
import os
from collections.abc import Iterator
from typing import Any

from etils import epath

from experiments.run import lock

NAME = "tensorboard"
_FLUSH_SECONDS = 10
_asked: contextvars.ContextVar[bool] = contextvars.ContextVar("tensorboard", default=False)


@contextlib.contextmanager
def kept(*, asked: bool) -> Iterator[None]:
    """Lets every training of the context write its metrics for TensorBoard too, if asked for."""
    token = _asked.set(asked)
    try:
        yield
    finally:
        _asked.reset(token)


def check(workdir: str | os.PathLike) -> None:
    """Raises an error if the files are asked for and cannot be written.

    Args:
      workdir: the run folder.

    Raises:
      ImportError: if tensorboardX is not installed.
      ValueError: if the folder is in a bucket.
    """
    if not _asked.get():
        return
    if importlib.util.find_spec("tensorboardX") is None:
        message = (
            "--tensorboard needs the package tensorboardX: run "
            'pip install -e ".[experiments,tensorboard]".'
        )
        raise ImportError(message)
    if "://" in os.fspath(workdir):
        message = f"--tensorboard writes to local folders, got {workdir}: leave one of them out."
        raise ValueError(message)


class Board:
    """The files of one training; it writes nothing unless they are asked for.

    Args:
      folder: of the training.
      lines: what metrics.jsonl holds already.
    """

    def __init__(self, folder: epath.Path, lines: list[dict[str, Any]]) -> None:
        self._writer = None
        if not _asked.get() or not lock.may_write(folder):
            return
        from tensorboardX import SummaryWriter  # an extra

        place = folder / NAME
        place.mkdir(parents=True, exist_ok=True)
        for old in place.glob("events.out.tfevents.*"):
            old.unlink()
        self._writer = SummaryWriter(os.fspath(place), flush_secs=_FLUSH_SECONDS)
        for line in lines:
            self.write(**line)

    def write(self, step: int, **values: float | None) -> None:
        """Adds the numbers of a line, without those that are none."""
        if self._writer is None:
            return
        for name, value in values.items():
            if value is not None:
                self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Writes what is left."""
        if self._writer is not None:
            self._writer.close()
