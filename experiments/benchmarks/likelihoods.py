"""Log-likelihoods, exact and by one probe, against flow_matching.

Networks of the plane that have learned the two moons for a while, a batch of 256 of their points,
100 Euler steps and adaptive steps. Ours solves every example with steps of its own, flow_matching
the batch as one state. With an exact divergence both give the same numbers within the tolerance; so
they do by one probe, where ours is given the probe that the peer draws.

Run:    python -m experiments.benchmarks.likelihoods
        python -m experiments.benchmarks.likelihoods --networks MLP --turns 25
Time:   2 minutes on two CPU cores.
Expect: our bar: flow_matching takes at least 4 times as long.
"""

import dataclasses
import math
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
BAR = 4.0
PEER = "flow_matching"


@dataclasses.dataclass(frozen=True)
class Config:
    """The options, each with its default."""

    learned: _fields.Learned = _fields.Learned()
    turns: int = 9
    """Runs of each solver."""

    def check(self) -> None:
        """Raises ValueError for an unknown network, or a number out of its bounds."""
        options.check_parts(self)
        options.check_bounds(self, {"turns": (1, 1e9)})


SOLVES = {
    "Euler": partial(fmjax.samplers.fixed, num_steps=STEPS, solver=diffrax.Euler()),
    "adaptive": partial(fmjax.samplers.adaptive, rtol=TOLERANCE, atol=TOLERANCE),
}


def by_probe(probe: Array, f: Callable[[Array], Array], x: Array) -> tuple[Array, Array]:
    """Returns the value of a field and its divergence by a given probe."""
    value, tangent = jax.jvp(f, (x,), (probe,))
    return value, (probe * tangent).sum()


def our_way(
    field: _fields.Field, divergence: Callable, solve: Callable, with_each: Array, x1: Array
) -> Callable[[], Array]:
    """Returns `() -> [b]`; the divergence takes its key or probe first."""

    def many(params: Any, with_each: Array, x1: Array) -> Array:
        def one(key: Array, x1: Array) -> Array:
            return fmjax.likelihood.log_prob(
                partial(field.apply, params), x1, divergence=partial(divergence, key), solve=solve
            )

        return jax.vmap(one)(with_each, x1)

    return _turns.compiled(many, field.params, with_each, x1).run


def exact(key: Array, f: Callable[[Array], Array], x: Array) -> tuple[Array, Array]:
    """Returns the exact divergence, which needs no key."""
    del key
    return fmjax.divergence.exact(f, x)


def peer_ways(name: str, field: _fields.Field, x1: Array) -> dict[tuple[str, str], Callable]:
    """Returns the peer's log-likelihoods `() -> [b]` by estimator and solver."""
    import torch
    from flow_matching.solver import ODESolver

    twin, params = _twins.TWINS[name], _twins.tensors(field.params)
    params = jax.tree.map(lambda tensor: tensor.detach(), params)
    points = torch.tensor(jax.device_get(x1))
    solver = ODESolver(lambda x, t: twin(params, x, t))

    def log_p0(x: Any) -> Any:
        return -0.5 * (x**2).sum(1) - x.shape[1] * 0.5 * math.log(2 * math.pi)

    def way(**options: Any) -> Callable:
        return lambda: solver.compute_likelihood(points, log_p0, **options)[1].detach()

    steps = {
        "Euler": {"method": "euler", "step_size": 1 / STEPS},
        "adaptive": {
            "method": "dopri5", "step_size": None, "rtol": TOLERANCE, "atol": TOLERANCE
        },
    }  # fmt: skip
    return {
        (estimator, solve): way(exact_divergence=estimator == "exact", **options)
        for estimator in ("exact", "one probe")
        for solve, options in steps.items()
    }


def peer_probe(seed: int, x1: Array) -> Array:
    """Returns the probe that the peer draws after a seed."""
    import torch

    torch.manual_seed(seed)
    drawn = torch.randn(x1.shape)
    return jax.numpy.asarray(((drawn < 0) * 2.0 - 1.0).numpy())


def compare(field: _fields.Field, x1: Array, theirs: Callable, estimator: str, solve: str) -> None:
    """Raises ValueError unless both sides give the same numbers, by the peer's probe."""
    import torch

    probes = peer_probe(3, x1)
    divergence = exact if estimator == "exact" else by_probe
    ours = our_way(field, divergence, SOLVES[solve], probes, x1)()
    torch.manual_seed(3)
    what = f"log-likelihood, {estimator}, {solve}"
    atol = 2e-3 if solve == "Euler" else 2e-2
    _turns.same(what, ours, theirs().numpy(), atol=atol, rtol=atol)


def rows(config: Config, name: str) -> list[list[str]]:
    """Returns the rows of one network."""
    learned = config.learned
    field = _fields.trained(name, seed=learned.seed, num_steps=learned.num_steps)
    x1 = _fields.moons(learned.seed + 1, learned.batch_size)
    keys = jax.random.split(jax.random.key(learned.seed + 2), learned.batch_size)
    installed = not _page.missing("torch", "torchdiffeq", PEER)
    peers = peer_ways(name, field, x1) if installed else {}
    cells = []
    for estimator in ("exact", "one probe"):
        divergence = exact if estimator == "exact" else fmjax.divergence.hutchinson
        for solve, ours in SOLVES.items():
            calls = {"ours": _turns.Call(our_way(field, divergence, ours, keys, x1))}
            if installed:
                compare(field, x1, peers[estimator, solve], estimator, solve)
                calls[PEER] = _turns.by_threads(peers[estimator, solve])
            times = _turns.in_turn(calls, config.turns)
            row = [f"{name}, {estimator}, {solve}", _turns.milliseconds(times.seconds["ours"])]
            row += _turns.against(times, PEER, "ours", BAR)
            cells.append([*row, str(BAR)])
    return cells


def report(config: Config) -> str:
    """Measures and returns one table in Markdown."""
    learned = config.learned
    head = [f"{learned.batch_size} points", "ours, ms", f"{PEER}, its fastest", "peer over ours"]
    rows_of = [row for name in learned.networks for row in rows(config, name)]
    return _page.table([*head, "at least"], rows_of)


def main(config: Config) -> None:
    """Measures and prints one table in Markdown."""
    _page.show(config, report)


if __name__ == "__main__":
    cli.run(main, Config)
