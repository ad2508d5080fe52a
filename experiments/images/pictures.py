"""Images in figures: gray levels, scales, sheets of samples.

Images come as x in [-1, 1] and are shown as gray levels from 0 (black) to 1 (white), so a
standard deviation or an error in x is halved before it is drawn.
"""

from typing import Any

import numpy as np
from matplotlib.figure import Figure

GRAY = {"cmap": "gray", "vmin": 0.0, "vmax": 1.0}


def gray(x: np.ndarray) -> np.ndarray:
    """Returns `[h, w]` or `[h, w, 3]` in [0, 1] for an image in [-1, 1]."""
    shown = np.clip((np.asarray(x) + 1.0) / 2.0, 0.0, 1.0)
    return shown[..., 0] if shown.shape[-1] == 1 else shown


def over_channels(squares: np.ndarray) -> np.ndarray:
    """Returns `[h, w]`, the root of the mean of squares over channels, in gray levels."""
    return np.sqrt(np.maximum(squares, 0.0).mean(axis=-1)) / 2.0


def scale(figure: Any, drawn: Any, axes: Any, top: float, **options: Any) -> Any:
    """Adds a color bar that names its ends, 0 and the top, and returns it.

    Args:
      figure: the figure, or a part of it.
      drawn: the image whose colors are shown.
      axes: one or several, beside which it goes.
      top: the value of the brightest color.
      **options: of `figure.colorbar`, such as its location.
    """
    bar = figure.colorbar(drawn, ax=axes, **options)
    bar.set_ticks([0.0, top], labels=["0", f"{top:.2f}" if top >= 0.095 else f"{top:.2g}"])
    if bar.orientation == "horizontal":  # within its own width, clear of its neighbors
        for label, side in zip(bar.ax.get_xticklabels(), ("left", "right"), strict=True):
            label.set_horizontalalignment(side)
    return bar


def bare(axes: np.ndarray) -> None:
    """Takes the ticks off axes that hold pictures."""
    for ax in axes.flat:
        ax.set_xticks([])
        ax.set_yticks([])


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
        ax.imshow(gray(image), **GRAY)
    figure.suptitle(f"Samples of the flow trained on {dataset}")
    return figure
