"""Ablations of flow and divergence matching (FDM) that the paper leaves open.

Paper: Improving Flow Matching by Aligning Flow Divergence, arXiv 2602.00869. Skewed mixtures of
Gaussians in the plane and in 16 dimensions have velocity, score and density in closed form, so
what each choice costs and buys is measured against the truth: the number of probes, the
stop-gradient, the square, trace or Jacobian, the share of the batch, the weight. Every variant
starts from the same networks and sees the same data; flow matching is also trained two and four
times as long, to compare at equal time. Last, what the choices do to the derivative of v along its
own trajectories.

Run:    python -m experiments.fdm.ablations
        python -m experiments.fdm.ablations --problems plane --num-steps 500
Time:   12 minutes on two CPU cores; a finished variant is not repeated.
Expect: without stop-gradient the penalty's mean gradient at the exact field of the one-dimensional
        mixture is 3.46, with it 0. The paper reports no numbers for any of these choices.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax

import fmjax
from experiments.fdm import _laws
from experiments.fdm._ablations import measures, pictures, variants
from experiments.fdm._ablations.variants import PROBLEMS, VARIANTS, Problem, Variant
from experiments.fdm._errors import RUN_AWAY, bounded, errors, sample_pair
from experiments.fdm._laws import path
from experiments.fdm._stretches import stretches
from experiments.run import arrays, cli, loop, numbers, options
from experiments.run import pictures as run_pictures
from experiments.run.folder import remembered, write_json
from experiments.run.options import Free, Place
from experiments.run.saved import Network
from fmjax import losses, train
from fmjax.models.perceptron import apply as perceptron
from fmjax.types import Array, Key, PyTree


@dataclasses.dataclass(frozen=True)
class Training:
    """The networks and their training, by Adam."""

    weight: float = 0.1
    """Weight of the divergence penalty, where it is not what varies."""
    width: int = 64
    """Width of the three hidden layers."""
    batch_size: int = 256
    """Examples per step, a multiple of 4."""
    num_steps: int = 2000
    """Training steps, a multiple of 10; there are 10 points on a curve."""
    learning_rate: float = 2e-3
    """Learning rate of Adam."""
    ema_decay: float = 0.99
    """Decay of the moving average of the parameters, which is what is measured."""

    def check(self) -> None:
        """Raises ValueError for numbers out of their bounds."""
        if self.num_steps % 10:
            message = f"num_steps must be a multiple of 10, got {self.num_steps}: 10 make a curve."
            raise ValueError(message)
        bounds = {"weight": (1e-12, 1e12), "width": (1, 1e9), "batch_size": (4, 1e9)}
        bounds |= {"num_steps": (10, 1e9), "learning_rate": (1e-12, 1e12)}
        options.check_bounds(self, bounds | {"ema_decay": (0.0, 0.999999)})


@dataclasses.dataclass(frozen=True)
class Measures:
    """What is measured of every variant."""

    num_points: int = 1024
    """Points of every measured mean."""
    num_trajectories: int = 256
    """Trajectories along which derivatives are measured."""
    grid_points: int = 48
    """Points along each side of the grid on which densities in the plane are compared."""

    def check(self) -> None:
        """Raises ValueError for numbers out of their bounds."""
        bounds = {"num_points": (2, 1e9), "num_trajectories": (1, 1e9), "grid_points": (2, 1e9)}
        options.check_bounds(self, bounds)


@dataclasses.dataclass(frozen=True)
class Config:
    """The options, each with its default."""

    workdir: Place = None
    """Run folder; None is runs/fdm/ablations. The same command continues it."""
    problems: Free[tuple[str, ...]] = ("plane", "space")
    """Laws of the data, of plane (2 dimensions) and space (16)."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of network and data, trained side by side."""
    training: Training = Training()
    measures: Measures = Measures()

    def check(self) -> None:
        """Raises ValueError for options that would only fail after the training."""
        options.check_among(self, "problems", PROBLEMS)
        options.check_different(self, "seeds")
        options.check_parts(self)


def make_step(options: Training, problem: Problem, variant: Variant) -> Callable:
    """Returns the training step of one network; its data are drawn from the key of the step."""

    def example(params: PyTree, weight: float, key: Key) -> Array:
        key_pair, key_probe = jax.random.split(key)
        x0, x1, t = sample_pair(problem.mixture, key_pair)
        return losses.fdm(
            partial(perceptron, params),
            path,
            x0,
            x1,
            t,
            weight=weight,
            matching=variant.matching(problem.exact, key_probe),
        )

    def loss(params: PyTree, key: Key, _: None) -> Array:
        keys = jax.random.split(key, options.batch_size)
        weight = options.weight * variant.weight
        return losses.probe_every(variant.every, partial(example, params), weight, keys)

    optimizer = optax.adam(options.learning_rate)
    return train.make_step(loss, optimizer, ema_decay=options.ema_decay)


def start(config: Config, problem: Problem) -> tuple[PyTree, Array]:
    """Returns the state before the first step and the key of every seed."""
    keys = jnp.stack([jax.random.key(seed) for seed in config.seeds])
    size, width = problem.mixture.means.shape[1], config.training.width
    optimizer = optax.adam(config.training.learning_rate)

    def init(key: Key) -> PyTree:
        key = jax.random.fold_in(key, 1000)
        return train.init(fmjax.models.perceptron(key, size, width=width, depth=3)[1], optimizer)

    return jax.vmap(init)(keys), keys


