"""Laws of images whose velocity and whose posterior given a linear measurement are closed forms.

The law is a mixture of n Gaussians of equal weight and of one covariance S around the centers b_i:
for n = 1 a Gaussian, for `S = h^2 I` and training images as centers their kernel density. Along
`x_t = alpha x1 + sigma x0`, with `T = alpha^2 S + sigma^2 I`,

    w_i = softmax_i( -(x - alpha b_i)^T T^-1 (x - alpha b_i) / 2 )                         (1)
    E[x0 | x_t = x] = sigma T^-1 (x - alpha sum_i w_i b_i)                                  (2)
    E[x1 | x_t = x] = sum_i w_i b_i + alpha S T^-1 (x - alpha sum_i w_i b_i)                (3)

and the velocity is `alpha_dot (3) + sigma_dot (2)`, finite at t = 1 too. Given the measurement
`y = A x1 + e`, e ~ N(0, s^2 I), the law of x1 is again such a mixture: with
`K = S A^T (A S A^T + s^2 I)^-1`

    weights      softmax_i( -(y - A b_i)^T (A S A^T + s^2 I)^-1 (y - A b_i) / 2 )           (4)
    centers      b_i + K (y - A b_i),     covariance  S - K A S                             (5)
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy import special

import fmjax
from experiments.images import training
from experiments.uncertainty._measurements.problems import Problem
from fmjax.types import Array, PyTree

path = training.path


class Law(NamedTuple):
    """A mixture of Gaussians of one covariance.

    Attributes:
      title: for the tables and figures.
      centers: float64 `[n, d]`.
      covariance: `[d, d]`, S.
    """

    title: str
    centers: np.ndarray
    covariance: np.ndarray


class Posterior(NamedTuple):
    """The law of the data given a measurement.

    Attributes:
      weights: `[n]`, eq. (4).
      centers: `[n, d]`, eq. (5).
      covariance: `[d, d]`, of every one of them.
    """

    weights: np.ndarray
    centers: np.ndarray
    covariance: np.ndarray


def laws(x: np.ndarray, *, num_centers: int, width: float) -> dict[str, Law]:
    """Returns the Gaussian of the moments of images, and the kernel density of some of them.

    Args:
      x: `[n, d]`, images.
      num_centers: of the kernel density.
      width: h, the standard deviation of the smoothing noise, of both laws.
    """
    x, smooth = np.float64(x), width**2 * np.eye(x.shape[1])
    moments = np.cov(x.T) + smooth
    return {
        "gaussian": Law("Gaussian", x.mean(axis=0, keepdims=True), moments),
        "images": Law(f"{num_centers} images, smoothed", x[:num_centers], smooth),
    }


def parameters(law: Law) -> PyTree:
    """Returns what `velocity` takes: the centers in the coordinates of S, its values and axes."""
    values, axes = np.linalg.eigh(law.covariance)
    return jax.tree.map(
        jnp.asarray, (np.float32(law.centers @ axes), *map(np.float32, (values, axes)))
    )


def velocity(params: PyTree, x: Array, t: Array) -> Array:
    """Computes the exact velocity of a law, eqs. (1) to (3).

    Args:
      params: from `parameters`.
      x: `[d]`.
      t: `[]`, in [0, 1].
    """
    centers, values, axes = params
    c = fmjax.paths.coefficients(path, t)
    total = c.alpha**2 * values + c.sigma**2
    state = jnp.dot(x, axes, precision="highest")
    gaps = state[None] - c.alpha * centers
    weights = jax.nn.softmax(-0.5 * jnp.sum(gaps**2 / total[None], axis=1))
    center = jnp.dot(weights, centers, precision="highest")
    rest = (state - c.alpha * center) / total
    moved = c.alpha_dot * (center + c.alpha * values * rest) + c.sigma_dot * c.sigma * rest
    return jnp.dot(axes, moved, precision="highest")


def draw(law: Law, rng: np.random.Generator, count: int) -> np.ndarray:
    """Returns draws of a law, `[count, d]`."""
    chosen = rng.integers(len(law.centers), size=count)
    return law.centers[chosen] + _normal(rng, law.covariance, count)


def posterior(law: Law, problem: Problem, y: np.ndarray) -> Posterior:
    """Returns the law of the data given a measurement, eqs. (4) and (5).

    Args:
      law: of the data.
      problem: how it is measured.
      y: `[m]`.
    """
    a, s = problem.matrix, law.covariance
    inside = np.linalg.inv(a @ s @ a.T + problem.noise_std**2 * np.eye(len(a)))
    gaps, gain = y - law.centers @ a.T, s @ a.T @ inside
    weights = special.softmax(-0.5 * np.einsum("ni,ij,nj->n", gaps, inside, gaps))
    covariance = s - gain @ a @ s
    return Posterior(weights, law.centers + gaps @ gain.T, (covariance + covariance.T) / 2)


def moments(found: Posterior) -> tuple[np.ndarray, np.ndarray]:
    """Returns the mean `[d]` and the variances `[d]` of a posterior."""
    mean = found.weights @ found.centers
    spread = found.weights @ (found.centers - mean) ** 2
    return mean, spread + np.diag(found.covariance)


def sample(found: Posterior, rng: np.random.Generator, count: int) -> np.ndarray:
    """Returns draws of a posterior, `[count, d]`."""
    chosen = rng.choice(len(found.weights), size=count, p=found.weights)
    return found.centers[chosen] + _normal(rng, found.covariance, count)


def _normal(rng: np.random.Generator, covariance: np.ndarray, count: int) -> np.ndarray:
    values, axes = np.linalg.eigh(covariance)
    return rng.normal(size=(count, len(values))) * np.sqrt(np.maximum(values, 0)) @ axes.T
