"""Linear measurements of images, and the velocities that each method makes of them.

Given the state, the law of the data has a mean m and a covariance C, and the velocity given
`y = A x1 + e`, e ~ N(0, s^2 I), is `v + D / sigma (m_y - m)` with (`fmjax.events.given_linear`)

    m_y - m = C A^T (A C A^T + s^2 I)^-1 (y - A m).                                        (1)

The usual substitute takes in the place of C the multiple of the identity that C would be for data
of independent entries of variance v,

    C = r^2 I,    r^2 = v sigma^2 / (alpha^2 v + sigma^2),                                 (2)

in both places, or only inside the inverse, where the first C is a product with the Jacobian and
costs no more than a gradient.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import fmjax
from fmjax.paths import Path
from fmjax.types import Array, Velocity

NAMES = ("denoising", "inpainting", "superresolution")


class Problem(NamedTuple):
    """How images are measured.

    Attributes:
      title: for the tables and figures.
      matrix: A, `[m, d]`.
      noise_std: s, of every entry of y.
    """

    title: str
    matrix: np.ndarray
    noise_std: float


def problems(
    shape: tuple[int, int, int], *, much_noise: float, little_noise: float
) -> dict[str, Problem]:
    """Returns the problems by their `NAMES`.

    Args:
      shape: of an image `[h, w, c]`.
      much_noise: s of denoising.
      little_noise: s of the others.
    """
    every = np.eye(int(np.prod(shape))).reshape(-1, *shape)  # an image for each pixel
    h, w = shape[0] // 2, shape[1] // 2
    blocks = every[:, : 2 * h, : 2 * w].reshape(-1, h, 2, w, 2, shape[2]).mean(axis=(2, 4))
    seen = every[:, :h]
    rows = lambda images: images.reshape(len(every), -1).T  # noqa: E731
    measured = zip(NAMES, (every, seen, blocks), (much_noise, *[little_noise] * 2), strict=True)
    return {name: Problem(name, rows(images), noise) for name, images, noise in measured}


SMALLEST_T = 0.01  # below it the pull of this time is kept
Guide = Callable[[Problem, Array, Velocity, Path, float], Velocity]
"""`(problem, y, velocity, path, variance) -> velocity`, given y."""


def exact(problem: Problem, y: Array, velocity: Velocity, path: Path, variance: float) -> Velocity:  # noqa: ARG001
    """Returns the velocity given y by the covariance itself, eq. (1)."""
    matrix = jnp.asarray(problem.matrix, y.dtype)
    return fmjax.events.given_linear(
        lambda x1: matrix @ x1,
        y,
        velocity,
        path,
        noise_std=problem.noise_std,
        smallest_t=SMALLEST_T,
        jitter=0.0,
    )


def inside(problem: Problem, y: Array, velocity: Velocity, path: Path, variance: float) -> Velocity:
    """Returns the velocity given y by the covariance outside the inverse and eq. (2) inside."""

    def field(x: Array, t: Array) -> Array:
        held = jnp.maximum(t, SMALLEST_T)  # C is 0 / 0 at t = 0
        mean, back = jax.vjp(lambda z: fmjax.posterior.mean(velocity, path, z, held), x)
        (change,) = back(_pull(problem, y, mean, path, variance, held))  # alpha / sigma^2 C
        c = fmjax.paths.coefficients(path, t)
        return velocity(x, t) + c.wronskian * c.sigma / path.alpha(held) * change

    return field


def identity(
    problem: Problem, y: Array, velocity: Velocity, path: Path, variance: float
) -> Velocity:
    """Returns the velocity given y by a multiple of the identity in the place of C, eq. (2)."""

    def field(x: Array, t: Array) -> Array:
        c = fmjax.paths.coefficients(path, t)
        mean = fmjax.posterior.mean(velocity, path, x, t)
        share = variance * c.sigma / (c.alpha**2 * variance + c.sigma**2)  # r^2 / sigma
        change = _pull(problem, y, mean, path, variance, t)
        return velocity(x, t) + c.wronskian * share * change

    return field


def _pull(problem: Problem, y: Array, mean: Array, path: Path, variance: float, t: Array) -> Array:
    """Returns A^T (r^2 A A^T + s^2 I)^-1 (y - A m), with r of eq. (2)."""
    matrix = jnp.asarray(problem.matrix, y.dtype)
    alpha, sigma = path.alpha(t), path.sigma(t)
    square = variance * sigma**2 / (alpha**2 * variance + sigma**2)
    noise = problem.noise_std**2 * jnp.eye(len(matrix), dtype=y.dtype)
    return matrix.T @ jnp.linalg.solve(square * matrix @ matrix.T + noise, y - matrix @ mean)


def none(problem: Problem, y: Array, velocity: Velocity, path: Path, variance: float) -> Velocity:  # noqa: ARG001
    """Returns the velocity as it is: draws that know nothing of y."""
    return velocity


GUIDES: dict[str, Guide] = {
    "exact": exact,
    "inside": inside,
    "identity": identity,
    "none": none,
}
