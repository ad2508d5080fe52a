"""Samples of few steps against the images, and the maps of one model against the maps of another.

The quality of samples is the Frechet distance of Gaussians fitted to features of samples and of
the training images,

    |mu_s - mu_d|^2 + tr(S_s + S_d - 2 (S_s S_d)^(1/2)),                                   (1)

whose features are the first 64 principal components of the training images (all of them on the
8x8 digits): no network of another data set decides what counts. The distance of a finite sample
is biased upwards, so samples and held-out images, whose distance is about what a perfect sampler
would get, are compared in equal number.

References:
  Heusel et al. (2017), GANs Trained by a Two Time-Scale Update Rule, arXiv 1706.08500.
"""

import functools
import os
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

import fmjax
from experiments.images import data
from experiments.images.features import principal_components
from experiments.run import batches
from experiments.uncertainty import _calibration
from fmjax.types import Array, PyTree


def sample(
    models: dict[str, tuple[Callable[..., Array], PyTree]],
    samplers: dict[str, Callable[..., Array]],
    steps: Sequence[int],
    noise: Array,
    *,
    size: int,
) -> dict[str, dict[int, np.ndarray]]:
    """Returns samples of every model in every number of steps, from the same noise.

    Args:
      models: from a name to `apply` and the parameters.
      samplers: from the same names to `(apply, steps, params, noise) -> sample` of one example.
      steps: numbers of steps.
      noise: `[n, *dims]`.
      size: samples at a time.
    """
    drawn = {}
    for name, (apply, params) in models.items():
        for count in steps:
            one = functools.partial(samplers[name], apply, count)
            many = functools.partial(jax.jit(jax.vmap(one, in_axes=(None, 0))), params)
            label = f"samples of the {name} in {count} steps"
            values = batches.in_batches(many, noise, size=size, label=label)
            drawn.setdefault(name, {})[count] = values
    return drawn


def table(drawn: dict[str, dict[int, np.ndarray]], images: data.Images) -> list[dict[str, Any]]:
    """Returns for each model and number of steps the distance (1), and the held-out images' last.

    Args:
      drawn: from each model and its number of steps to samples `[n, *dims]`.
      images: the data set.
    """
    project = principal_components(images)
    train = project(data.centers(images.train, images.levels))
    distance = lambda x: float(fmjax.metrics.frechet(project(x), train))  # noqa: E731
    sizes = [len(x) for by_steps in drawn.values() for x in by_steps.values()]
    count = min(len(images.held_out), *sizes)
    rows = [
        {"model": model, "steps": steps, "num_samples": count, "frechet": distance(x[:count])}
        for model, by_steps in drawn.items()
        for steps, x in by_steps.items()
    ]
    held_out = data.centers(images.held_out[:count], images.levels)
    floor = {"model": "held-out images", "steps": 0, "num_samples": count}
    return [*rows, floor | {"frechet": distance(held_out)}]


def agreement(
    t: float, ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray]
) -> dict[str, float]:
    """Returns how the posterior of one model goes with another's at the same states.

    Args:
      t: the time, for the row.
      ours: `uncertainty` `[n]`, `variance` and `mean` `[n, *dims]`.
      theirs: the same of the other model.
    """
    correlations = _calibration.map_correlations(ours["variance"], theirs["variance"])
    return {
        "t": t,
        "num_images": len(ours["uncertainty"]),
        "u_ratio": float(ours["uncertainty"].mean() / theirs["uncertainty"].mean()),
        "u_correlation": float(fmjax.metrics.pearson(ours["uncertainty"], theirs["uncertainty"])),
        "map_correlation": float(correlations.mean()),
        "rms_mean_difference": float(np.sqrt(np.mean((ours["mean"] - theirs["mean"]) ** 2))),
    }


def one_step(made: dict[str, np.ndarray], times: tuple[float, ...]) -> dict[str, Any]:
    """Returns what the maps of one-step samples sum to, and how they go with one another.

    Args:
      made: `sample` `[n, *dims]`, `renoised` `[n, times, *dims]`, `sensitivity` `[n, *dims]` and
        `prior` `[*dims]`.
      times: at which images are noised.

    Returns:
      The prior's total, quantiles of the sensitivity's, and for each time the mean total of the
      noised samples and the correlations of the sensitivity with it, over samples and pixels.
    """
    sensitivity = _calibration.totals(made["sensitivity"])
    rows = []
    for index, t in enumerate(times):
        maps = made["renoised"][:, index]
        uncertainty = _calibration.totals(maps)
        pixels = _calibration.map_correlations(maps, made["sensitivity"])
        rows.append(
            {
                "t": t,
                "mean_renoised": float(uncertainty.mean()),
                "correlation_of_totals": float(fmjax.metrics.pearson(uncertainty, sensitivity)),
                "correlation_of_maps": float(pixels.mean()),
            }
        )
    return {
        "num_samples": len(sensitivity),
        "prior": float(made["prior"].sum()),
        "sensitivity_5_50_95": np.quantile(sensitivity, [0.05, 0.5, 0.95]).tolist(),
        "sensitivity_mean": float(sensitivity.mean()),
        "renoised": rows,
    }


def report(results: dict[str, Any], folder: os.PathLike) -> str:
    """Returns the summary that is printed at the end of a run.

    Args:
      results: what `meanflow.evaluate` returns.
      folder: the run folder.
    """
    lines = ["Frechet distance from the training images"]
    lines += [
        f" {row['model']:12s} {_steps(row['steps']):>9s}  {row['frechet']:8.3f}"
        for row in results["samples"][:-1]
    ]
    floor = results["samples"][-1]
    label = f"{floor['num_samples']} held-out images"
    lines.append(f" {label:22s}  {floor['frechet']:8.3f}")
    for name in ("MeanFlow", "flow"):
        what = "its h = 0 slice" if name == "MeanFlow" else "plain"
        lines += [f"{name} ({what}), held-out images", _calibration.table(results[name])]
    lines.append("the two at the same states: t, ratio of E[U], correlation of U, of maps")
    lines += [
        f" {row['t']:.2f}   {row['u_ratio']:.3f}   {row['u_correlation']:.2f}"
        f"   {row['map_correlation']:.2f}"
        for row in results["agreement"]
    ]
    made = results["one_step"]
    low, middle, high = made["sensitivity_5_50_95"]
    lines.append(
        f"one-step samples: total variance of the prior {made['prior']:.2f}; total sensitivity "
        f"{middle:.2f} (5 to 95 %: {low:.2f} to {high:.2f})"
    )
    lines.append(f"everything is in {folder}: config.json, metrics.jsonl, results.json, figures/")
    return "\n".join(lines)


def _steps(count: int) -> str:
    return f"{count} step{'s' * (count > 1)}"
