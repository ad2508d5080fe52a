"""A home-made image embedding: the features of a classifier of the same data set.

The Frechet distance that is called FID compares Gaussians fitted to features. The features of the
customary networks say little about digits; instead a small convolutional network is trained on the
labels of the training images, and an image is embedded as the 128 activations before its logits, as
in appendix C of arXiv 2506.03719. Then

    'FID' = fmjax.metrics.frechet(embed(x), embed(y)),                                       (1)

which depends on the classifier: compare only distances of one and the same (`pin`), in equal
numbers of images. Features of Inception or DINOv2 are an argument of the experiments, no download:

    features = Embedding(embed=dinov2, fingerprint="DINOv2 features")
    efm_images.main(efm_images.Config(source=Source("cifar10")), features=features)          (2)

where `dinov2` is any function of `[n, h, w, c]` in [-1, 1] to `[n, d]`, of NumPy arrays or jax's.

References:
  Heusel et al. (2017), arXiv 1706.08500; Bertrand et al. (2025), arXiv 2506.03719, appendix C.
"""

import contextlib
import dataclasses
import functools
import os
from collections.abc import Callable, Iterator

import jax
import numpy as np
import optax
from etils import epath
from flax import nnx

import fmjax
from experiments.images import data, labels, training
from experiments.images.features import Embedding, checked
from experiments.images.options import Features, Source
from experiments.run import batches, layout, lock, loop, numbers
from fmjax.models import layers
from fmjax.types import Array, Key, PyTree

