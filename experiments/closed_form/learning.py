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
from experiments.closed_form._copies import measures, pictures
from experiments.images import classifier, data, training
from experiments.images.features import Embedding, principal_components
from experiments.run import batches, cli, devices, loop, options
from experiments.run import pictures as run_pictures
from experiments.run.folder import remembered, write_json
from fmjax.types import Array, Key, PyTree, Velocity

path = measures.path


@dataclasses.dataclass(frozen=True)
class Config:
    """The options, each with its default: a run on the digits in five minutes."""

    dataset: str = "digits"
    """digits, mnist, fashion_mnist, cifar10, cifar10_subset, or a path to your own .npz file
    with arrays "images", uint8 [n, h, w] or [n, h, w, c], and, unless embedding_steps is 0,
    "labels", integers [n]."""
    data_dir: str | None = None
    """Folder of data sets prepared by tensorflow-datasets; None is its default folder, to which
    a missing data set is downloaded. Not used by digits and .npz files."""
    held_out: float = 0.2
    """Share of the images held out, in (0, 1), where the data set has no split of its own."""
    workdir: str | None = None
    """Run folder; None is runs/closed_form/learning/DATASET. The same command continues it."""
    sizes: tuple[int, ...] = (10, 30, 100, 300, 1000, 0)
    """Numbers of training images, at least 2, each a network of its own; 0 is all of them."""
    seed: int = 0
    """Seed of the split, the networks and all noise, an integer >= 0."""
    channels: tuple[int, ...] = (32, 64)
    """Features of each level of the U-Net, multiples of 8."""
    dropout: float = 0.0
    """Probability of dropping a feature in training, in [0, 1)."""
    batch_size: int = 64
    """Pairs per step, a multiple of the number of devices; fewer images are repeated in it."""
    num_steps: int = 2000
    """Training steps of each network."""
    learning_rate: float = 2e-3
    """Peak of the learning rate; warm-up over the first tenth at most 100 steps, then cosine. The
    paper's stays constant after 5,000 steps of warm-up."""
    weight_decay: float = 0.0
    """Weight decay of AdamW, per unit of the learning rate."""
    ema_decay: float = 0.995
    """Decay of the moving average of the parameters, per step."""
    save_every: int = 500
    """Steps between checkpoints and between evaluations of the held-out loss."""
    times: tuple[float, ...] = (*(i / 20 for i in range(1, 20)), 0.98)
    """Times of the distance from the exact field, increasing, in (0, 1); 0 comes by itself."""
    embedding_dir: str | None = None
    """Folder of a classifier in whose features Frechet distances are taken; None is one in the run
    folder. Runs of the same data, seed and embedding_steps may share it."""
    embedding_steps: int = 1000
    """Training steps of that classifier; 0 does without it and without labels, and takes distances
    in the first 64 principal components of the pixels."""
    num_samples: int = 360
    """Samples of each network, at least 2, and pairs at which its field is measured."""
    solver_steps: int = 50
    """Steps of Heun's method from noise to data for the samples; along the trajectories of part 1
    as many, rounded up to a multiple of the number of times."""
    eval_batch_size: int = 40
    """Images evaluated at a time; memory grows with it."""


MEASURED = ("times", "num_samples", "solver_steps")  # what an evaluation depends on
# What the training of no network depends on.
EVALUATION = ("sizes", *MEASURED, "eval_batch_size", *classifier.OPTIONS)
GAPS = ("on_path", "along_flow")  # eq. (5) and (6) of fmjax.path_error


