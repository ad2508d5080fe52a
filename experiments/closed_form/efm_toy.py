"""Flow matching with exact targets in the plane: what a random target costs where it is random.

Paper: On the Closed-Form of Flow Matching, arXiv 2506.03719, the experiment on 8 Gaussians of its
code. In the plane, other than among images, many points of the data set share every state, so that
the target of flow matching (CFM) is far from its mean. The same perceptron learns from the same
batches, noise and times by CFM and by empirical flow matching with a bank of M and of all n
training points, and during the training are measured

1. the training loss, which for CFM cannot fall below the variance of its target,
2. the error of the velocity against the exact field of the training set, on its own paths,
3. the exact 2-Wasserstein distance of generated points to training and to test points.

The code's bank is the batch and 5,000 draws with replacement; here it is the training set itself.

Run:    python -m experiments.closed_form.efm_toy
        python -m experiments.closed_form.efm_toy --dataset mine.csv --num-train 500
Time:   under 2 minutes on two CPU cores.
Expect: the error of the velocity falls faster and further with a larger bank; the distances differ
        less, for a sample of the exact field repeats the training points.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

import fmjax
from experiments.closed_form._efm import toy_data, toy_pictures, training
from experiments.closed_form._efm.toy_data import Problem, problem
from experiments.run import (
    arrays,
    batches,
    checkpoints,
    cli,
    layout,
    loop,
    numbers,
    options,
    points,
)
from experiments.run import pictures as run_pictures
from experiments.run.folder import check_facts, read_metrics, write_json
from experiments.run.options import Free, Place
from experiments.run.saved import Network
from fmjax.models.perceptron import apply as perceptron
from fmjax.types import Array, Key, PyTree

path, target = training.path, toy_data.target


@dataclasses.dataclass(frozen=True)
class Networks(training.Networks):
    """Which networks are trained: every method with every seed, each in a folder of its own."""

    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of data, network and noise, integers >= 0, each with every method."""
    methods: tuple[Literal["CFM", "EFM-n"], ...] = ("CFM", "EFM-n")
    """The random target, and the exact velocity of the whole training set."""
    banks: tuple[int, ...] = (256,)
    """Sizes M of the banks of EFM, the batch among them, each a method of its own."""


@dataclasses.dataclass(frozen=True)
class Training:
    """The perceptron and its training, by Adam."""

    width: int = 64
    """Width of the hidden layers."""
    depth: int = 3
    """Number of hidden layers."""
    batch_size: int = 128
    """Points per step, a multiple of the number of devices."""
    num_steps: int = 2000
    """Training steps of each network; the code takes 200, after which the methods hardly differ."""
    learning_rate: float = 1e-3
    """Learning rate of Adam, constant."""
    eval_every: int = 100
    """Steps between evaluations."""
    max_skipped: Free[int] = 0
    """Steps, of those between two lines of the metrics, that may be skipped for a loss or gradient
    that is not finite; they are counted. 0 stops the run at the first that is seen."""

    def check(self) -> None:
        """Raises ValueError for numbers out of their bounds."""
        bounds = {
            "width": (1, math.inf),
            "depth": (1, math.inf),
            "num_steps": (1, math.inf),
            "learning_rate": (1e-12, 1e12),
            "eval_every": (1, math.inf),
        }
        options.check_bounds(self, bounds)


@dataclasses.dataclass(frozen=True)
class Measures:
    """What is measured in every evaluation, in the training and after it."""

    num_pairs: int = 512
    """Pairs of noise and training points on which the error of the velocity is measured."""
    num_points: int = 500
    """Generated points, and as many training and test points, between which distances are taken;
    their time is cubic in it."""
    tolerance: float = 1e-4
    """Relative and absolute tolerance of the adaptive solver."""

    def check(self) -> None:
        """Raises ValueError for numbers out of their bounds."""
        options.check_bounds(self, {"num_pairs": (1, math.inf), "tolerance": (1e-12, 1.0)})


@dataclasses.dataclass(frozen=True)
class Config:
    """The options. Data, network, batch and learning rate are those of the paper's code."""

    workdir: Place = None
    """Run folder; None is runs/closed_form/efm_toy, of your own points efm_toy_NAME. The same
    command continues it."""
    dataset: str = "eight_gaussians"
    """eight_gaussians, or points of your own in the plane: an .npy or .csv file of numbers [n, 2].
    They are taken as they are: scale them to about 1 to 5."""
    num_train: int = 5000
    """Training points, and as many test points; of your own points n is at least twice as many."""
    networks: Free[Networks] = Networks()
    training: Training = Training()
    measures: Measures = Measures()

    def check(self) -> None:
        """Raises ValueError for options that would only fail after a training."""
        toy_data.check(self.dataset)
        options.check_parts(self)
        options.check_bounds(self, {"num_train": (2, math.inf)})
        options.check_bounds(self.training, {"batch_size": (1, self.num_train)})
        options.check_bounds(self.measures, {"num_points": (1, self.num_train)})
        training.check_banks(self.networks.banks, self.training.batch_size, self.num_train)


_distance = jax.jit(fmjax.metrics.wasserstein2)


@functools.partial(jax.jit, static_argnames="tolerance")
def measure(params: PyTree, given: Problem, *, tolerance: float) -> tuple[dict[str, Array], Array]:
    """Returns the errors of a network, and the points that it generates, `[m, 2]`."""
    velocity = functools.partial(perceptron, params)
    gap = jax.vmap(velocity)(given.x, given.t) - given.exact
    solve = functools.partial(fmjax.samplers.adaptive, rtol=tolerance, atol=tolerance)
    points = jax.vmap(functools.partial(solve, velocity))(given.noise)
    to_train, to_test = jax.lax.map(lambda x: fmjax.metrics.wasserstein2(points, x), given.near)
    errors = {"velocity_error": jnp.mean(gap**2), "w2_train": to_train, "w2_test": to_test}
    return errors, points


