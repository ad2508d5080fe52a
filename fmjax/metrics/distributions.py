"""Distances between two laws, given by samples, features or probabilities.

References: Heusel et al. (2017), arXiv 1706.08500; Gretton et al. (2012), JMLR 13.
"""

from __future__ import annotations

import numbers
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp

from fmjax import _assignment, _checks
from fmjax.metrics import _transport
from fmjax.metrics._common import check_equal, check_floating, check_samples, squared_distance
from fmjax.types import Array

__all__ = ["frechet", "gaussian_kernel", "mmd", "total_variation", "wasserstein2"]


def total_variation(p: Array, q: Array) -> Array:
    """Computes the total variation distance of two discrete laws, `sum |p - q| / 2`.

    Args:
      p: `[*bins]`, probabilities that sum to one over all axes.
      q: `[*bins]`, probabilities of the other law.

    Returns:
      `[]`, in [0, 1]: the largest difference between the two probabilities of any event.

    Raises:
      ValueError: if the shapes differ or the entries are not floating (counts, for example).

    Example:
      >>> import fmjax
      >>> import jax.numpy as jnp
      >>> p, q = jnp.array([0.5, 0.5, 0.0]), jnp.array([0.25, 0.5, 0.25])
      >>> float(fmjax.metrics.total_variation(p, q))
      0.25
    """
    check_floating(p=p, q=q)
    check_equal(p, q)
    return 0.5 * jnp.sum(jnp.abs(_checks.wide(p) - _checks.wide(q)))


def wasserstein2(
    x: Array, y: Array, *, weights_x: Array | None = None, weights_y: Array | None = None
) -> Array:
    """Computes the 2-Wasserstein distance of two samples, exactly.

    This is the root of the least mean squared distance over all ways to carry one sample to the
    other. Samples of equal size without weights are paired by the Hungarian algorithm: time is
    cubic and memory quadratic in n, so it is meant for n up to some thousands. Other samples are
    carried along shortest paths, meant for n + m up to some hundreds: 300 to 400 points took a
    second on a CPU.

    Args:
      x: `[n, *dims]`, one sample.
      y: `[m, *dims]`, the other sample.
      weights_x: `[n]`, not negative, with any positive sum; None weighs all examples alike.
      weights_y: `[m]`, weights of y, likewise.

    Returns:
      `[]`, in the units of x, not squared, in float32 at least. Where the distance is zero its
      derivative is not finite. The potentials of the best plan give the derivatives in the
      weights. NaN if a weight is negative, if all weights are zero, or if a number is not finite.

    Raises:
      ValueError: if the examples differ in shape, if there are none, if they are not floating, or
        if weights are not one number for each example.

    Example:
      >>> import fmjax
      >>> import jax
      >>> import jax.numpy as jnp
      >>> x = jax.random.normal(jax.random.key(0), (32, 2))
      >>> round(float(fmjax.metrics.wasserstein2(x, x[::-1] + jnp.array([[3.0, 4.0]]))), 4)
      5.0

    Reference:
      Peyre and Cuturi (2019), Computational Optimal Transport, arXiv 1803.00567, section 3.
      [peyre2019computational]
    """
    check_samples(x, y)
    costs = jax.lax.map(lambda a: jax.vmap(partial(squared_distance, a))(y), x)
    if weights_x is None and weights_y is None and len(x) == len(y):
        # The best pairing is constant almost everywhere: its search need not carry derivatives.
        rows = _assignment.best_rows(jax.lax.stop_gradient(costs))
        return jnp.sqrt(jnp.mean(costs[rows, jnp.arange(len(rows))]))
    return jnp.sqrt(_transport.least(costs, weights_x, weights_y))


def gaussian_kernel(bandwidth: float | Array) -> Callable[[Array, Array], Array]:
    """Makes the kernel `(a[*dims], b[*dims]) -> exp(-|a - b|^2 / (2 bandwidth^2))`.

    Args:
      bandwidth: `[]`, positive, in the units of x; the median distance is a common choice.

    Returns:
      The kernel, for `mmd`.

    Raises:
      ValueError: if `bandwidth` is a static number that is not positive.

    Example:
      >>> import fmjax
      >>> import jax.numpy as jnp
      >>> kernel = fmjax.metrics.gaussian_kernel(1.0)
      >>> round(float(kernel(jnp.zeros(2), jnp.ones(2))), 4)  # exp(-1)
      0.3679
    """
    if isinstance(bandwidth, numbers.Number) and not bandwidth > 0.0:
        message = f"bandwidth must be positive, got {bandwidth}: it is a length in units of x."
        raise ValueError(message)
    return partial(_gaussian, bandwidth)


