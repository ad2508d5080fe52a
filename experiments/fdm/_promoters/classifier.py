"""A classifier of the sequences, trained by the experiment: its features and its probabilities."""

import functools
import os
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import numpy as np
import optax
from flax import nnx

import fmjax
from experiments.fdm._promoters import network
from experiments.fdm._promoters.sequences import LETTERS, Part, Sequences
from experiments.run import batches, layout, loop
from fmjax.types import Array, Key, PyTree

_AT_A_TIME = 64


class Found(NamedTuple):
    """What a trained classifier gives.

    Attributes:
      features: letters `[n, length]` to `[n, channels]`, before the last layer.
      probabilities: letters `[n, length]` to `[n, classes]`.
      accuracy: share of the held-out sequences whose class is recognized.
      most: share of the held-out sequences in their most frequent class.
    """

    features: Callable[[np.ndarray], np.ndarray]
    probabilities: Callable[[np.ndarray], np.ndarray]
    accuracy: float
    most: float


def labeled(part: Part, batch_size: int, *, seed: int) -> batches.Batches:
    """Returns `start_step -> iterator` of `{"x1": [batch, length], "label": [batch]}`."""
    order = batches.batches(np.arange(len(part.letters)), batch_size, seed=seed)

    def start(step: int) -> Iterator[dict[str, np.ndarray]]:
        for batch in order(step):
            index = batch["x"]
            x1 = part.letters[index].astype(np.int32)
            yield {"x1": x1, "label": part.labels[index]}

    return start


def fit(
    data: Sequences,
    folder: str | os.PathLike,
    *,
    channels: int,
    num_steps: int,
    batch_size: int,
    seed: int,
) -> Found:
    """Trains the classifier, or restores it from its folder.

    Args:
      data: the data set, of two classes or more.
      folder: of the classifier, within the run folder.
      channels: of its network.
      num_steps: of its training, by Adam at 1e-3, falling to zero along a cosine.
      batch_size: sequences per step.
      seed: of the network and the order of the sequences.
    """
    shape = (data.train.letters.shape[1], len(LETTERS))
    module = network.Classifier(shape, len(data.classes), channels, rngs=nnx.Rngs(seed))
    apply, params = fmjax.models.functional(module)
    held_out, every = data.held_out, max(num_steps // 4, 1)

    def share(params: PyTree) -> float:
        probs = _outputs(apply, params, 1)(held_out.letters)
        return float((probs.argmax(axis=1) == held_out.labels).mean())

    state = loop.fit(
        _make_loss(apply),
        params,
        labeled(data.train, batch_size, seed=seed),
        optax.adam(optax.cosine_decay_schedule(1e-3, num_steps)),
        lambda params, _: {"held_out_accuracy": share(params)},
        workdir=folder,
        num_steps=num_steps,
        seed=seed,
        ema_decay=0.99,
        eval_every=every,
        save_every=every,
    )
    params = layout.on_host(state.ema_params)
    features, probabilities = (_outputs(apply, params, part) for part in (0, 1))
    most = np.bincount(held_out.labels).max() / len(held_out.labels)
    return Found(features, probabilities, share(params), float(most))


def _make_loss(apply: Callable[..., tuple[Array, Array]]) -> Callable[..., Array]:
    """Returns the mean cross-entropy of a batch."""

    def example(params: PyTree, key: Key, x1: Array, label: Array) -> Array:
        _, logits = apply(params, jax.nn.one_hot(x1, len(LETTERS)), key=key)
        return optax.losses.softmax_cross_entropy_with_integer_labels(logits, label)

    def loss(params: PyTree, key: Key, batch: dict[str, Array]) -> Array:
        keys = jax.random.split(key, batch["x1"].shape[0])
        one = functools.partial(example, params)
        return jax.vmap(one)(keys, batch["x1"], batch["label"]).mean()

    return loss


def _outputs(
    apply: Callable[..., tuple[Array, Array]], params: PyTree, part: int
) -> Callable[[np.ndarray], np.ndarray]:
    """Returns letters `[n, length]` to features (part 0) or probabilities (part 1)."""

    def one(params: PyTree, x1: Array) -> Array:
        features, logits = apply(params, jax.nn.one_hot(x1, len(LETTERS)))
        return jax.nn.softmax(logits) if part else features

    many = functools.partial(jax.vmap(one, in_axes=(None, 0)), params)
    return lambda letters: batches.in_batches(
        many, letters.astype(np.int32), size=_AT_A_TIME, label=None
    )
