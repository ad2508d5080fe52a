"""Flow and divergence matching (FDM) on the checkerboard: density estimation in the plane.

Paper: Improving Flow Matching by Aligning Flow Divergence, arXiv 2602.00869, section 5.1.1. The
same perceptron is trained with every weight of the divergence penalty (0 is plain flow matching)
from the same initialization, on the same stream of data, and judged after its last step, not at
its best: by the mean log-likelihood of fresh data with the exact divergence and an adaptive
solver, and by the total variation between its density and the exact one along the path.

Run:    python -m experiments.fdm.checkerboard            (the paper's budget, 3 seeds)
        python -m experiments.fdm.checkerboard --num-steps 3000 --weights 0 0.05 0.5 5   (a sweep)
Time:   on two quiet CPU cores 4.5 minutes for each flow and 6 for each FDM of 30000 steps.
Expect: exp(mean log-likelihood) 2.38e-2 for FM and 2.53e-2 for FDM (the paper, its best value
        over training); no model can have more than 0.0253125.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import fmjax
from experiments.fdm._checkerboard import fields, law, measures, pictures, tables
from experiments.run import arrays, checkpoints, cli, layout, loop, options
from experiments.run import pictures as run_pictures
from experiments.run.folder import remembered, write_json
from experiments.run.options import Free, Place
from experiments.run.saved import Network
from fmjax.types import Array, Key, PyTree


@dataclasses.dataclass(frozen=True)
class Training:
    """The perceptron and its training, by Adam."""

    every: int = 4
    """The exact divergence is taken of every k-th example, without bias; 1 is all of them."""
    width: int = 512
    """Width of the hidden layers."""
    depth: int = 4
    """Number of hidden layers."""
    conditioned: bool = False
    """Let the network predict what the best linear velocity leaves (`predictions.conditioned`), and
    weight all times alike."""
    batch_size: int = 512
    """Examples per step, a multiple of the number of devices."""
    num_steps: int = 30_000
    """Training steps of each network."""
    learning_rate: float = 1e-3
    """Learning rate of Adam after a warm-up of 10 steps; it falls to 5 % at the last step, by 0.999
    at each 3000th of the training, which is every 10 steps of the paper's 30,000."""
    ema_decay: float = 0.0
    """Decay of the moving average of the parameters, per step; 0 takes the last ones."""
    num_evaluations: int = 10
    """Evaluations during training, equally spaced, for the curves."""
    max_skipped: Free[int] = 0
    """Steps, of those between two lines of the metrics, that may be skipped for a loss or gradient
    that is not finite; they are counted. 0 stops the run at the first that is seen."""

    def check(self) -> None:
        """Raises ValueError for numbers out of their bounds."""
        bounds = {
            "every": (1, self.batch_size),
            "width": (1, math.inf),
            "depth": (1, math.inf),
            "batch_size": (1, math.inf),
            "num_steps": (1, math.inf),
            "num_evaluations": (1, math.inf),
            "learning_rate": (1e-12, 1e12),
        }
        options.check_bounds(self, bounds)


@dataclasses.dataclass(frozen=True)
class Measures:
    """What is measured of every network at the end."""

    num_points: int = 5120
    """Fresh points of data in the final mean log-likelihood; the curves take a tenth."""
    tolerance: float = 1e-4
    """Relative and absolute tolerance of the adaptive solver; the curves take 1e-3."""
    euler_steps: int = 100
    """Steps of the paper's own likelihood, by Euler's method, beside the adaptive one."""
    tv_times: tuple[float, ...] = (0.25, 0.5, 0.75, 0.9)
    """Times in (0, 1) at which the total variation from the exact density is measured."""
    blurs: tuple[float, ...] = (0.01, 0.02, 0.05, 0.1, 0.2)
    """Standard deviations, positive, of noise on the exact law: what its log-likelihood then loses,
    to compare with what a network lacks; a sampler of n equal steps leaves 1 / n."""
    grid_points: int = 48
    """Points along each side of the grid on which densities are compared."""

    def check(self) -> None:
        """Raises ValueError for times or numbers that cannot be measured."""
        if not all(0.0 < t < 1.0 for t in self.tv_times):
            message = f"tv_times must lie strictly between 0 and 1, got {self.tv_times}."
            raise ValueError(message)
        if not all(0.0 < std < math.inf for std in self.blurs):
            message = f"blurs must be positive and finite, got {self.blurs}."
            raise ValueError(message)
        bounds = {"num_points": (2, math.inf), "euler_steps": (1, math.inf)}
        bounds |= {"grid_points": (2, math.inf), "tolerance": (1e-12, 1.0)}
        options.check_bounds(self, bounds)


