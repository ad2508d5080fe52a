"""A small U-Net for images: down to a coarse grid, attention there, and up again.

Each level works at half the resolution of the level above. On the way down a 3x3 convolution with
stride 2 leads to the next level, and the features are kept. On the way up the coarse features are
repeated to the finer grid (nearest neighbor) and joined with the kept features by

    h <- up(W h) + U skip,

which is a 1x1 convolution of both side by side. The coarse part is computed before the repetition,
where it costs a quarter. The 3x3 convolutions of the following block smooth the result. Odd sizes
are rounded up on the way down (7 -> 4) and cropped on the way up, so any height and width work.

Reference:
  Ronneberger et al. (2015), U-Net, arXiv 1505.04597; Ho et al. (2020), Denoising Diffusion
  Probabilistic Models, arXiv 2006.11239, appendix B.
"""

from __future__ import annotations

import itertools
import numbers
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx

from fmjax.models import layers
from fmjax.models._context import Context
from fmjax.models.blocks import Attention, ResidualBlock
from fmjax.types import Array

__all__ = ["Levels", "UNet", "repeat_to"]


def repeat_to(x: Array, *sizes: int) -> Array:
    """Doubles the resolution of an image or a sequence by repetition, and crops it to a size.

    Args:
      x: `[*positions, c]`.
      *sizes: sizes of the result, at most twice the size of `x` along each axis of positions.

    Returns:
      `[*sizes, c]`; the pixel at `(i, j)` is the pixel of `x` at `(i // 2, j // 2)`.

    Example:
      >>> import fmjax
      >>> import jax.numpy as jnp
      >>> fmjax.models.unet.repeat_to(jnp.array([[[1.0], [2.0]]]), 1, 3)[..., 0].tolist()
      [[1.0, 1.0, 2.0]]
    """
    *coarse, channels = x.shape
    apart = jnp.expand_dims(x, range(1, 2 * len(coarse), 2))
    pairs = [number for size in coarse for number in (size, 2)]
    doubled = jnp.broadcast_to(apart, (*pairs, channels))
    doubled = doubled.reshape(*(2 * size for size in coarse), channels)
    return doubled[tuple(slice(size) for size in sizes)]


class _Merge(nnx.Module):
    """Brings coarse features to the finer grid and joins the kept ones."""

    def __init__(self, coarse, fine, *, param_dtype, rngs):
        options = {"param_dtype": param_dtype, "rngs": rngs}
        self.from_coarse = nnx.Linear(coarse, fine, **options)
        self.from_skip = nnx.Linear(fine, fine, use_bias=False, **options)

    def __call__(self, x: Array, skip: Array) -> Array:
        """Returns `[*positions, fine]`, the size of `skip`."""
        return repeat_to(self.from_coarse(x), *skip.shape[:-1]) + self.from_skip(skip)


class Levels(nnx.Module):
    """The levels of a U-Net, down and up again, over any number of axes of positions."""

    def add_levels(self, channels, num_blocks, *, kernel_size, param_dtype, rngs, **block):
        """Makes the layers of all levels; `num_blocks` has one entry for each."""
        options = {"param_dtype": param_dtype, "rngs": rngs}
        block = {"kernel_size": kernel_size, **block, **options}
        self.down = layers.List([])
        self.halve = layers.List([])
        self.merge = layers.List([])
        self.up = layers.List([])
        above = (channels[0], *channels[:-1])
        for before, here, count in zip(above, channels, num_blocks, strict=True):
            self.down.append(_blocks(before, here, count, **block))
            self.up.append(_blocks(here, here, count, **block))
        for fine, coarse in itertools.pairwise(channels):
            self.halve.append(nnx.Conv(fine, fine, kernel_size, strides=2, **options))
            self.merge.append(_Merge(coarse, fine, **options))

    def through_levels(
        self,
        hidden: Array,
        embedding: Array,
        attend: Callable[[int, Array], Array] = lambda level, x: x,  # noqa: ARG005
    ) -> Array:
        """Returns the features `[*positions, channels[0]]` after all levels."""
        skips = []
        for level, blocks in enumerate(self.down):
            if level > 0:
                skips.append(hidden)
                hidden = self.halve[level - 1](hidden)
            hidden = attend(level, _apply(blocks, hidden, embedding))
        for level, blocks in reversed(list(enumerate(self.up))):
            hidden = _apply(blocks, hidden, embedding)
            if level > 0:
                hidden = self.merge[level - 1](hidden, skips.pop())
        return hidden


