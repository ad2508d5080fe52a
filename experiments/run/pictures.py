"""What the figures of all experiments share: their style, saving, and curves with bands."""

import contextlib
import io
import os
from typing import Any

import matplotlib as mpl
import numpy as np
from etils import epath
from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.run.folder import replace


def style() -> contextlib.AbstractContextManager:
    """Returns the context in which figures are made and saved: letters legible in a talk."""
    return mpl.rc_context({"font.size": 13, "axes.titlesize": 13, "figure.dpi": 110})


def save(folder: os.PathLike, pictures: dict[str, Figure]) -> None:
    """Writes each figure into the folder as NAME.png.

    Args:
      folder: where to write; it is made if need be.
      pictures: the figures, made in the context of `style`.
    """
    for name, figure in pictures.items():
        file = io.BytesIO()
        figure.savefig(file, format="png", bbox_inches="tight")
        replace(epath.Path(folder) / f"{name}.png", file.getvalue())


def spread(
    ax: Axes, x: np.ndarray, values: np.ndarray, *, color: str, shade: float = 0.25, **line: Any
) -> None:
    """Draws the mean of `[seeds, k]` over `x` `[k]`, and the range of the seeds in a paler tone."""
    ax.plot(x, values.mean(axis=0), color=color, **line)
    if len(values) > 1:
        low, high = values.min(axis=0), values.max(axis=0)
        ax.fill_between(x, low, high, color=color, alpha=shade, linewidth=0)


def band(ax: Axes, x: np.ndarray, values: np.ndarray, label: str, place: int) -> None:
    """Draws `spread` with small points, in the color of a place."""
    small = {"marker": "o", "markersize": 3, "shade": 0.15}
    spread(ax, x, values, color=f"C{place}", label=label, **small)


def log_x(ax: Axes, x: np.ndarray, label: str) -> None:
    """Makes the x-axis logarithmic, with some of the values that were measured as its ticks."""
    few = np.unique(np.geomspace(1, len(x), min(6, len(x))).round().astype(int)) - 1
    ax.set(xscale="log", xlabel=label)
    ax.set_xticks(x[few], [f"{value:g}" for value in x[few]])
    ax.xaxis.set_minor_locator(ticker.NullLocator())


def log_y(ax: Axes, label: str) -> None:
    """Makes the y-axis logarithmic, with plain numbers also where it spans less than a decade."""
    ax.set(yscale="log", ylabel=label)
    ax.yaxis.set_major_locator(ticker.LogLocator(subs=(1.0, 1.5, 2.0, 3.0, 5.0, 7.0)))
    ax.yaxis.set_major_formatter(ticker.StrMethodFormatter("{x:g}"))
    ax.yaxis.set_minor_locator(ticker.NullLocator())


def of_curves(rows: list[dict[str, Any]], name: str) -> np.ndarray:
    """Returns one number of the curves, `[seeds, evaluations]`."""
    return np.array([[point[name] for point in row["curve"]] for row in rows])
