"""Distances between two laws, of which samples, features or probabilities are given.

References: Heusel et al. (2017), arXiv 1706.08500; Gretton et al. (2012), JMLR 13.
"""

from __future__ import annotations

import numbers
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import optax

from fmjax import _checks
from fmjax.metrics import _transport
from fmjax.metrics._common import check_equal, check_floating, check_samples, squared_distance
from fmjax.types import Array


def total_variation(p: Array, q: Array) -> Array:
    """Returns the total variation distance of two discrete laws, `sum |p - q| / 2`.

    Args:
      p: `[*bins]`, probabilities that sum to one over all axes.
      q: `[*bins]`, likewise.

    Returns:
      `[]`, in [0, 1]: the largest difference in probability that any event can have.

    Raises:
      ValueError: if the shapes differ or the entries are not floating (counts, for example).

    Example:
      >>> float(total_variation(jnp.array([0.5, 0.5, 0.0]), jnp.array([0.25, 0.5, 0.25])))
      0.25
    """
    check_floating(p=p, q=q)
    check_equal(p, q)
    return 0.5 * jnp.sum(jnp.abs(_checks.wide(p) - _checks.wide(q)))


def wasserstein2(
    x: Array, y: Array, *, weights_x: Array | None = None, weights_y: Array | None = None
) -> Array:
    """Returns the 2-Wasserstein distance of two samples, exactly.

    The root of the least mean squared distance over all ways to carry the one sample to the other.
    Equal sizes without weights are paired by the Hungarian algorithm: time cubic and memory
    quadratic in n, meant for n up to some thousands. Other samples are carried along shortest
    paths, meant for n + m up to some hundreds: 300 to 400 points took a second on a CPU.

    Args:
      x: `[n, *dims]`.
      y: `[m, *dims]`.
      weights_x: `[n]`, not negative, of any positive sum; None weighs all examples alike.
      weights_y: `[m]`, likewise.

    Returns:
      `[]`, in the units of x, not squared, in float32 at least. The derivative is not finite where
      it is zero. In a weight it is that of the best plan's potentials. NaN if a weight is negative,
      if all are zero, or if a number is not finite.

    Raises:
      ValueError: if the examples differ in shape, if there are none, if they are not floating, or
        if weights are not one number for each example.

    Example:
      >>> x = jax.random.normal(jax.random.key(0), (32, 2))
      >>> round(float(wasserstein2(x, x[::-1] + jnp.array([[3.0, 4.0]]))), 4)
      5.0

    Reference:
      Peyre and Cuturi (2019), Computational Optimal Transport, arXiv 1803.00567, section 3.
      [peyre2019computational]
    """
    check_samples(x, y)
    costs = jax.lax.map(lambda a: jax.vmap(partial(squared_distance, a))(y), x)
    if weights_x is None and weights_y is None and len(x) == len(y):
        # The best pairing is constant almost everywhere: its search need not carry derivatives.
        rows, columns = optax.assignment.hungarian_algorithm(jax.lax.stop_gradient(costs))
        return jnp.sqrt(jnp.mean(costs[rows, columns]))
    return jnp.sqrt(_transport.least(costs, weights_x, weights_y))


def gaussian_kernel(bandwidth: float | Array) -> Callable[[Array, Array], Array]:
    """Returns the kernel `(a[*dims], b[*dims]) -> exp(-|a - b|^2 / (2 bandwidth^2))`.

    Args:
      bandwidth: `[]`, positive, in the units of x; the median distance is a common choice.

    Returns:
      The kernel, for `mmd`.

    Raises:
      ValueError: if `bandwidth` is a static number that is not positive.

    Example:
      >>> round(float(gaussian_kernel(1.0)(jnp.zeros(2), jnp.ones(2))), 4)  # exp(-1)
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
    """Returns the unbiased estimate of the squared maximum mean discrepancy.

    A U-statistic: the means of k over distinct pairs within x and within y, minus twice its
    mean across. Its mean is zero when the laws agree, so it may be negative. Time is
    `(n + m)^2` kernels, memory one row of them at a time.

    Args:
      x: `[n, *dims]`, n >= 2.
      y: `[m, *dims]`, m >= 2.
      kernel: `(a[*dims], b[*dims]) -> []`, symmetric; see `gaussian_kernel`.

    Returns:
      `[]`, in the units of the kernel.

    Raises:
      ValueError: if the examples differ in shape, are fewer than two or not floating.

    Example:
      >>> x, y = jax.random.normal(jax.random.key(0), (2, 256, 2))
      >>> kernel = gaussian_kernel(1.0)
      >>> round(float(mmd(x, y, kernel=kernel)), 2), round(float(mmd(x, y + 1, kernel=kernel)), 2)
      (-0.0, 0.19)

    Reference:
      Gretton et al. (2012), A Kernel Two-Sample Test, JMLR 13, eq. (3). [gretton2012kernel]
    """
    check_samples(x, y, at_least=2)
    x, y = _checks.wide(x), _checks.wide(y)

    def mean(a: Array, z: Array, where: Array | None = None) -> Array:
        return jnp.mean(jax.vmap(partial(kernel, a))(z), where=where)

    def within(z: Array) -> Array:
        # Left out of the mean, not subtracted: the diagonal may outweigh all the rest.
        places = jnp.arange(z.shape[0])
        return jnp.mean(jax.lax.map(lambda row: mean(row[0], z, places != row[1]), (z, places)))

    return within(x) + within(y) - 2.0 * jnp.mean(jax.lax.map(lambda a: mean(a, y), x))


def frechet(features_x: Array, features_y: Array) -> Array:
    """Returns the squared Frechet distance of Gaussians fitted to two sets of features.

    `|mean_x - mean_y|^2 + tr(C_x + C_y - 2 (C_x^1/2 C_y C_x^1/2)^1/2)`, covariances with the
    factor 1 / (n - 1). With the features of the customary network this is the "FID". The last
    trace is the sum of the singular values of `R_x R_y^T`, where `C = R^T R` is the QR form of
    the centred features: no rounding error comes under a square root, so that few samples and
    singular covariances are no special case.

    Args:
      features_x: `[n, *dims]`, n >= 2; an example is flattened to d numbers.
      features_y: `[m, *dims]`, m >= 2.

    Returns:
      `[]`, squared units of the features; biased upwards, so compare only equal n and m.

    Raises:
      ValueError: if the examples differ in shape, are fewer than two or not floating.

    Example:
      >>> x = jax.random.normal(jax.random.key(0), (1000, 3))
      >>> round(float(frechet(x, 2.0 * x + 1.0)), 1)  # 3 from the means, about 3 from the spread
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
