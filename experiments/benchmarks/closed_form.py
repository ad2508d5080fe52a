"""What the exact field of a whole data set costs, against the bare matrix products in it.

The paper calls the exact target of flow matching too expensive (O(n d) for every example) and
measures 0.9 microseconds for each example and each of M points of CIFAR-10. Of a batch it is two
matrix products, `states [b, d] x bank [d, n]` and `weights [b, n] x bank [n, d]`, and a softmax:

1. velocity, divergence, products with the covariance and training targets of a bank, beside the
   products that they contain, in one run: JAX's, and NumPy's on the same machine;
2. a training step on the exact target of a whole data set, beside one of flow matching.

The numbers in the bank do not change the time. Programs run in turn, and a ratio is the median over
turns of the ratio in the same turn, so that a slow spell of the machine hits both.

Run:    python -m experiments.benchmarks.closed_form
        python -m experiments.benchmarks.closed_form --num-points 60000 --size 28 --colors 1
Time:   1 minute on two CPU cores, 3 GB of memory.
Expect: of velocity, divergence and covariance products at least 85 % of the speed of the bare
        products and less than 64 MB of temporary memory; on an accelerator a step at most 5 %
        longer.
"""

import dataclasses
import functools
import statistics
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tqdm
from flax import nnx

import fmjax
from experiments.benchmarks import _page
from experiments.run import cli, clock, options
from fmjax.empirical import Bank
from fmjax.types import Array

path = fmjax.paths.linear()
HIGHEST = jax.lax.Precision.HIGHEST
TIME = 0.15  # at which the weights of images spread


@dataclasses.dataclass(frozen=True)
class Config:
    """The options, each with its default."""

    num_points: int = 50_000
    """Points of the bank."""
    size: int = 32
    """Height and width of its images; for the step of the U-Net a multiple of 4."""
    colors: int = 3
    """Channels of its images."""
    batch_size: int = 128
    """States at a time."""
    chunk_size: int = 1000
    """Points of the bank in memory at a time, beside the bank."""
    channels: tuple[int, ...] = (32, 64, 64)
    """Channels of the U-Net of the training step, multiples of 8; () leaves the step out."""
    turns: int = 7
    """Runs of each program."""
    seed: int = 0
    """Seed of the bank and of the network."""

    def check(self) -> None:
        """Raises ValueError for a number out of its bounds."""
        bounds = {
            "num_points": (1, 1e9),
            "size": (4, 1e9),
            "colors": (1, 1e9),
            "batch_size": (1, self.num_points),
            "chunk_size": (1, 1e9),
            "turns": (1, 1e9),
            "seed": (0, 2**32 - 1),
        }
        options.check_bounds(self, bounds)


def make_bank(config: Config) -> Array:
    """Returns bytes `[n, size, size, colors]`."""
    shape = (config.num_points, config.size, config.size, config.colors)
    rng = np.random.default_rng(config.seed)
    return jnp.asarray(rng.integers(0, 256, shape, dtype=np.uint8))


def prepare(points: Array) -> Bank:
    """Returns a bank of bytes, scaled to [-1, 1] by chunks."""
    return fmjax.empirical.prepare(points, scale=1 / 127.5, shift=-1.0)


def two_products(flat: Array, states: Array) -> Array:
    """Returns what is left of a velocity without its softmax."""
    logits = jnp.matmul(states, flat.T, precision=HIGHEST)
    return jnp.matmul(logits, flat, precision=HIGHEST)


def make_cases(config: Config) -> dict[str, clock.Case]:
    """Returns every program, compiled where it is jax's."""
    raw = make_bank(config)
    points = raw.astype(jnp.float32) / 127.5 - 1.0
    bank, flat = fmjax.empirical.prepare(points), points.reshape(len(points), -1)
    noise = jax.random.normal(jax.random.key(config.seed), (config.batch_size, *points.shape[1:]))
    x1 = points[: config.batch_size]
    x = (1.0 - TIME) * noise + TIME * x1
    states = x.reshape(len(x), -1)

    def case(products: int, function: Callable, bank: Array | Bank, *arrays: Array) -> clock.Case:
        many = jax.vmap(functools.partial(function, path), in_axes=(None, *[0] * len(arrays)))
        return clock.Case(many, products, (bank, *arrays))

    def streamed(function: Callable) -> Callable:
        return functools.partial(function, chunk_size=config.chunk_size)

    t = jnp.full(len(x), TIME)
    velocity, matvec = fmjax.empirical.velocity, streamed(fmjax.empirical.matvec)
    target = streamed(fmjax.empirical.refined_velocity)
    cases = {
        "two bare products": clock.Case(two_products, 2, (flat, states)),
        "velocity": case(2, streamed(velocity), bank, x, t),
        "velocity, bank of bytes": case(2, streamed(velocity), prepare(raw), x, t),
        "velocity, bank whole": case(2, velocity, bank, x, t),
        "velocity and divergence": case(2, streamed(_both), bank, x, t),
        "covariance times a vector": case(4, matvec, bank, x, t, noise),
        "target of training": case(2, target, bank, noise, x1, t),
    }
    compiled = {
        name: one._replace(call=jax.jit(one.call).lower(*one.arguments).compile())
        for name, one in tqdm.tqdm(cases.items(), "compile", disable=None)
    }
    by_numpy = lambda flat, states: (states @ flat.T) @ flat  # noqa: E731
    arrays = (np.asarray(flat), np.asarray(states))
    return compiled | {"two products, NumPy": clock.Case(by_numpy, 2, arrays)}


