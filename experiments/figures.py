"""The pictures of the image experiments, drawn to be shown in a talk.

Images come as x in [-1, 1] and are shown as grey levels from 0 (black) to 1 (white), so a
standard deviation or an error in x is halved before it is drawn.
"""

import contextlib
import os
from typing import Any

import matplotlib as mpl
import numpy as np
from etils import epath
from matplotlib.figure import Figure

GREY = {"cmap": "gray", "vmin": 0.0, "vmax": 1.0}


def style() -> contextlib.AbstractContextManager:
    """Returns the context in which figures are made and saved: letters legible in a talk."""
    return mpl.rc_context({"font.size": 13, "axes.titlesize": 13, "figure.dpi": 110})


def save(folder: os.PathLike, pictures: dict[str, Figure]) -> None:
    """Writes each figure into the folder as NAME.png.

    Args:
      folder: where to write; it is made if need be.
      pictures: the figures, made in the context of `style`.
    """
    folder = epath.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name, figure in pictures.items():
        with (folder / f"{name}.png").open("wb") as file:
            figure.savefig(file, format="png", bbox_inches="tight")


def grey(x: np.ndarray) -> np.ndarray:
    """Returns `[h, w]` or `[h, w, 3]` in [0, 1] for an image in [-1, 1]."""
    shown = np.clip((np.asarray(x) + 1.0) / 2.0, 0.0, 1.0)
    return shown[..., 0] if shown.shape[-1] == 1 else shown


def over_channels(squares: np.ndarray) -> np.ndarray:
    """Returns `[h, w]`, the root of the mean of squares over channels, in grey levels."""
    return np.sqrt(np.maximum(squares, 0.0).mean(axis=-1)) / 2.0


def scale(figure: Any, drawn: Any, axes: Any, top: float, **options: Any) -> Any:
    """Adds a colour bar that names its ends, 0 and the top, and returns it.

    Args:
      figure: the figure, or a part of it.
      drawn: the image whose colours are shown.
      axes: one or several, beside which it goes.
      top: the value of the brightest colour.
      **options: of `figure.colorbar`, such as its location.
    """
    bar = figure.colorbar(drawn, ax=axes, **options)
    bar.set_ticks([0.0, top], labels=["0", f"{top:.2f}" if top >= 0.095 else f"{top:.2g}"])
    if bar.orientation == "horizontal":  # within its own width, clear of its neighbours
        for label, side in zip(bar.ax.get_xticklabels(), ("left", "right"), strict=True):
            label.set_horizontalalignment(side)
    return bar


def bare(axes: np.ndarray) -> None:
    """Takes the ticks off axes that hold pictures."""
    for ax in axes.flat:
        ax.set_xticks([])
        ax.set_yticks([])


def uncertainty(by_time: dict[float, dict[str, np.ndarray]], *, dataset: str) -> Figure:
    """Returns the maps of one image: a column for each time, a row for each quantity.

    In each column the two lower maps share one scale, printed under it, so that the predicted
    deviation can be held against the error that was made; the largest twentieth of the errors may
    lie above the scale.

    Args:
      by_time: from each time to the stacked output of `maps.measure`.
      dataset: the name for the title.
    """
    times, which = list(by_time), typical(by_time)
    rows = (
        "held-out\nimage",
        "noised\nimage",
        "posterior\nmean",
        "predicted\nstd. dev.",
        "actual\n|error|",
    )
    figure = Figure(figsize=(max(2.1 * len(times) + 1.2, 8.5), 11.0), layout="constrained")
    axes = figure.subplots(len(rows), len(times), squeeze=False)
    for column, t in enumerate(times):
        one = {name: values[which] for name, values in by_time[t].items()}
        deviation = over_channels(one["variance"])
        error = over_channels((one["image"] - one["mean"]) ** 2)
        # Single wrong pixels must not darken the rest: the scale ends at 95 % of the errors.
        top = max(float(deviation.max()), float(np.quantile(error, 0.95)))
        for row, name in enumerate(("image", "noised", "mean")):
            axes[row, column].imshow(grey(one[name]), **GREY)
        for row, values in ((3, deviation), (4, error)):
            drawn = axes[row, column].imshow(values, cmap="magma", vmin=0.0, vmax=top)
        scale(figure, drawn, axes[4, column], top, location="bottom", extend="max")
        axes[0, column].set_title(f"t = {t:g}")
    for row, label in enumerate(rows):
        axes[row, 0].set_ylabel(label)
    bare(axes)
    colours = by_time[times[0]]["image"].shape[-1]
    unit = "grey levels" if colours == 1 else "colour levels, root mean square over channels"
    figure.suptitle(
        f"Uncertainty of a held-out image ({dataset}) from the velocity's Jacobian\n"
        f"noise at t = 0, data at t = 1; maps in {unit}, from 0 to 1"
    )
    return figure


def typical(by_time: dict[float, dict[str, np.ndarray]]) -> int:
    """Returns the image whose uncertainty at the middle time is the median of all."""
    middle = list(by_time)[len(by_time) // 2]
    return int(np.argsort(by_time[middle]["uncertainty"])[len(by_time[middle]["uncertainty"]) // 2])


def calibration(
    by_time: dict[float, dict[str, np.ndarray]], rows: list[dict[str, float]]
) -> Figure:
    """Returns U against the squared error of every image, one panel for each time.

    Args:
      by_time: from each time to the stacked output of `maps.measure`.
      rows: the table's row for each time, in the same order.
    """
    figure = Figure(figsize=(max(3.3 * len(rows), 9.0), 4.8), layout="constrained")
    axes = figure.subplots(1, len(rows), squeeze=False)[0]
    for ax, (t, result), row in zip(axes, by_time.items(), rows, strict=True):
        u, error = result["uncertainty"], result["error"]
        ax.scatter(u, error, s=9, alpha=0.5, color="tab:purple", edgecolors="none")
        ax.set(xlabel="U = tr Cov", ylim=(0.0, 1.05 * error.max()))
        ax.axline((u.mean(), u.mean()), slope=1.0, color="black", linewidth=1, label="error = U")
        ax.plot(u.mean(), error.mean(), "o", color="tab:orange", markersize=9, label="means")
        ax.set_title(
            f"t = {t:g}\nmean error / mean U = {row['ratio']:.2f}\n"
            f"Pearson {row['pearson']:.2f} (best {row['best_pearson']:.2f})"
        )
    axes[0].set_ylabel("squared error of the mean")
    axes[0].legend(loc="lower right", fontsize=10)
    figure.suptitle(
        "Uncertainty against error, each held-out image a point (units of x in [-1, 1])"
    )
    return figure


def samples(x: np.ndarray, *, dataset: str) -> Figure:
    """Returns a sheet of samples.

    Args:
      x: `[n, h, w, c]`, in [-1, 1].
      dataset: the name for the title.
    """
    least = int(np.ceil(np.sqrt(2 * len(x))))
    full = [c for c in range(least, 2 * least) if len(x) % c == 0]  # no ragged last row
    columns = full[0] if full else least
    rows = int(np.ceil(len(x) / columns))
    size = max(0.8, 7.0 / columns)  # inches of one sample
    figure = Figure(figsize=(size * columns, size * rows + 0.7), layout="constrained")
    for ax in figure.subplots(rows, columns, squeeze=False).flat:
        ax.axis("off")
    for ax, image in zip(figure.axes, x, strict=False):
        ax.imshow(grey(image), **GREY)
    figure.suptitle(f"Samples of the flow trained on {dataset}")
    return figure
