"""The summary that `experiments.fdm.dna` prints at the end of a run."""

import os
from typing import Any

import numpy as np

from experiments.fdm._dna import measures

_TITLES = {"tv": "TV of marginals", "kl": "KL(law, samples)", "reverse_kl": "KL(samples, law)"}


def report(results: dict[str, Any], folder: os.PathLike) -> str:
    """Returns the summary."""
    lines = ["predictions from the exact ones, KL in nats per position: mean (standard deviation)"]
    lines.append(_line("t", [f"{t:g}" for t in measures.TIMES]))
    for name, made in results.items():
        if "surplus" in made:
            lines.append(_line(name, [_cell(row, 6) for row in made["surplus"]]))
    for reading in measures.READINGS:
        lines.append(f"samples, letters {reading} from the last prediction")
        lines.append(_line("", list(_TITLES.values())))
        rows = {name: made[reading] for name, made in results.items() if reading in made}
        lines += [_line(name, [_cell(row[key]) for key in _TITLES]) for name, row in rows.items()]
        less = [np.subtract(rows["FDM"][key]["seeds"], rows["FM"][key]["seeds"]) for key in _TITLES]
        cells = [_cell({"mean": gap.mean(), "std": gap.std(ddof=1)}) for gap in less]
        lines.append(_line("FDM - FM", cells))
    lines.append(
        f"everything is in {folder}: config.json, results.json, figures/, and the networks"
    )
    return "\n".join(lines)


def _cell(row: dict[str, float], digits: int = 5) -> str:
    return f"{row['mean']:.{digits}f} ({row['std']:.{digits}f})"


def _line(label: str, cells: list[str]) -> str:
    return f" {label:12s}" + "".join(f"{cell:>22s}" for cell in cells)
