"""The options of the video experiment in parts: data, autoencoder, training and measures."""

import dataclasses
import math

from experiments.run import options
from experiments.run.options import Free, Place


@dataclasses.dataclass(frozen=True)
class Source:
    """The clips."""

    clips: str = "digits"
    """digits or mnist, moving digits made from these; or videos of your own: an .npz file of uint8
    arrays [frames, h, w] or [frames, h, w, c], or a folder of frames as images, or of one such
    folder for each video."""
    data_dir: Place = None
    """Folder with MNIST prepared by tensorflow-datasets; None is its default folder."""
    side: int = 16
    """Pixels of the side of a frame of moving digits."""
    digit: int = 8
    """Pixels of the side of a digit; it moves by a sixteenth to three of it in a frame."""
    num_train: int = 2000
    """Clips of moving digits to train on."""
    num_test: int = 256
    """Clips of moving digits that are held out, at least 8."""
    frames: int = 16
    """Frames of a clip."""
    past: int = 5
    """Frames that are known, at least 2; the others are predicted."""
    stride: int = 8
    """Frames between two clips of a video of your own."""
    motion: float = 0.5
    """Mean absolute difference of consecutive frames, of 255 levels, that a clip must exceed."""
    held_out: float = 0.2
    """Share of each video, at its end, that is held out."""

    def check(self) -> None:
        """Raises ValueError for clips too short, too few, or shares that are none."""
        bounds = {
            "side": (8, 1024),
            "digit": (2, self.side),
            "num_train": (1, math.inf),
            "num_test": (8, math.inf),
            "past": (2, math.inf),
            "frames": (self.past + 1, 1000),
            "stride": (1, math.inf),
            "motion": (0, 255),
            "held_out": (0.01, 0.99),
        }
        options.check_bounds(self, bounds)


@dataclasses.dataclass(frozen=True)
class Coding:
    """The autoencoder and its training, by Adam."""

    channels: tuple[int, ...] = (16, 32)
    """Features of each level of the autoencoder, multiples of 8; each level halves the frame."""
    num_latents: int = 4
    """Features of a cell of the latent frame, which is a token."""
    coding_steps: int = 1500
    """Training steps of the autoencoder."""
    coding_batch: int = 64
    """Frames per step."""
    coding_rate: float = 2e-3
    """Learning rate at the start; it falls to zero along a cosine."""
    latent_noise: float = 0.1
    """Standard deviation of the noise on the latents while the autoencoder is trained."""
    latent_weight: float = 1e-4
    """Weight of the squares of the latents in its loss."""

    def check(self) -> None:
        """Raises ValueError for numbers out of their bounds."""
        bounds = {
            "coding_steps": (1, math.inf),
            "coding_batch": (1, math.inf),
            "coding_rate": (1e-12, 1e12),
            "latent_noise": (0, 1e6),
            "latent_weight": (0, 1e6),
        }
        options.check_bounds(self, bounds)


@dataclasses.dataclass(frozen=True)
class Training:
    """The transformer and its training, by Adam."""

    width: int = 64
    """Features of a token in the transformer; the paper's has 768."""
    depth: int = 3
    """Blocks of the transformer; the paper's has 13."""
    num_heads: int = 4
    """Heads of its attention; the paper's has 8."""
    batch_size: int = 128
    """Frames to predict per step, a multiple of the number of devices."""
    num_steps: int = 2000
    """Training steps from scratch; the paper has 300,000."""
    tune_steps: int = 500
    """Steps with which the trained FM network is trained on, once by FM and once by FDM."""
    learning_rate: float = 3e-3
    """Learning rate of Adam; the paper's is 1e-4, and 1e-5 for FDM after FM."""
    tune_rate: float = 1e-3
    """Learning rate of the further training."""
    weight: float = 0.01
    """Weight of the divergence penalty in FDM, not negative."""
    penalty_every: int = 4
    """The penalty is computed for every so manieth frame of a batch, with one random probe."""
    ema_decay: float = 0.999
    """Decay of the moving average of the parameters, per step."""
    save_every: int = 250
    """Steps between checkpoints and between evaluations."""
    max_skipped: Free[int] = 0
    """Steps, of those between two lines of the metrics, that may be skipped for a loss or gradient
    that is not finite; they are counted. 0 stops the run at the first that is seen."""

    def check(self) -> None:
        """Raises ValueError for numbers out of their bounds."""
        bounds = {
            "batch_size": (1, math.inf),
            "num_steps": (1, math.inf),
            "tune_steps": (1, math.inf),
            "learning_rate": (1e-12, 1e12),
            "tune_rate": (1e-12, 1e12),
            "weight": (0, 1e6),
            "penalty_every": (1, self.batch_size),
            "save_every": (1, math.inf),
        }
        options.check_bounds(self, bounds)


@dataclasses.dataclass(frozen=True)
class Measures:
    """What is predicted and measured."""

    num_clips: int = 64
    """Held-out clips that are predicted, at least 4, or as many as there are."""
    num_draws: int = 3
    """Predictions of every clip, of which the best is reported too."""
    solver_steps: int = 5
    """Steps of RK4 for a frame; the paper has 100."""
    num_quick: int = 16
    """Clips that are predicted at every evaluation of the training, at least 2."""

    def check(self) -> None:
        """Raises ValueError for numbers out of their bounds."""
        least = {"num_clips": 4, "num_draws": 1, "solver_steps": 1, "num_quick": 2}
        options.check_bounds(self, {name: (low, math.inf) for name, low in least.items()})
