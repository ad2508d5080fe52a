"""Strain and rotation of a network's Jacobian, on laws whose velocity is known.

Beside the paper Improving Flow Matching by Aligning Flow Divergence, arXiv 2602.00869, which trains
on the trace of the Jacobian: here are its other two parts (`fmjax.strain`). The exact field of flow
matching is a gradient and does not turn, so whatever turns in a network is error, seen without the
truth; and the greatest eigenvalue of the strain bounds how errors grow. Networks of several seeds
learn a mixture of Gaussians by flow matching on fresh draws. Then

1. the rotation against the true error: over the training, and by rank over the states of one time,
   beside other signs that are known without the truth; and the share of the Jacobian's error that
   it is;
2. the bound of the stretching along trajectories against the flow's own Jacobian, and the bound of
   the distance from the true trajectory against this distance;
3. steps of a solver chosen by the rates, and by the bound of the error, against equal steps and
   against a solver that adapts, at equal evaluations of the field.

Run:    python -m experiments.fdm.strain                       (16 dimensions)
        python -m experiments.fdm.strain --law far             (64 dimensions)
Time:   3 minutes on two CPU cores.
Expect: the tables of experiments/fdm/README.md.
"""

import dataclasses
import math
import os
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import fmjax
from experiments.fdm import _laws
from experiments.fdm._strain import measures, pictures, steps, tables
from experiments.run import arrays as run_arrays
from experiments.run import checkpoints, cli, layout, loop, options, several
from experiments.run import pictures as run_pictures
from experiments.run.batches import Batches, drawn
from experiments.run.folder import read_metrics, write_json
from experiments.run.options import Free, Place
from experiments.run.saved import Network
from fmjax.types import Array, Key, PyTree

path = _laws.path
LAWS = {"space": _laws.SPACE, "far": _laws.FAR}
TIMES = (0.1, 0.3, 0.5, 0.7, 0.9)
GRID = np.linspace(0.0, 1.0, 41, dtype=np.float32)  # times along a trajectory


@dataclasses.dataclass(frozen=True)
class Training:
    """The networks and their training, by Adam."""

    width: int = 128
    """Size of the hidden layers."""
    depth: int = 3
    """Residual blocks of a network."""
    batch_size: int = 256
    """Examples per step and network, a multiple of the number of devices."""
    num_steps: int = 4000
    """Training steps."""
    learning_rate: float = 2e-3
    """Learning rate of Adam at the start; it falls to zero along a cosine."""
    ema_decay: float = 0.999
    """Decay of the moving average of the parameters, per step."""
    save_every: int = 250
    """Steps between checkpoints and between evaluations."""

    def check(self) -> None:
        """Raises ValueError for numbers out of their bounds."""
        bounds = {"num_steps": (1, math.inf), "batch_size": (1, math.inf)}
        options.check_bounds(self, bounds | {"learning_rate": (1e-12, 1e12)})


@dataclasses.dataclass(frozen=True)
class Measures:
    """What is measured."""

    num_states: int = 1000
    """States of each time at which errors are compared, at least 10; a quarter in the training."""
    num_starts: int = 64
    """Trajectories, at least 4; half of them choose the steps, half are solved by these."""
    step_counts: tuple[int, ...] = (4, 6, 8, 12, 16, 24, 32)
    """Numbers of steps of a solver, increasing."""
    tolerances: tuple[float, ...] = (0.3, 0.1, 0.03, 0.01, 3e-3, 1e-3)
    """Relative and absolute tolerances of the solver that adapts, decreasing."""

    def check(self) -> None:
        """Raises ValueError for numbers out of their bounds."""
        options.check_bounds(self, {"num_states": (10, math.inf), "num_starts": (4, math.inf)})
        lists = (("step_counts", (1, 1000), 1), ("tolerances", (1e-7, 0.5), -1))
        for name, (low, high), sign in lists:
            values = getattr(self, name)
            ordered = sorted(set(values))[::sign] == list(values)
            if not values or not ordered or not low <= min(values) <= max(values) <= high:
                way = "increasing" if sign == 1 else "decreasing"
                message = f"{name} must be {way} and in [{low}, {high}], got {values}."
                raise ValueError(message)


@dataclasses.dataclass(frozen=True)
class Config:
    """The options, each with its default: a run of three minutes."""

    workdir: Place = None
    """Run folder; None is runs/fdm/strain/LAW. The same command continues it."""
    seed: int = 0
    """Seed of the networks, the data and all noise, an integer >= 0."""
    law: Literal["space", "far"] = "space"
    """The data: "space", 4 Gaussians in 16 dimensions, or "far", 5 in 64."""
    num_seeds: int = 3
    """Networks, at least 2: each with its own start, data and noise."""
    training: Training = Training()
    measures: Free[Measures] = Measures()

    def check(self) -> None:
        """Raises ValueError for options that would only fail after the training."""
        options.check_bounds(self, {"seed": (0, 2**32 - 1), "num_seeds": (2, 100)})
        options.check_parts(self)


def batches(config: Config) -> Batches:
    """Returns `start_step -> iterator` over fresh data, `[batch, seeds, d]`, without end."""
    law, shape = LAWS[config.law], (config.training.batch_size, config.num_seeds)

    def draw(rng: np.random.Generator) -> dict[str, np.ndarray]:
        which = rng.choice(len(law.weights), size=shape, p=law.weights)
        noise = rng.normal(size=(*shape, law.means.shape[1]))
        x = law.means[which] + law.deviations[which][..., None] * noise
        return {"x": np.float32(x)}

    return drawn(draw, shape[0], seed=config.seed)


