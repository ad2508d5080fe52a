"""The two paths of the trajectory experiment, and how a network becomes a velocity on each.

On the variance-exploding path a network predicts the noise, from a state of bounded size:

    velocity(x, t) = sigma_dot n(x / sqrt(sigma^2 + s^2), t),     s = std of the data.        (1)

Its velocity grows beyond all bounds at t = 1, where sigma vanishes like a square root, so training
ends a thousandth before; what is left of the noise there, 1.6e-4, is part of the data for a
likelihood. It is sampled by the reverse SDE, `dx = 2 v dt + sqrt(-2 sigma sigma_dot) dW`, which is
`samplers.memoryless_sde` for alpha = 1. On the linear path the network is the velocity, and Heun's
method samples it.

`conditioned` takes either path with another network, `predictions.conditioned`.

References:
  Finzi et al. (2023), arXiv 2306.07526, appendix (the path and (1), for a score).
  Huang et al. (2025), arXiv 2602.00869, section 5.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

import fmjax
from fmjax.paths import Path
from fmjax.types import Array, Key, Velocity


class Setting(NamedTuple):
    """A path, and what of training and sampling depends on it.

    Attributes:
      path: alpha and sigma.
      times: `(key, shape) -> t`, the law of the training times.
      scale: `t[] -> []`, by whose square the loss is divided.
      velocity: `(network, x, t) -> dx`, the velocity of a network `(x, t) -> [*dims]`.
      sample: `(key, velocity, noise, num_steps) -> x1`, the sampler.
      prior: standard deviation of the noise at t = 0.
      end: the time up to which likelihoods are measured.
    """

    path: Path
    times: Callable[[Key, tuple[int, ...]], Array]
    scale: Callable[[Array], Array]
    velocity: Callable[[Velocity, Array, Array], Array]
    sample: Callable[[Key, Velocity, Array, int], Array]
    prior: float
    end: float


_END = 1.0 - 1e-3  # of the variance-exploding path, whose velocity is singular at 1


def exploding(std: float) -> Setting:
    """Returns the variance-exploding path from 300 to 0, sampled by its reverse SDE, eq. (1).

    Args:
      std: standard deviation of the data, over all entries.
    """
    sigma_max = 300.0
    path = fmjax.paths.ve_to_zero(sigma_min=1e-3, sigma_max=sigma_max)

    def scale(t: Array) -> Array:
        return fmjax.paths.coefficients(path, t).sigma_dot

    def velocity(network: Velocity, x: Array, t: Array) -> Array:
        return scale(t) * network(x / jnp.hypot(path.sigma(t), std), t)

    def sample(key: Key, velocity: Velocity, noise: Array, num_steps: int) -> Array:
        start = sigma_max * noise
        return fmjax.samplers.memoryless_sde(key, velocity, path, start, 0.0, num_steps=num_steps)

    return Setting(
        path=path,
        times=lambda key, shape: _END * fmjax.times.stratified(key, shape),
        scale=scale,
        velocity=velocity,
        sample=sample,
        prior=sigma_max,
        end=_END,
    )


def straight(std: float) -> Setting:
    """Returns the linear path, sampled by Heun's method."""
    del std  # the network sees x as it is

    def sample(key: Key, velocity: Velocity, noise: Array, num_steps: int) -> Array:
        del key
        return fmjax.samplers.fixed(velocity, noise, num_steps=num_steps)

    return Setting(
        path=fmjax.paths.linear(),
        times=fmjax.times.uniform,
        scale=jnp.ones_like,
        velocity=lambda network, x, t: network(x, t),
        sample=sample,
        prior=1.0,
        end=1.0,
    )


def conditioned(setting: Setting, mean: np.ndarray, std: np.ndarray) -> Setting:
    """Returns a setting whose network predicts what the best linear velocity leaves.

    Input and target of the network have unit variance at every time. Times are weighted alike, and
    drawn by the log-normal law of Karras et al. (2022), arXiv 2206.00364, in units of the data.

    Args:
      setting: whose path and sampler are kept.
      mean: `[d]`, of the states of the data.
      std: `[d]`, of the states of the data.
    """
    path, size = setting.path, float(np.sqrt(np.mean(std**2)))

    def times(key: Key, shape: tuple[int, ...]) -> Array:
        drawn = fmjax.times.log_normal(key, shape, path, mean=-0.5 + np.log(size))
        return jnp.minimum(drawn, setting.end)

    def scale(t: Array) -> Array:
        return jnp.sqrt(jnp.mean(fmjax.predictions.residual_std(path, std, t) ** 2))

    def velocity(network: Velocity, x: Array, t: Array) -> Array:
        return fmjax.predictions.conditioned(network, path, std, mean)(x, t)

    return setting._replace(times=times, scale=scale, velocity=velocity)


PATHS = {"ve": exploding, "linear": straight}
