"""Training velocities on trajectories: the systems, the two paths, the losses and the fit.

The loss of each example is divided by the square of the factor with which its network enters
the velocity (`settings.py`). `fdm` is divided as a whole, so that a weight means the same at
every time: on the variance-exploding path it is

    |n - x0|^2 / d + weight (d - |x0|^2 + n . x0 - sigma div n)^2 / d,    v = sigma_dot n.   (1)

A forecast is the same problem given the first states: they and a mask are the context of the
network, and the velocity is that of the law of trajectories that begin so.

References:
  Finzi et al. (2023), arXiv 2306.07526, appendix (network, path, scaling).
  Huang et al. (2025), arXiv 2602.00869.
"""

import functools
import os
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import fmjax
from experiments.fdm._trajectories import settings, systems
from experiments.fdm._trajectories.options import Source, Training
from experiments.run import batches, layout, loop, numbers, points
from fmjax.types import Array, Key, PyTree

SYSTEMS = {"lorenz": systems.lorenz, "fitzhugh_nagumo": systems.fitzhugh_nagumo}


class Trajectories(NamedTuple):
    """A system with its trajectories, float32 `[n, length, d]` each."""

    system: systems.System
    train: np.ndarray
    test: np.ndarray


def load(source: Source, seed: int) -> Trajectories:
    """Returns the trajectories of a run: simulated, read from where they are kept, or a user's own.

    Args:
      source: which trajectories, and how many.
      seed: of the trajectories.
    """
    sizes = (source.num_train, source.num_test)
    if points.is_own(source.system):
        whole = points.read(source.system, "[n, length, channels]")
        asked = dict(zip(("--num-train", "--num-test"), sizes, strict=True))
        train, test = points.split(source.system, whole, asked, seed)
        return Trajectories(systems.own(points.label(source.system), train), train, test)
    system = SYSTEMS[source.system]()
    keys = jax.random.split(jax.random.fold_in(jax.random.key(seed), 2000))
    parts = [
        systems.simulate(system, key, size, cache=source.data_dir)
        for key, size in zip(keys, sizes, strict=True)
    ]
    return Trajectories(system, *parts)


def fingerprint(trajectories: Trajectories) -> str:
    """Returns a short text that changes with any number of the training trajectories."""
    train = trajectories.train
    return f"{list(train.shape)}, crc32 {numbers.crc32(train)}"


# What is known of a trajectory beforehand.


def nothing(x1: Array) -> dict[str, Array]:  # noqa: ARG001
    """Returns no context."""
    return {}


def first_states(x1: Array, *, known: int = 3) -> dict[str, Array]:
    """Returns as context the first states, zeros after them, and a mask.

    Args:
      x1: `[length, d]`.
      known: number of the states that are known.

    Returns:
      `context`, `[length, d + 1]`.
    """
    mask = (jnp.arange(x1.shape[0]) < known).astype(x1.dtype)[:, None]
    return {"context": jnp.concatenate([mask * x1, mask], axis=1)}


class Task(NamedTuple):
    """What is learned by several methods alike.

    Attributes:
      setting: the path.
      known: `x1 -> inputs` of the network, the condition under which x1 is drawn.
      field: `(params, x, t, **inputs) -> dx`, the velocity of one example.
      params: the parameters that every method starts from.
    """

    setting: settings.Setting
    known: Callable[[Array], dict[str, Array]]
    field: Callable[..., Array]
    params: PyTree


def task(
    options: Training,
    seed: int,
    trajectories: Trajectories,
    path: str,
    known: Callable[[Array], dict[str, Array]],
) -> Task:
    """Returns a task with a new network.

    Args:
      options: of the network.
      seed: of its first parameters.
      trajectories: the data.
      path: one of `settings.PATHS`.
      known: what is known of a trajectory, `nothing` or `first_states`.
    """
    shape = trajectories.train.shape[1:]
    setting = settings.PATHS[path](float(trajectories.train.std()))
    if options.conditioned:
        states = trajectories.train.reshape(-1, shape[-1])
        setting = settings.conditioned(setting, states.mean(axis=0), states.std(axis=0))
    context = known(jnp.zeros(shape)).get("context", jnp.zeros((1, 0)))
    network = fmjax.models.Conv1D(
        shape,
        channels=options.channels,
        num_blocks=options.num_blocks,
        context=context.shape[1],
        rngs=nnx.Rngs(seed),
    )
    apply, params = fmjax.models.functional(network)

    def field(params: PyTree, x: Array, t: Array, **inputs: Array) -> Array:
        return setting.velocity(functools.partial(apply, params, **inputs), x, t)

    return Task(setting, known, field, params)


