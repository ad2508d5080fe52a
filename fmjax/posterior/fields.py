"""Checks before a posterior is trusted: the units of a field, and how far it is from a gradient.

Networks are usually trained on scaled data, `y = (x1 - shift) / scale`. In the units of the data
the state is `alpha x1 + sigma scale x0`, so the noise has the covariance `diag(scale)^2`. Every
function of `fmjax.posterior` takes this field with this noise.

The exact velocity is the gradient of a scalar, `v = a(t) x + b(t) grad log p_t`, so its Jacobian is
symmetric. The Jacobian of a network is not. The covariance does not use the antisymmetric part,
which measures how wrong the Jacobian is:

    asymmetry = |J - J^T|_F / |J + J^T|_F                                                 (10)

(`fmjax.strain.norms` gives the sizes of both parts.)

References:
  Xing et al. (2026), Divergence is Uncertainty, arXiv 2605.00941.
"""

from __future__ import annotations

import jax.numpy as jnp

from fmjax import _checks, _jacobian, paths
from fmjax.paths import Path
from fmjax.posterior._operator import Linear, white
from fmjax.types import Array, Key, Velocity

__all__ = ["asymmetry", "in_data_units"]


def in_data_units(
    velocity: Velocity,
    path: Path,
    *,
    scale: Array | float,
    shift: Array | float = 0.0,
    noise: Linear = white,
) -> tuple[Velocity, Linear]:
    """Converts a network's velocity to the units of the data, with the covariance of its noise.

    The network was trained on `y = (x1 - shift) / scale`. Use both results:

        field, noise = in_data_units(velocity, path, scale=127.5, shift=127.5)
        posterior.diagonal(field, path, x, t, noise=noise)      # variances of pixels 0 ... 255

    where the state is in data units too, `x = alpha(t) x1 + sigma(t) scale x0`; a state y of the
    network is `x = scale y + alpha(t) shift`. The noise of this field is not white, and
    `memoryless_sde` and `near_noise` need white noise. So sample with the network itself and
    rescale its samples. Give `likelihood.log_prob` the density of the scaled noise as `log_prob0`.

    Args:
      velocity: the field of the network, `(y[*dims], t[]) -> [*dims]`.
      path: the path that it was trained on.
      scale: `[]` or an array that broadcasts against `[*dims]`, one per channel; not zero.
      shift: likewise, subtracted before scaling.
      noise: the covariance of the network's own noise, `w[*dims] -> [*dims]`.

    Returns:
      The velocity `(x[*dims], t[]) -> [*dims]`, and the covariance of its noise.

    Raises:
      ValueError: if `scale` or `shift` does not fit the state without widening it.

    Example:
      >>> import fmjax
      >>> import jax.numpy as jnp
      >>> gaussian = lambda x, t: (2 * t - 1) / (t**2 + (1 - t) ** 2) * x  # N(0, I) to N(0, I)
      >>> path = fmjax.paths.linear()
      >>> field, noise = fmjax.posterior.in_data_units(gaussian, path, scale=10.0, shift=3.0)
      >>> float(fmjax.posterior.trace(field, path, jnp.ones(2), 0.5, noise=noise))
      100.0

    Reference:
      Xing et al. (2026), arXiv 2605.00941, a change of variables in its identity.
      [xing2026divergence]
    """
    _checks.functions(velocity=velocity, path=path, noise=noise)

    def field(x: Array, t: Array) -> Array:
        x = _checks.floating(x)
        size, offset = _like(x, scale, "scale"), _like(x, shift, "shift")
        c = paths.coefficients(path, t)
        value = _checks.at(velocity, t)((x - c.alpha * offset) / size)
        return size * value + c.alpha_dot * offset

    def covariance(vector: Array) -> Array:
        size = _like(vector, scale, "scale")
        return size * noise(size * vector)

    return field, covariance


def asymmetry(key: Key, velocity: Velocity, x: Array, t: Array, *, num_probes: int = 16) -> Array:
    """Measures how far the velocity is from a gradient field at one state, eq. (10).

    It is zero for an exact velocity with white noise, but not for a field in data units whose scale
    differs between entries. A small trained network has about 0.1.

    Args:
      key: for the random probes.
      velocity: the field, `(x[*dims], t[]) -> [*dims]`.
      x: `[*dims]`, the state; d is its size.
      t: `[]`, in [0, 1].
      num_probes: number of random sign vectors, from which both norms are estimated by
        `E|M z|^2 = |M|_F^2`. From d on all unit vectors are taken, and the result is exact.

    Returns:
      `[]`, not negative. Above one the antisymmetric part is larger than the symmetric part.

    Raises:
      ValueError: if `num_probes` is not positive, if `t` is batched or a static number outside
        [0, 1], or if the velocity is not shaped like `x`.

    Example:
      >>> import fmjax
      >>> import jax
      >>> import jax.numpy as jnp
      >>> key, turn = jax.random.key(0), jnp.array([[1.0, -0.5], [0.5, 1.0]])
      >>> value = fmjax.posterior.asymmetry(key, lambda x, t: turn @ x, jnp.ones(2), 0.5)
      >>> print(f"{value:.3f}")
      0.500

    Reference:
      Hutchinson (1989), Communications in Statistics 18(3), for the norms.
      [hutchinson1989stochastic]
    """
    _checks.functions(velocity=velocity)
    t = _checks.time(t)
    even, odd = _jacobian.parts(
        key, lambda z: velocity(z, t), _checks.state(x), num_probes, "velocity"
    )
    # A zero Jacobian is symmetric.
    return _jacobian.root(odd / jnp.where(odd == 0, 1.0, even))


def _like(x: Array, value: Array | float, name: str) -> Array:
    """Returns a constant as an array of the shape and dtype of x, or says that it does not fit."""
    value = jnp.asarray(value, x.dtype)
    try:
        return jnp.broadcast_to(value, x.shape)
    except ValueError as error:
        message = (
            f"{name} must broadcast against the state of shape {x.shape}, got shape {value.shape}: "
            "give one number, or one per channel shaped like the state's last axis."
        )
        raise ValueError(message) from error
