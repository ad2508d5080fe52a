"""The summary that `experiments.fdm.mixture` prints at the end of a run."""

import itertools
import os
from typing import Any

from experiments.fdm._mixture import measures

REPORTED = (0.25, 0.5, 0.75, 1.0)


def report(results: dict[str, Any], names: tuple[str, ...], folder: os.PathLike) -> str:
    """Returns the summary that is printed at the end of a run."""

    def line(label: str, cells: list[str]) -> str:
        return f" {label:22s}" + "".join(f"{cell:>17s}" for cell in cells)

    lines = ["mean over the networks (standard deviation)"]
    lines.append(line("t", [f"{t:g}" for t in REPORTED]))
    for name, part in itertools.product(names, ("total_variation", "bound")):
        by_time = {round(row["t"], 6): row[part] for row in results[name]["by_time"]}
        cells = [f"{by_time[t]['mean']:.4f} ({by_time[t]['std']:.4f})" for t in REPORTED]
        lines.append(line(f"{name}, {part.replace('_', ' ')}", cells))
    lines.append("conditional bound")
    lines.append(line("t", [f"{measures.NEAR_DATA[i]:g}" for i in measures.DECADES]))
    for name, made in results.items():
        cells = [f"{row['mean']:.2f}" for row in made["conditional_bound"]]
        lines.append(line(name, cells))
    lines.append(
        f"everything is in {folder}: config.json, results.json, figures/, and the networks"
    )
    return "\n".join(lines)
