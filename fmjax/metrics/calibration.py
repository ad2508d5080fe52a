"""Compares the uncertainty that a model states with the error that it makes.

For an exact velocity, the squared error of the posterior mean has at every state the conditional
mean U = tr Cov[x1 | x_t], the scalar uncertainty. So at each time t

    E[error] / E[U] = 1,                                                          (1)
    the regression of the error on U has slope one, and
    Pearson(U, error) = sqrt(Var U / Var error),                                  (2)

and no function of the state has a higher correlation with the error than (2). Above 1 in (1) the
model is overconfident, below 1 underconfident. A correlation below (2) says that U is wrong from
state to state. A correlation above (2) says that U varies too little, or that the sample is small:
(2) is computed from the model's own U, so it bounds the exact U only as far as the model has
learned it. (2) above 1 comes from a U that is mostly noise.

Pass one time per call. Error and U both fall with t, so correlations over several times are high
even if U says nothing about the state.

References:
  Xing, Wang and Wang (2026), Divergence is Uncertainty, arXiv 2605.00941, section 5.3.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp

from fmjax import _checks
from fmjax.metrics import correlation
from fmjax.metrics._common import check_equal
from fmjax.types import Array

__all__ = ["Calibration", "calibration"]


class Calibration(NamedTuple):
    """How stated uncertainties agree with errors; each entry is a scalar.

    Attributes:
      mean_error: the mean of the errors.
      mean_uncertainty: the mean of the uncertainties.
      ratio: mean error over mean uncertainty, eq. (1); 1 if the uncertainties are right on average.
      ratio_standard_error: the standard error of `ratio`, from the spread between examples.
      pearson: the linear correlation of uncertainty and error.
      spearman: their rank correlation.
      best_pearson: the right side of eq. (2), the highest possible `pearson`.
      negative_variances: the share of negative entries of `variance`, None if none was given.
    """

    mean_error: Array
    mean_uncertainty: Array
    ratio: Array
    ratio_standard_error: Array
    pearson: Array
    spearman: Array
    best_pearson: Array
    negative_variances: Array | None


def calibration(uncertainty: Array, error: Array, *, variance: Array | None = None) -> Calibration:
    """Compares the uncertainties of a batch with its squared errors, at one time.

    The standard error of the ratio is first order in the fluctuations of both means (the delta
    method): std(error - ratio U) / (mean U sqrt(n)). It needs independent examples.

    Args:
      uncertainty: `[n]`, n >= 2, the trace of each posterior covariance, in squared units of x.
      error: `[n]`, the squared distance of each posterior mean from its x1, in the same units.
      variance: `[n, *dims]`, the diagonals of the covariances. A negative entry cannot be right;
        their share is returned too.

    Returns:
      `Calibration`, in float32 at least. Correlations of a constant sequence are NaN, and so is the
      ratio of zeros.

    Raises:
      ValueError: if `uncertainty` and `error` are not two vectors of one length, at least 2, or if
        `variance` has another number of examples.

    Example:
      >>> import fmjax
      >>> import jax
      >>> key_u, key_e = jax.random.split(jax.random.key(0))
      >>> uncertainty = 1 + jax.random.uniform(key_u, (5000,))
      >>> error = uncertainty * jax.random.normal(key_e, (5000,)) ** 2  # E[error | U] = U
      >>> found = fmjax.metrics.calibration(uncertainty, error)
      >>> abs(float(found.ratio) - 1) < 3 * float(found.ratio_standard_error)
      True

    Reference:
      Xing et al. (2026), arXiv 2605.00941, section 5.3. [xing2026divergence]
    """
    _check(uncertainty, error, variance)
    u, error = _checks.wide(uncertainty), _checks.wide(error)
    mean_u, mean_error = jnp.mean(u), jnp.mean(error)
    ratio = mean_error / mean_u
    spread = _deviation(error - ratio * u, len(u) - 1)
    return Calibration(
        mean_error=mean_error,
        mean_uncertainty=mean_u,
        ratio=ratio,
        ratio_standard_error=spread / mean_u / len(u) ** 0.5,
        pearson=correlation.pearson(u, error),
        spearman=correlation.spearman(u, error),
        best_pearson=_deviation(u, len(u)) / _deviation(error, len(u)),
        negative_variances=None if variance is None else _share_below_zero(variance),
    )


def _deviation(z: Array, degrees: int) -> Array:
    """Returns the standard deviation; its squares neither overflow nor vanish."""
    z = z - z[0]  # a constant becomes exactly zero
    z = z - jnp.mean(z)
    largest = jnp.max(jnp.abs(z))
    scale = jnp.where(largest > 0, largest, 1.0)
    return scale * jnp.sqrt(jnp.sum((z / scale) ** 2) / degrees)


def _share_below_zero(variance: Array) -> Array:
    """Returns the share of negative entries, NaN if an entry is NaN."""
    variance = _checks.wide(variance)
    below = jnp.where(jnp.isnan(variance), jnp.nan, (variance < 0).astype(variance.dtype))
    return jnp.mean(below)


def _check(uncertainty: Array, error: Array, variance: Array | None) -> None:
    check_equal(uncertainty, error, at_least=2)
    shape = jnp.shape(uncertainty)
    if len(shape) != 1:
        message = (
            f"uncertainty and error must be vectors with a number for each example, got {shape}: "
            "sum over the entries of each example first, and call once for each time."
        )
        raise ValueError(message)
    if variance is not None and jnp.shape(variance)[:1] != shape:
        message = (
            f"variance must be [n, *dims] with the n = {shape[0]} of uncertainty, got shape "
            f"{jnp.shape(variance)}: pass the variances of the same examples."
        )
        raise ValueError(message)