def train(
    config: Config, given: Problem, loss: Callable[..., Array], seed: int, folder: Any
) -> PyTree:
    """Trains one network by one method, or restores it, and returns its parameters."""
    key = jax.random.fold_in(jax.random.key(seed), 1001)
    options, tolerance = config.training, config.measures.tolerance
    params = fmjax.models.perceptron(key, 2, width=options.width, depth=options.depth)[1]

    def evaluate(params: PyTree, _: Key) -> dict[str, float]:
        errors, _ = measure(params, given, tolerance=tolerance)
        return {name: float(value) for name, value in errors.items()}

    state = loop.fit(
        loss,
        params,
        batches.batches(np.arange(config.num_train, dtype=np.int32), options.batch_size, seed=seed),
        training.adam(options.learning_rate),
        evaluate,
        workdir=folder,
        num_steps=options.num_steps,
        seed=seed,
        max_skipped=options.max_skipped,
        ema_decay=0.0,
        log_every=options.eval_every,
        eval_every=options.eval_every,
        save_every=options.num_steps,  # a minute is not worth more
        shared={"data": given.train},
    )
    return layout.on_host(state.ema_params)


def run(
    config: Config, folder: Any, own: np.ndarray | None
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Returns a row for every network, and one for the data of every seed."""
    rows, of_data = [], []
    measures = config.measures
    sizes = (config.num_train, measures.num_pairs, measures.num_points)
    losses = training.losses(perceptron, config.networks, target=target)
    for seed in config.networks.seeds:
        key = jax.random.fold_in(jax.random.key(seed), 1000)
        given, variance = jax.device_get(problem(key, *sizes, own))
        floor = float(_distance(*given.near))
        of_data.append({"seed": seed, "variance": float(variance), "w2_train_test": floor})
        for name, loss in losses.items():
            place = folder / f"seed_{seed}" / name
            training.announce(seed, name)
            params = train(config, given, loss, seed, place)
            errors, made = measure(params, given, tolerance=measures.tolerance)
            errors = {name: float(value) for name, value in errors.items()}
            row = {"seed": seed, "method": name, **errors, "curve": read_metrics(place)}
            rows.append(row | {"points": made, "train": given.near[0]})
    return rows, of_data


def restore(config: Config, folder: Any) -> dict[str, Network]:
    """Tells how the networks of a run are read, each by its seed and its method."""
    sizes = (config.num_train, config.measures.num_pairs, config.measures.num_points)
    shape = {"width": config.training.width, "depth": config.training.depth}
    like = fmjax.models.perceptron(jax.random.key(0), 2, **shape)[1]
    own = toy_data.load(config.dataset, config.num_train)
    check_facts(folder, **toy_data.facts(own))

    def data(seed: int) -> Array:
        return problem(jax.random.fold_in(jax.random.key(seed), 1000), *sizes, own)[0].train

    def one(name: str) -> Network:
        steps, seed = config.training.num_steps, int(name.split("/")[0].removeprefix("seed_"))
        read = functools.partial(checkpoints.averaged, folder / name, like, steps)
        return Network(perceptron, read, path, functools.partial(data, seed))

    return {name: one(name) for name in training.names(config.networks)}


def table(rows: list[dict[str, Any]], of_data: list[dict[str, Any]]) -> str:
    """Returns the final numbers of every method, mean and standard deviation over seeds."""
    lines = ["method    velocity error        W2 to training points W2 to test points"]
    spread = lambda rows, score: numbers.with_spread([row[score] for row in rows], ".4f")  # noqa: E731
    for name, mine in numbers.by_method(rows).items():
        cells = [spread(mine, score) for score in ("velocity_error", "w2_train", "w2_test")]
        lines.append(f"{name:9s} " + "".join(f"{cell:22s}" for cell in cells).rstrip())
    variance, floor = (spread(of_data, score) for score in ("variance", "w2_train_test"))
    lines.append(f"variance of the target of CFM per dimension: {variance}")
    lines.append(f"W2 between as many training and test points: {floor}")
    return "\n".join(lines)


def main(config: Config) -> None:
    """Trains or continues every network, measures, and leaves everything under the run folder."""
    config.check()
    own = toy_data.load(config.dataset, config.num_train)
    title = "8 Gaussians" if own is None else points.label(config.dataset)
    folder = "runs/closed_form/efm_toy" + ("" if own is None else f"_{title}")
    folder = loop.open_run(config.workdir or folder, config, **toy_data.facts(own))
    rows, of_data = run(config, folder, own)
    if jax.process_index() != 0:
        return  # one process writes
    with run_pictures.style():
        run_pictures.save(folder / "figures", toy_pictures.figures(rows, of_data, title))
    drawn = {
        f"seed_{row['seed']}/{row['method']}": {k: row.pop(k) for k in ("points", "train")}
        for row in rows
    }
    arrays.write(folder / "arrays.npz", drawn)
    write_json(folder / "results.json", {"models": rows, "data": of_data})
    print(table(rows, of_data))
    print(f"everything is in {folder}: config.json, results.json, figures/, seed_*/METHOD/")


if __name__ == "__main__":
    cli.run(main, Config)