_AT_A_TIME = 256  # images


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How a classifier is trained; the defaults take some seconds on the digits."""

    num_steps: int = 1000
    """Training steps; 2,000 for data sets of 28x28 pixels."""
    batch_size: int = 128
    """Images per step; of fewer images as many as divide by the devices."""
    learning_rate: float = 2e-3
    """Peak of the learning rate; warm-up, then cosine."""
    weight_decay: float = 0.01
    """Weight decay of AdamW, per unit of the learning rate."""
    dropout: float = 0.3
    """Probability of dropping a feature in training, in [0, 1)."""
    channels: tuple[int, int, int] = (32, 64, 64)
    """Features of the three convolutions, multiples of 8."""
    size: int = 128
    """Dimensions of the embedding."""
    seed: int = 0
    """Seed of the network and of the order of the images."""


class Classifier(nnx.Module):
    """Three convolutions, the last two of stride 2, the embedding, and the logits."""

    def __init__(self, shape, num_classes, recipe):
        rngs, channels = nnx.Rngs(recipe.seed), recipe.channels
        before = (shape[-1], *channels[:-1])
        strides = (1, 2, 2)
        self.convolutions = layers.List(
            [
                nnx.Conv(a, b, (3, 3), strides=stride, rngs=rngs)
                for a, b, stride in zip(before, channels, strides, strict=True)
            ]
        )
        self.norms = layers.List([layers.GroupNorm(c, num_groups=8, rngs=rngs) for c in channels])
        coarse = [-(-side // 4) for side in shape[:2]]
        self.embed = nnx.Linear(coarse[0] * coarse[1] * channels[-1], recipe.size, rngs=rngs)
        self.dropout = layers.dropout(recipe.dropout, rngs=rngs)
        self.classify = nnx.Linear(recipe.size, num_classes, rngs=rngs)

    def __call__(self, x: Array) -> tuple[Array, Array]:
        """Returns the embedding `[size]` of one image `[h, w, c]`, and its logits `[classes]`."""
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            x = jax.nn.silu(norm(convolution(x)))
        features = jax.nn.silu(self.embed(self.dropout(x.ravel())))
        return features, self.classify(self.dropout(features))


def fit(
    images: data.Images,
    truth: labels.Labels,
    folder: str | os.PathLike,
    recipe: Recipe | None = None,
) -> Embedding:
    """Trains the classifier, or restores it from its folder, and returns its embedding.

    Args:
      images: the data set.
      truth: the labels of its images.
      folder: the folder of the classifier alone; several runs may share it.
      recipe: how to train it; None is the usual recipe.

    Raises:
      ValueError: if there are fewer than two classes, or the folder holds the classifier of another
        data set or recipe.
      OSError: if the folder cannot be written.
    """
    recipe = Recipe() if recipe is None else recipe
    classes = int(max(part.max() for part in truth)) + 1
    _check_classes(truth, classes)
    facts = {"data": data.fingerprint(images), "labels": labels.fingerprint(truth)}
    folder = loop.open_run(folder, recipe, **facts)
    network = Classifier(images.train.shape[1:], classes, recipe)
    apply, params = fmjax.models.functional(network)
    every, size = max(recipe.num_steps // 4, 1), _batch_size(recipe.batch_size, len(images.train))
    state = loop.fit(
        _make_loss(apply, images.levels),
        params,
        _batches(images, truth, size, recipe.seed),
        training.adamw(recipe.learning_rate, recipe.weight_decay, recipe.num_steps),
        _accuracy(apply, images, truth),
        workdir=folder,
        num_steps=recipe.num_steps,
        seed=recipe.seed,
        ema_decay=0.99,
        eval_every=every,
        save_every=every,
    )
    lock.release(folder)  # the next run may read it
    params = layout.on_host(state.ema_params)
    accuracy = _accuracy(apply, images, truth)(params, None)["held_out_accuracy"]
    embed = functools.partial(_features(apply, 0), params)
    return Embedding(embed, _fingerprint(params), accuracy)


def embedder(
    options: Features,
    source: Source,
    seed: int,
    images: data.Images,
    features: Embedding | None = None,
) -> Callable[[os.PathLike], Embedding | None]:
    """Returns a function from the open run folder to the embedding of the run.

    A classifier in a folder of its own is trained or restored here and now, so that what is wrong
    with it is said before the run folder is touched.

    Args:
      options: of the classifier.
      source: of the images and their labels.
      seed: of the run.
      images: the data set.
      features: an embedding in the place of the classifier's.

    Returns:
      The function; it returns None where `embedding_steps` is 0 and there are no features.

    Raises:
      ValueError: if `embedding_dir` is given beside what does without a classifier; and as `fit`.
      OSError: as `fit`.
    """
    if features is not None or not options.embedding_steps:
        if options.embedding_dir:
            why = "--embedding-steps is 0" if features is None else "features are given"
            message = f"--embedding-dir is of a classifier, but {why}: leave one of them out."
            raise ValueError(message)
        own = None if features is None else checked(features, images)
        return lambda _: own
    recipe = Recipe(num_steps=options.embedding_steps, seed=seed)
    with _named():
        truth = labels.matching(source, seed, images)
        if options.embedding_dir:
            found = fit(images, truth, options.embedding_dir, recipe)
            return lambda _: found

    def trained(folder: os.PathLike) -> Embedding:
        with _named():
            return fit(images, truth, epath.Path(folder) / f"embedding_{recipe.num_steps}", recipe)

    return trained


@contextlib.contextmanager
def _named() -> Iterator[None]:
    """Names in an error the options that it is about."""
    try:
        yield
    except (ValueError, OSError) as error:
        message = f"the classifier of --embedding-dir and --embedding-steps: {error}"
        raise type(error)(message) from error


def _check_classes(truth: labels.Labels, classes: int) -> None:
    """Raises ValueError for labels that are no classes to tell apart."""
    if len(np.unique(truth.train)) < 2:
        message = "the training images are all of one class: a classifier needs at least two."
        raise ValueError(message)
    if classes > len(truth.train):
        message = (
            f"labels must be classes counted from 0, got {classes - 1} as the largest of "
            f"{len(truth.train)} images: number the classes anew."
        )
        raise ValueError(message)


def _batch_size(most: int, count: int) -> int:
    """Returns how many of the images are taken per step, a multiple of the devices."""
    devices = jax.device_count()
    return max(min(most, count) // devices, 1) * devices


def _make_loss(apply: Callable[..., tuple[Array, Array]], levels: int) -> Callable[..., Array]:
    """Returns the mean cross-entropy of a batch."""

    def example(params: PyTree, key: Key, x: Array, label: Array) -> Array:
        _, logits = apply(params, x, key=key)
        return optax.losses.softmax_cross_entropy_with_integer_labels(logits, label)

    def loss(params: PyTree, key: Key, batch: dict[str, Array]) -> Array:
        x = data.centers(batch["x"], levels)
        keys = jax.random.split(key, x.shape[0])
        one = functools.partial(example, params)
        return jax.vmap(one)(keys, x, batch["label"]).mean()

    return loss


def _batches(images: data.Images, truth: labels.Labels, size: int, seed: int) -> batches.Batches:
    """Returns `data.batches` of the training images with their labels."""
    order = batches.batches(np.arange(len(images.train)), size, seed=seed)

    def start(step: int) -> Iterator[dict[str, np.ndarray]]:
        for batch in order(step):
            index = batch["x"]
            yield {"x": images.train[index], "label": truth.train[index]}

    return start


def _features(apply: Callable[..., tuple[Array, Array]], part: int) -> Callable[..., np.ndarray]:
    """Returns `(params, x[n, h, w, c]) -> [n, ...]`, one of the network's two outputs."""
    many = jax.vmap(lambda params, x: apply(params, x)[part], in_axes=(None, 0))

    def every(params: PyTree, x: Array) -> np.ndarray:
        bound = functools.partial(many, params)
        return batches.in_batches(bound, x, size=_AT_A_TIME, label=None)

    return every


def _accuracy(
    apply: Callable[..., tuple[Array, Array]], images: data.Images, truth: labels.Labels
) -> Callable[[PyTree, Key | None], dict[str, float]]:
    """Returns a function to the share of the held-out images that are recognized."""
    logits = _features(apply, 1)
    x = data.centers(images.held_out, images.levels)

    def evaluate(params: PyTree, _: Key | None) -> dict[str, float]:
        right = np.argmax(logits(params, x), axis=1) == truth.held_out
        return {"held_out_accuracy": float(right.mean())}

    return evaluate


def _fingerprint(params: PyTree) -> str:
    """Returns a short text that changes with any parameter."""
    joined = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(params)])
    return f"crc32 {numbers.crc32(joined)}"
