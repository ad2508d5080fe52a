"""What the uncertainty of a flow-matching network costs, in forward passes of the network.

A U-Net on 28x28x1 images with random parameters (what it computes does not change the time) is
the velocity, and f(x) = (sigma^2 / alpha) E[x1 | x_t = x], whose Jacobian is the posterior
covariance, the field of every estimate. Each program is compiled under `jit` and `vmap` over the
batch; times are medians of runs in turn with the forward pass, in units of its median. The exact
map is the diagonal, one tangent for each of 784 entries; its peak of temporary memory is what the
compiler plans, for several chunks and image sizes.

Run:    python -m experiments.benchmarks.uncertainty
        python -m experiments.benchmarks.uncertainty --batch-size 8
Time:   2 minutes on two CPU cores at batch size 2, several times that at 8.
Expect: at most 18 forward passes for 16 Hutchinson probes, 45 for 16 probes of XNysTrace and 785
        for the exact map; memory that grows with the chunk.
"""

import dataclasses
import functools
import statistics
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import tqdm
from flax import nnx

import fmjax
from experiments.benchmarks import _page
from experiments.run import cli, options
from fmjax.types import Array, Key

path = fmjax.paths.linear()
BARS = {"U, 16 Hutchinson probes": 18, "U, XNysTrace, 16 probes": 45, "exact map, chunk 16": 785}


@dataclasses.dataclass(frozen=True)
class Config:
    """The options, each with its default."""

    batch_size: int = 2
    """Images at a time, at least 1."""
    size: int = 28
    """Height and width of the images in pixels, a multiple of 4."""
    channels: tuple[int, ...] = (32, 64, 64)
    """Features of each level of the U-Net, multiples of 8."""
    time: float = 0.5
    """Time of the states, in (0, 1); 0 is noise, 1 is data."""
    repeats: int = 7
    """Runs of each program but the exact map, which is run at most three times."""
    chunks: tuple[int, ...] = (4, 16, 64)
    """Tangents in flight, for the memory of the exact map."""
    sizes: tuple[int, ...] = (14, 28)
    """Image sizes, for the memory of the exact map at a chunk of 16."""
    seed: int = 0
    """Seed of the parameters and the states."""

    def check(self) -> None:
        """Raises ValueError for numbers that cannot be timed."""
        options.check_times((self.time,))
        bounds = {"batch_size": (1, 1e9), "size": (4, 1e9), "repeats": (1, 1e9)}
        options.check_bounds(self, bounds | {"seed": (0, 2**32 - 1)})
        for name, values in {"chunks": self.chunks, "sizes": self.sizes}.items():
            if any(value < 1 for value in values):
                message = f"{name} must be positive, got {values}."
                raise ValueError(message)


def make_velocity(config: Config, size: int) -> Callable[[Array, Array], Array]:
    """Returns a U-Net whose last convolution, zero at the start, has been disturbed as well."""
    network = fmjax.models.UNet(
        (size, size, 1), channels=config.channels, rngs=nnx.Rngs(config.seed)
    )
    apply, params = fmjax.models.functional(network)
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(config.seed), len(leaves))
    noisy = [a + 0.02 * jax.random.normal(k, a.shape) for a, k in zip(leaves, keys, strict=True)]
    return functools.partial(apply, jax.tree.unflatten(tree, noisy))


