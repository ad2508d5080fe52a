"""Linear inverse problems with the exact covariance of the posterior, where the truth is known.

Beside the paper Divergence is Uncertainty, arXiv 2605.00941: the covariance that a velocity holds
makes of it the velocity given a noisy linear measurement (`fmjax.events.given_linear`). Denoising,
inpainting and superresolution, on two laws whose velocity and whose posterior given y are closed
forms, so that nothing but the guidance can err:

1. the Gaussian with the moments of the images, for which the guidance is exact;
2. a kernel density of the images, whose posterior given the state has many peaks.

Draws by the flow given y, by the covariance itself, by a multiple of the identity in its place (in
the inverse alone, or everywhere), and without a measurement, beside draws of the exact posterior:
how far their mean is from the exact one, PSNR, whether their spread is their error, and whether
their intervals cover the truth as often as they say.

Run:    python -m experiments.uncertainty.measurements                  (digits, no network)
        python -m experiments.uncertainty.measurements --num-truths 100 --num-draws 39
Time:   6 minutes for the digits on two CPU cores.
Expect: of the Gaussian the covariance draws from the exact posterior, and nothing else does. Of the
        images all are approximations: the covariance errs less than the identity in both places,
        and no less than the identity in the inverse. Coverage hardly tells them apart.
"""

import dataclasses
import functools
import math
from typing import Any

import jax
import numpy as np

import fmjax
from experiments.images import data, training
from experiments.images.options import Source
from experiments.run import arrays as run_arrays
from experiments.run import batches, cli, loop, options
from experiments.run import pictures as run_pictures
from experiments.run.folder import write_json
from experiments.run.options import Free, Place
from experiments.uncertainty._measurements import laws, measures, pictures, tables
from experiments.uncertainty._measurements.laws import Law
from experiments.uncertainty._measurements.problems import GUIDES, NAMES, Guide, Problem, problems
from fmjax.types import Array, Velocity

path = training.path


@dataclasses.dataclass(frozen=True)
class Given:
    """The laws of the data, and the noise of the measurements."""

    num_centers: int = 500
    """Training images whose kernel density is a law, at least 2."""
    width: float = 0.25
    """Standard deviation of the smoothing noise of both laws, in the units of x in [-1, 1]."""
    much_noise: float = 0.5
    """Standard deviation of the noise of denoising, in the same units."""
    little_noise: float = 0.1
    """Standard deviation of the noise of inpainting and superresolution."""

    def check(self) -> None:
        """Raises ValueError for numbers out of their bounds."""
        bounds = {name: (1e-3, 1e3) for name in ("width", "much_noise", "little_noise")}
        options.check_bounds(self, bounds | {"num_centers": (2, math.inf)})


@dataclasses.dataclass(frozen=True)
class Measures:
    """What is drawn."""

    problems: tuple[str, ...] = NAMES
    """Any of denoising, inpainting of the lower half, and superresolution by two."""
    num_truths: int = 32
    """Truths of each law, at least 2, each measured once in every problem."""
    num_draws: int = 19
    """Draws for each measurement, at least 3; with 19, 39, ... intervals of 90 % are exact."""
    solver_steps: int = 40
    """Steps of Heun's method from noise to data."""
    eval_batch_size: int = 76
    """Draws at a time; memory grows with it."""

    def check(self) -> None:
        """Raises ValueError for numbers out of their bounds."""
        options.check_among(self, "problems", NAMES)
        bounds = {"num_truths": (2, math.inf), "num_draws": (3, math.inf)}
        bounds |= {"solver_steps": (1, math.inf), "eval_batch_size": (1, math.inf)}
        options.check_bounds(self, bounds)


@dataclasses.dataclass(frozen=True)
class Config:
    """The options, each with its default: a run on the digits in six minutes."""

    workdir: Place = None
    """Run folder; None is runs/uncertainty/measurements/DATASET."""
    seed: int = 0
    """Seed of the split, the truths, the measurements and all draws, an integer >= 0."""
    source: Source = Source()
    given: Given = Given()
    measures: Free[Measures] = Measures()

    def check(self) -> None:
        """Raises ValueError for options that would fail later."""
        options.check_parts(self)
        options.check_bounds(self, {"seed": (0, 2**32 - 1)})


