"""The pictures of `experiments.closed_form.cosine`: histograms, means over time, image sizes."""

from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from experiments.closed_form._cosine import measures
from experiments.images import data

Found = dict[str, list[dict[str, Any]]]
"""From each data set to what `cosine.measure` returned for its sizes, the largest last, each with
a "label"."""


def figures(found: Found) -> dict[str, Figure]:
    """Returns the figures of a run by name; without images there are no sizes to draw."""
    whole = [entries[-1] for entries in found.values()]
    pictures = {"histograms": histograms(whole), "means": means(whole)}
    images = {name: found[name] for name in found if len(found[name][-1]["shape"]) == 3}
    return pictures | ({"sizes": sizes(images)} if images else {})


def _column(entry: dict[str, Any], name: str) -> np.ndarray:
    """Returns one number of every row, `[times]`."""
    return np.array([row[name] for row in entry["rows"]])


def _title(entry: dict[str, Any]) -> str:
    return f"{entry['label']}\nd = {entry['dimension']}, n = {entry['num_points']:,}"


def histograms(whole: list[dict[str, Any]]) -> Figure:
    """Returns the shares of pairs in bins of the cosine: a row for each data set (figure 1a).

    Args:
      whole: for each data set, what was measured at its own size.
    """
    rows = [measures.pictured(entry) for entry in whole]
    figure = Figure(figsize=(15.0, 2.3 * len(whole) + 1.0), layout="constrained")
    axes = figure.subplots(len(whole), len(rows[0]), sharex=True, sharey=True, squeeze=False)
    for entry, line, places in zip(whole, rows, axes, strict=True):
        for ax, row in zip(places, line, strict=True):
            ax.stairs(row["frequencies"], measures.EDGES, fill=True, color="tab:blue")
            ax.axvline(row["mean_cosine"], color="tab:orange", linewidth=2)
            ax.text(-0.95, 0.88, f"mean {row['mean_cosine']:.2f}", color="tab:orange")
        places[0].set_ylabel(f"{_title(entry)}\nshare of pairs", fontsize=11)
    for ax, row in zip(axes[0], rows[0], strict=True):
        ax.set(title=f"t = {row['t']:.2f}", xlim=(-1.06, 1.06), ylim=(0.0, 1.05))
        ax.set(xticks=(-1, 0, 1), yticks=(0, 0.5, 1))
    figure.supxlabel("cosine of the exact velocity and $x_1 - x_0$ at $x_t$")
    return figure


def means(whole: list[dict[str, Any]]) -> Figure:
    """Returns the mean cosine and the mean weight of the true point over time.

    Args:
      whole: for each data set, what was measured at its own size.
    """
    figure = Figure(figsize=(14.0, 5.2), layout="constrained")
    left, right = figure.subplots(1, 2, sharex=True)
    for index, entry in enumerate(whole):
        color, t = f"C{index}", _column(entry, "t")
        mean, error = (_column(entry, name) for name in ("mean_cosine", "standard_error"))
        left.plot(t, mean, color=color, label=f"{entry['label']}, d = {entry['dimension']}")
        left.fill_between(t, mean - error, mean + error, color=color, alpha=0.25, linewidth=0)
        right.plot(t, _column(entry, "mean_weight"), color=color)
        for ax in (left, right):
            ax.axvline(entry["predicted"], color=color, linestyle="--", linewidth=1.2)
    right.axhline(0.5, color="0.6", linewidth=1)
    left.plot([], [], "--", color="black", linewidth=1.2, label="collapse, predicted")
    left.set(ylabel="mean cosine", title="exact velocity and $x_1 - x_0$ (band: standard error)")
    right.set(ylabel="mean posterior weight", title="weight of the point that made the state")
    for ax in (left, right):
        ax.set(xlabel="t (noise at 0, data at 1)", xlim=(0.0, 1.0), ylim=(-0.02, 1.03))
    left.legend(loc="lower right", fontsize=11)
    return figure


def sizes(images: Found) -> Figure:
    """Returns the share of cosines above 0.9 over time, a curve for each size (figure 1c).

    Args:
      images: the data sets of images.
    """
    figure = Figure(figsize=(max(5.4 * len(images), 7.5), 5.0), layout="constrained")
    axes = figure.subplots(1, len(images), sharey=True, squeeze=False)[0]
    for ax, (name, entries) in zip(axes, images.items(), strict=True):
        shades = mpl.colormaps["viridis_r"](np.linspace(0.12, 1.0, len(entries)))
        for shade, entry in zip(shades, entries, strict=True):
            label = f"{measures.size_of(entry['shape'])}, d = {entry['dimension']}"
            ax.plot(_column(entry, "t"), _column(entry, "share"), color=shade, label=label)
            ax.axvline(entry["predicted"], color=shade, linestyle="--", linewidth=1.0)
        ax.set(title=f"{data.title(name)}, n = {entries[-1]['num_points']:,}", xlim=(0.0, 1.0))
        ax.set(xlabel="t (noise at 0, data at 1)", ylim=(-0.02, 1.03))
        ax.legend(loc="lower right", fontsize=11)
    axes[0].set_ylabel(f"share of pairs with a cosine above {measures.THRESHOLD}")
    figure.suptitle("Images subsampled to several sizes (dashed: collapse, predicted)")
    return figure
