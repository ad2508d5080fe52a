"""How time and memory grow with the batch, the dimension and the points of a data set.

Each function is compiled for several sizes, and all sizes are timed in turn. The exponent is the
slope of the logarithm of the time over the logarithm of the size, from the middle size to the
largest one; the smallest sizes measure the dispatch. Memory is the temporary memory that the
compiler plans, beside arguments and results; its exponent is fitted to all sizes.

Run:    python -m experiments.benchmarks.scaling
        python -m experiments.benchmarks.scaling --only bank --turns 25 --figure scaling.png
Time:   3 minutes on two CPU cores.
Expect: time proportional to the batch, the bank and, for one probe, to the dimension; an exact
        divergence has as many products as dimensions, each of which is as wide: its exponent goes
        from 1 to 2. Memory of the chunked divergence grows with the dimension to the power of 1,
        of the whole Jacobian of 2; of the exact field of a bank in chunks by one number for each
        point.
"""

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from etils import epath
from matplotlib.figure import Figure

import fmjax
from experiments.benchmarks import _fields, _page, _turns
from experiments.run import cli, options, pictures
from fmjax.types import Array, Key

path = fmjax.paths.linear()
TIME = 0.4
_FEW = 32  # states at a time, where the batch is not what grows
_PIXELS = 64  # entries of a point of the bank
_CHUNK = 512  # points of the bank at a time
_MIB = 2**20


class Sweep(NamedTuple):
    """One function over several sizes.

    Attributes:
      what: the function, for the table.
      axis: what grows.
      sizes: ascending.
      make: from a size to the program.
    """

    what: str
    axis: str
    sizes: tuple[int, ...]
    make: Callable[[int], _turns.Program]


class Growth(NamedTuple):
    """What was measured of a sweep.

    Attributes:
      seconds: `[turns, sizes]`.
      mib: `[sizes]`.
    """

    seconds: np.ndarray
    mib: np.ndarray


def training(size: int) -> _turns.Program:
    """Returns the loss of flow matching and its gradient, of a batch in the plane."""
    field = _fields.make("perceptron", seed=0)
    loss = jax.value_and_grad(_fields.drawn(field.apply))
    return _turns.compiled(loss, field.params, jax.random.key(1), _fields.moons(2, size))


def sampling(size: int) -> _turns.Program:
    """Returns 20 steps of Heun's method of a batch in the plane."""
    field = _fields.make("perceptron", seed=0)
    solve = partial(fmjax.samplers.fixed, partial(field.apply, field.params), num_steps=20)
    return _turns.compiled(jax.vmap(solve), jax.random.normal(jax.random.key(1), (size, 2)))


def coupling(size: int) -> _turns.Program:
    """Returns minibatch optimal transport of a batch in the plane."""
    x0 = jax.random.normal(jax.random.key(1), (size, 2))
    return _turns.compiled(
        fmjax.couplings.minibatch_ot, jax.random.key(0), x0, _fields.moons(2, size)
    )


def divergence(way: Callable[..., Any], size: int) -> _turns.Program:
    """Returns a divergence of a perceptron of width 64; the way takes a key first."""
    field = _fields.make("perceptron", seed=0, size=size)

    def one(key: Key, x: Array) -> Any:
        return way(key, lambda x: field.apply(field.params, x, TIME), x)

    keys = jax.random.split(jax.random.key(1), _FEW)
    return _turns.compiled(jax.vmap(one), keys, jax.random.normal(keys[0], (_FEW, size)))


def bank(size: int) -> _turns.Program:
    """Returns the exact field of a data set in chunks, whose posterior covers many points."""
    points = jax.random.normal(jax.random.key(1), (size, _PIXELS)) * np.geomspace(1, 0.05, _PIXELS)
    x = 0.5 * jax.random.normal(jax.random.key(2), (_FEW, _PIXELS))

    def many(points: Array, x: Array) -> Array:
        field = partial(fmjax.empirical.velocity, path, points, chunk_size=_CHUNK)
        return jax.vmap(lambda x: field(x, TIME))(x)

    return _turns.compiled(many, points, x)


def _keyless(way: Callable[..., Any]) -> Callable[..., Any]:
    return lambda key, f, x: way(f, x)  # noqa: ARG005


