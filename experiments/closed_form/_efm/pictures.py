"""The pictures of empirical flow matching: distances over the training, copies, samples."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.images import data
from experiments.images import pictures as images_pictures
from experiments.run import numbers
from experiments.run import pictures as run_pictures


def figures(
    rows: list[dict[str, Any]],
    of_data: list[dict[str, Any]],
    levels: int,
    *,
    dataset: str,
    space: str,
) -> dict[str, Figure]:
    """Returns every figure of a run on images.

    Args:
      rows: for every network its method, seed, curve, final numbers and images that are shown.
      of_data: the rows of held-out and of training images.
      levels: values that a pixel can take.
      dataset: the name for the titles.
      space: that of the space of the distances.
    """
    return {
        "frechet": curves(rows, of_data, dataset=dataset, space=space),
        "copies": copies(rows, of_data, dataset=dataset),
        "samples": samples(rows, levels, dataset=dataset),
    }


def curves(
    rows: list[dict[str, Any]], of_data: list[dict[str, Any]], *, dataset: str, space: str
) -> Figure:
    """Returns both distances over the epochs, and of the test distance how far it is from CFM's."""
    methods = numbers.by_method(rows)
    panels = 2 + ("CFM" in methods)  # against CFM only where it is there
    figure = Figure(figsize=(5.4 * panels, 5.4), layout="constrained")
    axes = figure.subplots(1, panels)
    floors = [of_data[1]["frechet_test"], of_data[0]["frechet_train"]]
    epochs = run_pictures.of_curves(rows[:1], "epoch")[0]
    for ax, name, floor in zip(axes, ("frechet_test", "frechet_train"), floors, strict=False):
        for place, (method, mine) in enumerate(methods.items()):
            run_pictures.band(ax, epochs, run_pictures.of_curves(mine, name), method, place)
        ax.axhline(floor, color="black", linestyle=":", linewidth=1)
        run_pictures.log_x(ax, epochs, "epoch")
        run_pictures.log_y(ax, "Fréchet distance")
    counts = [row["num_images"] for row in of_data]
    axes[0].set_title(f"to held-out images\n(dotted: {counts[1]} training images)")
    axes[1].set_title(f"to training images\n(dotted: {counts[0]} held-out images)")
    axes[0].legend(fontsize=11)
    if "CFM" in methods:
        _gaps(axes[2], epochs, methods)
    seeds = len({row["seed"] for row in rows})
    figure.suptitle(f"Flow matching on {dataset}, in {space}: mean and range of {seeds} seed(s)")
    return figure


def _gaps(ax: Axes, epochs: np.ndarray, methods: dict[str, list[dict[str, Any]]]) -> None:
    """Draws how far each method's test distance is from CFM's, the mean over the same seeds.

    Without bands: those of six methods cover each other; the spread at the end is in the table.
    """
    base = {row["seed"]: row for row in methods.get("CFM", [])}
    for place, mine in enumerate(methods.values()):
        pairs = [(row, base[row["seed"]]) for row in mine if row["seed"] in base]
        if pairs:
            mine, theirs = (
                run_pictures.of_curves(side, "frechet_test") for side in zip(*pairs, strict=True)
            )
            mean = 100 * (mine / theirs - 1).mean(axis=0)
            ax.plot(epochs, mean, "o-", markersize=3, color=f"C{place}")
    run_pictures.log_x(ax, epochs, "epoch")
    ax.set_ylabel("above CFM of the same seed, %")
    ax.set_title("to held-out images,\nagainst CFM (means)")


def copies(rows: list[dict[str, Any]], of_data: list[dict[str, Any]], *, dataset: str) -> Figure:
    """Returns how near every network's images are to the training images, a point for each seed."""
    methods = numbers.by_method(rows)
    figure = Figure(figsize=(13.0, 4.8), layout="constrained")
    labels = {
        "memorized": "share that repeats a training image",
        "nearest_distance": "distance to the nearest training\nimage (Euclidean, x in [-1, 1])",
    }
    for ax, (name, label) in zip(figure.subplots(1, 2), labels.items(), strict=True):
        for place, mine in enumerate(methods.values()):
            values = [row[name] for row in mine]
            shift = np.linspace(-0.12, 0.12, len(values) + 2)[1:-1]
            ax.plot(place + shift, values, "o", color=f"C{place}")
        ax.axhline(of_data[0][name], color="black", linestyle=":", label="held-out images")
        ax.set_xticks(range(len(methods)), list(methods), rotation=30)
        ax.set_ylabel(label)
        top = 1.08 * max(*(row[name] for row in rows), of_data[0][name], 0.02)
        ax.set_ylim(-0.03 * top, top)
        ax.legend(fontsize=11, loc="center right")
    figure.suptitle(f"Generated images beside the training images ({dataset}), a point a seed")
    return figure


def samples(rows: list[dict[str, Any]], levels: int, *, dataset: str) -> Figure:
    """Returns images of every method with the first seed: a row each, from the same noises."""
    shown = [row for row in rows if row["seed"] == rows[0]["seed"]]
    columns = len(shown[0]["shown"])
    figure = Figure(figsize=(0.9 * columns + 1.6, 0.9 * len(shown) + 0.9), layout="constrained")
    axes = figure.subplots(len(shown), columns, squeeze=False)
    for line, row in zip(axes, shown, strict=True):
        images = data.centers(np.array(row["shown"], np.uint8), levels)
        for ax, image in zip(line, images, strict=True):
            ax.imshow(images_pictures.gray(image), **images_pictures.GRAY)
        line[0].set_ylabel(row["method"], rotation=0, ha="right", va="center")
    images_pictures.bare(axes)
    figure.suptitle(f"One noise a column, {dataset}")
    return figure
