"""The loss of `experiments.fdm.promoters`, and its cross-entropy on held-out sequences."""

from collections.abc import Callable
from functools import partial

import jax
import numpy as np

import fmjax
from experiments.fdm._promoters.sequences import Part
from experiments.run import batches
from fmjax import simplex
from fmjax.types import Array, Key, PyTree


def of_training(
    apply: Callable[..., Array], path: simplex.Path, weight: float, every: int
) -> Callable[[PyTree, Key, PyTree], Array]:
    """Returns the mean of a batch of what is minimized, eq. (17)."""

    def loss(params: PyTree, key: Key, batch: dict[str, Array]) -> Array:
        x1 = batch["x1"]
        key_time, key_noise, key_probe = jax.random.split(key, 3)

        def example(weight: float, key: Key, x: Array, x1: Array, t: Array, label: Array) -> Array:
            logits = partial(apply, params, context=label)
            probe = partial(fmjax.divergence.hutchinson, key)
            return simplex.fdm(logits, path, x, x1, t, weight=weight, divergence=probe)

        ts = fmjax.times.stratified(key_time, (len(x1),))
        x = jax.vmap(path.sample)(jax.random.split(key_noise, len(x1)), x1, ts)
        keys = jax.random.split(key_probe, len(x1))
        return fmjax.losses.probe_every(every, example, weight, keys, x, x1, ts, batch["label"])

    return loss


def held_out(
    apply: Callable[..., Array], path: simplex.Path, part: Part, *, size: int, seed: int
) -> Callable[[PyTree, Key], dict[str, float]]:
    """Returns a function to the cross-entropy of held-out letters, always of the same noise.

    Args:
      apply: the network.
      path: the path.
      part: the held-out sequences.
      size: sequences at a time.
      seed: of the noise.
    """
    letters, labels = part.letters.astype(np.int32), part.labels
    ts = (np.arange(len(letters), dtype=np.float32) + 0.5) / len(letters)
    ts = np.random.default_rng(0).permutation(ts)
    keys = jax.random.split(jax.random.key(seed), len(letters))

    def one(params: PyTree, key: Key, x1: Array, label: Array, t: Array) -> Array:
        logits = partial(apply, params, context=label)
        return simplex.cross_entropy(logits, path.sample(key, x1, t), x1, t)

    many = jax.vmap(one, in_axes=(None, 0, 0, 0, 0))

    def evaluate(params: PyTree, key: Key) -> dict[str, float]:  # noqa: ARG001
        losses = batches.in_batches(
            partial(many, params), keys, letters, labels, ts, size=size, label=None
        )
        return {"held_out_loss": float(losses.mean())}

    return evaluate
