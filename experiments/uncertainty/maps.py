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
        bits per dimension; the table of experiments/uncertainty/README.md.
"""

import dataclasses
import functools
import math
import os
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from experiments.images import data, likelihood, objectives, training, unet
from experiments.images import pictures as images_pictures
from experiments.images.options import FlowTraining, Likelihood, Source
from experiments.run import arrays as run_arrays
from experiments.run import cli, loop, options
from experiments.run import pictures as run_pictures
from experiments.run.folder import write_json
from experiments.run.options import Free, Place
from experiments.run.saved import Network
from experiments.uncertainty import _calibration
from experiments.uncertainty._posterior import (
    comparison_pictures,
    exact,
    measures,
    pictures,
    rivals,
    tables,
)
from experiments.uncertainty._posterior.options import Rivals, Uncertainty
from fmjax.types import Array, Key, PyTree

path = training.path  # linear, section 3.1


@dataclasses.dataclass(frozen=True)
class Samples:
    """What is drawn from the network."""

    num_samples: int = 64
    """Samples to draw."""
    num_trajectories: int = 32
    """Samples whose maps are followed from noise to data."""

    def check(self) -> None:
        """Raises ValueError for too few samples."""
        options.check_bounds(
            self, {"num_samples": (1, math.inf), "num_trajectories": (2, math.inf)}
        )


@dataclasses.dataclass(frozen=True)
class Config:
    """The options, each with its default: a run on the digits in two minutes."""

    workdir: Place = None
    """Run folder; None is runs/uncertainty/maps/DATASET. The same command continues it."""
    seed: int = 0
    """Seed of the split, the network and all noise, an integer >= 0."""
    eval_batch_size: Free[int] = 8
    """Images evaluated at a time; memory grows with it."""
    source: Source = Source()
    training: FlowTraining = FlowTraining()
    uncertainty: Free[Uncertainty] = Uncertainty()
    likelihood: Free[Likelihood] = Likelihood()
    samples: Free[Samples] = Samples()
    rivals: Free[Rivals] = Rivals()

    def check(self) -> None:
        """Raises ValueError for options that would only fail after the training."""
        options.check_parts(self)
        options.check_bounds(self, {"eval_batch_size": (1, math.inf)})


def train(
    config: Config, images: data.Images, folder: os.PathLike, key: Key
) -> tuple[Callable[..., Array], list[PyTree]]:
    """Returns the network, and its parameters, then the parameters of the rest of the ensemble."""
    moments = unet.moments_for(config.training, images)
    penalty = objectives.penalty_for(config.training)
    fit = functools.partial(
        training.flow, config.training, images, moments=moments, penalty=penalty
    )
    apply, params = fit(folder, key, seed=config.seed)
    networks = [params]
    for member in range(1, config.rivals.ensemble if config.rivals.num_rivals else 1):
        place, seed = folder / "ensemble" / str(member), (config.seed + 1000 * member) % 2**32
        # The data stay; network, order and noise change.
        networks.append(fit(place, key, seed=seed)[1])
    return apply, networks


def restore(config: Config, folder: os.PathLike) -> dict[str, Network]:
    """Tells how the networks of a run are read; with the rivals there are several."""
    images = training.recorded(config.source, config.seed, folder)
    members = range(1, config.rivals.ensemble if config.rivals.num_rivals else 1)
    places = {"flow": folder} | {f"ensemble/{k}": folder / "ensemble" / str(k) for k in members}
    moments = unet.moments_for(config.training, images)
    trained = functools.partial(training.trained, config.training, images, moments=moments)
    return {name: trained(place) for name, place in places.items()}


def compare_rivals(
    apply: Callable[..., Array],
    networks: list[PyTree],
    held_out: dict[float, dict[str, np.ndarray]],
    config: Config,
    key: Key,
) -> tuple[dict[str, Any], dict[str, dict]]:
    """Returns the other measures of uncertainty on the same states, and their cost (part 3)."""
    asked, size = config.rivals, config.eval_batch_size
    by_time = {
        t: {name: values[: asked.num_rivals] for name, values in measured.items()}
        for t, measured in held_out.items()
    }
    x = next(iter(by_time.values()))["noised"]
    chosen = rivals.methods(
        path,
        x[0].size,
        # A network without dropout has no features to drop.
        dropout_passes=asked.dropout_passes if config.training.dropout else 0,
        sde_seeds=asked.sde_seeds,
        sde_steps=asked.sde_steps,
        networks=asked.ensemble,
        training_passes=3 * config.training.num_steps * config.training.batch_size,
    )
    compiled = rivals.compile_all(apply, networks, chosen)
    costs = rivals.costs(compiled, chosen, x[:size])
    compiled.pop(rivals.FORWARD)
    rows, arrays = rivals.compare(compiled, by_time, key, size=size)
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
    shape = images.train.shape[1:]
    noise = jax.random.normal(keys[0], (config.samples.num_samples, *shape))
    arrays = {"samples": measures.samples(apply, params, noise, size=size)}
    noise = jax.random.normal(keys[1], (config.samples.num_trajectories, *shape))
    times, results = tuple(sorted(config.uncertainty.times)), {}
    results["edges"], arrays["generations"] = measures.follow(
        apply, params, path, noise, times, size=size
    )  # part 1
    calibrate = functools.partial(measures.calibrate, apply, params, path, size=size, times=times)
    for part, k in (("held_out", keys[2]), ("train", keys[3])):  # part 2
        pixels = getattr(images, part)[: config.uncertainty.num_uncertainty]
        arrays[part] = calibrate(k, pixels, images.levels, label=part.replace("_", "-"))
    results["uncertainty"] = _calibration.rows(arrays["held_out"])
    results["uncertainty_train"] = _calibration.rows(arrays["train"])
    results["pooled"] = _calibration.pooled(arrays["held_out"])
    results["exact"], arrays["exact"] = exact.compare(path, images, arrays, size=size)  # part 4
    if config.likelihood.num_likelihood:
        results["likelihood"] = likelihood.bits_per_dim(
            apply, params, images, config.likelihood, keys[4], size=size
        )
    if config.rivals.num_rivals:
        results["rivals"], arrays["rivals"] = compare_rivals(
            apply, networks, arrays["held_out"], config, keys[5]
        )
    return results, arrays


def _check_rivals(config: Config, images: data.Images) -> None:
    """Raises ValueError if the rivals are asked for more images than are measured."""
    most = min(config.uncertainty.num_uncertainty, len(images.held_out))
    if config.rivals.num_rivals > most:
        message = (
            f"num_rivals must be at most {most}, the held-out images that are measured, got "
            f"{config.rivals.num_rivals}."
        )
        raise ValueError(message)


def main(config: Config) -> None:
    """Trains or continues, evaluates, and leaves everything under the run folder."""
    config.check()
    name, images = training.load(config.source, config.seed)
    _check_rivals(config, images)
    folder = config.workdir or f"runs/uncertainty/maps/{name}"
    folder = loop.open_run(folder, config, data=data.fingerprint(images))
    key_loss, key_evaluate = training.keys(config.seed)
    apply, networks = train(config, images, folder, key_loss)
    # Near the noise the identity multiplies errors of the Jacobian: no TF32 or bfloat16 products.
    with jax.default_matmul_precision("highest"):
        results, arrays = evaluate(apply, networks, images, config, key_evaluate)
    if jax.process_index() != 0:
        return  # one process writes
    write_json(folder / "results.json", results)
    run_arrays.write(folder / "arrays.npz", arrays)
    with run_pictures.style():
        figures = {
            "samples": images_pictures.samples(arrays["samples"], dataset=data.title(name)),
            "uncertainty": pictures.uncertainty(arrays["held_out"], dataset=data.title(name)),
            "calibration": _calibration.picture(arrays["held_out"], results["uncertainty"]),
            **comparison_pictures.figures(arrays, results, dataset=data.title(name)),
        }
        run_pictures.save(folder / "figures", figures)
    print(tables.report(results, folder))


if __name__ == "__main__":
    cli.run(main, Config)
