"""The law of x1 given x_t for a finite data set, summarized in one pass over it.

With the logits `q_i / sigma^2`, `q_i = alpha <x, b_i> - alpha^2 |b_i|^2 / 2 + sigma^2 log w_i`, the
summary of a part of the bank holds its peak logit, its mass, the mean and spread of its points and
two sums over its weights. Two summaries merge into one as Chan, Golub and LeVeque merge sample
variances, which loses no digits. So the bank may be streamed in chunks and spread over devices: the
result is the same, and the memory is one chunk. From the summary `fmjax.empirical` computes mean,
velocity, divergence, log-density, entropy and number of neighbors.

Under `vmap` only two matrix products read the points. The spread needs no third product: with b_*
the likeliest point of the part,

    sum_i w_i |b_i - m|^2 = sum_i w_i (|b_i|^2 - |b_*|^2) - <m - b_*, m + b_*>            (1)

without cancellation where one point has all the weight. Elsewhere inner products have a rounding
error of about eps |b|^2, which the divergence multiplies by alpha / sigma^3. In float32 this does
not matter for images, but it does for points in the plane at t > 0.95.

References:
  Chan, Golub and LeVeque (1983), Algorithms for computing the sample variance, The American
  Statistician 37(3). [chan1983algorithms]
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from fmjax import _checks, paths
from fmjax._bank import points
from fmjax._bank.points import Bank
from fmjax.paths import Path
from fmjax.types import Array

__all__ = [
    "Summary",
    "anchored",
    "checked",
    "coefficients",
    "masses",
    "potentials",
    "pulled",
    "summarize",
    "tilted",
]


class Summary(NamedTuple):
    """The summary of one part of the bank at a state, with `p_i = exp(l_i - peak / sigma^2)`.

    Attributes:
      peak: `[]`, the largest `q_i`, not yet divided by sigma^2.
      closest: `[]`, `q` of that same point minus `|x|^2 / 2`, computed from differences.
      mass: `[]`, the sum of the p_i, at least 1.
      mean: `[*dims]`, the weighted mean of the points.
      spread: `[]`, their weighted mean square distance from it, the trace of their covariance.
      squares: `[]`, the sum of the p_i^2.
      surprise: `[]`, minus the sum of the p_i log p_i, not negative.
    """

    peak: Array
    closest: Array
    mass: Array
    mean: Array
    spread: Array
    squares: Array
    surprise: Array


def masses(c: paths.Coefficients, q: Array) -> tuple[Array, Array]:
    """Returns the largest `q_i`, `[]`, and `exp((q_i - peak) / sigma^2)`, `[n]`."""
    # It cancels from every result, and so does its derivative, which where XLA recomputes q with
    # other rounding finds no entry equal to the peak and is 0 / 0.
    peak = jax.lax.stop_gradient(jnp.max(q))
    # Subtract before scaling: XLA on CPUs contracts exp(s q - max(s q)) and gets it wrong.
    return peak, points.exponentials((q - peak) / c.sigma**2)


def _potentials(c: paths.Coefficients, piece: Bank, y: Array) -> Array:
    """Returns the `q_i` of some points, `[m]`, at the state `y = alpha x`."""
    q = points.inner(piece, y) - c.alpha**2 * piece.half_squares
    return q if piece.log_weights is None else q + c.sigma**2 * piece.log_weights


def potentials(c: paths.Coefficients, bank: Bank, x: Array, chunk_size: int | None) -> Array:
    """Returns the `q_i` of the whole bank, `[n]`, its points scaled chunk by chunk."""
    return points.each(bank, chunk_size, lambda piece: _potentials(c, piece, c.alpha * x))


def _summarize(c: paths.Coefficients, piece: Bank, x: Array, y: Array) -> Summary:
    q = _potentials(c, piece, y)
    peak, parts = masses(c, q)
    mass = parts.sum()
    weights = parts / mass
    mean = points.average(weights, piece.points)
    nearest = jnp.argmax(jax.lax.stop_gradient(q))
    point = piece.points[nearest]
    excess = points.average(weights, piece.half_squares) - piece.half_squares[nearest]
    spread = 2.0 * excess - jnp.sum((mean - point) * (mean + point))  # eq. (1)
    surprise = -jnp.sum(parts * (q - peak)) / c.sigma**2
    closest = -0.5 * jnp.sum((x - c.alpha * point) ** 2)
    if piece.log_weights is not None:
        closest = closest + c.sigma**2 * piece.log_weights[nearest]
    closest, spread = jax.lax.stop_gradient(closest), jnp.maximum(spread, 0.0)
    return Summary(peak, closest, mass, mean, spread, jnp.sum(parts**2), surprise)


def _merge(a: Summary, b: Summary, sigma: Array) -> Summary:
    """Returns the summary of two parts of the bank taken together."""
    peak = jnp.maximum(a.peak, b.peak)
    closest = jnp.where(a.peak >= b.peak, a.closest, b.closest)
    (log_a, log_b) = ((s.peak - peak) / sigma**2 for s in (a, b))
    down_a, down_b = jnp.exp(log_a), jnp.exp(log_b)
    mass = down_a * a.mass + down_b * b.mass
    share_a, share_b = down_a * a.mass / mass, down_b * b.mass / mass
    gap = b.mean - a.mean
    mean = a.mean + share_b * gap
    spread = share_a * a.spread + share_b * b.spread + share_a * share_b * jnp.sum(gap**2)
    squares = down_a**2 * a.squares + down_b**2 * b.squares
    surprise = down_a * (a.surprise - _finite(log_a) * a.mass)
    surprise += down_b * (b.surprise - _finite(log_b) * b.mass)
    return Summary(peak, closest, mass, mean, spread, squares, surprise)


def _finite(log_down: Array) -> Array:
    """Returns the logarithm where its exponential is not zero: 0 times infinity is 0 here."""
    return jnp.maximum(log_down, 2.0 * jnp.log(jnp.finfo(log_down.dtype).tiny))


def _across(s: Summary, sigma: Array, axis_name: str) -> Summary:
    """Returns the summary of all devices' parts taken together, equal on all of them."""
    peak = jax.lax.pmax(s.peak, axis_name)
    closest = jax.lax.pmax(jnp.where(s.peak == peak, s.closest, -jnp.inf), axis_name)
    log_down = (s.peak - peak) / sigma**2
    down, total = jnp.exp(log_down), lambda value: jax.lax.psum(value, axis_name)
    mass = total(down * s.mass)
    share = down * s.mass / mass
    mean = total(share * s.mean)
    spread = total(share * (s.spread + jnp.sum((s.mean - mean) ** 2)))
    surprise = total(down * (s.surprise - _finite(log_down) * s.mass))
    squares = total(down**2 * s.squares)
    return Summary(peak, closest, mass, mean, spread, squares, surprise)


