"""The pictures of the closed form: what networks learn of it, and flows that change over to it.

Colors go with the number of training images, the darkest with the fewest, or with one noise.
"""

from typing import Any

import matplotlib as mpl
import matplotlib.ticker
import numpy as np
from matplotlib.figure import Figure

from experiments.images import data
from experiments.images import pictures as images_pictures

GAPS = {"on_path": "on the path of the training images", "along_flow": "along its own trajectories"}


def learning(rows: list[dict[str, Any]], images: data.Images, *, dataset: str) -> dict[str, Figure]:
    """Returns the figures of `learning` by name.

    Args:
      rows: the networks, in the order of n.
      images: the data set.
      dataset: the name for the titles.
    """
    return {"learning": curves(rows, dataset=dataset), "samples": nearest(rows, images)}


def curves(rows: list[dict[str, Any]], *, dataset: str) -> Figure:
    """Returns the error over t of every network, and quality and novelty of its samples over n."""
    figure = Figure(figsize=(17.0, 7.6), layout="constrained")
    grid = figure.add_gridspec(2, 3, width_ratios=[1.25, 1.0, 1.0])
    above = figure.add_subplot(grid[0, 0])
    panels = [above, figure.add_subplot(grid[1, 0], sharex=above)]
    for ax, (name, title) in zip(panels, GAPS.items(), strict=True):
        for row, color in zip(rows, _shades(len(rows)), strict=True):
            gaps = row["gaps"]
            ax.plot(gaps["times"], gaps[name], color=color, linewidth=2, label=f"n = {row['n']}")
            ax.axvline(row["collapse_time"], color=color, linestyle=":", linewidth=1.2)
        ax.set(yscale="log", title=title, ylabel=r"E $|v - u^\ast|^2$ / d")
        ax.grid(alpha=0.3)
    panels[1].set_xlabel("t (noise at 0, data at 1); dotted: predicted collapse")
    panels[1].legend(fontsize=10, loc="upper left", ncols=2)
    _quality(figure.add_subplot(grid[:, 1]), rows)
    _novelty(figure.add_subplot(grid[:, 2]), rows)
    figure.suptitle(f"Networks trained on n images against the exact field of these ({dataset})")
    return figure


def _shades(count: int) -> list[tuple[float, ...]]:
    return list(mpl.colormaps["viridis"](np.linspace(0.0, 0.9, count)))


def _quality(ax: Any, rows: list[dict[str, Any]]) -> None:
    """Draws the Frechet distances over n."""
    n = [row["n"] for row in rows]
    lines = {
        "frechet_held_out": ("o-", "tab:purple", "samples to held-out images"),
        "frechet_held_out_of_copies": ("--", "black", "copies of the n to held-out images"),
        "frechet_train": ("s-", "tab:orange", "samples to the n images"),
    }
    for name, (style, color, label) in lines.items():
        ax.plot(n, [row[name] for row in rows], style, color=color, label=label, linewidth=2)
    ax.set(yscale="log", ylabel=f"Fréchet distance in {rows[0]['space']}")
    ax.yaxis.set_major_locator(mpl.ticker.LogLocator(subs=(1.0, 2.0, 5.0)))
    ax.yaxis.set_major_formatter("{x:g}")
    ax.yaxis.set_minor_formatter("")
    _over_n(ax, n)
    ax.set_title(f"quality of {rows[0]['num_compared']} samples")
    ax.grid(alpha=0.3)
    ax.legend(fontsize=11)


def _novelty(ax: Any, rows: list[dict[str, Any]]) -> None:
    """Draws the distances to the nearest training image over n, and the share memorized."""
    n = [row["n"] for row in rows]
    error = [row["distance_standard_error"] for row in rows]
    ax.errorbar(n, [row["distance"] for row in rows], error, fmt="o-", color="tab:purple",
                label="samples", linewidth=2, capsize=3)  # fmt: skip
    for name, style, label in (
        ("distance_of_held_out", ":", "held-out images"),
        ("distance_within", "--", "the n images, to each other"),
    ):
        values = [row[name] for row in rows]
        ax.plot(n, values, style, color="black", label=label, linewidth=2)
    for row in rows:
        share, at = f"{row['memorized']:.0%}", (row["n"], row["distance"])
        ax.annotate(share, at, xytext=(2, 9), textcoords="offset points", ha="center",
                    fontsize=11, color="tab:purple")  # fmt: skip
    ax.set(ylim=(0.0, None), ylabel="Euclidean distance to the nearest of the n")
    _over_n(ax, n)
    ax.set_title("novelty; in percent the share memorized")
    ax.grid(alpha=0.3)
    ax.legend(fontsize=11)


def _over_n(ax: Any, n: list[int]) -> None:
    """Makes the axis of x that of the numbers of images, each of them named."""
    ax.set(xscale="log", xlabel="n, training images", xlim=(n[0] / 1.7, n[-1] * 1.5))
    ax.set_xticks(n, [str(count) for count in n], rotation=45)
    ax.set_xticks([], minor=True)


