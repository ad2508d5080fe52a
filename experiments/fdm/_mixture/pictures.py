"""The pictures of `experiments.fdm.mixture`: densities, whole paths, errors in training, bounds."""

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from experiments.fdm._mixture import measures
from experiments.images import pictures as images_pictures
from experiments.run import pictures as run_pictures

COLORS = ("tab:blue", "tab:orange")
TRUTH = {"color": "black", "linewidth": 1.0}


def figures(arrays: dict[str, Any], *, pictured: tuple[float, ...]) -> dict[str, Figure]:
    """Returns the figures of a run by name.

    Args:
      arrays: `times`, `true`, `exact`, `methods` and `history`, of `mixture.evaluate`.
      pictured: times at which densities are drawn.
    """
    return {
        "densities": densities(arrays, pictured),
        "path": whole_path(arrays),
        "training": training(arrays["history"]),
        "bounds": bounds(arrays),
    }


def densities(arrays: dict[str, Any], pictured: tuple[float, ...]) -> Figure:
    """Returns the densities of the flows against the true one, a column for each time.

    Args:
      arrays: `times`, `true` and `methods` of a run.
      pictured: the times, each among those of the run.
    """
    methods = arrays["methods"]
    figure = Figure(figsize=(4.6 * len(pictured), 6.4), layout="constrained")
    axes = figure.subplots(2, len(pictured), sharex=True, squeeze=False, height_ratios=(3, 2))
    for (top, bottom), t in zip(axes.T, pictured, strict=True):
        i = int(np.argmin(np.abs(arrays["times"] - t)))
        true = arrays["true"][i]
        top.fill_between(measures.GRID, true, color="0.85", linewidth=0, label="true")
        bottom.axhline(0.0, **TRUTH)
        distances = []
        for color, (name, made) in zip(COLORS, methods.items(), strict=True):
            run_pictures.spread(top, measures.GRID, made["density"][:, i], color=color, label=name)
            run_pictures.spread(bottom, measures.GRID, made["density"][:, i] - true, color=color)
            distances.append(f"{name} {made['total_variation'][:, i].mean():.3f}")
        top.set_title(f"t = {t:g}\ntotal variation: {', '.join(distances)}")
        bottom.set(xlabel="x", xlim=(-5.0, 5.0))
    axes[0, 0].set_ylabel("density")
    axes[1, 0].set_ylabel("learned - true")
    axes[0, 0].legend(loc="upper right", fontsize=11)
    figure.suptitle("Densities of the flows: mean over the networks, and their range")
    return figure


def whole_path(arrays: dict[str, Any]) -> Figure:
    """Returns the densities over all times as images, and their errors below.

    Args:
      arrays: `times`, `true` and `methods` of a run.
    """
    times, true, methods = arrays["times"], arrays["true"], arrays["methods"]
    means = {name: made["density"].mean(axis=0) for name, made in methods.items()}
    figure = Figure(figsize=(14.0, 8.0), layout="constrained")
    axes = figure.subplots(2, 1 + len(means), sharex=True, sharey=True)
    gaps = [mean - true for mean in means.values()]
    widest = max(float(np.abs(gap).max()) for gap in gaps)
    # The start of the path is known: pure noise.
    start = np.exp(-0.5 * measures.GRID**2)[None] / np.sqrt(2 * np.pi)
    knots = np.concatenate([[0.0], times])
    top = {"cmap": "magma", "vmin": 0.0, "vmax": float(true.max()), "shading": "gouraud"}
    below = {"cmap": "RdBu_r", "vmin": -widest, "vmax": widest, "shading": "gouraud"}
    for ax, (name, mean) in zip(axes[0], ({"true": true} | means).items(), strict=True):
        drawn = ax.pcolormesh(measures.GRID, knots, np.concatenate([start, mean]), **top)
        ax.set_title(name)
    for ax, gap, name in zip(axes[1, 1:], gaps, means, strict=True):
        shown = np.concatenate([0 * start, gap])
        errors = ax.pcolormesh(measures.GRID, knots, shown, **below)
        ax.set(title=f"{name} - true", xlabel="x")
    axes[0, 0].set(ylabel="t (noise at 0, data at 1)", xlim=(-5.0, 5.0))
    axes[1, 0].axis("off")
    images_pictures.scale(figure, drawn, list(axes[0]), top["vmax"], location="right", aspect=16)
    bar = figure.colorbar(errors, ax=list(axes[1]), location="right", aspect=16)
    bar.set_ticks([-widest, 0.0, widest], labels=[f"-{widest:.2f}", "0", f"{widest:.2f}"])
    figure.suptitle("Density along the path, mean over the networks")
    return figure