def make_loss(apply: Callable[..., Array]) -> Callable[[PyTree, Key, PyTree], Array]:
    """Returns the mean over the networks of the loss of flow matching."""

    def one(params: PyTree, key: Key, batch: dict[str, Array]) -> Array:
        x1 = batch["x"]
        key_noise, key_time = jax.random.split(key)
        x0 = jax.random.normal(key_noise, x1.shape)
        t = fmjax.times.stratified(key_time, x1.shape[:1])
        return jax.vmap(partial(fmjax.losses.cfm, partial(apply, params), path))(x0, x1, t).mean()

    return several.mean_loss(one, own="x")


def networks(config: Config) -> tuple[Callable[..., Array], PyTree]:
    """Returns the network, `(params, x, t) -> dx`, and the first parameters of all seeds."""
    size = {"width": config.training.width, "depth": config.training.depth}
    dims = LAWS[config.law].means.shape[1:]
    one = lambda seed: fmjax.models.MLP(dims, **size, rngs=nnx.Rngs(seed))  # noqa: E731
    make = lambda seed: fmjax.models.functional(one(seed))  # noqa: E731
    return several.networks(make, seed=config.seed, count=config.num_seeds)


def make_compare(
    apply: Callable[..., Array], config: Config, count: int
) -> Callable[[PyTree], dict[str, Array]]:
    """Returns a function from the parameters to what states say of each network, `[seeds, times]`.

    Args:
      apply: the network.
      config: of the run.
      count: of states at each time.
    """
    law, exact = LAWS[config.law], partial(_laws.velocity, LAWS[config.law])
    keys = jax.random.split(jax.random.key(config.seed + 1), len(TIMES))
    x = jnp.stack([measures.states(k, law, t, count) for k, t in zip(keys, TIMES, strict=True)])

    def one(params: PyTree) -> dict[str, Array]:
        at = partial(measures.at_time, partial(apply, params), exact)
        return jax.lax.map(lambda pair: at(*pair), (x, jnp.asarray(TIMES)))

    return jax.jit(jax.vmap(one))


def train(
    config: Config, network: tuple[Callable[..., Array], PyTree], folder: os.PathLike
) -> PyTree:
    """Returns the averaged parameters of all seeds, trained or restored."""
    (apply, params), asked = network, config.training
    compare = make_compare(apply, config, max(config.measures.num_states // 4, 10))

    def evaluate(params: PyTree, _: Key) -> dict[str, float]:
        found = jax.device_get(compare(params))
        return {
            f"{name}_{i}": float(found[name][i].mean())
            for name in ("error", "rotation")
            for i in range(config.num_seeds)
        }

    state = loop.fit(
        make_loss(apply),
        params,
        batches(config),
        optax.adam(optax.cosine_decay_schedule(asked.learning_rate, asked.num_steps)),
        evaluate,
        workdir=folder,
        num_steps=asked.num_steps,
        seed=config.seed,
        ema_decay=asked.ema_decay,
        eval_every=asked.save_every,
        save_every=asked.save_every,
    )
    return layout.on_host(state.ema_params)


def restore(config: Config, folder: Any) -> dict[str, Network]:
    """Tells how the networks of a run are read, by number."""
    apply, like = networks(config)
    read = partial(checkpoints.averaged, folder, like=like, num_steps=config.training.num_steps)
    law = lambda: LAWS[config.law]  # noqa: E731
    return {
        f"flow/{index}": Network(apply, read, path, law, index=index)
        for index in range(config.num_seeds)
    }


def solve(
    apply: Callable[..., Array], params: PyTree, config: Config
) -> tuple[measures.Trajectory, dict[str, Any]]:
    """Returns trajectories of all networks, and densities of steps with their curves of errors."""
    exact, asked = partial(_laws.velocity, LAWS[config.law]), config.measures
    shape = (asked.num_starts, LAWS[config.law].means.shape[1])
    x0 = jax.random.normal(jax.random.key(config.seed + 2), shape)
    times, half = jnp.asarray(GRID), asked.num_starts // 2

    def follow(params: PyTree, x0: Array) -> measures.Trajectory:
        one = partial(measures.follow, partial(apply, params), exact)
        return jax.vmap(one, (0, None))(x0, times)

    # The noise is an argument: the compiler would solve for the truth of a constant by itself.
    found = jax.jit(jax.vmap(follow, (0, None)))(params, x0)
    measured = jax.jit(jax.vmap(lambda p, grown: steps.densities(partial(apply, p), grown, times)))
    densities = measured(params, jax.tree.map(lambda leaf: leaf[:, :half], found))
    given = (asked.step_counts, asked.tolerances)
    curves = steps.curves(apply, params, x0[half:], densities, times, *given)
    return jax.device_get(found), {"densities": jax.device_get(densities), "curves": curves}


def main(config: Config) -> None:
    """Trains or continues all networks, measures, and leaves everything under the run folder."""
    config.check()
    folder = loop.open_run(config.workdir or f"runs/fdm/strain/{config.law}", config)
    network = networks(config)
    params = train(config, network, folder)
    if jax.process_index() != 0:
        return  # one process evaluates and writes
    with jax.default_matmul_precision("highest"):
        local = jax.device_get(make_compare(network[0], config, config.measures.num_states)(params))
        grown, solved = solve(network[0], params, config)
    results = tables.summarize(local, grown, solved)
    history = read_metrics(folder, "error_0")
    run_arrays.write(
        folder / "arrays.npz", {"local": local, "grown": grown._asdict(), "steps": solved}
    )
    write_json(folder / "results.json", results | {"history": history})
    with run_pictures.style():
        made = pictures.figures(local, grown, solved, history, TIMES, GRID)
        run_pictures.save(folder / "figures", made)
    print(tables.report(results, TIMES))
    print(f"everything is in {folder}: config.json, results.json, arrays.npz, figures/")


if __name__ == "__main__":
    cli.run(main, Config)
