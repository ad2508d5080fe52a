"""The options of `experiments.fdm.promoters`, in parts."""

import dataclasses
import math

from experiments.run import options
from experiments.run.options import Free, Place


@dataclasses.dataclass(frozen=True)
class Source:
    """The sequences."""

    sequences: Place = None
    """A file of sequences of one length: a .csv file with the column `sequence`, FASTA, or one
    sequence in each line; .gz too."""
    condition: str = "label"
    """Column of a .csv file to condition on, words or numbers; empty conditions on nothing."""
    num_bins: int = 4
    """Classes of a column of numbers, with as many sequences each, from 2 to 100."""

    def check(self) -> None:
        """Raises ValueError for numbers out of their bounds."""
        options.check_bounds(self, {"num_bins": (2, 100)})


@dataclasses.dataclass(frozen=True)
class Training:
    """The network and its training, by Adam."""

    channels: int = 64
    """Features of every position; the paper has 256."""
    rounds: int = 1
    """Rounds of the five dilations; the paper has 4."""
    kernel_size: int = 9
    """Letters in the window of a convolution."""
    batch_size: int = 32
    """Sequences per step, a multiple of the number of devices."""
    num_steps: int = 1500
    """Training steps."""
    learning_rate: float = 1e-3
    """Learning rate of Adam at the start; it falls to zero along a cosine."""
    penalty_every: int = 4
    """The penalty is computed for every so manieth sequence of a batch, with one random probe."""
    ema_decay: float = 0.995
    """Decay of the moving average of the parameters, per step."""
    save_every: int = 250
    """Steps between checkpoints and between evaluations."""
    max_skipped: Free[int] = 0
    """Steps, of those between two lines of the metrics, that may be skipped for a loss or gradient
    that is not finite; they are counted. 0 stops the run at the first that is seen."""

    def check(self) -> None:
        """Raises ValueError for numbers out of their bounds."""
        least = ("channels", "rounds", "kernel_size", "batch_size", "num_steps", "save_every")
        bounds = {name: (1, math.inf) for name in least} | {"learning_rate": (1e-12, 1e12)}
        options.check_bounds(self, bounds | {"penalty_every": (1, self.batch_size)})


@dataclasses.dataclass(frozen=True)
class Measures:
    """How exactly the samples are measured."""

    num_samples: int = 1000
    """Samples of a network, at least 2; at most as many as there are held-out sequences."""
    solver_steps: int = 50
    """Euler steps of a sample."""
    start: int | None = None
    """Place of the letter of the start site, counted from 0, for the motifs; None has no motifs."""
    classifier_steps: int = 2000
    """Training steps of the classifier, where there are classes."""

    def check(self) -> None:
        """Raises ValueError for numbers out of their bounds."""
        least = {"num_samples": 2, "solver_steps": 1, "classifier_steps": 1}
        options.check_bounds(self, {name: (low, math.inf) for name, low in least.items()})
