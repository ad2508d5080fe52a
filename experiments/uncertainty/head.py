"""What a variance head learns, against the Jacobian of the velocity and the exact variance.

Beside the paper Divergence is Uncertainty, arXiv 2605.00941: a network that returns the variance of
the velocity's target beside the velocity (uncertainty-aware flow matching, arXiv 2602.10326) is
trained by a likelihood whose minimizer is the diagonal of `(D / alpha) (sigma J - sigma_dot I)`,
which the velocity's Jacobian J holds already (`fmjax.losses.gaussian_nll`). Which of the two is
nearer to the truth, and what does each cost? Several seeds are trained at once, on a mixture in the
plane whose exact field is known, and on images:

1. beside: the velocity by flow matching, the variance by the likelihood in a second network, so
   that the head cannot spoil the velocity;
2. joint: both by the likelihood, where every error of the velocity is divided by the variance.

Then at each t, on held-out and on training data: mean error over mean variance, their correlation,
the likelihood of the target, negative variances, the distance from the exact variance; of the head,
of the Jacobian, of the exact field of the training data, and of the mean squared error, as a number
and as a map; and the time that each takes.

Run:    python -m experiments.uncertainty.head                        (digits, no network)
Time:   14 to 24 minutes on two CPU cores beside other runs.
Expect: on held-out images the head's likelihood is better than the Jacobian's at every t, for one
        more pass of a network; both trained by it, the velocity's error grows by up to two thirds.
        The tables are in experiments/uncertainty/README.md.
"""

import dataclasses
import math
import os
from functools import partial
from typing import Any

import jax
import numpy as np
import optax
from flax import nnx

import fmjax
from experiments.images import data, training
from experiments.images.options import Source
from experiments.run import arrays as run_arrays
from experiments.run import checkpoints, cli, layout, loop, options, several
from experiments.run import pictures as run_pictures
from experiments.run.batches import Batches, drawn
from experiments.run.folder import write_json
from experiments.run.options import Free, Place
from experiments.run.saved import Network
from experiments.uncertainty._head import costs, losses, measures, pictures, problems, tables
from experiments.uncertainty._head.problems import Problem
from fmjax.types import PyTree

# The first in the run folder itself, where a run that was interrupted is recognized.
PLACES = {
    ("images", "beside"): ".",
    ("images", "joint"): "joint",
    ("law", "beside"): "law",
    ("law", "joint"): "law_joint",
}
LOSSES = {"beside": losses.beside, "joint": losses.joint}


@dataclasses.dataclass(frozen=True)
class Training:
    """The two networks, of the velocity and of the variance, and their training by Adam."""

    width: int = 256
    """Size of the hidden layers, a multiple of two; half of it for the mixture."""
    depth: int = 2
    """Residual blocks of a network."""
    batch_size: int = 128
    """Pairs per step and network, a multiple of the number of devices."""
    num_steps: int = 2000
    """Training steps."""
    learning_rate: float = 1e-3
    """Learning rate of Adam at the start; it falls to zero along a cosine."""
    ema_decay: float = 0.999
    """Decay of the moving average of the parameters, per step."""
    save_every: int = 1000
    """Steps between checkpoints."""

    def check(self) -> None:
        """Raises ValueError for numbers out of their bounds."""
        bounds = {name: (1, math.inf) for name in ("num_steps", "batch_size", "save_every")}
        bounds |= {"width": (2, math.inf), "depth": (1, math.inf)}
        bounds |= {"learning_rate": (1e-12, 1e12), "ema_decay": (0.0, 1.0 - 1e-9)}
        options.check_bounds(self, bounds)


