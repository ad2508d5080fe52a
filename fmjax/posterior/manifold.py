"""The dimension of the data around a point, from the posterior of the noise."""

from __future__ import annotations

import jax.numpy as jnp

from fmjax import _checks, divergence, predictions
from fmjax.paths import Path, coefficients
from fmjax.posterior.moments import trace
from fmjax.types import Array, Divergence, Velocity

__all__ = ["dimension"]


def dimension(
    velocity: Velocity,
    path: Path,
    x1: Array,
    t: Array,
    *,
    divergence: Divergence = divergence.exact,
) -> Array:
    """Computes the local intrinsic dimension of the data at a point.

    It is the mean energy of the noise, given that the noisy state is the point itself,

        E[|x0|^2 | x_t = alpha x1] = alpha^2 / sigma^2 U + |alpha x1 - alpha m|^2 / sigma^2,

    with U and m of `trace` and `mean`. Noise across the manifold of the data would have moved the
    state off it, so only the noise along it is left, one unit for each of its dimensions. The limit
    for small noise is the dimension; noise larger than the curvature or the gaps of the data
    measures a coarser one. For a law with a smooth density it is the number of FLIPD,
    `d + sigma^2 (laplacian log p + |grad log p|^2)`.

    Args:
      velocity: the field, `(x[*dims], t[]) -> [*dims]`.
      path: the path that it was trained on.
      x1: `[*dims]`, the point, in data units; noise is not added.
      t: `[]`, in (0, 1); sigma / alpha is the scale at which the data are looked at.
      divergence: any function of `fmjax.divergence`; an unbiased one makes the result unbiased.

    Returns:
      `[]`, between 0 and the number of entries for an exact velocity near the data.

    Raises:
      ValueError: if `t` is batched, or a static number outside (0, 1], or if the velocity is not
        shaped like x1.

    Example:
      >>> import fmjax
      >>> import jax.numpy as jnp
      >>> variance = jnp.array([4.0, 1.0, 0.0])  # a Gaussian in a plane
      >>> path = fmjax.paths.linear()
      >>> field = lambda x, t: (t * variance - (1 - t)) / (t**2 * variance + (1 - t) ** 2) * x
      >>> print(f"{fmjax.posterior.dimension(field, path, jnp.zeros(3), 0.99):.3f}")
      2.000

    Reference:
      Kamkari et al. (2024), A Geometric View of Data Complexity, arXiv 2406.03537, for the limit of
      the second form. [kamkari2024geometric]
    """
    _checks.functions(velocity=velocity, path=path, divergence=divergence)
    x1 = _checks.state(x1, "x1")
    x = coefficients(path, t).alpha * x1
    spread = trace(velocity, path, x, t, of=predictions.x0, divergence=divergence)
    change = _checks.at(velocity, t)(x)
    noise = predictions.convert(
        path, change, x, t, given=predictions.velocity, wanted=predictions.x0
    )
    return spread + jnp.sum(jnp.square(_checks.wide(noise)))
