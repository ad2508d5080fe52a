"""How the sample of a one-step model varies with its noise: `S = sigma_t^2 J J^T`.

Statement E6 of `fmjax.onestep`: `J = I + (1 - t) grad u(x, 1, t)` is the Jacobian of the map from t
to the data. Row i of `sigma_t J` tells how far each entry of the noise moves entry i of the sample,
per standard deviation. S is positive semi-definite for any network. The functions compute S, its
diagonal, its trace, or the diagonal from a few random probes,

    E[(sigma_t J z)_i^2] = S_ii,        E[z z^T] = I                              (1)

References:
  Xing, Wang and Wang (2026), Divergence is Uncertainty, arXiv 2605.00941, section 4.5.
  Hutchinson (1989), A stochastic estimator of the trace of the influence matrix.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from fmjax import _checks, _jacobian, samplers
from fmjax.estimators import Estimate
from fmjax.paths import Path
from fmjax.types import Array, AverageVelocity, Key

__all__ = ["sensitivity", "sensitivity_diagonal", "sensitivity_estimate", "sensitivity_trace"]


def sensitivity(
    average_velocity: AverageVelocity, path: Path, x: Array, t: Array | float = 0.0
) -> Array:
    """Computes `sigma_t^2 J J^T`, how the sample made from x varies with the noise in x, E6.

    For Gaussian data, and only there, it is the posterior covariance; see `fmjax.onestep`.

    Args:
      average_velocity: the model, `(x[*dims], r[], t[]) -> [*dims]`.
      path: the path that it was trained on.
      x: `[*dims]`, the state at t, noise if t = 0; d is its size, at most 4,096.
      t: `[]`, in [0, 1].

    Returns:
      `[d, d]`, symmetric and positive semi-definite for any network.

    Raises:
      ValueError: if d is above 4,096, if `t` is batched or a static number outside [0, 1], or
        if the average velocity is not shaped like `x`.

    Example:
      >>> import fmjax
      >>> import jax.numpy as jnp
      >>> path, double = fmjax.paths.linear(), lambda x, r, t: x  # carries x at t = 0 to 2 x
      >>> fmjax.onestep.sensitivity(double, path, jnp.array([1.0, -3.0])).tolist()
      [[4.0, 0.0], [0.0, 4.0]]

    Reference:
      First-order propagation of the noise through the flow map; E6, derived in
      `fmjax.onestep`; one-step models are section 4.5 of arXiv 2605.00941. [xing2026divergence]
    """
    _checks.functions(average_velocity=average_velocity, path=path)
    x, to_data, sigma = _map(average_velocity, path, x, t)
    _checks.dense(x, "take sensitivity_diagonal or sensitivity_estimate")
    jacobian = sigma * jax.jacfwd(to_data)(x).reshape(x.size, x.size)
    return jacobian @ jacobian.T


def sensitivity_diagonal(
    average_velocity: AverageVelocity,
    path: Path,
    x: Array,
    t: Array | float = 0.0,
    *,
    chunk_size: int = 16,
) -> Array:
    """Computes the diagonal of `sensitivity`, the squared norm of every row of `sigma_t J`.

    It is exact, by one tangent per entry of x. Its square root is a map in the unit of the data.

    Args:
      average_velocity: the model, `(x[*dims], r[], t[]) -> [*dims]`.
      path: the path that it was trained on.
      x: `[*dims]`, the state at t, noise if t = 0.
      t: `[]`, in [0, 1].
      chunk_size: number of tangents computed at once; memory grows with it, not with the dimension.

    Returns:
      `[*dims]`, not negative.

    Raises:
      ValueError: if `t` is batched or a static number outside [0, 1], if the average velocity
        is not shaped like `x`, or if `chunk_size` is not positive.

    Example:
      >>> import fmjax
      >>> import jax.numpy as jnp
      >>> to_sum = lambda x, r, t: x.sum() - x  # carries every entry to the sum of x, at t = 0
      >>> fmjax.onestep.sensitivity_diagonal(to_sum, fmjax.paths.linear(), jnp.zeros(3)).tolist()
      [3.0, 3.0, 3.0]

    Reference:
      Forward-mode differentiation along each unit vector; Griewank and Walther (2008), section
      3.1. [griewank2008evaluating]
    """
    _checks.functions(average_velocity=average_velocity, path=path)
    _checks.count("it counts tangents in flight", chunk_size=chunk_size)
    x, to_data, sigma = _map(average_velocity, path, x, t)
    value, tangent_map = jax.linearize(to_data, x)
    chunk = max(1, min(chunk_size, x.size))
    columns = jnp.arange(-(-x.size // chunk) * chunk).reshape(-1, chunk)

    def add(total: Array, indices: Array) -> tuple[Array, None]:
        # An index beyond the last entry makes a zero vector, which adds nothing.
        units = jax.nn.one_hot(indices, x.size, dtype=x.dtype)
        tangents = jax.vmap(tangent_map)(units.reshape(chunk, *x.shape))
        return total + jnp.sum(jnp.square(sigma * tangents), axis=0), None

    return jax.lax.scan(add, jnp.zeros_like(sigma * value), columns)[0]


def sensitivity_trace(
    average_velocity: AverageVelocity,
    path: Path,
    x: Array,
    t: Array | float = 0.0,
    *,
    chunk_size: int = 16,
) -> Array:
    """Computes the trace of `sensitivity`, the scalar `sigma_t^2 |J|_F^2`.

    Args:
      average_velocity: the model, `(x[*dims], r[], t[]) -> [*dims]`.
      path: the path that it was trained on.
      x: `[*dims]`, the state at t, noise if t = 0.
      t: `[]`, in [0, 1].
      chunk_size: number of tangents computed at once, as in `sensitivity_diagonal`.

    Returns:
      `[]`, not negative; heavy-tailed over x if the data have several modes.

    Raises:
      ValueError: as `sensitivity_diagonal`.

    Example:
      >>> import fmjax
      >>> import jax.numpy as jnp
      >>> path, double = fmjax.paths.linear(), lambda x, r, t: x  # carries x at t = 0 to 2 x
      >>> float(fmjax.onestep.sensitivity_trace(double, path, jnp.array([1.0, -3.0])))
      8.0

    Reference:
      E6, derived in `fmjax.onestep`; one-step models are section 4.5 of arXiv 2605.00941.
      [xing2026divergence]
    """
    _checks.functions(average_velocity=average_velocity, path=path)
    return sensitivity_diagonal(average_velocity, path, x, t, chunk_size=chunk_size).sum()


def sensitivity_estimate(
    key: Key,
    average_velocity: AverageVelocity,
    path: Path,
    x: Array,
    t: Array | float = 0.0,
    *,
    num_probes: int = 16,
) -> Estimate:
    """Estimates `sensitivity_diagonal` without bias from K random probes.

    It averages `(sigma_t J z)_i^2` over Rademacher probes z. One probe has the variance
    `2 ((S_ii)^2 - sigma_t^4 sum_j J_ij^4)`, which is below the variance of a Gaussian probe. The
    relative error of an entry is at most `sqrt(2 / K)` in any dimension d.

    Args:
      key: a typed PRNG key.
      average_velocity: the model, `(x[*dims], r[], t[]) -> [*dims]`.
      path: the path that it was trained on.
      x: `[*dims]`, the state at t, noise if t = 0.
      t: `[]`, in [0, 1].
      num_probes: K, at least 2; all are computed at once.

    Returns:
      Mean and standard error, both `[*dims]`; the sum of the means estimates the trace.

    Raises:
      ValueError: if `t` is batched or a static number outside [0, 1], if the average velocity
        is not shaped like `x`, or if `num_probes` is below 2.

    Example:
      >>> import fmjax
      >>> import jax
      >>> import jax.numpy as jnp
      >>> key, path, double = jax.random.key(0), fmjax.paths.linear(), lambda x, r, t: x
      >>> estimate = fmjax.onestep.sensitivity_estimate(key, double, path, jnp.ones(2))
      >>> estimate.mean.tolist(), estimate.standard_error.tolist()  # exact: J is diagonal
      ([4.0, 4.0], [0.0, 0.0])

    Reference:
      Hutchinson (1989), applied to each row of J. [hutchinson1989stochastic]
    """
    _checks.functions(average_velocity=average_velocity, path=path)
    _checks.count("one has no standard error", at_least=2, num_probes=num_probes)
    x, to_data, sigma = _map(average_velocity, path, x, t)
    _, tangent_map = jax.linearize(to_data, x)
    probes = jax.random.rademacher(key, (num_probes, *x.shape), x.dtype)
    squares = jnp.square(sigma * jax.vmap(tangent_map)(probes))
    return _jacobian.summary(squares)


def _map(
    average_velocity: AverageVelocity, path: Path, x: Array, t: Array | float
) -> tuple[Array, Callable[[Array], Array], Array]:
    """Returns x, the map from time t to the data, and the noise's size at t.

    All are of float32 at least: sums of squares stop growing in half precision.
    """
    t, x = _checks.wide(_checks.time(t)), _checks.wide(_checks.state(x))
    return x, lambda z: samplers.flow_map(average_velocity, z, 1.0, t), path.sigma(t)
