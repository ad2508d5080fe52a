"""How well draws of the data given a measurement agree with their law, and with the truth.

For each of N measurements of a truth x1 there are K draws, and the exact posterior.

* coverage: the share of entries of x1 inside the interval between the j-th least and the j-th
  greatest of the K draws. If the draws have the law of x1 given y this is `1 - 2 j / (K + 1)`,
  whatever that law is, since the rank of x1 among the K + 1 is uniform.
* error / U: the squared error of the mean of the draws over their variance times (1 + 1/K), which
  is what it would be for draws of that law: 1.
* PSNR of the mean of the draws, `10 log10(4 / mean squared error)` for x in [-1, 1].
* distance of the mean from the exact one: `|mean - m*|^2 / tr C*`, less 1/K that K draws of the
  law would have; 0 for a right law.
"""

import math
from typing import Any

import numpy as np

from experiments.run import numbers

COVERAGE = 0.9


def place(num_draws: int) -> int:
    """Returns j, for which the interval covers `COVERAGE`, or as near to it as K allows."""
    return max(round((1 - COVERAGE) / 2 * (num_draws + 1)), 1)


def nominal(num_draws: int) -> float:
    """Returns the coverage that draws of the right law have."""
    return 1 - 2 * place(num_draws) / (num_draws + 1)


def scores(
    truth: np.ndarray, draws: np.ndarray, mean: np.ndarray, variance: np.ndarray
) -> dict[str, Any]:
    """Returns how good draws are, means over measurements with their standard errors.

    Args:
      truth: `[N, d]`.
      draws: `[N, K, d]`.
      mean: `[N, d]`, of the exact posterior.
      variance: `[N, d]`, of the exact posterior.
    """
    k, j = draws.shape[1], place(draws.shape[1])
    order = np.sort(draws, axis=1)
    inside = (order[:, j - 1] <= truth) & (truth <= order[:, k - j])
    center, spread = draws.mean(axis=1), draws.var(axis=1, ddof=1).sum(axis=-1)
    errors = ((truth - center) ** 2).sum(axis=-1)
    off = ((center - mean) ** 2).sum(axis=-1) / variance.sum(axis=-1) - 1 / k
    return {
        "coverage": numbers.mean(inside.mean(axis=-1)),
        "error_over_u": _ratio(errors, (1 + 1 / k) * spread),
        "psnr": _psnr(errors / truth.shape[1]),
        "distance": numbers.mean(off),
    }


def best(truth: np.ndarray, mean: np.ndarray) -> float:
    """Returns the PSNR of the exact posterior mean, in dB, which no estimate exceeds on average."""
    return _psnr(((truth - mean) ** 2).mean(axis=-1))


def _psnr(errors: np.ndarray) -> float:
    """Returns 10 log10(4 / mean), the peak of x in [-1, 1] over the mean squared error."""
    return 10 * math.log10(4 / float(np.mean(errors)))


def _ratio(errors: np.ndarray, spread: np.ndarray) -> dict[str, float]:
    """Returns a ratio of means with its standard error to first order."""
    ratio = float(errors.mean() / spread.mean())
    residuals = (errors - ratio * spread) / spread.mean()
    return {"mean": ratio, "standard_error": float(residuals.std(ddof=1) / len(errors) ** 0.5)}
