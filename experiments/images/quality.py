"""How good generated images are, and whether they repeat the training images.

Images are rounded to the pixels of their data set and embedded (`experiments.images.classifier`).
Of the features of generated, training and held-out images come

    train Frechet = frechet(generated, training),  test Frechet = frechet(generated, held-out)  (1)

and of the pixels the distance to the nearest training image and the share of images that repeat
one. A model can have a low (1) because it repeats, so beside every number stands that of held-out
images, which are what a perfect model would draw, and that of training images, which are what a
model that only repeats would draw. The distances (1) are biased upwards for few images: of all that
are held against the data there are `num_samples`, or as many as there are.

References:
  Bertrand et al. (2025), arXiv 2506.03719, sections 3.2 and 4.2.
"""

from collections.abc import Callable
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import numpy as np
from sklearn.neighbors import NearestNeighbors

import fmjax
from experiments.images import data
from experiments.images.features import Embedding
from experiments.run import batches
from fmjax.types import Array, PyTree

SCORES = ("frechet_test", "frechet_train", "memorized", "nearest_distance")
_frechet = jax.jit(fmjax.metrics.frechet)
_nearest = jax.jit(fmjax.metrics.nearest_neighbor)
_memorized = jax.jit(fmjax.metrics.memorization_ratio)


class Reference(NamedTuple):
    """What generated images are held against.

    Attributes:
      embed: the function of an `Embedding`.
      levels: values that a pixel can take.
      images: `[n, h, w, c]`, the training images, in [-1, 1].
      train: `[n, d]`, their features.
      held_out: `[m, d]`, the features of the held-out images.
    """

    embed: Callable[[Array], Array]
    levels: int
    images: np.ndarray
    train: np.ndarray
    held_out: np.ndarray


def reference(embedding: Embedding, images: data.Images) -> Reference:
    """Returns the features of a data set."""
    train, held_out = (data.centers(part, images.levels) for part in images[:2])
    features = (np.asarray(embedding.embed(part)) for part in (train, held_out))
    return Reference(embedding.embed, images.levels, train, *features)


@cache  # compiled once for all networks
def _sampler(apply: Callable[..., Array], num_steps: int) -> Callable[[PyTree, Array], Array]:
    """Returns `(params, noise) -> samples` of many noises."""

    def many(params: PyTree, noise: Array) -> Array:
        solve = partial(fmjax.samplers.fixed, partial(apply, params), num_steps=num_steps)
        return jax.vmap(solve)(noise)

    return many


def sample(
    apply: Callable[..., Array],
    params: PyTree,
    noise: Array,
    levels: int,
    *,
    num_steps: int,
    size: int,
) -> np.ndarray:
    """Returns generated images, uint8 `[n, h, w, c]`, by equal steps of Heun.

    Args:
      apply: `(params, x, t) -> dx` of one example, the same function for every network: the
        sampler is compiled once.
      params: the parameters.
      noise: `[n, h, w, c]`.
      levels: values that a pixel can take.
      num_steps: steps of the solver, two evaluations each.
      size: images at a time.

    Raises:
      ArithmeticError: if a sample is not finite.
    """
    many = partial(_sampler(apply, num_steps), params)
    x = batches.in_batches(many, noise, size=size, label=None)
    return np.asarray(data.quantize(x, levels))


def frechet(reference: Reference, pixels: np.ndarray) -> dict[str, float]:
    """Returns the distances (1) of images, uint8 `[n, h, w, c]`."""
    features = reference.embed(data.centers(pixels, reference.levels))
    return {
        "frechet_test": float(_frechet(features, reference.held_out)),
        "frechet_train": float(_frechet(features, reference.train)),
    }


def copies(reference: Reference, pixels: np.ndarray) -> dict[str, float]:
    """Returns how near images, uint8 `[n, h, w, c]`, are to the training images."""
    found = copied(data.centers(pixels, reference.levels), reference.images)
    return {
        "memorized": found["memorized"],
        "nearest_distance": float(found["distance"].mean()),
    }


def of_data(reference: Reference, images: data.Images, num_samples: int) -> list[dict[str, Any]]:
    """Returns the rows of held-out and of training images, as if they had been generated.

    There are `num_images` of them, fewer than `num_samples` where the data set has no more: their
    distances are biased the more. What an image has with itself is left out, as NaN.
    """
    held_out = images.held_out[:num_samples]
    train = data.shuffle(images.train, seed=0)[:num_samples]
    near, far = frechet(reference, train), frechet(reference, held_out)
    nothing = dict.fromkeys(SCORES, float("nan"))
    rows = (
        ("held-out", held_out, {"frechet_train": far["frechet_train"]}),
        ("training", train, {"frechet_test": near["frechet_test"]}),
    )
    rows = [
        nothing | numbers | {"method": f"{name} images", "num_images": len(pixels)}
        for name, pixels, numbers in rows
    ]
    return [rows[0] | copies(reference, held_out), rows[1]]


def within(train: np.ndarray) -> float:
    """Returns the mean distance of a training image to the nearest other one.

    Args:
      train: `[n, *dims]`, n >= 2; the first 2,000 are averaged over.
    """
    flat = train.reshape(len(train), -1)
    found = NearestNeighbors(n_neighbors=2, algorithm="brute").fit(flat)
    distances, _ = found.kneighbors(flat[:2000])  # the first is to itself
    return float(distances[:, 1].mean())


def copied(x: np.ndarray, train: np.ndarray) -> dict[str, Any]:
    """Returns how near images are to the training images, and which is nearest to each.

    Args:
      x: `[m, *dims]`, m >= 2, samples or held-out images.
      train: `[n, *dims]`, n >= 2.

    Returns:
      The `distance` to the nearest, `[m]`, its index, `nearest`, `[m]`, and the share `memorized`,
      nearer to it than to a third of the distance to the next.
    """
    nearest, distance = _nearest(x, train)
    memorized = float(_memorized(x, train))
    return {
        "distance": np.asarray(distance),
        "nearest": np.asarray(nearest),
        "memorized": memorized,
    }
