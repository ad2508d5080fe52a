"""The figures of `experiments.closed_form.one_step`: the gradient's variance, scores, samples."""

from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import ScalarFormatter

from experiments.images import pictures as images_pictures

_COLORS = {
    "pairs": "tab:blue",
    "exact tangent": "tab:green",
    "exact": "tab:orange",
    "divergence": "tab:red",
}
_LABELS = {
    "pairs": "MeanFlow, on pairs",
    "exact tangent": "exact tangent",
    "exact": "exact field",
    "divergence": "exact field, divergence",
}


def figures(
    arrays: dict[str, np.ndarray],
    history: dict[str, list[dict[str, float]]],
    results: dict[str, Any],
    *,
    dataset: str,
) -> dict[str, Figure]:
    """Returns the figures of a run by name.

    Args:
      arrays: samples of the first network of each method, `[n, h, w, c]`.
      history: the metrics of each method.
      results: what the run writes.
      dataset: the name for the titles.
    """
    return {
        "scores": scores(history, results, dataset=dataset),
        "samples": samples(arrays, dataset=dataset),
    }


def scores(
    history: dict[str, list[dict[str, float]]], results: dict[str, Any], *, dataset: str
) -> Figure:
    """Returns the gradient's variance by target and tangent, and the scores over the training."""
    figure = Figure(figsize=(16.0, 5.0), layout="constrained")
    left, *others = figure.subplots(1, 3)
    for place, found in enumerate(results["gradients"].values()):
        value = found["variance"]
        left.bar(place, value["mean"], yerr=value["std"], capsize=4, color="gray")
    names = [name.replace(", ", "\n") for name in results["gradients"]]
    left.set_xticks(range(len(names)), names)
    left.set(xlabel="target, tangent", ylabel="variance of the gradient of one pair")
    left.set(title="the noise of the gradient")
    for ax, score, title in (
        (others[0], "frechet_test", "distance to held-out images"),
        (others[1], "memorized", "copies of training images"),
    ):
        for method, lines in history.items():
            steps = [line["step"] for line in lines]
            seeds = [key for key in lines[0] if key.startswith(f"{score}_")]
            values = np.array([[line[key] for key in seeds] for line in lines])
            mean, std = values.mean(1), values.std(1, ddof=1)
            ax.plot(steps, mean, "o-", color=_COLORS[method], label=_LABELS[method])
            ax.fill_between(steps, mean - std, mean + std, color=_COLORS[method], alpha=0.2)
        there = results["held_out"][score]
        if score == "memorized":
            ax.axhline(there, color="black", ls="--", label="held-out images")
        ax.set(xlabel="training steps", title=title)
    others[0].set(ylabel="Fréchet distance, pixels", yscale="log")
    others[0].yaxis.set_major_formatter(ScalarFormatter())
    others[0].yaxis.set_minor_formatter(ScalarFormatter())
    others[1].set_ylim(0.0, max(0.05, others[1].get_ylim()[1]))
    others[1].set(ylabel="share of one-step samples")
    others[1].legend(fontsize=11)
    figure.suptitle(f"One-step models of {dataset}, trained on pairs and on the exact field")
    return figure


def samples(arrays: dict[str, np.ndarray], *, dataset: str) -> Figure:
    """Returns a row of one-step samples for each method, from the same noise."""
    columns = len(next(iter(arrays.values())))
    figure = Figure(figsize=(0.8 * columns + 3.4, 0.85 * len(arrays) + 0.7), layout="constrained")
    axes = figure.subplots(len(arrays), columns, squeeze=False)
    for row, (method, images) in zip(axes, arrays.items(), strict=True):
        for ax, image in zip(row, images, strict=True):
            ax.imshow(images_pictures.gray(image), **images_pictures.GRAY)
        row[0].set_ylabel(_LABELS[method], rotation=0, ha="right", va="center", fontsize=12)
    images_pictures.bare(axes)
    figure.suptitle(f"One-step samples ({dataset}); each column one noise, of the first seed")
    return figure
