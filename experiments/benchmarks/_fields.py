"""The networks of the benchmarks against peers, trained for as long as their numbers need."""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import optax
from flax import nnx

import fmjax
from experiments.run import options
from fmjax.types import Array, Key, PyTree

path = fmjax.paths.linear()
IMAGE = (28, 28, 1)
CHANNELS = (32, 64, 64)


@dataclasses.dataclass(frozen=True)
class Learned:
    """The fields that a solver is given: networks of the plane that have learned the two moons."""

    networks: tuple[str, ...] = ("perceptron", "MLP")
    """Networks, of perceptron and MLP."""
    batch_size: int = 256
    """Points at a time."""
    num_steps: int = 2000
    """Training steps before."""
    seed: int = 0
    """Seed of the training, of the points and of their noise."""

    def check(self) -> None:
        """Raises ValueError for an unknown network, or a number out of its bounds."""
        options.check_among(self, "networks", ("perceptron", "MLP"))
        bounds = {"batch_size": (1, 1e9), "num_steps": (1, 1e9), "seed": (0, 2**32 - 1)}
        options.check_bounds(self, bounds)


class Field(NamedTuple):
    """A velocity with its parameters."""

    apply: Callable[..., Array]
    params: PyTree


def make(name: str, *, seed: int, size: int = 2, width: int = 64) -> Field:
    """Makes a perceptron (plain) or an MLP (residual), three layers or blocks, or a U-Net.

    The last layers of the latter two start at zero, so that they ignore half of their weights; all
    parameters are disturbed.
    """
    key, rngs = jax.random.key(seed), nnx.Rngs(seed)
    if name == "perceptron":
        return Field(*fmjax.models.perceptron(key, size, width=width, depth=3))
    network = (
        fmjax.models.MLP(size, width=width, depth=3, rngs=rngs)
        if name == "MLP"
        else fmjax.models.UNet(IMAGE, channels=CHANNELS, rngs=rngs)
    )
    apply, params = fmjax.models.functional(network)
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(key, len(leaves))
    noisy = [a + 0.03 * jax.random.normal(k, a.shape) for a, k in zip(leaves, keys, strict=True)]
    return Field(apply, jax.tree.unflatten(tree, noisy))


def cfm(apply: Callable[..., Array]) -> Callable[..., Array]:
    """Returns the loss of flow matching `(params, x0, x1, t) -> []` of a batch."""

    def loss(params: PyTree, x0: Array, x1: Array, t: Array) -> Array:
        velocity = lambda x, t: apply(params, x, t)  # noqa: E731
        one = lambda x0, x1, t: fmjax.losses.cfm(velocity, path, x0, x1, t)  # noqa: E731
        return jax.vmap(one)(x0, x1, t).mean()

    return loss


def drawn(apply: Callable[..., Array]) -> Callable[[PyTree, Key, Array], Array]:
    """Returns the same loss with noise and times drawn from a key."""

    def loss(params: PyTree, key: Key, x1: Array) -> Array:
        key_noise, key_time = jax.random.split(key)
        x0 = jax.random.normal(key_noise, x1.shape)
        return cfm(apply)(params, x0, x1, fmjax.times.uniform(key_time, x1.shape[:1]))

    return loss


def moons(seed: int, count: int) -> Array:
    """Returns points of the two moons, `[count, 2]`."""
    keys = jax.random.split(jax.random.key(seed), count)
    return jax.jit(jax.vmap(fmjax.toy.moons().sample))(keys)


def trained(name: str, *, seed: int, num_steps: int) -> Field:
    """Makes a network of the plane that has learned the two moons for some steps."""
    field = make(name, seed=seed)
    x1, optimizer = moons(seed, 256), optax.adam(2e-3)
    step = fmjax.train.make_step(drawn(field.apply), optimizer)
    many = jax.jit(
        fmjax.train.repeat(lambda state, key, _: step(state, key, x1), num_steps=num_steps)
    )
    state, _ = many(fmjax.train.init(field.params, optimizer), jax.random.key(seed), None)
    return field._replace(params=jax.device_get(state.params))
