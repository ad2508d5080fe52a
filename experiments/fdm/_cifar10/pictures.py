"""The pictures of `experiments.fdm.cifar10`: samples, bits per dimension, noise of the probes."""

from typing import Any

import numpy as np
from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.fdm._cifar10.divergences import COUNTS, EXACT, NONE
from experiments.fdm._cifar10.tables import NOISES
from experiments.images import data
from experiments.images import pictures as images_pictures

COLORS = {"FM": "tab:blue", "FDM": "tab:orange"}
MARKERS = {"hutchinson": "o", "exact": "s"}


def figures(
    results: dict[str, Any],
    arrays: dict[str, Any],
    images: data.Images,
    shown: int,
    *,
    dataset: str,
) -> dict[str, Figure]:
    """Returns the figures of a run by name, of what was measured.

    Args:
      results: the numbers.
      arrays: the samples among them.
      images: the data set.
      shown: images in a row.
      dataset: the name for the titles.
    """
    made = {"samples": samples(arrays["samples"], images, shown, dataset=dataset)}
    if "likelihood" in results:
        made["bits"] = bits(results["likelihood"], dataset=dataset)
    if "divergences" in results:
        made["probes"] = probes(results["divergences"])
    return made


def samples(
    drawn: dict[str, np.ndarray], images: data.Images, shown: int, *, dataset: str
) -> Figure:
    """Returns held-out images, and below them samples of each network from the same noises."""
    named = {"held-out images": images.held_out}
    for name, pixels in drawn.items():
        noise, method = name.split("/")
        named[f"{method}, {NOISES[noise]}"] = pixels
    shown = min(shown, *map(len, named.values()))
    figure = Figure(figsize=(0.9 * shown + 2.6, 0.9 * len(named) + 0.7), layout="constrained")
    axes = figure.subplots(len(named), shown, squeeze=False)
    for line, (name, pixels) in zip(axes, named.items(), strict=True):
        for ax, image in zip(line, data.centers(pixels[:shown], images.levels), strict=True):
            ax.imshow(images_pictures.gray(image), **images_pictures.GRAY)
        line[0].set_ylabel(name, rotation=0, ha="right", va="center")
    images_pictures.bare(axes)
    figure.suptitle(f"Samples and data, {dataset}: one noise a column")
    return figure


def bits(found: dict[str, Any], *, dataset: str) -> Figure:
    """Returns bits per dimension over the number of draws, and the gap to the likelihood's check.

    A panel for each noise within the bins; error bars are standard errors over the images.
    """
    noises = list(found["fdm_minus_fm"])
    figure = Figure(figsize=(5.2 * len(noises) + 4.6, 4.6), layout="constrained")
    *panels, right = figure.subplots(1, len(noises) + 1)
    for ax, noise in zip(panels, noises, strict=True):
        _bounds(ax, {m: found["networks"][f"{noise}/{m}"] for m in COLORS})
        ax.set_title(f"{NOISES[noise]} noise in the bins")
    panels[0].set_ylabel("bits per dimension, held out")
    low = min(ax.get_ylim()[0] for ax in panels)
    high = max(ax.get_ylim()[1] for ax in panels)
    for ax in panels:
        ax.set_ylim(low, high)
    panels[0].legend(fontsize=10)
    for place, (name, made) in enumerate(found["networks"].items()):
        noise, method = name.split("/")
        gap = made["without_jacobian"]["gap"]
        right.errorbar(
            place, gap["mean"], gap["standard_error"], fmt="o", color=COLORS[method], capsize=4
        )
    parts = map(_parts, found["networks"])
    ticks = [f"{method}\n{NOISES[noise].replace(' ', chr(10))}" for noise, method in parts]
    right.set_xticks(range(len(ticks)), ticks, fontsize=10)
    right.axhline(0.0, color="black", linewidth=0.8)
    right.margins(x=0.2)
    right.set(ylabel="bits per dimension, errors - flow", title="likelihood without a Jacobian")
    figure.suptitle(f"Likelihood of {dataset}, mean and standard error over images")
    return figure


def _parts(name: str) -> tuple[str, str]:
    noise, method = name.split("/")
    return noise, method


def _bounds(ax: Axes, networks: dict[str, Any]) -> None:
    """Draws the bits of both methods over the draws, a line for each divergence."""
    shift = {"FM": 0.97, "FDM": 1.03}
    for method, made in networks.items():
        for way, marker in MARKERS.items():
            rows = [row for row in made["bits_per_dim"] if row["divergence"] == way]
            if not rows:
                continue
            x = shift[method] * np.array([row["draws"] for row in rows])
            mean, error = ([row[k] for row in rows] for k in ("mean", "standard_error"))
            label = f"{method}, {'random probes' if way == 'hutchinson' else 'exact'}"
            label += f", {rows[0]['num_images']} images"
            style = {"marker": marker, "color": COLORS[method], "capsize": 3, "label": label}
            ax.errorbar(x, mean, error, linestyle="--" if way == "exact" else "-", **style)
    draws = [row["draws"] for row in next(iter(networks.values()))["bits_per_dim"]]
    ticks = sorted(set(draws))
    ax.set_xscale("log")
    ax.set_xticks(ticks, [str(k) for k in ticks])
    ax.minorticks_off()
    ax.set_xlabel("draws K of the noise")


def probes(found: dict[str, Any]) -> Figure:
    """Returns the noise of penalty and gradient over the probes, and the short trainings."""
    figure = Figure(figsize=(14.0, 4.6), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    spread = found["noise"]
    rows = [spread[f"{k} probe{'s' * (k > 1)}"] for k in COUNTS]
    for ax, key, label in (
        (left, "penalty_variance", "relative to the exact penalty squared"),
        (middle, "gradient_variance", "relative to the exact gradient squared"),
    ):
        ax.plot(COUNTS, [row[key] for row in rows], "o-", color="tab:blue", label="variance")
        ax.plot(
            [2], [spread["product of 2"][key]], "D", color="tab:green", label="product of 2 probes"
        )
        ax.set(xscale="log", yscale="log", xlabel="probes", ylabel=label)
        ax.set_xticks(COUNTS, [str(k) for k in COUNTS])
        ax.xaxis.set_minor_locator(ticker.NullLocator())
    # What is left of it after the draws' own part may be negative: nothing is seen of it then.
    biases = [row["gradient_bias"] if row["gradient_bias"] > 0 else np.nan for row in rows]
    middle.plot(COUNTS, biases, "x--", color="tab:red", label="bias squared")
    left.set_title("penalty of fixed pairs")
    middle.set_title("its gradient")
    middle.legend(fontsize=10)
    left.legend(fontsize=10)
    named = [name for name in found["trained"] if name not in (NONE, EXACT)]
    named = [NONE, EXACT, *named]
    for place, name in enumerate(named):
        row = found["trained"][name]["penalty_above"]
        right.errorbar(place, row["mean"], row["standard_error"], fmt="o", color="0.3", capsize=4)
    right.axhline(0.0, color="black", linewidth=0.8)
    right.set_xticks(range(len(named)), named, rotation=40, ha="right", fontsize=10)
    right.set(ylabel="held-out penalty above that by\nthe exact divergence, paired")
    right.set_title("after a short training")
    return figure
