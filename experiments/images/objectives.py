"""The losses of networks of images: flow matching, with a penalty of the derivative, and held out.

The noise of the path is drawn independently of the images, as the posterior identities need it,
and times are stratified over the batch.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

import fmjax
from experiments.images import data, unet
from experiments.images.options import FlowTraining
from experiments.run import batches
from fmjax import losses
from fmjax.losses import Matching
from fmjax.types import Array, Key, PyTree

path = unet.path


class Penalty(NamedTuple):
    """What is matched beside the velocity, of which the loss takes this many times the square.

    Attributes:
      weight: of the penalty.
      matching: from the key of a probe to `losses.Matching`.
    """

    weight: float
    matching: Callable[[Key], Matching]


def penalty_for(options: FlowTraining) -> Penalty | None:
    """Returns the penalty that the options ask for, None for flow matching."""
    if options.jacobian_weight:
        return Penalty(options.jacobian_weight, _jacobian)
    return Penalty(options.divergence_weight, _trace) if options.divergence_weight else None


def _trace(key: Key) -> Matching:
    """Returns the squared residual of the divergence, by two probes.

    The square of one probe's residual would also shrink the Jacobian off its diagonal, by which
    the uncertainty is measured here.
    """
    return functools.partial(losses.match_product, key)


def _jacobian(key: Key) -> Matching:
    """Returns the squared entries of the residual's matrix, by one probe."""
    return functools.partial(losses.match_jacobian, key)


def pairs(
    key: Key, pixels: Array, levels: int, *, place: Callable[..., Array] = data.dequantize
) -> tuple[Array, Array, Key, Array]:
    """Returns the pairs of a batch of pixels, a key for the times, and one for each dropout.

    Args:
      key: for the step.
      pixels: uint8 `[n, h, w, c]`.
      levels: values that a pixel can take.
      place: from a key, pixels and levels to x.
    """
    key_bins, key_noise, key_time, key_dropout = jax.random.split(key, 4)
    x1 = place(key_bins, pixels, levels)
    x0 = jax.random.normal(key_noise, x1.shape)  # independent of x1: the identity needs it
    return x0, x1, key_time, jax.random.split(key_dropout, x1.shape[0])


def flow_loss(
    apply: Callable[..., Array],
    levels: int,
    *,
    place: Callable[..., Array] = data.dequantize,
    moments: unet.Moments | None = None,
    penalty: Penalty | None = None,
    every: int = 1,
) -> Callable[..., Array]:
    """Returns the loss of a batch of uint8 images: flow matching, with a penalty FDM.

    Args:
      apply: `(params, x, t, key=None) -> dx` of one example; a key switches dropout on.
      levels: values that a pixel can take.
      place: from a key, pixels and levels to x.
      moments: of the pixels; with them each time has the weight of a conditioned network.
      penalty: of the divergence or the Jacobian.
      every: the penalty is computed for every so manieth image, with as many times its weight.
    """

    def example(
        params: PyTree, scale: Array | float, key: Key, x0: Array, x1: Array, t: Array
    ) -> Array:
        velocity, weight = functools.partial(apply, params, key=key), 1.0
        if moments is not None:
            weight = fmjax.predictions.residual_std(path, moments.std, t) ** -2
        if penalty is None:
            return fmjax.losses.cfm(velocity, path, x0, x1, t, weight=weight)
        matching = penalty.matching(jax.random.fold_in(key, 1))  # the key itself drops features
        options = {"weight": scale * penalty.weight, "matching": matching}
        return weight * fmjax.losses.fdm(velocity, path, x0, x1, t, **options)

    def loss(params: PyTree, key: Key, batch: dict[str, Array]) -> Array:
        x0, x1, key_time, keys = pairs(key, batch["x"], levels, place=place)
        t = fmjax.times.stratified(key_time, x1.shape[:1])
        one = functools.partial(example, params)
        if penalty is None or every == 1:
            return jax.vmap(functools.partial(one, 1.0))(keys, x0, x1, t).mean()
        return losses.probe_every(every, one, 1.0, keys, x0, x1, t)

    return loss


def held_out_loss(
    apply: Callable[..., Array],
    images: data.Images,
    key: Key,
    *,
    place: Callable[..., Array] = data.dequantize,
) -> Callable[[PyTree, Key], dict[str, float]]:
    """Returns the held-out loss without dropout, on the same images and noise every time.

    Args:
      apply: `(params, x, t) -> dx` of one example.
      images: the data set; its first 512 held-out images are used.
      key: for the noise.
      place: from a key, pixels and levels to x.
    """
    key_bins, key_noise, key_time = jax.random.split(key, 3)
    x1 = place(key_bins, jnp.asarray(images.held_out[:512]), images.levels)
    x0 = jax.random.normal(key_noise, x1.shape)
    t = fmjax.times.stratified(key_time, x1.shape[:1])

    def evaluate(params: PyTree, _: Key) -> dict[str, float]:
        each = functools.partial(_losses(apply), params)
        values = batches.in_batches(each, x0, x1, t, size=64, label=None)
        return {"held_out_loss": float(values.mean())}

    return evaluate


@functools.lru_cache(maxsize=32)  # compiled once for all evaluations
def _losses(apply: Callable[..., Array]) -> Callable[..., Array]:
    """Returns `(params, x0, x1, t) -> losses` of many pairs."""

    def many(params: PyTree, x0: Array, x1: Array, t: Array) -> Array:
        cfm = functools.partial(fmjax.losses.cfm, functools.partial(apply, params), path)
        return jax.vmap(cfm)(x0, x1, t)

    return many
