"""The space in which a run compares images, and the record of it that keeps a run to one.

`experiments.embedding` trains one on the labels of a data set; others are given by their function.
"""

import json
import os
from collections.abc import Callable
from typing import Any, NamedTuple

from experiments import loop
from fmjax.types import Array


class Embedding(NamedTuple):
    """A space in which images are compared.

    Attributes:
      embed: `[n, h, w, c]` in [-1, 1] `-> [n, size]`, a few at a time.
      fingerprint: of a classifier, changes with any parameter; of your own features (2), a name.
      accuracy: of the classifier on the held-out images, in [0, 1]; None if it is none.
    """

    embed: Callable[[Array], Array]
    fingerprint: str
    accuracy: float | None = None

    @property
    def name(self) -> str:
        """What the space is called in figures."""
        return self.fingerprint if self.accuracy is None else "classifier features"

    def facts(self) -> dict[str, Any]:
        """Returns what a run records of the space that it measures in."""
        return {
            "space": self.name,
            "fingerprint": self.fingerprint,
            "held_out_accuracy": self.accuracy,
        }

    def __str__(self) -> str:
        if self.accuracy is None:
            return f"compared in {self.name}"
        return (
            f"compared in features of a classifier, right on {self.accuracy:.2%} of held-out images"
        )


def pin(folder: os.PathLike, embedding: Embedding) -> None:
    """Records in a run folder which embedding its distances are measured in.

    Args:
      folder: of the run, from `loop.open_run`.
      embedding: the one at hand.

    Raises:
      ValueError: if the folder has distances in another; none is added.
    """
    file = folder / "embedding.json"
    if not file.exists():
        loop.write_json(file, embedding.facts())
        return
    before = json.loads(file.read_text())["fingerprint"]
    if before != embedding.fingerprint:
        message = (
            f"the distances in {folder} are measured in another embedding ({before} there, "
            f"{embedding.fingerprint} now): give that one, or another --workdir."
        )
        raise ValueError(message)
