"""The pictures of the checkerboard: densities, training curves, and the sweep over the weight."""

import math
import os
from typing import Any

import jax
import numpy as np
from etils import epath
from matplotlib.figure import Figure

from experiments.fdm._checkerboard import law
from experiments.run.folder import read_metrics


def figures(folder: os.PathLike, rows: list[dict[str, Any]]) -> dict[str, Figure]:
    """Returns every figure of a run.

    Args:
      folder: the run folder, from whose metrics the curves come.
      rows: the evaluated networks.
    """
    return {
        "densities": densities(rows),
        "curves": curves(epath.Path(folder), rows),
        "path": variation(rows),
        "weights": sweep(rows),
    }


def name_of(weight: float) -> str:
    """Returns what a network of this weight is called."""
    return f"FDM, weight {weight:g}" if weight else "flow matching"


def densities(rows: list[dict[str, Any]]) -> Figure:
    """Returns the density of every weight at t = 1, of the first seed, beside the exact one."""
    shown = [row for row in rows if row["seed"] == rows[0]["seed"]]
    points = round(len(rows[0]["grid"]) ** 0.5)
    grid, _ = law.grid(points)
    exact = np.exp(jax.vmap(law.density.log_prob)(grid))
    panels = [("exact", exact)] + [
        (f"{name_of(row['weight'])}\nexp(mean log p) = {100 * row['density']:.3f}e-2", row["grid"])
        for row in shown
    ]
    figure = Figure(figsize=(4.2 * len(panels), 4.6), layout="constrained")
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    e = law.EXTENT
    for ax, (title, values) in zip(axes, panels, strict=True):
        picture = np.asarray(values).reshape(points, points)
        drawn = ax.imshow(
            picture, origin="lower", extent=(-e, e, -e, e), cmap="magma", vmin=0.0, vmax=0.035
        )
        ax.set(title=title, xlabel="$x_1$")
    axes[0].set_ylabel("$x_2$")
    figure.colorbar(drawn, ax=axes, label="density at t = 1", extend="max", shrink=0.8)
    return figure


def curves(folder: epath.Path, rows: list[dict[str, Any]]) -> Figure:
    """Returns log-likelihood and errors over training, a line for each seed."""
    figure = Figure(figsize=(15.0, 4.6), layout="constrained")
    axes = figure.subplots(1, 3)
    names = ("log_likelihood", "flow_error", "residual")
    for row in rows:
        metrics = read_metrics(folder / row["folder"], "flow_error")
        steps = [line["step"] for line in metrics]
        label = name_of(row["weight"]) if row["seed"] == rows[0]["seed"] else None
        for ax, name in zip(axes, names, strict=True):
            values = [line[name] for line in metrics]
            ax.plot(steps, values, color=_color(row, rows), alpha=0.8, label=label)
    axes[0].axhline(math.log(law.CEILING), color="black", linestyle=":", label="ceiling")
    axes[0].set(ylabel="mean log-likelihood (nats)", title="fresh data")
    axes[1].set(ylabel=r"E $(v - u)^2$ per dimension", title="error of the velocity", yscale="log")
    axes[2].set(ylabel=r"E $|\sigma r|$", title="error of the divergence", yscale="log")
    for ax in axes:
        ax.set_xlabel("training step")
    axes[0].legend(fontsize=11)
    return figure


def variation(rows: list[dict[str, Any]]) -> Figure:
    """Returns the total variation from the exact density along the path."""
    figure = Figure(figsize=(7.5, 5.0), layout="constrained")
    ax = figure.subplots()
    for row in rows:
        times = [float(t) for t in row["total_variation"]]
        label = name_of(row["weight"]) if row["seed"] == rows[0]["seed"] else None
        values = list(row["total_variation"].values())
        ax.plot(times, values, "o-", color=_color(row, rows), alpha=0.8, label=label)
    ax.set(xlabel="t (noise at 0, data at 1)", ylabel="total variation from the exact density")
    ax.set_ylim(bottom=0.0)
    ax.legend()
    return figure


def sweep(rows: list[dict[str, Any]]) -> Figure:
    """Returns the final mean log-likelihood of every network against its weight."""
    weights = list(dict.fromkeys(row["weight"] for row in rows))
    figure = Figure(figsize=(7.5, 5.0), layout="constrained")
    ax = figure.subplots()
    for place, weight in enumerate(weights):
        mine = [row for row in rows if row["weight"] == weight]
        ax.errorbar(
            np.full(len(mine), place) + np.linspace(-0.12, 0.12, len(mine) + 2)[1:-1],
            [row["log_likelihood"] for row in mine],
            [row["standard_error"] for row in mine],
            fmt="o",
            color=_color(mine[0], rows),
            capsize=3,
        )
    ax.axhline(math.log(law.CEILING), color="black", linestyle=":", label="ceiling")
    ax.set_xticks(range(len(weights)), [f"{weight:g}" for weight in weights])
    ax.set(xlabel="weight of the divergence (0: flow matching)")
    ax.set(ylabel="mean log-likelihood (nats)", title="a point for each seed, ± standard error")
    ax.legend()
    return figure


def _color(row: dict[str, Any], rows: list[dict[str, Any]]) -> str:
    weights = list(dict.fromkeys(other["weight"] for other in rows))
    return f"C{weights.index(row['weight'])}"
