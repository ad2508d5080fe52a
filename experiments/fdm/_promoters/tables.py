"""The summary that `experiments.fdm.promoters` prints at the end of a run."""

import os
from typing import Any

from experiments.fdm._promoters.measures import WORDS

_TITLES = {
    "tv": "TV by position",
    "kl": "KL(data, samples)",
    "reverse_kl": "KL(samples, data)",
    **{f"words_{word}": f"TV of {word}-mers" for word in WORDS},
    "frechet": "Frechet distance",
    "sp_mse": "SP-MSE",
}


def report(results: dict[str, Any], folder: os.PathLike) -> str:
    """Returns the summary."""
    sets, names = results["sets"], list(results["sets"])
    lines = [f"{results['num_samples']} sequences of each, against as many held-out ones"]
    lines.append(_line("", names))
    for key, title in _TITLES.items():
        if key in sets[names[0]]:
            lines.append(_line(title, [f"{sets[name][key]:.5f}" for name in names]))
    lines += _motifs(sets, results["motifs_held_out"], results["classes"], names)
    if results["classifier"] is not None:
        accuracy, most = (results["classifier"][key] for key in ("accuracy", "most"))
        lines.append(
            f"the classifier recognizes {accuracy:.1%} of the held-out sequences, of which "
            f"{most:.1%} are of one class"
        )
    entropies = ", ".join(f"{name} {value:.5f}" for name, value in results["held_out_loss"].items())
    lines.append(f"cross-entropy of held-out letters, nats per letter: {entropies}")
    lines.append(f"time of a step, FDM over FM: {results['step_ratio']:.2f}")
    lines.append(
        f"everything is in {folder}: config.json, results.json, arrays.npz, figures/, the networks"
    )
    return "\n".join(lines)


def _motifs(
    sets: dict[str, Any], held_out: dict[str, Any] | None, classes: list[str], names: list[str]
) -> list[str]:
    """Returns the shares of sequences with a motif in its place."""
    if held_out is None:
        return []
    lines = ["share of the sequences with a motif where it acts"]
    lines.append(_line("", [*names, "held out"]))
    for motif, shares in held_out.items():
        for index, name in enumerate(classes):
            cells = [f"{sets[key]['motifs'][motif][index]:.3f}" for key in names]
            lines.append(_line(f"{motif}, {name}", [*cells, f"{shares[index]:.3f}"]))
    return lines


def _line(label: str, cells: list[str]) -> str:
    return f" {label:22s}" + "".join(f"{cell:>16s}" for cell in cells)
