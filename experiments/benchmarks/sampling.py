"""Sampling by 100 Euler steps and by adaptive steps against torchdiffeq and flow_matching.

Networks of the plane that have learned the two moons for a while, a batch of 256: the plain
perceptron, which takes the time as a number, and the residual MLP, which embeds it. Our adaptive
solver chooses steps for every example by itself, so no result depends on the rest of the batch. The
peers solve the batch as one state, with the same steps for all. Ours does so too where the velocity
is one of the whole batch: the rows "one state". All end in the same points within the tolerance.

Run:    python -m experiments.benchmarks.sampling
        python -m experiments.benchmarks.sampling --networks MLP --turns 25
Time:   2 minutes on two CPU cores.
Expect: our bars: the peers take at least 1.8 times as long by Euler steps, 3 times by adaptive
        ones.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import diffrax
import jax

import fmjax
from experiments.benchmarks import _fields, _page, _turns, _twins
from experiments.run import cli, options
from fmjax.types import Array

STEPS = 100
TOLERANCE = 1e-5
BARS = {"Euler": 1.8, "adaptive": 3.0}
PEERS = ("torchdiffeq", "flow_matching")


@dataclasses.dataclass(frozen=True)
class Config:
    """The options, each with its default."""

    learned: _fields.Learned = _fields.Learned()
    turns: int = 15
    """Runs of each solver."""

    def check(self) -> None:
        """Raises ValueError for an unknown network, or a number out of its bounds."""
        options.check_parts(self)
        options.check_bounds(self, {"turns": (1, 1e9)})


def our_ways(field: _fields.Field, x0: Array) -> dict[str, Callable[[], Array]]:
    """Returns our samplers by their names, each `() -> [b, d]`."""
    euler = partial(fmjax.samplers.fixed, num_steps=STEPS, solver=diffrax.Euler())
    adaptive = partial(fmjax.samplers.adaptive, rtol=TOLERANCE, atol=TOLERANCE)

    def each(solve: Callable) -> Callable:
        return lambda params, x0: jax.vmap(partial(solve, partial(field.apply, params)))(x0)

    def whole(params: Any, x0: Array) -> Array:
        return adaptive(jax.vmap(partial(field.apply, params), (0, None)), x0)

    ways = {"Euler": each(euler), "adaptive": each(adaptive), "adaptive, one state": whole}
    return {name: _turns.compiled(way, field.params, x0).run for name, way in ways.items()}


def peer_ways(name: str, field: _fields.Field, x0: Array, peer: str) -> dict[str, Callable]:
    """Returns a peer's samplers, each `() -> [b, d]`."""
    import torch

    twin = _twins.TWINS[name]
    params = jax.tree.map(lambda tensor: tensor.detach(), _twins.tensors(field.params))
    start, ends = torch.tensor(jax.device_get(x0)), torch.tensor([0.0, 1.0])
    euler = {"method": "euler"}
    adaptive = {"method": "dopri5", "rtol": TOLERANCE, "atol": TOLERANCE}
    if peer == "torchdiffeq":
        from torchdiffeq import odeint

        def solve(**options: Any) -> Any:
            with torch.no_grad():
                return odeint(lambda t, x: twin(params, x, t), start, ends, **options)[-1]

        euler["options"] = {"step_size": 1 / STEPS}
    else:
        from flow_matching.solver import ODESolver

        solve = partial(ODESolver(lambda x, t: twin(params, x, t)).sample, start)
        euler["step_size"], adaptive["step_size"] = 1 / STEPS, None
    return {"Euler": partial(solve, **euler), "adaptive": partial(solve, **adaptive)}


def rows(config: Config, name: str) -> list[list[str]]:
    """Returns the rows of one network: each of our samplers over both peers."""
    learned = config.learned
    field = _fields.trained(name, seed=learned.seed, num_steps=learned.num_steps)
    x0 = jax.random.normal(jax.random.key(learned.seed + 1), (learned.batch_size, 2))
    ours = our_ways(field, x0)
    _turns.same("one state", ours["adaptive"](), ours["adaptive, one state"](), atol=2e-2)
    found = [peer for peer in PEERS if not _page.missing("torch", "torchdiffeq", peer)]
    peers = {peer: peer_ways(name, field, x0, peer) for peer in found}
    cells = []
    for way, names in (("Euler", ["Euler"]), ("adaptive", ["adaptive", "adaptive, one state"])):
        calls = {name: _turns.Call(ours[name]) for name in names}
        for peer in found:
            _turns.same(f"{peer}, {way}", ours[way](), peers[peer][way]().numpy(), atol=_atol(way))
            calls[peer] = _turns.by_threads(peers[peer][way])
        times = _turns.in_turn(calls, config.turns)
        for one in names:
            cells += [_row(times, f"{name}, {one}", one, peer) for peer in PEERS]
    return cells


def _atol(way: str) -> float:
    """Returns what may lie between the same steps in float32, or two adaptive solves."""
    return 1e-3 if way == "Euler" else 2e-2


def _row(times: _turns.Times, what: str, ours: str, peer: str) -> list[str]:
    bar = BARS[ours.split(",")[0]]
    row = [what, _turns.milliseconds(times.seconds[ours]), peer]
    return [*row, *_turns.against(times, peer, ours, bar), str(bar)]


def report(config: Config) -> str:
    """Measures and returns one table in Markdown."""
    learned = config.learned
    head = [f"{learned.batch_size} points", "ours, ms", "peer", "its fastest", "peer over ours"]
    rows_of = [row for name in learned.networks for row in rows(config, name)]
    return _page.table([*head, "at least"], rows_of)


def main(config: Config) -> None:
    """Measures and prints one table in Markdown."""
    _page.show(config, report)


if __name__ == "__main__":
    cli.run(main, Config)
