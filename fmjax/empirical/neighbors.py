"""How many points of the data set matter at a state, and the field of the likeliest points.

Early in the path all points of the bank carry weight; late, a single one does. Two numbers measure
how far the weights have collapsed: their entropy H, from log n down to 0, and the effective number
of points `1 / sum_i w_i^2`, from n down to 1. Then few points are enough:

* `truncated` keeps the k likeliest points and bounds the distance to the exact field. With eps the
  weight of the other points, R their largest norm and S = R + |m_k|,

      |m - m_k| <= eps S,                  |u - u_k| <= (D / sigma) eps S                    (8)
      |tr C - tr C_k| <= eps (S^2 + tr C_k)                                                  (9)

  because E|b - m_k|^2 over all points equals tr C + |m - m_k|^2. It also equals (1 - eps) tr C_k
  plus eps times the mean over the other points, which is at most S^2.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from fmjax import _bank, _checks, paths, predictions
from fmjax._bank import EXCLUDED, Bank
from fmjax.empirical import moments
from fmjax.paths import Path
from fmjax.types import Array

__all__ = ["Truncated", "effective_number", "entropy", "truncated"]


def effective_number(
    path: Path,
    bank: Array | Bank,
    x: Array,
    t: Array,
    *,
    chunk_size: int | None = None,
    axis_name: str | None = None,
) -> Array:
    """Computes the effective number of points of the bank at a state, `1 / sum_i w_i^2`.

    Args:
      path: the path.
      bank: `[n, *dims]`, the data set, or a `Bank`.
      x: `[*dims]`, the state.
      t: `[]`, in [0, 1], with `sigma(t) > 0`.
      chunk_size: points of the bank in memory at a time; None takes the bank whole.
      axis_name: axis of a mesh over which the bank lies, inside `shard_map`; None for one device.

    Returns:
      `[]`, in [1, n].

    Raises:
      ValueError: as `empirical.velocity`.

    Example:
      >>> import fmjax
      >>> import jax.numpy as jnp
      >>> path, bank, x = fmjax.paths.linear(), jnp.array([[-1.0], [1.0]]), jnp.array([0.25])
      >>> print(f"{fmjax.empirical.effective_number(path, bank, x, 0.5):.4f}")
      1.6481

    Reference:
      Kong, Liu and Wong (1994), Sequential Imputations and Bayesian Missing Data Problems, Journal
      of the American Statistical Association 89. [kong1994sequential]
    """
    return moments.law(
        path, bank, x, t, chunk_size=chunk_size, axis_name=axis_name
    ).effective_number


def entropy(
    path: Path,
    bank: Array | Bank,
    x: Array,
    t: Array,
    *,
    chunk_size: int | None = None,
    axis_name: str | None = None,
) -> Array:
    """Computes the entropy of the posterior over the points of the bank, `-sum_i w_i log w_i`.

    Log n minus its mean over states is the information that x_t holds about x1.

    Args:
      path: the path.
      bank: `[n, *dims]`, the data set, or a `Bank`.
      x: `[*dims]`, the state.
      t: `[]`, in [0, 1], with `sigma(t) > 0`.
      chunk_size: points of the bank in memory at a time; None takes the bank whole.
      axis_name: axis of a mesh over which the bank lies, inside `shard_map`; None for one device.

    Returns:
      `[]`, in nats, in [0, log n].

    Raises:
      ValueError: as `empirical.velocity`.

    Example:
      >>> import fmjax
      >>> import jax.numpy as jnp
      >>> path, bank, x = fmjax.paths.linear(), jnp.array([[-1.0], [1.0]]), jnp.array([0.25])
      >>> print(f"{fmjax.empirical.entropy(path, bank, x, 0.5):.4f}")
      0.5822

    Reference:
      Biroli et al. (2024), Dynamical Regimes of Diffusion Models, arXiv 2402.18491, the excess
      entropy. [biroli2024dynamical]
    """
    return moments.law(path, bank, x, t, chunk_size=chunk_size, axis_name=axis_name).entropy


class Truncated(NamedTuple):
    """The exact law of the k likeliest points, with bounds on the error.

    Attributes:
      velocity: `[*dims]`, u_k, the exact velocity of the k points.
      mean: `[*dims]`, m_k, their posterior mean.
      divergence: `[]`, of u_k.
      left_out: `[]`, eps, the weight of all other points, in [0, 1].
      bound: `[]`, of the distance between u_k and the velocity of the whole bank, eq. (8).
      divergence_bound: `[]`, of the distance between their divergences, by eq. (9).
    """

    velocity: Array
    mean: Array
    divergence: Array
    left_out: Array
    bound: Array
    divergence_bound: Array


def truncated(
    path: Path,
    bank: Array | Bank,
    x: Array,
    t: Array,
    *,
    k: int,
    chunk_size: int | None = None,
) -> Truncated:
    """Computes the velocity from the k likeliest points alone, with bounds on the error.

    It takes one product with the bank instead of two. Weights and covariance of the k points are
    computed from differences. In float32 this is therefore the more accurate form where these
    points carry the weight: near the data, and in few dimensions most of all.

    Args:
      path: the path.
      bank: `[n, *dims]`, the data set, or a `Bank`.
      x: `[*dims]`, the state.
      t: `[]`, in [0, 1], with `sigma(t) > 0`.
      k: number of points kept, 1 ... n.
      chunk_size: points of the bank in memory at a time; None takes the bank whole.

    Returns:
      Velocity, mean, divergence, the weight left out, and the bounds by (8) and (9).

    Raises:
      ValueError: if k is not in 1 ... n; otherwise as `empirical.velocity`.

    Example:
      >>> import fmjax
      >>> import jax.numpy as jnp
      >>> path, bank = fmjax.paths.linear(), jnp.array([[-1.0], [1.0], [3.0]])
      >>> two = fmjax.empirical.truncated(path, bank, jnp.array([0.25]), 0.5, k=2)
      >>> print(f"velocity {two.velocity[0]:.4f}, left out {two.left_out:.4f}")
      velocity 0.4242, left out 0.0351

    Reference:
      Scarvelis et al. (2023), Closed-Form Diffusion Models, arXiv 2310.12395, section 4.2 (nearest
      neighbors); the bound is this library's. [scarvelis2023closed]
    """
    given = bank, x
    bank, x, c = _bank.checked(path, bank, x, t)
    dtype = _bank.result_type(*given)
    t = _checks.wide(_checks.time(t))
    likeliest, others = _split(c, bank, x, k, chunk_size)
    points = _bank.scaled(bank, bank.points[likeliest])
    gaps = (x[None] - c.alpha * points).reshape(k, -1)
    q = -0.5 * jnp.sum(gaps**2, axis=1)
    if bank.log_weights is not None:
        q = q + c.sigma**2 * bank.log_weights[likeliest]
    _, parts = _bank.masses(c, q)
    weights = parts / parts.sum()
    mean = _bank.average(weights, points)
    spread = jnp.sum(weights * jnp.sum((points - mean[None]).reshape(k, -1) ** 2, axis=1))

    left_out, radius = others
    reach = radius + jnp.sqrt(jnp.sum(mean**2))
    kinds = {"given": predictions.x1, "wanted": predictions.velocity}
    slope = c.wronskian * c.alpha / c.sigma**3
    return Truncated(
        velocity=predictions.convert(path, mean, x, t, **kinds).astype(dtype),
        mean=mean.astype(dtype),
        divergence=x.size * c.sigma_dot / c.sigma + slope * spread,
        left_out=left_out,
        bound=c.wronskian / c.sigma * left_out * reach,
        divergence_bound=slope * left_out * (reach**2 + spread),
    )


def _split(
    c: paths.Coefficients, bank: Bank, x: Array, k: int, chunk_size: int | None
) -> tuple[Array, tuple[Array, Array]]:
    """Returns the indices of the k likeliest points, and weight and largest norm of the others."""
    _bank.check_count(k, bank)
    q = _bank.potentials(c, bank, x, chunk_size)
    _, likeliest = jax.lax.top_k(q, k)
    _, parts = _bank.masses(c, q)
    rest = parts.at[likeliest].set(0.0)
    eps = rest.sum() / (rest.sum() + parts[likeliest].sum())
    present = True if bank.log_weights is None else bank.log_weights > 0.5 * EXCLUDED
    norms = jnp.where(present, 2.0 * bank.half_squares, 0.0).at[likeliest].set(0.0)
    return likeliest, (eps, jnp.sqrt(jnp.max(norms)))
