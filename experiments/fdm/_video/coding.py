"""The autoencoder of frames: trained first, in a folder of its own, and its latents standardized.

It minimizes, for frames in [-1, 1] and latents z = encode(frame),

    mean (decode(z + s n) - frame)^2 + w mean z^2,    n ~ N(0, I),                            (1)

so that the decoder forgives what a flow of latents gets wrong. What the flow sees are tokens, the
latents of each cell less their mean over training frames, divided by their standard deviation.
"""

import functools
import os
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import fmjax
from experiments.fdm._video.options import Coding
from experiments.run import batches, layout, lock, loop, numbers
from fmjax.types import Array, Key, PyTree

_AT_A_TIME = 128  # frames
_FOR_SCALE = 4000  # frames, about, whose latents give mean and deviation


class Coder(NamedTuple):
    """A trained autoencoder.

    Attributes:
      encode: `frames[n, h, w, c] -> [n, tokens, latents]`, of uint8, standardized.
      decode: `[n, tokens, latents] -> frames[n, h, w, c]`, in [0, 1].
    """

    encode: Callable[[np.ndarray], np.ndarray]
    decode: Callable[[np.ndarray], np.ndarray]


def networks(
    asked: Coding, shape: tuple[int, ...], seed: int
) -> tuple[Callable[..., Array], Callable[..., Array], PyTree, tuple[int, ...]]:
    """Returns `(params, x) -> z` and `(params, z) -> x`, first parameters, and the shape of z."""
    size = {"channels": asked.channels, "num_latents": asked.num_latents}
    there = fmjax.models.Encoder(shape, **size, rngs=nnx.Rngs(seed))
    back = fmjax.models.Decoder(shape, **size, rngs=nnx.Rngs(seed + 1))
    (encode, first), (decode, second) = map(fmjax.models.functional, (there, back))
    params = {"encoder": first, "decoder": second}
    return (
        lambda params, x: encode(params["encoder"], x),
        lambda params, z: decode(params["decoder"], z),
        params,
        there.latent_shape,
    )


def signed(frames: Array) -> Array:
    """Returns uint8 frames in [-1, 1]."""
    return jnp.asarray(frames, jnp.float32) / 127.5 - 1.0


def make_loss(
    asked: Coding, encode: Callable[..., Array], decode: Callable[..., Array]
) -> Callable[[PyTree, Key, PyTree], Array]:
    """Returns the mean over a batch of eq. (1)."""

    def one(params: PyTree, key: Key, x: Array) -> Array:
        z = encode(params, x)
        noisy = z + asked.latent_noise * jax.random.normal(key, z.shape)
        return jnp.mean((decode(params, noisy) - x) ** 2) + asked.latent_weight * jnp.mean(z**2)

    def loss(params: PyTree, key: Key, batch: dict[str, Array]) -> Array:
        keys = jax.random.split(key, len(batch["x"]))
        return jax.vmap(functools.partial(one, params))(keys, signed(batch["x"])).mean()

    return loss


def fit(
    asked: Coding, frames: np.ndarray, held_out: np.ndarray, seed: int, folder: os.PathLike
) -> Coder:
    """Trains the autoencoder, or restores it, and returns it with standardized latents.

    Args:
      asked: its options.
      frames: uint8 `[n, h, w, c]`, to train on.
      held_out: as many more for the metrics.
      seed: of the network, the order of the frames and the noise.
      folder: of its checkpoints and metrics.
    """
    facts = {"seed": seed, "frames": f"{list(frames.shape)}, crc32 {numbers.crc32(frames)}"}
    folder = loop.open_run(folder, asked, **facts)
    encode, decode, params, latent = networks(asked, frames.shape[1:], seed)

    def error(params: PyTree, x: Array) -> Array:
        return jnp.mean((decode(params, encode(params, signed(x))) - signed(x)) ** 2)

    every = max(asked.coding_steps // 4, 1)
    errors = jax.jit(jax.vmap(error, (None, 0)))
    state = loop.fit(
        make_loss(asked, encode, decode),
        params,
        batches.batches(frames, _batch_size(asked.coding_batch, len(frames)), seed=seed),
        optax.adam(optax.cosine_decay_schedule(asked.coding_rate, asked.coding_steps)),
        lambda params, _: {"held_out": float(errors(params, held_out[:_AT_A_TIME]).mean())},
        workdir=folder,
        num_steps=asked.coding_steps,
        seed=seed,
        ema_decay=0.99,
        eval_every=every,
        save_every=every,
    )
    lock.release(folder)
    return standardized(layout.on_host(state.ema_params), encode, decode, latent, frames)


def _batch_size(most: int, count: int) -> int:
    """Returns how many of the frames are taken per step, a multiple of the devices."""
    every = jax.device_count()
    return max(min(most, count) // every, 1) * every


def standardized(
    params: PyTree,
    encode: Callable[..., Array],
    decode: Callable[..., Array],
    latent: tuple[int, ...],
    frames: np.ndarray,
) -> Coder:
    """Returns the autoencoder with latents of mean 0 and variance 1 over the frames."""
    there = lambda params, x: encode(params, signed(x)).reshape(-1, latent[-1])  # noqa: E731
    back = lambda params, z: decode(params, z.reshape(latent))  # noqa: E731
    there, back = (functools.partial(jax.vmap(f, (None, 0)), params) for f in (there, back))
    many = functools.partial(batches.in_batches, size=_AT_A_TIME, label=None)
    plain = many(there, frames[:: max(len(frames) // _FOR_SCALE, 1)])
    mean, deviation = plain.mean(axis=(0, 1)), plain.std(axis=(0, 1)) + 1e-6  # of a dead feature

    def decoded(z: np.ndarray) -> np.ndarray:
        return np.clip(many(back, z * deviation + mean) / 2 + 0.5, 0.0, 1.0)

    return Coder(lambda x: (many(there, x) - mean) / deviation, decoded)
