"""When the exact field of a finite data set collapses onto single points of it.

At early times any of the n points may have made the state, and the exact field averages over them.
Near the data one point explains the state, and the field is the velocity of the pair that made it.
The change between the two depends on the information that the state holds about the data. For data
with covariance eigenvalues v_k, along `x_t = alpha x1 + sigma x0`, it is in nats

    I(t) = 1/2 sum_k log(1 + (alpha / sigma)^2 v_k)                                       (1)

if the data are Gaussian. The likelihood of the point that made the state is about exp(I) times the
likelihood of another point, and there are n other points. So the posterior weight of the true point
rises from 0 to 1 around the time t_c at which

    I(t_c) = log n                                                                        (2)

With one variance s^2 in d dimensions, `alpha / sigma = sqrt(n^(2/d) - 1) / s`. In many dimensions
this is early, and hardly later for more data. What to know before use
* Among all laws of one covariance the Gaussian gives the most information, so the information of
  other data reaches log n no earlier than (2) says.
* The weight rises over a range of t around t_c, which shrinks with the effective number of
  dimensions. So t_c is a scale, not a threshold. At t_c the mean weight was 0.53 to 0.61 for
  Gaussian data of 2 to 3072 dimensions.
* Copies of a point share its weight, and near copies share it until sigma is below their distance.

References:
  Bertrand et al. (2025), On the Closed-Form of Flow Matching, arXiv 2506.03719, section 3.1.
  Biroli et al. (2024), Dynamical Regimes of Diffusion Models, arXiv 2402.18491: the collapse time,
  there by comparing entropies along a diffusion.
  Cover and Thomas (2006), Elements of Information Theory, chapter 9.
"""

from __future__ import annotations

import numbers
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from fmjax import _checks, paths
from fmjax.types import Array

__all__ = ["collapse_time", "entropy", "groups", "information", "variances"]


def information(path: paths.Path, variances: Array, t: Array) -> Array:
    """Computes the mutual information of Gaussian data and their state at time t, eq. (1).

    Args:
      path: the path.
      variances: `[*dims]`, eigenvalues of the covariance of the data, not negative; set negative
        values from an eigenvalue solver to zero.
      t: `[]`, in [0, 1], with `sigma(t) > 0`.

    Returns:
      `[]`, in nats, not negative; it grows with t.

    Raises:
      ValueError: if `t` is batched or a static number outside [0, 1], or if sigma is not positive
        at a static t.

    Example:
      >>> import fmjax
      >>> import jax.numpy as jnp
      >>> nats = fmjax.collapse.information(fmjax.paths.linear(), jnp.array([3.0, 0.0]), 0.5)
      >>> print(f"{nats:.4f}")  # log 2
      0.6931

    Reference:
      Cover and Thomas (2006), section 9.4, parallel Gaussian channels. [cover2006elements]
    """
    _checks.positive_sigma(path, t)
    variances, t = _checks.wide(variances), _checks.wide(_checks.time(t))
    ratio = path.alpha(t) / path.sigma(t)
    return 0.5 * jnp.sum(jnp.log1p(ratio**2 * variances))


def collapse_time(path: paths.Path, variances: Array, n: Array | float) -> Array:
    """Computes the time at which the state tells the points of a data set apart, eq. (2).

    It uses bisection, to the precision of the dtype.

    Args:
      path: the path; alpha / sigma increases in t.
      variances: `[*dims]`, eigenvalues of the covariance of the data, not negative.
      n: `[]`, number of points, at least 1; if some are equal, exp of the entropy of the set.

    Returns:
      `[]`, in [0, 1]: 0 if the information is above log n from the start, 1 if it never reaches log
      n. In between it has the derivatives of the root of (2). NaN if a variance is negative, or if
      an input is NaN.

    Raises:
      ValueError: if `n` is a static number below 1.

    Example:
      >>> import fmjax
      >>> import jax.numpy as jnp
      >>> variances = jnp.full(3072, 0.25)  # images in [-1, 1], independent pixels
      >>> t = fmjax.collapse.collapse_time(fmjax.paths.linear(), variances, 20_000)
      >>> print(f"{t:.3f}")
      0.139

    Reference:
      Biroli et al. (2024), arXiv 2402.18491, for the collapse of a diffusion; eq. (2) is this
      library's. [biroli2024dynamical]
    """
    if isinstance(n, numbers.Number) and not n >= 1:
        message = f"n must be at least 1, got {n}: it counts the points of the data set."
        raise ValueError(message)
    variances = _checks.wide(variances)
    log_n = jnp.log(jnp.asarray(n, variances.dtype))

    def excess(t: Array) -> Array:
        return information(path, variances, t) - log_n

    start = jnp.full((), 0.5, variances.dtype)
    # Solved as a root, so that the derivatives belong to the root, not the bisection.
    slope_of = lambda slope, y: y / slope(jnp.ones_like(y))  # noqa: E731
    root = jax.lax.custom_root(excess, start, _bisect, slope_of)
    # A comparison with NaN is false, and the bisection would end somewhere.
    wrong = jnp.isnan(log_n) | ~jnp.all(variances >= 0.0)
    return root + jnp.where(wrong, jnp.nan, 0.0)