class UNet(Levels):
    """A convolutional network `model(x, *times, context=None) -> dx` of one image.

    The output starts at exactly zero. Cost of a call with one block a level, counted by XLA:

    | shape       | channels     | MFLOP | parameters |
    |-------------|--------------|-------|------------|
    | (8, 8, 1)   | (32, 64)     | 8.4   | 0.26 M     |
    | (28, 28, 1) | (32, 64, 64) | 131   | 0.48 M     |
    | (32, 32, 3) | (32, 64, 64) | 175   | 0.48 M     |

    Attention over n positions holds `num_heads` matrices of n x n numbers, `4 num_heads n^2` bytes
    for each example of a batch, and three times that in a gradient. At (128, 128, 3) a call with
    two levels (n = 64 * 64) took 291 MB, its gradient 884 MB; without attention 10 MB and 71 MB;
    with four levels (n = 16 * 16) 6 MB and 83 MB.

    A directional derivative costs about the same again. So an exact divergence costs as many calls
    as the image has entries.

    Args:
      shape: `(height, width, channels)` of one image, any sizes.
      channels: features of each level, from the image's resolution to the coarsest.
      num_blocks: residual blocks of a level on the way down, and again on the way up.
      num_times: 1 for a velocity `(x, t)`, 2 for an average velocity `(x, r, t)`.
      num_classes: classes of a label `context`; 0 for a network without labels.
      context: entries of a vector `context`; 0 for a network without.
      attention: the levels with self-attention after their blocks on the way down, counted from
        0, the image's resolution, or from -1, the coarsest; `()` for none.
      num_heads: heads of the attention, a divisor of the channels of its levels.
      num_groups: groups of each normalization, a divisor of every entry of `channels`.
      dropout: probability of dropping a feature in training, in [0, 1).
      param_dtype: dtype of the parameters; float64 needs `jax.enable_x64`.
      rngs: random streams of flax, `nnx.Rngs(seed)`.

    Raises:
      ValueError: if `shape` is not of three sizes, a size is not a positive integer, channels
        are not divisible, `dropout` is outside [0, 1), or labels and vectors are both asked for;
        on a call, if `x` or `context` is not what the network was built for, or the number of
        times differs.

    Example:
      >>> import fmjax
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from flax import nnx
      >>> network = fmjax.models.UNet((5, 7, 3), channels=(8, 8), rngs=nnx.Rngs(0))
      >>> apply, params = fmjax.models.functional(network)
      >>> dx = jax.jit(apply)(params, jnp.ones((5, 7, 3)), 0.5)
      >>> dx.shape, float(abs(dx).max())  # the last convolution starts at zero
      ((5, 7, 3), 0.0)

    Reference:
      Ho et al. (2020), arXiv 2006.11239, appendix B. [ho2020denoising]
    """

    def __init__(
        self,
        shape,
        *,
        channels=(32, 64),
        num_blocks=1,
        num_times=1,
        num_classes=0,
        context=0,
        attention=(-1,),
        num_heads=4,
        num_groups=8,
        dropout=0.0,
        param_dtype=jnp.float32,
        rngs,
    ):
        self.shape, self.num_times = _checked(shape, channels, num_blocks), num_times
        options = {"param_dtype": param_dtype, "rngs": rngs}
        zeros = nnx.initializers.zeros
        first, last, time = channels[0], channels[-1], 4 * channels[0]
        self.embed = layers.TimeEmbedding(num_times=num_times, features=time, **options)
        condition = {"num_classes": num_classes, "size": context, "features": time}
        self.condition = Context(**condition, **options)
        self.conv_in = nnx.Conv(self.shape[-1], first, (3, 3), **options)
        block = {"time_features": time, "num_groups": num_groups, "dropout_rate": dropout}
        blocks = [num_blocks] * len(channels)
        self.add_levels(channels, blocks, kernel_size=(3, 3), **block, **options)
        heads = {"num_heads": num_heads, "num_groups": num_groups}
        levels = _levels(attention, len(channels))
        coarsest = len(channels) - 1 in levels
        self.attention = Attention(last, **heads, **options) if coarsest else None
        self.finer = tuple(level for level in levels if level < len(channels) - 1)
        self.finer_attention = layers.List(
            [Attention(channels[level], **heads, **options) for level in self.finer]
        )
        self.norm_out = layers.GroupNorm(first, num_groups=num_groups, **options)
        self.conv_out = nnx.Conv(first, self.shape[-1], (3, 3), kernel_init=zeros, **options)

    def __call__(self, x: Array, *times: Array, context: Array | int | None = None) -> Array:
        """Returns `[h, w, c]` for one image, scalar times in [0, 1] and its context.

        Args:
          x: `[h, w, c]`.
          *times: `[]` each.
          context: a label `[]`, where `num_classes` is the null label, or a vector `[context]`,
            where zeros are the null, for a network that was built with one.
        """
        layers.example(x, times, shape=self.shape, num_times=self.num_times)
        embedding = self.embed(*times, shift=self.condition(context))
        hidden = self.through_levels(self.conv_in(x), embedding, self._attend)
        return self.conv_out(jax.nn.silu(self.norm_out(hidden)))

    def _attend(self, level: int, hidden: Array) -> Array:
        """Returns the features of a level after its attention, if it has one."""
        if level in self.finer:
            return self.finer_attention[self.finer.index(level)](hidden)
        coarsest = level == len(self.down) - 1 and self.attention is not None
        return self.attention(hidden) if coarsest else hidden


