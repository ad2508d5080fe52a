"""What an exact divergence costs, over a forward pass and over the best that PyTorch does.

The value of the field included, of a batch under `vmap`: a plain perceptron with random weights in
2 to 784 dimensions. `fmjax.divergence.exact` pushes all tangents at once, `unrolled` and `chunked`
one or a few at a time. PyTorch, with the same weights, is tried in three ways on one and on two
threads, and the fastest counts: `torch.func`'s vmap of jacfwd and of jacrev, both with the value
beside, and the loop over the entries by autograd.

Run:    python -m experiments.benchmarks.divergences
        python -m experiments.benchmarks.divergences --sizes 2 10 --turns 25
Time:   3 minutes on two CPU cores.
Expect: our bars: PyTorch takes at least 1.4 times as long; at most d forward passes, 420 at
        d = 784.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax

import fmjax
from experiments.benchmarks import _fields, _page, _turns, _twins
from experiments.run import cli, options
from fmjax.types import Array

TIME = 0.5
BAR = 1.4
PASSES = {784: 420}
MAX_UNROLLED = 64


@dataclasses.dataclass(frozen=True)
class Config:
    """The options, each with its default."""

    sizes: tuple[int, ...] = (2, 10, 64, 784)
    """Dimensions d of the field."""
    batch_size: int = 64
    """Points at a time."""
    width: int = 256
    """Width of the three hidden layers."""
    turns: int = 11
    """Runs of each program; a third of them above 100 dimensions."""
    seed: int = 0
    """Seed of the weights and the points."""

    def check(self) -> None:
        """Raises ValueError for a number out of its bounds."""
        bounds = {"batch_size": (1, 1e9), "width": (1, 1e9), "turns": (1, 1e9)}
        options.check_bounds(self, bounds | {"seed": (0, 2**32 - 1)})
        if not self.sizes or min(self.sizes) < 1:
            message = f"sizes must be positive, got {self.sizes}."
            raise ValueError(message)


def our_ways(size: int) -> dict[str, Callable]:
    """Returns what is timed of ours, the one that the module recommends for the size first."""
    ways = {"exact": fmjax.divergence.exact}
    if size <= MAX_UNROLLED:
        return ways | {"unrolled": fmjax.divergence.unrolled}
    return {"chunked": fmjax.divergence.chunked} | ways


def torch_ways(params: Any) -> dict[str, Callable]:
    """Returns three ways from a batch `[b, d]` to values `[b, d]` and divergences `[b]`."""
    import torch

    time = torch.tensor(TIME)

    def twice(x: Any) -> tuple[Any, Any]:
        value = _twins.perceptron(params, x, time)
        return value, value

    def func(jacobian: Callable) -> Callable:
        def one(x: Any) -> tuple[Any, Any]:
            matrix, value = jacobian(twice, has_aux=True)(x)
            return value, matrix.diagonal().sum()

        return torch.func.vmap(one)

    def loop(x: Any) -> tuple[Any, Any]:
        x = x.detach().requires_grad_()
        value = _twins.perceptron(params, x, time)
        total = value.sum(0)
        grads = (torch.autograd.grad(one, x, retain_graph=True)[0] for one in total)
        return value.detach(), sum(grad[:, i] for i, grad in enumerate(grads))

    return {"jacfwd": func(torch.func.jacfwd), "jacrev": func(torch.func.jacrev), "loop": loop}


def make_calls(config: Config, size: int) -> dict[str, _turns.Call | list[_turns.Call]]:
    """Returns the forward pass, our ways and PyTorch's, which all give the same numbers."""
    field = _fields.make("perceptron", seed=config.seed, size=size, width=config.width)
    x = jax.random.normal(jax.random.key(config.seed + 1), (config.batch_size, size))

    def velocity(params: Any, x: Array) -> Array:
        return field.apply(params, x, TIME)

    def ready(function: Callable) -> Callable[[], Any]:
        return _turns.compiled(jax.vmap(function, (None, 0)), field.params, x).run

    def way(divergence: Callable) -> Callable[[], Any]:
        return ready(lambda params, x: divergence(lambda x: velocity(params, x), x))

    ours = {name: way(divergence) for name, divergence in our_ways(size).items()}
    calls = {name: _turns.Call(run) for name, run in (ours | {"pass": ready(velocity)}).items()}
    if _page.missing("torch"):
        return calls
    import torch

    states = torch.tensor(jax.device_get(x))
    params = jax.tree.map(lambda tensor: tensor.detach(), _twins.tensors(field.params))
    ways = torch_ways(params)
    scale = size**0.5
    for theirs in ways.values():
        for name, run in ours.items():
            for a, b in zip(run(), theirs(states), strict=True):
                _turns.same(f"divergence by {name}", a, b.numpy(), atol=1e-4 * scale)
    runs = [lambda way=way: way(states) for way in ways.values()]
    return calls | {"torch": _turns.by_threads(*runs, words=list(ways))}


def rows(config: Config, size: int) -> list[list[str]]:
    """Returns the rows of one size, one for each of our ways."""
    turns = config.turns if size <= 100 else max(1, config.turns // 3)
    times = _turns.in_turn(make_calls(config, size), turns)
    cells = []
    for i, name in enumerate(our_ways(size)):
        passes = _turns.ratios(times, name, "pass")
        most = PASSES.get(size, size) if i == 0 else None  # the recommended way is held to the bar
        row = [str(size), f"`{name}`", _turns.milliseconds(times.seconds[name])]
        row += [_turns.spread(passes, bar=most, least=False), str(most or "")]
        if "torch" in times.seconds:
            over = _turns.ratios(times, "torch", name)
            bar = BAR if i == 0 else None
            row += [times.setting["torch"], _turns.spread(over, bar=bar), str(bar or "")]
        else:
            row += ["not installed", "", str(BAR)]
        cells.append(row)
    return cells


def report(config: Config) -> str:
    """Measures and returns one table in Markdown."""
    head = ["d", "ours", "ms", "forward passes", "at most"]
    head += ["fastest of torch", "torch over ours", "at least"]
    return _page.table(head, [row for size in config.sizes for row in rows(config, size)])


def main(config: Config) -> None:
    """Measures and prints one table in Markdown."""
    _page.show(config, report)


if __name__ == "__main__":
    cli.run(main, Config)
