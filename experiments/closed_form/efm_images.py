"""Flow matching with exact targets on images: does their randomness help to generalize?

Paper: On the Closed-Form of Flow Matching, arXiv 2506.03719, section 4.2, figure 4 and tables 1, 2.
The target of flow matching is random; empirical flow matching (EFM) replaces it by the mean over a
bank of M training images, exact for M = n. The same network learns from the same batches, noise
and times by CFM, by minibatch-OT CFM and by EFM with several banks, each with several seeds, and
during the training the Frechet distance of generated images from held-out ("test") and from
training images is measured, in the embedding of a classifier that is trained first, on the labels.
At the end also: how near the nearest training image is, and how many images repeat one.

Pixels stay at the centers of their bins, without dequantization: the targets are exact for the
law of the n images. M counts the batch, which is in its own bank.

Run:    python -m experiments.closed_form.efm_images                    (digits, no network)
        python -m experiments.closed_form.efm_images --dataset mnist --data-dir DIR
            --channels 32 64 64 --batch-size 128 --learning-rate 1e-3 --ema-decay 0
            --epochs 25 --eval-epochs 1
            --methods CFM EFM-n --banks 128 256 1024 --num-samples 10000 --solver-steps 50
            --eval-batch-size 500 --embedding-steps 2000                          (table 1)
        ... --dataset fashion_mnist --epochs 200 --eval-epochs 5 --banks 128 256 512  (table 2)
Time:   20 minutes for the digits on two CPU cores, 18 trainings of 70 epochs; the other two are
        for an accelerator.
Expect: EFM never worse than CFM and better with larger M: in the tables of the paper 8 to 20 %
        lower at the end, and lower earlier.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import fmjax
from experiments.closed_form._efm import pictures, tables
from experiments.closed_form._efm import training as efm_training
from experiments.closed_form._efm.training import Networks
from experiments.images import classifier, data, quality, training
from experiments.images.features import Embedding, pin
from experiments.images.options import Features, Source
from experiments.run import arrays, batches, checkpoints, cli, devices, layout, loop, options
from experiments.run import pictures as run_pictures
from experiments.run.folder import remembered, write_json
from experiments.run.options import Free, Place
from experiments.run.saved import Network
from fmjax.empirical import Bank
from fmjax.types import Array, Key, PyTree


@dataclasses.dataclass(frozen=True)
class Training:
    """The U-Net and its training, by Adam."""

    channels: tuple[int, ...] = (32, 64)
    """Features of each level of the U-Net, multiples of 8."""
    batch_size: int = 64
    """Images per step, a multiple of the number of devices."""
    epochs: int = 70
    """Passes through the training images."""
    eval_epochs: int = 5
    """Epochs between evaluations, and between checkpoints."""
    learning_rate: float = 2e-3
    """Learning rate of Adam, constant; the paper's is 1e-3."""
    ema_decay: float = 0.995
    """Decay of the moving average of the parameters, per step; 0 takes the last ones."""
    max_skipped: Free[int] = 0
    """Steps, of those between two lines of the metrics, that may be skipped for a loss or gradient
    that is not finite; they are counted. 0 stops the run at the first that is seen."""

    def check(self) -> None:
        """Raises ValueError for numbers out of their bounds."""
        bounds = {
            "batch_size": (1, math.inf),
            "epochs": (1, math.inf),
            "eval_epochs": (1, math.inf),
            "learning_rate": (1e-12, 1e12),
            "ema_decay": (0.0, 1.0 - 1e-9),
        }
        options.check_bounds(self, bounds)


