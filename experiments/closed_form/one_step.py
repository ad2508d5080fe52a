"""MeanFlow on the exact field of the data: one-step models without the noise of the pair.

Beside the paper On the Closed-Form of Flow Matching, arXiv 2506.03719, which trains on the exact
field: here what it trains is the average velocity of Mean Flows, arXiv 2505.13447. Its loss takes
the velocity of the drawn pair twice, as target and as tangent of the derivative along the flow, and
each may be replaced by its mean, the exact velocity of the n points, without a change of the mean
gradient (compare arXiv 2605.09235, which uses it as a control variate). Several seeds are trained
at once. Then

1. the variance of the gradient of single pairs for the four ways to fill the two places, on the
   networks that were trained on pairs;
2. one-step samples over the steps of the training, held against held-out and training images: on
   pairs, with the exact tangent, on the exact field, and with a penalty of the divergence of the
   slice u(x, t, t).

Run:    python -m experiments.closed_form.one_step                     (digits, no network)
Time:   20 minutes on two CPU cores beside other work; half of it is the divergence.
Expect: two thirds of the variance with the exact field as target, and samples that are as near to
        the images after half of the steps. The tables are in experiments/closed_form/README.md.
"""

import dataclasses
import math
import os
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import fmjax
from experiments.closed_form._one_step import measures, pictures, tables, targets
from experiments.closed_form._one_step.measures import Scores
from experiments.closed_form._one_step.targets import average
from experiments.images import data, training
from experiments.images.options import Source
from experiments.run import arrays as run_arrays
from experiments.run import checkpoints, cli, layout, loop, numbers, options, several
from experiments.run import pictures as run_pictures
from experiments.run.batches import Batches, drawn
from experiments.run.folder import read_metrics, write_json
from experiments.run.options import Free, Place
from experiments.run.saved import Network
from fmjax.types import Array, Key, PyTree

# The first in the run folder itself, where a run that was interrupted is recognized.
PLACES = {"pairs": ".", "exact tangent": "tangent", "exact": "exact", "divergence": "divergence"}


@dataclasses.dataclass(frozen=True)
class Training:
    """The networks and their training, by Adam."""

    width: int = 256
    """Size of the hidden layers."""
    depth: int = 3
    """Residual blocks of a network."""
    batch_size: int = 128
    """Pairs per step and network, a multiple of the number of devices."""
    num_steps: int = 2000
    """Training steps."""
    learning_rate: float = 1e-3
    """Learning rate of Adam at the start; it falls to zero along a cosine."""
    fraction_equal: float = 0.5
    """Share of the pairs with r = t, on which the loss is flow matching."""
    weight: float = 0.1
    """Weight of the divergence penalty where there is one, with one random probe."""
    ema_decay: float = 0.999
    """Decay of the moving average of the parameters, per step."""
    save_every: int = 250
    """Steps between checkpoints and between evaluations."""

    def check(self) -> None:
        """Raises ValueError for numbers out of their bounds."""
        bounds = {name: (1, math.inf) for name in ("num_steps", "batch_size")}
        bounds |= {"learning_rate": (1e-12, 1e12), "weight": (0, 1e6), "fraction_equal": (0, 1)}
        options.check_bounds(self, bounds)


@dataclasses.dataclass(frozen=True)
class Config:
    """The options, each with its default: a run on the digits."""

    workdir: Place = None
    """Run folder; None is runs/closed_form/one_step/DATASET. The same command continues it."""
    seed: int = 0
    """Seed of the split, the networks and all noise, an integer >= 0."""
    num_seeds: int = 3
    """Networks of each method, at least 2: each with its own start, pairs and noise."""
    num_samples: int = 1000
    """One-step samples of each network, at each evaluation, at least 100."""
    num_pairs: Free[int] = 2000
    """Pairs whose gradients are taken for their variance, at least 2."""
    source: Source = Source()
    training: Training = Training()

    def check(self) -> None:
        """Raises ValueError for options that would only fail after the training."""
        bounds = {"num_seeds": (2, 100), "num_samples": (100, 1e6), "num_pairs": (2, 1e9)}
        options.check_bounds(self, bounds)
        options.check_parts(self)


def losses(asked: Training) -> dict[str, Callable[[Key], targets.Loss]]:
    """Returns what each method minimizes, by its name: from a key to the loss of one pair."""
    with_divergence = partial(partial, targets.with_divergence, asked.weight)
    return {
        "pairs": lambda _: targets.of_pair,
        "exact tangent": lambda _: targets.exact_tangent,
        "exact": lambda _: targets.exact_field,
        "divergence": with_divergence,
    }


def draw(key: Key, x1: Array, fraction_equal: float) -> tuple[Array, Array, Array, Array]:
    """Returns noise, data, r and t of a batch of pairs."""
    key_noise, key_time = jax.random.split(key)
    sampler = partial(fmjax.times.logit_normal, mean=0.0, std=1.0)
    r, t = fmjax.times.intervals(
        key_time, x1.shape[:1], sampler=sampler, fraction_equal=fraction_equal
    )
    return jax.random.normal(key_noise, x1.shape), x1, r, t


def make_loss(
    apply: Callable[..., Array], one: Callable[[Key], targets.Loss], fraction_equal: float
) -> Callable[[PyTree, Key, PyTree], Array]:
    """Returns the mean over the networks of what each of them minimizes."""

    def of_network(params: PyTree, key: Key, batch: dict[str, Array]) -> Array:
        key_draw, key_probe = jax.random.split(key)
        bank, index = batch["bank"], batch["index"]
        pairs = draw(key_draw, bank[index], fraction_equal)
        u, keys = average(apply, params), jax.random.split(key_probe, len(index))
        return jax.vmap(lambda key, *pair: one(key)(u, bank, *pair))(keys, *pairs).mean()

    return several.mean_loss(of_network, own="index")


