"""Training a cell of the comparison: all seeds of one method side by side.

A cell takes a minute, so that nothing is saved halfway.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import fmjax
from experiments.fdm import _laws
from experiments.fdm._convergence import measures
from experiments.fdm._convergence.methods import METHODS, loss_of
from experiments.fdm._laws import Mixture
from experiments.fdm._stretches import stretches
from experiments.run import several
from fmjax import train
from fmjax.types import Array, Key, PyTree, Velocity

LAWS = {"line": _laws.LINE, "plane": _laws.PLANE, "space": _laws.SPACE, "far": _laws.FAR}
STRETCHES = 10


class Cell(NamedTuple):
    """One training: everything that its result depends on.

    Attributes:
      law: a name of `LAWS`.
      method: a name of `METHODS`.
      width: of the network.
      num_steps: of the training, at whose end the learning rate is 0.
      weight: of the penalty; 0 where the method has none.
      seeds: of network and data.
      batch_size: examples per step.
      learning_rate: the first, of Adam.
      num_points: of every measured mean.
    """

    law: str
    method: str
    width: int
    num_steps: int
    weight: float
    seeds: tuple[int, ...]
    batch_size: int
    learning_rate: float
    num_points: int


@functools.cache
def network(law: str, width: int) -> Callable[[PyTree, Array, Array], Array]:
    """Returns the conditioned velocity `(params, x, t) -> dx` of a law."""
    mixture = LAWS[law]
    mean, std = moments(mixture)
    apply, _ = _made(mixture.means.shape[1], width, 0)

    def velocity(params: PyTree, x: Array, t: Array) -> Array:
        rest = functools.partial(apply, params)
        return fmjax.predictions.conditioned(rest, _laws.path, std, mean)(x, t)

    return velocity


def moments(mixture: Mixture) -> tuple[np.ndarray, np.ndarray]:
    """Returns mean and standard deviation of every coordinate, float32 `[d]`."""
    mean = mixture.weights @ mixture.means
    squares = mixture.weights @ (mixture.means**2 + mixture.deviations[:, None] ** 2)
    return np.float32(mean), np.float32(np.sqrt(squares - mean**2))


def _made(size: int, width: int, seed: int) -> tuple[Callable, PyTree]:
    return fmjax.models.functional(
        fmjax.models.MLP((size,), width=width, depth=2, rngs=nnx.Rngs(seed))
    )


@functools.cache
def _step(cell: Cell) -> tuple[Callable, Callable]:
    """Returns the training step and its first state, of a cell without its weight and seeds."""
    apply, mixture, method = network(cell.law, cell.width), LAWS[cell.law], METHODS[cell.method]

    def loss(params: PyTree, key: Key, weight: Array) -> Array:
        velocity: Velocity = functools.partial(apply, params)
        one = functools.partial(loss_of, method, mixture, velocity, weight)
        return jnp.mean(jax.vmap(one)(jax.random.split(key, cell.batch_size)))

    schedule = optax.cosine_decay_schedule(cell.learning_rate, cell.num_steps)
    optimizer = optax.adam(schedule)
    return train.make_step(loss, optimizer), functools.partial(train.init, optimizer=optimizer)


def start(cell: Cell) -> tuple[PyTree, Array]:
    """Returns the parameters before the first step and the key of every seed."""
    size = LAWS[cell.law].means.shape[1]
    made = [_made(size, cell.width, seed)[1] for seed in cell.seeds]
    keys = jnp.stack([jax.random.key(seed) for seed in cell.seeds])
    return several.stacked(made), keys


def fit(cell: Cell) -> tuple[PyTree, float]:
    """Returns the parameters of all seeds, and the time of a step over flow matching's."""
    bare = cell._replace(weight=0.0, seeds=())
    (step, init), (plain, _) = (_step(c) for c in (bare, bare._replace(method="FM")))
    params, keys = start(cell)
    weights = jnp.full(cell.num_steps // STRETCHES, cell.weight)
    first = jax.vmap(init)(params)
    *_, (states, cost) = stretches(STRETCHES, len(weights), step, plain, first, keys, weights)
    return states.params, cost


def _keys(num_points: int) -> Array:
    """Returns a key for each point of a measured mean, the same for every field."""
    return jax.random.split(jax.random.key(1), num_points)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _distances(law: str, width: int, params: PyTree, keys: Array) -> dict[str, Array]:
    apply = network(law, width)
    one = lambda p: measures.distances(LAWS[law], functools.partial(apply, p), keys)  # noqa: E731
    return jax.vmap(one)(params)


def exact(law: str, num_points: int) -> dict[str, float]:
    """Returns what the measures give of the exact field itself, by the error of their solver."""
    field = functools.partial(_laws.velocity, LAWS[law])
    found = jax.jit(functools.partial(measures.distances, LAWS[law], field))(_keys(num_points))
    return {name: float(value) for name, value in found.items()}


def measured(cell: Cell) -> tuple[dict[str, Any], PyTree]:
    """Returns what a cell gives, a list over seeds for each measure, and its parameters."""
    params, cost = fit(cell)
    found = jax.device_get(_distances(cell.law, cell.width, params, _keys(cell.num_points)))
    lists = {name: value.tolist() for name, value in found.items()}
    return {"cost": cost, "weight": cell.weight, **lists}, params