def _levels(attention, count) -> list[int]:
    """Returns the levels with attention, counted from 0, or says which there is not."""
    whole = isinstance(attention, tuple | list)
    whole = whole and all(isinstance(level, numbers.Integral) for level in attention)
    if not whole or not all(-count <= level < count for level in attention):
        message = (
            f"attention must name levels from {-count} to {count - 1}, got {attention}: write "
            "(-1,) for the coarsest level alone, () for none."
        )
        raise ValueError(message)
    return sorted({level % count for level in attention})


def _checked(shape, channels, num_blocks) -> tuple[int, ...]:
    """Returns the image's shape, or says which of the sizes does not fit."""
    if isinstance(shape, int) or len(shape) != 3:
        message = (
            f"shape must be (height, width, channels) of one image, got {shape}: a gray image "
            "ends in a channel axis of size 1, and the batch is the caller's jax.vmap."
        )
        raise ValueError(message)
    layers.positive(height=shape[0], width=shape[1], channels=shape[2], num_blocks=num_blocks)
    if len(channels) == 0:
        message = "channels must name the features of at least one level, got none."
        raise ValueError(message)
    for size in channels:
        layers.positive(channels=size)
    return tuple(shape)


def _blocks(channels_in, channels, count, **options) -> layers.List:
    """Returns `count` residual blocks, the first of which may change the channels."""
    sizes = [channels_in] + [channels] * count
    return layers.List(
        [ResidualBlock(before, after, **options) for before, after in itertools.pairwise(sizes)]
    )


def _apply(blocks: layers.List, hidden: Array, embedding: Array) -> Array:
    """Returns the features after all blocks of one level."""
    for block in blocks:
        hidden = block(hidden, embedding)
    return hidden
