"""The posterior at and near the noise end, where the formula is 0 times infinity.

As alpha -> 0 the state says less and less about the data, and the posterior tends to the law of the
data at every state:

    Cov[x1 | x_t = x] -> Cov[x1],      Cov[x0 | x_t = x] -> 0                            (7)

The formula is a growing factor times a matrix that vanishes. So the error of a learned J is
multiplied by `sigma^3 / (alpha D)`, on the linear path `(1 - t)^3 / t`:

| path   | factor at t = 0.05 | t at which it is 17 |
|--------|--------------------|---------------------|
| linear | 17                 | 0.05                |
| cosine | 8                  | 0.025               |
| ve     | 125                | 0.17                |
| vp     | 919                | 0.31                |

Three ways to stay finite:

* `gain`, the covariance in units of `sigma^2 / alpha^2`, is finite at both ends;
* `prior_variance` and `prior_covariance` are the posterior of Gaussian data with the moments of the
  data set. For any data this is exact in the limit and accurate near it;
* `near_noise` takes these limits below a smallest t, by default `SMALLEST_T`, and the network above
  it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fmjax import _checks, paths
from fmjax.paths import Path
from fmjax.posterior import _operator
from fmjax.types import Array, Velocity

__all__ = ["SMALLEST_T", "gain", "near_noise", "prior_covariance", "prior_variance"]

SMALLEST_T = 0.05
"""The smallest time at which the formula is used on the linear path unless told otherwise; for
another path take the last column of the table."""


def gain(velocity: Velocity, path: Path, x: Array, t: Array) -> Array:
    """Computes `alpha grad m`, the covariance in units of `sigma^2 / alpha^2`, eq. (4).

    It is the share of a change of the state that the denoiser keeps, `t (I + (1 - t) J)` on the
    linear path. It is zero at the noise end and a projector onto the data's tangent space at the
    data end. At every t it also equals the covariance of the noise given the state. For its
    diagonal or trace alone call `diagonal` or `trace` with `of=predictions.x0`.

    Args:
      velocity: the field, `(x[*dims], t[]) -> [*dims]`.
      path: the path that it was trained on, with white noise.
      x: `[*dims]`, the state; d is its size, at most 4,096.
      t: `[]`, in [0, 1].

    Returns:
      `[d, d]`, symmetrized.

    Raises:
      ValueError: if d is above 4,096; if `t` is batched or a static number outside [0, 1]; or
        if the velocity is not shaped like `x`.

    Example:
      >>> import fmjax
      >>> import jax.numpy as jnp
      >>> gaussian = lambda x, t: (2 * t - 1) / (t**2 + (1 - t) ** 2) * x  # N(0, I) to N(0, I)
      >>> path, x = fmjax.paths.linear(), jnp.array([1.0, -2.0])
      >>> fmjax.posterior.gain(gaussian, path, x, 0.5).tolist()
      [[0.5, 0.0], [0.0, 0.5]]

    Reference:
      The Wiener gain of the denoiser; Xing et al. (2026), arXiv 2605.00941, section 4.2.
      [xing2026divergence]
    """
    _checks.functions(velocity=velocity, path=path)
    t, x = _checks.time(t), _checks.state(x)

    def checked(z: Array) -> Array:
        value = velocity(z, t)
        _checks.returned(x, velocity=value)
        return value

    jacobian = _operator.dense(checked, x)
    c = paths.coefficients(path, t)
    identity = jnp.eye(x.size, dtype=jacobian.dtype)
    return c.alpha / c.wronskian * (c.sigma * jacobian - c.sigma_dot * identity)


def prior_variance(variance: Array, path: Path, t: Array) -> Array:
    """Computes the posterior variance of independent Gaussian entries, the limit at the noise end.

    It is `variance sigma^2 / (alpha^2 variance + sigma^2)`: the variance of the data at alpha = 0,
    zero at sigma = 0.

    Args:
      variance: `[*dims]`, the variance of every entry over the data set; not negative.
      path: the path, with white noise.
      t: `[]`, in [0, 1].

    Returns:
      `[*dims]`.

    Raises:
      ValueError: if `t` is batched or a static number outside [0, 1].

    Example:
      >>> import fmjax
      >>> import jax.numpy as jnp
      >>> path, variance = fmjax.paths.linear(), jnp.array([3.0, 1.0])
      >>> [fmjax.posterior.prior_variance(variance, path, t).tolist() for t in (0.0, 0.5)]
      [[3.0, 1.0], [0.75, 0.5]]

    Reference:
      The Wiener filter, applied to the limit (7); derived here.
    """
    _checks.path(path)
    t, variance = _checks.wide(_checks.time(t)), _checks.wide(variance)
    alpha, sigma = path.alpha(t), path.sigma(t)
    total = alpha**2 * variance + sigma**2  # 0 where a constant entry is seen without noise
    return variance * sigma**2 / jnp.where(total == 0, 1, total)


def prior_covariance(covariance: Array, path: Path, t: Array) -> Array:
    """Computes the posterior covariance of Gaussian data, the limit at the noise end.

    Args:
      covariance: `[d, d]`, the covariance of the data set, positive semi-definite.
      path: the path, with white noise.
      t: `[]`, in [0, 1].

    Returns:
      `[d, d]`, `sigma^2 S (alpha^2 S + sigma^2 I)^-1`; 0 at sigma = 0. It is right to the rounding
      of S, however small sigma is.

    Raises:
      ValueError: if `covariance` is not square, or if `t` is batched or a static number outside
        [0, 1].

    Example:
      >>> import fmjax
      >>> import jax.numpy as jnp
      >>> path, covariance = fmjax.paths.linear(), jnp.array([[2.0, 1.0], [1.0, 2.0]])
      >>> fmjax.posterior.prior_covariance(covariance, path, 0.0).tolist()
      [[2.0, 1.0], [1.0, 2.0]]

    Reference:
      The Wiener filter, applied to the limit (7); derived here.
    """
    _checks.path(path)
    # Half precision has no linear algebra.
    given = _checks.floating(covariance, "covariance").dtype
    t, covariance = _checks.wide(_checks.time(t)), _checks.wide(covariance)
    if covariance.ndim != 2 or covariance.shape[0] != covariance.shape[1]:
        message = (
            f"covariance must be a square matrix [d, d], got shape {covariance.shape}: for "
            "variances alone use prior_variance."
        )
        raise ValueError(message)
    alpha, sigma = path.alpha(t), path.sigma(t)
    # Without variance in some direction the sum has an inverse by sigma alone, which must not fall
    # below what rounds away: eps times the largest sum of a row, which bounds the largest
    # eigenvalue. (The trace does too, but it is d times as large for white data.)
    size = jnp.max(jnp.sum(jnp.abs(covariance), axis=1), initial=0.0)
    rounding = 4 * float(jnp.finfo(given).eps) * size
    smallest = alpha**2 * rounding + jnp.finfo(covariance.dtype).tiny
    white = jnp.maximum(sigma**2, smallest) * jnp.eye(len(covariance), dtype=covariance.dtype)
    value = sigma**2 * jnp.linalg.solve(alpha**2 * covariance + white, covariance)
    return 0.5 * (value + value.T)


def near_noise(
    quantity: Callable[..., Any],
    limit: Callable[[Path, Array], Any],
    *,
    smallest_t: float = SMALLEST_T,
) -> Callable[..., Any]:
    """Replaces a quantity of the posterior by its prior limit below a smallest t.

    The result and its gradient are finite at every t, traced or static: below `smallest_t` the
    formula is evaluated at `smallest_t` and discarded. The limit holds for the data under white
    noise, so the options `of` and `noise` are refused.

    Args:
      quantity: `(velocity, path, x, t, **options) -> arrays`, such as `posterior.diagonal`.
      limit: `(path, t) -> arrays` of the same shapes; `partial(prior_variance, variance)` for
        the diagonal.
      smallest_t: the smallest time of the formula, in (0, 1); the default is for the linear
        path, see the table above.

    Returns:
      A function of the signature of `quantity`.

    Raises:
      ValueError: if `smallest_t` is outside (0, 1); on a call, if `of` or `noise` is given, or if
        limit and quantity differ in shape.

    Example:
      >>> from functools import partial
      >>> import fmjax
      >>> import jax.numpy as jnp
      >>> prior = partial(fmjax.posterior.prior_variance, jnp.array([4.0, 1.0]))
      >>> variances = fmjax.posterior.near_noise(fmjax.posterior.diagonal, prior)
      >>> variances(lambda x, t: -x, fmjax.paths.linear(), jnp.zeros(2), 0.0).tolist()
      [4.0, 1.0]

    Reference:
      The limit (7); Xing et al. (2026), arXiv 2605.00941, section 4. [xing2026divergence]
    """
    _checks.functions(quantity=quantity, limit=limit)
    _checks.moments(smallest_t=smallest_t)
    if not 0.0 < smallest_t < 1.0:
        message = f"smallest_t must lie in (0, 1), got {smallest_t}: try {SMALLEST_T}."
        raise ValueError(message)

    def guarded(velocity: Velocity, path: Path, x: Array, t: Array, **options: Any) -> Any:
        _refuse(options)
        _checks.functions(velocity=velocity, path=path)
        static = not isinstance(t, jax.Array) and np.ndim(t) == 0
        t_checked = _checks.time(t)
        prior = limit(path, t_checked)
        if static and t < smallest_t:
            return prior
        below = t_checked < smallest_t
        value = quantity(velocity, path, x, jnp.where(below, smallest_t, t_checked), **options)
        for one, other in zip(jax.tree.leaves(prior), jax.tree.leaves(value), strict=True):
            _check_limit(jnp.shape(one), jnp.shape(other))
        choose = lambda a, b: jnp.where(below, a, b)  # noqa: E731
        return jax.tree.map(choose, prior, value)

    return guarded


def _refuse(options: dict[str, Any]) -> None:
    """Raises ValueError for options under which the limit would be different."""
    wrong = sorted({"of", "noise"} & set(options))
    if wrong:
        message = (
            f"near_noise takes no {' and no '.join(wrong)}: its limit holds for the data under "
            "white noise; call the quantity itself at times where it is finite, or in the units "
            "of the network."
        )
        raise ValueError(message)


def _check_limit(limit: tuple[int, ...], quantity: tuple[int, ...]) -> None:
    """Raises ValueError if the prior limit is not shaped like the quantity."""
    if limit != quantity:
        message = (
            f"the limit has shape {limit}, the quantity {quantity}: for the diagonal take "
            "partial(prior_variance, variance) with a variance for every entry, for the trace "
            "its sum."
        )
        raise ValueError(message)
