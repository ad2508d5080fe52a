"""A network and the exact field of the n images that it was trained on; what it copies of them.

Shared by the experiments on the closed form of flow matching. The data are the first n training
images at the centers of their pixels' bins, neither flipped nor dequantized: a finite set of
points, so the field that minimizes the loss of training is known (`fmjax.empirical`), and it makes
nothing but copies of these points. How far samples are from that is told by their distance to the
nearest of the n, beside the same distance of

* images that are held out: what a sampler of the law behind the data would have
* the n images themselves, each to its nearest other

The posterior over the points collapses to a single one when x_t tells about as much of x1 as it
takes to name one in n (`fmjax.collapse`).

References:
  Bertrand et al. (2025), On the Closed-Form of Flow Matching, arXiv 2506.03719, section 3.
"""

import functools
import math
import os
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import fmjax
from experiments.images import data, objectives, quality, training
from experiments.images.options import Training
from fmjax.types import Array, Key, PyTree

path = training.path  # linear, sections 2 and 3

Embed = Callable[[np.ndarray], np.ndarray]
"""`x[n, h, w, c] -> [n, *features]`, a space in which images are compared."""

_frechet = jax.jit(fmjax.metrics.frechet)
_flow_loss = functools.partial(objectives.flow_loss, place=training.at_centers)


def train(
    options: Training,
    images: data.Images,
    count: int,
    folder: os.PathLike,
    key: Key,
    *,
    seed: int,
) -> tuple[Callable[..., Array], PyTree]:
    """Trains a velocity on the first images, or restores it, and returns it with its parameters.

    Where a batch holds more than there are images they are repeated in it, each about as often and
    each time with noise of its own, so that every network sees as many pairs and takes as long.

    Args:
      options: of the network and its training.
      images: the data set.
      count: n, how many of its training images are used.
      folder: where the checkpoints and metrics.jsonl are.
      key: for the noise of the held-out loss.
      seed: for the network, the order of the images and all noise.
    """
    few = images.train[:count]
    copies = math.ceil(options.batch_size / len(few))
    return training.fit(
        options,
        images._replace(train=np.concatenate([few] * copies)),
        folder,
        key,
        make_loss=_flow_loss,
        seed=seed,
        place=training.at_centers,
    )


def points(images: data.Images, count: int) -> np.ndarray:
    """Returns the first n training images as the network is trained on them, `[n, h, w, c]`."""
    return data.centers(images.train[:count], images.levels)


def distances(
    samples: np.ndarray, points: np.ndarray, held_out: np.ndarray, embed: Embed
) -> dict[str, Any]:
    """Returns how near samples are to the training images in the space of an embedding.

    Args:
      samples: `[len(taus), n, h, w, c]`, the last of tau = 1.
      points: `[m, h, w, c]`, the training images.
      held_out: `[k, h, w, c]`.
      embed: into that space.

    Returns:
      For every tau the distance `[n]` to the nearest training image, the share `memorized`, and
      the share `decided` whose nearest image is the same as for tau = 1; and the mean distance of
      `held_out` images and `within` the training images.
    """
    train = np.asarray(embed(points))
    found = [quality.copied(np.asarray(embed(x)), train) for x in samples]
    apart = quality.copied(np.asarray(embed(held_out)), train)
    last = found[-1]["nearest"]
    return {
        "distance": np.stack([one["distance"] for one in found]),
        "memorized": [one["memorized"] for one in found],
        "decided": [float((one["nearest"] == last).mean()) for one in found],
        "held_out": float(apart["distance"].mean()),
        "within": quality.within(train),
    }


def frechet_of_copies(train: np.ndarray, held_out: np.ndarray, draws: int = 16) -> np.ndarray:
    """Returns the Frechet distance to held-out images of images drawn from the training images.

    So would the exact field score: it makes copies, each of the n images as often as another.

    Args:
      train: `[n, d]`, features.
      held_out: `[m, d]`, features; m copies are drawn.
      draws: how often.

    Returns:
      `[draws]`.
    """
    index = np.random.default_rng(0).integers(0, len(train), (draws, len(held_out)))
    return np.array([float(_frechet(train[row], held_out)) for row in index])


def compared(
    samples: np.ndarray, points: np.ndarray, images: data.Images, embed: Embed
) -> dict[str, Any]:
    """Returns how good samples are, and how new, beside held-out images and copies.

    Args:
      samples: `[m, h, w, c]`.
      points: `[n, h, w, c]`, what the network was trained on.
      images: the data set.
      embed: from images to the features of the Frechet distance.
    """
    held_out = data.centers(images.held_out[: len(samples)], images.levels)
    drawn = samples[: len(held_out)]  # as many of each, for the distance of few is biased
    features = [np.asarray(embed(x)) for x in (drawn, held_out, points)]
    copies = frechet_of_copies(features[2], features[1])
    ours, theirs = (quality.copied(x, points) for x in (samples, held_out))
    return {
        "num_compared": len(drawn),
        "frechet_held_out": float(_frechet(*features[:2])),
        "frechet_held_out_of_copies": float(copies.mean()),
        "frechet_held_out_of_copies_deviation": float(copies.std(ddof=1)),
        "frechet_train": float(_frechet(features[0], features[2])),
        "distance": float(ours["distance"].mean()),
        "distance_standard_error": float(ours["distance"].std(ddof=1) / len(samples) ** 0.5),
        "distance_of_held_out": float(theirs["distance"].mean()),
        "distance_within": quality.within(points),
        "memorized": ours["memorized"],
        "memorized_of_held_out": theirs["memorized"],
        "shown": {
            "samples": data.quantize(samples[:12], images.levels),
            "nearest": ours["nearest"][:12],
        },
    }


def variances(train: np.ndarray) -> Array:
    """Returns the variances by which `fmjax.collapse` predicts when n such images are told apart.

    Args:
      train: `[m, *dims]`, not all alike; the covariance is taken over the first 10,000.
    """
    return jnp.asarray(fmjax.collapse.variances(train[:10_000]))


def collapse_time(variances: Array, points: np.ndarray) -> float:
    """Returns the time at which the points are told apart, equal ones counted once.

    Args:
      variances: from `variances`.
      points: `[n, *dims]`, of any dtype: only which of them are equal counts.
    """
    entropy = fmjax.collapse.entropy(fmjax.collapse.groups(points))
    return float(fmjax.collapse.collapse_time(path, variances, math.exp(entropy)))