def training(history: dict[str, list[dict[str, float]]]) -> Figure:
    """Returns losses and errors over the steps of training, for each method.

    Args:
      history: from each method to its evaluations, means over the networks.
    """
    figure = Figure(figsize=(15.0, 5.0), layout="constrained")
    panels = (
        ("what training sees: losses of pairs", "mean square", "linear", measures.ERRORS[:2]),
        ("what is left to learn: errors", "mean square", "log", measures.ERRORS[2:4]),
        ("what bounds the total variation", "mean absolute value", "log", measures.ERRORS[4:]),
    )
    for ax, (title, ylabel, yscale, parts) in zip(figure.subplots(1, 3), panels, strict=True):
        for color, (name, lines) in zip(COLORS, history.items(), strict=True):
            steps = [line["step"] for line in lines]
            for part, dashes in zip(parts, ("-", "--"), strict=False):
                label = f"{name}: {part.removeprefix('conditional_')}"
                values = [line[part] for line in lines]
                ax.plot(steps, values, dashes, color=color, marker="o", markersize=3, label=label)
        ax.set(yscale=yscale, xlabel="step", ylabel=ylabel, title=title)
        ax.legend(fontsize=11)
    figure.suptitle(r"Flow: $(v - u)^2$. Divergence: $(\sigma r)^2$. Residual: $|r|$")
    return figure


def bounds(arrays: dict[str, Any]) -> Figure:
    """Returns the total variation over time against the marginal and the conditional bound.

    Args:
      arrays: `times`, `exact` and `methods` of a run.
    """
    figure = Figure(figsize=(13.5, 5.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    for color, (name, made) in zip(COLORS, arrays["methods"].items(), strict=True):
        options = {"color": color}
        run_pictures.spread(
            left, arrays["times"], made["total_variation"], label=f"{name}: TV", **options
        )
        run_pictures.spread(
            left, arrays["times"], made["bound"], linestyle="--", label=f"{name}: bound", **options
        )
        # At t = 0 nothing has gone wrong yet, and a logarithm has no room for it.
        run_pictures.spread(
            right,
            1 - measures.NEAR_DATA[1:],
            made["conditional_bound"][:, 1:],
            label=name,
            **options,
        )
        rest = arrays["times"] < 1
        run_pictures.spread(
            right,
            1 - arrays["times"][rest],
            made["total_variation"][:, rest],
            linestyle=":",
            **options,
        )
    dashed = TRUTH | {"linestyle": (0, (5, 5))}  # all but equal to the others: let them show
    right.plot(1 - measures.NEAR_DATA[1:], arrays["exact"][1:], label="true velocity", **dashed)
    right.axhline(1.0, color="0.6", linewidth=1, linestyle="-.", label="1: above it says nothing")
    left.set(xlabel="t", ylabel="total variation distance", title="bound of the marginal law")
    right.set(
        xscale="log",
        yscale="log",
        xlabel="1 - t",
        ylabel="total variation distance",
        title="conditional bound (below, dotted: TV)",
    )
    right.invert_xaxis()
    left.legend(fontsize=11)
    right.legend(fontsize=11, loc="center right")
    figure.suptitle("How far the law of the flow is from the path, and what bounds it")
    return figure