@dataclasses.dataclass(frozen=True)
class Config:
    """The options. Network, batch, steps and learning rate are those of the paper's code."""

    workdir: Place = None
    """Run folder; None is runs/fdm/checkerboard. The same command continues it."""
    weights: Free[tuple[float, ...]] = (0.0, 0.15)
    """Weights of the divergence penalty, each a network of its own; 0 is flow matching. The paper's
    is not known; the 0.1 of its code is 0.14 here, where the squared residual is divided by d = 2
    and the flow loss counts once and not 1.4 times."""
    seeds: Free[tuple[int, ...]] = (0, 1, 2)
    """Seeds of network and data, integers >= 0, each with every weight."""
    training: Training = Training()
    measures: Free[Measures] = Measures()

    def check(self) -> None:
        """Raises ValueError for options that would only fail after the training."""
        options.check_different(self, "weights", "seeds")
        options.check_parts(self)


def sample_pair(key: Key) -> tuple[Array, Array, Array]:
    """Returns noise, data and time of one example."""
    key_noise, key_data, key_time = jax.random.split(key, 3)
    noise, t = jax.random.normal(key_noise, (2,)), jax.random.uniform(key_time)
    return noise, law.density.sample(key_data), t


def field_of(options: Training) -> fields.Field:
    """Returns the velocity that is trained."""
    return fields.conditioned if options.conditioned else fields.plain


def make_loss(
    field: fields.Field, weight: float, every: int
) -> Callable[[PyTree, Key, PyTree], Array]:
    """Returns the loss of a batch: flow and divergence matching (2602.00869, eq. (17))."""
    matching = functools.partial(fmjax.losses.match_trace, divergence=fmjax.divergence.unrolled)

    def example(params: PyTree, weight: Array | float, key: Key) -> Array:
        velocity = functools.partial(field.velocity, params)
        x0, x1, t = sample_pair(key)
        options = {"weight": weight, "matching": matching}
        return fmjax.losses.fdm(velocity, law.path, x0, x1, t, **options) / field.scale(t) ** 2

    def loss(params: PyTree, key: Key, batch: dict[str, Array]) -> Array:
        keys = jax.vmap(functools.partial(jax.random.fold_in, key))(batch["index"])
        return fmjax.losses.probe_every(every, functools.partial(example, params), weight, keys)

    return loss


def adam(learning_rate: float, num_steps: int) -> optax.GradientTransformation:
    """Returns Adam with the paper's schedule: a short warm-up, then steps down by 0.999."""
    decay = optax.exponential_decay(learning_rate, num_steps / 3000, 0.999, staircase=True)
    warm = optax.linear_schedule(0.0, learning_rate, 10)
    return optax.adam(optax.join_schedules([warm, decay], [10]))


