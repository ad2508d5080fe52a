"""When does matching the divergence help? Equal steps, equal time, exact targets (FDM).

Paper: Improving Flow Matching by Aligning Flow Divergence, arXiv 2602.00869. On mixtures of 1, 2,
16 and 64 dimensions, known whole, networks with conditioned velocities are trained to the end of a
cosine schedule for several numbers of steps. Flow matching (FM) is compared with the penalty on the
divergence or on the Jacobian (FDM), and with regression on the exact field with and without the
same penalties, which tells the gain of the divergence from the noise of a pair. The weight of every
penalty is the best of several by the Kullback-Leibler divergence of networks of other seeds.

Run:    python -m experiments.fdm.convergence
        python -m experiments.fdm.convergence --laws line --budgets 500 2000
Time:   1 hour on one CPU core with --laws line plane; hours for all laws; a training that has ended
        is not repeated.
Expect: the paper claims that FDM is nearer to the data than FM; it has no table of this kind.
"""

import dataclasses
import math
from functools import partial
from typing import Any

import jax
import numpy as np

from experiments.fdm import _laws
from experiments.fdm._convergence import pictures, tables
from experiments.fdm._convergence.methods import METHODS, jacobian
from experiments.fdm._convergence.training import (
    LAWS,
    STRETCHES,
    Cell,
    exact,
    measured,
    network,
)
from experiments.run import arrays, cli, loop, options
from experiments.run import pictures as run_pictures
from experiments.run.folder import read_json, remembered, write_json
from experiments.run.options import Free, Place
from experiments.run.saved import Network


@dataclasses.dataclass(frozen=True)
class Training:
    """The networks, residual perceptrons of two blocks, and their training by Adam."""

    batch_size: int = 256
    """Examples per step, drawn anew for every step."""
    learning_rate: float = 3e-3
    """First learning rate of Adam; it falls to 0 by a cosine."""

    def check(self) -> None:
        """Raises ValueError for numbers out of their bounds."""
        options.check_bounds(self, {"batch_size": (1, 1e9), "learning_rate": (1e-12, 1e12)})


@dataclasses.dataclass(frozen=True)
class Config:
    """The options, each with its default."""

    workdir: Place = None
    """Run folder; None is runs/fdm/convergence. The same command continues it."""
    laws: Free[tuple[str, ...]] = ("line", "plane", "space", "far")
    """Laws of the data, of line, plane, space and far: 1, 2, 16 and 64 dimensions."""
    budgets: Free[tuple[int, ...]] = (500, 2000, 8000)
    """Numbers of steps, multiples of 10; weights and widths are compared at the middle one."""
    widths: Free[tuple[int, ...]] = (16, 64, 128)
    """Widths of the networks; weights and numbers of steps are compared at the middle one."""
    weights: Free[tuple[float, ...]] = (0.01, 0.1, 1.0, 10.0)
    """Weights of the penalties, of which the best is taken."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of network and data, trained side by side."""
    tuning_seeds: tuple[int, ...] = (100, 101, 102)
    """Seeds of the networks by which the weights are chosen."""
    training: Training = Training()
    num_points: int = 2048
    """Points of every measured mean."""

    def check(self) -> None:
        """Raises ValueError for options that would only fail after the training."""
        options.check_among(self, "laws", LAWS)
        options.check_different(self, "seeds", "tuning_seeds")
        if set(self.seeds) & set(self.tuning_seeds):
            message = f"seeds and tuning_seeds must differ, got {self.seeds}, {self.tuning_seeds}."
            raise ValueError(message)
        for name, least in (("budgets", STRETCHES), ("widths", 1), ("weights", 1e-12)):
            values = getattr(self, name)
            if list(values) != sorted(set(values)) or not values or not values[0] >= least:
                message = f"{name} must increase and be at least {least}, got {values}."
                raise ValueError(message)
        if not math.isfinite(self.weights[-1]) or any(n % STRETCHES for n in self.budgets):
            message = (
                f"weights must be finite and budgets multiples of {STRETCHES}, got "
                f"{self.weights} and {self.budgets}."
            )
            raise ValueError(message)
        options.check_parts(self)
        options.check_bounds(self, {"num_points": (2, 1e9)})


