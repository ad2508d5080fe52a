"""What a finite data set says about x1 given x_t, summed up in one pass over it.

With the logits `q_i / sigma^2`, `q_i = alpha <x, b_i> - alpha^2 |b_i|^2 / 2`, each part of the
bank is summed up by its peak logit, mass, mean and spread, and two summaries merge into one as
Chan, Golub and LeVeque merge sample variances, which loses no digits. So the bank may be
streamed in chunks: the result is the same, and the memory is that of one chunk.
`fmjax.empirical` reads mean, velocity, divergence and log-density off the result.

References:
  Chan, Golub and LeVeque (1983), Algorithms for computing the sample variance, The American
  Statistician 37(3). [chan1983algorithms]
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from fmjax import _checks, paths
from fmjax.paths import Path
from fmjax.types import Array

# The exact field is the reference for everything else, so no product is rounded to TF32.
HIGHEST = jax.lax.Precision.HIGHEST


class Summary(NamedTuple):
    """What one part of the bank says about x1 given x_t.

    Attributes:
      peak: `[]`, the largest `q_i`, not yet divided by sigma^2.
      mass: `[]`, the sum of `exp((q_i - peak) / sigma^2)`, at least 1.
      mean: `[*dims]`, the weighted mean of the points.
      spread: `[]`, their weighted mean square distance from it, the trace of their covariance.
    """

    peak: Array
    mass: Array
    mean: Array
    spread: Array


def masses(path: Path, bank: Array, x: Array, t: Array) -> tuple[Array, Array]:
    """Returns the largest `q_i`, `[]`, and `exp((q_i - peak) / sigma^2)`, `[n]`."""
    alpha = path.alpha(t)
    flat = bank.reshape(bank.shape[0], -1)
    products = jnp.matmul(flat, x.ravel(), precision=HIGHEST)
    q = alpha * products - 0.5 * alpha**2 * jnp.sum(flat**2, axis=1)
    # It cancels from every result, and so does its derivative, which where XLA recomputes q with
    # other rounding finds no entry equal to the peak and is 0 / 0.
    peak = jax.lax.stop_gradient(jnp.max(q))
    # Subtract before scaling: XLA on CPUs contracts exp(s q - max(s q)) and gets it wrong.
    return peak, jnp.exp((q - peak) / path.sigma(t) ** 2)


def anchored(
    path: Path, bank: Array, x0: Array, x1: Array, t: Array
) -> tuple[Array, Array, paths.Coefficients]:
    """Returns weights `[n]` and gaps `b_i - x1`, `[n, *dims]`, at the state of a known pair.

    With `rho = alpha / sigma` the logits relative to that of x1 are

        -rho^2 |x1 - b_j|^2 / 2 - rho <x0, x1 - b_j>

    in which nothing large cancels as t -> 1. The path's coefficients come along.
    """
    _checks.same_shape(x0=x0, x1=x1)
    _checks.bank(bank, x1)
    _checks.positive_sigma(path, t)
    c = paths.coefficients(path, t)
    rho = c.alpha / c.sigma
    gaps = bank - x1[None]
    flat = gaps.reshape(bank.shape[0], -1)
    products = jnp.matmul(flat, x0.ravel(), precision=HIGHEST)
    q = products - 0.5 * rho * jnp.sum(flat**2, axis=1)
    peak = jax.lax.stop_gradient(jnp.max(q))
    masses = jnp.exp(rho * (q - peak))  # subtracted before scaling, as above
    return masses / masses.sum(), gaps, c


def average(weights: Array, bank: Array) -> Array:
    """Returns the weighted sum of the points of the bank, `[*dims]`."""
    return jnp.tensordot(weights, bank, axes=1, precision=HIGHEST)


def _summarise(path: Path, bank: Array, x: Array, t: Array) -> Summary:
    peak, parts = masses(path, bank, x, t)
    mass = parts.sum()
    mean = average(parts / mass, bank)
    squares = jnp.sum((bank - mean[None]).reshape(bank.shape[0], -1) ** 2, axis=1)
    return Summary(peak, mass, mean, jnp.sum(parts / mass * squares))


def _merge(a: Summary, b: Summary, sigma: Array) -> Summary:
    """Returns the summary of two parts of the bank taken together."""
    peak = jnp.maximum(a.peak, b.peak)
    mass_a = a.mass * jnp.exp((a.peak - peak) / sigma**2)
    mass_b = b.mass * jnp.exp((b.peak - peak) / sigma**2)
    mass = mass_a + mass_b
    share_a, share_b = mass_a / mass, mass_b / mass
    gap = b.mean - a.mean
    mean = a.mean + share_b * gap
    spread = share_a * a.spread + share_b * b.spread + share_a * share_b * jnp.sum(gap**2)
    return Summary(peak, mass, mean, spread)


def summarise(path: Path, bank: Array, x: Array, t: Array, chunk_size: int | None) -> Summary:
    """Returns the summary of the whole bank, `chunk_size` points at a time (None: all)."""
    _checks.bank(bank, x)
    t = _checks.time(t)
    size = bank.shape[0] if chunk_size is None else min(chunk_size, bank.shape[0])
    if size < 1:
        message = f"chunk_size must be at least 1, got {chunk_size}: it counts points of the bank."
        raise ValueError(message)
    count, sigma = bank.shape[0] // size, path.sigma(t)

    def absorb(result: Summary, part: Array) -> Summary:
        return _merge(result, _summarise(path, part, x, t), sigma)

    def step(result: Summary, start: Array) -> tuple[Summary, None]:
        # Sliced from the bank itself: scanning over a reshaped bank would copy all of it.
        return absorb(result, jax.lax.dynamic_slice_in_dim(bank, start, size)), None

    result = _summarise(path, bank[:size], x, t)
    if count > 1:
        result, _ = jax.lax.scan(step, result, size * jnp.arange(1, count))
    if count * size < bank.shape[0]:
        result = absorb(result, bank[count * size :])
    return result
