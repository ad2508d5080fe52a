"""A diffusion model as other libraries write them, to be audited: an example of `--model`.

Its network is of flax linen, takes batches of images with their numbered timesteps, 0 to 999, and
predicts the noise; its path is a table of noise rates (Ho et al., 2020). Three calls make a
velocity of it. It is trained on the digits when it is asked for, which takes half a minute; a model
of yours would read its weights here.

    python -m experiments.uncertainty.audit --dataset digits
        --model experiments.uncertainty._audit.foreign:digits

Reference:
  Ho et al. (2020), Denoising Diffusion Probabilistic Models, arXiv 2006.11239.
"""

import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

import fmjax
from experiments.images import data
from fmjax.paths import Path
from fmjax.types import Array, Key, PyTree, Velocity

BETAS = np.linspace(1e-4, 0.02, 1000)  # of the first diffusion models


class Denoiser(nn.Module):
    """Three residual blocks on the pixels of small images.

    Attributes:
      width: features of a block.
    """

    width: int = 256

    @nn.compact
    def __call__(self, x: Array, timesteps: Array) -> Array:
        """Predicts the noise.

        Args:
          x: `[n, h, w, c]`.
          timesteps: `[n]`, from 0, nearly no noise, to 999.
        """
        frequencies = jnp.exp(-jnp.log(1e4) * jnp.arange(32) / 32)
        angles = timesteps[:, None] * frequencies[None]
        time = nn.silu(nn.Dense(self.width)(jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], 1)))
        hidden = nn.Dense(self.width)(x.reshape(len(x), -1))
        for _ in range(3):
            inner = nn.silu(nn.LayerNorm()(hidden) + nn.Dense(self.width)(time))
            hidden = hidden + nn.Dense(self.width)(nn.silu(nn.Dense(self.width)(inner)))
        return nn.Dense(x[0].size)(nn.LayerNorm()(hidden)).reshape(x.shape)


def train(
    network: nn.Module, images: data.Images, num_steps: int, key: Key, *, batch_size: int = 128
) -> PyTree:
    """Returns the weights of a network that predicts the noise of noised images.

    Args:
      network: called as `Denoiser` is.
      images: the training part is used.
      num_steps: of Adam.
      key: for the weights, the batches and the noise.
      batch_size: images per step.
    """
    abar = jnp.asarray(np.cumprod(1.0 - BETAS), jnp.float32)
    bank = jnp.asarray(images.train)
    optimizer = optax.adam(optax.cosine_decay_schedule(2e-3, num_steps))

    def loss(weights: PyTree, key: Key) -> Array:
        keys = jax.random.split(key, 4)
        pixels = jax.random.choice(keys[0], bank, (batch_size,))
        x1 = data.dequantize(keys[1], pixels, images.levels)
        noise = jax.random.normal(keys[2], x1.shape)
        timesteps = jax.random.randint(keys[3], (batch_size,), 0, len(BETAS))
        level = abar[timesteps][:, None, None, None]
        x = jnp.sqrt(level) * x1 + jnp.sqrt(1.0 - level) * noise
        return jnp.mean((network.apply(weights, x, timesteps) - noise) ** 2)

    def step(state: tuple[PyTree, PyTree], key: Key) -> tuple[tuple[PyTree, PyTree], None]:
        weights, moments = state
        updates, moments = optimizer.update(jax.grad(loss)(weights, key), moments)
        return (optax.apply_updates(weights, updates), moments), None

    weights = network.init(key, jnp.zeros((1, *bank.shape[1:])), jnp.zeros(1))
    keys = jax.random.split(jax.random.fold_in(key, 1), num_steps)
    return jax.jit(lambda state: jax.lax.scan(step, state, keys)[0][0])(
        (weights, optimizer.init(weights))
    )


def velocity(apply: Callable[[Array, Array], Array]) -> tuple[Velocity, Path]:
    """Returns the velocity of a model of batches that predicts the noise, and its path.

    Args:
      apply: `(x[n, *dims], timesteps[n]) -> noise[n, *dims]`.
    """
    path = fmjax.paths.from_betas(BETAS)
    model = fmjax.predictions.unbatched(apply)
    kind = fmjax.predictions.x0
    return fmjax.predictions.from_timesteps(model, path, len(BETAS), given=kind), path


def digits() -> tuple[Velocity, Path]:
    """Trains the model on the digits, and returns its velocity and its path."""
    network = Denoiser()
    weights = train(network, data.load("digits"), 4000, jax.random.key(0))
    return velocity(functools.partial(network.apply, weights))
