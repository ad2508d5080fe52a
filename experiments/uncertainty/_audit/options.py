"""The options of an audit: what is audited, on which data, and how much of it is measured."""

import dataclasses
import math

from experiments.run import options
from experiments.run.options import Place


@dataclasses.dataclass(frozen=True)
class Facts:
    """What no measurement shows of a velocity, and what its user knows."""

    coupled: bool = False
    """The velocity was trained on coupled pairs of noise and data (minibatch optimal transport,
    reflow): its Jacobian then is no posterior covariance, and what needs one is not answered."""
    guided: bool = False
    """The velocity is guided (classifier-free guidance, built in or outside): likewise."""


@dataclasses.dataclass(frozen=True)
class Subject:
    """Whose velocity is audited: a run of ours or a model of yours, one of the two."""

    run: str | None = None
    """Folder of a run of ours, the one that holds config.json."""
    network: str | None = None
    """Name of the network in the run, where it has trained several; an error lists the names."""
    model: str | None = None
    """Your model, MODULE:FUNCTION, of the current folder or installed. The function is called
    without arguments and returns a velocity (x, t) -> dx of one example, t = 0 at the noise, or a
    pair of a velocity and its path where that is not fmjax.paths.linear()."""


@dataclasses.dataclass(frozen=True)
class Examples:
    """The data that the velocity is asked about."""

    dataset: str | None = None
    """None is the data of the run. Images as in all experiments on images: digits, mnist,
    fashion_mnist, cifar10, cifar10_subset, a folder, an .npz or .npy file of uint8; x is then in
    [-1, 1]. Or data in your model's own units: an .npy file of floating numbers [n, ...], which the
    model has not seen, or an .npz file of such "held_out" and "train"."""
    data_dir: Place = None
    """Folder of data sets prepared by tensorflow-datasets; None is its default folder, to which
    a missing data set is downloaded. Not used by digits and your own files."""
    held_out: float = 0.2
    """Share of the images held out, in (0, 1), where the data set has no split of its own; with the
    seed it has to be the split that your model was trained with."""


@dataclasses.dataclass(frozen=True)
class Jacobian:
    """How the Jacobian is looked at."""

    num_jacobians: int = 32
    """Held-out examples whose whole Jacobian is looked at, at each time; at least 2."""
    probes: int = 0
    """Random probes for U, symmetry and the extreme eigenvalues, at least 2; 0 computes all d
    columns of the Jacobian, which costs d passes of the network for each state."""

    def check(self) -> None:
        """Raises ValueError for numbers out of their bounds."""
        options.check_bounds(self, {"num_jacobians": (2, math.inf), "probes": (0, math.inf)})
        options.check_not_one(self, "probes", "one probe has no standard error")


@dataclasses.dataclass(frozen=True)
class Samples:
    """What is drawn from the velocity."""

    num_samples: int = 256
    """Samples that are compared with the training data, at least 2; 0 for none."""

    def check(self) -> None:
        """Raises ValueError for numbers out of their bounds."""
        options.check_bounds(self, {"num_samples": (0, math.inf)})
        options.check_not_one(self, "num_samples", "one sample has no standard error")
