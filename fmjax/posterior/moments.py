"""Mean and covariance of the data given a noisy state, whole or in parts.

Formulas (1) to (3) stand in `fmjax.posterior`. All functions share two options:

* `of` names the quantity whose covariance is computed, as a row of `fmjax.predictions`: the data by
  default, `predictions.x0` for the noise (finite at t = 0 too), `predictions.velocity` for dx_t/dt:
  what a variance head learns (`losses.gaussian_nll`). They differ by a factor:

      Cov[a x1 + b x0 | x_t] = ((a sigma - b alpha) / sigma)^2 Cov[x1 | x_t]               (6)

* `noise` is the covariance Gamma of x0 as a function `w -> Gamma w`, the identity by default.
  Then the covariance of the data is `sigma^2 / (alpha D) (sigma J - sigma_dot I) Gamma`.

References:
  Xing, Wang and Wang (2026), Divergence is Uncertainty, arXiv 2605.00941, section 4.
"""

from __future__ import annotations

from collections.abc import Callable

from fmjax import _checks, divergence, predictions
from fmjax.estimators import Estimate
from fmjax.paths import Path
from fmjax.posterior import _operator
from fmjax.posterior._operator import Linear, white
from fmjax.predictions import Prediction
from fmjax.types import Array, Divergence, Velocity

__all__ = ["covariance", "diagonal", "estimate", "matvec", "mean", "trace"]


def mean(velocity: Velocity, path: Path, x: Array, t: Array) -> Array:
    """Computes the mean of the data given the state, eq. (1).

    Args:
      velocity: the field, `(x[*dims], t[]) -> [*dims]`.
      path: the path that it was trained on.
      x: `[*dims]`, the state.
      t: `[]`, in [0, 1]. D must be finite and positive, which excludes only t = 1 on vp.

    Returns:
      `[*dims]`, the denoised state.

    Raises:
      ValueError: if `t` is batched or a static number outside [0, 1], or if the velocity is not
        shaped like `x`.

    Example:
      >>> import fmjax
      >>> import jax.numpy as jnp
      >>> gaussian = lambda x, t: (2 * t - 1) / (t**2 + (1 - t) ** 2) * x  # N(0, I) to N(0, I)
      >>> path, x = fmjax.paths.linear(), jnp.array([1.0, -2.0])
      >>> fmjax.posterior.mean(gaussian, path, x, 0.5).tolist()
      [1.0, -2.0]

    Reference:
      Xing et al. (2026), arXiv 2605.00941, section 4.1. [xing2026divergence]
    """
    _checks.functions(velocity=velocity, path=path)
    t, x = _checks.time(t), _checks.state(x)
    value = _checks.at(velocity, t)(x)
    return predictions.convert(path, value, x, t, given=predictions.velocity, wanted=predictions.x1)


def matvec(
    velocity: Velocity,
    path: Path,
    x: Array,
    t: Array,
    vector: Array,
    *,
    of: Prediction = predictions.x1,
    noise: Linear = white,
) -> Array:
    """Multiplies a vector by the posterior covariance (2) without forming the matrix.

    The Jacobian is symmetrized, so a product takes one tangent and one cotangent.

    Args:
      velocity: the field, `(x[*dims], t[]) -> [*dims]`.
      path: the path that it was trained on.
      x: `[*dims]`, the state.
      t: `[]`, in (0, 1]; see `fmjax.posterior` for small t.
      vector: `[*dims]`.
      of: what the covariance is of, eq. (6).
      noise: the covariance of the noise, `w[*dims] -> [*dims]`.

    Returns:
      `[*dims]`.

    Raises:
      ValueError: if shapes differ, or if `t` is batched, or a static number outside (0, 1].

    Example:
      >>> import fmjax
      >>> import jax.numpy as jnp
      >>> gaussian = lambda x, t: (2 * t - 1) / (t**2 + (1 - t) ** 2) * x  # N(0, I) to N(0, I)
      >>> path, x = fmjax.paths.linear(), jnp.array([1.0, -2.0])
      >>> fmjax.posterior.matvec(gaussian, path, x, 0.5, jnp.array([1.0, 0.0])).tolist()
      [0.5, 0.0]

    Reference:
      Xing et al. (2026), arXiv 2605.00941, section 4.4. [xing2026divergence]
    """
    _checks.functions(velocity=velocity, path=path, of=of, noise=noise)
    x, vector = _checks.state(x), _checks.floating(vector)
    _checks.same_shape(x=x, vector=vector)
    product = _operator.symmetric(_operator.field(velocity, path, x, t, of, noise), x)
    return product(vector.astype(_checks.wide_dtype(x)))


