"""Which field a network learns: the exact one of its n images, or one that makes new images.

Paper: On the Closed-Form of Flow Matching, arXiv 2506.03719, section 3.2 and figure 2. The same
network is trained for as many steps on the first n images, for several n, neither flipped nor
dequantized. The field that minimizes its loss is known; followed exactly it only copies the n
images. Measured of each network:

1. its distance from that field over t, on the states it was trained on and (not in the paper)
   along its own trajectories, where the images come from;
2. the Frechet distance of its samples to the held-out images, beside the distance of copies of
   the n images, and to the n images, in the features of a classifier that is trained first;
3. how far its samples are from the nearest of the n images, beside held-out images and the n
   images themselves, and which share of them is memorized.

Run:    python -m experiments.closed_form.learning                     (digits, no network)
        python -m experiments.closed_form.learning --dataset mnist --data-dir DIR
            --sizes 10 100 1000 3000 10000 --channels 32 64 64
        the paper's scale, a network of 29 M parameters for each n, on a GPU:
            --dataset cifar10 --sizes 10 100 1000 2000 3000 4000 5000 10000
            --channels 160 320 320 640 --dropout 0.1 --num-steps 50000 --batch-size 128
            --learning-rate 2e-4 --ema-decay 0.9999 --save-every 5000 --num-samples 10000
            --eval-batch-size 500
Time:   5 minutes for the digits on two CPU cores.
Expect: few images are copied and many are not. With few images the error on the path is largest
        near the collapse and again towards t = 1; with many it grows throughout, and far more along
        the network's own trajectories. The paper: a network that still copies already
        has a low distance (2).
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import fmjax
from experiments.closed_form._generalization import measures, pictures
from experiments.images import classifier, data, training
from experiments.images.features import Embedding, principal_components
from experiments.images.options import Features, Source, Training
from experiments.run import arrays, batches, cli, devices, loop, options
from experiments.run import pictures as run_pictures
from experiments.run.folder import remembered, write_json
from experiments.run.options import Free, Place
from experiments.run.saved import Network
from fmjax.types import Array, Key, PyTree, Velocity

path = measures.path


@dataclasses.dataclass(frozen=True)
class Measures:
    """What is measured of every network."""

    times: tuple[float, ...] = (*(i / 20 for i in range(1, 20)), 0.98)
    """Times of the distance from the exact field, increasing, in (0, 1); 0 comes by itself."""
    num_samples: int = 360
    """Samples of each network, at least 2, and pairs at which its field is measured."""
    solver_steps: int = 50
    """Steps of Heun's method from noise to data for the samples; along the trajectories of part 1
    as many, rounded up to a multiple of the number of times."""
    eval_batch_size: Free[int] = 40
    """Images evaluated at a time; memory grows with it."""

    def check(self) -> None:
        """Raises ValueError for times or numbers that cannot be measured."""
        options.check_times(self.times)
        if list(self.times) != sorted(self.times):
            message = (
                f"times must increase, got {self.times}: a trajectory is followed through them."
            )
            raise ValueError(message)
        bounds = {"num_samples": (2, math.inf), "solver_steps": (1, math.inf)}
        options.check_bounds(self, bounds | {"eval_batch_size": (1, math.inf)})


@dataclasses.dataclass(frozen=True)
class Config:
    """The options, each with its default: a run on the digits in five minutes."""

    workdir: Place = None
    """Run folder; None is runs/closed_form/learning/DATASET. The same command continues it."""
    sizes: Free[tuple[int, ...]] = (10, 30, 100, 300, 1000, 0)
    """Numbers of training images, at least 2, each a network of its own; 0 is all of them."""
    seed: int = 0
    """Seed of the split, the networks and all noise, an integer >= 0."""
    source: Source = Source()
    training: Training = Training(dropout=0.0, weight_decay=0.0)
    features: Free[Features] = Features()
    measures: Free[Measures] = Measures()

    def check(self) -> None:
        """Raises ValueError for options that would only fail after the training."""
        options.check_parts(self)


GAPS = ("on_path", "along_flow")  # eq. (7) and (8) of fmjax.path_error


def measure(
    velocity: Velocity, exact: Velocity, x0: Array, x1: Array, *, asked: Measures
) -> dict[str, Array]:
    """Returns the two distances from the exact field at all times, and the sample of the noise."""
    times = jnp.array([0.0, *asked.times], x0.dtype)
    steps = -(-asked.solver_steps // len(asked.times))
    solve = functools.partial(fmjax.samplers.fixed, num_steps=steps)
    return {
        "on_path": fmjax.path_error.gap_on_path(velocity, exact, path, x0, x1, times),
        "along_flow": fmjax.path_error.gap_along_flow(velocity, exact, x0, times, solve=solve),
        "sample": fmjax.samplers.fixed(velocity, x0, num_steps=asked.solver_steps),
    }


def run_network(
    apply: Callable[..., Array], params: PyTree, points: np.ndarray, asked: Measures, key: Key
) -> dict[str, np.ndarray]:
    """Returns the stacked output of `measure`, from the same noise for every network.

    Args:
      apply: `(params, x, t) -> dx` of one example.
      params: the parameters.
      points: `[n, h, w, c]`, what the network was trained on.
      asked: what to measure.
      key: for the noise.
    """
    x0 = jax.random.normal(key, (asked.num_samples, *points.shape[1:]))
    x1 = points[np.arange(asked.num_samples) % len(points)]

    def one(params: PyTree, bank: PyTree, x0: Array, x1: Array) -> dict[str, Array]:
        exact = functools.partial(fmjax.empirical.velocity, path, bank)
        return measure(functools.partial(apply, params), exact, x0, x1, asked=asked)

    many = jax.jit(jax.vmap(one, in_axes=(None, None, 0, 0)))
    bound = functools.partial(many, params, fmjax.empirical.prepare(points))
    label = f"fields and samples, n = {len(points)}"
    return batches.in_batches(bound, x0, x1, size=asked.eval_batch_size, label=label)


def gaps(found: dict[str, np.ndarray], times: tuple[float, ...]) -> dict[str, list[float]]:
    """Returns mean and standard error over examples of both distances at every time."""
    table = {"times": [0.0, *times]}
    for name in GAPS:
        values = np.asarray(found[name], np.float64)
        table[name] = values.mean(axis=0).tolist()
        error = values.std(axis=0, ddof=1) / len(values) ** 0.5
        table[f"{name}_standard_error"] = error.tolist()
    return table


def evaluate(
    network: tuple[Callable[..., Array], PyTree],
    images: data.Images,
    count: int,
    asked: Measures,
    key: Key,
    *,
    embed: measures.Embed,
) -> dict[str, Any]:
    """Returns everything measured of one network.

    Args:
      network: `apply` and its parameters.
      images: the data set.
      count: n, how many of its training images the network has seen.
      asked: what to measure.
      key: for the noise.
      embed: from images to the features of the Frechet distance.
    """
    points = measures.points(images, count)
    found = run_network(*network, points, asked, key)
    return {
        "n": count,
        "gaps": gaps(found, asked.times),
        **measures.compared(found["sample"], points, images, embed),
    }


def table(rows: list[dict[str, Any]]) -> str:
    """Returns the summary that is printed at the end of a run."""
    lines = [
        "error: E|v - u|^2 / d, mean over the times up to 0.9; distance: to the nearest of the n",
        "     n    error of the field       Frechet distance to the         distance to the nearest"
        "            memorized",
        "          on path   along flow   held-out (copies)      n images   samples   held-out"
        "   each other  samples  held-out",
    ]
    for row in rows:
        early = np.asarray(row["gaps"]["times"]) <= 0.9
        mean = {name: np.mean(np.asarray(row["gaps"][name])[early]) for name in GAPS}
        lines.append(
            f"{row['n']:6d}  {mean['on_path']:9.4f}  {mean['along_flow']:11.4f}"
            f"  {row['frechet_held_out']:9.3f} ({row['frechet_held_out_of_copies']:7.3f})"
            f"  {row['frechet_train']:10.3f}  {row['distance']:8.3f}"
            f"  {row['distance_of_held_out']:9.3f}  {row['distance_within']:11.3f}"
            f"  {row['memorized']:7.1%}  {row['memorized_of_held_out']:8.1%}"
        )
    return "\n".join(lines)


def sizes_of(asked: tuple[int, ...], images: data.Images) -> list[int]:
    """Returns the numbers of training images, or says which cannot be had."""
    sizes = [n or len(images.train) for n in asked]
    most = len(images.train)
    if not sizes or len(set(sizes)) < len(sizes) or min(sizes) < 2 or max(sizes) > most:
        message = (
            f"sizes must be different numbers from 2 to {most}, the number of training images, "
            f"or 0 for all of them, got {asked}."
        )
        raise ValueError(message)
    return sizes


def restore(config: Config, folder: Any) -> dict[str, Network]:
    """Tells how the networks of a run are read, each by the number of its images."""
    images = training.recorded(config.source, config.seed, folder)
    few = lambda count: images._replace(train=images.train[:count])  # noqa: E731
    return {
        f"n_{count}": training.trained(config.training, few(count), folder / f"n_{count}")
        for count in sizes_of(config.sizes, images)
    }


def main(config: Config, *, features: Embedding | None = None) -> None:
    """Trains or continues every network, evaluates, and leaves everything under the run folder.

    Args:
      config: the options.
      features: in which Frechet distances are taken, in place of the features of a classifier.
    """
    config.check()
    devices.check_batch(config.training.batch_size)
    name, images = training.load(config.source, config.seed)
    choose = classifier.embedder(config.features, config.source, config.seed, images, features)
    sizes = sizes_of(config.sizes, images)
    folder = config.workdir or f"runs/closed_form/learning/{name}"
    folder = loop.open_run(folder, config, data=data.fingerprint(images))
    key_loss, key_evaluate = training.keys(config.seed)
    space = choose(folder)
    if space is None:
        space = Embedding(principal_components(images), "principal components")
    facts = {"num_steps": config.training.num_steps, "fingerprint": space.fingerprint}
    facts, rows = options.fixed(config.measures) | facts, []
    variances = measures.variances(measures.points(images, 10_000))
    for count in sizes:
        place = folder / f"n_{count}"
        network = measures.train(config.training, images, count, place, key_loss, seed=config.seed)
        arguments = (network, images, count, config.measures, key_evaluate)
        make = functools.partial(evaluate, *arguments, embed=space.embed)
        row = remembered(place / "evaluation.json", facts, make)
        collapse_time = measures.collapse_time(variances, images.train[:count])
        rows.append(row | {"space": space.name, "collapse_time": collapse_time})
    if jax.process_index() != 0:
        return  # one process writes
    rows.sort(key=lambda row: row["n"])
    with run_pictures.style():
        figures = pictures.learning(rows, images, dataset=data.title(name))
        run_pictures.save(folder / "figures", figures)
    shown = {f"n_{row['n']}": {k: np.asarray(v) for k, v in row["shown"].items()} for row in rows}
    arrays.write(folder / "arrays.npz", shown)
    without = [{k: v for k, v in row.items() if k != "shown"} for row in rows]
    write_json(folder / "results.json", space.facts() | {"networks": without})
    print(table(rows))
    print(f"everything is in {folder}: config.json, n_*/, results.json, figures/")


if __name__ == "__main__":
    cli.run(main, Config)
