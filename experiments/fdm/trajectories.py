"""Flow and divergence matching on trajectories of chaotic systems, and their rare events.

Paper: Improving Flow Matching by Aligning Flow Divergence, arXiv 2602.00869, section 5; the systems
and the events are those of Finzi et al., arXiv 2306.07526. The same network is trained by flow
matching (FM) and with the divergence penalty (FDM), from the same start, with the same batches and
the same noise; then

1. the law of a statistic C of sampled trajectories against held-out ones, and how often the event
   C > 0 happens;
2. the same given the event, by conditioning the trained velocity, without training again;
3. the negative log-likelihood per dimension, in nats;
4. forecasts from the first three states, by a second pair of networks on the linear path.

Run:    python -m experiments.fdm.trajectories                         (Lorenz)
        python -m experiments.fdm.trajectories --system fitzhugh_nagumo
        python -m experiments.fdm.trajectories --system mine.npy --num-train 400 --num-test 100
        python -m experiments.fdm.trajectories --fdm-learning-rate 2e-3   (tuned apart)
Time:   6 minutes on two CPU cores.
Expect: the tables of experiments/fdm/README.md.
Paper:  for an accelerator, --num-train 32000 --num-test 32000 --channels 32 64 128
        --num-blocks 4 8 8 --batch-size 500 --probe-every 1 --num-steps 128000
        --forecast-steps 128000 --learning-rate 1e-4 --ema-decay 0.9995 --save-every 8000
        --num-samples 32000 --num-conditioned 32000 --sample-steps 1000 --num-bins 128
        --num-likelihood 500 --num-forecasts 500 --eval-batch-size 2000
"""

import dataclasses
import os
from functools import partial
from typing import Any

import jax

from experiments.fdm._trajectories import measures, pictures, settings, tables, training
from experiments.fdm._trajectories.options import Measures, Source, Training
from experiments.run import arrays as run_arrays
from experiments.run import checkpoints, cli, loop, options, points
from experiments.run import pictures as run_pictures
from experiments.run.folder import check_facts, read_metrics, write_json
from experiments.run.options import Free, Place
from experiments.run.saved import Network
from fmjax.types import Key, PyTree


@dataclasses.dataclass(frozen=True)
class Config:
    """The options, each with its default: a run on two CPU cores."""

    path: str = "ve"
    """ve, from noise of standard deviation 300 to none, sampled by its SDE; or linear, by Heun's
    method. Forecasts are always on the linear path."""
    workdir: Place = None
    """Run folder; None is runs/fdm/trajectories/SYSTEM_PATH. The same command continues it."""
    seed: int = 0
    """Seed of the trajectories, the networks and all noise, an integer >= 0."""
    source: Source = Source()
    training: Training = Training()
    measures: Free[Measures] = Measures()

    def check(self) -> None:
        """Raises ValueError for options that would only fail after the training."""
        for name, value, table in (
            ("system", self.source.system, training.SYSTEMS),
            ("path", self.path, settings.PATHS),
            ("matching", self.training.matching, training.MATCHINGS),
        ):
            if value not in table and not (name == "system" and points.is_own(value)):
                more = ", or a path ending in .npy or .csv" if name == "system" else ""
                message = f"{name} must be one of {', '.join(table)}{more}, got {value!r}."
                raise ValueError(message)
        options.check_parts(self)
        options.check_bounds(self, {"seed": (0, 2**32 - 1)})
        options.check_bounds(self.training, {"batch_size": (1, self.source.num_train)})


_HELD_OUT = 512  # trajectories of the held-out losses


def methods(asked: Training) -> dict[str, dict[str, float]]:
    """Returns what distinguishes the methods: the weight and the learning rate of each."""
    tuned = asked.fdm_learning_rate
    rate = asked.learning_rate if tuned is None else tuned
    return {
        "fm": {"weight": 0.0, "learning_rate": asked.learning_rate},
        "fdm": {"weight": asked.weight, "learning_rate": rate},
    }


def plans(config: Config, folder: Any) -> dict[str, tuple]:
    """Returns path, condition, folder and steps of the free networks and of those that forecast."""
    steps = config.training.forecast_steps
    return {
        "free": (config.path, training.nothing, folder, config.training.num_steps),
        "forecast": ("linear", training.first_states, folder / "forecast", steps),
    }


