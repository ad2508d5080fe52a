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
        python -m experiments.fdm.trajectories --fdm-learning-rate 2e-3   (tuned apart)
Time:   12 minutes on two CPU cores.
Expect: the tables of experiments/README.md.
Paper:  for an accelerator, --num-train 32000 --num-test 32000 --channels 32 64 128
        --num-blocks 4 8 8 --batch-size 500 --probe-every 1 --num-steps 128000
        --forecast-steps 128000 --learning-rate 1e-4 --ema-decay 0.9995 --save-every 8000
        --num-samples 32000 --num-conditioned 32000 --sample-steps 1000 --num-bins 128
        --num-likelihood 500 --num-forecasts 500 --eval-batch-size 2000
"""

import dataclasses
import math
import os
from typing import Any

import jax

from experiments.fdm._trajectories import measures, pictures, settings, tables, training
from experiments.run import cli, loop, options
from experiments.run import pictures as run_pictures
from experiments.run.folder import read_metrics, write_json
from fmjax.types import Key, PyTree


@dataclasses.dataclass(frozen=True)
class Config:
    """The options, each with its default: a run on two CPU cores."""

    system: str = "lorenz"
    """lorenz or fitzhugh_nagumo."""
    path: str = "ve"
    """ve, from noise of standard deviation 300 to none, sampled by its SDE; or linear, by Heun's
    method. Forecasts are always on the linear path."""
    data_dir: str | None = None
    """Folder in which simulated trajectories are kept; None simulates them again."""
    workdir: str | None = None
    """Run folder; None is runs/fdm/trajectories/SYSTEM_PATH. The same command continues it."""
    seed: int = 0
    """Seed of the trajectories, the networks and all noise, an integer >= 0."""
    num_train: int = 4000
    """Simulated trajectories to train on; the paper has 32,000."""
    num_test: int = 10000
    """Simulated trajectories to compare with; the paper has 32,000."""
    channels: tuple[int, ...] = (16, 32, 64)
    """Features of each level of the network, multiples of 8; the paper's are 32 64 128."""
    num_blocks: tuple[int, ...] = (1, 1, 1)
    """Residual blocks of each level, down and up again; the paper has 4 8 8."""
    batch_size: int = 128
    """Trajectories per step, a multiple of the number of devices; the paper's is 500."""
    num_steps: int = 3000
    """Training steps of each method; the paper has 128,000."""
    learning_rate: float = 3e-3
    """First learning rate of Adam, of FM and of FDM; the paper's is 1e-4 for FM."""
    fdm_learning_rate: float | None = None
    """Another one for FDM; None is the same. The paper tuned it for FDM alone."""
    lr_decay: float = 0.995
    """Factor of the learning rate every --lr-every steps."""
    lr_every: int = 512
    """Steps between two decays of the learning rate."""
    ema_decay: float = 0.995
    """Decay of the moving average of the parameters, per step; the paper's is 0.9995."""
    weight: float = 1.0
    """Weight of the divergence penalty of FDM, at least 0."""
    matching: str = "trace"
    """What the penalty squares: trace, by one Hutchinson probe; product, of two probes, unbiased;
    or jacobian, all derivatives."""
    probe_every: int = 4
    """Of every k-th trajectory of a batch the divergence is probed, with k times the weight: the
    same mean at a fraction of the time; the paper probes all, 1."""
    save_every: int = 500
    """Steps between checkpoints and between evaluations of the held-out losses."""
    forecast_steps: int = 1000
    """Training steps of the forecasting networks; 0 for no forecasts."""
    num_samples: int = 2000
    """Trajectories sampled by each method."""
    num_conditioned: int = 500
    """Trajectories sampled given the event."""
    sample_steps: int = 100
    """Steps of the sampler; the paper has 1000."""
    jitter: float = 1e-3
    """Error to expect of a network's posterior covariance when it is conditioned on the event, as
    a share of the noise's variance, at least 0; 0.1 stops draws of a badly trained network from
    running away."""
    num_bins: int = 32
    """Bins of the histograms of the statistic; the paper has 128, for 32,000 samples."""
    num_likelihood: int = 64
    """Held-out trajectories whose likelihood is measured; 0 for none."""
    tolerance: float = 1e-5
    """Relative and absolute tolerance of a step of the likelihood's adaptive solver."""
    num_forecasts: int = 500
    """Held-out trajectories that are forecast."""
    eval_batch_size: int = 250
    """Trajectories evaluated at a time; memory grows with it."""


# What no training depends on: the same networks may be measured again with other values.
EVALUATION = (
    "num_test",
    "num_samples",
    "num_conditioned",
    "sample_steps",
    "jitter",
    "num_bins",
    "num_likelihood",
    "tolerance",
    "num_forecasts",
    "eval_batch_size",
)
_HELD_OUT = 512  # trajectories of the held-out losses


