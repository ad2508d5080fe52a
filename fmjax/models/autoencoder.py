"""A small convolutional autoencoder: images to latent images of a coarser grid, and back.

The encoder halves the resolution once for each entry of `channels`, by a convolution with stride 2
and a residual block without time,

    h <- h + conv(silu(norm(conv(silu(norm(h)))))),                                          (1)

whose last layer starts at zero. The decoder goes the same way back: the coarse features are
repeated to the finer grid, and a convolution smooths them. No layer but the decoder's last works at
the image's own resolution, where convolutions cost most. Odd sizes are rounded up on the way down
(7 -> 4) and cropped on the way up, so any height and width work.

Nothing bounds the latents. Trained with noise of standard deviation s and a small weight on the
squares of the latents,

    |decode(encode(x) + s n) - x|^2 + w |encode(x)|^2,    n ~ N(0, I),                       (2)

they have a bounded size and the decoder forgives what a model of latents gets wrong. That is a
variational autoencoder whose posterior has one fixed variance.

References:
  Rombach et al. (2022), High-Resolution Image Synthesis with Latent Diffusion Models,
  arXiv 2112.10752 (flows and diffusions of latents).
  Kingma and Welling (2013), Auto-Encoding Variational Bayes, arXiv 1312.6114.
"""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from fmjax import _checks
from fmjax.models import layers
from fmjax.models.unet import repeat_to
from fmjax.types import Array

__all__ = ["Decoder", "Encoder"]

_KERNEL = (3, 3)


class _Block(nnx.Module):
    """Adds two convolutions of an image to it, eq. (1)."""

    def __init__(self, channels, *, num_groups, param_dtype, rngs):
        options = {"param_dtype": param_dtype, "rngs": rngs}
        zeros = nnx.initializers.zeros
        self.norm_in = layers.GroupNorm(channels, num_groups=num_groups, **options)
        self.conv_in = nnx.Conv(channels, channels, _KERNEL, **options)
        self.norm_out = layers.GroupNorm(channels, num_groups=num_groups, **options)
        self.conv_out = nnx.Conv(channels, channels, _KERNEL, kernel_init=zeros, **options)

    def __call__(self, x: Array) -> Array:
        """Returns `[h, w, channels]`."""
        hidden = self.conv_in(jax.nn.silu(self.norm_in(x)))
        return x + self.conv_out(jax.nn.silu(self.norm_out(hidden)))


class Encoder(nnx.Module):
    """A convolutional network `model(x) -> z` from one image to its latent image.

    Its grid has the size of the image divided by two, rounded up, once for each level.

    Args:
      shape: `(height, width, channels)` of one image, any sizes.
      channels: features of each level, from half the image's resolution to the coarsest.
      num_latents: features of a cell of the latent image.
      num_groups: groups of each normalization, a divisor of every entry of `channels`.
      param_dtype: dtype of the parameters; float64 needs `jax.enable_x64`.
      rngs: random streams of flax, `nnx.Rngs(seed)`.

    Attributes:
      latent_shape: `(height, width, num_latents)` of one latent image.

    Raises:
      ValueError: if `shape` is not of three sizes, a size is not a positive integer, or channels
        are not divisible; on a call, if `x` is not one image of this shape.

    Example:
      >>> import fmjax
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from flax import nnx
      >>> network = fmjax.models.Encoder((9, 16, 1), channels=(8, 8), rngs=nnx.Rngs(0))
      >>> encode, params = fmjax.models.functional(network)
      >>> jax.jit(encode)(params, jnp.ones((9, 16, 1))).shape, network.latent_shape
      ((3, 4, 4), (3, 4, 4))

    Reference:
      Rombach et al. (2022), arXiv 2112.10752, section 3.1. [rombach2022high]
    """

    def __init__(
        self,
        shape,
        *,
        channels=(32, 64),
        num_latents=4,
        num_groups=8,
        param_dtype=jnp.float32,
        rngs,
    ):
        self.shape, sizes = _checked(shape, channels, num_latents, rngs)
        self.latent_shape = (*sizes[-1], num_latents)
        options = {"param_dtype": param_dtype, "rngs": rngs}
        steps = itertools.pairwise((self.shape[-1], *channels))
        self.halve = layers.List(
            [nnx.Conv(above, here, _KERNEL, strides=2, **options) for above, here in steps]
        )
        self.blocks = layers.List([_Block(c, num_groups=num_groups, **options) for c in channels])
        self.norm_out = layers.GroupNorm(channels[-1], num_groups=num_groups, **options)
        self.conv_out = nnx.Conv(channels[-1], num_latents, _KERNEL, **options)

    def __call__(self, x: Array) -> Array:
        """Returns the latent image `[height, width, num_latents]` of one image `[h, w, c]`."""
        hidden = _example(x, self.shape)
        for halve, block in zip(self.halve, self.blocks, strict=True):
            hidden = block(halve(hidden))
        return self.conv_out(jax.nn.silu(self.norm_out(hidden)))


