"""Uncertainty maps of images from the Jacobian of a flow-matching velocity.

Paper: Divergence is Uncertainty, arXiv 2605.00941, sections 4 and 5.2 to 5.3. A velocity field
is trained on images by conditional flow matching; then, for held-out images noised to several
times t and from the velocity's Jacobian alone: the posterior mean, the standard deviation of
every pixel (exact diagonal) and the scalar uncertainty U = tr Cov[x1 | x_t], compared with the
error that was made. Beside it: samples, and the held-out negative log-likelihood in bits per
dimension by the exact divergence, of pixels dequantised with uniform noise.

Run:    python -m experiments.uncertainty_images                       (digits, no network)
        python -m experiments.uncertainty_images --dataset mnist --data-dir DIR
Time:   2 minutes for the digits on two CPU cores.
Expect: E[error] / E[U] within 10 % of 1 on held-out digits for 0.1 <= t <= 0.9, and about 1.95
        bits per dimension; the table of experiments/README.md.
"""

import dataclasses
import functools
import math
import os
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import fmjax
from experiments import cli, data, evaluation, figures, loop
from fmjax.types import Array, Key, PyTree, Velocity

path = fmjax.paths.linear()  # section 3.1


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
    """Run folder; None is runs/uncertainty_images/DATASET. The same command continues it."""
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
    """Held-out images whose uncertainty is measured at each time."""
    num_likelihood: int = 64
    """Held-out images whose likelihood is measured; 0 for none."""
    likelihood_probes: int = 0
    """Hutchinson probes of the likelihood's divergence; 0 is the exact divergence."""
    tolerance: float = 1e-3
    """Relative and absolute tolerance of a step of the likelihood's adaptive solver."""
    num_samples: int = 64
    """Samples to draw."""
    eval_batch_size: int = 8
    """Images evaluated at a time; memory grows with it."""


def make_loss(apply: Callable[..., Array], levels: int) -> Callable[..., Array]:
    """Returns the conditional flow matching loss of a batch of uint8 images."""

    def example(params: PyTree, key: Key, x0: Array, x1: Array, t: Array) -> Array:
        velocity = functools.partial(apply, params, key=key)  # the key switches dropout on
        return fmjax.losses.cfm(velocity, path, x0, x1, t)

    def loss(params: PyTree, key: Key, batch: dict[str, Array]) -> Array:
        key_bins, key_noise, key_time, key_dropout = jax.random.split(key, 4)
        x1 = data.dequantize(key_bins, batch["x"], levels)
        x0 = jax.random.normal(key_noise, x1.shape)  # independent of x1: the identity needs it
        t = fmjax.times.stratified(key_time, x1.shape[:1])
        keys = jax.random.split(key_dropout, x1.shape[0])
        return jax.vmap(functools.partial(example, params))(keys, x0, x1, t).mean()

    return loss


def make_evaluate(
    apply: Callable[..., Array], images: data.Images, key: Key
) -> Callable[..., dict]:
    """Returns the held-out loss without dropout, on the same images and noise every time."""
    key_bins, key_noise, key_time = jax.random.split(key, 3)
    x1 = data.dequantize(key_bins, jnp.asarray(images.held_out[:512]), images.levels)
    x0 = jax.random.normal(key_noise, x1.shape)
    t = fmjax.times.stratified(key_time, x1.shape[:1])

    @jax.jit
    def held_out_loss(params: PyTree) -> Array:
        cfm = functools.partial(fmjax.losses.cfm, functools.partial(apply, params), path)
        one = lambda arguments: cfm(*arguments)  # noqa: E731
        return jax.lax.map(one, (x0, x1, t), batch_size=64).mean()

    return lambda params, key: {"held_out_loss": float(held_out_loss(params))}  # noqa: ARG005


