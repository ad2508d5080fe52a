"""Two interleaving half circles, blurred by Gaussian noise, and their exact field along a path.

The nodes of the quadrature along both half circles are the means of a mixture of round Gaussians,
and so they are along a path.
"""

from __future__ import annotations

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from fmjax import _checks
from fmjax.toy.density import Density
from fmjax.toy.isotropic import isotropic_mixture
from fmjax.types import Array, Key

__all__ = ["moons"]


def moons(noise: float = 0.1) -> Density:
    """Makes two interleaving half circles of radius one, blurred by Gaussian noise.

    As in scikit-learn, the upper half circle is `(cos a, sin a)` and the lower one is
    `(1 - cos a, 1/2 - sin a)`, with a uniform on [0, pi]. The density integrates the noise along
    both by Gauss-Legendre quadrature, with `16 + 16 / noise` nodes for each. In float64 the
    log-density is accurate to 1e-8 nats for `|x| <= 5` and any allowed noise (to 1e-10 for noise
    of at least 0.1).

    Args:
      noise: standard deviation of the noise, at least 0.01.

    Returns:
      The law on the plane. Each call makes a new law, so build it once and close over it.

    Raises:
      ValueError: if `noise` is below 0.01 or not finite; from `log_prob`, if x is not `[2]`.

    Example:
      >>> import fmjax
      >>> import jax.numpy as jnp
      >>> density = fmjax.toy.moons()
      >>> top, between = jnp.array([0.0, 1.0]), jnp.array([0.5, 0.25])
      >>> [round(float(jnp.exp(density.log_prob(x))), 2) for x in (top, between)]
      [0.64, 0.0]

    Reference:
      Pedregosa et al. (2011), Scikit-learn, JMLR 12, `make_moons`. [pedregosa2011scikit]
    """
    if not 0.01 <= noise < math.inf:
        message = (
            f"noise must be finite and at least 0.01, got {noise}: the number of quadrature nodes "
            "of the density grows as 1 / noise."
        )
        raise ValueError(message)
    nodes, node_weights = np.polynomial.legendre.leggauss(16 + math.ceil(16.0 / noise))
    centers = np.concatenate(_points(0.5 * np.pi * (nodes + 1.0)))
    weights = 0.25 * np.concatenate([node_weights, node_weights])  # they sum to one

    _, _, *along_a_path = isotropic_mixture(weights, centers, np.full(len(weights), noise))
    log_prob = partial(_log_prob, noise, centers, weights)
    return Density(partial(_sample, noise), log_prob, *along_a_path)


def _sample(noise: float, key: Key) -> Array:
    key_moon, key_angle, key_noise = jax.random.split(key, 3)
    upper, lower = _points(jax.random.uniform(key_angle, maxval=math.pi))
    center = jnp.where(jax.random.bernoulli(key_moon), upper, lower)
    return center + noise * jax.random.normal(key_noise, (2,))


def _log_prob(noise: float, centers: np.ndarray, weights: np.ndarray, x: Array) -> Array:
    x = _checks.wide(x)
    _checks.same_shape(x=x, center=centers[0])
    distances = jnp.sum((x[None] - jnp.asarray(centers, x.dtype)) ** 2, axis=1)
    # The least one is taken out before the scaling: a difference of large products would
    # lose digits. It cancels, so it needs no derivative.
    least = jax.lax.stop_gradient(jnp.min(distances))
    exponents = -0.5 / noise**2 * (distances - least)
    integral = jnp.sum(jnp.asarray(weights, x.dtype) * jnp.exp(exponents))
    return jnp.log(integral) - 0.5 / noise**2 * least - math.log(2.0 * math.pi * noise**2)


def _points(angle: Array) -> tuple[Array, Array]:
    """Returns the points `[..., 2]` of both half circles at an angle `[...]` in [0, pi]."""
    library = jnp if isinstance(angle, jax.Array) else np
    upper = library.stack([library.cos(angle), library.sin(angle)], axis=-1)
    return upper, library.asarray([1.0, 0.5]) - upper
