"""What matching the divergence costs: a training step of FDM against one of flow matching.

The whole step of `fmjax.train` with Adam is compiled and timed, for the perceptron of the paper's
checkerboard, a U-Net on images and a 1-D U-Net on trajectories, with random parameters and data
(what they are does not change the time). Programs run in turn, and a ratio is the median over
turns of the ratio to flow matching in the same turn, so that a slow spell of the machine hits
both. Temporary memory is what the compiler plans for the step.

One probe adds one directional derivative to the value, and its gradient: twice the products of
flow matching, for a quarter of the batch 1.25 times, whatever else comes on top.

Run:    python -m experiments.benchmarks.fdm
        python -m experiments.benchmarks.fdm --networks perceptron --turns 40
Time:   4 minutes on two CPU cores.
Expect: at most 2.0 times flow matching for one probe, 1.3 for one probe on a quarter of the
        batch, and 2.2 times its memory.
"""

import dataclasses
import functools
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import optax
import tqdm
from flax import nnx

import fmjax
from experiments.benchmarks import _page
from experiments.run import cli, options
from fmjax.types import Array, Key, PyTree

path = fmjax.paths.linear()
BARS = {"one probe": "2.0", "one probe, a quarter": "1.3"}


@dataclasses.dataclass(frozen=True)
class Config:
    """The options, each with its default."""

    networks: tuple[str, ...] = ("perceptron", "U-Net", "Conv1D")
    """Networks to time, of perceptron, U-Net and Conv1D."""
    points: int = 512
    """Points in the batch of the perceptron, a multiple of 4."""
    images: int = 16
    """Images in the batch of the U-Net, a multiple of 4."""
    trajectories: int = 32
    """Trajectories in the batch of the 1-D U-Net, a multiple of 4."""
    turns: int = 15
    """Runs of each program."""
    seed: int = 0
    """Seed of parameters and data."""

    def check(self) -> None:
        """Raises ValueError for an unknown network, or a number out of its bounds."""
        options.check_among(self, "networks", ("perceptron", "U-Net", "Conv1D"))
        bounds = {"points": (4, 1e9), "images": (4, 1e9), "trajectories": (4, 1e9)}
        bounds |= {"turns": (1, 1e9), "seed": (0, 2**32 - 1)}
        options.check_bounds(self, bounds)


class Case(NamedTuple):
    """A network and its batch."""

    apply: Callable[..., Array]
    params: PyTree
    x1: Array


def make_case(config: Config, name: str) -> Case:
    """Returns one of the networks with random parameters, and random data."""
    key_init, key_data = jax.random.split(jax.random.key(config.seed))
    rngs = nnx.Rngs(config.seed)
    shape, count = {
        "perceptron": ((2,), config.points),
        "U-Net": ((28, 28, 1), config.images),
        "Conv1D": ((60, 3), config.trajectories),
    }[name]
    networks = {
        "perceptron": lambda: fmjax.models.perceptron(key_init, 2, width=512, depth=4),
        "U-Net": lambda: fmjax.models.functional(
            fmjax.models.UNet(shape, channels=(32, 64, 64), rngs=rngs)
        ),
        "Conv1D": lambda: fmjax.models.functional(fmjax.models.Conv1D(shape, rngs=rngs)),
    }
    return Case(*networks[name](), jax.random.normal(key_data, (count, *shape)))


Matcher = Callable[[Key], fmjax.losses.Matching]


def trace(key: Key) -> fmjax.losses.Matching:
    """Returns the matching of the paper, one probe."""
    probe = functools.partial(fmjax.divergence.hutchinson, key)
    return functools.partial(fmjax.losses.match_trace, divergence=probe)


def unrolled(key: Key) -> fmjax.losses.Matching:  # noqa: ARG001
    """Returns the matching of the exact divergence, one tangent after the other."""
    return functools.partial(fmjax.losses.match_trace, divergence=fmjax.divergence.unrolled)


class Variant(NamedTuple):
    """A matching, the share 1 / every of the batch, the weight, and what is done to the loss."""

    matcher: Matcher
    every: int = 1
    weight: float = 0.1
    wrap: Callable[[Callable], Callable] = lambda loss: loss