def make_optimizer(config: Config) -> optax.GradientTransformation:
    """Returns AdamW with clipping, a short warm-up and a cosine decay to a fiftieth."""
    schedule = optax.warmup_cosine_decay_schedule(
        init_value=0.0,
        peak_value=config.learning_rate,
        warmup_steps=min(100, config.num_steps // 10),
        decay_steps=config.num_steps,
        end_value=config.learning_rate / 50,
    )
    return optax.chain(
        optax.clip_by_global_norm(1.0), optax.adamw(schedule, weight_decay=config.weight_decay)
    )


def measure(velocity: Velocity, x0: Array, x1: Array, t: Array) -> dict[str, Array]:
    """Returns the posterior of one noised image, and the error its mean makes."""
    x = fmjax.paths.interpolate(path, x0, x1, t)
    mean = fmjax.posterior.mean(velocity, path, x, t)  # section 4.1
    variance = fmjax.posterior.diagonal(velocity, path, x, t)  # section 4.3, d jvps
    return {
        "image": x1,
        "noised": x,
        "mean": mean,
        "variance": variance,
        "uncertainty": variance.sum(),
        "error": jnp.sum((x1 - mean) ** 2),
    }


def log_likelihood(velocity: Velocity, config: Config, key: Key, x1: Array) -> Array:
    """Returns the log-density of one image in nats, by an adaptive solver."""
    divergence = fmjax.divergence.chunked
    if config.likelihood_probes:
        divergence = functools.partial(
            fmjax.divergence.hutchinson, key, num_probes=config.likelihood_probes
        )
    solve = functools.partial(fmjax.samplers.adaptive, rtol=config.tolerance, atol=config.tolerance)
    return fmjax.likelihood.log_prob(velocity, x1, divergence=divergence, solve=solve)


def evaluate(
    apply: Callable[..., Array], params: PyTree, images: data.Images, config: Config, key: Key
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns the numbers of the run, and the arrays its figures are drawn from."""
    batched = functools.partial(evaluation.batched, apply, params)
    key_bins, key_noise, key_probe, key_sample = jax.random.split(key, 4)
    held_out = jnp.asarray(images.held_out[: max(config.num_uncertainty, config.num_likelihood)])
    x1 = data.dequantize(key_bins, held_out, images.levels)
    x0 = jax.random.normal(key_noise, x1.shape)
    every = functools.partial(evaluation.in_batches, size=config.eval_batch_size)

    noise = jax.random.normal(key_sample, (config.num_samples, *x1.shape[1:]))
    sample = functools.partial(fmjax.samplers.adaptive, rtol=1e-3, atol=1e-3)
    arrays = {"samples": every(batched(sample), noise, label="samples"), "by_time": {}}

    results = {"uncertainty": []}
    measured, n = batched(measure), config.num_uncertainty
    for t in config.times:
        result = every(measured, x0[:n], x1[:n], np.full(len(x1[:n]), t), label=f"t = {t}")
        results["uncertainty"].append(evaluation.calibration(t, result))
        arrays["by_time"][t] = result

    n = config.num_likelihood
    if n:
        keys = jax.random.split(key_probe, len(x1[:n]))
        density = batched(log_likelihood, config)
        nats = every(density, keys, x1[:n], label="likelihood")
        width = data.bin_width(images.levels)
        bits = fmjax.likelihood.bits_per_dim(nats, x1[0].size, bin_width=width)
        probes = f"{config.likelihood_probes} Hutchinson probes for the"
        results["likelihood"] = {
            "bits_per_dim": float(bits.mean()),
            "standard_error": float(bits.std(ddof=1) / len(bits) ** 0.5),
            "how": f"{len(bits)} images, {probes if config.likelihood_probes else 'exact'} "
            f"divergence, pixels of {images.levels} levels dequantised by uniform noise",
        }
    return results, arrays


def _check(config: Config) -> None:
    """Raises ValueError for options that would only fail after the training."""
    wrong = [t for t in config.times if not 0.0 < t < 1.0]
    if wrong or not config.times or len(set(config.times)) < len(config.times):
        message = (
            f"times must be distinct numbers between 0 and 1, got {config.times}: at 0 the "
            "posterior is the law of the data, at 1 it is a point."
        )
        raise ValueError(message)
    bounds = {
        "num_steps": (1, math.inf),
        "num_uncertainty": (2, math.inf),
        "num_likelihood": (0, math.inf),
        "likelihood_probes": (0, math.inf),
        "num_samples": (1, math.inf),
        "eval_batch_size": (1, math.inf),
        "learning_rate": (1e-12, 1e12),
        "weight_decay": (0, 1e12),
        "tolerance": (1e-12, 0.5),
    }
    for name, (low, high) in bounds.items():
        value = getattr(config, name)
        if not low <= value <= high:
            limit = f"at least {low:g}" if high == math.inf else f"between {low:g} and {high:g}"
            message = f"{name} must be {limit}, got {value}."
            raise ValueError(message)
    if config.num_likelihood == 1:
        message = "num_likelihood must be 0 or at least 2, got 1: one image has no standard error."
        raise ValueError(message)


def _check_held_out(images: data.Images) -> None:
    if len(images.held_out) < 2:
        message = (
            f"at least 2 held-out images are needed, got {len(images.held_out)}: raise --held-out "
            "or give more images."
        )
        raise ValueError(message)


def main(config: Config) -> None:
    """Trains or continues, evaluates, and leaves everything under the run folder."""
    _check(config)
    name = os.path.splitext(os.path.basename(config.dataset))[0]
    images = data.load(
        config.dataset, data_dir=config.data_dir, held_out=config.held_out, seed=config.seed
    )
    images = images._replace(held_out=data.shuffle(images.held_out, seed=config.seed))
    _check_held_out(images)
    folder = config.workdir or f"runs/uncertainty_images/{name}"
    folder = loop.open_run(folder, config, data=data.fingerprint(images))
    # The loop splits the key of the seed; these two are folded far from its parts.
    key_loss, key_evaluate = (
        jax.random.fold_in(jax.random.key(config.seed), 1000 + i) for i in range(2)
    )
    network = fmjax.models.UNet(
        images.train.shape[1:],
        channels=config.channels,
        dropout=config.dropout,
        rngs=nnx.Rngs(config.seed),
    )
    apply, params = fmjax.models.functional(network)
    state = loop.fit(
        make_loss(apply, images.levels),
        params,
        data.batches(images.train, config.batch_size, seed=config.seed),
        make_optimizer(config),
        make_evaluate(apply, images, key_loss),
        workdir=folder,
        num_steps=config.num_steps,
        seed=config.seed,
        ema_decay=config.ema_decay,
        eval_every=config.save_every,
        save_every=config.save_every,
    )
    if jax.process_index() != 0:
        return  # one process evaluates and writes
    params = jax.device_get(state.ema_params)
    # Near the noise the identity multiplies errors of the Jacobian: no TF32 or bfloat16 products.
    with jax.default_matmul_precision("highest"):
        results, arrays = evaluate(apply, params, images, config, key_evaluate)
    loop.write_json(folder / "results.json", results)
    figures.save_all(folder / "figures", arrays, results, dataset=name)
    print(evaluation.report(results, folder))


if __name__ == "__main__":
    cli.run(main, Config)