def middle(values: tuple) -> Any:
    """Returns the middle one of some values."""
    return values[len(values) // 2]


def cell(config: Config, law: str, method: str, **others: Any) -> Cell:
    """Returns a training of the middle width and number of steps, but for what is given."""
    common = {
        "width": middle(config.widths),
        "num_steps": middle(config.budgets),
        "weight": 0.0,
        "seeds": config.seeds,
    }
    fixed = dataclasses.asdict(config.training) | {"num_points": config.num_points}
    return Cell(law, method, **(common | others), **fixed)


def place(folder: Any, asked: Cell) -> Any:
    """Returns the file of a training, without its ending."""
    method = asked.method.replace(", ", "_").replace(" ", "_")
    name = f"width_{asked.width}_steps_{asked.num_steps}_weight_{asked.weight:g}"
    return folder / asked.law / method / f"{name}_seed_{asked.seeds[0]}"


def result(folder: Any, asked: Cell) -> dict[str, Any]:
    """Returns what a training gives, made only if its file is not there."""
    file = place(folder, asked)

    def make() -> dict[str, Any]:
        if jax.process_index() == 0:
            print(f"training {file.relative_to(folder)}", flush=True)
        found, params = measured(asked)
        arrays.write(f"{file}.npz", params)
        return found

    return remembered(f"{file}.json", asked._asdict(), make)


def tuned(config: Config, folder: Any, law: str, method: str) -> dict[str, Any]:
    """Returns KL(data, model) by weight, of networks of other seeds, and the best weight."""
    if METHODS[method].matching is None:
        return {"weight": 0.0, "kl": {}}
    make = partial(cell, config, law, method, seeds=config.tuning_seeds)
    found = {w: result(folder, make(weight=w))["kl"] for w in config.weights}
    best = min(found, key=lambda w: np.mean(found[w]))
    return {"weight": best, "kl": {f"{w:g}": values for w, values in found.items()}}


def compared(config: Config, folder: Any, law: str) -> dict[str, Any]:
    """Returns everything of one law: the weights, results by steps and by width, and the limit."""
    size = LAWS[law].means.shape[1]
    # In one dimension the Jacobian is the divergence.
    names = [name for name, how in METHODS.items() if size > 1 or how.matching is not jacobian]
    weights = {name: tuned(config, folder, law, name) for name in names}
    budgets, widths = {}, {}
    for name in names:
        make = partial(cell, config, law, name, weight=weights[name]["weight"])
        budgets[name] = {f"{n}": result(folder, make(num_steps=n)) for n in config.budgets}
        widths[name] = {f"{w}": result(folder, make(width=w)) for w in config.widths}
    asked = {"num_points": config.num_points}
    itself = remembered(folder / law / "exact.json", asked, lambda: exact(law, **asked))
    return {"weights": weights, "budgets": budgets, "widths": widths, "exact": itself}


def restore(config: Config, folder: Any) -> dict[str, Network]:
    """Tells how the networks of a run are read, by law, method, number of steps and seed."""
    found = read_json(folder / "results.json")

    def one(asked: Cell, index: int) -> Network:
        read = partial(arrays.read, f"{place(folder, asked)}.npz")
        apply, mixture = network(asked.law, asked.width), LAWS[asked.law]
        return Network(apply, read, _laws.path, lambda: mixture, index=index)

    return {
        f"{law}/{method}/steps_{num_steps}/seed_{seed}": one(
            cell(config, law, method, num_steps=num_steps, weight=row["weight"]), index
        )
        for law in config.laws
        for method, row in found[law]["weights"].items()
        for num_steps in config.budgets
        for index, seed in enumerate(config.seeds)
    }


def main(config: Config) -> None:
    """Trains and measures what is not there yet, draws what it shows, prints the tables."""
    config.check()
    folder = loop.open_run(config.workdir or "runs/fdm/convergence", config)
    found = {law: compared(config, folder, law) for law in config.laws}
    if jax.process_index() != 0:
        return  # every process has computed the same, one writes
    write_json(folder / "results.json", found)
    with run_pictures.style():
        run_pictures.save(folder / "figures", pictures.figures(found))
    for law, rows in found.items():
        print("\n" + tables.table(law, rows))


if __name__ == "__main__":
    cli.run(main, Config, metrics=False)