def measure(
    velocity: Velocity, exact: Velocity, x0: Array, x1: Array, *, config: Config
) -> dict[str, Array]:
    """Returns the two distances from the exact field at all times, and the sample of the noise."""
    times = jnp.array([0.0, *config.times], x0.dtype)
    steps = -(-config.solver_steps // len(config.times))
    solve = functools.partial(fmjax.samplers.fixed, num_steps=steps)
    return {
        "on_path": fmjax.path_error.gap_on_path(velocity, exact, path, x0, x1, times),
        "along_flow": fmjax.path_error.gap_along_flow(velocity, exact, x0, times, solve=solve),
        "sample": fmjax.samplers.fixed(velocity, x0, num_steps=config.solver_steps),
    }


def run_network(
    apply: Callable[..., Array], params: PyTree, points: np.ndarray, config: Config, key: Key
) -> dict[str, np.ndarray]:
    """Returns the stacked output of `measure`, from the same noise for every network.

    Args:
      apply: `(params, x, t) -> dx` of one example.
      params: the parameters.
      points: `[n, h, w, c]`, what the network was trained on.
      config: the options.
      key: for the noise.
    """
    x0 = jax.random.normal(key, (config.num_samples, *points.shape[1:]))
    x1 = points[np.arange(config.num_samples) % len(points)]

    def one(params: PyTree, bank: PyTree, x0: Array, x1: Array) -> dict[str, Array]:
        exact = functools.partial(fmjax.empirical.velocity, path, bank)
        return measure(functools.partial(apply, params), exact, x0, x1, config=config)

    many = jax.jit(jax.vmap(one, in_axes=(None, None, 0, 0)))
    bound = functools.partial(many, params, fmjax.empirical.prepare(points))
    label = f"fields and samples, n = {len(points)}"
    return batches.in_batches(bound, x0, x1, size=config.eval_batch_size, label=label)


def gaps(found: dict[str, np.ndarray], config: Config) -> dict[str, list[float]]:
    """Returns mean and standard error over examples of both distances at every time."""
    table = {"times": [0.0, *config.times]}
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
    config: Config,
    key: Key,
    *,
    embed: measures.Embed,
) -> dict[str, Any]:
    """Returns everything measured of one network.

    Args:
      network: `apply` and its parameters.
      images: the data set.
      count: n, how many of its training images the network has seen.
      config: the options.
      key: for the noise.
      embed: from images to the features of the Frechet distance.
    """
    points = measures.points(images, count)
    found = run_network(*network, points, config, key)
    return {
        "n": count,
        "gaps": gaps(found, config),
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


def sizes_of(config: Config, images: data.Images) -> list[int]:
    """Returns the numbers of training images, or says which cannot be had."""
    sizes = [n or len(images.train) for n in config.sizes]
    most = len(images.train)
    if not sizes or len(set(sizes)) < len(sizes) or min(sizes) < 2 or max(sizes) > most:
        message = (
            f"sizes must be different numbers from 2 to {most}, the number of training images, "
            f"or 0 for all of them, got {config.sizes}."
        )
        raise ValueError(message)
    return sizes


def _check(config: Config) -> None:
    """Raises ValueError for options that would only fail after the training."""
    options.check_times(config.times)
    if list(config.times) != sorted(config.times):
        message = f"times must increase, got {config.times}: a trajectory is followed through them."
        raise ValueError(message)
    bounds = {
        "batch_size": (1, math.inf),
        "save_every": (1, math.inf),
        "ema_decay": (0.0, 1.0 - 1e-9),
        "num_steps": (1, math.inf),
        "num_samples": (2, math.inf),
        "solver_steps": (1, math.inf),
        "eval_batch_size": (1, math.inf),
        "embedding_steps": (0, math.inf),
        "learning_rate": (1e-12, 1e12),
        "weight_decay": (0, 1e12),
    }
    options.check_bounds(config, bounds)


def main(config: Config, *, features: Embedding | None = None) -> None:
    """Trains or continues every network, evaluates, and leaves everything under the run folder.

    Args:
      config: the options.
      features: in which Frechet distances are taken, in place of the features of a classifier.
    """
    _check(config)
    devices.check_batch(config.batch_size)
    name, images = training.load(config)
    choose = classifier.of_run(config, images, features)
    sizes = sizes_of(config, images)
    folder = config.workdir or f"runs/closed_form/learning/{name}"
    folder = loop.open_run(folder, config, evaluation=EVALUATION, data=data.fingerprint(images))
    key_loss, key_evaluate = training.keys(config.seed)
    space = choose(folder)
    if space is None:
        space = Embedding(principal_components(images), "principal components")
    options = {name: getattr(config, name) for name in (*MEASURED, "num_steps")}
    options, rows = options | {"fingerprint": space.fingerprint}, []
    variances = measures.variances(measures.points(images, 10_000))
    for count in sizes:
        place = folder / f"n_{count}"
        network = measures.train(config, images, count, place, key_loss)
        if jax.process_index() == 0:  # one process evaluates and writes
            arguments = (network, images, count, config, key_evaluate)
            make = functools.partial(evaluate, *arguments, embed=space.embed)
            row = remembered(place / "evaluation.json", options, make)
            collapse_time = measures.collapse_time(variances, images.train[:count])
            rows.append(row | {"space": space.name, "collapse_time": collapse_time})
    if jax.process_index() != 0:
        return
    rows.sort(key=lambda row: row["n"])
    with run_pictures.style():
        run_pictures.save(folder / "figures", pictures.learning(rows, images, dataset=name))
    without = [{k: v for k, v in row.items() if k != "shown"} for row in rows]
    write_json(folder / "results.json", space.facts() | {"networks": without})
    print(table(rows))
    print(f"everything is in {folder}: config.json, n_*/, results.json, figures/")


if __name__ == "__main__":
    cli.run(main, Config)
