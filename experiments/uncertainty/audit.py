"""An audit of any velocity: calibration, symmetry, likelihood, copies, and what cannot be told.

Paper: Divergence is Uncertainty, arXiv 2605.00941, for any pretrained model (its abstract), with
the checks that its identity needs. A velocity of ours or of yours is asked, on examples that it
has not seen:

1. whether U = tr Cov[x1 | x_t] is the error of the posterior mean on average, E[error] / E[U] = 1,
   and how U goes with the error from example to example, beside the most that it can;
2. how far its Jacobian is from symmetric, how negative its posterior covariance is, and from which
   time on, towards the noise, both drown the covariance;
3. the log-likelihood, and whether samples repeat training examples;
4. maps, of images.

Every question has an answer in words. What the model cannot answer is said, with the reason: a
guided velocity and one trained on coupled pairs have no posterior in their Jacobian.

Run:    python -m experiments.uncertainty.audit --run runs/uncertainty/maps/digits
        python -m experiments.uncertainty.audit --model mymodel:velocity --dataset digits
        python -m experiments.uncertainty.audit --model mymodel:velocity --dataset held_out.npy
Time:   5 minutes of one CPU core for the digits; d passes of the network for each state, 16 with
        --probes 16.
Expect: of the run of `maps` on the digits E[error] / E[U] within 4 % of 1, a Jacobian that is
        symmetric within 3 to 14 %, and t = 0.1 too near to the noise for U of a single image. The
        tables and words are in experiments/uncertainty/README.md.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from matplotlib.figure import Figure

from experiments.images import pictures as images_pictures
from experiments.images.options import Likelihood
from experiments.run import arrays as run_arrays
from experiments.run import batches, cli, errors, folder, loop, options
from experiments.run import pictures as run_pictures
from experiments.run.options import Free, Place
from experiments.uncertainty import _calibration
from experiments.uncertainty._audit import answers, measures, pictures, sources, subjects, tables
from experiments.uncertainty._audit.options import Examples, Facts, Jacobian, Samples, Subject
from experiments.uncertainty._audit.sources import Data
from experiments.uncertainty._audit.subjects import Field
from experiments.uncertainty._posterior import measures as posterior_measures
from experiments.uncertainty._posterior import pictures as posterior_pictures
from experiments.uncertainty._posterior.options import Uncertainty
from fmjax.paths import Path
from fmjax.types import Key, Velocity

report = tables.report
_POSTERIOR = ("calibration", "maps", "jacobian", "near_noise")  # what needs one


@dataclasses.dataclass(frozen=True)
class Measures:
    """What is measured, and how exactly."""

    eval_batch_size: int = 8
    """Examples evaluated at a time; memory grows with it."""
    uncertainty: Uncertainty = Uncertainty()
    jacobian: Jacobian = Jacobian()
    likelihood: Likelihood = Likelihood()
    samples: Samples = Samples()

    def check(self) -> None:
        """Raises ValueError for numbers out of their bounds."""
        options.check_parts(self)
        options.check_bounds(self, {"eval_batch_size": (1, math.inf)})


@dataclasses.dataclass(frozen=True)
class Config:
    """The options, each with its default; --run or --model has to be given."""

    workdir: Place = None
    """Folder of the audit; None is runs/uncertainty/audit/NAME, by the name of what is audited."""
    seed: int = 0
    """Seed of the split of images without one, and of all noise, an integer >= 0."""
    subject: Subject = Subject()
    facts: Facts = Facts()
    examples: Examples = Examples()
    measures: Free[Measures] = Measures()

    def check(self) -> None:
        """Raises ValueError for options that would fail later."""
        options.check_parts(self)
        options.check_bounds(self, {"seed": (0, 2**32 - 1)})


def calibrate(
    field: Field, data: Data, asked: Measures, key: Key
) -> dict[float, dict[str, np.ndarray]]:
    """Returns from each time the posterior of every noised example, and the error of its mean."""
    x1 = data.held_out[: asked.uncertainty.num_uncertainty]
    key_noise, key_probes = jax.random.split(key)
    keys, x0 = jax.random.split(key_probes, len(x1)), jax.random.normal(key_noise, x1.shape)
    if asked.jacobian.probes:
        function = field.many(measures.estimated, field.path, asked.jacobian.probes)
        arrays = (keys, x0, x1)
    else:
        function, arrays = field.many(posterior_measures.measure, field.path), (x0, x1)
    by_time = {}
    for t in sorted(asked.uncertainty.times):
        ts = np.full(len(x1), t, np.float32)
        by_time[t] = batches.in_batches(
            function, *arrays, ts, size=asked.eval_batch_size, label=f"posterior, t = {t}"
        )
    return by_time


def jacobians(
    field: Field, by_time: dict[float, dict[str, np.ndarray]], asked: Measures, key: Key
) -> list[dict[str, float]]:
    """Returns for each time how the Jacobian and the covariance differ from exact ones."""
    function, rows = field.many(measures.jacobian, field.path, asked.jacobian.probes), []
    for t, found in by_time.items():
        x = found["noised"][: asked.jacobian.num_jacobians]
        arrays = (jax.random.split(key, len(x)), x, np.full(len(x), t, np.float32))
        label = f"Jacobian, t = {t}"
        made = batches.in_batches(function, *arrays, size=asked.eval_batch_size, label=label)
        rows.append(measures.spectra(t, made))
    return rows


def maps(
    field: Field, data: Data, by_time: dict[float, dict[str, np.ndarray]]
) -> dict[float, dict[str, np.ndarray]] | str:
    """Returns from each time an example's map beside its error, or why there is none."""
    if data.levels is None:
        return "the data are no images of pixels"
    if "variance" in next(iter(by_time.values())):
        return by_time
    which = _calibration.typical(by_time)
    one, made = field.many(posterior_measures.state, field.path), {}
    for t, found in by_time.items():  # whose U was estimated: the map of one is exact
        chosen = {name: values[which : which + 1] for name, values in found.items()}
        made[t] = chosen | one(chosen["noised"], np.full(1, t, np.float32))
    return made


