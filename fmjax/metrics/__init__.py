"""Distances between samples and laws, and correlations, for judging a trained flow.

These functions take a batch: the first axis counts examples, which have any shape `[*dims]`. To
compare in the space of an embedding, pass its features. Matrix products ask for full precision,
which accelerators do not give by default.

* distances of laws: `total_variation` of probabilities; `wasserstein2`, `mmd` with a kernel
  such as `gaussian_kernel`, and `frechet` of samples
* fidelity and diversity, each by itself: `prdc`, precision, recall, density and coverage
* copies of the training set: `nearest_neighbor`; `distance_ratio` and `memorization_ratio`
* two sequences of numbers: `pearson`, `spearman`
* stated uncertainties against errors: `calibration`
"""

from fmjax.metrics.calibration import Calibration, calibration
from fmjax.metrics.correlation import pearson, spearman
from fmjax.metrics.distributions import (
    frechet,
    gaussian_kernel,
    mmd,
    total_variation,
    wasserstein2,
)
from fmjax.metrics.manifold import PRDC, prdc
from fmjax.metrics.neighbors import distance_ratio, memorization_ratio, nearest_neighbor

__all__ = [
    "PRDC",
    "Calibration",
    "calibration",
    "distance_ratio",
    "frechet",
    "gaussian_kernel",
    "memorization_ratio",
    "mmd",
    "nearest_neighbor",
    "pearson",
    "prdc",
    "spearman",
    "total_variation",
    "wasserstein2",
]
