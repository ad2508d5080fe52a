"""Laws whose dimension is known, with draws and with their exact velocity.

A Gaussian in a subspace: with `x1 = R (s * z)`, R orthonormal columns, z ~ N(0, I), the mean of the
data given the state is Wiener's filter,

    m(x, t) = R (alpha s^2 / (alpha^2 s^2 + sigma^2) * R^T x)                              (1)

A sphere of radius r in a subspace of three dimensions: given the state, the direction of x1 has
the law of von Mises and Fisher around `y = R^T x`, with `k = alpha r |y| / sigma^2`, so

    m(x, t) = r (coth k - 1 / k) R y / |y|                                                 (2)

Reference:
  Mardia and Jupp (2000), Directional Statistics, section 9.3, for the mean of (2).
"""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

import fmjax
from experiments.images import training
from fmjax.types import Array, PyTree

path = training.path
AMBIENT = 10  # dimensions around both laws
SCALES = np.array([1.5, 1.0, 0.5])  # standard deviations of the Gaussian
RADIUS = 1.0


class Law(NamedTuple):
    """A law on a manifold.

    Attributes:
      title: for the tables and figures.
      dimension: of the manifold.
      draw: `(rng, n) -> points`, float32 `[n, AMBIENT]`.
      apply: `(params, x, t) -> dx`, the velocity of the law itself.
      params: the columns of R, `[AMBIENT, 3]`.
    """

    title: str
    dimension: int
    draw: Callable[[np.random.Generator, int], np.ndarray]
    apply: Callable[[PyTree, Array, Array], Array]
    params: Array


def _columns(seed: int) -> np.ndarray:
    """Returns three orthonormal columns that lie along no axis, `[AMBIENT, 3]`."""
    square = np.random.default_rng(seed).normal(size=(AMBIENT, AMBIENT))
    return np.linalg.qr(square)[0][:, :3]


def _filtered(columns: Array, x: Array, t: Array) -> Array:
    """Computes the velocity of the Gaussian, by eq. (1)."""

    def mean(x: Array, t: Array) -> Array:
        alpha, sigma = path.alpha(t), path.sigma(t)
        share = alpha * SCALES**2 / (alpha**2 * SCALES**2 + sigma**2)
        return columns @ (share.astype(x.dtype) * (columns.T @ x))

    return fmjax.predictions.as_velocity(mean, path, given=fmjax.predictions.x1)(x, t)


def _round(columns: Array, x: Array, t: Array) -> Array:
    """Computes the velocity of the sphere, by eq. (2)."""

    def mean(x: Array, t: Array) -> Array:
        along = columns.T @ x
        length = jnp.linalg.norm(along)
        k = path.alpha(t) * RADIUS * length / path.sigma(t) ** 2
        return RADIUS * (1 / jnp.tanh(k) - 1 / k) * (columns @ along) / length

    return fmjax.predictions.as_velocity(mean, path, given=fmjax.predictions.x1)(x, t)


def laws(seed: int) -> dict[str, Law]:
    """Returns the laws by their names.

    Args:
      seed: of the subspaces.
    """
    flat, curved = (_columns(place) for place in (seed, seed + 1))

    def gaussian(rng: np.random.Generator, n: int) -> np.ndarray:
        return np.float32(rng.normal(size=(n, 3)) * SCALES @ flat.T)

    def sphere(rng: np.random.Generator, n: int) -> np.ndarray:
        z = rng.normal(size=(n, 3))
        return np.float32(RADIUS * z / np.linalg.norm(z, axis=1, keepdims=True) @ curved.T)

    return {
        "gaussian": Law("Gaussian of rank 3", 3, gaussian, _filtered, jnp.asarray(flat)),
        "sphere": Law("sphere, a surface", 2, sphere, _round, jnp.asarray(curved)),
    }