def flow(
    velocity: Velocity,
    guide: Guide,
    problem: Problem,
    variance: float,
    steps: int,
    x0: Array,
    y: Array,
) -> Array:
    """Returns the end of the flow given a measurement, from one noise.

    Args:
      velocity: of the law.
      guide: what makes of it the velocity given y.
      problem: how y was measured.
      variance: of an entry of the data, for the substitute of the covariance.
      steps: of Heun's method.
      x0: `[d]`, noise.
      y: `[m]`, the measurement.
    """
    field = guide(problem, y, velocity, path, variance)
    return fmjax.samplers.fixed(field, x0, num_steps=steps)


def measure(
    law: Law, problem: Problem, asked: Measures, rng: np.random.Generator
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Returns the scores of every method on one problem, and the arrays of the figures.

    Args:
      law: of the data.
      problem: how they are measured.
      asked: what to draw.
      rng: for the truths, the measurements and the draws.
    """
    count, k = asked.num_truths, asked.num_draws
    truth = laws.draw(law, rng, count)
    clean = truth @ problem.matrix.T
    y = clean + problem.noise_std * rng.normal(size=clean.shape)
    found = [laws.posterior(law, problem, one) for one in y]
    mean, variance = map(np.stack, zip(*map(laws.moments, found), strict=True))
    noise = np.float32(rng.normal(size=(count * k, truth.shape[1])))
    of_entry = float(np.trace(law.covariance) + law.centers.var(axis=0).sum()) / truth.shape[1]
    draws = {"posterior": np.stack([laws.sample(one, rng, k) for one in found])}
    for name, guide in GUIDES.items():
        bound = (guide, problem, of_entry, asked.solver_steps)
        one = functools.partial(_flow, bound)
        many = batches.batched(laws.velocity, laws.parameters(law), one)
        label = f"{law.title}, {problem.title}, {name}"
        repeated = np.repeat(np.float32(y), k, axis=0)
        ends = batches.in_batches(many, noise, repeated, size=asked.eval_batch_size, label=label)
        draws[name] = ends.reshape(count, k, -1)
    scores = {name: measures.scores(truth, x, mean, variance) for name, x in draws.items()}
    results = {"methods": scores, "best_psnr": measures.best(truth, mean)}
    return results, {"truth": truth, "y": y, "mean": mean, "draws": draws}


def _flow(bound: tuple[Any, ...], velocity: Velocity, x0: Array, y: Array) -> Array:
    return flow(velocity, *bound, x0, y)


def main(config: Config) -> None:
    """Draws, measures, and leaves everything under the run folder."""
    config.check()
    name, images = training.load(config.source, config.seed)
    given, shape = config.given, images.train.shape[1:]
    options.check_bounds(given, {"num_centers": (2, len(images.train))})
    folder = config.workdir or f"runs/uncertainty/measurements/{name}"
    folder = loop.open_run(folder, config, data=data.fingerprint(images))
    x = data.centers(images.train, images.levels).reshape(len(images.train), -1)
    results, arrays = {}, {}
    every = problems(shape, much_noise=given.much_noise, little_noise=given.little_noise)
    every = {key: every[key] for key in NAMES if key in config.measures.problems}
    with jax.default_matmul_precision("highest"):
        for key, law in laws.laws(x, num_centers=given.num_centers, width=given.width).items():
            rng = np.random.default_rng([config.seed, 2])
            made = {k: measure(law, problem, config.measures, rng) for k, problem in every.items()}
            results[key] = {k: numbers for k, (numbers, _) in made.items()}
            arrays[key] = {k: drawn for k, (_, drawn) in made.items()}
    if jax.process_index() != 0:
        return  # one process writes
    nominal = measures.nominal(config.measures.num_draws)
    write_json(folder / "results.json", {"nominal_coverage": nominal, "laws": results})
    run_arrays.write(folder / "arrays.npz", arrays)
    with run_pictures.style():
        made = pictures.figures(results, arrays, every, shape, nominal)
        run_pictures.save(folder / "figures", made)
    print(tables.report(results, nominal))
    print(f"everything is in {folder}: config.json, results.json, arrays.npz, figures/")


if __name__ == "__main__":
    cli.run(main, Config)
