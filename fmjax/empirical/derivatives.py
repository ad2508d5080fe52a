"""How the exact velocity changes in space: eq. (3), (5) and (6) of `fmjax.empirical`."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from fmjax import _bank, _checks, _krylov
from fmjax._bank import Bank
from fmjax.empirical import moments
from fmjax.paths import Path
from fmjax.types import Array, Key

__all__ = ["covariance", "divergence", "jacobian", "lipschitz", "matvec"]


def covariance(path: Path, bank: Array | Bank, x: Array, t: Array) -> Array:
    """Computes the covariance of the data given the state, eq. (3).

    Args:
      path: the path.
      bank: `[n, *dims]`, the data set, or a `Bank`.
      x: `[*dims]`, the state; d is its size.
      t: `[]`, in [0, 1], with `sigma(t) > 0`.

    Returns:
      `[d, d]`, symmetric and positive semidefinite, of rank below n.

    Raises:
      ValueError: if the bank is empty, of integers, or its points are not shaped like `x`, if `t`
        is batched or a static number outside [0, 1], if sigma is not positive at a static t, or if
        d is above 4,096.

    Example:
      >>> import fmjax
      >>> import jax.numpy as jnp
      >>> path, bank, x = fmjax.paths.linear(), jnp.array([[-1.0], [1.0]]), jnp.array([0.25])
      >>> print(f"{fmjax.empirical.covariance(path, bank, x, 0.5)[0, 0]:.4f}")
      0.7864

    Reference:
      The law of x1 given x_t on a finite set; Bertrand et al. (2025), arXiv 2506.03719,
      section 2. [bertrand2025closed]
    """
    bank, *_ = _bank.checked(path, bank, x, t)
    _checks.dense(_checks.state(x), "empirical.matvec and lipschitz need no matrix")
    w = moments.weights(path, bank, x, t)
    flat = _bank.scaled(bank, bank.points).reshape(bank.points.shape[0], -1)
    centered = flat - _bank.average(w, flat)[None]
    return jnp.matmul((w[:, None] * centered).T, centered, precision=_bank.HIGHEST)


def jacobian(path: Path, bank: Array | Bank, x: Array, t: Array) -> Array:
    """Computes the Jacobian of the exact velocity in closed form, eq. (5).

    Args:
      path: the path.
      bank: `[n, *dims]`, the data set, or a `Bank`.
      x: `[*dims]`, the state; d is its size.
      t: `[]`, in [0, 1], with `sigma(t) > 0`.

    Returns:
      `[d, d]`, symmetric: the exact velocity is a gradient field.

    Raises:
      ValueError: as `covariance`.

    Example:
      >>> import fmjax
      >>> import jax.numpy as jnp
      >>> path, bank, x = fmjax.paths.linear(), jnp.array([[-1.0], [1.0]]), jnp.array([0.25])
      >>> print(f"{fmjax.empirical.jacobian(path, bank, x, 0.5)[0, 0]:.4f}")
      1.1458

    Reference:
      Differentiating eq. (6) of Bertrand et al. (2025), arXiv 2506.03719. [bertrand2025closed]
    """
    c, cov = _bank.coefficients(path, t), covariance(path, bank, x, t)
    identity = jnp.eye(len(cov), dtype=cov.dtype)
    return c.sigma_dot / c.sigma * identity + c.wronskian * c.alpha / c.sigma**3 * cov


def divergence(
    path: Path,
    bank: Array | Bank,
    x: Array,
    t: Array,
    *,
    chunk_size: int | None = None,
    axis_name: str | None = None,
) -> Array:
    """Computes the divergence of the exact velocity in closed form, eq. (6).

    Args:
      path: the path.
      bank: `[n, *dims]`, the data set, or a `Bank`.
      x: `[*dims]`, the state.
      t: `[]`, in [0, 1], with `sigma(t) > 0`.
      chunk_size: points of the bank in memory at a time; None takes the bank whole.
      axis_name: axis of a mesh over which the bank lies, inside `shard_map`; None for one device.

    Returns:
      `[]`, exact: no Jacobian is formed and no probe is drawn. In float32 the error is about
      `eps |b|^2 alpha / sigma^3` where several near points share the weight; `truncated` avoids it.

    Raises:
      ValueError: as `empirical.velocity`.

    Example:
      >>> import fmjax
      >>> import jax.numpy as jnp
      >>> path, bank, x = fmjax.paths.linear(), jnp.array([[-1.0], [1.0]]), jnp.array([0.25])
      >>> print(f"{fmjax.empirical.divergence(path, bank, x, 0.5):.4f}")
      1.1458

    Reference:
      The trace of eq. (5); compare arXiv 2506.03719, eq. (6). [bertrand2025closed]
    """
    return moments.law(path, bank, x, t, chunk_size=chunk_size, axis_name=axis_name).divergence


def matvec(
    path: Path,
    bank: Array | Bank,
    x: Array,
    t: Array,
    vector: Array,
    *,
    chunk_size: int | None = None,
    axis_name: str | None = None,
) -> Array:
    """Multiplies a vector by the posterior covariance (3) without forming the matrix.

    The Jacobian (5) times the vector is `sigma_dot / sigma` times the vector plus
    `D alpha / sigma^3` times this product.

    Args:
      path: the path.
      bank: `[n, *dims]`, the data set, or a `Bank`.
      x: `[*dims]`, the state.
      t: `[]`, in [0, 1], with `sigma(t) > 0`.
      vector: `[*dims]`.
      chunk_size: points of the bank in memory at a time; None takes the bank whole.
      axis_name: axis of a mesh over which the bank lies, inside `shard_map`; None for one device.

    Returns:
      `[*dims]`, `Cov[x1 | x_t = x] vector`.

    Raises:
      ValueError: if the bank is empty, of integers, or its points are not shaped like `x`, if the
        vector is not, if `chunk_size` is not positive, if `t` is batched or a static number outside
        [0, 1], or if sigma is not positive at a static t.

    Example:
      >>> import fmjax
      >>> import jax.numpy as jnp
      >>> path, bank, x = fmjax.paths.linear(), jnp.array([[-1.0], [1.0]]), jnp.array([0.25])
      >>> print(f"{fmjax.empirical.matvec(path, bank, x, 0.5, jnp.array([2.0]))[0]:.4f}")
      1.5729

    Reference:
      Differentiating eq. (6) of Bertrand et al. (2025), arXiv 2506.03719. [bertrand2025closed]
    """
    _checks.same_shape(x=x, vector=vector)
    given = bank, x
    bank, x, c = _bank.checked(path, bank, x, t)
    dtype = jnp.result_type(_bank.result_type(*given), vector)
    # By the state times alpha the mean changes as C / sigma^2, which is finite at alpha = 0 too.
    mean = lambda y: _bank.tilted(c, bank, x, y, chunk_size, axis_name).mean  # noqa: E731
    wide = jnp.result_type(bank.half_squares, x, vector)  # `jvp` wants one
    y, direction = (c.alpha * x).astype(wide), (c.sigma**2 * vector).astype(wide)
    return jax.jvp(mean, (y,), (direction,))[1].astype(dtype)


def _products(
    path: Path, bank: Array | Bank, x: Array, t: Array, chunk_size: int | None
) -> Callable[[Array], Array]:
    """Returns products with the covariance (3), the weights of the bank being found once."""
    bank, *_ = _bank.checked(path, bank, x, t)
    w = moments.weights(path, bank, x, t, chunk_size=chunk_size)

    def product(vector: Array) -> Array:
        along = _bank.along(bank, vector, chunk_size)
        # Of the same numbers as `along`, so that the difference vanishes where one point has all.
        centered = along - jnp.sum(w * along)
        return _bank.weighted_sum(bank, w * centered, chunk_size).astype(vector.dtype)

    return product


def lipschitz(
    key: Key,
    path: Path,
    bank: Array | Bank,
    x: Array,
    t: Array,
    *,
    num_matvecs: int = 32,
    chunk_size: int | None = None,
) -> Array:
    """Estimates the local Lipschitz constant of the exact velocity, the spectral norm of (5).

    The Jacobian is symmetric. Its eigenvalues are `sigma_dot / sigma + D alpha / sigma^3 mu_k`,
    with mu_k the eigenvalues of the covariance (3). The least possible one, `sigma_dot / sigma`,
    belongs to a direction without spread. The constant peaks early, where two groups of the data
    separate.

    Args:
      key: for the first vector of the Krylov space in which the extreme mu_k are sought.
      path: the path.
      bank: `[n, *dims]`, the data set, or a `Bank`.
      x: `[*dims]`, the state; d is its size.
      t: `[]`, in [0, 1], with `sigma(t) > 0`.
      num_matvecs: dimension of the Krylov space, positive; exact from d on. It takes twice as many
        products with the covariance, each of two products with the bank.
      chunk_size: points of the bank in memory at a time; None takes the bank whole.

    Returns:
      `[]`, per unit of time. The estimate lies inside the spectrum, so the truth is at least as
      large.

    Raises:
      ValueError: if `num_matvecs` is not positive; otherwise as `matvec`.

    Example:
      >>> import fmjax
      >>> import jax
      >>> import jax.numpy as jnp
      >>> path, bank, x = fmjax.paths.linear(), jnp.array([[-1.0], [1.0]]), jnp.array([0.25])
      >>> print(f"{fmjax.empirical.lipschitz(jax.random.key(0), path, bank, x, 0.5):.4f}")
      1.1458

    Reference:
      The spectrum of eq. (5); its early peak: Gagneux et al. (2025), arXiv 2510.24830.
      [bertrand2025closed; gagneux2025generation]
    """
    c, x = _bank.coefficients(path, t), _checks.wide(_checks.state(x))
    product = _products(path, bank, x, t, chunk_size)
    values, *_ = _krylov.ritz(key, product, x, num_matvecs)
    ends = c.sigma_dot / c.sigma + c.wronskian * c.alpha / c.sigma**3 * values[jnp.array([0, -1])]
    return jnp.max(jnp.abs(ends))
