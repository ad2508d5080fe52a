"""Flow and divergence matching of images: bits per dimension and Frechet distance.

Paper: Improving Flow Matching by Aligning Flow Divergence, arXiv 2602.00869, its table of CIFAR-10
(the name of this experiment; --dataset takes any other images). Its code has none of it: network,
weight and probes are ours. A U-Net is trained by flow matching (FM) and with the divergence penalty
(FDM): the same start, images, noise and number of steps, once on pixels with uniform noise and once
on the bare centers of their bins. Then, on the same held-out images and noise,

1. bits per dimension, by uniform dequantization for the first pair of networks and by the truncated
   normal of i-DODE (arXiv 2305.03935) for the second, with importance weights over several draws,
   by the exact divergence and by random probes (`experiments.images.likelihood`);
2. the likelihood from the errors of denoising, without any Jacobian: its gap to that of the flow
   measures the error of the network (`fmjax.likelihood.from_errors`);
3. the Frechet distance of samples in the features of a classifier of these images, beside the
   distance of held-out images;
4. the divergence in the loss, exact and by 1 to 16 probes: its noise, and a short training.

Run:    python -m experiments.fdm.cifar10                              (digits, no network)
        python -m experiments.fdm.cifar10 --dataset cifar10_subset --data-dir DIR
            --channels 32 64 64 --noises truncated --num-exact 0 --ablation-steps 0
        the paper's, on an accelerator: --dataset cifar10 --channels 128 256 256 256
            --num-steps 400000 --batch-size 256 --learning-rate 5e-4 --ema-decay 0.9999
            --save-every 10000 --noises truncated --num-exact 0 --ablation-steps 0
Time:   27 minutes for the digits on one CPU core beside other runs.
Expect: the paper has 2.99 (FM) and 2.85 (FDM) bits and a FID of 6.35 and 5.62 on CIFAR-10.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np

from experiments.fdm._cifar10 import costs, divergences, likelihoods, pictures, tables
from experiments.fdm._cifar10.options import Ablation, Measures, Networks, Samples
from experiments.images import classifier, data, objectives, quality, training
from experiments.images.features import Embedding, pin
from experiments.images.options import Features, FlowTraining, Source, Training
from experiments.run import arrays as run_arrays
from experiments.run import cli, devices, loop, options
from experiments.run import pictures as run_pictures
from experiments.run.folder import write_json
from experiments.run.options import Free, Place
from experiments.run.saved import Network
from fmjax.types import Array, Key, PyTree

METHODS = ("FM", "FDM")


@dataclasses.dataclass(frozen=True)
class Config:
    """The options, each with its default: a run on the digits."""

    workdir: Place = None
    """Run folder; None is runs/fdm/cifar10/DATASET. The same command continues it."""
    seed: int = 0
    """Seed of the split, the networks and all noise, an integer >= 0."""
    source: Source = Source()
    networks: Networks = Networks()
    training: Training = Training(channels=(16, 32), num_steps=1000)
    ablation: Ablation = Ablation()
    features: Features = Features()
    measures: Free[Measures] = Measures()
    samples: Free[Samples] = Samples()

    def check(self) -> None:
        """Raises ValueError for options that would only fail after the training."""
        options.check_bounds(self, {"seed": (0, 2**32 - 1)})
        options.check_parts(self)
        if self.networks.penalty_every > self.training.batch_size:
            message = (
                f"penalty_every must be at most the batch_size {self.training.batch_size}, got "
                f"{self.networks.penalty_every}: every so manieth image of a batch is probed."
            )
            raise ValueError(message)


def names(config: Config) -> list[str]:
    """Names the networks of a run by the folder of each, in the order of their training."""
    return [f"{noise}/{method}" for noise in config.networks.noises for method in METHODS]


def make_losses(config: Config, noise: str, levels: int) -> dict[str, Callable[..., Any]]:
    """Returns `(apply, levels, penalty=None) -> loss` of both methods, for one noise."""
    place = likelihoods.noise(noise, levels, config.measures.deviations).place
    every = config.networks.penalty_every
    loss = partial(objectives.flow_loss, place=place)
    return {"FM": loss, "FDM": partial(loss, every=every)}


def penalties(config: Config) -> dict[str, objectives.Penalty | None]:
    """Returns the penalty of either method."""
    asked = FlowTraining(divergence_weight=config.networks.weight)
    return {"FM": None, "FDM": objectives.penalty_for(asked)}


def train(
    config: Config, images: data.Images, folder: Any, key: Key
) -> tuple[Callable[..., Array], dict[str, PyTree]]:
    """Returns the network and the parameters of each training, which all have the same start."""
    trained = {}
    for noise in config.networks.noises:
        place = likelihoods.noise(noise, images.levels, config.measures.deviations).place
        for method, make_loss in make_losses(config, noise, images.levels).items():
            apply, trained[f"{noise}/{method}"] = training.fit(
                config.training,
                images,
                folder / noise / method,
                key,
                make_loss=make_loss,
                seed=config.seed,
                place=place,
                penalty=penalties(config)[method],
            )
    return apply, trained


def restore(config: Config, folder: Any) -> dict[str, Network]:
    """Tells how the networks of a run are read, by noise and method."""
    images = training.recorded(config.source, config.seed, folder)
    return {
        name: training.trained(config.training, images, folder / name) for name in names(config)
    }


def measure_likelihoods(
    apply: Callable[..., Array],
    trained: dict[str, PyTree],
    images: data.Images,
    config: Config,
    key: Key,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns the numbers of parts 1 and 2, and the arrays that they are made of."""
    asked, size, found = config.measures, images.train[0].size, {}
    for name, params in trained.items():
        kind = likelihoods.noise(name.split("/")[0], images.levels, asked.deviations)
        found[name] = likelihoods.measure((apply, params), images, kind, asked, key, name=name)
    paired = {
        noise: likelihoods.paired(found[f"{noise}/FM"], found[f"{noise}/FDM"], size)
        for noise in config.networks.noises
    }
    each = {name: likelihoods.summarize(values, size) for name, values in found.items()}
    return {"networks": each, "fdm_minus_fm": paired}, found


