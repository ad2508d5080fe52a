"""The pictures of the ablations: bars with their spread over seeds, curves, and derivatives."""

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from experiments.fdm._ablations import measures
from experiments.fdm._errors import RUN_AWAY

SPACES = {"plane": "2 dimensions", "space": "16 dimensions"}
# What is drawn over time, so that a figure stays legible.
SHOWN = ("flow matching", "exact", "1 probe", "Jacobian, 1 probe")


def figures(found: dict[str, Any]) -> dict[str, Figure]:
    """Returns every figure, for the problems that were run."""
    problems = {name: rows for name, rows in found.items() if name in SPACES}
    pictures = {}
    for name, rows in problems.items():
        pictures[f"{name}_bars"] = bars(rows, SPACES[name])
        pictures[f"{name}_curves"] = curves(rows, SPACES[name])
        pictures[f"{name}_derivatives"] = derivatives(rows, SPACES[name])
    return pictures


def _numbers(row: dict[str, Any]) -> dict[str, list[float]]:
    """Returns the numbers of every seed that the bars show."""
    numbers = {
        "flow error\n$E|v - u|^2/d$": row["curve"]["flow"][-1],
        "divergence error\n" + r"$E(\sigma r)^2/d$": row["curve"]["divergence"][-1],
        "KL(data, model), nats": row["relative_entropy"],
    }
    if "total_variation" in row:
        numbers["total variation\nat t = 1"] = row["total_variation"]["1"]
    return numbers


def bars(rows: dict[str, dict[str, Any]], title: str) -> Figure:
    """Returns a bar for every variant: mean over seeds, each seed a dot, flow matching a line."""
    names = list(rows)
    labels = [f"{name}  ({rows[name]['time']:.1f})" for name in names]
    columns = list(_numbers(rows[names[0]]))
    figure = Figure(
        figsize=(4.6 + 3.1 * len(columns), 0.42 * len(names) + 2.2), layout="constrained"
    )
    axes = figure.subplots(1, len(columns), sharey=True)
    for ax, column in zip(axes, columns, strict=True):
        values = [np.asarray(_numbers(rows[name])[column]) for name in names]
        colors = ["0.6" if name.startswith("flow") else "C0" for name in names]
        ax.barh(range(len(names)), [v.mean() for v in values], color=colors)
        for row, value in enumerate(values):
            ax.plot(value, np.full(len(value), row), "k.", markersize=5)
        ax.axvline(values[0].mean(), color="0.4", linestyle=":")
        # A variant that is far off must not flatten the others.
        top = 1.6 * float(np.median([v.max() for v in values]))
        ax.set_xlim(0.0, min(top, 1.05 * max(v.max() for v in values)))
        for row, value in enumerate(values):
            if value.mean() > top:
                text = "ran away" if value.max() >= RUN_AWAY else f"{value.mean():.3g}"
                ax.annotate(f"{text} →", (top, row), ha="right", va="center", color="w")
        ax.set_xlabel(column)
        ax.locator_params(axis="x", nbins=4)
    axes[0].set_yticks(range(len(names)), labels=labels)
    axes[0].invert_yaxis()
    figure.suptitle(f"{title}: errors against the exact field (in brackets: training time, FM = 1)")
    return figure


def curves(rows: dict[str, dict[str, Any]], title: str) -> Figure:
    """Returns both errors over training time, in steps of flow matching."""
    figure = Figure(figsize=(13.0, 4.6), layout="constrained")
    axes = figure.subplots(1, 2)
    longest = max((n for n in rows if n.startswith("flow")), key=lambda n: rows[n]["steps"])
    for name in (longest, *(n for n in SHOWN[1:] if n in rows)):
        row = rows[name]
        for ax, kind in zip(axes, ("flow", "divergence"), strict=True):
            values = np.asarray(row["curve"][kind])
            at = row["time"] * np.arange(1, len(values) + 1) / len(values)
            style = {"color": "0.4"} if name == longest else {}
            (line,) = ax.plot(
                at, values.mean(axis=1), label="flow matching" if name == longest else name, **style
            )
            ax.fill_between(
                at, values.min(axis=1), values.max(axis=1), color=line.get_color(), alpha=0.2
            )
    axes[0].set(ylabel="$E|v - u|^2/d$", title="flow error")
    axes[1].set(ylabel=r"$E(\sigma r)^2/d$", title="divergence error")
    for ax in axes:
        ax.set(yscale="log", xlabel="training time (flow matching = 1)")
    axes[0].legend(fontsize=11)
    figure.suptitle(f"{title}: at equal time, bands over seeds")
    return figure


def derivatives(rows: dict[str, dict[str, Any]], title: str) -> Figure:
    """Returns the size of the derivative along learned trajectories, and of the exact field."""
    figure = Figure(figsize=(13.0, 4.6), layout="constrained")
    axes = figure.subplots(1, 2)
    lines = {name: rows[name]["smoothness"] for name in SHOWN if name in rows}
    lines["exact field"] = rows["flow matching"]["exact_smoothness"]
    for name, values in lines.items():
        style = {"color": "black", "linestyle": ":"} if name == "exact field" else {}
        for ax, kind in zip(axes, ("norm", "divergence"), strict=True):
            mean = np.atleast_2d(values[f"{kind}_mean"]).mean(axis=0)
            (line,) = ax.plot(measures.TIMES, mean, label=name, **style)
            top = np.atleast_2d(values[f"{kind}_max"]).mean(axis=0)
            ax.plot(
                measures.TIMES,
                top,
                color=line.get_color(),
                alpha=0.5,
                linewidth=1.0,
                **({"linestyle": ":"} if style else {}),
            )
    axes[0].set(title="spectral norm of ∇v", ylabel="mean (thick), maximum (thin)")
    axes[1].set(title="|div v| / d")
    for ax in axes:
        ax.set(xlabel="t", yscale="log")
    axes[0].legend(fontsize=11)
    figure.suptitle(f"{title}: the derivative along the network's own trajectories")
    return figure
