"""The figures of `experiments.uncertainty.measurements`: scores, and one measurement of each."""

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from experiments.uncertainty._measurements import tables
from experiments.uncertainty._measurements.problems import Problem

_SCORES = {
    "distance": "squared distance from the exact mean",
    "error_over_u": "squared error / spread",
    "coverage": "coverage of the truth",
}


def figures(
    results: dict[str, Any],
    arrays: dict[str, Any],
    problems: dict[str, Problem],
    shape: tuple[int, ...],
    nominal: float,
) -> dict[str, Figure]:
    """Returns the figures of a run by name.

    Args:
      results: from law and problem to the numbers of `measurements.measure`.
      arrays: likewise to its arrays.
      problems: by name.
      shape: of an image.
      nominal: the coverage that draws of the right law have.
    """
    return {
        "scores": scores(results, nominal),
        "draws": draws(arrays["images"], problems, shape),
    }


def scores(results: dict[str, Any], nominal: float) -> Figure:
    """Returns the scores of all methods: a row for each law, a column for each score."""
    figure = Figure(figsize=(15.0, 4.2 * len(results)), layout="constrained")
    axes = figure.subplots(len(results), len(_SCORES), squeeze=False)
    for line, (law, of_law) in zip(axes, results.items(), strict=True):
        for ax, (score, words) in zip(line, _SCORES.items(), strict=True):
            methods = next(iter(of_law.values()))["methods"]
            for i, name in enumerate(methods):
                found = [of_law[problem]["methods"][name][score] for problem in of_law]
                place = np.arange(len(found)) + 0.15 * (i - (len(methods) - 1) / 2)
                means, errors = (
                    np.array([value[part] for value in found])
                    for part in ("mean", "standard_error")
                )
                label = tables.TITLES[name]
                ax.errorbar(place, means, 2 * errors, fmt="o", capsize=3, label=label)
            right = {"coverage": nominal, "error_over_u": 1.0, "distance": 0.0}[score]
            ax.axhline(right, color="0.5", linestyle="--", linewidth=1)
            ax.set_xticks(range(len(of_law)), list(of_law))
            ax.set(ylabel=words, title=tables.LAWS[law])
            if score == "distance":
                ax.set_yscale("symlog", linthresh=0.1)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), fontsize=12)
    return figure


def draws(
    arrays: dict[str, Any], problems: dict[str, Problem], shape: tuple[int, ...], shown: int = 3
) -> Figure:
    """Returns of each problem a truth, its measurement, the exact mean, and draws of every kind."""
    names = list(next(iter(arrays.values()))["draws"])
    columns = ["truth", "measured", "exact mean"] + [
        f"{tables.TITLES[name]}\n" if i == 0 else "" for name in names for i in range(shown)
    ]
    figure = Figure(figsize=(1.25 * len(columns), 1.45 * len(problems) + 0.6), layout="constrained")
    axes = figure.subplots(len(problems), len(columns), squeeze=False)
    for line, (key, problem) in zip(axes, problems.items(), strict=True):
        found = arrays[key]
        used = problem.matrix.T > 0  # a mean stands for its four pixels
        seen = np.where(used.any(axis=1), used @ found["y"][0], np.nan)
        pictured = [found["truth"][0], seen, found["mean"][0]]
        pictured += [found["draws"][name][0, i] for name in names for i in range(shown)]
        for ax, image in zip(line, pictured, strict=True):
            pixels = np.clip((np.asarray(image).reshape(shape) + 1) / 2, 0, 1)
            gray = {"cmap": "gray", "vmin": 0, "vmax": 1} if shape[-1] == 1 else {}
            ax.imshow(pixels[..., 0] if gray else pixels, **gray)
            ax.set(xticks=(), yticks=())
            ax.set_facecolor("tab:blue")
        line[0].set_ylabel(problem.title, fontsize=11)
    for ax, title in zip(axes[0], columns, strict=True):
        ax.set_title(title, fontsize=10, loc="left")
    return figure