def _gaussian(bandwidth: Array | float, a: Array, b: Array) -> Array:
    a, b = _checks.wide(a), _checks.wide(b)
    return jnp.exp(-0.5 * squared_distance(a / bandwidth, b / bandwidth))


def mmd(x: Array, y: Array, *, kernel: Callable[[Array, Array], Array]) -> Array:
    """Estimates the squared maximum mean discrepancy without bias.

    The estimate is a U-statistic: the mean of the kernel over distinct pairs within x, plus its
    mean over distinct pairs within y, minus twice its mean over pairs of one x and one y. When the
    laws agree the estimate has mean zero, so it may be negative. It takes `(n + m)^2` kernels; one
    row of them is in memory at a time.

    Args:
      x: `[n, *dims]`, n >= 2, one sample.
      y: `[m, *dims]`, m >= 2, the other sample.
      kernel: `(a[*dims], b[*dims]) -> []`, symmetric; see `gaussian_kernel`.

    Returns:
      `[]`, in the units of the kernel.

    Raises:
      ValueError: if the examples differ in shape, are fewer than two or not floating.

    Example:
      >>> import fmjax
      >>> import jax
      >>> x, y = jax.random.normal(jax.random.key(0), (2, 256, 2))
      >>> kernel = fmjax.metrics.gaussian_kernel(1.0)
      >>> [round(float(fmjax.metrics.mmd(x, z, kernel=kernel)), 2) for z in (y, y + 1)]
      [-0.0, 0.19]

    Reference:
      Gretton et al. (2012), A Kernel Two-Sample Test, JMLR 13, eq. (3). [gretton2012kernel]
    """
    _checks.functions(kernel=kernel)
    check_samples(x, y, at_least=2)
    x, y = _checks.wide(x), _checks.wide(y)

    def mean(a: Array, z: Array, where: Array | None = None) -> Array:
        return jnp.mean(jax.vmap(partial(kernel, a))(z), where=where)

    def within(z: Array) -> Array:
        # The diagonal is left out, not subtracted: it may outweigh all the other terms.
        places = jnp.arange(z.shape[0])
        return jnp.mean(jax.lax.map(lambda row: mean(row[0], z, places != row[1]), (z, places)))

    return within(x) + within(y) - 2.0 * jnp.mean(jax.lax.map(lambda a: mean(a, y), x))


def frechet(features_x: Array, features_y: Array) -> Array:
    """Computes the squared Frechet distance of Gaussians fitted to two sets of features.

    The formula is `|mean_x - mean_y|^2 + tr(C_x + C_y - 2 (C_x^1/2 C_y C_x^1/2)^1/2)`, with the
    factor 1 / (n - 1) in the covariances. With the features of the Inception network this is the
    "FID". The last trace is the sum of the singular values of `R_x R_y^T`, where R comes from the
    QR decomposition of the centered features and `C = R^T R`. So no rounding error comes under a
    square root, and few samples and singular covariances are no special case.

    Args:
      features_x: `[n, *dims]`, n >= 2; an example is flattened to d numbers.
      features_y: `[m, *dims]`, m >= 2.

    Returns:
      `[]`, squared units of the features; biased upwards, so compare only equal n and m.

    Raises:
      ValueError: if the examples differ in shape, are fewer than two or not floating.

    Example:
      >>> import fmjax
      >>> import jax
      >>> x = jax.random.normal(jax.random.key(0), (1000, 3))
      >>> y = 2.0 * x + 1.0  # 3 from the means, about 3 from the spread
      >>> round(float(fmjax.metrics.frechet(x, y)), 1)
      6.0

    Reference:
      Heusel et al. (2017), arXiv 1706.08500, eq. (6). [heusel2017gans]
    """
    check_samples(features_x, features_y, at_least=2)

    def fit(features: Array) -> tuple[Array, Array]:
        rows = _checks.wide(features).reshape(features.shape[0], -1)
        mean = jnp.mean(rows, axis=0)
        return mean, (rows - mean[None]) / (rows.shape[0] - 1) ** 0.5

    (mean_x, rows_x), (mean_y, rows_y) = fit(features_x), fit(features_y)
    factor_x, factor_y = jnp.linalg.qr(rows_x, mode="r"), jnp.linalg.qr(rows_y, mode="r")
    overlap = jnp.matmul(factor_x, factor_y.T, precision="highest")
    trace = jnp.sum(jnp.linalg.svd(overlap, compute_uv=False))
    spread = jnp.sum(rows_x**2) + jnp.sum(rows_y**2) - 2.0 * trace
    return jnp.sum((mean_x - mean_y) ** 2) + jnp.maximum(spread, 0.0)
