"""The exact law at one state by one pass over the data set: eq. (1), (2), (4), (6) and (7)."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from fmjax import _bank, _checks, predictions
from fmjax._bank import Bank
from fmjax.paths import Path
from fmjax.types import Array

__all__ = ["Law", "law", "log_density", "mean", "velocity", "weights"]


class Law(NamedTuple):
    """The quantities that one pass over a bank gives at one state.

    Attributes:
      mean: `[*dims]`, eq. (2).
      velocity: `[*dims]`, eq. (4).
      divergence: `[]`, of the velocity, eq. (6).
      log_density: `[]`, in nats, eq. (7).
      entropy: `[]`, of the weights (1), in nats.
      effective_number: `[]`, of points, `1 / sum_i w_i^2`.
    """

    mean: Array
    velocity: Array
    divergence: Array
    log_density: Array
    entropy: Array
    effective_number: Array


def law(
    path: Path,
    bank: Array | Bank,
    x: Array,
    t: Array,
    *,
    chunk_size: int | None = None,
    axis_name: str | None = None,
) -> Law:
    """Computes mean, velocity, divergence, density and more in one pass over the bank.

    Calls of `velocity` and `divergence` read a streamed bank twice, also under `jit`; this reads it
    once. Under `jit` the fields that are not used are not computed.

    Args:
      path: the path.
      bank: `[n, *dims]`, the data set, or a `Bank`.
      x: `[*dims]`, the state.
      t: `[]`, in [0, 1], with `sigma(t) > 0`.
      chunk_size: points of the bank in memory at a time; None takes the bank whole.
      axis_name: axis of a mesh over which the bank lies, inside `shard_map`; None for one device.

    Returns:
      The `Law`: every quantity by name.

    Raises:
      ValueError: if the bank is empty, of integers, or its points are not shaped like `x`, if
        `chunk_size` is not positive, if `t` is batched or a static number outside [0, 1], or if
        sigma is not positive at a static t.

    Example:
      >>> import fmjax
      >>> import jax.numpy as jnp
      >>> path, bank, x = fmjax.paths.linear(), jnp.array([[-1.0], [1.0]]), jnp.array([0.25])
      >>> law = fmjax.empirical.law(path, bank, x, 0.5)
      >>> print(f"velocity {law.velocity[0]:.4f}, divergence {law.divergence:.4f}")
      velocity 0.4242, divergence 1.1458

    Reference:
      Bertrand et al. (2025), arXiv 2506.03719, eq. (6). [bertrand2025closed]
    """
    s = _bank.summarize(path, bank, x, t, chunk_size, axis_name)
    c, t = _bank.coefficients(path, t), _checks.wide(_checks.time(t))
    dtype, x = _bank.result_type(bank, x), _checks.wide(x)
    kinds = {"given": predictions.x1, "wanted": predictions.velocity}
    # The value comes from differences, which do not cancel near the data; the gradient from
    # (peak - |x|^2 / 2) / sigma^2, in which the peak has none.
    free = -0.5 * jnp.sum(x**2)
    quadratic = (s.closest + (free - jax.lax.stop_gradient(free))) / c.sigma**2
    volume = 0.5 * x.size * jnp.log(2.0 * jnp.pi * c.sigma**2)
    total = _log_total(_bank.of(bank), axis_name)
    return Law(
        mean=s.mean.astype(dtype),
        velocity=predictions.convert(path, s.mean, x, t, **kinds).astype(dtype),
        divergence=x.size * c.sigma_dot / c.sigma + c.wronskian * c.alpha / c.sigma**3 * s.spread,
        log_density=jnp.log(s.mass) + quadratic - volume - total,
        entropy=jnp.log(s.mass) + s.surprise / s.mass,
        effective_number=s.mass**2 / s.squares,
    )


def _log_total(bank: Bank, axis_name: str | None) -> Array:
    """Returns the logarithm of the sum of the weights, of all devices' parts."""
    logs = bank.log_weights
    logs = jnp.zeros_like(bank.half_squares) if logs is None else logs
    peak = jax.lax.stop_gradient(jnp.max(logs))
    peak = peak if axis_name is None else jax.lax.pmax(peak, axis_name)
    total = jnp.sum(jnp.exp(logs - peak))
    total = total if axis_name is None else jax.lax.psum(total, axis_name)
    return peak + jnp.log(total)


def weights(
    path: Path, bank: Array | Bank, x: Array, t: Array, *, chunk_size: int | None = None
) -> Array:
    """Computes the posterior probability of every point of the bank, eq. (1).

    Args:
      path: the path.
      bank: `[n, *dims]`, the data set, or a `Bank`.
      x: `[*dims]`, the state.
      t: `[]`, in [0, 1], with `sigma(t) > 0`.
      chunk_size: points that are scaled at a time; None takes the bank whole.

    Returns:
      `[n]`, non-negative, summing to one.

    Raises:
      ValueError: if the bank is empty, of integers, or its points are not shaped like `x`, if
        `chunk_size` is not positive, if `t` is batched or a static number outside [0, 1], or if
        sigma is not positive at a static t.

    Example:
      >>> import fmjax
      >>> import jax.numpy as jnp
      >>> path, bank, x = fmjax.paths.linear(), jnp.array([[-1.0], [1.0]]), jnp.array([0.25])
      >>> first, second = fmjax.empirical.weights(path, bank, x, 0.5)
      >>> print(f"{first:.3f}, {second:.3f}")
      0.269, 0.731

    Reference:
      Bertrand et al. (2025), arXiv 2506.03719, eq. (6). [bertrand2025closed]
    """
    bank, x, c = _bank.checked(path, bank, x, t)
    _, masses = _bank.masses(c, _bank.potentials(c, bank, x, chunk_size))
    return masses / masses.sum()


