"""One-step generation of images by MeanFlow, and how uncertain a one-step model is.

Papers: Mean Flows for One-step Generative Modeling, arXiv 2505.13447; Divergence is Uncertainty,
arXiv 2605.00941, section 4.5. An average velocity u(x, r, t) and a plain velocity are trained on
the same images for the same number of steps; then

1. samples in 1, 2, 4 and 50 steps of either, and their Frechet distance from the images;
2. the posterior of the h = 0 slice u(x, t, t) on noised held-out images: U against the error,
   and its maps against the maps of the plain flow at the same states;
3. maps of one-step samples: the posterior after noising the sample again, the sensitivity of
   the one-step map to its noise, and the prior, which is all that the noise itself knows.

The adaptive weight of the paper steadies the training but counts large errors less, so that
u(x, t, t) is no longer quite the conditional mean that the identity needs; --power 0 is the plain
square, and experiments/uncertainty/README.md has both.

Run:    python -m experiments.uncertainty.meanflow                          (digits, no network)
        python -m experiments.uncertainty.meanflow --dataset mnist --data-dir DIR
Time:   6 minutes for the digits on two CPU cores.
Expect: the tables of experiments/uncertainty/README.md.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import diffrax
import jax
import jax.numpy as jnp
import numpy as np

import fmjax
from experiments.images import data, objectives, training
from experiments.images.options import Source, Training
from experiments.run import arrays as run_arrays
from experiments.run import batches, cli, loop, options
from experiments.run import pictures as run_pictures
from experiments.run.folder import write_json
from experiments.run.options import Free, Place
from experiments.run.saved import Network
from experiments.uncertainty import _calibration
from experiments.uncertainty._onestep import pictures, tables
from experiments.uncertainty._posterior import measures
from experiments.uncertainty._posterior.options import Uncertainty
from fmjax.types import Array, AverageVelocity, Key, PyTree

path = training.path


@dataclasses.dataclass(frozen=True)
class Pairs:
    """The pairs of times of the MeanFlow loss, and its weight."""

    fraction_equal: float = 0.5
    """Share of the pairs (r, t) with r = t, in [0, 1], on which the velocity itself is learned."""
    time_mean: float = -0.4
    """Mean of the logit of both times; below 0 favors the noise end. The paper's is 0.4 here,
    -0.4 in its own time, which runs the other way."""
    time_std: float = 1.6
    """Standard deviation of the logit of both times; with the paper's 1.0 an interval from 0 to 1
    is hardly ever drawn, and one-step samples of the digits are useless."""
    power: float = 1.0
    """Power of the adaptive weight; 0 is the plain square."""

    def check(self) -> None:
        """Raises ValueError for numbers out of their bounds."""
        bounds = {
            "fraction_equal": (0, 1),
            "time_mean": (-10, 10),
            "time_std": (1e-3, 10),
            "power": (0, 2),
        }
        options.check_bounds(self, bounds)


@dataclasses.dataclass(frozen=True)
class Samples:
    """What is drawn from the networks."""

    num_samples: int = 512
    """Samples of either model for each number of steps."""
    num_maps: int = 64
    """One-step samples whose maps are made."""
    renoisings: int = 4
    """Draws of noise over which the map of a noised sample is averaged."""

    def check(self) -> None:
        """Raises ValueError for too few samples."""
        bounds = {"num_samples": (2, math.inf), "num_maps": (2, math.inf)}
        options.check_bounds(self, bounds | {"renoisings": (1, math.inf)})


@dataclasses.dataclass(frozen=True)
class Config:
    """The options, each with its default: a run on the digits."""

    workdir: Place = None
    """Run folder; None is runs/uncertainty/meanflow/DATASET. The same command continues it."""
    seed: int = 0
    """Seed of the split, the networks and all noise, an integer >= 0."""
    eval_batch_size: Free[int] = 8
    """Images evaluated at a time; memory grows with it."""
    source: Source = Source()
    training: Training = Training(num_steps=4000)
    pairs: Pairs = Pairs()
    uncertainty: Free[Uncertainty] = Uncertainty()
    samples: Free[Samples] = Samples()

    def check(self) -> None:
        """Raises ValueError for options that would only fail after the training."""
        options.check_parts(self)
        options.check_bounds(self, {"eval_batch_size": (1, math.inf)})


STEPS = (1, 2, 4, 50)


def average(apply: Callable[..., Array], params: PyTree, **options: Any) -> AverageVelocity:
    """Returns the average velocity; the network sees t and the length of the interval."""
    return lambda x, r, t: apply(params, x, t, r - t, **options)


def make_loss(apply: Callable[..., Array], levels: int, pairs: Pairs) -> Callable[..., Array]:
    """Returns the MeanFlow loss of a batch of uint8 images."""
    sampler = functools.partial(fmjax.times.logit_normal, mean=pairs.time_mean, std=pairs.time_std)

    def example(params: PyTree, key: Key, x0: Array, x1: Array, r: Array, t: Array) -> Array:
        u = average(apply, params, key=key)  # the key switches dropout on
        loss = fmjax.losses.meanflow(u, path, x0, x1, r, t)
        # The paper's constant belongs to the sum over entries; this is their mean.
        return fmjax.losses.adaptive(loss, power=pairs.power, eps=1e-3 / x1.size)

    def loss(params: PyTree, key: Key, batch: dict[str, Array]) -> Array:
        x0, x1, key_time, keys = objectives.pairs(key, batch["x"], levels)
        r, t = fmjax.times.intervals(
            key_time, x1.shape[:1], sampler=sampler, fraction_equal=pairs.fraction_equal
        )
        return jax.vmap(functools.partial(example, params))(keys, x0, x1, r, t).mean()

    return loss


def slice_of(apply: Callable[..., Array], params: PyTree, x: Array, t: Array) -> Array:
    """Returns the instantaneous velocity of an average one, its h = 0 slice."""
    return fmjax.onestep.instantaneous(average(apply, params))(x, t)


def restore(config: Config, folder: Any) -> dict[str, Network]:
    """Tells how both networks are read; the velocity of MeanFlow is its h = 0 slice."""
    images = training.recorded(config.source, config.seed, folder)
    slices = lambda apply: functools.partial(slice_of, apply)  # noqa: E731
    return {
        "MeanFlow": training.trained(config.training, images, folder, velocity=slices, num_times=2),
        "flow": training.trained(config.training, images, folder / "flow"),
    }


def _few(apply: Callable[..., Array], steps: int, params: PyTree, noise: Array) -> Array:
    """Returns a sample of the average velocity in equal steps."""
    times = jnp.linspace(0.0, 1.0, steps + 1)
    return fmjax.samplers.few_step(average(apply, params), noise, times)


def _euler(apply: Callable[..., Array], steps: int, params: PyTree, noise: Array) -> Array:
    """Returns a sample of the plain velocity by as many Euler steps."""
    velocity = functools.partial(apply, params)
    return fmjax.samplers.fixed(velocity, noise, num_steps=steps, solver=diffrax.Euler())


def sample_maps(
    apply: Callable[..., Array],
    params: PyTree,
    images: data.Images,
    samples: Samples,
    times: tuple[float, ...],
    key: Key,
    *,
    size: int,
) -> dict[str, np.ndarray]:
    """Returns one-step samples and their maps, each under its own name (part 3)."""
    key_noise, key_again = jax.random.split(key)
    noise = jax.random.normal(key_noise, (samples.num_maps, *images.train.shape[1:]))
    shape = (samples.num_maps, samples.renoisings, *images.train.shape[1:])
    again = jax.random.normal(key_again, shape)

    one = lambda params, *noises: measures.of_one_step(average(apply, params), path, times, *noises)  # noqa: E731
    many = functools.partial(jax.jit(jax.vmap(one, in_axes=(None, 0, 0))), params)
    made = batches.in_batches(many, noise, again, size=size, label="maps of one-step samples")
    bank = jnp.asarray(data.centers(images.train, images.levels))
    return made | {"prior": np.asarray(fmjax.onestep.prior(bank)[1])}


def evaluate(
    models: dict[str, tuple[Callable[..., Array], PyTree]],
    images: data.Images,
    config: Config,
    key: Key,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns the numbers of the run, and the arrays its figures are drawn from."""
    key_sample, key_states, key_maps = jax.random.split(key, 3)
    results, arrays = {}, {}
    noise = jax.random.normal(key_sample, (config.samples.num_samples, *images.train.shape[1:]))
    samplers, size = {"MeanFlow": _few, "flow": _euler}, config.eval_batch_size
    arrays["samples"] = tables.sample(models, samplers, STEPS, noise, size=size)  # part 1
    results["samples"] = tables.table(arrays["samples"], images)
    apply, params = models["MeanFlow"]
    fields = {"MeanFlow": (functools.partial(slice_of, apply), params), "flow": models["flow"]}
    pixels = images.held_out[: config.uncertainty.num_uncertainty]
    times = tuple(sorted(config.uncertainty.times))
    calibrate = functools.partial(measures.calibrate, times=times, size=size)
    for name, model in fields.items():  # part 2, both at the same states
        arrays[name] = calibrate(
            *model, path, key_states, pixels, images.levels, label=f"held-out, {name}"
        )
        results[name] = _calibration.rows(arrays[name])
    results["agreement"] = [
        tables.agreement(t, arrays["MeanFlow"][t], arrays["flow"][t]) for t in arrays["flow"]
    ]
    arrays["one_step"] = sample_maps(
        apply, params, images, config.samples, times, key_maps, size=size
    )
    results["one_step"] = tables.one_step(arrays["one_step"], times)
    return results, arrays


