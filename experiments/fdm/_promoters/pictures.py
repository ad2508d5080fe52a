"""The pictures of `experiments.fdm.promoters`: logos, motifs by place, distances, the training."""

import itertools
from typing import Any

import logomaker
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.fdm._promoters import measures, motifs
from experiments.fdm._promoters.sequences import LETTERS

_OF_DATA = {"training data": "tab:gray", "held out": "black"}
_OF_METHODS = ("tab:blue", "tab:orange", "tab:red", "tab:purple", "tab:brown", "tab:pink")
_AROUND = (-45, 16)  # letters from the start site that a logo shows
_TITLES = {
    "tv": "TV by\nposition",
    "kl": "KL(data,\nsamples)",
    "reverse_kl": "KL(samples,\ndata)",
    **{f"words_{word}": f"TV of\n{word}-mers" for word in measures.WORDS},
    "frechet": "Frechet\ndistance",
    "sp_mse": "SP-MSE",
}


def figures(
    results: dict[str, Any],
    letters: dict[str, np.ndarray],
    labels: np.ndarray,
    history: dict[str, list[dict[str, float]]],
    *,
    start: int | None,
    title: str,
) -> dict[str, Figure]:
    """Returns the figures of a run by name.

    Args:
      results: the numbers of the run.
      letters: `[n, length]` by name, the sets of sequences, with "held out" among them.
      labels: `[n]`, the classes of all of them.
      history: the lines of the trainings, by method.
      start: place of the start site; None draws the first letters, and no motifs.
      title: of the run.
    """
    classes = results["classes"]
    found = {
        "logos": logos(letters, labels, classes, start, title),
        "distances": distances(results["sets"], title),
        "training": training(history, title),
    }
    if start is not None:
        found["motifs"] = by_place(letters, labels, classes, start, title)
    return found


def _methods(named: dict[str, Any]) -> list[str]:
    return [name for name in named if name not in _OF_DATA]


def _colors(methods: list[str]) -> dict[str, str]:
    """Returns a color for every method."""
    return dict(zip(methods, itertools.cycle(_OF_METHODS), strict=False))


def logos(
    letters: dict[str, np.ndarray],
    labels: np.ndarray,
    classes: list[str],
    start: int | None,
    title: str,
) -> Figure:
    """Returns a logo of every set and class: the information of each position, in bits."""
    names = ["held out", *_methods(letters)]
    length, zero = letters[names[0]].shape[1], 0 if start is None else start
    low = 0 if start is None else max(zero + _AROUND[0], 0)
    high = min(low + _AROUND[1] - _AROUND[0], length)
    rows = [(name, index) for index in range(min(len(classes), 2)) for name in names]
    figure = Figure(figsize=(12.0, 1.5 * len(rows) + 0.8), layout="constrained")
    axes = figure.subplots(len(rows), 1, sharex=True, squeeze=False)[:, 0]
    for ax, (name, index) in zip(axes, rows, strict=True):
        chosen = letters[name][labels == index][:, low:high]
        _logo(ax, chosen, np.arange(low, high) - zero)
        ax.set(ylabel="bits", title=f"{name}, {classes[index]} ({len(chosen)} sequences)")
    for index in range(min(len(classes), 2)):
        own = [ax for ax, row in zip(axes, rows, strict=True) if row[1] == index]
        top = max(ax.get_ylim()[1] for ax in own)
        for ax in own:
            ax.set(ylim=(0, top))
    what = "position" if start is None else "position, counted from the start site"
    axes[-1].set(xlabel=what)
    figure.suptitle(title)
    return figure


def _logo(ax: Axes, letters: np.ndarray, places: np.ndarray) -> None:
    p = measures.frequencies(letters)
    bits = 2 + (p * np.log2(p)).sum(axis=1, keepdims=True)
    table = pd.DataFrame(p * bits, index=places, columns=list(LETTERS))
    logomaker.Logo(table, ax=ax, color_scheme="classic", show_spines=False)


def by_place(
    letters: dict[str, np.ndarray],
    labels: np.ndarray,
    classes: list[str],
    start: int,
    title: str,
) -> Figure:
    """Returns how many sequences have a motif beginning at each place, by class."""
    shown = range(min(len(classes), 2))
    figure = Figure(figsize=(12.0, 3.4 * len(shown)), layout="constrained")
    axes = figure.subplots(len(shown), len(motifs.MOTIFS), squeeze=False)
    shares = measures.background(letters["held out"])
    colors = {"held out": _OF_DATA["held out"]} | _colors(_methods(letters))
    for column, motif in enumerate(motifs.MOTIFS):
        for row in shown:
            ax = axes[row, column]
            for name, color in colors.items():
                found = motifs.hits(letters[name][labels == row], motif, shares).mean(axis=0)
                ax.plot(np.arange(len(found)) - start, 100 * found, color=color, label=name)
            ax.axvspan(*motif.window, color="tab:green", alpha=0.15, linewidth=0)
            ax.set(xlim=(-90, 40), ylim=(0, None), title=f"{motif.name}, {classes[row]}")
            ax.set(xlabel="beginning, counted from the start site", ylabel="% of sequences")
    axes[0, 0].legend()
    figure.suptitle(f"Motifs by place; where they act is green. {title}")
    return figure


def distances(sets: dict[str, Any], title: str) -> Figure:
    """Returns every distance from held-out sequences over the one of as many training sequences."""
    base = sets["training data"]
    keys = [key for key in _TITLES if key in base]
    figure = Figure(figsize=(1.5 * len(keys) + 1.0, 4.2), layout="constrained")
    ax = figure.subplots()
    colors = _colors(_methods(sets))
    shifts = 0.12 * (np.arange(len(colors)) - (len(colors) - 1) / 2)
    for shift, (name, color) in zip(shifts, colors.items(), strict=True):
        ratios = [sets[name][key] / base[key] for key in keys]
        ax.plot(np.arange(len(keys)) + shift, ratios, "o", color=color, label=name)
    ax.axhline(1.0, color=_OF_DATA["training data"], label="as many training sequences")
    ax.set(yscale="log", ylabel="distance over that of training data")
    ax.yaxis.set_major_formatter("{x:g}")
    ax.yaxis.set_minor_formatter("")
    ax.set_xticks(np.arange(len(keys)), [_TITLES[key] for key in keys], fontsize=10)
    ax.legend()
    figure.suptitle(f"Distances of samples from held-out sequences. {title}")
    return figure


def training(history: dict[str, list[dict[str, float]]], title: str) -> Figure:
    """Returns the cross-entropy of held-out letters during the training."""
    figure = Figure(figsize=(6.5, 4.2), layout="constrained")
    ax = figure.subplots()
    colors = _colors(list(history))
    for name, rows in history.items():
        steps, values = ([row[key] for row in rows] for key in ("step", "held_out_loss"))
        ax.plot(steps, values, "o-", markersize=4, color=colors[name], label=name)
    ax.set(xlabel="training step", ylabel="cross-entropy of held-out letters, nats")
    ax.legend()
    figure.suptitle(title)
    return figure