@dataclasses.dataclass(frozen=True)
class Measures:
    """What is measured."""

    times: tuple[float, ...] = (0.1, 0.3, 0.5, 0.7, 0.9)
    """Times, inside (0, 1)."""
    num_states: int = 240
    """States of held-out and of training images each, at least 8, where there are as many."""
    num_draws: int = 4000
    """The same of the mixture."""
    floor: float = 1e-3
    """The least variance that has a likelihood, as a share of the mean squared error at that t."""
    coarse_floor: float = 0.1
    """Another, with which negative variances cost little."""
    eval_batch_size: int = 60
    """States at a time; memory grows with it."""

    def check(self) -> None:
        """Raises ValueError for numbers out of their bounds."""
        options.check_times(self.times)
        bounds = {name: (8, math.inf) for name in ("num_states", "num_draws")}
        bounds |= {"eval_batch_size": (1, math.inf)}
        options.check_bounds(self, bounds | dict.fromkeys(("floor", "coarse_floor"), (1e-9, 1.0)))


@dataclasses.dataclass(frozen=True)
class Config:
    """The options, each with its default: a run on the digits."""

    workdir: Place = None
    """Run folder; None is runs/uncertainty/head/DATASET. The same command continues it."""
    seed: int = 0
    """Seed of the split, the networks and all noise, an integer >= 0."""
    num_seeds: int = 3
    """Networks of each training, at least 2: each with its own start, pairs and noise."""
    num_points: int = 20_000
    """Draws of the mixture in the plane that networks are trained on, at least num_draws."""
    source: Source = Source()
    training: Training = Training()
    measures: Free[Measures] = Measures()

    def check(self) -> None:
        """Raises ValueError for options that would only fail after the training."""
        options.check_parts(self)
        least = self.measures.num_draws
        bounds = {"num_seeds": (2, 100), "num_points": (least, 1e8), "seed": (0, 2**32 - 1)}
        options.check_bounds(self, bounds)


def networks(config: Config, shape: tuple[int, ...]) -> tuple[losses.Network, PyTree]:
    """Returns the network, the same for both outputs, and the first parameters of all seeds."""
    width = config.training.width // (1 if len(shape) > 1 else 2)
    size = {"width": width, "depth": config.training.depth}

    def make(seed: int) -> tuple[losses.Network, PyTree]:
        rngs = nnx.Rngs(seed)
        both = [fmjax.models.functional(fmjax.models.MLP(shape, **size, rngs=rngs)) for _ in "vs"]
        return both[0][0], {"velocity": both[0][1], "log_variance": both[1][1]}

    return several.networks(make, seed=config.seed, count=config.num_seeds)


def batches(config: Config, num_points: int) -> Batches:
    """Returns `start_step -> iterator` over indices of data, `[batch, seeds]`."""
    shape = (config.training.batch_size, config.num_seeds)
    draw = lambda rng: {"index": rng.integers(num_points, size=shape, dtype=np.int32)}  # noqa: E731
    return drawn(draw, shape[0], seed=config.seed)


def train(
    config: Config,
    one: losses.Loss,
    network: tuple[losses.Network, PyTree],
    problem: Problem,
    folder: os.PathLike,
) -> PyTree:
    """Returns the averaged parameters of all seeds of one training, trained or restored."""
    (apply, params), asked = network, config.training
    state = loop.fit(
        losses.of_batch(apply, one, problem.width),
        params,
        batches(config, len(problem.bank)),
        optax.adam(optax.cosine_decay_schedule(asked.learning_rate, asked.num_steps)),
        lambda *_: {},
        workdir=folder,
        num_steps=asked.num_steps,
        seed=config.seed,
        ema_decay=asked.ema_decay,
        eval_every=asked.num_steps,
        save_every=asked.save_every,
        shared={"bank": problem.bank},
    )
    return layout.on_host(state.ema_params)


