"""Regression targets for a velocity and its divergence, of one pair or of a whole data set.

With u the velocity, `s = grad log p_t` the score and d the number of dimensions, a target holds u
and

    n = -sigma s,    rate = sigma (div u + u . s) = -sigma d_t log p_t              (1)

For one pair u = alpha_dot x1 + sigma_dot x0, n = x0 and

    rate = sigma_dot (d - |x0|^2) - alpha_dot x1 . x0.                              (2)

For a data set let m and C be the mean and covariance of x1 given x_t (`fmjax.empirical`) and
`D = alpha_dot sigma - alpha sigma_dot`. At the state of a pair

    u = alpha_dot x1 + sigma_dot x0 + (D / sigma) (m - x1),    n = x0 - (alpha / sigma) (m - x1),
    sigma grad u = sigma_dot I + (D alpha / sigma^2) C.                             (3)

References:
  Huang et al. (2025), Improving Flow Matching by Aligning Flow Divergence, arXiv 2602.00869.
  Bertrand et al. (2025), On the Closed-Form of Flow Matching, arXiv 2506.03719.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from fmjax import _bank, _checks, paths
from fmjax._bank import Bank, Refined
from fmjax.paths import Path
from fmjax.types import Array

__all__ = ["Target", "of_bank", "of_large_bank", "of_pair", "scaled_residual"]


class Target(NamedTuple):
    """The regression target of a velocity and its divergence at one state.

    Attributes:
      x: `[*dims]`, the state, in the dtype of the pair. The other fields have float32 at least.
      velocity: `[*dims]`, u.
      noise: `[*dims]`, n = -sigma s: x0 of one pair, its posterior mean for a data set.
      rate: `[]`, sigma (div u + u . s), minus sigma times the time derivative of log p.
      sigma: `[]`, the noise of the path.
      slope: `z[*dims] -> [*dims]`, sigma (grad u) z; a pytree like the rest, so that a target may
        leave `jit` and `vmap`.
    """

    x: Array
    velocity: Array
    noise: Array
    rate: Array
    sigma: Array
    slope: Callable[[Array], Array]


def of_pair(path: Path, x0: Array, x1: Array, t: Array) -> Target:
    """Computes the target of one pair, eq. (2).

    Args:
      path: the path.
      x0: `[*dims]`, noise, N(0, I) and independent of x1.
      x1: `[*dims]`, data.
      t: `[]`, in [0, 1].

    Returns:
      The target, finite wherever the path's derivatives are.

    Raises:
      ValueError: if the shapes differ, if the pair is complex, or if `t` is batched or a static
        number outside [0, 1].

    Example:
      >>> import fmjax
      >>> import jax.numpy as jnp
      >>> x0, x1 = jnp.array([1.0, -1.0]), jnp.array([2.0, 0.0])
      >>> target = fmjax.losses.of_pair(fmjax.paths.linear(), x0, x1, 0.5)
      >>> target.velocity.tolist(), float(target.rate)
      ([1.0, 1.0], -2.0)

    Reference:
      Huang et al. (2025), arXiv 2602.00869, section 4. [huang2025improving]
    """
    x, x0, x1 = _state(path, x0, x1, t)
    c = _bank.coefficients(path, t)
    rate = c.sigma_dot * (x.size - jnp.sum(x0**2)) - c.alpha_dot * jnp.sum(x1 * x0)
    velocity = c.alpha_dot * x1 + c.sigma_dot * x0
    return Target(x, velocity, x0, rate, c.sigma, Partial(jnp.multiply, c.sigma_dot))


def of_bank(path: Path, bank: Array, x0: Array, x1: Array, t: Array) -> Target:
    """Computes the target of a whole data set at the state of one pair, eq. (3).

    Args:
      path: the path.
      bank: `[n, *dims]`, the data set or a minibatch of it, with x1 in it.
      x0: `[*dims]`, noise, N(0, I) and independent of the bank.
      x1: `[*dims]`, data.
      t: `[]`, in [0, 1], with `sigma(t) > 0`.

    Returns:
      The target; its velocity is `empirical.anchored_velocity`.

    Raises:
      ValueError: if the bank is empty or of integers, if shapes differ, if the pair is complex, if
        `t` is batched or a static number outside [0, 1], or if sigma is not positive at a static t.

    Example:
      >>> import fmjax
      >>> import jax.numpy as jnp
      >>> x0, bank = jnp.array([1.0, -1.0]), jnp.array([[2.0, 0.0], [1.0, 0.0]])
      >>> target = fmjax.losses.of_bank(fmjax.paths.linear(), bank, x0, bank[0], 0.5)
      >>> [round(float(u), 4) for u in target.velocity]
      [0.6351, 1.0]

    Reference:
      Bertrand et al. (2025), arXiv 2506.03719, eq. (6), and its divergence. [bertrand2025closed]
    """
    x, x0, x1 = _state(path, x0, x1, t)
    weights, gaps, c = _bank.anchored(path, bank, x0, x1, t)
    pull = _bank.average(weights, gaps)  # E[x1 | x_t] - x1
    offsets = (gaps - pull[None]).reshape(bank.shape[0], -1)
    gain = c.wronskian * c.alpha / c.sigma**2  # sigma grad u = sigma_dot I + gain Cov
    spread = jnp.sum(weights * jnp.sum(offsets**2, axis=1))

    velocity = _bank.pulled(c, x0, x1, pull)
    noise = x0 - c.alpha / c.sigma * pull
    rate = x0.size * c.sigma_dot + gain * spread - jnp.sum(velocity * noise)
    slope = Partial(_slope, c.sigma_dot, gain, weights, offsets)
    return Target(x, velocity, noise, rate, c.sigma, slope)


def of_large_bank(
    path: Path,
    bank: Array | Bank,
    x0: Array,
    x1: Array,
    t: Array,
    *,
    k: int = 8,
    chunk_size: int | None = None,
) -> Target:
    """Computes the target of a whole data set by matrix products, eq. (3).

    The result is the same as from `of_bank`, without a difference for every point and entry. Under
    `vmap` the memory is batch times n, not batch times n times d. Its velocity is
    `empirical.refined_velocity`, with the same accuracy in float32.

    Args:
      path: the path.
      bank: `[n, *dims]`, the data set, with x1 in it, or a `Bank`, also of bytes.
      x0: `[*dims]`, noise, N(0, I) and independent of the bank.
      x1: `[*dims]`, data.
      t: `[]`, in [0, 1], with `sigma(t) > 0`.
      k: number of points whose differences from x1 are taken; all if the bank is smaller.
      chunk_size: points of the bank in memory at a time; None takes the bank whole.

    Returns:
      The target. Only `match_jacobian` uses its slope, which takes two products with the bank and
      holds the bank: do not return such a target from `vmap`.

    Raises:
      ValueError: if k or `chunk_size` is not positive; otherwise as `of_bank`.

    Example:
      >>> import fmjax
      >>> import jax.numpy as jnp
      >>> x0, bank = jnp.array([1.0, -1.0]), jnp.array([[2.0, 0.0], [1.0, 0.0]])
      >>> target = fmjax.losses.of_large_bank(fmjax.paths.linear(), bank, x0, bank[0], 0.5)
      >>> [round(float(u), 4) for u in target.velocity]
      [0.6351, 1.0]

    Reference:
      Bertrand et al. (2025), arXiv 2506.03719, eq. (6), and its divergence. [bertrand2025closed]
    """
    x, x0, x1 = _state(path, x0, x1, t)
    found, bank, c = _bank.refine(path, bank, x0, x1, t, k, chunk_size)
    gain = c.wronskian * c.alpha / c.sigma**2
    velocity = _bank.pulled(c, x0, x1, found.mean)
    noise = x0 - c.alpha / c.sigma * found.mean
    rate = x0.size * c.sigma_dot + gain * found.spread - jnp.sum(velocity * noise)
    covariance = Partial(partial(_covariance, chunk_size), bank, found, x1)
    slope = Partial(_sloped, c.sigma_dot, gain, covariance)
    return Target(x, velocity, noise, rate, c.sigma, slope)


def _state(path: Path, x0: Array, x1: Array, t: Array) -> tuple[Array, Array, Array]:
    """Returns the state of a pair in the pair's dtype, and the pair in float32 at least."""
    x0, x1 = _checks.state(x0, "x0"), _checks.state(x1, "x1")
    return paths.interpolate(path, x0, x1, t), _checks.wide(x0), _checks.wide(x1)


