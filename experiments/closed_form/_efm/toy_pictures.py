"""The pictures of empirical flow matching in the plane: errors over the training, and points."""

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from experiments.run import numbers
from experiments.run.pictures import band, log_x, log_y, of_curves


def figures(
    rows: list[dict[str, Any]], of_data: list[dict[str, Any]], data: str
) -> dict[str, Figure]:
    """Returns every figure of a run in the plane.

    Args:
      rows: for every network its method, seed, curve and generated points, and training points.
      of_data: for every seed the variance of the target of CFM, and the distance between training
        and test points.
      data: the name of the data.
    """
    return {"training": training(rows, of_data, data), "points": points(rows)}


def training(rows: list[dict[str, Any]], of_data: list[dict[str, Any]], data: str) -> Figure:
    """Returns loss, error of the velocity and both distances over the training."""
    methods = numbers.by_method(rows)
    distance = "2-Wasserstein distance"
    panels = {
        "loss": ("loss of a batch", "training loss\n(dotted: variance of the target of CFM)"),
        "velocity_error": (
            r"E $(v - \hat{u})^2$",
            "error of the velocity against\nthe exact field",
        ),
        "w2_train": (distance, "generated to training points\n(dotted: test to training points)"),
        "w2_test": (distance, "generated to test points\n(dotted: training to test points)"),
    }
    figure = Figure(figsize=(13.0, 9.6), layout="constrained")
    axes = dict(zip(panels, figure.subplots(2, 2).flat, strict=True))
    steps = of_curves(rows[:1], "step")[0]
    for name, (label, title) in panels.items():
        for place, (method, mine) in enumerate(methods.items()):
            band(axes[name], steps, of_curves(mine, name), method, place)
        log_x(axes[name], steps, "training step")
        log_y(axes[name], label)
        axes[name].set_title(title)
    floors = {"loss": "variance", "w2_train": "w2_train_test", "w2_test": "w2_train_test"}
    for name, floor in floors.items():
        level = np.mean([row[floor] for row in of_data])
        axes[name].axhline(level, color="black", linestyle=":", linewidth=1)
    axes["velocity_error"].legend(fontsize=11)
    name = data.replace("$", r"\$")
    figure.suptitle(f"{name}: mean and range of {len(of_data)} seed(s), squares per dimension")
    return figure


def points(rows: list[dict[str, Any]]) -> Figure:
    """Returns the points that the networks of the first seed generate, over training points."""
    shown = [row for row in rows if row["seed"] == rows[0]["seed"]]
    low, high = np.min(rows[0]["train"]), np.max(rows[0]["train"])
    room = (low - 0.25 * (high - low), high + 0.25 * (high - low))
    figure = Figure(figsize=(4.6 * len(shown), 5.0), layout="constrained")
    axes = figure.subplots(1, len(shown), squeeze=False)[0]
    for place, (ax, row) in enumerate(zip(axes, shown, strict=True)):
        ax.scatter(*np.asarray(row["train"]).T, s=8, color="0.75", label="training points")
        ax.scatter(*np.asarray(row["points"]).T, s=8, color=f"C{place}", label="generated")
        ax.set(title=row["method"], xlabel="$x_1$", xlim=room, ylim=room, aspect="equal")
        ax.legend(fontsize=10, loc="center")
    axes[0].set_ylabel("$x_2$")
    return figure
