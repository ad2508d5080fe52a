"""The pictures of the comparison: what a given time buys, by method; weights; widths; few steps."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from experiments.fdm._convergence.measures import EULER
from experiments.fdm._convergence.training import LAWS

STYLES = {
    "FM": {"color": "0.35", "marker": "o"},
    "FDM": {"color": "C0", "marker": "s"},
    "FDM, Jacobian": {"color": "C2", "marker": "^"},
    "exact field": {"color": "0.35", "marker": "o", "linestyle": "--", "mfc": "w"},
    "exact field, divergence": {"color": "C0", "marker": "s", "linestyle": "--", "mfc": "w"},
    "exact field, Jacobian": {"color": "C2", "marker": "^", "linestyle": "--", "mfc": "w"},
}


def figures(found: dict[str, Any]) -> dict[str, Figure]:
    """Returns every figure, a panel for each law."""
    return {
        "time": _panels(
            found, _time, "What a given training time buys (mean and range over seeds)"
        ),
        "weights": _panels(found, _weights, "The weight of the penalty, on other seeds"),
        "widths": _panels(found, _widths, "Networks of three sizes, at equal steps"),
        "samplers": _panels(found, _samplers, "Samples by few and by many steps of Euler's method"),
    }


def _panels(found: dict[str, Any], draw: Any, title: str) -> Figure:
    columns = min(2, len(found))
    rows = -(-len(found) // columns)
    figure = Figure(figsize=(6.8 * columns, 4.6 * rows + 1.2), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for ax, (law, numbers) in zip(panels, found.items(), strict=False):
        draw(ax, numbers)
        size = LAWS[law].means.shape[1]
        ax.set_title(f"{size} dimension{'s' if size > 1 else ''}")
    for ax in panels[len(found) :]:
        ax.set_axis_off()
    handles = {}
    for ax in panels:
        handles |= dict(zip(*reversed(ax.get_legend_handles_labels()), strict=True))
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=3)
    figure.suptitle(title)
    return figure


def _line(ax: Axes, at: Any, values: Any, method: str) -> None:
    """Draws the mean over seeds and the range; `values` is `[points, seeds]`."""
    at, values = np.asarray(at, float), np.asarray(values, float)
    mean = values.mean(axis=1)
    error = np.abs(np.stack([values.min(axis=1), values.max(axis=1)]) - mean)
    ax.errorbar(at, mean, error, label=method, capsize=3, **STYLES[method])


def _time(ax: Axes, numbers: dict[str, Any]) -> None:
    for method, rows in numbers["budgets"].items():
        at = [int(steps) * row["cost"] for steps, row in rows.items()]
        _line(ax, at, [row["kl"] for row in rows.values()], method)
    ax.axhline(abs(numbers["exact"]["kl"]), color="k", lw=1, ls=":", label="limit of the measure")
    ax.set(
        xscale="log",
        yscale="log",
        xlabel="training time (steps of flow matching)",
        ylabel="KL(data, model), nats",
    )


def _weights(ax: Axes, numbers: dict[str, Any]) -> None:
    for method, row in numbers["weights"].items():
        if row["kl"]:
            _line(ax, [float(w) for w in row["kl"]], list(row["kl"].values()), method)
    ax.set(xscale="log", yscale="log", xlabel="weight", ylabel="KL(data, model), nats")


def _widths(ax: Axes, numbers: dict[str, Any]) -> None:
    for method, rows in numbers["widths"].items():
        _line(ax, [int(w) for w in rows], [row["kl"] for row in rows.values()], method)
    widths = [int(w) for w in rows]
    ax.set(xscale="log", yscale="log", xlabel="width", ylabel="KL(data, model), nats")
    ax.set_xticks(widths, labels=[f"{w}" for w in widths])
    ax.xaxis.set_minor_locator(NullLocator())


def _samplers(ax: Axes, numbers: dict[str, Any]) -> None:
    for method, rows in numbers["budgets"].items():
        row = list(rows.values())[-1]
        _line(ax, EULER, [row[f"kl_euler_{n}"] for n in EULER], method)
    limits = [abs(numbers["exact"][f"kl_euler_{n}"]) for n in EULER]
    ax.plot(EULER, limits, "k:", lw=1, label="the velocity itself")
    ax.set(xscale="log", yscale="log", xlabel="steps of the sampler")
    ax.set_ylabel("KL(model, data), nats")
    ax.set_xticks(EULER, labels=[f"{n}" for n in EULER])
    ax.xaxis.set_minor_locator(NullLocator())