def draw(field: Field, data: Data, asked: Measures, key: Key) -> np.ndarray:
    """Returns samples of the flow."""
    shape = (asked.samples.num_samples, *data.held_out.shape[1:])
    noise = field.path.sigma(0.0) * jax.random.normal(key, shape)
    return posterior_measures.samples(field.apply, field.params, noise, size=asked.eval_batch_size)


def _or_why(measure: Callable[[], Any]) -> Any:
    """Returns a measurement along the whole flow, or why the flow cannot be followed."""
    try:
        return measure()
    except ArithmeticError as error:
        what = errors.first_line(error).partition(": train")[0]  # its advice is for trainings
        return f"the flow cannot be followed from noise to data ({what})"


def _along_flow(
    field: Field, data: Data, asked: Measures, keys: Key
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns likelihood and copies, or why they are not known, and the samples."""
    found = {"likelihood": "it was not asked for (--num-likelihood 0)"}
    if asked.likelihood.num_likelihood:
        size = asked.eval_batch_size
        arguments = (field, data, asked.likelihood, keys[0])
        found["likelihood"] = _or_why(lambda: measures.likelihood(*arguments, size=size))
    if data.train is None:
        return found | {"copies": "it takes training data, and none were given"}, {}
    if not asked.samples.num_samples:
        return found | {"copies": "it was not asked for (--num-samples 0)"}, {}
    drawn = _or_why(lambda: draw(field, data, asked, keys[1]))
    if isinstance(drawn, str):
        return found | {"copies": drawn}, {}
    found["copies"], ratios = measures.copies(drawn, data)
    return found, {"samples": drawn, "ratios": ratios}


def audit(
    velocity: Velocity,
    path: Path,
    data: Data,
    *,
    key: Key,
    facts: Facts = Facts(),  # noqa: B008 (frozen)
    asked: Measures = Measures(),
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Asks a velocity everything that this module's docstring lists.

    Args:
      velocity: `(x[*dims], t[]) -> [*dims]`, t = 0 at the noise. `functools.partial(apply, params)`
        keeps the parameters out of the compiled programs.
      path: on which it was trained.
      data: examples in its units; `Data(name, held_out)`, `Data(name, held_out, train)`.
      key: for all noise.
      facts: what the measurements do not show, `Facts(coupled=True)`.
      asked: what is measured, and how exactly.

    Returns:
      The numbers by their names with the `answers`, for `report`, and the arrays of the figures. In
      the place of numbers that the velocity does not have stands the reason.

    Raises:
      ValueError: if the velocity does not take an example of the data, or there are fewer than two.
      ArithmeticError: if it is not finite at a noised example.
    """
    asked.check()
    subjects.check(velocity, data.held_out[0])
    field, keys = Field(*subjects.split(velocity), path), jax.random.split(key, 4)
    why = answers.why_no_posterior(facts)
    results, arrays = dict.fromkeys(_POSTERIOR, why), {}
    # Near the noise the identity multiplies errors of the Jacobian: no TF32 or bfloat16 products.
    with jax.default_matmul_precision("highest"):
        if not why:
            by_time = calibrate(field, data, asked, keys[0])
            shown = maps(field, data, by_time)
            results["calibration"] = _with_levels(path, _calibration.rows(by_time))
            shares = [row.get("negative_variances") for row in results["calibration"]]
            negative = None if None in shares else shares
            results["maps"] = shown if isinstance(shown, str) else {"negative": negative}
            results["jacobian"] = jacobians(field, by_time, asked, keys[1])
            results["near_noise"] = measures.near_noise(
                results["calibration"], results["jacobian"], next(iter(by_time.values()))["image"]
            )
            arrays["posterior"] = by_time
            if shown is not by_time and not isinstance(shown, str):
                arrays["maps"] = shown
        flow, more = _along_flow(field, data, asked, keys[2:])
    results = {"name": data.name, "about": _about(data), **results, **flow}
    return results | {"answers": answers.answers(results)}, arrays | more


def _with_levels(path: Path, rows: list[dict[str, float]]) -> list[dict[str, float]]:
    """Returns the rows with how much data there is in a state, beside its noise."""
    level = lambda t: float(path.alpha(t) / path.sigma(t))  # noqa: E731
    return [row | {"alpha_over_sigma": level(row["t"])} for row in rows]


def _about(data: Data) -> str:
    """Returns one line about the data."""
    train = "no training data" if data.train is None else f"{len(data.train):,} training examples"
    shape = " x ".join(map(str, data.held_out.shape[1:])) or "1"
    return f"{len(data.held_out):,} held-out examples of {shape} numbers, {train}."


def figures(results: dict[str, Any], arrays: dict[str, Any], title: str) -> dict[str, Figure]:
    """Returns the figures of what was measured, by name."""
    made = {}
    if "posterior" in arrays:
        points = "held-out example a point (squared units of x)"
        made["calibration"] = _calibration.picture(
            arrays["posterior"], results["calibration"], points=points
        )
        made["jacobian"] = pictures.jacobian(results["jacobian"], title=title)
    if not isinstance(results["maps"], str):
        shown = arrays.get("maps", arrays["posterior"])
        made["maps"] = posterior_pictures.uncertainty(shown, dataset=title)
    if "ratios" in arrays:
        made["copies"] = pictures.copies(arrays["ratios"], title=title)
        if arrays["samples"].ndim == 4 and arrays["samples"].shape[-1] in (1, 3):
            made["samples"] = images_pictures.samples(arrays["samples"][:64], dataset=title)
            made["samples"].suptitle(f"Samples of {title}")
    return made


def main(config: Config) -> None:
    """Loads what is audited and the data, asks, and leaves everything under the folder."""
    config.check()
    audited = subjects.load(config.subject, config.facts)
    data = sources.load(config.examples, audited.data, config.seed)
    place = config.workdir or f"runs/uncertainty/audit/{audited.name}"
    place = loop.open_run(place, config, data=sources.fingerprint(data))
    given = {"facts": audited.facts, "asked": config.measures, "key": jax.random.key(config.seed)}
    results, arrays = audit(audited.velocity, audited.path, data, **given)
    results["name"] = f"{audited.name} on {data.name}"
    if jax.process_index() != 0:
        return  # one process writes
    folder.write_json(place / "results.json", results)
    run_arrays.write(place / "arrays.npz", arrays)
    with run_pictures.style():
        run_pictures.save(place / "figures", figures(results, arrays, results["name"]))
    text = report(results)
    folder.replace(place / "report.md", f"{text}\n".encode())
    print(f"{text}\n\neverything is in {place}: report.md, results.json, arrays.npz, figures/")


if __name__ == "__main__":
    cli.run(main, Config)