def covariance(
    velocity: Velocity,
    path: Path,
    x: Array,
    t: Array,
    *,
    of: Prediction = predictions.x1,
    noise: Linear = white,
) -> Array:
    """Computes the covariance of the data given the state, eq. (2).

    Args:
      velocity: the field, `(x[*dims], t[]) -> [*dims]`.
      path: the path that it was trained on.
      x: `[*dims]`, the state; d is its size, at most 4,096.
      t: `[]`, in (0, 1]; see `fmjax.posterior` for small t.
      of: what the covariance is of, eq. (6).
      noise: the covariance of the noise, `w[*dims] -> [*dims]`.

    Returns:
      `[d, d]`, symmetrized; in the squared unit of the data that the model was trained on.

    Raises:
      ValueError: if d is above 4,096; if `t` is batched, or a static number outside (0, 1]; or
        if the velocity is not shaped like `x`.

    Example:
      >>> import fmjax
      >>> import jax.numpy as jnp
      >>> gaussian = lambda x, t: (2 * t - 1) / (t**2 + (1 - t) ** 2) * x  # N(0, I) to N(0, I)
      >>> path, x = fmjax.paths.linear(), jnp.array([1.0, -2.0])
      >>> fmjax.posterior.covariance(gaussian, path, x, 0.5).tolist()
      [[0.5, 0.0], [0.0, 0.5]]

    Reference:
      Xing et al. (2026), arXiv 2605.00941, section 4.3. [xing2026divergence]
    """
    _checks.functions(velocity=velocity, path=path, of=of, noise=noise)
    x = _checks.state(x)
    return _operator.dense(_operator.field(velocity, path, x, t, of, noise), x)


def diagonal(
    velocity: Velocity,
    path: Path,
    x: Array,
    t: Array,
    *,
    of: Prediction = predictions.x1,
    noise: Linear = white,
    chunk_size: int = 16,
) -> Array:
    """Computes the exact variance of every entry of the data given the state.

    It takes the diagonal of (2) by one tangent per entry, with memory set by `chunk_size`. Its
    square root is a per-pixel map in the unit of the data. Beyond about 1,000 entries take
    `estimate`.

    Args:
      velocity: the field, `(x[*dims], t[]) -> [*dims]`.
      path: the path that it was trained on.
      x: `[*dims]`, the state.
      t: `[]`, in (0, 1]; see `fmjax.posterior` for small t.
      of: what the variance is of, eq. (6).
      noise: the covariance of the noise, `w[*dims] -> [*dims]`.
      chunk_size: number of tangents computed at once.

    Returns:
      `[*dims]`; a learned field may make entries negative.

    Raises:
      ValueError: if `t` is batched, or a static number outside (0, 1], if the velocity is not
        shaped like `x`, or if `chunk_size` is not positive.

    Example:
      >>> import fmjax
      >>> import jax.numpy as jnp
      >>> gaussian = lambda x, t: (2 * t - 1) / (t**2 + (1 - t) ** 2) * x  # N(0, I) to N(0, I)
      >>> path, x = fmjax.paths.linear(), jnp.array([1.0, -2.0])
      >>> fmjax.posterior.diagonal(gaussian, path, x, 0.5).tolist()
      [0.5, 0.5]

    Reference:
      Xing et al. (2026), arXiv 2605.00941, section 4.4. [xing2026divergence]
    """
    _checks.functions(velocity=velocity, path=path, of=of, noise=noise)
    x = _checks.state(x)
    function = _operator.field(velocity, path, x, t, of, noise)
    return divergence.diagonal(function, x, chunk_size=chunk_size)[1]


