"""The networks of `experiments.fdm.promoters`: dilated convolutions over the letters.

Each block adds to its input a convolution of the normalized input and the time,

    h <- h + relu(conv(norm(h + W e(t, label)))),                                  (1)

so that with the dilations 1, 1, 4, 16, 64 and windows of nine letters every position sees 348
letters to either side. This is the network of Stark et al. (2024), arXiv 2402.05841, whose
promoters have 256 channels and four rounds of these dilations. There a signal along the sequence is
part of the input, and shows where the start site is; here a learned vector for each position does.
"""

import math

import jax
from flax import nnx

from fmjax.models import layers
from fmjax.types import Array

DILATIONS = (1, 1, 4, 16, 64)


class Trunk(nnx.Module):
    """Returns `[length, channels]` of a sequence `[length, letters]` and its context, a vector."""

    def __init__(self, shape, channels, rounds, kernel_size, *, rngs):
        (length, letters), (dilations, window) = shape, (DILATIONS * rounds, (kernel_size,))
        several = lambda make: layers.List([make(dilation) for dilation in dilations])  # noqa: E731
        conv = lambda d: nnx.Conv(channels, channels, window, kernel_dilation=(d,), rngs=rngs)  # noqa: E731
        self.conv_in = nnx.Conv(letters, channels, window, rngs=rngs)
        self.positions = nnx.Param(0.02 * jax.random.normal(rngs.params(), (length, channels)))
        self.convs = several(conv)
        self.norms = several(lambda _: layers.GroupNorm(channels, num_groups=1, rngs=rngs))
        self.shifts = several(lambda _: nnx.Linear(channels, channels, rngs=rngs))

    def __call__(self, x: Array, context: Array) -> Array:
        hidden = jax.nn.relu(self.conv_in(x) + self.positions[...])
        for conv, norm, shift in zip(self.convs, self.norms, self.shifts, strict=True):
            hidden = hidden + jax.nn.relu(conv(norm(hidden + shift(context)[None])))
        return hidden


class Logits(nnx.Module):
    """Returns the logits of the letters, `model(x[length, K], t, context=label)`; zero at first."""

    def __init__(self, shape, num_classes, channels, rounds, kernel_size, *, rngs):
        self.num_letters = shape[-1]
        self.embed = layers.TimeEmbedding(num_times=1, features=channels, rngs=rngs)
        self.rows = nnx.Param(jax.random.normal(rngs.params(), (num_classes, channels)))
        self.trunk = Trunk(shape, channels, rounds, kernel_size, rngs=rngs)
        self.hidden = nnx.Linear(channels, channels, rngs=rngs)
        zeros = nnx.initializers.zeros
        self.out = nnx.Linear(channels, shape[-1], kernel_init=zeros, rngs=rngs)

    def __call__(self, x: Array, t: Array, *, context: Array) -> Array:
        embedded = self.embed(t, shift=self.rows[...][context])
        hidden = self.trunk(self.num_letters * x - 1, embedded)  # of order one, at the noise
        return self.out(jax.nn.relu(self.hidden(hidden)))


class Classifier(nnx.Module):
    """Returns the features of a sequence, `[channels]`, and the logits of its class.

    Three convolutions, the last two with strides of 4 and 2, and a dense layer over all places: a
    motif counts where it stands.
    """

    def __init__(self, shape, num_classes, channels, *, rngs):
        length, letters = shape
        self.num_letters = letters
        conv = lambda before, window, stride: nnx.Conv(  # noqa: E731
            before, channels, (window,), strides=stride, rngs=rngs
        )
        self.convs = layers.List([conv(letters, 9, 1), conv(channels, 5, 4), conv(channels, 5, 2)])
        places = math.ceil(math.ceil(length / 4) / 2)
        self.embed = nnx.Linear(places * channels, channels, rngs=rngs)
        self.classify = nnx.Linear(channels, num_classes, rngs=rngs)
        self.dropout = layers.dropout(0.3, rngs=rngs)

    def __call__(self, x: Array) -> tuple[Array, Array]:
        hidden = self.num_letters * x - 1
        for conv in self.convs:
            hidden = jax.nn.relu(conv(hidden))
        features = jax.nn.silu(self.embed(self.dropout(hidden.ravel())))
        return features, self.classify(self.dropout(features))