def measure(
    config: Config, network: losses.Network, trained: dict[str, PyTree], problem: Problem
) -> tuple[dict[str, list[dict[str, Any]]], dict[str, Any]]:
    """Returns the scores by part, one row for each time, and the arrays of the maps.

    Args:
      config: the options.
      network: of both outputs.
      trained: the parameters of all seeds, by training.
      problem: the data.
    """
    asked, heads = config.measures, partial(losses.outputs, network)
    floors = (asked.floor, asked.coarse_floor)
    results: dict[str, list] = {part: [] for part in ("held_out", "train")}
    maps = {}
    for t in asked.times:
        found = {
            part: measures.measure(
                heads, trained, problem, part, t, seed=config.seed, size=asked.eval_batch_size
            )
            for part in results
        }
        for part, rows in results.items():
            stated = measures.methods(found[part], found["train"])
            rows.append({"t": t, "methods": measures.summaries(stated, floors)})
        held_out = measures.methods(found["held_out"], found["train"])
        maps[t] = {
            name: {"error": e[0, :16], "variance": s[0, :16]} for name, (e, s) in held_out.items()
        }
    return results, maps


def prices(
    config: Config, network: losses.Network, params: PyTree, problem: Problem
) -> dict[str, Any]:
    """Returns the time of an evaluation and of a training step, as ratios."""
    one = jax.tree.map(lambda leaf: leaf[0], params)
    x = problem.parts["held_out"]
    batch = next(batches(config, len(problem.bank))(0)) | {"bank": problem.bank}
    key = jax.random.key(config.seed)
    return {
        "evaluation": costs.of_evaluation(network, one, problem, x),
        "step": costs.of_step(network, problem.width, params, key, batch),
    }


def restore(config: Config, folder: Any) -> dict[str, Network]:
    """Tells how the velocities of a run are read, by data, training and number."""
    images = training.recorded(config.source, config.seed, folder)
    known = {
        "images": (tuple(images.train.shape[1:]), lambda: images),
        "law": ((2,), problems.law),
    }
    found = {}
    for (name, method), place in PLACES.items():
        shape, of_run = known[name]
        apply, like = networks(config, shape)
        read = partial(checkpoints.averaged, like=like, num_steps=config.training.num_steps)
        velocity = lambda params, apply=apply: partial(apply, params["velocity"])  # noqa: E731
        for index in range(config.num_seeds):
            found[f"{name}/{method}/{index}"] = Network(
                partial(losses.outputs, apply),
                partial(read, folder / place),
                problems.path,
                of_run,
                velocity=velocity,
                index=index,
            )
    return found


def main(config: Config) -> None:
    """Trains or continues all networks, measures, and leaves everything under the run folder."""
    config.check()
    name, images = training.load(config.source, config.seed)
    folder = config.workdir or f"runs/uncertainty/head/{name}"
    folder = loop.open_run(folder, config, data=data.fingerprint(images))
    asked, seed = config.measures, config.seed
    every = {
        "images": problems.of_images(name, images, seed, count=asked.num_states),
        "law": problems.of_law(seed, num_points=config.num_points, count=asked.num_draws),
    }
    results, arrays = {"scores": {}}, {}
    for key, problem in every.items():
        network = networks(config, problem.bank.shape[1:])
        trained = {
            method: train(config, one, network, problem, folder / PLACES[key, method])
            for method, one in LOSSES.items()
        }
        with jax.default_matmul_precision("highest"):
            results["scores"][key], arrays[key] = measure(config, network[0], trained, problem)
        if key == "images":
            results["costs"] = prices(config, network[0], trained["beside"], problem)
    if jax.process_index() != 0:
        return  # one process writes
    arrays["held_out"] = every["images"].parts["held_out"][:16]
    write_json(folder / "results.json", results)
    run_arrays.write(folder / "arrays.npz", arrays)
    titles = {key: problem.title for key, problem in every.items()}
    with run_pictures.style():
        run_pictures.save(folder / "figures", pictures.figures(results, arrays, titles))
    print(tables.report(results, titles))
    print(f"everything is in {folder}: config.json, results.json, arrays.npz, figures/")


if __name__ == "__main__":
    cli.run(main, Config)