def networks(config: Config, shape: tuple[int, ...]) -> tuple[Callable[..., Array], PyTree]:
    """Returns the network, `(params, x, t, r - t) -> u`, and the first parameters of all seeds."""
    size = {"width": config.training.width, "depth": config.training.depth, "num_times": 2}
    one = lambda seed: fmjax.models.MLP(shape, **size, rngs=nnx.Rngs(seed))  # noqa: E731
    make = lambda seed: fmjax.models.functional(one(seed))  # noqa: E731
    return several.networks(make, seed=config.seed, count=config.num_seeds)


def batches(config: Config, num_points: int) -> Batches:
    """Returns `start_step -> iterator` over indices of images, `[batch, seeds]`."""
    shape = (config.training.batch_size, config.num_seeds)
    index = lambda rng: {"index": rng.integers(num_points, size=shape, dtype=np.int32)}  # noqa: E731
    return drawn(index, shape[0], seed=config.seed)


def train(
    config: Config,
    one: Callable[[Key], targets.Loss],
    network: tuple[Callable[..., Array], PyTree],
    bank: np.ndarray,
    scores: Scores,
    folder: os.PathLike,
) -> PyTree:
    """Returns the averaged parameters of all seeds of one method, trained or restored."""
    (apply, params), asked = network, config.training

    def evaluate(params: PyTree, _: Key) -> dict[str, float]:
        found = scores(params)
        return {f"{name}_{i}": x for name in found for i, x in enumerate(found[name].tolist())}

    state = loop.fit(
        make_loss(apply, one, asked.fraction_equal),
        params,
        batches(config, len(bank)),
        optax.adam(optax.cosine_decay_schedule(asked.learning_rate, asked.num_steps)),
        evaluate,
        workdir=folder,
        num_steps=asked.num_steps,
        seed=config.seed,
        ema_decay=asked.ema_decay,
        eval_every=asked.save_every,
        save_every=asked.save_every,
        shared={"bank": bank},
    )
    return layout.on_host(state.ema_params)


def variances(
    apply: Callable[..., Array], params: PyTree, bank: np.ndarray, config: Config
) -> dict[str, dict[str, np.ndarray]]:
    """Returns by target and tangent the gradient's squared mean and its variance, of every seed."""
    rng, key = np.random.default_rng([config.seed, 1]), jax.random.key(config.seed + 1)
    x1 = jnp.asarray(bank[rng.integers(len(bank), size=config.num_pairs)])
    pairs, found = draw(key, x1, config.training.fraction_equal), {}
    for name, loss in targets.PLACES.items():

        def single(params: PyTree, bank: Array, *pair: Array, loss: targets.Loss = loss) -> Array:
            return loss(average(apply, params), bank, *pair)

        def of_network(params: PyTree, bank: Array, single: Callable = single) -> tuple:
            own = lambda params, *pair: single(params, bank, *pair)  # noqa: E731
            return measures.gradient_variance(own, params, pairs)

        squared, variance = jax.jit(jax.vmap(of_network, (0, None)))(params, jnp.asarray(bank))
        found[name] = {"squared_mean": np.asarray(squared), "variance": np.asarray(variance)}
    return found


def restore(config: Config, folder: Any) -> dict[str, Network]:
    """Tells how the networks of a run are read, by method and number: their slices u(x, t, t)."""
    images = training.recorded(config.source, config.seed, folder)
    apply, like = networks(config, images.train.shape[1:])
    read = partial(checkpoints.averaged, like=like, num_steps=config.training.num_steps)
    slice_of = lambda params: fmjax.onestep.instantaneous(average(apply, params))  # noqa: E731
    return {
        f"{name}/{index}": Network(
            apply,
            partial(read, folder / place),
            targets.path,
            lambda: images,
            velocity=slice_of,
            index=index,
        )
        for name, place in PLACES.items()
        for index in range(config.num_seeds)
    }


def main(config: Config) -> None:
    """Trains or continues all networks, measures, and leaves everything under the run folder."""
    config.check()
    name, images = training.load(config.source, config.seed)
    folder = config.workdir or f"runs/closed_form/one_step/{name}"
    folder = loop.open_run(folder, config, data=data.fingerprint(images))
    bank = data.centers(images.train, images.levels)
    network = networks(config, bank.shape[1:])
    scores = Scores(network[0], images, config.num_samples, config.seed)
    trained = {
        name: train(config, one, network, bank, scores, folder / PLACES[name])
        for name, one in losses(config.training).items()
    }
    found = variances(network[0], trained["pairs"], bank, config)
    results: dict[str, Any] = {"held_out": scores.held_out, "gradients": {}, "samples": {}}
    for place, values in found.items():
        results["gradients"][place] = {key: numbers.summary(v) for key, v in values.items()}
    for method, params in trained.items():
        summed = {key: numbers.summary(v) for key, v in scores(params).items()}
        results["samples"][method] = summed
    if jax.process_index() != 0:
        return  # one process writes
    arrays = {method: scores.samples(params)[0][:16] for method, params in trained.items()}
    history = {
        method: read_metrics(folder / place, "frechet_test_0") for method, place in PLACES.items()
    }
    write_json(folder / "results.json", results)
    run_arrays.write(folder / "arrays.npz", arrays)
    with run_pictures.style():
        made = pictures.figures(arrays, history, results, dataset=data.title(name))
        run_pictures.save(folder / "figures", made)
    print(tables.report(results))
    print(f"everything is in {folder}: config.json, results.json, arrays.npz, figures/")


if __name__ == "__main__":
    cli.run(main, Config)
