"""Uncertainty maps of images from the Jacobian of a flow-matching velocity.

Paper: Divergence is Uncertainty, arXiv 2605.00941, sections 4 and 5. A velocity field is trained
on images by conditional flow matching; then, from its Jacobian alone:

1. maps of the posterior standard deviation along the generation of samples, and whether they lie
   on the edges of what is drawn (5.2);
2. U = tr Cov[x1 | x_t] against the error of the posterior mean, on training and on held-out
   images noised to several times t (5.3);
3. with --num-rivals, the same for a deep ensemble, Monte-Carlo dropout and the samples of the
   memoryless SDE, with what each of them costs (5.3, 5.4);
4. the learned posterior against the exact one of the training data.

Beside it: samples, and the held-out negative log-likelihood in bits per dimension by the exact
divergence, of pixels dequantized with uniform noise.

Run:    python -m experiments.uncertainty.maps                       (digits, no network)
        python -m experiments.uncertainty.maps --num-rivals 128      (and the rivals)
        python -m experiments.uncertainty.maps --dataset mnist --data-dir DIR
Time:   2 minutes for the digits on two CPU cores; 16 with the rivals.
Expect: E[error] / E[U] within 10 % of 1 on held-out digits for 0.3 <= t <= 0.9, and about 1.95
        bits per dimension; the table of experiments/README.md.
"""

import dataclasses
import functools
import math
import os
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from experiments.images import data, likelihood, training
from experiments.images import pictures as images_pictures
from experiments.run import cli, loop, options
from experiments.run import pictures as run_pictures
from experiments.run.folder import write_json
from experiments.uncertainty import _calibration
from experiments.uncertainty._posterior import compared, exact, measures, pictures, rivals, tables
from fmjax.types import Array, Key, PyTree

path = training.path  # linear, section 3.1


@dataclasses.dataclass(frozen=True)
class Config:
    """The options, each with its default: a run on the digits in two minutes."""

    dataset: str = "digits"
    """digits, mnist, fashion_mnist, cifar10, cifar10_subset, or a path to your own .npz file
    with an array "images", uint8 [n, h, w] or [n, h, w, c]."""
    data_dir: str | None = None
    """Folder of data sets prepared by tensorflow-datasets; None is its default folder, to which
    a missing data set is downloaded. Not used by digits and .npz files."""
    held_out: float = 0.2
    """Share of the images held out, in (0, 1), where the data set has no split of its own."""
    workdir: str | None = None
    """Run folder; None is runs/uncertainty/maps/DATASET. The same command continues it."""
    seed: int = 0
    """Seed of the split, the network and all noise, an integer >= 0."""
    channels: tuple[int, ...] = (32, 64)
    """Features of each level of the U-Net, multiples of 8."""
    dropout: float = 0.1
    """Probability of dropping a feature in training, in [0, 1)."""
    batch_size: int = 64
    """Images per step, a multiple of the number of devices."""
    num_steps: int = 2000
    """Training steps."""
    learning_rate: float = 2e-3
    """Peak of the learning rate; warm-up over the first tenth at most 100 steps, then cosine."""
    weight_decay: float = 0.01
    """Weight decay of AdamW, per unit of the learning rate."""
    ema_decay: float = 0.995
    """Decay of the moving average of the parameters, per step."""
    save_every: int = 500
    """Steps between checkpoints and between evaluations of the held-out loss."""
    times: tuple[float, ...] = (0.1, 0.3, 0.5, 0.7, 0.9)
    """Times at which uncertainty is measured, in (0, 1); 0 is noise, 1 is data."""
    num_uncertainty: int = 360
    """Held-out images, and as many training images, measured at each time."""
    num_likelihood: int = 64
    """Held-out images whose likelihood is measured; 0 for none."""
    likelihood_probes: int = 0
    """Hutchinson probes of the likelihood's divergence; 0 is the exact divergence."""
    tolerance: float = 1e-3
    """Relative and absolute tolerance of a step of the likelihood's adaptive solver."""
    num_trajectories: int = 32
    """Samples whose maps are followed from noise to data."""
    num_rivals: int = 0
    """Held-out images on which the other measures of uncertainty are compared, at least 2, or 0
    for none."""
    ensemble: int = 5
    """Networks of the deep ensemble, at least 2, or 0 for none; trained only for the rivals."""
    dropout_passes: int = 50
    """Forward passes of Monte-Carlo dropout for each image and time."""
    sde_seeds: int = 64
    """Seeds of the memoryless SDE for each image and time."""
    sde_steps: int = 20
    """Steps of the memoryless SDE, of three evaluations each."""
    num_samples: int = 64
    """Samples to draw."""
    eval_batch_size: int = 8
    """Images evaluated at a time; memory grows with it."""