def main(config: Config) -> None:
    """Trains or continues both networks, evaluates, and leaves everything under the run folder."""
    config.check()
    name, images = training.load(config.source, config.seed)
    folder = config.workdir or f"runs/uncertainty/meanflow/{name}"
    folder = loop.open_run(folder, config, data=data.fingerprint(images))
    key_loss, key_evaluate = training.keys(config.seed)
    models = {
        "MeanFlow": training.fit(
            config.training,
            images,
            folder,
            key_loss,
            make_loss=functools.partial(make_loss, pairs=config.pairs),
            seed=config.seed,
            velocity=lambda apply: functools.partial(slice_of, apply),
            num_times=2,
        ),
        "flow": training.flow(config.training, images, folder / "flow", key_loss, seed=config.seed),
    }
    # Near the noise the identity multiplies errors of the Jacobian: no TF32 or bfloat16 products.
    with jax.default_matmul_precision("highest"):
        results, arrays = evaluate(models, images, config, key_evaluate)
    if jax.process_index() != 0:
        return  # one process writes
    write_json(folder / "results.json", results)
    run_arrays.write(folder / "arrays.npz", arrays)
    with run_pictures.style():
        figures = pictures.figures(arrays, results, dataset=data.title(name))
        run_pictures.save(folder / "figures", figures)
    print(tables.report(results, folder))


if __name__ == "__main__":
    cli.run(main, Config)
