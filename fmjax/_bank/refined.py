"""A large bank at the state of a known pair, by products and the differences of a few points.

With `rho = alpha / sigma` the logits relative to the logit of x1 are

    -rho^2 |x1 - b_j|^2 / 2 - rho <x0, x1 - b_j>                                          (1)

without a cancellation of large terms as t -> 1. Computed from inner products they have a rounding
error, which matters only where it is of the size of (1) itself: among the likeliest points. For
these points the differences are taken.
"""

from __future__ import annotations

import numbers
from typing import NamedTuple

import jax
import jax.numpy as jnp

from fmjax import _checks, paths
from fmjax._bank import points, summary
from fmjax._bank.points import Bank
from fmjax.paths import Path
from fmjax.types import Array

__all__ = ["Refined", "check_count", "refine"]


class Refined(NamedTuple):
    """The posterior over a bank at the state of a pair.

    Attributes:
      near: `[k]`, the weights of the likeliest points.
      gaps: `[k, *dims]`, their differences from x1.
      far: `[n]`, the weights of all other points, 0 at the likeliest.
      mean: `[*dims]`, the posterior mean minus x1.
      spread: `[]`, the trace of the posterior covariance.
    """

    near: Array
    gaps: Array
    far: Array
    mean: Array
    spread: Array


def refine(
    path: Path,
    bank: Array | Bank,
    x0: Array,
    x1: Array,
    t: Array,
    k: int,
    chunk_size: int | None,
    axis_name: str | None = None,
) -> tuple[Refined, Bank, paths.Coefficients]:
    """Returns the posterior at the state of a pair, the bank made ready, and the coefficients.

    All results are float32 at least. With `axis_name` the bank is this device's part of one that
    lies over that axis of a mesh: the weights and gaps are those of its points, `mean` and `spread`
    those of the whole bank.
    """
    _checks.same_shape(x0=x0, x1=x1)
    x0 = _checks.wide(_checks.state(x0, "x0"))
    bank, x1, c = summary.checked(path, bank, _checks.state(x1, "x1"), t)
    _checks.count("it counts points of the bank", k=k)
    k = check_count(min(k, bank.points.shape[0]), bank)
    likeliest, gaps, q = _logits(c, bank, x0, x1, k, chunk_size)
    all_of = lambda reduce, value: value if axis_name is None else reduce(value, axis_name)  # noqa: E731
    peak = all_of(jax.lax.pmax, jax.lax.stop_gradient(jnp.max(q)))
    masses = points.exponentials(q - peak)
    w = masses / all_of(jax.lax.psum, masses.sum())
    near, far = w[likeliest], w.at[likeliest].set(0.0)

    beyond, total = points.weighted_sum(bank, far, chunk_size), jnp.sum(far)
    mean = all_of(jax.lax.psum, beyond - total * x1 + points.average(near, gaps))
    # The mean square of the differences from x1, less the square of their mean.
    squares = jnp.sum(near * jnp.sum(gaps.reshape(k, -1) ** 2, axis=1))
    squares += 2.0 * jnp.sum(far * bank.half_squares) - jnp.sum(x1 * (2.0 * beyond - total * x1))
    spread = jnp.maximum(all_of(jax.lax.psum, squares) - jnp.sum(mean**2), 0.0)
    return Refined(near, gaps, far, mean, spread), bank, c


def _logits(
    c: paths.Coefficients, bank: Bank, x0: Array, x1: Array, k: int, chunk_size: int | None
) -> tuple[Array, Array, Array]:
    """Returns the k likeliest points, their differences from x1, and all logits (1)."""
    rho = c.alpha / c.sigma
    # In units of sigma: the potentials belong to the state x0 + rho x1 on the path (rho, 1).
    unit = c._replace(alpha=rho, sigma=jnp.ones_like(rho))
    q = summary.potentials(unit, bank, x0 + rho * x1, chunk_size)
    _, likeliest = jax.lax.top_k(q, k)
    gaps = points.scaled(bank, bank.points[likeliest]) - x1[None]
    flat = gaps.reshape(k, -1)
    near = jnp.matmul(flat, x0.ravel(), precision=points.HIGHEST)
    near = rho * (near - 0.5 * rho * jnp.sum(flat**2, axis=1))
    if bank.log_weights is not None:
        near = near + bank.log_weights[likeliest]
    own = rho * jnp.sum(x1 * (x0 + 0.5 * rho * x1))
    return likeliest, gaps, (q - own).at[likeliest].set(near)


def check_count(k: int, bank: Bank) -> int:
    """Returns k, or says that it is no number of points of the bank."""
    if not isinstance(k, numbers.Integral) or not 1 <= k <= bank.points.shape[0]:
        message = f"k must be between 1 and the {bank.points.shape[0]} points of the bank, got {k}."
        raise ValueError(message)
    return k