@dataclasses.dataclass(frozen=True)
class Samples:
    """What is generated in every evaluation, in the training and after it."""

    num_samples: int = 1438
    """Images that are generated in every evaluation. The distance of few is mostly bias and noise:
    that of 360 training digits from as many held out is 4.4 ± 0.5."""
    solver_steps: int = 10
    """Steps of Heun from noise to image, of two evaluations each."""
    eval_batch_size: Free[int] = 240
    """Images that are generated at a time; memory grows with it."""
    num_shown: Free[int] = 12
    """Generated images of the figure, for each method."""

    def check(self) -> None:
        """Raises ValueError for numbers out of their bounds."""
        bounds = {
            "num_samples": (2, math.inf),
            "solver_steps": (1, math.inf),
            "eval_batch_size": (1, math.inf),
            "num_shown": (1, self.num_samples),
        }
        options.check_bounds(self, bounds)


@dataclasses.dataclass(frozen=True)
class Config:
    """The options, each with its default: a run on the digits."""

    workdir: Place = None
    """Run folder; None is runs/closed_form/efm_images/DATASET. The same command continues it."""
    seed: int = 0
    """Seed of the split and of the classifier, an integer >= 0."""
    source: Source = Source()
    features: Features = Features()
    networks: Free[Networks] = Networks()
    training: Training = Training()
    samples: Samples = Samples()

    def check(self) -> None:
        """Raises ValueError for options that would only fail after a training."""
        options.check_parts(self)
        options.check_bounds(self.features, {"embedding_steps": (1, math.inf)})


# Two products with the bank, in memory batch times n; chunks of it are scaled to the states.
target = functools.partial(fmjax.empirical.refined_velocity, chunk_size=4096)


def bank_of(images: data.Images) -> Bank:
    """Returns the training images as bytes, with what brings them to the centers of the bins."""
    width = data.bin_width(images.levels)
    return fmjax.empirical.prepare(jnp.asarray(images.train), scale=width, shift=0.5 * width - 1.0)


def network(
    channels: tuple[int, ...], images: data.Images, seed: int
) -> tuple[Callable[..., Array], PyTree]:
    """Returns the U-Net as a pure function, and its first parameters."""
    unet = fmjax.models.UNet(images.train.shape[1:], channels=channels, rngs=nnx.Rngs(seed))
    return fmjax.models.functional(unet)


def sampler(
    asked: Samples, apply: Callable[..., Array], reference: quality.Reference, seed: int
) -> Callable[[PyTree], np.ndarray]:
    """Returns a function from the parameters to generated images, from the same noise always."""
    key = jax.random.fold_in(jax.random.key(seed), 1000)
    noise = jax.random.normal(key, (asked.num_samples, *reference.images.shape[1:]))
    return lambda params: quality.sample(
        apply,
        params,
        noise,
        reference.levels,
        num_steps=asked.solver_steps,
        size=asked.eval_batch_size,
    )


def train(
    options: Training,
    loss: Callable[..., Array],
    params: PyTree,
    bank: Bank,
    measure: Callable[[PyTree, Key], dict[str, float]],
    *,
    folder: Any,
    seed: int,
) -> PyTree:
    """Trains one network by one method, or restores it, and returns its parameters."""
    order = np.arange(len(bank.points), dtype=np.int32)
    per_epoch = len(order) // options.batch_size
    every = options.eval_epochs * per_epoch
    state = loop.fit(
        loss,
        params,
        batches.batches(order, options.batch_size, seed=seed),  # the images are on the devices
        efm_training.adam(options.learning_rate),
        measure,
        workdir=folder,
        num_steps=options.epochs * per_epoch,
        seed=seed,
        max_skipped=options.max_skipped,
        ema_decay=options.ema_decay,
        eval_every=every,
        save_every=every,
        shared={"data": bank},
    )
    return layout.on_host(state.ema_params)


def evaluated(
    folder: Any,
    generate: Callable[[], np.ndarray],
    reference: quality.Reference,
    config: Config,
) -> dict[str, Any]:
    """Returns the final numbers of one network, read back where they were measured before."""
    facts = {"epochs": config.training.epochs, "num_shown": config.samples.num_shown}

    def make() -> dict[str, Any]:
        pixels = generate()
        numbers = quality.frechet(reference, pixels) | quality.copies(reference, pixels)
        return numbers | {"shown": pixels[: config.samples.num_shown]}

    return remembered(folder / "evaluation.json", facts, make)


