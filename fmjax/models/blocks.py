"""The blocks of the networks of images and sequences, each for one example.

A residual block scales and shifts normalized features by the embedded time (FiLM),

    h <- h + conv(silu((1 + scale) norm(h') + shift)),     h' = conv(silu(norm(h))),  (1)

and its last layer starts at zero: every block starts as the identity.

References:
  Vaswani et al. (2017), Attention Is All You Need, arXiv 1706.03762 (attention).
  Perez et al. (2018), FiLM, arXiv 1709.07871.
  Dhariwal and Nichol (2021), Diffusion Models Beat GANs, arXiv 2105.05233, section 3 (block).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from fmjax.models import layers
from fmjax.types import Array

__all__ = ["Attention", "ResidualBlock"]


def _at_every_position(vector: Array, x: Array) -> Array:
    """Returns `[channels]` with as many leading axes of size one as `x` `[*dims, channels]` has."""
    return jnp.expand_dims(vector, range(x.ndim - 1))


class ResidualBlock(nnx.Module):
    """Adds two convolutions of an image or a sequence to it, conditioned on time, eq. (1).

    Args:
      channels_in: channels of the input; a dense layer per position adapts it to `channels`.
      channels: channels of the result.
      kernel_size: sizes of both convolutions, one for each axis of positions.
      time_features: length of the time embedding.
      num_groups: groups of the normalization, a divisor of both numbers of channels.
      dropout_rate: probability of dropout before the last convolution, in [0, 1).
      param_dtype: dtype of the parameters.
      rngs: random streams of flax.

    Example:
      >>> import fmjax
      >>> import jax.numpy as jnp
      >>> from flax import nnx
      >>> options = {"time_features": 8, "num_groups": 4, "rngs": nnx.Rngs(0)}
      >>> block = fmjax.models.blocks.ResidualBlock(4, 4, **options)
      >>> image = jnp.arange(36.0).reshape(3, 3, 4)
      >>> bool((block(image, jnp.ones(8)) == image).all())  # starts as the identity
      True

    Reference:
      Dhariwal and Nichol (2021), arXiv 2105.05233, section 3. [dhariwal2021diffusion]
    """

    def __init__(
        self,
        channels_in,
        channels,
        *,
        kernel_size=(3, 3),
        time_features,
        num_groups,
        dropout_rate=0.0,
        param_dtype=jnp.float32,
        rngs,
    ):
        options = {"param_dtype": param_dtype, "rngs": rngs}
        zeros = nnx.initializers.zeros
        self.norm_in = layers.GroupNorm(channels_in, num_groups=num_groups, **options)
        self.conv_in = nnx.Conv(channels_in, channels, kernel_size, **options)
        self.film = nnx.Linear(time_features, 2 * channels, **options)
        self.norm_out = layers.GroupNorm(channels, num_groups=num_groups, **options)
        self.dropout = layers.dropout(dropout_rate, rngs=rngs)
        self.conv_out = nnx.Conv(channels, channels, kernel_size, kernel_init=zeros, **options)
        same = channels_in == channels
        self.adapt = None if same else nnx.Linear(channels_in, channels, **options)

    def __call__(self, x: Array, embedding: Array) -> Array:
        """Returns `[*positions, channels]` of one example and its time embedding."""
        hidden = self.conv_in(jax.nn.silu(self.norm_in(x)))
        scale, offset = jnp.split(self.film(embedding), 2)
        normal = self.norm_out(hidden)
        hidden = _at_every_position(1.0 + scale, x) * normal + _at_every_position(offset, x)
        hidden = self.conv_out(self.dropout(jax.nn.silu(hidden)))
        return hidden + (x if self.adapt is None else self.adapt(x))


class Attention(nnx.Module):
    """Adds self-attention over all positions of one example to it.

    Args:
      channels: size of the last axis.
      num_heads: number of heads, a divisor of `channels`.
      num_groups: groups of the normalization in front, a divisor of `channels`.
      param_dtype: dtype of the parameters.
      rngs: random streams of flax.

    Example:
      >>> import fmjax
      >>> import jax.numpy as jnp
      >>> from flax import nnx
      >>> attention = fmjax.models.blocks.Attention(4, num_heads=2, num_groups=2, rngs=nnx.Rngs(0))
      >>> image = jnp.arange(36.0).reshape(3, 3, 4)
      >>> bool((attention(image) == image).all())  # starts as the identity
      True

    Reference:
      Vaswani et al. (2017), arXiv 1706.03762, eq. (1). [vaswani2017attention]
    """

    def __init__(self, channels, *, num_heads, num_groups, param_dtype=jnp.float32, rngs):
        layers.divisible(channels, num_heads=num_heads, num_groups=num_groups)
        options = {"param_dtype": param_dtype, "rngs": rngs}
        self.num_heads = num_heads
        self.norm = layers.GroupNorm(channels, num_groups=num_groups, **options)
        self.project_in = nnx.Linear(channels, 3 * channels, **options)
        options["kernel_init"] = nnx.initializers.zeros
        self.project_out = nnx.Linear(channels, channels, **options)

    def __call__(self, x: Array) -> Array:
        """Returns `[*dims, channels]`, the input plus what its positions read of each other."""
        size = x.shape[-1] // self.num_heads
        tokens = self.project_in(self.norm(x)).reshape(-1, 3, self.num_heads, size)
        query, key, value = tokens[:, 0], tokens[:, 1], tokens[:, 2]
        scores = jnp.einsum("ihc,jhc->hij", query * size**-0.5, key)
        weights = jax.nn.softmax(scores.astype(jnp.promote_types(scores.dtype, jnp.float32)))
        read = jnp.einsum("hij,jhc->ihc", weights.astype(value.dtype), value)
        return x + self.project_out(read.reshape(x.shape))
