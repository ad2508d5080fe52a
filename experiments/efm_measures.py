"""How good generated images are, and whether they repeat the training images.

Images are rounded to the pixels of their data set and embedded (`experiments.embedding`); of the
features of generated, training and held-out images come

    train Frechet = frechet(generated, training),  test Frechet = frechet(generated, held-out)  (1)

and of the pixels the distance to the nearest training image and the share of images that repeat
one. A model can have a low (1) because it repeats, so beside every number stands that of held-out
images, which are what a perfect model would draw, and that of training images, which are what a
model that only repeats would draw. The distances (1) are biased upwards for few images: of all that
are held against the data there are `num_samples`, or as many as there are.

References:
  Bertrand et al. (2025), arXiv 2506.03719, sections 3.2 and 4.2.
"""

import os
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

import fmjax
from experiments import data, loop, memorisation
from experiments.spaces import Embedding
from fmjax.types import Array, PyTree

SCORES = ("frechet_test", "frechet_train", "memorized", "nearest_distance")
_frechet = jax.jit(fmjax.metrics.frechet)


class Reference(NamedTuple):
    """What generated images are held against.

    Attributes:
      embed: of an `Embedding`.
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
    train, held_out = (data.centres(part, images.levels) for part in images[:2])
    features = (np.asarray(embedding.embed(part)) for part in (train, held_out))
    return Reference(embedding.embed, images.levels, train, *features)


@partial(jax.jit, static_argnames=("apply", "num_steps", "size"))
def _solve(apply: Callable, params: PyTree, noise: Array, *, num_steps: int, size: int) -> Array:
    solve = partial(fmjax.samplers.fixed, partial(apply, params), num_steps=num_steps)
    return jax.lax.map(solve, noise, batch_size=size)


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
      num_steps: of the solver, two evaluations each.
      size: images at a time.

    Raises:
      ArithmeticError: if a sample is not finite.
    """
    x = _solve(apply, jax.device_get(params), noise, num_steps=num_steps, size=size)
    if not np.isfinite(x).all():
        message = (
            "a generated image is not finite, so the learned velocity is not either: train with a "
            "smaller learning rate, in another --workdir. The checkpoints are kept."
        )
        raise ArithmeticError(message)
    return np.asarray(data.quantize(x, levels))


def frechet(reference: Reference, pixels: np.ndarray) -> dict[str, float]:
    """Returns the distances (1) of images, uint8 `[n, h, w, c]`."""
    features = reference.embed(data.centres(pixels, reference.levels))
    return {
        "frechet_test": float(_frechet(features, reference.held_out)),
        "frechet_train": float(_frechet(features, reference.train)),
    }


def copies(reference: Reference, pixels: np.ndarray) -> dict[str, float]:
    """Returns how near images, uint8 `[n, h, w, c]`, are to the training images."""
    found = memorisation.copied(data.centres(pixels, reference.levels), reference.images)
    return {
        "memorized": found["memorised"],
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


def curve(folder: os.PathLike, per_epoch: int) -> list[dict[str, float]]:
    """Returns epoch, test and train distance of every evaluation during a training."""
    names = ("frechet_test", "frechet_train")
    return [
        {"epoch": line["step"] / per_epoch} | {name: line[name] for name in names}
        for line in loop.metrics(folder, names[0])
    ]


def by_method(rows: Iterable[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Returns the rows of every method, in the order of their appearance."""
    rows = list(rows)
    names = dict.fromkeys(row["method"] for row in rows)
    return {name: [row for row in rows if row["method"] == name] for name in names}


def with_spread(values: Iterable[float], form: str) -> str:
    """Returns the mean and, of more than one value, the standard deviation."""
    values = np.asarray(list(values))
    if not np.isfinite(values).all():
        return "-"
    mean = format(values.mean(), form)
    return f"{mean} ± {format(values.std(ddof=1), form.lstrip('+'))}" if len(values) > 1 else mean


def gaps(rows: list[dict[str, Any]], others: list[dict[str, Any]], name: str) -> list[float]:
    """Returns in percent how far rows lie above those of the same seed of another method."""
    other = {row["seed"]: row[name] for row in others}
    return [100 * (row[name] / other[row["seed"]] - 1) for row in rows if row["seed"] in other]


def table(rows: list[dict[str, Any]], of_data: list[dict[str, Any]]) -> str:
    """Returns the final numbers of every method, mean and standard deviation over seeds.

    Args:
      rows: of every network.
      of_data: from `of_data`.
    """
    methods = by_method(rows)
    head = ["test Frechet", "above CFM, %", "train Frechet", "memorised", "nearest training image"]
    lines = [f"{'method':16s} seeds" + "".join(f"{text:>24s}" for text in head)]
    for name, mine in (methods | by_method(of_data)).items():
        spread = lambda score, form, mine=mine: with_spread((row[score] for row in mine), form)  # noqa: E731
        above = gaps(mine, methods.get("CFM", []), "frechet_test") if name in methods else []
        cells = [
            spread("frechet_test", ".3f"),
            with_spread(above, "+.1f") if above and name != "CFM" else "-",
            spread("frechet_train", ".3f"),
            spread("memorized", ".3f"),
            spread("nearest_distance", ".3f"),
        ]
        seeds = str(len(mine)) if name in methods else ""
        lines.append(f"{name:16s} {seeds:>5s}" + "".join(f"{cell:>24s}" for cell in cells))
    return "\n".join(lines)


def epochs_table(rows: list[dict[str, Any]], most: int = 6) -> str:
    """Returns the test distance of every method after some of the epochs, as tables 1 and 2."""
    count = len(rows[0]["curve"])
    chosen = sorted({round(i) for i in np.geomspace(1, count, min(most, count))})
    epochs = [rows[0]["curve"][i - 1]["epoch"] for i in chosen]
    lines = [f"{'epoch':16s}" + "".join(f"{epoch:>20g}" for epoch in epochs)]
    for name, mine in by_method(rows).items():
        cells = [
            with_spread((row["curve"][i - 1]["frechet_test"] for row in mine), ".3f")
            for i in chosen
        ]
        lines.append(f"{name:16s}" + "".join(f"{cell:>20s}" for cell in cells))
    return "\n".join(lines)
