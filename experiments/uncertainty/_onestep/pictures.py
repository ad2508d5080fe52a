"""The pictures of one-step generation: samples by number of steps, and the maps of samples.

Images come as x in [-1, 1] and are shown as gray levels from 0 (black) to 1 (white), so a
standard deviation in x is halved before it is drawn.
"""

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from experiments.images import pictures as images_pictures
from experiments.uncertainty import _calibration


def figures(arrays: dict[str, Any], results: dict[str, Any], *, dataset: str) -> dict[str, Figure]:
    """Returns the figures of a run by name.

    Args:
      arrays: what `meanflow.evaluate` returns second.
      results: what it returns first.
      dataset: the name for the titles.
    """
    times = tuple(row["t"] for row in results["one_step"]["renoised"])
    return {
        "samples": samples(arrays["samples"], results["samples"], dataset=dataset),
        "maps": one_step_maps(arrays["one_step"], times, dataset=dataset),
        "agreement": agreement(arrays, results, dataset=dataset),
        "calibration": _calibration.picture(arrays["MeanFlow"], results["MeanFlow"]),
    }


def samples(
    drawn: dict[str, dict[int, np.ndarray]], rows: list[dict[str, Any]], *, dataset: str
) -> Figure:
    """Returns a row of samples for each model and number of steps, from the same noise.

    Args:
      drawn: from each model and its number of steps to samples `[n, h, w, c]`.
      rows: their Frechet distances, from `quality.table`.
      dataset: the name for the title.
    """
    lines = [(model, steps, x) for model, by in drawn.items() for steps, x in by.items()]
    columns = min(12, len(lines[0][2]))
    figure = Figure(figsize=(columns * 0.95 + 3.2, len(lines) * 0.98 + 0.8), layout="constrained")
    axes = figure.subplots(len(lines), columns, squeeze=False)
    distance = {(row["model"], row["steps"]): row["frechet"] for row in rows}
    for line, (model, steps, x) in zip(axes, lines, strict=True):
        for ax, image in zip(line, x, strict=False):
            ax.imshow(images_pictures.gray(image), **images_pictures.GRAY)
        label = f"{model}, {steps} step{'s' * (steps > 1)}\nFréchet {distance[model, steps]:.2f}"
        line[0].set_ylabel(label, rotation=0, ha="right", va="center", fontsize=12)
    images_pictures.bare(axes)
    figure.suptitle(
        f"Samples by number of steps ({dataset}); each column one noise; "
        f"Fréchet distance of {rows[-1]['num_samples']} held-out images {rows[-1]['frechet']:.2f}"
    )
    return figure


def one_step_maps(made: dict[str, np.ndarray], times: tuple[float, ...], *, dataset: str) -> Figure:
    """Returns one-step samples with their maps, each row of maps under its own name.

    Args:
      made: `sample` `[n, h, w, c]`, `renoised` `[n, times, h, w, c]`, `sensitivity` and `prior`.
      times: at which images are noised.
      dataset: the name for the title.
    """
    order = np.argsort(_calibration.totals(made["sensitivity"]))
    chosen = order[np.linspace(0, len(order) - 1, min(8, len(order))).round().astype(int)]
    inner = [i for i, t in enumerate(times) if 0.25 < t < 0.75] or range(len(times))
    rows = [(f"posterior std.\nnoised to t = {times[i]:g}", made["renoised"][:, i]) for i in inner]
    rows += [
        ("sensitivity to\nthe noise", made["sensitivity"]),
        ("prior std.: what\nthe noise knows", np.broadcast_to(made["prior"], made["sample"].shape)),
    ]
    figure = Figure(
        figsize=(1.35 * len(chosen) + 3.6, 1.42 * len(rows) + 2.4), layout="constrained"
    )
    axes = figure.subplots(len(rows) + 1, len(chosen), squeeze=False)
    for column, which in enumerate(chosen):
        drawn = axes[0, column].imshow(
            images_pictures.gray(made["sample"][which]), **images_pictures.GRAY
        )
    beside = {"location": "right", "aspect": 8, "pad": 0.01}
    # Every row has a bar, or the columns would not stand below one another.
    images_pictures.scale(figure, drawn, list(axes[0]), 1.0, **beside).ax.set_visible(False)
    for line, (name, squares) in zip(axes[1:], rows, strict=True):
        shown = [images_pictures.over_channels(squares[which]) for which in chosen]
        top = max(values.max() for values in shown)
        for ax, values in zip(line, shown, strict=True):
            drawn = ax.imshow(values, cmap="magma", vmin=0.0, vmax=top)
        line[0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=12)
        images_pictures.scale(figure, drawn, list(line), top, **beside)
    axes[0, 0].set_ylabel("one-step\nsample", rotation=0, ha="right", va="center", fontsize=12)
    images_pictures.bare(axes)
    figure.suptitle(
        f"How uncertain is a one-step sample? ({dataset}; gray levels)\n"
        "from the least to the most sensitive of the samples"
    )
    return figure


def agreement(arrays: dict[str, Any], results: dict[str, Any], *, dataset: str) -> Figure:
    """Returns the maps of both models at one state, and U of the one against the other's.

    Args:
      arrays: `MeanFlow` and `flow` of a run, from each time to what was measured there.
      results: `agreement` of a run.
      dataset: the name for the title.
    """
    times = sorted(arrays["flow"])
    which = _calibration.typical(arrays["flow"])
    names = {"flow": "plain flow\nstd. dev.", "MeanFlow": "MeanFlow, h = 0\nstd. dev."}
    figure = Figure(figsize=(2.5 * len(times) + 1.2, 9.2), layout="constrained")
    axes = figure.subplots(3, len(times), squeeze=False)
    for column, (t, row) in enumerate(zip(times, results["agreement"], strict=True)):
        pair = {
            name: images_pictures.over_channels(arrays[name][t]["variance"][which])
            for name in names
        }
        top = max(values.max() for values in pair.values())
        for ax, values in zip(axes[:2, column], pair.values(), strict=True):
            drawn = ax.imshow(values, cmap="magma", vmin=0.0, vmax=top)
        images_pictures.scale(figure, drawn, axes[1, column], top, location="bottom")
        axes[0, column].set_title(f"t = {t:g}\nmap correlation {row['map_correlation']:.2f}")
        ax, u = axes[2, column], {name: arrays[name][t]["uncertainty"] for name in names}
        ax.scatter(u["flow"], u["MeanFlow"], s=9, alpha=0.5, color="tab:purple", edgecolors="none")
        ax.axline((u["flow"].mean(),) * 2, slope=1.0, color="black", linewidth=1, label="equal")
        ax.set(xlabel="U, plain flow", title=f"correlation {row['u_correlation']:.2f}")
    images_pictures.bare(axes[:2])
    axes[2, 0].legend(loc="upper left", fontsize=10)
    for row, label in enumerate((*names.values(), "U, MeanFlow")):
        axes[row, 0].set_ylabel(label)
    figure.suptitle(f"The same held-out states, two models ({dataset}); maps in gray levels")
    return figure