def restore(config: Config, folder: Any) -> dict[str, Network]:
    """Tells how the networks of a run are read; a velocity that forecasts takes a `context`."""
    trajectories, networks = training.load(config.source, config.seed), {}
    check_facts(folder, trajectories=training.fingerprint(trajectories))
    for path, known, place, num_steps in plans(config, folder).values():
        if num_steps:
            task = training.task(config.training, config.seed, trajectories, path, known)
            for name in methods(config.training):
                label = name if place == folder else f"{place.name}/{name}"
                read = partial(checkpoints.averaged, place / name, task.params, num_steps)
                networks[label] = Network(task.field, read, task.setting.path, lambda: trajectories)
    return networks


def train(
    config: Config,
    task: training.Task,
    trajectories: training.Trajectories,
    folder: os.PathLike,
    key: Key,
    num_steps: int,
) -> dict[str, PyTree]:
    """Returns the trained parameters of each method, from folder/NAME."""
    test = trajectories.test[:_HELD_OUT]
    evaluate = training.held_out(task, test, key)
    plan = {"num_steps": num_steps, "seed": config.seed}
    return {
        name: training.fit(
            config.training, task, trajectories, folder / name, evaluate, **method, **plan
        )
        for name, method in methods(config.training).items()
    }


def evaluate(
    config: Config,
    tasks: dict[str, training.Task],
    networks: dict[str, dict[str, PyTree]],
    trajectories: training.Trajectories,
    key: Key,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns the numbers of the run, and the arrays its figures are drawn from."""
    keys, asked = jax.random.split(key, 3), config.measures
    results, arrays = tables.sample(asked, tasks["free"], networks["free"], trajectories, keys[0])
    if asked.num_likelihood:
        results["likelihood"] = tables.likelihood(
            asked, tasks["free"], networks["free"], trajectories, keys[1]
        )
    if config.training.forecast_steps:
        results["forecasts"], more = tables.forecast(
            asked, tasks["forecast"], networks["forecast"], trajectories, keys[2]
        )
        arrays |= more
    return results, arrays


def _check_event(trajectories: training.Trajectories) -> None:
    """Raises ValueError if the event is too rare among the trajectories to be compared with."""
    for name in ("train", "test"):
        c = measures.statistic(trajectories.system.event, getattr(trajectories, name))
        count = int((c > 0).sum())
        if count < 2:
            message = (
                f"{count} of {len(c)} trajectories are in the event of {trajectories.system.name}, "
                f"and at least 2 are needed to compare with: give a larger num_{name}."
            )
            raise ValueError(message)


def main(config: Config) -> None:
    """Trains or continues all networks, evaluates, and leaves everything under the run folder."""
    config.check()
    trajectories = training.load(config.source, config.seed)
    _check_event(trajectories)
    system = trajectories.system.name
    folder = config.workdir or f"runs/fdm/trajectories/{system}_{config.path}"
    facts = {"trajectories": training.fingerprint(trajectories)}
    folder = loop.open_run(folder, config, **facts)
    key_loss, key_evaluate = (
        jax.random.fold_in(jax.random.key(config.seed), k) for k in (1000, 1001)
    )
    tasks, networks = {}, {}
    for name, (path, known, place, num_steps) in plans(config, folder).items():
        if num_steps:
            task = tasks[name] = training.task(
                config.training, config.seed, trajectories, path, known
            )
            networks[name] = train(config, task, trajectories, place, key_loss, num_steps)
    results, arrays = evaluate(config, tasks, networks, trajectories, key_evaluate)
    if jax.process_index() != 0:
        return  # one process writes
    metrics = {name: read_metrics(folder / name, "flow") for name in networks["free"]}
    kept = ("step", "flow", "divergence")
    results["held_out"] = {n: {k: lines[-1][k] for k in kept} for n, lines in metrics.items()}
    write_json(folder / "results.json", results)
    run_arrays.write(folder / "arrays.npz", arrays)
    with run_pictures.style():
        figures = pictures.figures(arrays, metrics, trajectories.system)
        run_pictures.save(folder / "figures", figures)
    print(tables.report(results, folder))


if __name__ == "__main__":
    cli.run(main, Config)