@partial(jax.jit, static_argnums=(0, 1))
def _errors(asked: Measures, name: str, params: PyTree) -> dict[str, Array]:
    keys = jax.random.split(jax.random.key(1), asked.num_points)
    one = lambda p: errors(PROBLEMS[name].mixture, partial(perceptron, p), keys)  # noqa: E731
    return jax.tree.map(bounded, jax.vmap(one)(params))


@partial(jax.jit, static_argnums=(0, 1))
def _law(asked: Measures, name: str, params: PyTree) -> dict[str, Any]:
    mixture = PROBLEMS[name].mixture
    key_data, key_noise = jax.random.split(jax.random.key(2))
    keys = jax.random.split(key_data, asked.num_points)
    size = mixture.means.shape[1]
    x0 = jax.random.normal(key_noise, (asked.num_trajectories, size))

    def one(params: PyTree) -> dict[str, Any]:
        velocity = partial(perceptron, params)
        found = measures.laws(mixture, velocity, keys, asked.grid_points)
        return jax.tree.map(bounded, found | {"smoothness": measures.smoothness(velocity, x0)})

    exact = measures.smoothness(partial(_laws.velocity, mixture), x0)
    return {"exact_smoothness": exact} | jax.vmap(one)(params)


def run(config: Config, name: str, variant: Variant, plain: Callable, file: Any) -> dict[str, Any]:
    """Trains one variant with all seeds, keeps the parameters, and returns what is measured."""
    problem, count = PROBLEMS[name], config.training.num_steps // 10
    first, keys = start(config, problem)
    curve, step = [], make_step(config.training, problem, variant) if variant.weight else plain
    for states, cost in stretches(10 * variant.steps, count, step, plain, first, keys):
        params, time = states.ema_params, cost * variant.steps
        curve.append(jax.device_get(_errors(config.measures, name, params)))
    arrays.write(file, params)
    result = jax.device_get(_law(config.measures, name, params))
    curve = {key: [point[key].tolist() for point in curve] for key in curve[0]}
    return {"time": time, "steps": variant.steps, "curve": curve} | result


def place(folder: Any, name: str, variant: str) -> Any:
    """Returns the file of one variant, without its ending."""
    return folder / name / variant.replace(" ", "_").replace("/", "over")


def restore(config: Config, folder: Any) -> dict[str, Network]:
    """Tells how the networks of a run are read, each by its problem, its variant and its seed."""

    def one(problem: str, variant: str, index: int) -> Network:
        read = partial(arrays.read, f"{place(folder, problem, variant)}.npz")
        return Network(perceptron, read, path, lambda: PROBLEMS[problem].mixture, index=index)

    return {
        f"{problem}/{variant}/seed_{seed}": one(problem, variant, index)
        for problem in config.problems
        for variant in VARIANTS
        for index, seed in enumerate(config.seeds)
    }


def table(name: str, rows: dict[str, dict[str, Any]]) -> str:
    """Returns the final numbers of every variant, mean and standard deviation over seeds."""
    columns = ("time", "flow error", "divergence error", "KL (nats)", "TV at 1")
    lines = [f"{name:25s}" + "".join(f"{column:>20s}" for column in columns)]
    for variant, row in rows.items():
        curve = row["curve"]
        values = [curve["flow"][-1], curve["divergence"][-1], row["relative_entropy"]]
        if "total_variation" in row:
            values.append(row["total_variation"]["1"])
        spread = [
            "ran away" if max(value) >= RUN_AWAY else numbers.with_spread(value, ".4f")
            for value in values
        ]
        lines.append(f"{variant:25s}{row['time']:20.2f}" + "".join(f"{s:>20s}" for s in spread))
    return "\n".join(lines)


def main(config: Config) -> None:
    """Trains and measures every variant that is not there yet, and draws what they show."""
    config.check()
    folder = loop.open_run(config.workdir or "runs/fdm/ablations", config)
    make = partial(variants.bias, jax.random.key(0))
    found = {"bias": remembered(folder / "bias.json", {"seed": 0}, make)}
    # The folder counts as a run's only once there are results, so each part says of which it is.
    facts = options.fixed(config)
    for name in config.problems:
        plain = make_step(config.training, PROBLEMS[name], VARIANTS["flow matching"])
        found[name] = {
            variant: remembered(
                f"{(file := place(folder, name, variant))}.json",
                facts,
                partial(run, config, name, how, plain, f"{file}.npz"),
            )
            for variant, how in VARIANTS.items()
        }
    if jax.process_index() != 0:
        return  # every process has computed the same, one writes
    with run_pictures.style():
        run_pictures.save(folder / "figures", pictures.figures(found))
    write_json(folder / "results.json", found)
    for name in config.problems:
        print("\n" + table(name, found[name]))
    for name, row in found["bias"].items():
        number = f"{row['gradient']:.3f} ± {row['standard_error']:.3f}"
        print(f"mean gradient at the exact field, {name} stop-gradient: {number}")


if __name__ == "__main__":
    cli.run(main, Config, metrics=False)