def _covariance(chunk_size: int | None, bank: Bank, found: Refined, x1: Array, z: Array) -> Array:
    """Returns the product of the posterior covariance with z, from differences where it counts."""
    along = _bank.along(bank, z, chunk_size) - jnp.sum(x1 * z)
    near = jnp.matmul(found.gaps.reshape(len(found.near), -1), z.ravel(), precision=_bank.HIGHEST)
    ahead = jnp.sum(found.far * along) + jnp.sum(found.near * near)  # of the mean
    far = found.far * (along - ahead)
    beyond = _bank.weighted_sum(bank, far, chunk_size) - jnp.sum(far) * x1
    return beyond + _bank.average(found.near * (near - ahead), found.gaps)


def _sloped(sigma_dot: Array, gain: Array, covariance: Partial, z: Array) -> Array:
    return sigma_dot * z + gain * covariance(z)


def _slope(sigma_dot: Array, gain: Array, weights: Array, offsets: Array, z: Array) -> Array:
    """Returns (sigma_dot I + gain Cov) z, with the covariance of the weighted offsets."""
    along = jnp.matmul(offsets, z.ravel(), precision=_bank.HIGHEST)
    return sigma_dot * z + gain * _bank.average(weights * along, offsets).reshape(z.shape)


def scaled_residual(value: Array, div: Array, target: Target) -> Array:
    """Computes sigma times the residual r of a velocity, without a gradient through its value.

    `sigma r = rate + v . n - sigma div v`, eq. (3) of `fmjax.losses.matching`.

    `path_error.residual` is r itself, from a log-density instead of a target.

    Args:
      value: `[*dims]`, the velocity at the state.
      div: `[]`, its divergence.
      target: the target of a pair or of a data set.

    Returns:
      `[]`, per unit of time, times sigma.

    Example:
      >>> import fmjax
      >>> import jax.numpy as jnp
      >>> x0, x1 = jnp.array([1.0, -1.0]), jnp.array([2.0, 0.0])
      >>> target = fmjax.losses.of_pair(fmjax.paths.linear(), x0, x1, 0.5)
      >>> value, div = fmjax.divergence.exact(lambda x: 0.0 * x, target.x)
      >>> float(fmjax.losses.scaled_residual(value, div, target))
      -2.0

    Reference:
      Huang et al. (2025), arXiv 2602.00869, eqs. (8) and (14). [huang2025improving]
    """
    pushed = jnp.sum(jax.lax.stop_gradient(value) * target.noise)
    return target.rate + pushed - target.sigma * div