class Decoder(nnx.Module):
    """A convolutional network `model(z) -> x` from one latent image to its image.

    It is built with the same numbers as its `Encoder`.

    Args:
      shape: `(height, width, channels)` of one image, any sizes.
      channels: features of each level, from half the image's resolution to the coarsest.
      num_latents: features of a cell of the latent image.
      num_groups: groups of each normalization, a divisor of every entry of `channels`.
      param_dtype: dtype of the parameters; float64 needs `jax.enable_x64`.
      rngs: random streams of flax, `nnx.Rngs(seed)`.

    Attributes:
      latent_shape: `(height, width, num_latents)` of one latent image.

    Raises:
      ValueError: as `Encoder`; on a call, if `z` is not one latent image of `latent_shape`.

    Example:
      >>> import fmjax
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from flax import nnx
      >>> network = fmjax.models.Decoder((9, 16, 1), channels=(8, 8), rngs=nnx.Rngs(0))
      >>> decode, params = fmjax.models.functional(network)
      >>> jax.jit(decode)(params, jnp.ones(network.latent_shape)).shape
      (9, 16, 1)

    Reference:
      Rombach et al. (2022), arXiv 2112.10752, section 3.1. [rombach2022high]
    """

    def __init__(
        self,
        shape,
        *,
        channels=(32, 64),
        num_latents=4,
        num_groups=8,
        param_dtype=jnp.float32,
        rngs,
    ):
        self.shape, self.sizes = _checked(shape, channels, num_latents, rngs)
        self.latent_shape = (*self.sizes[-1], num_latents)
        options = {"param_dtype": param_dtype, "rngs": rngs}
        upwards = channels[::-1]
        self.conv_in = nnx.Conv(num_latents, upwards[0], _KERNEL, **options)
        self.blocks = layers.List([_Block(c, num_groups=num_groups, **options) for c in upwards])
        self.double = layers.List(
            [
                nnx.Conv(here, above, _KERNEL, **options)
                for here, above in itertools.pairwise(upwards)
            ]
        )
        self.norm_out = layers.GroupNorm(channels[0], num_groups=num_groups, **options)
        self.conv_out = nnx.Conv(channels[0], self.shape[-1], _KERNEL, **options)

    def __call__(self, z: Array) -> Array:
        """Returns the image `[h, w, c]` of one latent image `[height, width, num_latents]`."""
        hidden = self.conv_in(_example(z, self.latent_shape, name="z"))
        finer = [*self.sizes[-2::-1], self.shape[:2]]
        for block, convolve, size in zip(self.blocks, self.double, finer, strict=False):
            hidden = convolve(repeat_to(block(hidden), *size))
        hidden = jax.nn.silu(self.norm_out(self.blocks[-1](hidden)))
        return self.conv_out(repeat_to(hidden, *finer[-1]))


def _checked(shape, channels, num_latents, rngs) -> tuple[tuple[int, ...], tuple]:
    """Returns the image's shape and the grid of every level, or says what does not fit."""
    if isinstance(shape, int | np.integer) or len(shape) != 3:
        message = (
            f"shape must be (height, width, channels) of one image, got {shape}: a gray image "
            "ends in a channel axis of size 1, and the batch is the caller's jax.vmap."
        )
        raise ValueError(message)
    layers.positive(height=shape[0], width=shape[1], channels=shape[2], num_latents=num_latents)
    if isinstance(channels, int | np.integer) or len(channels) == 0:
        message = f"channels must name the features of at least one level, got {channels}."
        raise ValueError(message)
    for size in channels:
        layers.positive(channels=size)
    _checks.instance(rngs, nnx.Rngs, "rngs", "write rngs=nnx.Rngs(0)")
    sizes = [(-(-shape[0] // 2**i), -(-shape[1] // 2**i)) for i in range(1, len(channels) + 1)]
    return tuple(shape), tuple(sizes)


def _example(x: Array, shape: tuple[int, ...], name: str = "x") -> Array:
    """Returns one image as floats, or says that it is none of this shape."""
    if jnp.shape(x) != shape:
        message = (
            f"{name} must have shape {shape}, the shape this network was built for, got "
            f"{jnp.shape(x)}: one example per call is expected; wrap a batch in jax.vmap."
        )
        raise ValueError(message)
    return _checks.floating(x, name)
