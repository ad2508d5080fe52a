"""The figures of `experiments.fdm.strain`: rotation and error, growth and bounds, steps."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from experiments.fdm._strain import tables
from experiments.fdm._strain.measures import SIGNS, Trajectory
from experiments.run import pictures as run_pictures

_COLORS = {"equal": "0.4", "rate": "tab:green", "local": "tab:purple", "error": "tab:red"}
_COLORS |= {"adaptive": "tab:blue", "rotation": "tab:red", "uncertainty": "tab:blue"}
_COLORS |= {"speed": "tab:green", "jacobian": "0.5"}


def figures(
    local: dict[str, np.ndarray],
    grown: Trajectory,
    solved: dict[str, Any],
    history: list[dict[str, float]],
    times: Sequence[float],
    grid: np.ndarray,
) -> dict[str, Figure]:
    """Returns the figures of a run by name.

    Args:
      local: from each measure to `[seeds, times]`.
      grown: trajectories, `[seeds, starts, times]` in front.
      solved: the densities of steps and the curves of errors.
      history: the metrics of the training.
      times: of `local`.
      grid: times of the trajectories.
    """
    return {
        "rotation": rotation(local, history, times),
        "growth": growth(grown, grid),
        "steps": chosen(solved, grid),
    }


def rotation(
    local: dict[str, np.ndarray], history: list[dict[str, float]], times: Sequence[float]
) -> Figure:
    """Returns rotation and error over the training, ranks over t, and the share of the error."""
    figure = Figure(figsize=(16.0, 5.0), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    steps = np.array([line["step"] for line in history])
    for name, color, label in (
        ("error", "black", "error $|v - u|^2 / d$ (needs the truth)"),
        ("rotation", "tab:red", "rotation $|R|^2 / d$ (does not)"),
    ):
        keys = [key for key in history[0] if key.startswith(f"{name}_")]
        values = np.array([[line[key] for line in history] for key in keys])
        run_pictures.spread(left, steps, values, color=color, marker="o", label=label)
    left.set(xlabel="training steps", yscale="log", ylabel="mean over states and times")
    left.set(title="over the training")
    for name in SIGNS:
        style = "--" if name == "jacobian" else "-"
        given = {"color": _COLORS[name], "label": tables.TITLES[name], "linestyle": style}
        run_pictures.spread(middle, np.array(times), local[f"rank_{name}"], marker="o", **given)
    middle.axhline(0.0, color="black", linewidth=0.8)
    middle.set(xlabel="t", ylabel="rank correlation with the error of a state")
    middle.set(title="does it point to where the network errs?", ylim=(-1.0, 1.0))
    share = local["rotation"] / local["jacobian"]
    run_pictures.spread(right, np.array(times), share, color="tab:red", marker="o")
    right.set(xlabel="t", ylabel="$|R|^2$ / squared error of the Jacobian", ylim=(0.0, None))
    right.set(title="the part of the error that is seen")
    left.legend(fontsize=11, loc="upper right")
    middle.legend(fontsize=11, loc="lower left")
    return figure


def growth(grown: Trajectory, grid: np.ndarray) -> Figure:
    """Returns the stretching of the flow within its bounds, and distances against theirs."""
    figure = Figure(figsize=(12.0, 5.0), layout="constrained")
    left, right = figure.subplots(1, 2)
    flat = lambda values: values.reshape(-1, values.shape[-1])  # noqa: E731
    for values, color, label in (
        (grown.greatest, "tab:red", r"$\int \lambda_{\max}$, the upper bound"),
        (grown.stretch[..., 1], "black", "greatest factor of the flow"),
        (grown.stretch[..., 0], "0.5", "least factor of the flow"),
        (grown.least, "tab:blue", r"$\int \lambda_{\min}$, the lower bound"),
    ):
        low, middle, high = np.quantile(flat(values), (0.1, 0.5, 0.9), axis=0)
        left.plot(grid, middle, color=color, label=label)
        left.fill_between(grid, low, high, color=color, alpha=0.2, linewidth=0)
    left.set(xlabel="t", ylabel="logarithm of a factor, nats (median, 10 % to 90 %)")
    left.set(title="how much a flow stretches from 0 to t")
    left.legend(fontsize=10, loc="lower left")
    apart, bound = grown.apart[..., -1], grown.bound[..., -1]
    for index, (x, y) in enumerate(zip(bound, apart, strict=True)):
        right.scatter(x, y, s=16, alpha=0.7, label=f"network {index + 1}")
    ends = min(apart.min(), bound.min()), max(apart.max(), bound.max())
    right.plot(ends, ends, color="black", linewidth=1.0, label="the bound is reached")
    right.set(xscale="log", yscale="log", xlabel="bound by the errors and the greatest rate")
    right.set(ylabel="distance of the ends of network and truth")
    right.set(title="the same noise by the network and by the truth")
    right.legend(fontsize=11)
    return figure


def chosen(solved: dict[str, Any], grid: np.ndarray) -> Figure:
    """Returns the densities of steps over t, and the errors against evaluations."""
    figure = Figure(figsize=(12.0, 5.0), layout="constrained")
    left, right = figure.subplots(1, 2)
    for name, values in solved["densities"].items():
        shares = values / np.trapezoid(values, grid, axis=1)[:, None]
        run_pictures.spread(left, grid, shares, color=_COLORS[name], label=tables.CURVES[name])
    left.axhline(1.0, color=_COLORS["equal"], label=tables.CURVES["equal"])
    left.set(xlabel="t", ylabel="steps per unit of time, over their number")
    left.set(title="where the steps go", ylim=(0.0, None))
    for name, curve in solved["curves"].items():
        style = "--" if name == "adaptive" else "-"
        given = {"color": _COLORS[name], "label": tables.CURVES[name], "linestyle": style}
        run_pictures.spread(
            right, curve["evaluations"].mean(axis=0), curve["error"], marker="o", **given
        )
    right.set(xscale="log", yscale="log", xlabel="evaluations of the field for a sample")
    right.set(ylabel="median error of a coordinate at t = 1", title="Heun's method")
    right.set_xticks([8, 16, 32, 64], ["8", "16", "32", "64"])
    right.minorticks_off()
    left.legend(fontsize=11, loc="lower left")
    right.legend(fontsize=11)
    return figure