def mean(
    path: Path,
    bank: Array | Bank,
    x: Array,
    t: Array,
    *,
    chunk_size: int | None = None,
    axis_name: str | None = None,
) -> Array:
    """Computes the mean of the data given the state, the optimal denoiser, eq. (2).

    Args:
      path: the path.
      bank: `[n, *dims]`, the data set, or a `Bank`.
      x: `[*dims]`, the state.
      t: `[]`, in [0, 1], with `sigma(t) > 0`.
      chunk_size: points of the bank in memory at a time; None takes the bank whole.
      axis_name: axis of a mesh over which the bank lies, inside `shard_map`; None for one device.

    Returns:
      `[*dims]`, in the convex hull of the bank.

    Raises:
      ValueError: if the bank is empty, of integers, or its points are not shaped like `x`, if
        `chunk_size` is not positive, if `t` is batched or a static number outside [0, 1], or if
        sigma is not positive at a static t.

    Example:
      >>> import fmjax
      >>> import jax.numpy as jnp
      >>> path, bank, x = fmjax.paths.linear(), jnp.array([[-1.0], [1.0]]), jnp.array([0.25])
      >>> print(f"{fmjax.empirical.mean(path, bank, x, 0.5)[0]:.4f}")
      0.4621

    Reference:
      Bertrand et al. (2025), arXiv 2506.03719, eq. (6). [bertrand2025closed]
    """
    return law(path, bank, x, t, chunk_size=chunk_size, axis_name=axis_name).mean


def velocity(
    path: Path,
    bank: Array | Bank,
    x: Array,
    t: Array,
    *,
    chunk_size: int | None = None,
    axis_name: str | None = None,
) -> Array:
    """Computes the exact marginal velocity of the bank, eq. (4).

    Args:
      path: the path.
      bank: `[n, *dims]`, the data set, or a `Bank`.
      x: `[*dims]`, the state.
      t: `[]`, in [0, 1], with `sigma(t) > 0`.
      chunk_size: points of the bank in memory at a time; None takes the bank whole.
      axis_name: axis of a mesh over which the bank lies, inside `shard_map`; None for one device.

    Returns:
      `[*dims]`, the minimizer of the conditional flow matching loss on the bank.

    Raises:
      ValueError: if the bank is empty, of integers, or its points are not shaped like `x`, if
        `chunk_size` is not positive, if `t` is batched or a static number outside [0, 1], or if
        sigma is not positive at a static t.

    Example:
      >>> import fmjax
      >>> import jax.numpy as jnp
      >>> path, bank, x = fmjax.paths.linear(), jnp.array([[-1.0], [1.0]]), jnp.array([0.25])
      >>> print(f"{fmjax.empirical.velocity(path, bank, x, 0.5)[0]:.4f}")
      0.4242

    Reference:
      Bertrand et al. (2025), arXiv 2506.03719, eq. (6). [bertrand2025closed]
    """
    return law(path, bank, x, t, chunk_size=chunk_size, axis_name=axis_name).velocity


def log_density(
    path: Path,
    bank: Array | Bank,
    x: Array,
    t: Array,
    *,
    chunk_size: int | None = None,
    axis_name: str | None = None,
) -> Array:
    """Computes the log-density of the state at time t, eq. (7).

    Args:
      path: the path.
      bank: `[n, *dims]`, the data set, or a `Bank`.
      x: `[*dims]`, the state.
      t: `[]`, in [0, 1], with `sigma(t) > 0`.
      chunk_size: points of the bank in memory at a time; None takes the bank whole.
      axis_name: axis of a mesh over which the bank lies, inside `shard_map`; None for one device.

    Returns:
      `[]`, in nats.

    Raises:
      ValueError: if the bank is empty, of integers, or its points are not shaped like `x`, if
        `chunk_size` is not positive, if `t` is batched or a static number outside [0, 1], or if
        sigma is not positive at a static t.

    Example:
      >>> import fmjax
      >>> import jax.numpy as jnp
      >>> path, bank, x = fmjax.paths.linear(), jnp.array([[-1.0], [1.0]]), jnp.array([0.25])
      >>> print(f"{fmjax.empirical.log_density(path, bank, x, 0.5):.4f}")
      -0.7307

    Reference:
      The mixture of n Gaussians behind eq. (6) of arXiv 2506.03719. [bertrand2025closed]
    """
    return law(path, bank, x, t, chunk_size=chunk_size, axis_name=axis_name).log_density