def make_programs(config: Config) -> dict[str, Callable[[Key, Array], Array]]:
    """Returns what is timed, each for one key and one image."""
    velocity, t = make_velocity(config, config.size), config.time
    factor = path.sigma(t) ** 2 / path.alpha(t)

    def scaled_mean(x: Array) -> Array:
        return factor * fmjax.posterior.mean(velocity, path, x, t)

    def estimate(estimator: Callable, num_probes: int) -> Callable[[Key, Array], Array]:
        return lambda key, x: estimator(key, scaled_mean, x, num_probes=num_probes)[1]

    one = functools.partial(fmjax.divergence.hutchinson, num_probes=1)
    return {
        "forward pass": lambda key, x: velocity(x, t),  # noqa: ARG005
        "U, 1 Hutchinson probe": lambda key, x: one(key, scaled_mean, x)[1],
        "U, 16 Hutchinson probes": estimate(fmjax.estimators.hutchinson, 16),
        "U, XTrace, 16 probes": estimate(fmjax.estimators.xtrace, 16),
        "U, XNysTrace, 16 probes": estimate(fmjax.estimators.xnystrace, 16),
        "map, XNysDiag, 16 probes": estimate(fmjax.estimators.xnysdiag, 16),
        "exact map, chunk 16": lambda key, x: fmjax.posterior.diagonal(  # noqa: ARG005
            velocity, path, x, t, chunk_size=16
        ),
    }


def compile_one(program: Callable, keys: Array, x: Array) -> Callable:
    """Returns the compiled program of the batch."""
    return jax.jit(jax.vmap(program)).lower(keys, x).compile()


def seconds(config: Config) -> dict[str, float]:
    """Returns the median time of every program, run in turn so that a slow spell hits all."""
    keys = jax.random.split(jax.random.key(config.seed + 1), config.batch_size)
    x = jax.random.normal(jax.random.key(config.seed + 2), (config.batch_size, *_shape(config)))
    programs = {
        name: compile_one(program, keys, x)
        for name, program in tqdm.tqdm(make_programs(config).items(), "compile", disable=None)
    }
    for name, program in programs.items():
        if "exact" not in name:
            jax.block_until_ready(program(keys, x))  # the first run is slower
    taken = {name: [] for name in programs}
    for turn in tqdm.trange(config.repeats, desc="time", disable=None):
        for name, program in programs.items():
            runs = 1 if name != "forward pass" else 5  # it is short, and every ratio rests on it
            for _ in range(0 if "exact" in name and turn >= 3 else runs):
                begin = time.perf_counter()
                jax.block_until_ready(program(keys, x))
                taken[name].append(time.perf_counter() - begin)
    return {name: statistics.median(values) for name, values in taken.items()}


def memory(config: Config, *, size: int, chunk: int) -> float:
    """Returns the temporary memory in MiB that the compiler plans for an exact map."""
    velocity = make_velocity(config, size)
    keys = jax.random.split(jax.random.key(0), config.batch_size)
    x = jnp.zeros((config.batch_size, size, size, 1))
    program = lambda key, x: fmjax.posterior.diagonal(  # noqa: ARG005, E731
        velocity, path, x, config.time, chunk_size=chunk
    )
    return compile_one(program, keys, x).memory_analysis().temp_size_in_bytes / 2**20


def _shape(config: Config) -> tuple[int, int, int]:
    return (config.size, config.size, 1)


def report(config: Config) -> str:
    """Measures and returns two tables in Markdown."""
    taken = seconds(config)
    forward = taken["forward pass"]
    batch = f"batch of {config.batch_size}, {config.size}x{config.size}x1"
    lines = [f"| {batch} | seconds | forward passes | bar |", "|---|---|---|---|"]
    for name, value in taken.items():
        lines.append(f"| {name} | {value:.3f} | {value / forward:.1f} | {BARS.get(name, '')} |")
    lines += ["", "| image | entries | chunk | temporary memory, MiB |", "|---|---|---|---|"]
    cases = [(config.size, chunk) for chunk in config.chunks]
    cases += [(size, 16) for size in config.sizes if size != config.size]
    for size, chunk in cases:
        mib = memory(config, size=size, chunk=chunk)
        lines.append(f"| {size}x{size}x1 | {size * size} | {chunk} | {mib:.1f} |")
    return "\n".join(lines)


def main(config: Config) -> None:
    """Measures and prints two tables in Markdown."""
    _page.show(config, report)


if __name__ == "__main__":
    cli.run(main, Config)
