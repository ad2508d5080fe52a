"""The posterior at and near the noise end, where the formula is 0 times infinity.

As alpha -> 0 the state says less and less about the data and the posterior tends to the law of
the data, whatever the state:

    Cov[x1 | x_t = x] -> Cov[x1],      Cov[x0 | x_t = x] -> 0                            (7)

The formula reaches this limit as `sigma^2 / alpha` times a matrix that vanishes, so a learned
field's error is multiplied: by `(1 - t)^3 / t` on the linear path, 97 at t = 0.01, 17 at
t = 0.05, 7 at t = 0.1. Three ways to stay finite:

* `gain`, the covariance in units of `sigma^2 / alpha^2`, is finite at both ends;
* `prior_variance` and `prior_covariance` are the posterior of Gaussian data with the moments of
  the data set, right in the limit and close to it for any data;
* `near_noise` takes these below a smallest t, `SMALLEST_T` unless told, and the network above.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fmjax import _checks, paths
from fmjax.paths import Path
from fmjax.posterior import _operator
from fmjax.types import Array, Velocity

SMALLEST_T = 0.05
"""Below this time the formula multiplies the error of a velocity's Jacobian by more than 17 on
the linear path; learned fields are rarely good enough for it (2605.00941, facts in docs)."""


def gain(velocity: Velocity, path: Path, x: Array, t: Array) -> Array:
    """Returns `alpha grad m`, the covariance in units of `sigma^2 / alpha^2`, eq. (4).

    The share of a change of the state that the denoiser keeps, `t (I + (1 - t) J)` on the
    linear path: zero at the noise end, a projector onto the data's tangent space at the data
    end. For white noise it is also the covariance of the noise given the state, at every t.

    Args:
      velocity: the field, `(x[*dims], t[]) -> [*dims]`.
      path: the path that it was trained on, with white noise.
      x: `[*dims]`, the state; d is its size, at most 4,096.
      t: `[]`, in [0, 1].

    Returns:
      `[d, d]`, symmetrised.

    Raises:
      ValueError: if d is above 4,096; if `t` is batched or a static number outside [0, 1]; or
        if the velocity is not shaped like `x`.

    Example:
      >>> gaussian = lambda x, t: (2 * t - 1) / (t**2 + (1 - t) ** 2) * x  # N(0, I) to N(0, I)
      >>> gain(gaussian, paths.linear(), jnp.array([1.0, -2.0]), 0.5).tolist()
      [[0.5, 0.0], [0.0, 0.5]]

    Reference:
      The Wiener gain of the denoiser; Xing et al. (2026), arXiv 2605.00941, section 4.2.
      [xing2026divergence]
    """
    t, x = _checks.time(t), _checks.floating(x)

    def checked(z: Array) -> Array:
        value = velocity(z, t)
        _checks.same_shape(x=x, velocity=value)
        return value

    jacobian = _operator.dense(checked, x)
    c = paths.coefficients(path, t)
    identity = jnp.eye(x.size, dtype=jacobian.dtype)
    return c.alpha / c.wronskian * (c.sigma * jacobian - c.sigma_dot * identity)


def prior_variance(variance: Array, path: Path, t: Array) -> Array:
    """Returns the posterior variance of independent Gaussian entries, the limit at the noise end.

    `variance sigma^2 / (alpha^2 variance + sigma^2)`: the variance of the data at alpha = 0,
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
      >>> prior_variance(jnp.array([4.0, 1.0]), paths.linear(), 0.0).tolist()
      [4.0, 1.0]
      >>> prior_variance(jnp.array([4.0, 1.0]), paths.linear(), 0.5).tolist()
      [0.800000011920929, 0.5]

    Reference:
      The Wiener filter; the limit (7) is noted for 2605.00941 in docs/papers.md.
      [xing2026divergence]
    """
    t, variance = _checks.time(t), _checks.floating(variance)
    alpha, sigma = path.alpha(t), path.sigma(t)
    return variance * sigma**2 / (alpha**2 * variance + sigma**2)


def prior_covariance(covariance: Array, path: Path, t: Array) -> Array:
    """Returns the posterior covariance of Gaussian data, the limit at the noise end.

    Args:
      covariance: `[d, d]`, the covariance of the data set, positive semi-definite.
      path: the path, with white noise.
      t: `[]`, in [0, 1], with `sigma(t) > 0`.

    Returns:
      `[d, d]`, `sigma^2 S (alpha^2 S + sigma^2 I)^-1`.

    Raises:
      ValueError: if `covariance` is not square, or if `t` is batched or a static number outside
        [0, 1].

    Example:
      >>> prior_covariance(jnp.array([[2.0, 1.0], [1.0, 2.0]]), paths.linear(), 0.0).tolist()
      [[2.0, 1.0], [1.0, 2.0]]

    Reference:
      The Wiener filter; the limit (7) is noted for 2605.00941 in docs/papers.md.
      [xing2026divergence]
    """
    t, covariance = _checks.time(t), _checks.floating(covariance)
    if covariance.ndim != 2 or covariance.shape[0] != covariance.shape[1]:
        message = (
            f"covariance must be a square matrix [d, d], got shape {covariance.shape}: for "
            "variances alone use prior_variance."
        )
        raise ValueError(message)
    alpha, sigma = path.alpha(t), path.sigma(t)
    total = alpha**2 * covariance + sigma**2 * jnp.eye(len(covariance), dtype=covariance.dtype)
    value = sigma**2 * jnp.linalg.solve(total, covariance)
    return 0.5 * (value + value.T)


def near_noise(
    quantity: Callable[..., Any],
    limit: Callable[[Path, Array], Any],
    *,
    smallest_t: float = SMALLEST_T,
) -> Callable[..., Any]:
    """Returns a quantity of the posterior that is its prior limit below a smallest t.

    Finite at every t, traced or static, and so is its gradient: below `smallest_t` the formula
    is evaluated at `smallest_t` and dropped.

    Args:
      quantity: `(velocity, path, x, t, **options) -> arrays`, such as `posterior.diagonal`.
      limit: `(path, t) -> arrays` of the same shapes; `partial(prior_variance, variance)` for
        the diagonal.
      smallest_t: the documented smallest time of the formula, in (0, 1).

    Returns:
      A function of the signature of `quantity`.

    Raises:
      ValueError: if `smallest_t` is outside (0, 1).

    Example:
      >>> from functools import partial
      >>> from fmjax.posterior import diagonal
      >>> variances = near_noise(diagonal, partial(prior_variance, jnp.array([4.0, 1.0])))
      >>> variances(lambda x, t: -x, paths.linear(), jnp.zeros(2), 0.0).tolist()
      [4.0, 1.0]

    Reference:
      The limit (7); Xing et al. (2026), arXiv 2605.00941, section 4. [xing2026divergence]
    """
    if not 0.0 < smallest_t < 1.0:
        message = f"smallest_t must lie in (0, 1), got {smallest_t}: try {SMALLEST_T}."
        raise ValueError(message)

    def guarded(velocity: Velocity, path: Path, x: Array, t: Array, **options: Any) -> Any:
        static = not isinstance(t, jax.Array) and np.ndim(t) == 0
        t_checked = _checks.time(t)
        if static and t < smallest_t:
            return limit(path, t_checked)
        value = quantity(velocity, path, x, jnp.maximum(t_checked, smallest_t), **options)
        choose = lambda a, b: jnp.where(t_checked < smallest_t, a, b)  # noqa: E731
        return jax.tree.map(choose, limit(path, t_checked), value)

    return guarded
