"""Frame prediction in latent space: the context, the losses, and the sampler.

The velocity of a frame n is conditioned on the frame before it and on one earlier frame r < n - 1,
drawn at random, with its distance n - r: both are features of the tokens beside their own,

    context of a token = [z_{n-1}, z_r, log(n - r)].                                          (1)

A frame is sampled by RK4, and each of the four evaluations of a step draws its own r, so that over
the steps all past frames are looked at. Frames that were predicted are past frames of the next.

Reference:
  Davtyan et al. (2022), Efficient Video Prediction via Sparsely Conditioned Flow Matching,
  arXiv 2211.14575 (RIVER).
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

import fmjax
from experiments.run.batches import Batches, drawn
from fmjax.types import Array, Key, PyTree

path = fmjax.paths.linear()


def context(previous: Array, reference: Array, distance: Array) -> Array:
    """Returns the context of one frame, `[tokens, 2 latents + 1]`, eq. (1)."""
    far = jnp.full_like(previous[:, :1], jnp.log(jnp.asarray(distance, previous.dtype)))
    return jnp.concatenate([previous, reference, far], axis=1)


def batches(latents: np.ndarray, batch_size: int, *, seed: int) -> Batches:
    """Returns `start_step -> iterator` over frames to predict, each with two past frames.

    Args:
      latents: `[n, frames, tokens, features]`, of the training clips.
      batch_size: frames per step.
      seed: of the draws.
    """
    count, frames = latents.shape[:2]

    def draw(rng: np.random.Generator) -> dict[str, np.ndarray]:
        clip = rng.integers(count, size=batch_size)
        frame = rng.integers(2, frames, size=batch_size)
        earlier = rng.integers(0, frame - 1)
        return {
            "x1": latents[clip, frame],
            "previous": latents[clip, frame - 1],
            "reference": latents[clip, earlier],
            "distance": np.float32(frame - earlier),
        }

    return drawn(draw, batch_size, seed=seed)


def make_loss(
    apply: Callable[..., Array], weight: float, every: int, matching: str = "trace"
) -> Callable[[PyTree, Key, PyTree], Array]:
    """Returns the mean over a batch of what a network minimizes, eq. (17) of the paper.

    Args:
      apply: `(params, x, t, context) -> dx`.
      weight: of the divergence penalty; 0 is flow matching.
      every: of every k-th frame the divergence is probed.
      matching: trace, by one probe, or product, of two probes, without its bias.
    """

    def matched(key: Key) -> Callable[..., tuple[Array, Array]]:
        if matching == "product":
            return functools.partial(fmjax.losses.match_product, key)
        probe = functools.partial(fmjax.divergence.hutchinson, key)
        return functools.partial(fmjax.losses.match_trace, divergence=probe)

    def loss(params: PyTree, key: Key, batch: dict[str, Array]) -> Array:
        x1 = batch["x1"]
        key_time, key_noise, key_probe = jax.random.split(key, 3)

        def example(weight: float, key: Key, x0: Array, x1: Array, t: Array, c: Array) -> Array:
            velocity = functools.partial(apply, params, context=c)
            pair = (velocity, path, x0, x1, t)
            return fmjax.losses.fdm(*pair, weight=weight, matching=matched(key))

        known = jax.vmap(context)(batch["previous"], batch["reference"], batch["distance"])
        x0 = jax.random.normal(key_noise, x1.shape)
        ts = fmjax.times.stratified(key_time, (len(x1),))
        keys = jax.random.split(key_probe, len(x1))
        return fmjax.losses.probe_every(every, example, weight, keys, x0, x1, ts, known)

    return loss


def rk4(key: Key, field: Callable[[Key, Array, Array], Array], x: Array, num_steps: int) -> Array:
    """Integrates a field that draws at each evaluation, from t = 0 to 1 by equal steps of RK4.

    Args:
      key: of all draws.
      field: `(key, x, t) -> dx`.
      x: the state at 0.
      num_steps: of four evaluations each.
    """
    h = 1.0 / num_steps

    def step(x: Array, index: Array) -> tuple[Array, None]:
        keys = jax.random.split(jax.random.fold_in(key, index), 4)
        t = index * h
        first = field(keys[0], x, t)
        second = field(keys[1], x + h / 2 * first, t + h / 2)
        third = field(keys[2], x + h / 2 * second, t + h / 2)
        fourth = field(keys[3], x + h * third, jnp.minimum(t + h, 1.0))
        return x + h / 6 * (first + 2 * second + 2 * third + fourth), None

    return jax.lax.scan(step, x, jnp.arange(num_steps))[0]


def predict(
    apply: Callable[..., Array], params: PyTree, key: Key, past: Array, frames: int, num_steps: int
) -> Array:
    """Returns the latents of the frames after the past, `[frames - known, tokens, features]`.

    Args:
      apply: `(params, x, t, context) -> dx`.
      params: of the network.
      key: of the noise and of the past frames that are looked at.
      past: `[known, tokens, features]`, at least two.
      frames: of the whole clip.
      num_steps: of RK4 for each frame.
    """
    known = len(past)
    clip = jnp.zeros((frames, *past.shape[1:]), past.dtype).at[:known].set(past)

    def one(clip: Array, n: Array) -> tuple[Array, None]:
        key_noise, key_past = jax.random.split(jax.random.fold_in(key, n))

        def field(key: Key, x: Array, t: Array) -> Array:
            earlier = jax.random.randint(key, (), 0, n - 1)
            seen = context(clip[n - 1], clip[earlier], n - earlier)
            return apply(params, x, t, context=seen)

        noise = jax.random.normal(key_noise, clip.shape[1:], clip.dtype)
        return clip.at[n].set(rk4(key_past, field, noise, num_steps)), None

    return jax.lax.scan(one, clip, jnp.arange(known, frames))[0][known:]