def _both(
    path: fmjax.paths.Path, bank: Bank, x: Array, t: Array, *, chunk_size: int
) -> tuple[Array, Array]:
    """Returns velocity and divergence, from one pass over the bank."""
    law = fmjax.empirical.law(path, bank, x, t, chunk_size=chunk_size)
    return law.velocity, law.divergence


def _ratio(times: list[float], others: list[float]) -> float:
    return statistics.median(a / b for a, b in zip(times, others, strict=True))


def table(config: Config, cases: dict[str, clock.Case], taken: dict[str, list[float]]) -> str:
    """Returns the first table in Markdown."""
    size = config.size**2 * config.colors
    lines = [
        f"| {config.batch_size} states, {config.num_points:,} x {size:,} | seconds | GFLOP/s | "
        "speed of its products | speed over NumPy's | temporary memory, MB |",
        "|---|---|---|---|---|---|",
    ]
    bare, numpy = taken["two bare products"], taken["two products, NumPy"]
    for name, case in cases.items():
        flops = 2.0 * case.products * config.batch_size * config.num_points * size
        seconds = statistics.median(taken[name])
        share = case.products / 2
        analysis = getattr(case.call, "memory_analysis", lambda: None)()
        memory = f"{analysis.temp_size_in_bytes / 1e6:.0f}" if analysis else ""
        lines.append(
            f"| {name} | {seconds:.3f} | {flops / seconds / 1e9:.0f} | "
            f"{share * _ratio(bare, taken[name]):.2f} | {share * _ratio(numpy, taken[name]):.2f} | "
            f"{memory} |"
        )
    return "\n".join(lines)


def make_network(config: Config) -> nnx.Module:
    """Returns the U-Net of the training step."""
    shape = (config.size, config.size, config.colors)
    return fmjax.models.UNet(shape, channels=config.channels, rngs=nnx.Rngs(config.seed))


def step_cases(config: Config) -> dict[str, clock.Case]:
    """Returns a training step of flow matching, and the same on the exact target of the bank."""
    bank = prepare(make_bank(config))
    apply, params = fmjax.models.functional(make_network(config))
    target = functools.partial(fmjax.empirical.refined_velocity, chunk_size=config.chunk_size)
    x1 = fmjax.empirical.take(bank, jnp.arange(config.batch_size))
    optimizer, key = optax.adam(1e-3), jax.random.key(config.seed)

    def loss(params: Any, key: Array, batch: tuple[Array, Bank | None]) -> Array:
        x1, bank = batch
        velocity = functools.partial(apply, params)
        key_noise, key_time = jax.random.split(key)
        x0 = jax.random.normal(key_noise, x1.shape)
        t = fmjax.times.uniform(key_time, x1.shape[:1])
        if bank is None:
            one = functools.partial(fmjax.losses.cfm, velocity, path)
        else:
            one = functools.partial(fmjax.losses.efm, velocity, path, bank, target=target)
        return jax.vmap(one)(x0, x1, t).mean()

    state = fmjax.train.init(params, optimizer)
    options = fmjax.train.compiler_options()
    step = jax.jit(fmjax.train.make_step(loss, optimizer), compiler_options=options)
    batches = {"flow matching": (x1, None), "exact target": (x1, bank)}
    return {
        name: clock.Case(step.lower(state, key, batch).compile(), 2, (state, key, batch))
        for name, batch in batches.items()
    }


def step_table(config: Config, taken: dict[str, list[float]]) -> str:
    """Returns the second table in Markdown."""
    plain = taken["flow matching"]
    lines = ["| training step of the U-Net | seconds | ratio |", "|---|---|---|"]
    for name, times in taken.items():
        what = f", {config.num_points:,} images" if name == "exact target" else ""
        seconds, ratio = statistics.median(times), _ratio(times, plain)
        lines.append(f"| {name}{what} | {seconds:.3f} | {ratio:.3f} |")
    return "\n".join(lines)


def report(config: Config) -> str:
    """Measures and returns both tables in Markdown."""
    if config.channels:
        nnx.eval_shape(lambda: make_network(config))  # what does not fit is said first
    cases = make_cases(config)
    tables = [table(config, cases, clock.in_turn(cases, config.turns))]
    if config.channels:
        del cases
        tables += [step_table(config, clock.in_turn(step_cases(config), config.turns))]
    return "\n\n".join(tables)


def main(config: Config) -> None:
    """Measures and prints both tables in Markdown."""
    _page.show(config, report)


if __name__ == "__main__":
    cli.run(main, Config)
