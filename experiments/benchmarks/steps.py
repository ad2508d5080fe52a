"""A training step of flow matching against the same step of torchcfm and of flow_matching.

The same network with the same weights, batch and Adam; noise and times are drawn in the step. Ours
keeps the moving average of the parameters too, which the peers' step does not. The plain perceptron
has three hidden layers of 64, as torchcfm's own, the U-Net is `fmjax.models.UNet` on 28x28 images.
The peers run in PyTorch's eager mode with its fused Adam, the U-Net with both layouts of memory.

Steps fused are 100 in one call, by `fmjax.train.repeat`. XLA's CPU compiler makes convolutions slow
in a loop, so the U-Net takes single steps there, as the training loop does.

Run:    python -m experiments.benchmarks.steps
        python -m experiments.benchmarks.steps --networks perceptron --turns 25
Time:   3 minutes on two CPU cores.
Expect: our bars: the peers take at least 1.2 times as long for a step of the perceptron, 3 times
        with steps fused, and 1.0 times for the U-Net.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import optax

import fmjax
from experiments.benchmarks import _fields, _page, _turns, _twins
from experiments.run import cli, options
from fmjax.types import Array

FUSED = 100
BARS = {("perceptron", 1): 1.2, ("perceptron", FUSED): 3.0, ("U-Net", 1): 1.0}
RATE = 1e-3


@dataclasses.dataclass(frozen=True)
class Config:
    """The options, each with its default."""

    networks: tuple[str, ...] = ("perceptron", "U-Net")
    """Networks to train, of perceptron, MLP and U-Net."""
    batch_size: int = 256
    """Points in a batch."""
    images: int = 64
    """Images in a batch of the U-Net."""
    turns: int = 15
    """Runs of each step; a third of them for the U-Net."""
    seed: int = 0
    """Seed of the weights and the data."""

    def check(self) -> None:
        """Raises ValueError for an unknown network, or a number out of its bounds."""
        options.check_among(self, "networks", _twins.TWINS)
        bounds = {"batch_size": (1, 1e9), "images": (1, 1e9), "turns": (1, 1e9)}
        options.check_bounds(self, bounds | {"seed": (0, 2**32 - 1)})


def make_data(config: Config, name: str) -> Array:
    """Returns a batch of points or images."""
    key = jax.random.key(config.seed + 1)
    shape = (config.images, *_fields.IMAGE) if name == "U-Net" else (config.batch_size, 2)
    return jax.random.normal(key, shape)


def our_calls(field: _fields.Field, x1: Array, *, fused: bool) -> dict[str, _turns.Call]:
    """Returns our step, and steps fused if asked for; each goes on from its own state."""
    optimizer = optax.adam(RATE)
    step = fmjax.train.make_step(_fields.drawn(field.apply), optimizer)

    def going(program: Callable, batch: Array, parts: int) -> _turns.Call:
        states, key = [fmjax.train.init(field.params, optimizer)], jax.random.key(0)
        options = fmjax.train.compiler_options()
        program = jax.jit(program, donate_argnums=0, compiler_options=options)
        compiled = program.lower(states[0], key, batch).compile()

        def run() -> Any:
            states[0], info = compiled(states[0], key, batch)
            return info

        return _turns.Call(run, parts=parts)

    calls = {"ours": going(step, x1, 1)}
    if fused:
        stacked = jax.numpy.stack([x1] * FUSED)
        calls["ours, fused"] = going(fmjax.train.repeat(step), stacked, FUSED)
    return calls


def draws(peer: str) -> Callable[[Any, Any, Any], tuple[Any, Any, Any]]:
    """Returns a peer's `(x0, x1, t) -> (t, xt, velocity)`, of which t may be None."""
    if peer == "torchcfm":
        from torchcfm.conditional_flow_matching import ConditionalFlowMatcher

        return ConditionalFlowMatcher(sigma=0.0).sample_location_and_conditional_flow
    import torch
    from flow_matching.path import CondOTProbPath

    path = CondOTProbPath()

    def draw(x0: Any, x1: Any, t: Any = None) -> tuple[Any, Any, Any]:
        t = torch.rand(len(x1)) if t is None else t
        sample = path.sample(t=t, x_0=x0, x_1=x1)
        return t, sample.x_t, sample.dx_t

    return draw


