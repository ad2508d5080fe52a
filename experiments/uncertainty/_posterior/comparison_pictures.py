"""The pictures of the posterior: along generations, against the exact one, and its rivals.

Images come as x in [-1, 1] and are shown as gray levels from 0 (black) to 1 (white), so a
standard deviation in x is halved before it is drawn.
"""

import textwrap
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from experiments.images import pictures as images_pictures
from experiments.uncertainty import _calibration
from experiments.uncertainty._posterior import measures


def figures(arrays: dict[str, Any], results: dict[str, Any], *, dataset: str) -> dict[str, Figure]:
    """Returns the figures of a run by name.

    Args:
      arrays: what `maps.evaluate` returns second.
      results: what it returns first.
      dataset: the name for the titles.
    """
    by_name = {
        "generation": generation(arrays["generations"], results["edges"], dataset=dataset),
        "exact": exact(arrays, results, dataset=dataset),
    }
    if "rivals" in results:
        by_name["rivals"] = rivals(arrays, results["rivals"], dataset=dataset)
    return by_name


def generation(
    generations: dict[str, Any], rows: list[dict[str, float]], *, dataset: str
) -> Figure:
    """Returns one generation: state, mean, map and edges at each time, and the edge statistic.

    Args:
      generations: `by_time` and `samples`, from `maps.follow`.
      rows: the edge statistic at each time, over all generations.
      dataset: the name for the title.
    """
    by_time = generations["by_time"]
    which = _middle(by_time)
    names = ("state", "posterior\nmean", "gradient\nof the mean", "predicted\nstd. dev.")
    figure = Figure(figsize=(2.1 * (len(by_time) + 1) + 1.2, 9.6), layout="constrained")
    axes = figure.subplots(len(names), len(by_time) + 1, squeeze=False)
    for column, ((t, arrays), row) in enumerate(zip(by_time.items(), rows, strict=True)):
        one = {name: values[which] for name, values in arrays.items()}
        deviation = images_pictures.over_channels(one["variance"])
        edges = measures.gradient(one["mean"][None])[0]
        axes[0, column].imshow(images_pictures.gray(one["noised"]), **images_pictures.GRAY)
        axes[1, column].imshow(images_pictures.gray(one["mean"]), **images_pictures.GRAY)
        axes[2, column].imshow(edges, cmap="viridis", vmin=0.0)
        drawn = axes[3, column].imshow(deviation, cmap="magma", vmin=0.0)
        images_pictures.scale(figure, drawn, axes[3, column], deviation.max(), location="bottom")
        axes[0, column].set_title(
            f"t = {t:g}\non / off edges {row['ratio']:.1f} ({row['null_ratio']:.1f})\n"
            f"correlation {row['correlation']:.2f} ({row['null_correlation']:.2f})"
        )
    axes[0, -1].imshow(images_pictures.gray(generations["samples"][which]), **images_pictures.GRAY)
    axes[0, -1].set_title("sample\nt = 1")
    images_pictures.bare(axes)
    for ax in axes[1:, -1]:
        ax.axis("off")
    for row, label in enumerate(names):
        axes[row, 0].set_ylabel(label)
    figure.suptitle(
        f"Uncertainty along a generation ({dataset}); maps in gray levels\n"
        f"numbers over {rows[0]['num_images']} samples, in brackets for another sample's map"
    )
    return figure


