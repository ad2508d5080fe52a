"""The numbers that `experiments.fdm.strain` keeps, and the tables that it prints at its end."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from experiments.fdm._strain.measures import SIGNS, Trajectory
from experiments.run import numbers

TITLES = {
    "rotation": "rotation |R|",
    "uncertainty": "uncertainty U",
    "speed": "speed |v|",
    "jacobian": "error of J (unknown)",
}
CURVES = {
    "equal": "equal steps",
    "rate": "by the greatest rate",
    "local": "by local errors",
    "error": "by the bound of the error",
    "adaptive": "adaptive",
}


def summarize(
    local: dict[str, np.ndarray], grown: Trajectory, solved: dict[str, Any]
) -> dict[str, Any]:
    """Returns the numbers of a run, means and spreads over the networks.

    Args:
      local: from each measure of `measures.at_time` to `[seeds, times]`.
      grown: trajectories, `[seeds, starts, times]` in front.
      solved: the `curves` of `steps.curves`.
    """
    share = local["rotation"] / local["jacobian"]
    by_time = {
        name: [numbers.summary(column) for column in values.T]
        for name, values in (local | {"share": share}).items()
    }
    stretched, greatest = grown.stretch[..., -1, 1], grown.greatest[..., -1]
    shrunk, least = grown.stretch[..., -1, 0], grown.least[..., -1]
    apart, bound = grown.apart[..., -1], grown.bound[..., -1]
    median = lambda values: numbers.summary(np.median(values, axis=1))  # noqa: E731
    growth = {
        "greatest": median(greatest),
        "stretch": median(stretched),
        "least": median(least),
        "shrinking": median(shrunk),
        "outside": numbers.summary(np.mean(stretched > greatest + 0.01, axis=1)),
        "apart": median(apart),
        "bound_over_apart": median(bound / apart),
        "beyond_bound": numbers.summary(np.mean(apart > bound, axis=1)),
    }
    curves = {
        name: {
            "evaluations": curve["evaluations"].mean(axis=0),
            "error": [numbers.summary(column) for column in curve["error"].T],
        }
        for name, curve in solved["curves"].items()
    }
    return {"by_time": by_time, "growth": growth, "curves": curves}


def report(results: dict[str, Any], times: Sequence[float]) -> str:
    """Returns the summary that is printed at the end of a run."""
    cell = lambda value, form: f"{value['mean']:{form}} ± {value['std']:{form}}"  # noqa: E731
    line = lambda title, cells: f"{title:34s}" + "".join(f"{c:>18s}" for c in cells)  # noqa: E731
    by_time = results["by_time"]
    lines = ["mean ± standard deviation over the networks"]
    lines.append(line("t", [f"{t:g}" for t in times]))
    rows = {"error |v - u|^2 / d": "error", "error of J, squared / d": "jacobian"}
    rows |= {"share of it that is rotation": "share"}
    lines += [line(title, [cell(v, ".3f") for v in by_time[key]]) for title, key in rows.items()]
    lines += ["rank correlation with the error of a state, over the states of one time"]
    for name in SIGNS:
        lines.append(line(TITLES[name], [cell(v, ".2f") for v in by_time[f"rank_{name}"]]))
    words = {
        "stretch": "greatest factor of the flow, logarithm, median",
        "greatest": "its bound, the integral of the greatest rate",
        "shrinking": "least factor",
        "least": "its bound",
        "outside": "share of factors above their bound by 0.01",
        "apart": "distance from the true end, median",
        "bound_over_apart": "its bound over it, median",
        "beyond_bound": "share of distances beyond their bound",
    }
    lines += [f"{words[key]:50s}{cell(results['growth'][key], '.3f')}" for key in words]
    lines += [
        "median error of a coordinate at the end (evaluations of the field), by the choice of steps"
    ]
    for name, curve in results["curves"].items():
        found = zip(curve["evaluations"], curve["error"], strict=True)
        cells = [f"{error['mean']:.2g} ({used:.0f})" for used, error in found]
        lines.append(line(CURVES[name], cells))
    return "\n".join(lines)
