"""A U-Net for sequences, such as the states of a dynamical system at equal steps of time.

It is the network of `fmjax.models.unet` with one axis of positions: levels of residual blocks,
halved by a convolution with stride 2 on the way down and joined with the kept features on the way
up. There is no attention: distant positions interact at the coarsest level and in the
normalization.

What is known about a sequence but not part of the state, such as a mask and the values of known
entries, enters as further features of each position,

    h = conv([x, context]),

and can be bound before the network becomes a velocity: `partial(apply, params, context=c)`.

Reference:
  Ronneberger et al. (2015), U-Net, arXiv 1505.04597; Finzi et al. (2023), User-defined Event
  Sampling and Uncertainty Quantification in Diffusion Models for Physical Dynamical Systems,
  arXiv 2306.07526.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from fmjax.models import layers, unet
from fmjax.models._context import Context, beside, either
from fmjax.types import Array

__all__ = ["Conv1D"]


class Conv1D(unet.Levels):
    """A convolutional network `model(x, *times, context=None) -> dx` of one sequence.

    The output starts at exactly zero. Cost of a call on a sequence of 60 positions with 4
    features, counted by XLA; the last row has the blocks of Finzi et al.:

    | channels      | num_blocks | MFLOP | parameters |
    |---------------|------------|-------|------------|
    | (16, 32, 64)  | 1          | 2.9   | 0.10 M     |
    | (32, 64, 128) | 1          | 11.3  | 0.40 M     |
    | (32, 64, 128) | (4, 8, 8)  | 78.7  | 2.91 M     |

    Args:
      shape: `(length, features)` of one sequence, any sizes.
      channels: features of each level, from the full length to the coarsest.
      num_blocks: residual blocks of a level on the way down, and again on the way up; one number
        for all levels, or one for each.
      kernel_size: number of positions in the window of a convolution.
      num_times: 1 for a velocity `(x, t)`, 2 for an average velocity `(x, r, t)`.
      num_classes: classes of a label `context`; 0 for a network without labels.
      context: features of the context of each position; 0 for a network without.
      num_groups: groups of each normalization, a divisor of every entry of `channels`.
      dropout: probability of dropping a feature in training, in [0, 1).
      param_dtype: dtype of the parameters; float64 needs `jax.enable_x64`.
      rngs: random streams of flax, `nnx.Rngs(seed)`.

    Raises:
      ValueError: if `shape` is not of two sizes, a size is not a positive integer, channels are
        not divisible, there is not one number of blocks for each level, `dropout` is outside
        [0, 1), or labels and features are both asked for; on a call, if `x` or `context` is not
        what the network was built for, or the number of times differs.

    Example:
      >>> import fmjax
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from flax import nnx
      >>> network = fmjax.models.Conv1D((7, 3), channels=(8, 8), context=2, rngs=nnx.Rngs(0))
      >>> apply, params = fmjax.models.functional(network)
      >>> dx = jax.jit(apply)(params, jnp.ones((7, 3)), 0.5, context=jnp.zeros((7, 2)))
      >>> dx.shape, float(abs(dx).max())  # the last convolution starts at zero
      ((7, 3), 0.0)

    Reference:
      Finzi et al. (2023), arXiv 2306.07526, appendix. [finzi2023user]
    """

    def __init__(
        self,
        shape,
        *,
        channels=(32, 64, 128),
        num_blocks=1,
        kernel_size=3,
        num_times=1,
        num_classes=0,
        context=0,
        num_groups=8,
        dropout=0.0,
        param_dtype=jnp.float32,
        rngs,
    ):
        self.shape, num_blocks = _checked(shape, channels, num_blocks)
        layers.positive(kernel_size=kernel_size)
        either(num_classes=num_classes, context=context)
        self.num_times, self.context = num_times, context
        options = {"param_dtype": param_dtype, "rngs": rngs}
        zeros = nnx.initializers.zeros
        kernel, features = (kernel_size,), self.shape[-1]
        first, time = channels[0], 4 * channels[0]
        self.embed = layers.TimeEmbedding(num_times=num_times, features=time, **options)
        # Features of positions are no part of it: they enter beside the sequence.
        self.condition = Context(num_classes=num_classes, size=0, features=time, **options)
        self.conv_in = nnx.Conv(features + context, first, kernel, **options)
        block = {"time_features": time, "num_groups": num_groups, "dropout_rate": dropout}
        self.add_levels(channels, num_blocks, kernel_size=kernel, **block, **options)
        self.norm_out = layers.GroupNorm(first, num_groups=num_groups, **options)
        self.conv_out = nnx.Conv(first, features, kernel, kernel_init=zeros, **options)

    def __call__(self, x: Array, *times: Array, context: Array | int | None = None) -> Array:
        """Returns `[length, features]` for one sequence, scalar times in [0, 1] and its context.

        Args:
          x: `[length, features]`.
          *times: `[]` each.
          context: `[length, context]`, or a label `[]`, where `num_classes` is the null label,
            for a network that was built with one.
        """
        layers.example(x, times, shape=self.shape, num_times=self.num_times)
        hidden = x
        if self.context:
            hidden = beside(x, context, self.context)
            context = None  # used up
        embedding = self.embed(*times, shift=self.condition(context))
        hidden = self.through_levels(self.conv_in(hidden), embedding)
        return self.conv_out(jax.nn.silu(self.norm_out(hidden)))


def _checked(shape, channels, num_blocks) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Returns the shape and one number of blocks for each level, or says which does not fit."""
    if isinstance(shape, int | np.integer) or len(shape) != 2:
        message = (
            f"shape must be (length, features) of one sequence, got {shape}: a single series ends "
            "in a feature axis of size 1, and the batch is the caller's jax.vmap."
        )
        raise ValueError(message)
    layers.positive(length=shape[0], features=shape[1])
    each = isinstance(num_blocks, int | np.integer)
    blocks = (num_blocks,) * len(channels) if each else tuple(num_blocks)
    if len(channels) == 0 or len(blocks) != len(channels):
        message = (
            "channels and num_blocks must have one entry for each of one or more levels, got "
            f"{channels} and {num_blocks}: a single number of blocks serves all levels."
        )
        raise ValueError(message)
    for size, count in zip(channels, blocks, strict=True):
        layers.positive(channels=size, num_blocks=count)
    return tuple(shape), blocks