def _middle(by_time: dict[float, dict[str, np.ndarray]]) -> int:
    """Returns the example whose total variance at the middle time is the median."""
    variance = list(by_time.values())[len(by_time) // 2]["variance"]
    return int(np.argsort(_calibration.totals(variance))[len(variance) // 2])


def exact(arrays: dict[str, Any], results: dict[str, Any], *, dataset: str) -> Figure:
    """Returns U and error over time against the exact posterior, on training and held-out states.

    Args:
      arrays: `train`, `held_out` and `exact` of a run.
      results: `exact` of a run, with the widths.
      dataset: the name for the title.
    """
    figure = Figure(figsize=(13.5, 8.6), layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=[1.25, 1.0])
    panels = above.subplots(1, 2, sharey=True)
    laws = {"train": "the training data", "held_out": "their best kernel density"}
    for ax, (part, law) in zip(panels, laws.items(), strict=True):
        learned, truth = arrays[part], arrays["exact"][part]
        times = sorted(learned)
        ax.plot(
            times,
            [learned[t]["error"].mean() for t in times],
            "ko",
            label="E[error] of the learned mean",
        )
        u = [learned[t]["uncertainty"].mean() for t in times]
        ax.plot(times, u, "-", color="tab:purple", linewidth=2, label="E[U], learned")
        errors = [row["exact_error"] for row in results["exact"][part]]
        ax.plot(
            [row["t"] for row in results["exact"][part]],
            errors,
            "s",
            color="tab:orange",
            fillstyle="none",
            markersize=9,
            label="E[error] of the exact law's mean",
        )
        u = [_calibration.totals(truth[t]["variance"]).mean() for t in times]
        ax.plot(times, u, "--", color="tab:orange", linewidth=2, label=f"E[U], exact for {law}")
        ax.set(xlabel="t (noise at 0, data at 1)", yscale="log")
        width = results["exact"]["widths"][part]
        name = {"train": "training", "held_out": "held-out"}[part]
        ax.set_title(f"{name} images (kernel width {width:.3f})")
        ax.grid(alpha=0.3)
        ax.legend(fontsize=11, loc="best")
    panels[0].set_ylabel("squared units of x, summed")
    _exact_maps(below, arrays)
    figure.suptitle(f"The learned posterior against the exact one ({dataset})")
    return figure


def _exact_maps(figure: Any, arrays: dict[str, Any]) -> None:
    """Draws the maps of one held-out state at each time, learned above exact, on one scale."""
    learned, truth = arrays["held_out"], arrays["exact"]["held_out"]
    times, which = sorted(learned), _calibration.typical(learned)
    axes = figure.subplots(2, len(times), squeeze=False)
    for column, t in enumerate(times):
        pair = [images_pictures.over_channels(a[t]["variance"][which]) for a in (learned, truth)]
        top = max(values.max() for values in pair)
        for ax, values in zip(axes[:, column], pair, strict=True):
            drawn = ax.imshow(values, cmap="magma", vmin=0.0, vmax=top)
        images_pictures.scale(figure, drawn, axes[:, column], top, location="right", shrink=0.8)
        axes[0, column].set_title(f"t = {t:g}")
    images_pictures.bare(axes)
    axes[0, 0].set_ylabel("learned, held-\nout std. dev.")
    axes[1, 0].set_ylabel("kernel density\nstd. dev.")


def rivals(arrays: dict[str, Any], results: dict[str, Any], *, dataset: str) -> Figure:
    """Returns correlation with the error against cost, and every method's map of one state.

    Args:
      arrays: `held_out` and `rivals` of a run.
      results: `rivals` of a run.
      dataset: the name for the title.
    """
    times = sorted(arrays["held_out"])
    middle = times[len(times) // 2]
    figure = Figure(figsize=(15.0, 9.4), layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=[1.5, 1.0])
    _against_cost(
        above.subplots(1, min(3, len(times)), sharey=True, squeeze=False)[0], results, times
    )
    _rival_maps(below, arrays, middle)
    figure.suptitle(
        f"What each measure knows of the error, and what it costs ({dataset}, "
        f"{results['rows'][0]['num_images']} held-out images)"
    )
    return figure


def _against_cost(axes: np.ndarray, results: dict[str, Any], times: list[float]) -> None:
    """Draws a panel for up to three times: Pearson correlation over measured cost."""
    ratios = {row["method"]: row["time_ratio"] for row in results["costs"]}
    inner = times[1:-1] if len(times) > 4 else times
    chosen = [inner[(2 * i + 1) * len(inner) // (2 * len(axes))] for i in range(len(axes))]
    for ax, t in zip(axes, chosen, strict=True):
        for index, row in enumerate(r for r in results["rows"] if r["t"] == t):
            ax.plot(ratios[row["method"]], row["pearson"], "o", color=f"C{index}", markersize=10,
                    label=row["method"])  # fmt: skip
        ax.axhline(0.0, color="black", linewidth=0.8)
        ax.set(xscale="log", xlabel="time in forward passes", title=f"t = {t:g}")
        ax.grid(alpha=0.3)
    axes[0].set_ylabel("Pearson correlation with the error")
    axes[-1].legend(loc="upper left", bbox_to_anchor=(1.02, 1.0), fontsize=11)


def _rival_maps(figure: Any, arrays: dict[str, Any], t: float) -> None:
    """Draws the error and the map of every method that has one, each on a scale of its own."""
    held_out = arrays["held_out"][t]
    found = {name: values[t] for name, values in arrays["rivals"].items() if values[t].ndim > 1}
    count = len(next(iter(found.values())))
    which = int(np.argsort(held_out["uncertainty"][:count])[count // 2])
    squares = {
        "actual |error|": (held_out["image"] - held_out["mean"])[which] ** 2,
        **{name: values[which] for name, values in found.items()},
    }
    axes = figure.subplots(1, 1 + len(squares), squeeze=False)
    drawn = axes[0, 0].imshow(
        images_pictures.gray(held_out["image"][which]), **images_pictures.GRAY
    )
    # Every picture has a bar, or they would differ in size.
    images_pictures.scale(figure, drawn, axes[0, 0], 1.0, location="bottom").ax.set_visible(False)
    axes[0, 0].set_title("image", fontsize=11)
    for ax, (name, values) in zip(axes[0, 1:], squares.items(), strict=True):
        deviation = images_pictures.over_channels(values)
        drawn = ax.imshow(deviation, cmap="magma", vmin=0.0)
        images_pictures.scale(figure, drawn, ax, deviation.max(), location="bottom")
        ax.set_title(textwrap.fill(name, 16), fontsize=11)
    images_pictures.bare(axes)
    axes[0, 0].set_ylabel(f"t = {t:g}\n(gray levels)")
