"""The directions in which the data are uncertain: principal components of the posterior.

The posterior covariance of an image has hundreds of thousands of entries. A few eigenvectors
describe most of it: whether a stroke is there, how far it reaches. Lanczos' method finds the
largest eigenpairs from products alone, each one tangent and one cotangent of the velocity. It takes
m products to make an m-dimensional Krylov space, and m more to restrict the covariance to it. The
eigenpairs of the restriction are returned. With `C v_i = lambda_i v_i`,

    m +- c sqrt(lambda_i) v_i                                                              (8)

moves along one direction, and `m + sum_i z_i sqrt(lambda_i) v_i` with z ~ N(0, I) is a sample of
the Gaussian with these moments. The posterior itself need not be Gaussian:
`samplers.memoryless_sde` draws from it.

References:
  Manor and Michaeli (2024), On the Posterior Distribution in Denoising, arXiv 2309.13598.
  Lanczos (1950), Journal of Research of the National Bureau of Standards 45(4).
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from fmjax import _checks, _krylov, predictions
from fmjax.paths import Path
from fmjax.posterior import _operator
from fmjax.posterior._operator import Linear, white
from fmjax.predictions import Prediction
from fmjax.types import Array, Key, Velocity

__all__ = ["Components", "extremes", "principal_components", "sample", "traverse"]


class Components(NamedTuple):
    """Principal components of a posterior, largest first.

    Attributes:
      variances: `[k]`, eigenvalues of the covariance; a learned one may have negative ones.
      directions: `[k, *dims]`, the eigenvectors, orthonormal.
      residuals: `[k]`, `|C v - lambda v|`: each variance is within its residual of an exact
        eigenvalue. Where it is not small, take more products.
    """

    variances: Array
    directions: Array
    residuals: Array


def principal_components(
    key: Key,
    velocity: Velocity,
    path: Path,
    x: Array,
    t: Array,
    *,
    num_components: int = 5,
    num_matvecs: int = 32,
    of: Prediction = predictions.x1,
    noise: Linear = white,
) -> Components:
    """Finds the largest principal components of the posterior covariance, without a matrix.

    The variances have first derivatives, in forward and reverse mode, which are right if the
    variances are distinct and the residuals small. A repeated eigenvalue has no derivative; the
    number returned for it means nothing. Directions and residuals are constants to a derivative. A
    state of half precision is converted to float32, and the velocity gets it so: half precision
    has no linear algebra.

    Args:
      key: for the first vector of the Krylov space; the result depends on it only within
        `residuals`.
      velocity: the field, `(x[*dims], t[]) -> [*dims]`.
      path: the path that it was trained on.
      x: `[*dims]`, the state; d is its size.
      t: `[]`, in (0, 1]; see `fmjax.posterior` for small t.
      num_components: k, at most d.
      num_matvecs: dimension of the Krylov space, at least k, cut to d. It takes twice as many
        products.
      of: what the covariance is of, eq. (6).
      noise: the covariance of the noise, `w[*dims] -> [*dims]`.

    Returns:
      Variances, directions and residuals.

    Raises:
      ValueError: if `num_components` is not in 1 ... min(d, num_matvecs), if `t` is batched or a
        static number outside (0, 1], or if the velocity is not shaped like `x`.

    Example:
      >>> import fmjax
      >>> import jax
      >>> import jax.numpy as jnp
      >>> key, path, prior = jax.random.key(0), fmjax.paths.linear(), jnp.array([4.0, 1.0])
      >>> field = lambda x, t: (t * prior - (1 - t)) / (t**2 * prior + (1 - t) ** 2) * x
      >>> found = fmjax.posterior.principal_components(
      ...     key, field, path, jnp.ones(2), 0.5, num_components=1
      ... )
      >>> print(f"{found.variances[0]:.3f}")
      0.800

    Reference:
      Manor and Michaeli (2024), arXiv 2309.13598, section 4; Kraemer et al. (2024), arXiv
      2405.17277. [manor2024posterior; kraemer2024gradients]
    """
    _checks.functions(velocity=velocity, path=path, of=of, noise=noise)
    x, t = _wide(_checks.state(x), t)
    _checks.count("they count vectors", num_components=num_components, num_matvecs=num_matvecs)
    if not 1 <= num_components <= min(x.size, num_matvecs):
        message = (
            f"num_components must be between 1 and {min(x.size, num_matvecs)}, got "
            f"{num_components}: x has {x.size} entries and the Krylov space {num_matvecs} "
            "dimensions (num_matvecs)."
        )
        raise ValueError(message)
    product = _operator.symmetric(_operator.field(velocity, path, x, t, of, noise), x)
    found = _krylov.ritz(key, product, x, num_matvecs)
    return Components(*(part[::-1][:num_components] for part in found))


def _wide(x: Array, t: Array | float) -> tuple[Array, Array | float]:
    """Returns state and time in float32 at least; a number stays one, whose value is checked."""
    return _checks.wide(x), _checks.wide(_checks.time(t)) if isinstance(t, jax.Array) else t


def traverse(mean: Array, components: Components, amount: Array) -> Array:
    """Moves the mean along every component, `m + c sqrt(lambda_i) v_i`, eq. (8).

    Args:
      mean: `[*dims]`, the posterior mean.
      components: k principal components of the same posterior.
      amount: `[]`, c, in standard deviations; negative for the opposite direction.

    Returns:
      `[k, *dims]`; along a component of negative variance the mean does not move.

    Raises:
      ValueError: if the directions are not shaped like the mean, or `amount` is no scalar.

    Example:
      >>> import fmjax
      >>> import jax.numpy as jnp
      >>> variances, directions = jnp.array([4.0]), jnp.array([[0.0, 1.0]])
      >>> components = fmjax.posterior.Components(variances, directions, jnp.zeros(1))
      >>> fmjax.posterior.traverse(jnp.ones(2), components, -0.5).tolist()
      [[1.0, 0.0]]

    Reference:
      Manor and Michaeli (2024), arXiv 2309.13598, section 4. [manor2024posterior]
    """
    mean, amount = _checks.floating(mean), jnp.asarray(amount)
    if amount.ndim:
        message = (
            f"amount must be a scalar, got shape {amount.shape}: for several amounts wrap the call "
            "in jax.vmap."
        )
        raise ValueError(message)
    return mean[None] + amount * _scaled(mean, components)


def sample(key: Key, mean: Array, components: Components) -> Array:
    """Draws a sample of the Gaussian with this mean and these components.

    Args:
      key: PRNG key.
      mean: `[*dims]`, the posterior mean.
      components: k principal components of the same posterior; the sample has no spread in other
        directions.

    Returns:
      `[*dims]`, `m + sum_i z_i sqrt(lambda_i) v_i` with z_i ~ N(0, 1).

    Raises:
      ValueError: if the directions are not shaped like the mean.

    Example:
      >>> import fmjax
      >>> import jax
      >>> import jax.numpy as jnp
      >>> variances, directions = jnp.array([4.0]), jnp.array([[0.0, 1.0]])
      >>> components = fmjax.posterior.Components(variances, directions, jnp.zeros(1))
      >>> x, y = fmjax.posterior.sample(jax.random.key(0), jnp.ones(2), components)
      >>> print(f"{x:.2f}, {y:.2f}")  # 1 + 2 z in the second entry
      1.00, 4.25

    Reference:
      Manor and Michaeli (2024), arXiv 2309.13598, section 4. [manor2024posterior]
    """
    mean = _checks.floating(mean)
    scaled = _scaled(mean, components)
    z = jax.random.normal(key, scaled.shape[:1], scaled.dtype)
    return mean + jnp.tensordot(z, scaled, axes=1)


def _scaled(mean: Array, components: Components) -> Array:
    """Returns `sqrt(lambda_i) v_i`, `[k, *dims]`; zero where an eigenvalue is negative."""
    _checks.same_shape(mean=mean, direction=components.directions[0])
    # The root has no derivative at zero; a NaN is not below it and stays.
    none = components.variances <= 0
    deviations = jnp.where(none, 0.0, jnp.sqrt(jnp.where(none, 1.0, components.variances)))
    return deviations.reshape(-1, *(1,) * jnp.ndim(mean)) * components.directions


def extremes(
    key: Key,
    velocity: Velocity,
    path: Path,
    x: Array,
    t: Array,
    *,
    num_matvecs: int = 32,
    of: Prediction = predictions.x1,
    noise: Linear = white,
) -> tuple[Array, Array]:
    """Estimates the least and the greatest eigenvalue of the covariance.

    The exact covariance has no negative eigenvalue. A learned covariance has some, mostly near the
    noise end. If `-least / greatest` is small, its trace, its map and its largest components are
    meaningful.

    Args:
      key: for the first vector of the Krylov space.
      velocity: the field, `(x[*dims], t[]) -> [*dims]`.
      path: the path that it was trained on.
      x: `[*dims]`, the state; d is its size.
      t: `[]`, in (0, 1]; see `fmjax.posterior` for small t.
      num_matvecs: dimension of the Krylov space, positive, cut to d.
      of: what the covariance is of, eq. (6).
      noise: the covariance of the noise, `w[*dims] -> [*dims]`.

    Returns:
      Two scalars `(least, greatest)`. Both lie inside the spectrum, so the true extremes are at
      least as far out.

    Raises:
      ValueError: if `num_matvecs` is not positive, if `t` is batched or a static number outside
        (0, 1], or if the velocity is not shaped like `x`.

    Example:
      >>> import fmjax
      >>> import jax
      >>> import jax.numpy as jnp
      >>> key, path, prior = jax.random.key(0), fmjax.paths.linear(), jnp.array([4.0, 1.0])
      >>> field = lambda x, t: (t * prior - (1 - t)) / (t**2 * prior + (1 - t) ** 2) * x
      >>> least, greatest = fmjax.posterior.extremes(key, field, path, jnp.ones(2), 0.5)
      >>> print(f"{least:.3f}, {greatest:.3f}")
      0.500, 0.800

    Reference:
      Kraemer et al. (2024), arXiv 2405.17277. [kraemer2024gradients]
    """
    _checks.functions(velocity=velocity, path=path, of=of, noise=noise)
    x, t = _wide(_checks.state(x), t)
    product = _operator.symmetric(_operator.field(velocity, path, x, t, of, noise), x)
    values, *_ = _krylov.ritz(key, product, x, num_matvecs)
    return values[0], values[-1]