def _bisect(excess: Callable[[Array], Array], start: Array) -> Array:
    """Returns where in [0, 1] an increasing function changes its sign."""

    def halve(_: Array, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = ends
        middle = 0.5 * (low + high)
        below = excess(middle) < 0
        return jnp.where(below, middle, low), jnp.where(below, high, middle)

    ends = jnp.zeros_like(start), jnp.ones_like(start)
    low, high = jax.lax.fori_loop(0, jnp.finfo(start.dtype).nmant + 8, halve, ends)
    return 0.5 * (low + high)


def variances(points: np.ndarray) -> np.ndarray:
    """Computes the eigenvalues of the covariance of a data set, for `collapse_time`.

    NumPy computes them on the host, from the smaller of the two matrices of products, so that
    neither many points nor many dimensions are in the way. Call it outside `jit`.

    Args:
      points: `[n, *dims]`, d numbers each.

    Returns:
      `[min(n, d)]`, float64, ascending, not negative; all other eigenvalues are zero.

    Raises:
      ValueError: if `points` has no point or no number, or is complex.

    Example:
      >>> import fmjax
      >>> import numpy as np
      >>> points = np.array([[1.0, 0.0, 5.0], [-1.0, 0.0, 5.0]])
      >>> fmjax.collapse.variances(points).tolist()
      [0.0, 1.0]
    """
    rows = _rows(points)
    _checks.real(points=rows)
    rows = rows - rows.mean(axis=0)
    square = rows.T @ rows if rows.shape[1] <= len(rows) else rows @ rows.T
    return np.maximum(np.linalg.eigvalsh(square.astype(np.float64)) / len(rows), 0.0)


def groups(points: np.ndarray) -> np.ndarray:
    """Numbers the points of a data set, equal points alike.

    Args:
      points: `[n, *dims]`; equal means equal in every number.

    Returns:
      `[n]`, int32.

    Raises:
      ValueError: if `points` has no point or no number.

    Example:
      >>> import fmjax
      >>> import numpy as np
      >>> fmjax.collapse.groups(np.array([[2.0, 1.0], [0.0, 0.0], [2.0, 1.0]])).tolist()
      [1, 0, 1]
    """
    # Compared as bytes: `np.unique(axis=0)` compares number by number. 0.0 makes -0 a 0.
    rows = _rows(points)
    rows = np.ascontiguousarray(rows + np.zeros((), rows.dtype))
    rows = rows.view(np.dtype((np.void, rows[0].nbytes))).ravel()
    return np.unique(rows, return_inverse=True)[1].astype(np.int32)


def entropy(groups: np.ndarray) -> float:
    """Computes the entropy of drawing a point of a data set; its exp is the n of `collapse_time`.

    Args:
      groups: `[n]`, from `groups`.

    Returns:
      Nats in [0, log n]; log n if no two points are equal.

    Raises:
      ValueError: if there is no point.

    Example:
      >>> import fmjax
      >>> import numpy as np
      >>> print(f"{fmjax.collapse.entropy(np.array([1, 0, 1, 0])):.4f}")  # log 2
      0.6931
    """
    if not len(groups):
        message = "groups must have a number for each point, got none."
        raise ValueError(message)
    _, counts = np.unique(groups, return_counts=True)
    shares = counts / len(groups)
    return float(-np.sum(shares * np.log(shares)))


def _rows(points: np.ndarray) -> np.ndarray:
    """Returns the points `[n, d]`."""
    points = np.asarray(points)
    if points.ndim < 1 or not points.size:
        message = f"points must be [n, *dims] with at least one number, got shape {points.shape}."
        raise ValueError(message)
    return points.reshape(len(points), -1)
