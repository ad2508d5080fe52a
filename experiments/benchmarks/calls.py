"""Several training steps in one call against single steps, both in the loop of every experiment.

The same training is run in turn with single steps (`loop.fit(..., steps_per_call=1)`) and with the
number that the loop chooses by itself, and its speed is read from metrics.jsonl, where no
compilation counts. A ratio is the median over turns of the ratio in the same turn. The networks are
the perceptron of `experiments.closed_form.efm_toy` on eight Gaussians, whose step is shorter than
its start, and a small U-Net on digits, whose step is not. Both trainings must end in the same bits.

Run:    python -m experiments.benchmarks.calls
        python -m experiments.benchmarks.calls --networks perceptron --turns 9
Time:   2 minutes on two CPU cores.
Expect: our bar: at least 1.5 times as many steps per second for the perceptron, 1.0 for the U-Net.
"""

import dataclasses
import functools
import statistics
import tempfile
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from flax import nnx

import fmjax
from experiments.benchmarks import _page
from experiments.images import data
from experiments.run import batches, cli, loop, options
from experiments.run.folder import read_metrics
from fmjax.types import Array, Key, PyTree

path = fmjax.paths.linear()
optimizer = optax.adam(1e-3)


@dataclasses.dataclass(frozen=True)
class Config:
    """The options, each with its default."""

    networks: tuple[str, ...] = ("perceptron", "U-Net")
    """Networks to train, of perceptron and U-Net."""
    batch_size: int = 256
    """Points in a batch of the perceptron."""
    width: int = 64
    """Width of the three hidden layers of the perceptron."""
    num_steps: int = 2000
    """Steps of each training of the perceptron, a multiple of 10; the U-Net takes a tenth."""
    channels: tuple[int, ...] = (8, 16)
    """Features of each level of the U-Net, multiples of 8."""
    images: int = 32
    """Images in a batch of the U-Net."""
    turns: int = 5
    """Trainings of each kind."""
    seed: int = 0
    """Seed of network, data and noise."""

    def check(self) -> None:
        """Raises ValueError for an unknown network, or a number out of its bounds."""
        options.check_among(self, "networks", ("perceptron", "U-Net"))
        bounds = {"batch_size": (1, 5000), "width": (1, 1e9), "images": (1, 1000)}
        bounds |= {"num_steps": (10, 1e9), "turns": (1, 1e9), "seed": (0, 2**32 - 1)}
        options.check_bounds(self, bounds)


class Case(NamedTuple):
    """A network with its first parameters, its data, the size of a batch and of a training."""

    apply: Callable[..., Array]
    params: PyTree
    x1: np.ndarray
    batch_size: int
    num_steps: int


def make_case(config: Config, name: str) -> Case:
    """Returns one of the networks with its data."""
    if name == "perceptron":
        keys = jax.random.split(jax.random.key(config.seed), 5001)
        network = fmjax.models.perceptron(keys[0], 2, width=config.width, depth=3)
        x1 = jax.jit(jax.vmap(fmjax.toy.eight_gaussians().sample))(keys[1:])
        return Case(*network, np.asarray(x1), config.batch_size, config.num_steps)
    images = data.load("digits", seed=config.seed)
    shape = images.train.shape[1:]
    unet = fmjax.models.UNet(shape, channels=config.channels, rngs=nnx.Rngs(config.seed))
    x1 = np.asarray(data.centers(images.train, images.levels))
    return Case(*fmjax.models.functional(unet), x1, config.images, config.num_steps // 10)


def make_loss(apply: Callable[..., Array]) -> Callable[[PyTree, Key, dict[str, Array]], Array]:
    """Returns the loss of conditional flow matching of a batch."""

    def loss(params: PyTree, key: Key, batch: dict[str, Array]) -> Array:
        key_noise, key_time = jax.random.split(key)
        x1 = batch["x"]
        x0 = jax.random.normal(key_noise, x1.shape)
        t = fmjax.times.stratified(key_time, x1.shape[:1])
        cfm = functools.partial(fmjax.losses.cfm, functools.partial(apply, params), path)
        return jax.vmap(cfm)(x0, x1, t).mean()

    return loss


def train(
    case: Case, loss: Callable[..., Array], seed: int, steps_per_call: int | None
) -> tuple[float, PyTree]:
    """Returns the median of the steps per second of a training, and its parameters."""
    with tempfile.TemporaryDirectory() as folder:
        state = loop.fit(
            loss,
            case.params,
            batches.batches(case.x1, case.batch_size, seed=seed),
            optimizer,
            lambda *_: {},
            workdir=folder,
            num_steps=case.num_steps,
            seed=seed,
            log_every=min(50, max(case.num_steps // 2, 2)),
            eval_every=case.num_steps,
            save_every=case.num_steps,
            steps_per_call=steps_per_call,
        )
        lines = read_metrics(folder)
    speeds = [line["steps_per_second"] for line in lines[len(lines) // 4 :]]
    return statistics.median(speeds), jax.device_get(state.params)


def measure(config: Config, name: str) -> dict[str, Any]:
    """Returns the steps per second of both trainings, their ratio, and whether their bits agree."""
    case = make_case(config, name)
    loss = make_loss(case.apply)
    rows, same = [], True
    for turn in range(config.turns + 1):
        (single, one), (chosen, many) = (
            train(case, loss, config.seed, count) for count in (1, None)
        )
        same &= jax.tree.all(jax.tree.map(np.array_equal, one, many))
        if turn > 0:  # the first compiles
            rows.append((single, chosen, chosen / single))
    middle = [statistics.median(column) for column in zip(*rows, strict=True)]
    return dict(zip(("single", "chosen", "ratio"), middle, strict=True)) | {"same": same}


def report(config: Config) -> str:
    """Measures and returns one table in Markdown."""
    lines = [
        "| network | steps per second, single | as chosen | ratio | same bits |",
        "|---|---|---|---|---|",
    ]
    for name in config.networks:
        row = measure(config, name)
        lines.append(
            f"| {name} | {row['single']:.1f} | {row['chosen']:.1f} | {row['ratio']:.2f} | "
            f"{'yes' if row['same'] else 'NO'} |"
        )
    return "\n".join(lines)


def main(config: Config) -> None:
    """Measures and prints one table in Markdown."""
    _page.show(config, report)


if __name__ == "__main__":
    cli.run(main, Config)
