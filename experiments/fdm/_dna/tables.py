"""The summary that `experiments.fdm.dna` prints at the end of a run."""

import os
from typing import Any

from experiments.fdm._dna import measures

_TITLES = {"tv": "TV of marginals", "kl": "KL(law, samples)", "reverse_kl": "KL(samples, law)"}


def report(results: dict[str, Any], folder: os.PathLike) -> str:
    """Returns the summary."""
    lines = ["predictions from the exact ones, KL in nats per position: mean (standard deviation)"]
    lines.append(_line("t", [f"{t:g}" for t in measures.TIMES]))
    for name, made in results.items():
        if "surplus" in made:
            cells = [f"{row['mean']:.5f} ({row['std']:.5f})" for row in made["surplus"]]
            lines.append(_line(name, cells))
    lines.append("samples")
    lines.append(_line("", list(_TITLES.values())))
    for name, made in results.items():
        cells = [f"{made[key]['mean']:.5f} ({made[key]['std']:.5f})" for key in _TITLES]
        lines.append(_line(name, cells))
    lines.append(
        f"everything is in {folder}: config.json, results.json, figures/, and the networks"
    )
    return "\n".join(lines)


def _line(label: str, cells: list[str]) -> str:
    return f" {label:8s}" + "".join(f"{cell:>20s}" for cell in cells)