# What no training depends on: the same networks may be measured again with other values.
EVALUATION = (
    "times",
    "num_uncertainty",
    "num_likelihood",
    "likelihood_probes",
    "tolerance",
    "num_trajectories",
    "num_rivals",
    "ensemble",
    "dropout_passes",
    "sde_seeds",
    "sde_steps",
    "num_samples",
    "eval_batch_size",
)


def train(
    config: Config, images: data.Images, folder: os.PathLike, key: Key
) -> tuple[Callable[..., Array], list[PyTree]]:
    """Returns the network, and its parameters, then the parameters of the rest of the ensemble."""
    apply, params = training.flow(config, images, folder, key, seed=config.seed)
    networks = [params]
    for member in range(1, config.ensemble if config.num_rivals else 1):
        place, seed = folder / "ensemble" / str(member), (config.seed + 1000 * member) % 2**32
        # The data stay; network, order and noise change.
        networks.append(training.flow(config, images, place, key, seed=seed)[1])
    return apply, networks


def compare_rivals(
    apply: Callable[..., Array],
    networks: list[PyTree],
    held_out: dict[float, dict[str, np.ndarray]],
    config: Config,
    key: Key,
) -> tuple[dict[str, Any], dict[str, dict]]:
    """Returns the other measures of uncertainty on the same states, and their cost (part 3)."""
    by_time = {
        t: {name: values[: config.num_rivals] for name, values in measured.items()}
        for t, measured in held_out.items()
    }
    x = next(iter(by_time.values()))["noised"]
    chosen = rivals.methods(
        path,
        x[0].size,
        # A network without dropout has no features to drop.
        dropout_passes=config.dropout_passes if config.dropout else 0,
        sde_seeds=config.sde_seeds,
        sde_steps=config.sde_steps,
        networks=config.ensemble,
        training_passes=3 * config.num_steps * config.batch_size,
    )
    compiled = rivals.compile_all(apply, networks, chosen)
    costs = rivals.costs(compiled, chosen, x[: config.eval_batch_size])
    compiled.pop(rivals.FORWARD)
    rows, arrays = rivals.compare(compiled, by_time, key, size=config.eval_batch_size)
    return {"rows": rows, "costs": costs}, arrays


