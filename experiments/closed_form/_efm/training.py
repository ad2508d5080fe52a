"""Empirical flow matching as a training: which noise meets which image, and who shares a target.

A method is a coupling of noise and data, and a bank: the points of the data set from which the
target of a batch is made.

    CFM      independent      the example's own point, so the target is x1 - x0
    OT-CFM   minibatch OT     the same
    EFM-M    independent      M points, the batch among them, drawn anew at every step
    EFM-n    independent      the whole data set: the target is the exact velocity

M counts the batch, so that with M = batch the batch itself is the bank. (In the published code a
bank of "128" comes on top of the batch.) Only an independent coupling has the targets of a bank:
under another one x0 given x1 is not the noise that the closed form knows.

All methods see the same batches, noise and times at every step, and the data are not dequantized:
the targets are exact for the law of the points themselves, and noise on the pixels would make that
a law of infinitely many.

References:
  Bertrand et al. (2025), On the Closed-Form of Flow Matching, arXiv 2506.03719, section 4.
"""

import dataclasses
import sys
from collections.abc import Callable, Iterable
from functools import cache, partial
from typing import Any, Literal, NamedTuple

import jax
import optax

import fmjax
from experiments.run import layout
from fmjax.empirical import Bank
from fmjax.paths import Path
from fmjax.types import Array, Key, PyTree

path = fmjax.paths.linear()
adam = cache(optax.adam)  # `loop.fit` compiles once for the trainings of one loss and optimizer


class Method(NamedTuple):
    """How the pairs and the targets of a batch are made.

    Attributes:
      couple: `(key, x0[b, *dims], x1[b, *dims]) -> (x0, x1)`.
      bank: `(key, data, index[b]) -> (bank, axis)`: the bank of every example along axis 0, or one
        for all of them and None.
    """

    couple: Callable[[Key, Array, Array], tuple[Array, Array]]
    bank: Callable[[Key, Array | Bank, Array], tuple[Array | Bank, int | None]]


def alone(_: Key, data: Array | Bank, index: Array) -> tuple[Array, int]:
    """Returns for every example the bank of its own point."""
    return fmjax.empirical.take(data, index)[:, None], 0


def drawn(key: Key, data: Array | Bank, index: Array, *, size: int) -> tuple[Array, None]:
    """Returns one bank for the batch: its points, and others up to `size`."""
    chosen = fmjax.losses.draw_bank(key, index, count(data), size=size)
    return fmjax.empirical.take(data, chosen), None


def whole(_: Key, data: Array | Bank, index: Array) -> tuple[Array | Bank, None]:
    """Returns the whole data set."""
    del index
    return data, None


def count(data: Array | Bank) -> int:
    """Returns the number of points of the data set."""
    return len(data.points) if isinstance(data, Bank) else len(data)


def methods(names: Iterable[str], banks: Iterable[int]) -> dict[str, Method]:
    """Returns methods by their names, in the order of the table above.

    Args:
      names: some of CFM, OT-CFM and EFM-n.
      banks: sizes of the banks of EFM, each of them a method too.
    """
    couplings = fmjax.couplings
    sized = {
        f"EFM-{size}": Method(couplings.independent, partial(drawn, size=size))
        for size in sorted(banks)
    }
    known = {
        "CFM": Method(couplings.independent, alone),
        "OT-CFM": Method(couplings.minibatch_ot, alone),
        **sized,
        "EFM-n": Method(couplings.independent, whole),
    }
    return {name: method for name, method in known.items() if name in {*names, *sized}}


