"""A residual multilayer perceptron for vectors and anything small enough to be one.

The example is flattened, and each of `depth` blocks adds two dense layers, the first of which
is shifted by the embedded times e:

    h <- h + W_2 act(W_1 h + W_e e + b),     W_2 = 0 at the start.

There is no normalization: in few dimensions it removed the scale of x and fitted a known velocity
less well. All activations are smooth, since an adaptive solver must cut its step at each kink.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from fmjax.models import layers
from fmjax.models._context import Context
from fmjax.types import Array

__all__ = ["MLP"]

_TIME_FEATURES = 128


class _Block(nnx.Module):
    """One residual block of the perceptron; see the module's formula."""

    def __init__(self, width, *, dropout, activation, param_dtype, rngs):
        options = {"param_dtype": param_dtype, "rngs": rngs}
        zeros = nnx.initializers.zeros
        self.activation = activation
        self.dense_in = nnx.Linear(width, width, **options)
        self.time = nnx.Linear(_TIME_FEATURES, width, use_bias=False, **options)
        self.dropout = layers.dropout(dropout, rngs=rngs)
        self.dense_out = nnx.Linear(width, width, kernel_init=zeros, **options)

    def __call__(self, hidden: Array, embedding: Array) -> Array:
        """Returns the next hidden vector `[width]`."""
        inner = self.activation(self.dense_in(hidden) + self.time(embedding))
        return hidden + self.dense_out(self.dropout(inner))


class MLP(nnx.Module):
    """A residual perceptron `model(x, *times, context=None) -> dx` of one example.

    The output starts at exactly zero. With `d` numbers in an example a call costs about
    `depth (4 width^2 + 256 width) + 4 d width` FLOP: 1.0 MFLOP at the defaults and d = 2.

    Args:
      shape: shape of one example `[*dims]`, or an integer for a vector.
      width: size of the hidden layers.
      depth: number of residual blocks, of two dense layers each.
      num_times: 1 for a velocity `(x, t)`, 2 for an average velocity `(x, r, t)`.
      num_classes: classes of a label `context`; 0 for a network without labels.
      context: entries of a vector `context`; 0 for a network without.
      dropout: probability of dropping a hidden entry in training, in [0, 1).
      activation: smooth function applied elementwise.
      param_dtype: dtype of the parameters; float64 needs `jax.enable_x64`.
      rngs: random streams of flax, `nnx.Rngs(seed)`.

    Raises:
      ValueError: if a size is not a positive integer, `dropout` is outside [0, 1), or labels and
        vectors are both asked for; on a call, if `x` or `context` is not what the network was
        built for, or the number of times differs.

    Example:
      >>> import fmjax
      >>> import jax.numpy as jnp
      >>> from flax import nnx
      >>> model = fmjax.models.MLP((3, 2), width=16, rngs=nnx.Rngs(0))
      >>> model(jnp.ones((3, 2)), 0.5).tolist()  # the last layer starts at zero
      [[0.0, 0.0], [0.0, 0.0], [0.0, 0.0]]

    Reference:
      He et al. (2016), Identity Mappings in Deep Residual Networks, arXiv 1603.05027.
      [he2016identity]
    """

    def __init__(
        self,
        shape,
        *,
        width=256,
        depth=3,
        num_times=1,
        num_classes=0,
        context=0,
        dropout=0.0,
        activation=jax.nn.silu,
        param_dtype=jnp.float32,
        rngs,
    ):
        self.shape = (shape,) if isinstance(shape, int | np.integer) else tuple(shape)
        self.num_times = num_times
        self.activation = activation
        layers.positive(width=width, depth=depth, num_times=num_times)
        for size in self.shape:
            layers.positive(shape=size)
        options = {"param_dtype": param_dtype, "rngs": rngs}
        size = math.prod(self.shape)
        self.embed = layers.TimeEmbedding(num_times=num_times, features=_TIME_FEATURES, **options)
        condition = {"num_classes": num_classes, "size": context, "features": _TIME_FEATURES}
        self.condition = Context(**condition, **options)
        self.dense_in = nnx.Linear(size, width, **options)
        block = {"dropout": dropout, "activation": activation, **options}
        self.blocks = layers.List([_Block(width, **block) for _ in range(depth)])
        self.dense_out = nnx.Linear(width, size, kernel_init=nnx.initializers.zeros, **options)

    def __call__(self, x: Array, *times: Array, context: Array | int | None = None) -> Array:
        """Returns `[*dims]` for one example, scalar times in [0, 1] and its context.

        Args:
          x: `[*dims]`.
          *times: `[]` each.
          context: a label `[]`, where `num_classes` is the null label, or a vector `[context]`,
            where zeros are the null, for a network that was built with one.
        """
        layers.example(x, times, shape=self.shape, num_times=self.num_times)
        embedding = self.embed(*times, shift=self.condition(context))
        hidden = self.dense_in(jnp.ravel(x))
        for block in self.blocks:
            hidden = block(hidden, embedding)
        return self.dense_out(self.activation(hidden)).reshape(self.shape)
