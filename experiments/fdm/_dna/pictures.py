"""The pictures of `experiments.fdm.dna`: predictions along the path and in training, marginals."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.fdm._dna import measures

COLORS = {"FM": "tab:blue", "FDM": "tab:orange"}
MARKERS = {"FM": "o", "FDM": "x"}


def _drawn(frequencies: dict[str, dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {name: frequencies[name][measures.READINGS[0]] for name in COLORS}


def figures(
    arrays: dict[str, Any], history: dict[str, list[dict[str, float]]], *, title: str
) -> dict[str, Figure]:
    """Returns the figures of a run by name."""
    return {
        "predictions": predictions(arrays["surplus"], history, title),
        "marginals": marginals(_drawn(arrays["frequencies"]), arrays["law"], title),
    }


def predictions(
    surplus: dict[str, np.ndarray], history: dict[str, list[dict[str, float]]], title: str
) -> Figure:
    """Returns the error of the predictions over time, and its mean during the training."""
    figure = Figure(figsize=(11.0, 4.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for name, values in surplus.items():
        style = {"color": COLORS[name], "label": name, "marker": MARKERS[name]}
        left.plot(measures.TIMES, values.mean(axis=0), **style)
        low, high = values.min(axis=0), values.max(axis=0)
        left.fill_between(measures.TIMES, low, high, color=COLORS[name], alpha=0.2, linewidth=0)
        rows = history[name]
        right.plot([row["step"] for row in rows], [row["surplus"] for row in rows], **style)
    left.set(xlabel="t (noise at 0, data at 1)", ylabel="KL from the exact, nats per position")
    left.set(ylim=(0, None), title="after the training")
    right.set(xlabel="training step", ylim=(0, None), title="during the training, mean over t")
    left.legend()
    figure.suptitle(f"Predictions of the letters against the exact ones, {title}")
    return figure


def marginals(frequencies: dict[str, np.ndarray], law: np.ndarray, title: str) -> Figure:
    """Returns the frequencies of the letters at every position, most likely letter first."""
    figure = Figure(figsize=(3.4 * min(len(law), 4), 3.6), layout="constrained")
    axes = figure.subplots(1, min(len(law), 4), sharey=True, squeeze=False)[0]
    for position, ax in enumerate(axes):
        _position(ax, {n: f[:, position] for n, f in frequencies.items()}, law[position])
        ax.set(title=f"position {position + 1}", xlabel="letter, by its probability")
    highest = max(law.max(), *(values.mean(axis=0).max() for values in frequencies.values()))
    axes[0].set(ylabel="probability", ylim=(0, 1.05 * highest))
    axes[0].legend(fontsize=10)
    figure.suptitle(f"Letters of samples, {title}: mean over the networks")
    return figure


def _position(ax: Axes, frequencies: dict[str, np.ndarray], law: np.ndarray) -> None:
    order = np.argsort(-law)
    ax.step(np.arange(len(law)), law[order], where="mid", color="black", label="law")
    for name, seen in frequencies.items():
        look = {"marker": MARKERS[name], "markersize": 4, "color": COLORS[name], "label": name}
        ax.plot(seen.mean(axis=0)[order], linestyle="none", **look)
