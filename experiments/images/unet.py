"""The U-Net of the image experiments, as it is or conditioned on the moments of the pixels."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from flax import nnx

import fmjax
from experiments.images import data
from experiments.images.options import FlowTraining
from fmjax.types import Array, Key, PyTree

path = fmjax.paths.linear()


class Moments(NamedTuple):
    """The mean and the standard deviation of all pixels, as they are trained on."""

    mean: float
    std: float


def moments_for(options: FlowTraining, images: data.Images) -> Moments | None:
    """Returns the moments of the pixels if the network is to be conditioned.

    Args:
      options: of the training.
      images: the data set.
    """
    if not options.conditioned:
        return None
    x = data.centers(images.train, images.levels)
    # Uniform noise over a bin has a twelfth of its squared width as variance.
    variance = x.var(dtype=np.float64) + (2.0 / images.levels) ** 2 / 12
    return Moments(float(x.mean(dtype=np.float64)), float(np.sqrt(variance)))


@functools.lru_cache(maxsize=32)
def network(
    shape: tuple[int, ...],
    channels: tuple[int, ...],
    num_times: int,
    dropout: float,
    moments: Moments | None,
) -> tuple[Callable[..., Array], Callable[[int], PyTree]]:
    """Returns `apply` of a U-Net, and a function from the seed to its first parameters."""
    make = functools.partial(
        fmjax.models.UNet, shape, channels=channels, num_times=num_times, dropout=dropout
    )
    apply, _ = fmjax.models.functional(make(rngs=nnx.Rngs(0)))
    if moments is not None:
        apply = _conditioned(apply, moments)
    return apply, lambda seed: fmjax.models.functional(make(rngs=nnx.Rngs(seed)))[1]


def _conditioned(network: Callable[..., Array], moments: Moments) -> Callable[..., Array]:
    """Returns `apply` of the velocity whose linear part is known and whose rest is the network."""

    def apply(params: PyTree, x: Array, t: Array, key: Key | None = None) -> Array:
        rest = functools.partial(network, params, key=key)
        return fmjax.predictions.conditioned(rest, path, moments.std, moments.mean)(x, t)

    return apply
