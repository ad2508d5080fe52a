"""The figures of `experiments.uncertainty.head`: scores over t, and maps of held-out images."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.images import pictures as images_pictures
from experiments.run import pictures as run_pictures
from experiments.uncertainty._head.tables import LABELS

_COLORS = {
    "head": "tab:blue",
    "jacobian": "tab:orange",
    "joint": "tab:green",
    "exact": "black",
    "map": "tab:gray",
    "constant": "tab:brown",
}
_ROWS = {
    ("law", "held_out"): "{}, new draws",
    ("images", "held_out"): "{}, held-out images",
    ("images", "train"): "{}, training images",
}


def figures(
    results: dict[str, Any], arrays: dict[str, Any], titles: dict[str, str]
) -> dict[str, Figure]:
    """Returns the figures of a run by name.

    Args:
      results: what the run writes.
      arrays: of the maps.
      titles: of the data, by key.
    """
    return {
        "scores": scores(results["scores"], titles),
        "maps": maps(arrays, dataset=titles["images"]),
    }


def scores(results: dict[str, Any], titles: dict[str, str]) -> Figure:
    """Returns four scores over t, a row for each kind of state."""
    figure = Figure(figsize=(19.0, 4.0 * len(_ROWS) + 1.2), layout="constrained")
    axes = figure.subplots(len(_ROWS), 4)
    for line, ((key, part), title) in zip(axes, _ROWS.items(), strict=True):
        for ax, draw in zip(line, (_error, _calibration, _likelihood, _correlation), strict=True):
            draw(ax, results[key][part])
            ax.set(xlabel="t", title=title.format(titles[key]))
    figure.legend(*axes[0, 2].get_legend_handles_labels(), loc="outside lower center", ncols=6)
    figure.suptitle("The variance of the velocity's target; bands: range of the seeds")
    return figure


def _curve(ax: Axes, rows: list[dict[str, Any]], method: str, score: str, **options: Any) -> None:
    """Draws one score of a method over t; with `less` less that of another method, by seed."""
    found, less = [row["methods"] for row in rows], options.pop("less", None)
    values = np.array([_seeds(one[method].get(score)) for one in found]).T
    if less:
        values = values - np.array([_seeds(one[less].get(score)) for one in found]).T
    times, color = [row["t"] for row in rows], _COLORS[method]
    given = {"ls": "-", "label": LABELS[method]} | options
    run_pictures.spread(ax, times, values, color=color, shade=0.2, marker="o", **given)


def _seeds(found: dict[str, Any] | None) -> np.ndarray:
    if found is None:  # a variance that is the same for all states has no correlation
        return np.array([np.nan])
    return np.atleast_1d(found.get("seeds", found["mean"]))


def _error(ax: Axes, rows: list[dict[str, Any]]) -> None:
    for method in ("head", "joint", "exact"):  # whose means differ
        _curve(ax, rows, method, "error")
    ax.set_ylabel("mean squared error of the velocity")
    top = max(row["methods"]["joint"]["error"]["mean"] for row in rows)
    ax.set_ylim(0.0, 1.3 * top)  # the exact field of training images leaves it where it copies


def _calibration(ax: Axes, rows: list[dict[str, Any]]) -> None:
    for method in ("head", "jacobian", "joint", "exact"):
        _curve(ax, rows, method, "ratio")
    ax.axhline(1.0, color="black", ls=":")
    ax.set_ylabel("mean error / mean variance")
    low, high = ax.get_ylim()
    if low <= 0 or high > 1.5 * low:
        run_pictures.log_y(ax, "mean error / mean variance")


def _likelihood(ax: Axes, rows: list[dict[str, Any]]) -> None:
    for method in ("head", "jacobian", "joint", "exact", "constant"):
        _curve(ax, rows, method, "nll", less="map")
    raised = {"less": "map", "ls": "--", "label": "Jacobian, coarse floor"}
    _curve(ax, rows, "jacobian", "nll_coarse", **raised)
    ax.axhline(0.0, color="black", ls=":")
    ax.set_yscale("symlog", linthresh=1.0, linscale=2.0)
    ticks = [tick for tick in (-1.0, -0.5, 0.0, 0.5, 1.0, 10.0, 100.0) if tick < ax.get_ylim()[1]]
    ax.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    ax.set_ylabel("nats per entry above the map\nof mean errors (lower is better)")


def _correlation(ax: Axes, rows: list[dict[str, Any]]) -> None:
    for method in ("head", "jacobian", "joint", "exact"):
        _curve(ax, rows, method, "pearson")
    ax.axhline(0.0, color="black", ls=":")
    ax.set_ylabel("correlation of variance and error")


def maps(arrays: dict[str, Any], *, dataset: str) -> Figure:
    """Returns held-out images with the error of the velocity and its stated deviations."""
    times = list(arrays["images"])
    t = times[len(times) // 2]
    found, images = arrays["images"][t], arrays["held_out"][:6]
    columns = {"error of the velocity": found["head"]["error"]}
    columns |= {LABELS[m]: found[m]["variance"] for m in ("head", "jacobian", "exact", "map")}
    roots = {name: np.sqrt(np.maximum(v, 0.0).mean(axis=-1)) for name, v in columns.items()}
    top = float(np.quantile(next(iter(roots.values()))[: len(images)], 0.98))
    figure = Figure(
        figsize=(1.7 * (1 + len(roots)), 1.55 * len(images) + 1.3), layout="constrained"
    )
    axes = figure.subplots(len(images), 1 + len(roots), squeeze=False)
    for row, image, place in zip(axes, images, range(len(images)), strict=True):
        row[0].imshow(images_pictures.gray(image), **images_pictures.GRAY)
        for ax, root in zip(row[1:], roots.values(), strict=True):
            drawn = ax.imshow(root[place], cmap="magma", vmin=0.0, vmax=top)
    for ax, name in zip(axes[0], ("image", *roots), strict=True):
        ax.set_title(
            name.replace(" of the ", "\nof the ")
            .replace(", ", ",\n")
            .replace("mean error", "mean errors"),
            fontsize=12,
        )
    images_pictures.bare(axes)
    bar = images_pictures.scale(figure, drawn, axes, top, location="bottom", shrink=0.6)
    bar.set_label("units of x per unit of t")
    figure.suptitle(f"Error and standard deviation, t = {t:g} ({dataset}, held out)")
    return figure
