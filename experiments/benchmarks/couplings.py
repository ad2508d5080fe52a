"""Minibatch optimal transport by batch size against torchcfm and POT, and its share of a step.

Noise and data in the plane and as images of 28x28, paired by `fmjax.couplings.minibatch_ot` under
`jit`; by torchcfm's `OTPlanSampler`, which draws as many pairs from the plan of POT's exact solver;
and by POT alone, from the points to the assignment. Ours and POT's assignments cost the same. The
last columns are what the coupling adds to a training step, in such steps at the same batch size:
of the plain perceptron in the plane, of a U-Net on images.

Run:    python -m experiments.benchmarks.couplings
        python -m experiments.benchmarks.couplings --batch-sizes 64 256 --step-up-to 64
Time:   4 minutes on two CPU cores.
Expect: our bars: the peers take at least as long; at most 0.3 steps of the U-Net at batch 256.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

import fmjax
from experiments.benchmarks import _fields, _page, _turns, steps
from experiments.run import cli, options
from fmjax.types import Array

BAR, SHARE = 1.0, 0.3
PEERS = {"torchcfm": ("torch", "torchcfm", "ot"), "POT": ("ot",)}
NETWORKS = {2: "perceptron", 784: "U-Net"}


@dataclasses.dataclass(frozen=True)
class Config:
    """The options, each with its default."""

    sizes: tuple[int, ...] = (2, 784)
    """Numbers in an example: 2 for the plane, 784 for images of 28x28."""
    batch_sizes: tuple[int, ...] = (64, 256, 1024)
    """Examples in a batch."""
    step_up_to: int = 256
    """Largest batch with which a step of the U-Net is timed."""
    turns: int = 9
    """Runs of each coupling."""
    seed: int = 0
    """Seed of noise and data."""

    def check(self) -> None:
        """Raises ValueError for sizes without a network, or a number out of its bounds."""
        options.check_among(self, "sizes", NETWORKS)
        if not self.batch_sizes or min(self.batch_sizes) < 2:
            message = f"batch_sizes must be at least 2, got {self.batch_sizes}."
            raise ValueError(message)
        bounds = {"step_up_to": (0, 1e9), "turns": (1, 1e9), "seed": (0, 2**32 - 1)}
        options.check_bounds(self, bounds)


def make_batch(config: Config, size: int, count: int) -> tuple[Array, Array]:
    """Returns noise and data: the two moons, or images of noise, each of its own contrast."""
    key = jax.random.key(config.seed)
    x0 = jax.random.normal(key, (count, size))
    if size == 2:
        return x0, _fields.moons(config.seed, count)
    keys = jax.random.split(key, 2)
    return x0, jax.random.normal(keys[0], x0.shape) * jax.random.uniform(keys[1], (count, 1))


def our_way(x0: Array, x1: Array) -> Callable[[], tuple[Array, Array]]:
    """Returns `() -> (x0, x1)`, paired by us."""
    return _turns.compiled(fmjax.couplings.minibatch_ot, jax.random.key(1), x0, x1).run


def peer_ways(x0: Array, x1: Array) -> dict[str, Callable[[], tuple[Any, Any]]]:
    """Returns the couplings of the peers that are installed."""
    ways = {}
    x0, x1 = np.array(x0), np.array(x1)
    if not _page.missing(*PEERS["torchcfm"]):
        import torch
        from torchcfm.optimal_transport import OTPlanSampler

        sampler, tensors = OTPlanSampler("exact"), (torch.tensor(x0), torch.tensor(x1))
        ways["torchcfm"] = lambda: sampler.sample_plan(*tensors)
    if not _page.missing(*PEERS["POT"]):
        import ot

        weights = np.full(len(x0), 1.0 / len(x0))

        def by_pot() -> tuple[np.ndarray, np.ndarray]:
            plan = ot.emd(weights, weights, ot.dist(x0, x1))
            return x0[plan.argmax(0)], x1

        ways["POT"] = by_pot
    return ways


def cost(pairs: tuple[Any, Any]) -> float:
    """Returns the mean squared distance of pairs."""
    x0, x1 = (np.asarray(rows, np.float64) for rows in pairs)
    return float(((x0 - x1) ** 2).sum(1).mean())


def step_of(config: Config, size: int, count: int) -> _turns.Call | None:
    """Returns our training step at a batch size, None where it would take too long."""
    if size != 2 and count > config.step_up_to:
        return None
    field = _fields.make(NETWORKS[size], seed=config.seed)
    shape = (2,) if size == 2 else _fields.IMAGE
    x1 = jax.random.normal(jax.random.key(2), (count, *shape))
    return steps.our_calls(field, x1, fused=False)["ours"]


def rows(config: Config, size: int, count: int) -> list[list[str]]:
    """Returns the rows of one batch, one for each peer."""
    x0, x1 = make_batch(config, size, count)
    ours, theirs = our_way(x0, x1), peer_ways(x0, x1)
    if "POT" in theirs:
        _turns.same("cost of the pairs", cost(ours()), cost(theirs["POT"]()), atol=0.0, rtol=1e-4)
    calls = {"ours": _turns.Call(ours)}
    calls |= {peer: _turns.by_threads(way) if peer == "torchcfm" else _turns.Call(way)
              for peer, way in theirs.items()}  # fmt: skip
    step = step_of(config, size, count)
    times = _turns.in_turn(calls | ({"step": step} if step else {}), config.turns)
    bar = SHARE if (size, count) == (784, 256) else None
    share = "not run"
    if step:
        share = _turns.spread(_turns.ratios(times, "ours", "step"), bar=bar, least=False)
    cells = []
    for peer in PEERS:
        row = [f"{count} x {size}", _turns.milliseconds(times.seconds["ours"]), peer]
        row += _turns.against(times, peer, "ours", BAR)
        cells.append([*row, str(BAR), f"{share} of {NETWORKS[size]}", str(bar or "")])
    return cells


def report(config: Config) -> str:
    """Measures and returns one table in Markdown."""
    head = ["pairs", "ours, ms", "peer", "its fastest", "peer over ours", "at least"]
    head += ["ours, in steps", "at most"]
    cases = [(size, count) for size in config.sizes for count in config.batch_sizes]
    return _page.table(head, [row for case in cases for row in rows(config, *case)])


def main(config: Config) -> None:
    """Measures and prints one table in Markdown."""
    _page.show(config, report)


if __name__ == "__main__":
    cli.run(main, Config)
