"""Sampling the training time t of a flow matching loss.

The loss is an integral over time, estimated with one t per example. The law of t weights the
integral; stratification lowers the variance. Time runs from noise at t = 0 to data at t = 1.
Papers that put the noise at t = 1 draw `1 - t`. For a logit-normal law this flips the sign of
the mean:

    1 - sigmoid(m + s z) = sigmoid(-m - s z),  z ~ N(0, 1)                           (1)

These functions draw a batch: each takes a key and a shape, `(n,)` for one time per example, and
returns times of the default float type.

References:
  Kingma et al. (2021), Variational Diffusion Models, arXiv 2107.00630 (stratification).
  Karras et al. (2022), Elucidating the Design Space of Diffusion-Based Generative Models,
  arXiv 2206.00364 (log-normal noise).
  Esser et al. (2024), Scaling Rectified Flow Transformers, arXiv 2403.03206 (logit-normal).
  Geng et al. (2025), Mean Flows for One-Step Generative Modeling, arXiv 2505.13447 (pairs).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from fmjax import _checks, paths
from fmjax.paths import Path
from fmjax.types import Array, Key

__all__ = ["intervals", "log_normal", "log_normal_density", "logit_normal", "stratified", "uniform"]


def uniform(key: Key, shape: tuple[int, ...], *, low: float = 0.0, high: float = 1.0) -> Array:
    """Draws independent times, uniform on `[low, high)`.

    Args:
      key: PRNG key.
      shape: shape of the result.
      low: smallest time, which may occur.
      high: upper end, which never occurs, not even by rounding: with `high=1.0` a path that is
        singular at t = 1 is safe.

    Returns:
      `[*shape]`, in `[low, high)`.

    Raises:
      ValueError: unless `0 <= low < high <= 1`, or if `shape` is not a tuple.

    Example:
      >>> import fmjax
      >>> import jax
      >>> t = fmjax.times.uniform(jax.random.key(0), (1000,), low=0.5)
      >>> bool(t.min() >= 0.5), bool(t.max() < 1.0), round(float(t.mean()), 1)
      (True, True, 0.8)
    """
    _check_shape(shape)
    _checks.moments(low=low, high=high)
    if not 0.0 <= low < high <= 1.0:
        message = f"uniform needs 0 <= low < high <= 1, got low {low} and high {high}."
        raise ValueError(message)
    t = jax.random.uniform(key, shape, minval=low, maxval=high)
    # low + (high - low) u may round up to high.
    low, high = jnp.asarray(low, t.dtype), jnp.asarray(high, t.dtype)
    return jnp.minimum(t, jnp.nextafter(high, low))


def stratified(key: Key, shape: tuple[int, ...]) -> Array:
    """Draws equally spaced times with one random shift, in random order.

    With n times, `t_k = (u + k / n) mod 1` for a single `u ~ U[0, 1)`. Each time is exactly
    uniform on [0, 1), yet every interval of length 1/n contains one time. The mean of t over the
    batch then has variance 1 / (12 n^2) instead of 1 / (12 n). A random permutation makes a time
    independent of its place in the batch, which matters when examples are sorted or the batch is
    divided among devices. The times are not independent of one another.

    Args:
      key: PRNG key.
      shape: shape of the result; the strata cover all its entries.

    Returns:
      `[*shape]`, in [0, 1).

    Raises:
      ValueError: if `shape` is not a tuple.

    Example:
      >>> import fmjax
      >>> import jax
      >>> import jax.numpy as jnp
      >>> t = jnp.sort(fmjax.times.stratified(jax.random.key(0), (5,)))
      >>> [round(float(step), 5) for step in jnp.diff(t)]
      [0.2, 0.2, 0.2, 0.2]

    Reference:
      Kingma et al. (2021), arXiv 2107.00630, low-discrepancy sampler; fmjax adds the permutation.
      [kingma2021variational]
    """
    _check_shape(shape)
    key_shift, key_order = jax.random.split(key)
    n = math.prod(shape)
    t = (jax.random.uniform(key_shift) + jnp.arange(n) / max(n, 1)) % 1.0
    return jax.random.permutation(key_order, t).reshape(shape)


def logit_normal(key: Key, shape: tuple[int, ...], *, mean: float = 0.0, std: float = 1.0) -> Array:
    """Draws independent times `sigmoid(mean + std z)` with `z ~ N(0, 1)`.

    The median is `sigmoid(mean)`, so a positive mean favors the data end. For a paper with noise at
    t = 1 change the sign of its mean, eq. (1).

    Args:
      key: PRNG key.
      shape: shape of the result.
      mean: mean of the logit of t.
      std: standard deviation of the logit of t, positive.

    Returns:
      `[*shape]`, in the open interval (0, 1): where the sigmoid rounds to an end, the result is the
      nearest normal number inside.

    Raises:
      ValueError: if `mean` is not finite, `std` not positive and finite, or `shape` not a tuple.

    Example:
      >>> import fmjax
      >>> import jax
      >>> import jax.numpy as jnp
      >>> t = fmjax.times.logit_normal(jax.random.key(0), (10_000,), mean=0.4)
      >>> round(float(jnp.median(t)), 1), round(float(jax.nn.sigmoid(0.4)), 1)
      (0.6, 0.6)

    Reference:
      Esser et al. (2024), arXiv 2403.03206, section 3.1. [esser2024scaling]
    """
    _check_shape(shape)
    _check_normal("logit_normal", mean, std)
    t = jax.nn.sigmoid(mean + std * jax.random.normal(key, shape))
    limits = jnp.finfo(t.dtype)
    return jnp.clip(t, limits.tiny, 1.0 - limits.epsneg)


def log_normal(
    key: Key, shape: tuple[int, ...], path: Path, *, mean: float = -0.5, std: float = 1.2
) -> Array:
    """Draws independent times at which log(sigma / alpha) is normal.

    The ratio sigma / alpha is the noise in units of the data. On the linear path the law is that of
    `logit_normal(mean=-mean, std=std)`. For data of standard deviation s, EDM's law with its
    P_mean and P_std is `mean = P_mean + log(s / s_E)`, `std = P_std` with s_E = 0.5, the standard
    deviation of its data: the default is its law for s = 1.

    Args:
      key: PRNG key.
      shape: shape of the result.
      path: the path.
      mean: mean of log(sigma / alpha). A larger one favors the noise.
      std: standard deviation of log(sigma / alpha), positive.

    Returns:
      `[*shape]`, in [0, 1). Where the path has no such ratio, the end that is nearest to it: on the
      ve paths and vp, whose ratio is bounded at t = 0, the time is 0.

    Raises:
      ValueError: if `mean` is not finite, `std` not positive and finite, or `shape` not a tuple.

    Example:
      >>> import fmjax
      >>> import jax
      >>> import jax.numpy as jnp
      >>> path = fmjax.paths.cosine()
      >>> t = fmjax.times.log_normal(jax.random.key(0), (10_000,), path, mean=0.0)
      >>> print(f"{jnp.median(t):.2f}")  # where sigma = alpha
      0.50

    Reference:
      Karras et al. (2022), arXiv 2206.00364, table 1. [karras2022elucidating]
    """
    _checks.path(path)
    _check_shape(shape)
    _check_normal("log_normal", mean, std)
    wanted = mean + std * jax.random.normal(key, shape)

    def halved(_: int, inside: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = inside
        middle = (low + high) / 2
        noisier = path.sigma(middle) > jnp.exp(wanted) * path.alpha(middle)
        return jnp.where(noisier, middle, low), jnp.where(noisier, high, middle)

    digits = jnp.finfo(wanted.dtype).nmant
    ends = jnp.zeros_like(wanted), jnp.ones_like(wanted)
    # Twice the digits: times near 0 are small numbers.
    low, _ = jax.lax.fori_loop(0, 2 * digits, halved, ends)
    return jnp.minimum(low, 1.0 - jnp.finfo(low.dtype).epsneg)


def log_normal_density(t: Array, path: Path, *, mean: float = -0.5, std: float = 1.2) -> Array:
    """Computes the density of the times that `log_normal` draws.

    A loss at such a time, divided by this density, has the expectation of the loss at a uniform
    time: an importance weight, for those who want another law of the times and the same objective.

    Args:
      t: `[]`, in (0, 1).
      path: the path.
      mean: as in `log_normal`.
      std: as in `log_normal`.

    Returns:
      `[]`, per unit of time.

    Raises:
      ValueError: if `mean` is not finite or `std` not positive and finite; if `t` is batched or a
        static number outside [0, 1], or one at which alpha or sigma is 0. There a traced t gives
        NaN.

    Example:
      >>> import fmjax
      >>> import jax
      >>> import jax.numpy as jnp
      >>> path = fmjax.paths.linear()
      >>> t = fmjax.times.log_normal(jax.random.key(0), (10_000,), path)
      >>> weight = 1 / jax.vmap(lambda t: fmjax.times.log_normal_density(t, path))(t)
      >>> print(f"{jnp.mean(weight * t**2):.1f}")  # the integral of t^2 is 1/3
      0.3
    """
    _check_normal("log_normal_density", mean, std)
    _checks.positive_sigma(path, t)
    _checks.positive_alpha(path, t, "take t above 0: no time is drawn where there is no data")
    c = paths.coefficients(path, t)
    slope = c.wronskian / (c.alpha * c.sigma)  # minus the derivative of log(sigma / alpha)
    return slope * jax.scipy.stats.norm.pdf(jnp.log(c.sigma) - jnp.log(c.alpha), mean, std)


def intervals(
    key: Key,
    shape: tuple[int, ...],
    *,
    sampler: Callable[[Key, tuple[int, ...]], Array] = uniform,
    fraction_equal: float = 0.75,
) -> tuple[Array, Array]:
    """Draws pairs of times `(r, t)` with `t <= r` for MeanFlow training.

    Two draws are sorted. The smaller one is t, the time of the state x; the larger one is r, the
    time that the average velocity leads to. (In the paper time runs from the data, so there
    `r <= t`; the roles are the same.) Then r is set to t in a fraction of the pairs, which train
    the instantaneous velocity. The law of t, the smaller of two draws, does not change.

    The fraction is stratified: in every batch the number of equal pairs differs from
    `fraction_equal * n` by less than one, and equals it on average, even for n = 1. So all batches
    mix the two losses alike, although they differ in size. Equal pairs have random places.

    Args:
      key: PRNG key.
      shape: shape of each result.
      sampler: `(key, shape) -> times`, which draws both times; bind options with `partial`.
      fraction_equal: fraction of the pairs with r = t, in [0, 1].

    Returns:
      `(r, t)`, each `[*shape]`, with `t <= r`.

    Raises:
      ValueError: if `fraction_equal` is outside [0, 1], or if `shape` is not a tuple.

    Example:
      >>> import fmjax
      >>> import jax
      >>> r, t = fmjax.times.intervals(jax.random.key(0), (8,))
      >>> int((r == t).sum()), bool((t <= r).all())
      (6, True)

    Reference:
      Geng et al. (2025), arXiv 2505.13447, section 4. [geng2025mean]
    """
    _checks.functions(sampler=sampler)
    _check_shape(shape)
    if not 0.0 <= fraction_equal <= 1.0:
        message = f"fraction_equal must lie in [0, 1], got {fraction_equal}: it is a share."
        raise ValueError(message)
    key_first, key_second, key_equal = jax.random.split(key, 3)
    first, second = sampler(key_first, shape), sampler(key_second, shape)
    t = jnp.minimum(first, second)
    equal = stratified(key_equal, shape) < fraction_equal
    return jnp.where(equal, t, jnp.maximum(first, second)), t


def _check_shape(shape: tuple[int, ...]) -> None:
    """Raises ValueError unless `shape` is a tuple or list, as a bare number is a common slip."""
    if not isinstance(shape, tuple | list):
        message = f"shape must be a tuple of ints, got {shape!r}: write (n,), or x1.shape[:1]."
        raise ValueError(message)  # noqa: TRY004 (every static error of fmjax is a ValueError)


def _check_normal(name: str, mean: float, std: float) -> None:
    if not (math.isfinite(mean) and 0.0 < std < math.inf):
        message = f"{name} needs a finite mean and std > 0, got mean {mean} and std {std}."
        raise ValueError(message)