def summarize(
    path: Path,
    bank: Array | Bank,
    x: Array,
    t: Array,
    chunk_size: int | None,
    axis_name: str | None = None,
) -> Summary:
    """Returns the summary of the whole bank, `chunk_size` points at a time (None: all).

    With `axis_name` the bank is this device's part of one that lies over that axis of a mesh.
    """
    bank, x, c = checked(path, bank, x, t)
    return tilted(c, bank, x, c.alpha * x, chunk_size, axis_name)


def tilted(
    c: paths.Coefficients,
    bank: Bank,
    x: Array,
    y: Array,
    chunk_size: int | None,
    axis_name: str | None,
) -> Summary:
    """Returns the summary at the state x, of which `y = alpha x` may be varied by itself.

    The derivative of its mean in y is the covariance of the points over sigma^2.
    """

    def map_part(piece: Bank, _: Array) -> Summary:
        return _summarize(c, piece, x, y)

    def merge(a: Summary, b: Summary) -> Summary:
        return _merge(a, b, c.sigma)

    result = points.accumulate(bank, chunk_size, map_part, merge)
    return result if axis_name is None else _across(result, c.sigma, axis_name)


def coefficients(path: Path, t: Array) -> paths.Coefficients:
    """Returns the path's coefficients at a time, in float32 at least."""
    return paths.coefficients(path, _checks.wide(_checks.time(t)))


def checked(
    path: Path, bank: Array | Bank, x: Array, t: Array
) -> tuple[Bank, Array, paths.Coefficients]:
    """Returns bank, state and coefficients, checked and converted.

    State and coefficients are float32 at least.
    """
    if isinstance(bank, Bank):
        _checks.bank_shape(bank.points, x)
    else:
        _checks.bank(bank, x)
    _checks.positive_sigma(path, t)
    return points.of(bank), _checks.wide(_checks.state(x)), coefficients(path, t)


def anchored(
    path: Path, bank: Array, x0: Array, x1: Array, t: Array
) -> tuple[Array, Array, paths.Coefficients]:
    """Returns weights `[n]` and gaps `b_i - x1`, `[n, *dims]`, at the state of a known pair.

    With `rho = alpha / sigma` the logits relative to the logit of x1 are

        -rho^2 |x1 - b_j|^2 / 2 - rho <x0, x1 - b_j>

    without a cancellation of large terms as t -> 1. It also returns the path's coefficients.
    Everything is float32 at least.
    """
    if isinstance(bank, Bank):
        message = (
            "got a Bank, but this target takes the differences of a plain array [n, *dims]: take "
            "empirical.refined_velocity or losses.of_large_bank, or pass the scaled points."
        )
        raise ValueError(message)  # noqa: TRY004 - every misfit of a bank is a ValueError
    _checks.same_shape(x0=x0, x1=x1)
    _checks.bank(bank, x1)
    _checks.positive_sigma(path, t)
    c = coefficients(path, t)
    rho = c.alpha / c.sigma
    x0, x1 = (_checks.wide(_checks.state(x, name)) for x, name in ((x0, "x0"), (x1, "x1")))
    gaps = _checks.wide(bank) - x1[None]
    flat = gaps.reshape(bank.shape[0], -1)
    products = jnp.matmul(flat, x0.ravel(), precision=points.HIGHEST)
    q = products - 0.5 * rho * jnp.sum(flat**2, axis=1)
    peak = jax.lax.stop_gradient(jnp.max(q))
    masses = points.exponentials(rho * (q - peak))  # subtracted before scaling, as above
    return masses / masses.sum(), gaps, c


def pulled(c: paths.Coefficients, x0: Array, x1: Array, pull: Array) -> Array:
    """Returns the exact velocity at the state of a pair: the pair's own, corrected by the bank.

    Args:
      c: the path's coefficients at the time.
      x0: `[*dims]`, noise.
      x1: `[*dims]`, data.
      pull: `[*dims]`, `E[x1 | x_t] - x1`.
    """
    return c.alpha_dot * x1 + c.sigma_dot * x0 + c.wronskian / c.sigma * pull