def trace(
    velocity: Velocity,
    path: Path,
    x: Array,
    t: Array,
    *,
    of: Prediction = predictions.x1,
    noise: Linear = white,
    divergence: Divergence = divergence.exact,
) -> Array:
    """Computes the scalar uncertainty U, the trace of the posterior covariance, eq. (3).

    Args:
      velocity: the field, `(x[*dims], t[]) -> [*dims]`.
      path: the path that it was trained on.
      x: `[*dims]`, the state.
      t: `[]`, in (0, 1]; see `fmjax.posterior` for small t.
      of: what the covariance is of, eq. (6).
      noise: the covariance of the noise, `w[*dims] -> [*dims]`.
      divergence: any function of `fmjax.divergence`, applied to the field whose Jacobian is the
        covariance. An unbiased divergence makes U unbiased.

    Returns:
      `[]`; for the data it is the expected squared error of `mean`, summed over entries.

    Raises:
      ValueError: if `t` is batched, or a static number outside (0, 1], or if the velocity is
        not shaped like `x`.

    Example:
      >>> import fmjax
      >>> import jax.numpy as jnp
      >>> gaussian = lambda x, t: (2 * t - 1) / (t**2 + (1 - t) ** 2) * x  # N(0, I) to N(0, I)
      >>> path, x = fmjax.paths.linear(), jnp.array([1.0, -2.0])
      >>> float(fmjax.posterior.trace(gaussian, path, x, 0.5))
      1.0

    Reference:
      Xing et al. (2026), arXiv 2605.00941, section 4.3. [xing2026divergence]
    """
    _checks.functions(velocity=velocity, path=path, of=of, noise=noise, divergence=divergence)
    x = _checks.state(x)
    return _checks.divergence_of(divergence, _operator.field(velocity, path, x, t, of, noise), x)[1]


def estimate(
    velocity: Velocity,
    path: Path,
    x: Array,
    t: Array,
    *,
    estimator: Callable[[Linear, Array], tuple[Array, Estimate]],
    of: Prediction = predictions.x1,
    noise: Linear = white,
) -> Estimate:
    """Estimates the trace or the diagonal of the covariance, with its standard error.

    Use it for data of many dimensions. The estimator is applied to the field whose Jacobian is the
    covariance. So `xnystrace` and `xnysdiag` are allowed if the model's covariance is positive
    semi-definite.

    Args:
      velocity: the field, `(x[*dims], t[]) -> [*dims]`.
      path: the path that it was trained on.
      x: `[*dims]`, the state.
      t: `[]`, in (0, 1]; see `fmjax.posterior` for small t.
      estimator: a function of `fmjax.estimators` with its key and options bound by `partial`.
      of: what the covariance is of, eq. (6).
      noise: the covariance of the noise, `w[*dims] -> [*dims]`.

    Returns:
      Mean and standard error, each `[]` for the trace or `[*dims]` for the diagonal.

    Raises:
      ValueError: if `t` is batched, or a static number outside (0, 1], or if the velocity is
        not shaped like `x`.

    Example:
      >>> from functools import partial
      >>> import fmjax
      >>> import jax
      >>> gaussian = lambda x, t: (2 * t - 1) / (t**2 + (1 - t) ** 2) * x  # N(0, I) to N(0, I)
      >>> path, x = fmjax.paths.linear(), jax.numpy.ones(50)
      >>> estimator = partial(fmjax.estimators.hutchinson, jax.random.key(0))
      >>> u = fmjax.posterior.estimate(gaussian, path, x, 0.5, estimator=estimator)
      >>> print(f"{u.mean:.3f} +- {u.standard_error:.3f}")
      25.000 +- 0.000

    Reference:
      Xing et al. (2026), arXiv 2605.00941, section 4.4; Epperly, Tropp and Webber (2024), arXiv
      2301.07825. [xing2026divergence; epperly2024xtrace]
    """
    _checks.functions(velocity=velocity, path=path, estimator=estimator, of=of, noise=noise)
    x = _checks.state(x)
    return estimator(_operator.field(velocity, path, x, t, of, noise), x)[1]