# Losses.

MATCHINGS = {
    "trace": lambda key: functools.partial(
        fmjax.losses.match_trace, divergence=functools.partial(fmjax.divergence.hutchinson, key)
    ),
    "product": lambda key: functools.partial(fmjax.losses.match_product, key),
    "jacobian": lambda key: functools.partial(fmjax.losses.match_jacobian, key),
}


def make_loss(
    task: Task, weight: float, matching: str, probe_every: int = 1
) -> Callable[[PyTree, Key, Any], Array]:
    """Returns the mean loss of a batch, `(params, key, {"x": x1}) -> []`.

    Args:
      task: what is learned.
      weight: the weight of the divergence penalty; 0 is flow matching.
      matching: one of `MATCHINGS`.
      probe_every: k, of every k-th trajectory the divergence is probed.
    """
    setting, matched = task.setting, MATCHINGS[matching]

    def example(params: PyTree, weight: float, key: Key, x0: Array, x1: Array, t: Array) -> Array:
        velocity = functools.partial(task.field, params, **task.known(x1))
        options = {"weight": weight, "matching": matched(key)}
        loss = fmjax.losses.fdm(velocity, setting.path, x0, x1, t, **options)
        return loss / setting.scale(t) ** 2

    def loss(params: PyTree, key: Key, batch: dict[str, Array]) -> Array:
        x1 = batch["x"]
        key_time, key_noise, key_probe = jax.random.split(key, 3)
        t = setting.times(key_time, x1.shape[:1])
        x0 = jax.random.normal(key_noise, x1.shape)
        keys = jax.random.split(key_probe, x1.shape[0])
        one = functools.partial(example, params)
        return fmjax.losses.probe_every(probe_every, one, weight, keys, x0, x1, t)

    return loss


def held_out(task: Task, x1: np.ndarray, key: Key) -> Callable[[PyTree, Key], dict[str, float]]:
    """Returns both losses of held-out trajectories, with the same noise every time.

    The divergence loss is estimated without the bias of a single probe, which a method that
    trains on it would otherwise lower too.

    Args:
      task: what is learned.
      x1: `[n, length, d]`.
      key: for noise, times and probes.
    """
    losses = [make_loss(task, weight, "product") for weight in (0.0, 1.0)]
    both = jax.jit(lambda params: [loss(params, key, {"x": jnp.asarray(x1)}) for loss in losses])

    def evaluate(params: PyTree, _: Key) -> dict[str, float]:
        flow, sum_of_both = map(float, both(params))
        return {"flow": flow, "divergence": sum_of_both - flow}

    return evaluate


def fit(
    options: Training,
    task: Task,
    trajectories: Trajectories,
    workdir: str | os.PathLike,
    evaluate: Callable[[PyTree, Key], dict[str, float]],
    *,
    weight: float,
    learning_rate: float,
    num_steps: int,
    seed: int,
) -> PyTree:
    """Trains the network of a task, or restores it, and returns the averaged parameters.

    Args:
      options: of the training; weight, learning rate and steps are those below.
      task: what is learned.
      trajectories: the data.
      workdir: folder of the checkpoints and of metrics.jsonl.
      evaluate: as of `held_out`.
      weight: the weight of the divergence penalty.
      learning_rate: the first one.
      num_steps: training steps.
      seed: of the order of the trajectories and of all noise.
    """
    schedule = optax.exponential_decay(
        learning_rate, options.lr_every, options.lr_decay, staircase=True
    )
    state = loop.fit(
        make_loss(task, weight, options.matching, options.probe_every),
        task.params,
        batches.batches(trajectories.train, options.batch_size, seed=seed),
        optax.adam(schedule),
        evaluate,
        workdir=workdir,
        num_steps=num_steps,
        seed=seed,
        max_skipped=options.max_skipped,
        ema_decay=options.ema_decay,
        eval_every=options.save_every,
        save_every=options.save_every,
    )
    return layout.on_host(state.ema_params)