def evaluate(
    apply: Callable[..., Array],
    networks: list[PyTree],
    images: data.Images,
    config: Config,
    key: Key,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns the numbers of the run, and the arrays its figures are drawn from."""
    params, size, keys = networks[0], config.eval_batch_size, jax.random.split(key, 6)
    noise = jax.random.normal(keys[0], (config.num_samples, *images.train.shape[1:]))
    arrays = {"samples": measures.samples(apply, params, noise, size=size)}
    noise = jax.random.normal(keys[1], (config.num_trajectories, *images.train.shape[1:]))
    times, results = tuple(sorted(config.times)), {}
    results["edges"], arrays["generations"] = measures.follow(
        apply, params, path, noise, times, size=size
    )  # part 1
    calibrate = functools.partial(measures.calibrate, apply, params, path, size=size, times=times)
    for part, k in (("held_out", keys[2]), ("train", keys[3])):  # part 2
        pixels = getattr(images, part)[: config.num_uncertainty]
        arrays[part] = calibrate(k, pixels, images.levels, label=part.replace("_", "-"))
    results["uncertainty"] = _calibration.rows(arrays["held_out"])
    results["uncertainty_train"] = _calibration.rows(arrays["train"])
    results["pooled"] = _calibration.pooled(arrays["held_out"])
    results["exact"], arrays["exact"] = exact.compare(path, images, arrays, size=size)  # part 4
    if config.num_likelihood:
        results["likelihood"] = likelihood.bits_per_dim(
            apply,
            params,
            images,
            keys[4],
            count=config.num_likelihood,
            probes=config.likelihood_probes,
            tolerance=config.tolerance,
            size=size,
        )
    if config.num_rivals:
        results["rivals"], arrays["rivals"] = compare_rivals(
            apply, networks, arrays["held_out"], config, keys[5]
        )
    return results, arrays


def _check(config: Config) -> None:
    """Raises ValueError for options that would only fail after the training."""
    options.check_times(config.times)
    bounds = {
        "num_steps": (1, math.inf),
        "num_uncertainty": (2, math.inf),
        "num_likelihood": (0, math.inf),
        "likelihood_probes": (0, math.inf),
        "num_samples": (1, math.inf),
        "num_trajectories": (2, math.inf),
        "num_rivals": (0, math.inf),
        "ensemble": (0, 100),
        "dropout_passes": (2, math.inf),
        "sde_seeds": (2, math.inf),
        "sde_steps": (1, math.inf),
        "eval_batch_size": (1, math.inf),
        "learning_rate": (1e-12, 1e12),
        "weight_decay": (0, 1e12),
        "tolerance": (1e-12, 0.5),
    }
    options.check_bounds(config, bounds)
    for name, reason in (
        ("num_likelihood", "one image has no standard error"),
        ("num_rivals", "one image has no correlation"),
        ("ensemble", "one network does not differ from itself"),
    ):
        if getattr(config, name) == 1:
            message = f"{name} must be 0 or at least 2, got 1: {reason}."
            raise ValueError(message)


def _check_rivals(config: Config, images: data.Images) -> None:
    """Raises ValueError if the rivals are asked for more images than are measured."""
    most = min(config.num_uncertainty, len(images.held_out))
    if config.num_rivals > most:
        message = (
            f"num_rivals must be at most {most}, the held-out images that are measured, got "
            f"{config.num_rivals}."
        )
        raise ValueError(message)


def main(config: Config) -> None:
    """Trains or continues, evaluates, and leaves everything under the run folder."""
    _check(config)
    name, images = training.load(config)
    _check_rivals(config, images)
    folder = config.workdir or f"runs/uncertainty/maps/{name}"
    folder = loop.open_run(folder, config, evaluation=EVALUATION, data=data.fingerprint(images))
    key_loss, key_evaluate = training.keys(config.seed)
    apply, networks = train(config, images, folder, key_loss)
    if jax.process_index() != 0:
        return  # one process evaluates and writes
    # Near the noise the identity multiplies errors of the Jacobian: no TF32 or bfloat16 products.
    with jax.default_matmul_precision("highest"):
        results, arrays = evaluate(apply, networks, images, config, key_evaluate)
    write_json(folder / "results.json", results)
    with run_pictures.style():
        figures = {
            "samples": images_pictures.samples(arrays["samples"], dataset=name),
            "uncertainty": pictures.uncertainty(arrays["held_out"], dataset=name),
            "calibration": _calibration.picture(arrays["held_out"], results["uncertainty"]),
            **compared.all_of(arrays, results, dataset=name),
        }
        run_pictures.save(folder / "figures", figures)
    print(tables.report(results, folder))


if __name__ == "__main__":
    cli.run(main, Config)