def train(options: Training, weight: float, seed: int, folder: Any, *, num_points: int) -> PyTree:
    """Trains one network, or restores it, and returns its parameters.

    Args:
      options: of the network and its training.
      weight: of the divergence penalty.
      seed: of the network and of its data.
      folder: of the checkpoints and of metrics.jsonl.
      num_points: of the final evaluation; the curves take a tenth.
    """
    key = jax.random.fold_in(jax.random.key(seed), 1000)
    key_init, key_points, key_pairs = jax.random.split(key, 3)
    params = fmjax.models.perceptron(key_init, 2, width=options.width, depth=options.depth)[1]
    few, field = max(num_points // 10, 2), field_of(options)
    points = jax.vmap(law.density.sample)(jax.random.split(key_points, few))
    pairs = jax.vmap(sample_pair)(jax.random.split(key_pairs, few))

    def evaluate(params: PyTree, _: Key) -> dict[str, float]:
        curves = measures.curves(field.velocity, params, points, pairs)
        return {name: float(value) for name, value in curves.items()}

    index = {"index": layout.rows(options.batch_size)}
    every = max(options.num_steps // options.num_evaluations, 1)
    state = loop.fit(
        make_loss(field, weight, options.every),
        params,
        lambda _: iter(lambda: index, None),  # the data are drawn from the key of the step
        adam(options.learning_rate, options.num_steps),
        evaluate,
        workdir=folder,
        num_steps=options.num_steps,
        seed=seed,
        max_skipped=options.max_skipped,
        ema_decay=options.ema_decay,
        eval_every=every,
        save_every=every,
    )
    return layout.on_host(state.ema_params)


def restore(config: Config, folder: Any) -> dict[str, Network]:
    """Tells how the networks of a run are read, each by its seed and its weight."""
    shape = {"width": config.training.width, "depth": config.training.depth}
    like = fmjax.models.perceptron(jax.random.key(0), 2, **shape)[1]
    velocity = field_of(config.training).velocity

    def one(name: str) -> Network:
        steps = config.training.num_steps
        read = functools.partial(checkpoints.averaged, folder / name, like, steps)
        return Network(velocity, read, law.path, lambda: law.density)

    names = [place(seed, weight) for seed in config.seeds for weight in config.weights]
    return {name: one(name) for name in names}


def place(seed: int, weight: float) -> str:
    """Names the folder of one network."""
    return f"seed_{seed}/weight_{float(weight)}"


def evaluate(velocity: fields.Apply, params: PyTree, asked: Measures, key: Key) -> dict[str, Any]:
    """Returns the final numbers of one network, and its density on the grid at t = 1."""
    model, tolerance = (velocity, params), {"tolerance": asked.tolerance}
    log_p = functools.partial(measures.log_likelihoods, *model, **tolerance)
    points = jax.vmap(law.density.sample)(jax.random.split(key, asked.num_points))
    values = np.asarray(log_p(points))
    by_euler = measures.log_likelihoods_by_euler(*model, points, num_steps=asked.euler_steps)
    grid, area = law.grid(asked.grid_points)
    variation = functools.partial(measures.variation, *model, grid, area, **tolerance)
    return {
        "log_likelihood": float(values.mean()),
        "standard_error": float(values.std(ddof=1) / len(values) ** 0.5),
        "density": math.exp(values.mean()),
        "density_by_euler": math.exp(by_euler.mean()),
        "lost": measures.lost(points, values),
        "blurred": {str(std): measures.blurred(points, std) for std in asked.blurs},
        "total_variation": {str(t): float(variation(jnp.asarray(t))) for t in asked.tv_times},
        "grid": np.exp(np.asarray(log_p(grid))),
    }


def evaluated(folder: Any, params: PyTree, config: Config, seed: int) -> dict[str, Any]:
    """Returns `evaluate`, read back where the same evaluation was made before."""
    facts = options.flat(config.measures) | {"num_steps": config.training.num_steps}
    key = jax.random.fold_in(jax.random.key(seed), 1001)  # the same points for every weight
    velocity = field_of(config.training).velocity
    make = functools.partial(evaluate, velocity, params, config.measures, key)
    return remembered(folder / "evaluation.json", facts, make)


def main(config: Config) -> None:
    """Trains or continues every network, evaluates, and leaves everything under the run folder."""
    config.check()
    folder = loop.open_run(config.workdir or "runs/fdm/checkerboard", config)
    rows, num_points = [], config.measures.num_points
    for seed in config.seeds:
        for weight in config.weights:
            name = place(seed, weight)
            params = train(config.training, weight, seed, folder / name, num_points=num_points)
            row = {"seed": seed, "weight": weight, "folder": name}
            rows.append(row | evaluated(folder / name, params, config, seed))
    if jax.process_index() != 0:
        return  # one process writes
    with run_pictures.style():
        run_pictures.save(folder / "figures", pictures.figures(folder, rows))
    grids = {row["folder"]: {"grid": np.asarray(row.pop("grid"))} for row in rows}
    arrays.write(folder / "arrays.npz", grids)
    write_json(folder / "results.json", {"models": rows})
    print(tables.table(rows))


if __name__ == "__main__":
    cli.run(main, Config)