def methods(config: Config) -> dict[str, dict[str, float]]:
    """Returns what distinguishes the methods: the weight and the learning rate of each."""
    tuned = config.fdm_learning_rate
    rate = config.learning_rate if tuned is None else tuned
    return {
        "fm": {"weight": 0.0, "learning_rate": config.learning_rate},
        "fdm": {"weight": config.weight, "learning_rate": rate},
    }


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
    return {
        name: training.fit(
            config, task, trajectories, folder / name, evaluate, num_steps=num_steps, **options
        )
        for name, options in methods(config).items()
    }


def evaluate(
    config: Config,
    tasks: dict[str, training.Task],
    networks: dict[str, dict[str, PyTree]],
    trajectories: training.Trajectories,
    key: Key,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns the numbers of the run, and the arrays its figures are drawn from."""
    keys = jax.random.split(key, 3)
    results, arrays = tables.sample(config, tasks["free"], networks["free"], trajectories, keys[0])
    if config.num_likelihood:
        results["likelihood"] = tables.likelihood(
            config, tasks["free"], networks["free"], trajectories, keys[1]
        )
    if config.forecast_steps:
        results["forecasts"], more = tables.forecast(
            config, tasks["forecast"], networks["forecast"], trajectories, keys[2]
        )
        arrays |= more
    return results, arrays


def _check(config: Config) -> None:
    """Raises ValueError for options that would only fail after the training."""
    choices = (training.SYSTEMS, settings.PATHS, training.MATCHINGS)
    for name, table in zip(("system", "path", "matching"), choices, strict=True):
        if getattr(config, name) not in table:
            message = f"{name} must be one of {', '.join(table)}, got {getattr(config, name)!r}."
            raise ValueError(message)
    positive = "num_steps sample_steps save_every lr_every eval_batch_size num_forecasts".split()
    bounds = {
        **dict.fromkeys(positive, (1, math.inf)),
        "seed": (0, 2**32 - 1),
        "num_train": (2, math.inf),
        "num_test": (1, math.inf),
        "batch_size": (1, config.num_train),
        "probe_every": (1, config.batch_size),
        "num_samples": (2, math.inf),
        "num_conditioned": (2, math.inf),
        "num_bins": (2, math.inf),
        "num_likelihood": (0, math.inf),
        "forecast_steps": (0, math.inf),
        "learning_rate": (1e-12, 1e12),
        "lr_decay": (1e-12, 1),
        "ema_decay": (0, 1 - 1e-9),
        "weight": (0, 1e12),
        "jitter": (0, 1e12),
        "tolerance": (1e-12, 0.5),
    }
    options.check_bounds(config, bounds)
    if config.fdm_learning_rate is not None:
        options.check_bounds(config, {"fdm_learning_rate": (1e-12, 1e12)})
    if config.num_likelihood == 1:
        message = "num_likelihood must be 0 or at least 2, got 1: one has no standard error."
        raise ValueError(message)


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
    _check(config)
    trajectories = training.load(config)
    _check_event(trajectories)
    folder = config.workdir or f"runs/fdm/trajectories/{config.system}_{config.path}"
    facts = {"trajectories": training.fingerprint(trajectories)}
    folder = loop.open_run(folder, config, evaluation=EVALUATION, **facts)
    key_loss, key_evaluate = (
        jax.random.fold_in(jax.random.key(config.seed), k) for k in (1000, 1001)
    )
    plans = {
        "free": (config.path, training.nothing, folder, config.num_steps),
        "forecast": ("linear", training.first_states, folder / "forecast", config.forecast_steps),
    }
    tasks, networks = {}, {}
    for name, (path, known, place, num_steps) in plans.items():
        if num_steps:
            task = tasks[name] = training.task(config, trajectories, path, known)
            networks[name] = train(config, task, trajectories, place, key_loss, num_steps)
    if jax.process_index() != 0:
        return  # one process evaluates and writes
    results, arrays = evaluate(config, tasks, networks, trajectories, key_evaluate)
    metrics = {name: read_metrics(folder / name, "flow") for name in networks["free"]}
    kept = ("step", "flow", "divergence")
    results["held_out"] = {n: {k: lines[-1][k] for k in kept} for n, lines in metrics.items()}
    write_json(folder / "results.json", results)
    with run_pictures.style():
        figures = pictures.all_of(arrays, metrics, trajectories.system)
        run_pictures.save(folder / "figures", figures)
    print(tables.report(results, folder))


if __name__ == "__main__":
    cli.run(main, Config)
