"""The pictures of the trajectory experiment: samples, an event, forecasts and training."""

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from experiments.fdm._trajectories.systems import System

LABELS = {"data": "data", "fm": "FM", "fdm": "FDM", "other": "another trajectory"}
COLORS = {"data": "0.35", "fm": "tab:blue", "fdm": "tab:orange", "other": "0.6"}
_WIDTHS = {"data": 2.0, "fm": 3.6, "fdm": 1.8, "other": 2.0}  # one under the other, both seen
_NAMES = {"lorenz": "the Lorenz system", "fitzhugh_nagumo": "two FitzHugh-Nagumo units"}
_STATES = ("tab:purple", "tab:green", "tab:red", "tab:olive")
_FREE, _GIVEN = 3, 2  # trajectories drawn of each kind


def figures(
    arrays: dict[str, Any], metrics: dict[str, list[dict[str, float]]], system: System
) -> dict[str, Figure]:
    """Returns the figures of a run by name.

    Args:
      arrays: what `trajectories.evaluate` returns second.
      metrics: the lines of metrics.jsonl of each method.
      system: for names and times.
    """
    by_name = {
        "trajectories": trajectories(arrays["free"], arrays["given"], system),
        "statistic": statistic(arrays["statistic_free"], arrays["statistic_given"]),
        "training": training(metrics),
    }
    if "forecasts" in arrays:
        by_name["forecasts"] = forecasts(arrays["forecasts"], arrays["errors"], system)
    return by_name


def _style(name: str) -> dict[str, Any]:
    return {"color": COLORS[name], "label": LABELS[name], "linewidth": _WIDTHS[name]}


def _times(system: System, length: int) -> np.ndarray:
    return system.save_every * np.arange(length)


def trajectories(
    free: dict[str, np.ndarray], given: dict[str, np.ndarray], system: System
) -> Figure:
    """Returns a row of trajectories for the data and each method, the last given the event.

    Args:
      free: from "data" and each method to trajectories `[n, length, d]`.
      given: the same given the event; those of the data may be few.
      system: for names and times.
    """
    columns = _FREE + _GIVEN
    figure = Figure(figsize=(3.0 * columns, 2.3 * len(free) + 0.9), layout="constrained")
    axes = figure.subplots(len(free), columns, sharex=True, sharey=True, squeeze=False)
    for row, name in zip(axes, free, strict=True):
        shown = [*free[name][:_FREE], *given[name][-_GIVEN:]]
        for ax, x in zip(row, shown, strict=False):
            for values, color, label in zip(x.T, _STATES, system.states, strict=False):
                ax.plot(_times(system, len(x)), values, color=color, label=label, linewidth=1.5)
        row[0].set_ylabel(LABELS[name], fontsize=15)
    low, high = np.quantile(free["data"], [0.0, 1.0])
    axes[0, 0].set_ylim(1.4 * low - 0.4 * high, 1.4 * high - 0.4 * low)
    for ax in axes[-1]:
        ax.set_xlabel("time")
    for ax in axes[0, _FREE:]:
        ax.set_title("given the event")
    figure.legend(
        *axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=len(_STATES)
    )
    name = _NAMES.get(system.name, system.name.replace("$", r"\$"))
    figure.suptitle(f"Trajectories of {name} and of the learned flows")
    return figure


def statistic(free: dict[str, np.ndarray], given: dict[str, np.ndarray]) -> Figure:
    """Returns histograms of C, of all trajectories and given the event.

    Args:
      free: from "data" and each method to C of its trajectories.
      given: the same of the trajectories given the event.
    """
    figure = Figure(figsize=(11.0, 4.6), layout="constrained")
    titles = ("all trajectories", "given the event C > 0")
    for ax, values, title in zip(figure.subplots(1, 2), (free, given), titles, strict=True):
        low, high = np.quantile(values["data"], [0.0, 1.0])
        edges = np.linspace(1.2 * low - 0.2 * high, 1.2 * high - 0.2 * low, 43)
        for name, c in values.items():
            filled = {"histtype": "stepfilled", "alpha": 0.4} if name == "data" else {}
            options = {"histtype": "step", **_style(name)} | filled
            within = np.clip(c, edges[0], edges[-1])
            ax.hist(within, edges, density=True, **options)
        ax.axvline(0.0, color="black", linewidth=1, linestyle=":")
        ax.set(xlabel="statistic C", title=title)
        ax.legend()
    figure.axes[0].set_ylabel("density; the rest in the outermost bins")
    return figure


def forecasts(
    drawn: dict[str, np.ndarray], errors: dict[str, np.ndarray], system: System
) -> Figure:
    """Returns forecasts of one held-out trajectory, and the median relative error of all.

    Args:
      drawn: from "data" and each method to `[n, length, d]`.
      errors: from each method, and "other", to relative errors `[n, length]`.
      system: for names and times.
    """
    figure = Figure(figsize=(12.0, 5.0), layout="constrained")
    left, right = figure.subplots(1, 2)
    times = _times(system, next(iter(errors.values())).shape[1])
    typical = np.argsort(errors["fm"].mean(axis=1))[len(errors["fm"]) // 2]
    for name, x in drawn.items():
        style = "--" if name == "data" else "-"
        left.plot(times, x[typical, :, 0], style, **_style(name))
    left.set(
        xlabel="time", ylabel=system.states[0], title="a trajectory of median error, one draw each"
    )
    for name, error in errors.items():
        style = ":" if name == "other" else "-"
        right.plot(times, np.median(error, axis=0), style, **_style(name))
    right.set(xlabel="time", ylabel="median relative error", title="forecasts from three states")
    for ax in (left, right):
        ax.axvspan(0.0, times[2], color="tab:green", alpha=0.15, label="known")
    # Each panel has a curve that the other lacks: one legend of both, where it covers none.
    entries = {
        label: handle
        for ax in (left, right)
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)
    }
    figure.legend(entries.values(), entries, loc="outside lower center", ncols=len(entries))
    return figure


def training(metrics: dict[str, list[dict[str, float]]]) -> Figure:
    """Returns both held-out losses of each method over the training.

    Args:
      metrics: from each method to the lines of its metrics.jsonl.
    """
    figure = Figure(figsize=(11.0, 4.4), layout="constrained")
    titles = {"flow": "flow matching loss", "divergence": "divergence loss"}
    for ax, (quantity, title) in zip(figure.subplots(1, 2), titles.items(), strict=True):
        for name, lines in metrics.items():
            steps, values = ([line[k] for line in lines] for k in ("step", quantity))
            ax.plot(steps, values, "o-", **_style(name))
        ax.set(xlabel="training steps", title=f"held-out {title}")
        ax.legend()
    return figure
