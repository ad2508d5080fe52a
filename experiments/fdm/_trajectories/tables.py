"""The tables of the trajectory experiment: what is drawn, measured and reported of each method.

Every function takes the parameters of all methods by name, so that each method is measured with
the same noise by the same compiled program.
"""

import functools
import os
from typing import Any

import jax
import numpy as np

from experiments.fdm._trajectories import measures, pictures, training
from experiments.fdm._trajectories.options import Measures
from experiments.run import numbers as run_numbers
from fmjax.types import Key, PyTree


def sample(
    asked: Measures,
    task: training.Task,
    networks: dict[str, PyTree],
    trajectories: training.Trajectories,
    key: Key,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns the tables and the arrays of trajectories, "free" of the event and "given" it.

    In the tables "data" are as many training trajectories: the distance that a perfect sampler
    would have. In the arrays they are all held-out ones.
    """
    event, keys = trajectories.system.event, jax.random.split(key)
    test, train = (measures.statistic(event, x) for x in (trajectories.test, trajectories.train))
    tables, arrays = {}, {}
    for part, given, count in (
        ("free", None, asked.num_samples),
        ("given", event, asked.num_conditioned),
    ):
        drawn = _draw(asked, task, networks, given, keys, (count, *trajectories.test.shape[1:]))
        values = {name: measures.statistic(event, x) for name, x in drawn.items()}
        like, held = (c[(c > 0) | (given is None)] for c in (train, test))
        tables[part] = measures.compare(
            {"data": like[:count]} | values,
            held,
            num_bins=asked.num_bins,
            happened="event" if given is None else "inside",
        )
        shown = trajectories.test[(test > 0) | (given is None)]
        arrays[part] = {"data": shown} | drawn
        arrays[f"statistic_{part}"] = {"data": held} | values
    return tables, arrays


def _draw(
    asked: Measures,
    task: training.Task,
    networks: dict[str, PyTree],
    given: measures.Event | None,
    keys: Key,
    shape: tuple[int, ...],
) -> dict[str, np.ndarray]:
    """Returns the samples of each method, from the same noise."""
    condition = functools.partial(measures.given, given, asked.jitter) if given else None
    run = measures.compiled(functools.partial(measures.sample, task, condition, asked.sample_steps))
    noise, label = jax.random.normal(keys[0], shape), "given the event" if given else "free"
    return {
        name: run(
            params, keys[1], noise, label=f"samples of {name}, {label}", size=asked.eval_batch_size
        )
        for name, params in networks.items()
    }


def forecast(
    asked: Measures,
    task: training.Task,
    networks: dict[str, PyTree],
    trajectories: training.Trajectories,
    key: Key,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns the relative errors of forecasts of each method, and the forecasts (part 4)."""
    x1 = trajectories.test[: asked.num_forecasts]
    one = functools.partial(measures.forecast, task, asked.sample_steps)
    run = measures.compiled(one)
    key_noise, key_draw = jax.random.split(key)
    noise = jax.random.normal(key_noise, x1.shape)
    drawn = {"data": x1} | {
        name: run(
            params, key_draw, noise, x1, label=f"forecasts of {name}", size=asked.eval_batch_size
        )
        for name, params in networks.items()
    }
    errors = {n: measures.relative_error(x1, drawn[n]) for n in networks}
    # What knowing nothing gives: the held-out trajectory before it.
    errors["other"] = measures.relative_error(x1, np.roll(x1, 1, axis=0))
    table = {
        name: {"median": np.median(error, axis=0), **run_numbers.mean(error.mean(1))}
        for name, error in errors.items()
    }
    return table, {"forecasts": drawn, "errors": errors}


def likelihood(
    asked: Measures,
    task: training.Task,
    networks: dict[str, PyTree],
    trajectories: training.Trajectories,
    key: Key,
) -> dict[str, Any]:
    """Returns the negative log-likelihood per dimension of each method, in nats (part 3)."""
    x1 = trajectories.test[: asked.num_likelihood]
    one = functools.partial(measures.nats_per_dim, task, asked.tolerance)
    run = measures.compiled(one)
    options = {"size": min(asked.eval_batch_size, len(x1))}
    nats = {
        name: run(params, key, x1, label=f"likelihood of {name}", **options)
        for name, params in networks.items()
    }
    difference = run_numbers.mean(nats["fdm"] - nats["fm"])
    return {n: run_numbers.mean(v) for n, v in nats.items()} | {"fdm - fm": difference}


def report(results: dict[str, Any], folder: os.PathLike) -> str:
    """Returns the summary that is printed at the end of a run."""
    lines = []
    titles = {"free": ("statistic C", "event"), "given": ("given the event", "inside")}
    for part, (title, happened) in titles.items():
        lines.append(f"{title:18s} TV      KL      KS      {happened}")
        lines += [_row(name, row, row[happened]) for name, row in results[part].items()]
    for part, title in (
        ("likelihood", "negative log-likelihood, nats per dimension"),
        ("forecasts", "relative error of forecasts, mean over steps"),
    ):
        rows = results.get(part, {}).items()
        values = [f"{n} {r['mean']:.4f} ± {r['standard_error']:.4f}" for n, r in rows]
        lines += [f"{title}: {', '.join(values)}"] if values else []
    lines.append(f"everything is in {folder}: config.json, fm/, fdm/, results.json, figures/")
    return "\n".join(lines)


def _row(name: str, row: dict[str, Any], happened: dict[str, float]) -> str:
    """Returns one line of a table."""
    numbers = [row[k] for k in ("total_variation", "kl", "kolmogorov_smirnov")]
    return (
        f" {pictures.LABELS[name]:14s} "
        + " ".join(f"{number:7.4f}" for number in numbers)
        + f"  {happened['share']:.4f} ± {happened['standard_error']:.4f}   ({row['num_samples']})"
    )
