"""How the exact velocity changes in time, at a fixed state and along its own flow.

References:
  Bertrand et al. (2025), On the Closed-Form of Flow Matching, arXiv 2506.03719.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from fmjax import _bank, _checks
from fmjax._bank import Bank
from fmjax.empirical import moments
from fmjax.paths import Path
from fmjax.types import Array

__all__ = ["acceleration", "time_derivative"]


def time_derivative(
    path: Path, bank: Array | Bank, x: Array, t: Array, *, chunk_size: int | None = None
) -> Array:
    """Computes the partial derivative of the exact velocity in time, at a fixed state.

    Args:
      path: the path, twice differentiable.
      bank: `[n, *dims]`, the data set, or a `Bank`.
      x: `[*dims]`, the state.
      t: `[]`, in [0, 1], with `sigma(t) > 0`.
      chunk_size: points of the bank in memory at a time; None takes the bank whole.

    Returns:
      `[*dims]`, per unit of time.

    Raises:
      ValueError: as `empirical.divergence`.

    Example:
      >>> import fmjax
      >>> import jax.numpy as jnp
      >>> path, bank, x = fmjax.paths.linear(), jnp.array([[-1.0], [1.0]]), jnp.array([0.25])
      >>> print(f"{fmjax.empirical.time_derivative(path, bank, x, 0.5)[0]:.3f}")
      5.567

    Reference:
      The time derivative of eq. (6) of arXiv 2506.03719. [bertrand2025closed]
    """
    x = _checks.state(x)
    return _pushed(path, bank, x, t, jnp.zeros_like(x), chunk_size)


def acceleration(
    path: Path, bank: Array | Bank, x: Array, t: Array, *, chunk_size: int | None = None
) -> Array:
    """Computes the acceleration along the exact flow, `d u(x_t, t) / dt`; 0 where it is straight.

    On the linear path it is the rate at which the posterior mean changes along the trajectory,
    divided by 1 - t. A trajectory is straight while the posterior mean stays the same.

    Args:
      path: the path, twice differentiable.
      bank: `[n, *dims]`, the data set, or a `Bank`.
      x: `[*dims]`, the state.
      t: `[]`, in [0, 1], with `sigma(t) > 0`.
      chunk_size: points of the bank in memory at a time; None takes the bank whole.

    Returns:
      `[*dims]`, per unit of time squared. Terms of order 1 / sigma^2 cancel: in float32 the error
      is about 4 eps |x| / sigma^2, so 2e-3 at sigma = 0.01.

    Raises:
      ValueError: as `empirical.divergence`.

    Example:
      >>> import fmjax
      >>> import jax.numpy as jnp
      >>> path, bank, x = fmjax.paths.linear(), jnp.array([[-1.0], [1.0]]), jnp.array([0.25])
      >>> print(f"{fmjax.empirical.acceleration(path, bank, x, 0.5)[0]:.3f}")
      6.053

    Reference:
      The material derivative of eq. (6) of arXiv 2506.03719. [bertrand2025closed]
    """
    u = moments.velocity(path, bank, x, t, chunk_size=chunk_size)
    return _pushed(path, bank, x, t, u, chunk_size)


def _pushed(
    path: Path, bank: Array | Bank, x: Array, t: Array, along: Array, chunk_size: int | None
) -> Array:
    """Returns the derivative of the exact velocity along `(along, 1)` in space and time."""
    bank, *_ = _bank.checked(path, bank, x, t)
    x, t = _checks.floating(x), _checks.time(t)

    def velocity(x: Array, t: Array) -> Array:
        return moments.velocity(path, bank, x, t, chunk_size=chunk_size)

    return jax.jvp(velocity, (x, t), (along.astype(x.dtype), jnp.ones_like(t)))[1]