# Keeps the products of the network for the way back and computes what lies between them again.
recompute = functools.partial(jax.checkpoint, policy=jax.checkpoint_policies.dots_saveable)

VARIANTS = {
    "flow matching": Variant(trace, weight=0.0),
    "one probe": Variant(trace),
    "one probe, a quarter": Variant(trace, every=4),
    "one probe, recomputing": Variant(trace, wrap=recompute),
    "product of two probes": Variant(
        lambda key: functools.partial(fmjax.losses.match_product, key)
    ),
    "Jacobian, one probe": Variant(lambda key: functools.partial(fmjax.losses.match_jacobian, key)),
    "exact, unrolled": Variant(unrolled),
    "exact, unrolled, a quarter": Variant(unrolled, every=4),
}


def make_step(case: Case, variant: Variant) -> Callable:
    """Returns the training step of one variant, not yet compiled."""

    def example(params: PyTree, weight: float, key: Key, x1: Array) -> Array:
        key_noise, key_time, key_probe = jax.random.split(key, 3)
        x0, t = jax.random.normal(key_noise, x1.shape), jax.random.uniform(key_time)
        velocity = functools.partial(case.apply, params)
        matching = variant.matcher(key_probe)
        return fmjax.losses.fdm(velocity, path, x0, x1, t, weight=weight, matching=matching)

    def loss(params: PyTree, key: Key, x1: Array) -> Array:
        keys = jax.random.split(key, len(x1))

        def one(weight: float, key: Key, x1: Array) -> Array:
            return variant.wrap(functools.partial(example, params, weight))(key, x1)

        return fmjax.losses.probe_every(variant.every, one, variant.weight, keys, x1)

    return fmjax.train.make_step(loss, optax.adam(1e-3))


def measure(config: Config, name: str) -> dict[str, dict[str, float]]:
    """Returns seconds, the ratio to flow matching and planned MiB of every variant."""
    case = make_case(config, name)
    key, optimizer = jax.random.key(config.seed + 1), optax.adam(1e-3)
    variants = {n: v for n, v in VARIANTS.items() if "unrolled" not in n or name == "perceptron"}
    states = {variant: fmjax.train.init(case.params, optimizer) for variant in variants}
    programs = {
        variant: jax.jit(
            make_step(case, options),
            donate_argnums=0,
            compiler_options=fmjax.train.compiler_options(),
        )
        .lower(states[variant], key, case.x1)
        .compile()
        for variant, options in tqdm.tqdm(variants.items(), f"{name}, compile", disable=None)
    }
    taken: dict[str, list[float]] = {variant: [] for variant in programs}
    for turn in tqdm.trange(config.turns + 1, desc=f"{name}, time", disable=None):
        for variant, program in programs.items():
            begin = time.perf_counter()
            states[variant], _ = jax.block_until_ready(program(states[variant], key, case.x1))
            if turn > 0:  # the first run is slower
                taken[variant].append(time.perf_counter() - begin)
    plain = taken["flow matching"]
    return {
        variant: {
            "seconds": statistics.median(times),
            "ratio": statistics.median(a / b for a, b in zip(times, plain, strict=True)),
            "fastest": min(times) / min(plain),
            "mib": programs[variant].memory_analysis().temp_size_in_bytes / 2**20,
        }
        for variant, times in taken.items()
    }


def table(name: str, rows: dict[str, dict[str, Any]]) -> str:
    """Returns one table in Markdown."""
    lines = [
        f"| {name} | seconds | ratio | ratio of the fastest | bar | memory, MiB | ratio |",
        "|---|---|---|---|---|---|---|",
    ]
    plain = rows["flow matching"]["mib"]
    for variant, row in rows.items():
        lines.append(
            f"| {variant} | {row['seconds']:.4f} | {row['ratio']:.2f} | {row['fastest']:.2f} | "
            f"{BARS.get(variant, '')} | {row['mib']:.1f} | {row['mib'] / plain:.2f} |"
        )
    return "\n".join(lines)


def report(config: Config) -> str:
    """Measures and returns a table in Markdown for every network."""
    return "\n\n".join(table(name, measure(config, name)) for name in config.networks)


def main(config: Config) -> None:
    """Measures and prints a table in Markdown for every network."""
    _page.show(config, report)


if __name__ == "__main__":
    cli.run(main, Config)
