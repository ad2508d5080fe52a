"""The options of the trajectory experiment in parts: data, network, training and measures."""

import dataclasses
import math

from experiments.run import options
from experiments.run.options import Free, Place


@dataclasses.dataclass(frozen=True)
class Source:
    """The trajectories, simulated or a user's own."""

    system: str = "lorenz"
    """lorenz, fitzhugh_nagumo, or trajectories of your own: an .npy file of numbers
    [n, length, channels], or a .csv file with one trajectory of one channel in each line. They are
    taken as they are: scale them to about 1. The event is then that the largest value of the first
    channel is above the 0.9-quantile of those of the training trajectories."""
    data_dir: Place = None
    """Folder in which simulated trajectories are kept; None simulates them again."""
    num_train: int = 4000
    """Trajectories to train on; the paper has 32,000."""
    num_test: Free[int] = 10000
    """Trajectories to compare with, none of them trained on; the paper has 32,000."""

    def check(self) -> None:
        """Raises ValueError for too few trajectories."""
        options.check_bounds(self, {"num_train": (2, math.inf), "num_test": (1, math.inf)})


@dataclasses.dataclass(frozen=True)
class Training:
    """The network and its training, by Adam."""

    channels: tuple[int, ...] = (16, 32, 64)
    """Features of each level of the network, multiples of 8; the paper's are 32 64 128."""
    num_blocks: tuple[int, ...] = (1, 1, 1)
    """Residual blocks of each level, down and up again; the paper has 4 8 8."""
    conditioned: bool = False
    """Let the network predict what the best linear velocity leaves (`predictions.conditioned`, with
    the mean and deviation of each coordinate), and draw the times, weighted alike, by EDM's law."""
    batch_size: int = 128
    """Trajectories per step, a multiple of the number of devices; the paper's is 500."""
    num_steps: int = 3000
    """Training steps of each method; the paper has 128,000."""
    learning_rate: float = 3e-3
    """First learning rate of Adam, of FM and of FDM; the paper's is 1e-4 for FM."""
    fdm_learning_rate: float | None = None
    """Another one for FDM; None is the same. The paper tuned it for FDM alone."""
    lr_decay: float = 0.995
    """Factor of the learning rate every --lr-every steps."""
    lr_every: int = 512
    """Steps between two decays of the learning rate."""
    ema_decay: float = 0.995
    """Decay of the moving average of the parameters, per step; the paper's is 0.9995."""
    weight: float = 0.0056
    """Weight of the divergence penalty of FDM, at least 0; that of the tables, 1 / 180."""
    matching: str = "trace"
    """What the penalty squares: trace, by one Hutchinson probe; product, of two probes, unbiased;
    or jacobian, all derivatives."""
    probe_every: int = 4
    """Of every k-th trajectory of a batch the divergence is probed, with k times the weight: the
    same mean at a fraction of the time; the paper probes all, 1."""
    save_every: int = 500
    """Steps between checkpoints and between evaluations of the held-out losses."""
    forecast_steps: int = 1000
    """Training steps of the forecasting networks; 0 for no forecasts."""
    max_skipped: Free[int] = 0
    """Steps, of those between two lines of the metrics, that may be skipped for a loss or gradient
    that is not finite; they are counted. 0 stops the run at the first that is seen."""

    def check(self) -> None:
        """Raises ValueError for numbers out of their bounds."""
        bounds = {
            "probe_every": (1, self.batch_size),
            "num_steps": (1, math.inf),
            "learning_rate": (1e-12, 1e12),
            "lr_decay": (1e-12, 1),
            "lr_every": (1, math.inf),
            "ema_decay": (0, 1 - 1e-9),
            "weight": (0, 1e12),
            "save_every": (1, math.inf),
            "forecast_steps": (0, math.inf),
        }
        options.check_bounds(self, bounds)
        if self.fdm_learning_rate is not None:
            options.check_bounds(self, {"fdm_learning_rate": (1e-12, 1e12)})


@dataclasses.dataclass(frozen=True)
class Measures:
    """What is sampled and measured of every network."""

    num_samples: int = 2000
    """Trajectories sampled by each method."""
    num_conditioned: int = 500
    """Trajectories sampled given the event."""
    sample_steps: int = 100
    """Steps of the sampler; the paper has 1000."""
    jitter: float = 1e-3
    """Error to expect of a network's posterior covariance when it is conditioned on the event, as
    a share of the noise's variance, at least 0; 0.1 stops draws of a badly trained network from
    running away."""
    num_bins: int = 32
    """Bins of the histograms of the statistic; the paper has 128, for 32,000 samples."""
    num_likelihood: int = 64
    """Held-out trajectories whose likelihood is measured; 0 for none."""
    tolerance: float = 1e-5
    """Relative and absolute tolerance of a step of the likelihood's adaptive solver."""
    num_forecasts: int = 500
    """Held-out trajectories that are forecast."""
    eval_batch_size: int = 250
    """Trajectories evaluated at a time; memory grows with it."""

    def check(self) -> None:
        """Raises ValueError for numbers out of their bounds."""
        bounds = {
            "num_samples": (2, math.inf),
            "num_conditioned": (2, math.inf),
            "sample_steps": (1, math.inf),
            "jitter": (0, 1e12),
            "num_bins": (2, math.inf),
            "num_likelihood": (0, math.inf),
            "tolerance": (1e-12, 0.5),
            "num_forecasts": (1, math.inf),
            "eval_batch_size": (1, math.inf),
        }
        options.check_bounds(self, bounds)
        options.check_not_one(self, "num_likelihood", "one has no standard error")