def run(config: Config, images: data.Images, reference: Any, folder: Any) -> list[dict[str, Any]]:
    """Trains and evaluates every method with every seed, and returns the row of each network."""
    rows, bank = [], bank_of(images)
    # One function for all seeds, so that step and sampler are compiled once for each method.
    channels = config.training.channels
    apply, _ = network(channels, images, 0)
    losses = efm_training.losses(apply, config.networks, target=target)
    for seed in config.networks.seeds:
        _, params = network(channels, images, seed)
        generate = sampler(config.samples, apply, reference, seed)
        measure = lambda params, _, g=generate: quality.frechet(reference, g(params))  # noqa: E731
        for name, loss in losses.items():
            place = folder / f"seed_{seed}" / name
            efm_training.announce(seed, name)
            trained = train(config.training, loss, params, bank, measure, folder=place, seed=seed)
            final = evaluated(place, functools.partial(generate, trained), reference, config)
            curve = tables.curve(place, len(images.train) // config.training.batch_size)
            rows.append({"seed": seed, "method": name, **final, "curve": curve})
    return rows


def restore(config: Config, folder: Any) -> dict[str, Network]:
    """Tells how the networks of a run are read, each by its seed and its method."""
    images = training.recorded(config.source, config.seed, folder)
    apply, like = network(config.training.channels, images, 0)
    steps = config.training.epochs * (len(images.train) // config.training.batch_size)

    def one(name: str) -> Network:
        read = functools.partial(checkpoints.averaged, folder / name, like, steps)
        return Network(apply, read, efm_training.path, lambda: images)

    return {name: one(name) for name in efm_training.names(config.networks)}


def _check_sizes(config: Config, images: data.Images) -> None:
    """Raises ValueError if the batch, a bank or the network does not fit the images."""
    batches.batches(images.train, config.training.batch_size, seed=0)
    efm_training.check_banks(config.networks.banks, config.training.batch_size, len(images.train))
    network(config.training.channels, images, 0)


def main(config: Config, *, features: Embedding | None = None) -> None:
    """Trains or continues every network, evaluates, and leaves everything under the run folder.

    Args:
      config: the options.
      features: in which images are compared, in place of the features of a classifier.
    """
    config.check()
    devices.check_batch(config.training.batch_size)
    name, images = training.load(config.source, config.seed)
    _check_sizes(config, images)
    choose = classifier.embedder(config.features, config.source, config.seed, images, features)
    folder = loop.open_run(
        config.workdir or f"runs/closed_form/efm_images/{name}",
        config,
        data=data.fingerprint(images),
    )
    embedded = choose(folder)
    pin(folder, embedded)
    reference = quality.reference(embedded, images)
    rows = run(config, images, reference, folder)
    of_data = quality.of_data(reference, images, config.samples.num_samples)
    if jax.process_index() != 0:
        return  # one process writes
    with run_pictures.style():
        names = {"dataset": data.title(name), "space": embedded.name}
        figures = pictures.figures(rows, of_data, images.levels, **names)
        run_pictures.save(folder / "figures", figures)
    shown = {
        f"seed_{row['seed']}/{row['method']}": {"shown": np.uint8(row["shown"])} for row in rows
    }
    arrays.write(folder / "arrays.npz", shown)
    results = [{k: v for k, v in row.items() if k != "shown"} for row in rows]
    summary = embedded.facts() | {"models": results, "data": of_data}
    write_json(folder / "results.json", summary)
    print(embedded)
    print(tables.table(rows, of_data))
    print(f"test Frechet during the training\n{tables.epochs_table(rows)}")
    print(f"everything is in {folder}: config.json, results.json, figures/, seed_*/METHOD/")


if __name__ == "__main__":
    cli.run(main, Config)