@dataclasses.dataclass(frozen=True)
class Networks:
    """Which networks are trained: every method with every seed, each in a folder of its own."""

    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of network, order and noise, integers >= 0, each with every method."""
    methods: tuple[Literal["CFM", "OT-CFM", "EFM-n"], ...] = ("CFM", "OT-CFM", "EFM-n")
    """Methods without a size: the random target of independent pairs, that of pairs by optimal
    transport within the batch, and the exact velocity of the whole training set."""
    banks: tuple[int, ...] = (128, 256, 1000)
    """Sizes M of the banks of EFM, the batch among them, each a method of its own."""

    def check(self) -> None:
        """Raises ValueError unless the seeds and methods of a run make sense."""
        for name, values in {"seeds": self.seeds, "banks": self.banks}.items():
            if len(set(values)) < len(values) or not all(0 <= value < 2**32 for value in values):
                message = f"{name} must be different integers from 0 to 2**32 - 1, got {values}."
                raise ValueError(message)
        if not self.seeds or not (*self.methods, *self.banks):
            message = "at least one seed, and one method or bank, are needed, got none."
            raise ValueError(message)


def names(networks: Networks) -> list[str]:
    """Names the networks of a run by the folder of each, in the order of their training."""
    chosen = methods(networks.methods, networks.banks)
    return [f"seed_{seed}/{name}" for seed in networks.seeds for name in chosen]


def check_banks(banks: Iterable[int], batch_size: int, n: int) -> None:
    """Raises ValueError for a bank that cannot hold the batch, or more than the data set.

    Args:
      banks: sizes of the banks.
      batch_size: examples per step.
      n: training points.
    """
    wrong = [size for size in banks if not batch_size <= size <= n]
    if wrong:
        message = (
            f"banks must be from batch_size {batch_size} to the {n} training points, got "
            f"{wrong[0]}: a bank holds the batch."
        )
        raise ValueError(message)


def announce(seed: int, name: str) -> None:
    """Says which network comes next, on process 0."""
    if jax.process_index() == 0:
        print(f"seed {seed}, {name}", file=sys.stderr, flush=True)


def make_loss(
    apply: Callable[..., Array], method: Method, *, target: Callable[..., Array]
) -> Callable[[PyTree, Key, dict[str, Any]], Array]:
    """Returns the loss of a batch by a method.

    Args:
      apply: `(params, x, t) -> dx` of one example.
      method: see above.
      target: `(path, bank, x0, x1, t) -> [*dims]`, as `fmjax.losses.efm` takes it.

    Returns:
      `(params, key, batch) -> []` of a batch of `"x"`, the indices `[b]` of its examples, and
      `"data"`, the data set that they are the indices of.
    """

    def example(params: PyTree, bank: Array | Bank, x0: Array, x1: Array, t: Array) -> Array:
        return fmjax.losses.efm(partial(apply, params), path, bank, x0, x1, t, target=target)

    def loss(params: PyTree, key: Key, batch: dict[str, Any]) -> Array:
        index, data = batch["x"], batch["data"]
        key_noise, key_couple, key_time, key_bank = jax.random.split(key, 4)
        x1 = fmjax.empirical.take(data, index)
        x0, x1 = method.couple(key_couple, jax.random.normal(key_noise, x1.shape, x1.dtype), x1)
        t = fmjax.times.stratified(key_time, index.shape)
        bank, axis = method.bank(key_bank, data, index)
        one = jax.vmap(partial(example, params), in_axes=(axis, 0, 0, 0))
        return one(bank, x0, x1, t).mean()

    return loss


def spread(target: Callable[..., Array], mesh: jax.sharding.Mesh) -> Callable[..., Array]:
    """Returns a target for a bank that lies split over a mesh, where `layout.shared` has put it.

    Every device takes its own points, and only sums over them move.

    Args:
      target: as for `make_loss`, with an option `axis_name`, as `fmjax.empirical.refined_velocity`.
      mesh: from `layout.make_mesh`.
    """

    def of_parts(path: Path, bank: Array | Bank, x0: Array, x1: Array, t: Array) -> Array:
        shape = bank.points.shape if isinstance(bank, Bank) else ()
        if not shape or layout.rule_of_points(shape, mesh.shape["model"]) == jax.P():
            return target(path, bank, x0, x1, t)
        one = partial(target, path, axis_name="model")
        specs = (fmjax.empirical.partition(bank, "model"), jax.P(), jax.P(), jax.P())
        kinds = {"axis_names": {"model"}, "in_specs": specs, "out_specs": jax.P()}
        return jax.shard_map(one, mesh=mesh, check_vma=False, **kinds)(bank, x0, x1, t)

    return of_parts


def losses(
    apply: Callable[..., Array], networks: Networks, *, target: Callable[..., Array]
) -> dict[str, Callable[..., Array]]:
    """Returns the loss of every method of a run, to be used for all of its seeds.

    Args:
      apply: as for `make_loss`.
      networks: which are trained.
      target: as for `make_loss`.
    """
    chosen, in_parts = methods(networks.methods, networks.banks), spread(target, layout.make_mesh())
    return {
        name: make_loss(apply, method, target=in_parts if method.bank is whole else target)
        for name, method in chosen.items()
    }