_BATCHES = (64, 256, 1024, 4096, 16384)
_SIZES = (8, 32, 128, 512, 2048)
SWEEPS = {
    "training": Sweep("loss and gradient, perceptron", "batch", _BATCHES, training),
    "sampling": Sweep("20 Heun steps, perceptron", "batch", _BATCHES, sampling),
    "coupling": Sweep("optimal pairs of the batch", "batch", (32, 64, 128, 256, 512), coupling),
    "one_probe": Sweep(
        "divergence, one probe", "dimension", _SIZES,
        partial(divergence, fmjax.divergence.hutchinson),
    ),
    "chunked": Sweep(
        "exact divergence, in chunks of 16", "dimension", _SIZES,
        partial(divergence, _keyless(fmjax.divergence.chunked)),
    ),
    "exact": Sweep(
        "exact divergence, all tangents at once", "dimension", _SIZES[:-1],
        partial(divergence, _keyless(fmjax.divergence.exact)),
    ),
    "bank": Sweep(
        f"exact field of a bank, in chunks of {_CHUNK}", "points",
        (1024, 4096, 16384, 65536, 262144), bank,
    ),
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Config:
    """The options, each with its default."""

    only: tuple[str, ...] = tuple(SWEEPS)
    """The functions, of training, sampling, coupling, one_probe, chunked, exact and bank."""
    turns: int = 9
    """Runs of each program."""
    num_sizes: int = 5
    """Sizes of each function, the smallest ones, at least 3."""
    figure: str | None = None
    """File of the picture, ending in .png; None draws none."""

    def check(self) -> None:
        """Raises ValueError for an unknown function, or a number out of its bounds."""
        options.check_among(self, "only", SWEEPS)
        options.check_bounds(self, {"turns": (1, 1e9), "num_sizes": (3, 5)})
        if self.figure is not None and not self.figure.endswith(".png"):
            message = f"figure must end in .png, got {self.figure!r}."
            raise ValueError(message)


def measure(sweep: Sweep, turns: int) -> Growth:
    """Compiles a function for every size and times them in turn."""
    programs = {str(size): sweep.make(size) for size in sweep.sizes}
    times = _turns.in_turn({n: _turns.Call(p.run) for n, p in programs.items()}, turns)
    seconds = np.array([times.seconds[name] for name in programs]).T
    return Growth(seconds, np.array([program.mib for program in programs.values()]))


def exponent(sizes: Sequence[int], values: np.ndarray) -> np.ndarray:
    """Fits the power of the size with which values grow.

    Args:
      sizes: at least two different ones.
      values: `[*rest, sizes]`, positive.

    Returns:
      `[*rest]`, the slope of log values over log sizes by least squares.
    """
    x = np.log(np.asarray(sizes, float))
    x -= x.mean()
    return np.log(values) @ x / (x @ x)


def of_time(sweep: Sweep, growth: Growth) -> np.ndarray:
    """Returns the exponent of the time in every turn, from the middle size on."""
    middle = len(sweep.sizes) // 2
    return exponent(sweep.sizes[middle:], growth.seconds[:, middle:])


def row(sweep: Sweep, growth: Growth) -> list[str]:
    """Writes one row of the table."""
    ends = f"{sweep.sizes[0]:,} to {sweep.sizes[-1]:,}"
    times = [_turns.milliseconds(growth.seconds[:, i]) for i in (0, -1)]
    slopes = of_time(sweep, growth)
    planned = [f"{growth.mib[i]:.3g}" for i in (0, -1)]
    grows = exponent(sweep.sizes, np.maximum(growth.mib, 1 / _MIB))
    return [
        sweep.what, f"{sweep.axis}, {ends}", " to ".join(times), _turns.spread(list(slopes)),
        " to ".join(planned), f"{grows:.2f}",
    ]  # fmt: skip


def picture(found: dict[str, tuple[Sweep, Growth]]) -> Figure:
    """Draws time and memory over the size, a column for each axis of growth."""
    axes_of = list(dict.fromkeys(sweep.axis for sweep, _ in found.values()))
    figure = Figure(figsize=(5.2 * len(axes_of), 8.4), layout="constrained")
    panels = figure.subplots(2, len(axes_of), squeeze=False)
    for column, axis in zip(panels.T, axes_of, strict=True):
        for sweep, growth in found.values():
            if sweep.axis == axis:
                middle = 1e3 * np.median(growth.seconds, axis=0)
                slope = np.median(of_time(sweep, growth))
                label = f"{sweep.what}: {slope:.1f}"
                (line,) = column[0].loglog(sweep.sizes, middle, "o-", label=label)
                column[1].loglog(sweep.sizes, growth.mib, "o-", color=line.get_color())
        low, high = column[0].get_ylim()
        column[0].set(title=f"growing {axis}", ylim=(low, 12 * high))  # room for the legend
        column[0].legend(fontsize=10, title="exponent of time", title_fontsize=10)
        column[1].set(xlabel=axis)
    panels[0, 0].set_ylabel("time (ms)")
    panels[1, 0].set_ylabel("temporary memory (MiB)")
    return figure


def report(config: Config) -> str:
    """Measures and returns one table in Markdown; draws the picture if it has a place."""
    cut = lambda sweep: sweep._replace(sizes=sweep.sizes[: config.num_sizes])  # noqa: E731
    sweeps = {name: cut(SWEEPS[name]) for name in config.only}
    found = {name: (sweep, measure(sweep, config.turns)) for name, sweep in sweeps.items()}
    if config.figure is not None:
        place = epath.Path(config.figure)
        with pictures.style():
            pictures.save(place.parent, {place.stem: picture(found)})
    head = ["function", "grows", "ms", "exponent of time", "MiB", "exponent of memory"]
    return _page.table(head, [row(sweep, growth) for sweep, growth in found.values()])


def main(config: Config) -> None:
    """Measures and prints one table in Markdown."""
    _page.show(config, report)


if __name__ == "__main__":
    cli.run(main, Config)