def nearest(rows: list[dict[str, Any]], images: data.Images) -> Figure:
    """Returns samples of every network, each above the training image that is nearest to it.

    Args:
      rows: the networks, with `shown`.
      images: the data set.
    """
    count = len(rows[0]["shown"]["nearest"])
    figure = Figure(figsize=(0.9 * count + 1.6, 1.95 * len(rows) + 0.9), layout="constrained")
    axes = figure.subplots(2 * len(rows), count, squeeze=False)
    for place, row in enumerate(rows):
        shown = [row["shown"]["samples"], images.train[row["shown"]["nearest"]]]
        for line, pictures in zip(axes[2 * place : 2 * place + 2], shown, strict=True):
            for ax, picture in zip(line, np.asarray(pictures), strict=True):
                ax.imshow(
                    images_pictures.gray(data.centers(picture, images.levels)),
                    **images_pictures.GRAY,
                )
        label = {"rotation": 0, "ha": "right", "va": "center"}
        axes[2 * place, 0].set_ylabel(f"n = {row['n']}\nsamples", **label)
        axes[2 * place + 1, 0].set_ylabel("nearest", **label, color="tab:gray")
    images_pictures.bare(axes)
    figure.suptitle("Samples, and below each the nearest of the n training images")
    return figure


COLORS = ("tab:red", "tab:blue", "tab:green", "tab:orange")


def hybrid(results: dict[str, Any], arrays: dict[str, Any], *, dataset: str) -> Figure:
    """Returns the distance to the training images over tau, above the images of four noises.

    Args:
      results: what `hybrid.evaluate` returns first.
      arrays: what it returns second: `images` `[taus, 4, h, w, c]`, and from each space the
        `distances` of the four, `[taus, 4]`.
      dataset: the name for the title.
    """
    taus, images = np.asarray(results["taus"]), arrays["images"]
    cell = float(np.diff(taus).min())
    height, width = images.shape[2:4]
    spaces = results["spaces"]
    # In inches, so that an image stands below its tau and is not distorted.
    wide, left, panel, gap = 13.0, 1.2, 3.6, 0.55
    tall = wide * cell / (1.0 + cell) * height / width
    size = (left + wide + 0.3, 1.1 + len(spaces) * (panel + gap) + 4 * tall)
    figure = Figure(figsize=size)
    place = lambda bottom, height: figure.add_axes(  # noqa: E731
        (left / size[0], bottom / size[1], wide / size[0], height / size[1]),
        xlim=(-cell / 2, 1.0 + cell / 2),
    )
    for line, color in enumerate(COLORS):
        ax = place(0.2 + (3 - line) * tall, tall)
        _strip(ax, taus, images[:, line], cell, color)
    for index, (name, space) in enumerate(spaces.items()):
        ax = place(0.2 + 4 * tall + gap + (len(spaces) - 1 - index) * (panel + gap), panel)
        _over_tau(ax, taus, space, arrays["distances"][name], results["collapse_time"])
        ax.set_ylabel(f"distance to the nearest\ntraining image ({name})")
    ax.set_xlabel("τ: exact field before, network after", labelpad=2)
    figure.axes[4].legend(fontsize=11, loc="lower left")
    figure.suptitle(f"Exact field up to τ, then the network ({dataset})", y=1.0 - 0.3 / size[1])
    return figure


def _over_tau(
    ax: Any, taus: np.ndarray, space: dict[str, Any], four: np.ndarray, collapse: float
) -> None:
    """Draws the mean distance over tau and that of four noises."""
    for distance, color in zip(np.asarray(four).T, COLORS, strict=True):
        ax.plot(taus, distance, color=color, linewidth=1.6)
    ax.errorbar(taus, space["distance"], space["standard_error"], fmt="--", color="black",
                linewidth=3, label="mean")  # fmt: skip
    ax.axhline(space["held_out"], color="gray", linestyle="-.", label="held-out images")
    ax.axvline(collapse, color="black", linestyle=":", label="predicted collapse")
    ax.set_ylim(bottom=min(0.0, ax.get_ylim()[0]))
    ax.grid(alpha=0.3)


def _strip(ax: Any, taus: np.ndarray, images: np.ndarray, cell: float, color: str) -> None:
    """Draws the images of one noise in a row, each at its tau, on a background of its color."""
    for tau, image in zip(taus, images, strict=True):
        extent = (tau - 0.46 * cell, tau + 0.46 * cell, 0.04, 0.96)
        ax.imshow(images_pictures.gray(image), extent=extent, aspect="auto", **images_pictures.GRAY)
    ax.set(facecolor=color, xlim=(-cell / 2, 1.0 + cell / 2), ylim=(0.0, 1.0))
    ax.set_xticks([])
    ax.set_yticks([])