def generate(
    apply: Callable[..., Array], trained: dict[str, PyTree], images: data.Images, config: Config
) -> dict[str, np.ndarray]:
    """Returns samples of each network, uint8 `[n, h, w, c]`, from the same noises."""
    asked = config.samples
    key = jax.random.fold_in(jax.random.key(config.seed), 1002)
    noise = jax.random.normal(key, (asked.num_samples, *images.train.shape[1:]))
    given = {"num_steps": asked.solver_steps, "size": asked.eval_batch_size}
    return {
        name: quality.sample(apply, params, noise, images.levels, **given)
        for name, params in trained.items()
    }


def distances(
    embedded: Embedding, images: data.Images, samples: dict[str, np.ndarray]
) -> dict[str, Any]:
    """Returns the Frechet distances of each network's samples, and those of as many images."""
    reference, count = quality.reference(embedded, images), len(next(iter(samples.values())))
    of_networks = {
        name: quality.frechet(reference, pixels) | {"num_images": len(pixels)}
        for name, pixels in samples.items()
    }
    of_data = quality.of_data(reference, images, count)
    return embedded.facts() | {"networks": of_networks, "data": of_data}


def compare_divergences(
    network: tuple[Callable[..., Array], PyTree],
    images: data.Images,
    config: Config,
    folder: Any,
    key: Key,
) -> dict[str, Any]:
    """Returns the numbers of part 4, at the network of the first training."""
    noise, few = config.networks.noises[0], config.ablation
    place = likelihoods.noise(noise, images.levels, config.measures.deviations).place
    key_pairs, key_probes, key_trained = jax.random.split(key, 3)
    pairs = divergences.pairs(images, place, key_pairs, few.ablation_batch)
    spread = divergences.noise(*network, pairs, key_probes, few.ablation_draws)
    trained = divergences.trained(config, images, place, folder, key_trained, seed=config.seed)
    return {"noise": spread, "trained": trained}


def evaluate(
    apply: Callable[..., Array],
    trained: dict[str, PyTree],
    images: data.Images,
    config: Config,
    folder: Any,
    key: Key,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns the numbers of the run but for the distances, and the arrays of its figures."""
    keys = jax.random.split(key)
    noise, first = config.networks.noises[0], next(iter(trained.values()))
    made = make_losses(config, noise, images.levels)
    losses = {
        name: loss(apply, images.levels, penalty=penalties(config)[name])
        for name, loss in made.items()
    }
    batch = images.train[: config.training.batch_size]
    results = {"costs": costs.of_steps(losses, first, batch, config.training)}
    arrays = {"samples": generate(apply, trained, images, config)}
    if config.measures.num_likelihood:
        results["likelihood"], arrays["likelihood"] = measure_likelihoods(
            apply, trained, images, config, keys[0]
        )
    if config.ablation.ablation_steps:
        results["divergences"] = compare_divergences(
            (apply, first), images, config, folder, keys[1]
        )
    return results, arrays


def main(config: Config, *, features: Embedding | None = None) -> None:
    """Trains or continues every network, evaluates, and leaves everything under the run folder.

    Args:
      config: the options.
      features: in which images are compared, in place of the features of a classifier.
    """
    config.check()
    devices.check_batch(config.training.batch_size)
    devices.check_divides("ablation_batch", config.ablation.ablation_batch)
    name, images = training.load(config.source, config.seed)
    likelihoods.check(images.levels, config.measures.deviations)
    choose = classifier.embedder(config.features, config.source, config.seed, images, features)
    folder = config.workdir or f"runs/fdm/cifar10/{name}"
    folder = loop.open_run(folder, config, data=data.fingerprint(images))
    embedded = choose(folder)
    key_loss, key_evaluate = training.keys(config.seed)
    apply, trained = train(config, images, folder, key_loss)
    with jax.default_matmul_precision("highest"):  # a divergence sums what nearly cancels
        results, arrays = evaluate(apply, trained, images, config, folder, key_evaluate)
    if embedded:
        pin(folder, embedded)
        results["quality"] = distances(embedded, images, arrays["samples"])
    if jax.process_index() != 0:
        return  # one process writes
    write_json(folder / "results.json", results)
    run_arrays.write(folder / "arrays.npz", arrays)
    with run_pictures.style():
        shown = config.samples.num_shown
        figures = pictures.figures(results, arrays, images, shown, dataset=data.title(name))
        run_pictures.save(folder / "figures", figures)
    print(tables.report(results, folder))


if __name__ == "__main__":
    cli.run(main, Config)
