"""What networks with a variance head are trained on: a law that is known, and images.

Pixels are spread uniformly over their bins, whose width is w. The velocity of the training images
is then, but for the shape of that noise, the one of their Gaussian blur of standard deviation
`h = w / sqrt(12)`: for `x1 = b + h e` the state `alpha x1 + sigma x0` has the law of b on the path
`(alpha, sqrt(sigma^2 + alpha^2 h^2))`, and the mean of its motion is that path's velocity.
"""

from collections.abc import Callable
from functools import cache, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import fmjax
from experiments.images import data, training
from fmjax.paths import Path
from fmjax.toy import Density
from fmjax.types import Array

path = training.path


@cache
def law() -> Density:
    """Returns a skewed mixture, of unequal weights and widths: its variance differs by state."""
    return fmjax.toy.gaussian_mixture(
        jnp.array([0.5, 0.3, 0.2]),
        jnp.array([[-1.2, 0.4], [1.0, 1.1], [0.6, -1.3]]),
        jnp.array(
            [[[0.3, 0.1], [0.1, 0.1]], [[0.02, 0.0], [0.0, 0.3]], [[0.05, -0.03], [-0.03, 0.04]]]
        ),
    )


class Problem(NamedTuple):
    """Data, and the exact velocity of what networks see of them.

    Attributes:
      title: for tables and figures.
      bank: `[n, *dims]`, what training draws from.
      width: of the uniform noise that is added to every entry.
      parts: by name `[m, *dims]`, the data that are noised for the measures: some of `bank`
        ("train"), and "held_out"; with their uniform noise.
      exact: `(bank, x, t) -> [*dims]`.
    """

    title: str
    bank: np.ndarray
    width: float
    parts: dict[str, np.ndarray]
    exact: Callable[[Array, Array, Array], Array]


def of_law(seed: int, *, num_points: int, count: int) -> Problem:
    """Returns draws of the mixture, with its own velocity.

    Args:
      seed: of the draws.
      num_points: to train on.
      count: of data in each part.
    """
    keys = jax.random.split(jax.random.fold_in(jax.random.key(seed), 2000), num_points + count)
    drawn = np.asarray(jax.jit(jax.vmap(law().sample))(keys))
    parts = {"train": drawn[:count], "held_out": drawn[num_points:]}
    return Problem("a mixture in the plane", drawn[:num_points], 0.0, parts, _of_mixture)


def _of_mixture(_: Array, x: Array, t: Array) -> Array:
    return law().velocity(path, x, t)


def of_images(name: str, images: data.Images, seed: int, *, count: int) -> Problem:
    """Returns images, with the velocity of the training images in their bins.

    Args:
      name: of the data set.
      images: the data set.
      seed: of the noise in the bins.
      count: of images in each part, where there are as many.
    """
    key = training.keys(seed)[1]
    pixels = {"train": images.train[:count], "held_out": images.held_out[:count]}
    parts = {
        part: np.asarray(data.dequantize(jax.random.fold_in(key, place), x, images.levels))
        for place, (part, x) in enumerate(pixels.items())
    }
    width = data.bin_width(images.levels)
    exact = partial(fmjax.empirical.velocity, blurred(width))
    bank = data.centers(images.train, images.levels)
    return Problem(data.title(name), bank, width, parts, exact)


def blurred(width: float) -> Path:
    """Returns the path of data that uniform noise of a width blurs, as if it were Gaussian."""
    return fmjax.paths.smoothed(path, width / 12**0.5)
