"""A transformer over tokens, such as the cells of a latent image or the letters of a sequence.

Times and labels enter by adaptive layer norm. Each of `depth` blocks adds self-attention and a
perceptron to every token, between a scale, a shift and a gate that are linear in the embedding e,

    h <- h + gate_1 * attention((1 + scale_1) norm(h) + shift_1),
    h <- h + gate_2 * W_2 silu(W_1 ((1 + scale_2) norm(h) + shift_2)).                       (1)

All of these start at zero, so every block starts as the identity, and the last layer starts at
zero as well. `norm` gives every token mean 0 and variance 1 over its features. A bias after a shift
would be another one, so W_1 and the queries, keys and values have none; on CPUs its gradient, a sum
over all tokens, is the slowest part of a directional derivative of (1).

What is known beside the tokens, such as those of an earlier frame, enters as further features of
each token, h = W [x, context] + P. The positions P are learned, one vector for each token, so the
network does not ask how tokens lie in space.

Attention is plain products and a softmax: a directional derivative takes two products for each of
them, and nothing else is computed again. Times have no tangent in x, so neither has (1)'s scale.

References:
  Peebles and Xie (2023), Scalable Diffusion Models with Transformers, arXiv 2212.09748.
  Vaswani et al. (2017), Attention Is All You Need, arXiv 1706.03762 (attention).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from fmjax.models import layers
from fmjax.models._context import Context, beside, either
from fmjax.types import Array

__all__ = ["DiT"]

_EPSILON = 1e-6  # added to the variance of a token


def _normal(x: Array) -> Array:
    """Returns `[tokens, width]` with mean 0 and variance 1 of each token, in float32 at least."""
    rows = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    centered = rows - rows.mean(-1, keepdims=True)
    inverse = jax.lax.rsqrt((centered**2).mean(-1, keepdims=True) + _EPSILON)
    return (centered * inverse).astype(x.dtype)


def _modulated(x: Array, shift: Array, scale: Array) -> Array:
    """Returns the normalized tokens, scaled and shifted alike."""
    return (1.0 + scale)[None] * _normal(x) + shift[None]


class _Attention(nnx.Module):
    """Self-attention of all tokens, without the sum."""

    def __init__(self, width, *, num_heads, param_dtype, rngs):
        options = {"param_dtype": param_dtype, "rngs": rngs}
        self.num_heads = num_heads
        self.project_in = nnx.Linear(width, 3 * width, use_bias=False, **options)
        self.project_out = nnx.Linear(width, width, **options)

    def __call__(self, x: Array) -> Array:
        """Returns `[tokens, width]`."""
        tokens = self.project_in(x).reshape(len(x), 3, self.num_heads, -1)
        query, key, value = tokens[:, 0], tokens[:, 1], tokens[:, 2]
        scores = jnp.einsum("ihc,jhc->hij", query * query.shape[-1] ** -0.5, key)
        weights = jax.nn.softmax(scores.astype(jnp.promote_types(scores.dtype, jnp.float32)))
        read = jnp.einsum("hij,jhc->ihc", weights.astype(value.dtype), value)
        return self.project_out(read.reshape(x.shape))


class _Block(nnx.Module):
    """Attention and a perceptron, each added to the tokens, eq. (1)."""

    def __init__(self, width, *, num_heads, expansion, dropout_rate, param_dtype, rngs):
        options = {"param_dtype": param_dtype, "rngs": rngs}
        zeros = nnx.initializers.zeros
        self.modulate = nnx.Linear(width, 6 * width, kernel_init=zeros, **options)
        self.attention = _Attention(width, num_heads=num_heads, **options)
        self.dense_in = nnx.Linear(width, expansion * width, use_bias=False, **options)
        self.dropout = layers.dropout(dropout_rate, rngs=rngs)
        self.dense_out = nnx.Linear(expansion * width, width, **options)

    def __call__(self, x: Array, embedding: Array) -> Array:
        """Returns the next tokens `[tokens, width]`."""
        shift, scale, gate, *second = jnp.split(self.modulate(embedding), 6)
        x = x + gate[None] * self.attention(_modulated(x, shift, scale))
        shift, scale, gate = second
        hidden = jax.nn.silu(self.dense_in(_modulated(x, shift, scale)))
        return x + gate[None] * self.dense_out(self.dropout(hidden))


class DiT(nnx.Module):
    """A transformer `model(x, *times, context=None) -> dx` of the tokens of one example.

    The output starts at exactly zero. Cost of a call with 8 features of a token, counted by XLA:

    | tokens | width | depth | MFLOP | parameters |
    |--------|-------|-------|-------|------------|
    | 16     | 64    | 2     | 3.5   | 0.16 M     |
    | 64     | 128   | 4     | 112   | 1.24 M     |
    | 256    | 128   | 4     | 548   | 1.26 M     |

    Attention holds `num_heads` matrices of tokens x tokens numbers in every block.

    Args:
      shape: `(tokens, features)` of one example, any sizes; an image is `x.reshape(-1, c)`.
      width: features of a token inside.
      depth: number of blocks.
      num_heads: heads of the attention, a divisor of `width`.
      expansion: the perceptron of a block has `expansion * width` hidden features.
      num_times: 1 for a velocity `(x, t)`, 2 for an average velocity `(x, r, t)`.
      num_classes: classes of a label `context`; 0 for a network without labels.
      context: features of the context of each token; 0 for a network without.
      dropout: probability of dropping a hidden feature in training, in [0, 1).
      param_dtype: dtype of the parameters; float64 needs `jax.enable_x64`.
      rngs: random streams of flax, `nnx.Rngs(seed)`.

    Raises:
      ValueError: if `shape` is not of two sizes, a size is not a positive integer, the width is
        not divisible, `dropout` is outside [0, 1), or labels and features are both asked for; on
        a call, if `x` or `context` is not what the network was built for, or the number of times
        differs.

    Example:
      >>> import fmjax
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from flax import nnx
      >>> network = fmjax.models.DiT((6, 3), width=16, depth=1, context=2, rngs=nnx.Rngs(0))
      >>> apply, params = fmjax.models.functional(network)
      >>> dx = jax.jit(apply)(params, jnp.ones((6, 3)), 0.5, context=jnp.zeros((6, 2)))
      >>> dx.shape, float(abs(dx).max())  # the last layer starts at zero
      ((6, 3), 0.0)

    Reference:
      Peebles and Xie (2023), arXiv 2212.09748, section 3.2, adaLN-Zero. [peebles2023scalable]
    """

    def __init__(
        self,
        shape,
        *,
        width=128,
        depth=4,
        num_heads=4,
        expansion=4,
        num_times=1,
        num_classes=0,
        context=0,
        dropout=0.0,
        param_dtype=jnp.float32,
        rngs,
    ):
        self.shape, self.num_times, self.context = _checked(shape), num_times, context
        layers.positive(width=width, depth=depth, expansion=expansion)
        layers.divisible(width, num_heads=num_heads)
        either(num_classes=num_classes, context=context)
        options = {"param_dtype": param_dtype, "rngs": rngs}
        zeros = nnx.initializers.zeros
        tokens, features = self.shape
        self.embed = layers.TimeEmbedding(num_times=num_times, features=width, **options)
        # Features of tokens are no part of it: they enter beside the tokens.
        self.condition = Context(num_classes=num_classes, size=0, features=width, **options)
        self.dense_in = nnx.Linear(features + context, width, **options)
        positions = 0.02 * jax.random.normal(rngs.params(), (tokens, width), param_dtype)
        self.positions = nnx.Param(positions)
        block = {"num_heads": num_heads, "expansion": expansion, "dropout_rate": dropout}
        self.blocks = layers.List([_Block(width, **block, **options) for _ in range(depth)])
        self.modulate = nnx.Linear(width, 2 * width, kernel_init=zeros, **options)
        self.dense_out = nnx.Linear(width, features, kernel_init=zeros, **options)

    def __call__(self, x: Array, *times: Array, context: Array | int | None = None) -> Array:
        """Returns `[tokens, features]` for one example, scalar times in [0, 1] and its context.

        Args:
          x: `[tokens, features]`.
          *times: `[]` each.
          context: `[tokens, context]`, or a label `[]`, where `num_classes` is the null label,
            for a network that was built with one.
        """
        layers.example(x, times, shape=self.shape, num_times=self.num_times)
        hidden = x
        if self.context:
            hidden = beside(x, context, self.context)
            context = None  # used up
        embedding = self.embed(*times, shift=self.condition(context))
        hidden = self.dense_in(hidden) + self.positions[...]
        for block in self.blocks:
            hidden = block(hidden, embedding)
        shift, scale = jnp.split(self.modulate(embedding), 2)
        return self.dense_out(_modulated(hidden, shift, scale))


def _checked(shape) -> tuple[int, int]:
    """Returns the shape of the tokens, or says which of the sizes does not fit."""
    if isinstance(shape, int | np.integer) or len(shape) != 2:
        message = (
            f"shape must be (tokens, features) of one example, got {shape}: an image [h, w, c] is "
            "x.reshape(-1, c), and the batch is the caller's jax.vmap."
        )
        raise ValueError(message)
    layers.positive(tokens=shape[0], features=shape[1])
    return tuple(shape)