class Step:
    """A peer's training step of its own copy of a network."""

    def __init__(self, name: str, field: _fields.Field, x1: Any, peer: str, *, last: bool = False):
        import torch

        self.twin, self.draw = _twins.TWINS[name], draws(peer)
        self.params = _twins.tensors(field.params)
        if last:  # channels in memory last
            self.params = jax.tree.map(_channels_last, self.params)
            x1 = _channels_last(x1)
        self.x1 = x1
        self.optimizer = torch.optim.Adam(jax.tree.leaves(self.params), lr=RATE, fused=True)

    def loss(self, x0: Any, t: Any = None) -> Any:
        """Returns the loss of the batch."""
        t, xt, wanted = self.draw(x0, self.x1, t)
        return ((self.twin(self.params, xt, t) - wanted) ** 2).mean()

    def __call__(self) -> None:
        """Takes one step."""
        import torch

        self.optimizer.zero_grad()
        self.loss(torch.randn_like(self.x1)).backward()
        self.optimizer.step()


def _channels_last(tensor: Any) -> Any:
    import torch

    if tensor.ndim != 4:
        return tensor
    moved = tensor.detach().to(memory_format=torch.channels_last)
    return moved.requires_grad_(tensor.requires_grad)


def peer_calls(name: str, field: _fields.Field, x1: Array) -> dict[str, list[_turns.Call]]:
    """Returns the steps of the peers that are installed, checked against our gradient."""
    calls = {}
    for peer in ("torchcfm", "flow_matching"):
        if _page.missing("torch", peer):
            continue
        import torch

        batch = torch.tensor(jax.device_get(x1))
        batch = batch.movedim(-1, 1).contiguous() if name == "U-Net" else batch
        layouts = {"": False} | ({"channels last": True} if name == "U-Net" else {})
        steps = [Step(name, field, batch, peer, last=last) for last in layouts.values()]
        for step in steps:
            compare(field, step, x1)
        calls[peer] = _turns.by_threads(*steps, words=list(layouts))
    return calls


def compare(field: _fields.Field, step: Step, x1: Array) -> None:
    """Raises ValueError unless loss and gradient of both sides agree on the same noise."""
    import torch

    key = jax.random.key(7)
    x0, t = jax.random.normal(key, x1.shape), jax.random.uniform(key, x1.shape[:1])
    loss, gradient = jax.jit(jax.value_and_grad(_fields.cfm(field.apply)))(field.params, x0, x1, t)
    noise = torch.tensor(jax.device_get(x0))
    noise = noise.movedim(-1, 1) if x1.ndim == 4 else noise
    theirs = step.loss(noise, torch.tensor(jax.device_get(t)))
    theirs.backward()
    _turns.same("loss", loss, theirs.item(), atol=0.0, rtol=1e-4)
    grads = _twins.arrays(jax.tree.map(lambda tensor: tensor.grad, step.params))
    for a, b in zip(jax.tree.leaves(gradient), jax.tree.leaves(grads), strict=True):
        _turns.same("gradient", a, b, atol=1e-4 * float(abs(b).max() + 1e-3))
    step.optimizer.zero_grad()


def rows(config: Config, name: str) -> list[list[str]]:
    """Returns the rows of one network: single and fused steps over both peers."""
    field, x1 = _fields.make(name, seed=config.seed), make_data(config, name)
    calls = our_calls(field, x1, fused=name != "U-Net") | peer_calls(name, field, x1)
    turns = config.turns if name != "U-Net" else max(1, config.turns // 3)
    times, cells = _turns.in_turn(calls, turns), []
    for ours, count in (("ours", 1), ("ours, fused", FUSED)):
        for peer in ("torchcfm", "flow_matching") if ours in times.seconds else ():
            bar = BARS.get((name, count))
            what = f"{name}, batch {len(x1)}" + (f", {count} steps fused" if count > 1 else "")
            row = [what, _turns.milliseconds(times.seconds[ours]), peer]
            row += _turns.against(times, peer, ours, bar)
            cells.append([*row, str(bar or "")])
    return cells


def report(config: Config) -> str:
    """Measures and returns one table in Markdown."""
    head = ["step", "ours, ms", "peer", "its fastest", "peer over ours", "at least"]
    return _page.table(head, [row for name in config.networks for row in rows(config, name)])


def main(config: Config) -> None:
    """Measures and prints one table in Markdown."""
    _page.show(config, report)


if __name__ == "__main__":
    cli.run(main, Config)
