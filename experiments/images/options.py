"""The options that runs on images share: which images, how a network is trained, what is measured.

They are parts of the options of a run (`experiments.run.options`), so that a helper takes the part
that it needs: `training.load(config.source, config.seed)`.
"""

import dataclasses
import math

from experiments.run import options
from experiments.run.options import Free, Place


@dataclasses.dataclass(frozen=True)
class Source:
    """The images; they are checked as they are read."""

    dataset: str = "digits"
    """digits, mnist, fashion_mnist, cifar10, cifar10_subset, another data set in data_dir, hf:NAME
    of a Hugging Face data set, or your own: a folder of PNG or JPEG files (or of one such folder
    for each class), an .npy file of uint8 [n, h, w] or [n, h, w, c], or an .npz file of such
    "images" with, if you have them, "held_out" images, "levels" of a pixel (256) and, where a
    classifier is trained, "labels" and "held_out_labels", integers [n]."""
    data_dir: Place = None
    """Folder of data sets prepared by tensorflow-datasets; None is its default folder, to which
    one of the four above that is missing is downloaded. Not used by digits and your own files."""
    held_out: float = 0.2
    """Share of the images held out, in (0, 1), where the data set has no split of its own."""


@dataclasses.dataclass(frozen=True)
class Training:
    """The U-Net and its training, by AdamW."""

    channels: tuple[int, ...] = (32, 64)
    """Features of each level of the U-Net, multiples of 8."""
    dropout: float = 0.1
    """Probability of dropping a feature in training, in [0, 1)."""
    batch_size: int = 64
    """Images per step, a multiple of the number of devices."""
    num_steps: int = 2000
    """Training steps of each network."""
    learning_rate: float = 2e-3
    """Peak of the learning rate; warm-up over the first tenth at most 100 steps, then cosine."""
    weight_decay: float = 0.01
    """Weight decay of AdamW, per unit of the learning rate."""
    ema_decay: float = 0.995
    """Decay of the moving average of the parameters, per step."""
    save_every: int = 500
    """Steps between checkpoints and between evaluations of the held-out loss."""
    max_skipped: Free[int] = 0
    """Steps, of those between two lines of the metrics, that may be skipped for a loss or gradient
    that is not finite; they are counted. 0 stops the run at the first that is seen."""

    def check(self) -> None:
        """Raises ValueError for numbers out of their bounds."""
        bounds = {
            "batch_size": (1, math.inf),
            "num_steps": (1, math.inf),
            "learning_rate": (1e-12, 1e12),
            "weight_decay": (0, 1e12),
            "ema_decay": (0.0, 1.0 - 1e-9),
            "save_every": (1, math.inf),
        }
        options.check_bounds(self, bounds)


@dataclasses.dataclass(frozen=True)
class FlowTraining(Training):
    """The training of a velocity."""

    conditioned: bool = False
    """Give the network the part of the velocity that no linear function of the state explains
    (`predictions.conditioned`, with the mean and deviation of all pixels), and weight all times
    alike."""
    divergence_weight: float = 0.0
    """Weight of the squared residual of the divergence, by two probes: flow and divergence matching
    (FDM). 0 is flow matching."""
    jacobian_weight: float = 0.0
    """The same of all entries of the Jacobian, by one probe; one of the two weights must be 0."""

    def check(self) -> None:
        """Raises ValueError for numbers out of their bounds, or for two penalties."""
        super().check()
        bounds = {"divergence_weight": (0, 1e12), "jacobian_weight": (0, 1e12)}
        options.check_bounds(self, bounds)
        if self.divergence_weight and self.jacobian_weight:
            message = (
                f"one of divergence_weight {self.divergence_weight} and jacobian_weight "
                f"{self.jacobian_weight} must be 0: a network is trained with one penalty."
            )
            raise ValueError(message)


@dataclasses.dataclass(frozen=True)
class Features:
    """The classifier in whose features images are compared."""

    embedding_dir: Free[str | None] = None
    """Folder of the classifier in whose features images are compared; None is one in the run
    folder. Runs of the same data, seed and embedding_steps may share it."""
    embedding_steps: int = 1000
    """Training steps of that classifier; 0 does without it and without labels."""

    def check(self) -> None:
        """Raises ValueError for a negative number of steps."""
        options.check_bounds(self, {"embedding_steps": (0, math.inf)})


@dataclasses.dataclass(frozen=True)
class Likelihood:
    """The likelihood of held-out images."""

    num_likelihood: int = 64
    """Held-out images whose likelihood is measured; 0 for none."""
    likelihood_probes: int = 0
    """Hutchinson probes of the likelihood's divergence; 0 is the exact divergence."""
    tolerance: float = 1e-3
    """Relative and absolute tolerance of a step of the likelihood's adaptive solver."""

    def check(self) -> None:
        """Raises ValueError for numbers out of their bounds."""
        bounds = {
            "num_likelihood": (0, math.inf),
            "likelihood_probes": (0, math.inf),
            "tolerance": (1e-12, 0.5),
        }
        options.check_bounds(self, bounds)
        options.check_not_one(self, "num_likelihood", "one image has no standard error")
