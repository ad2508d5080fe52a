"""The tables that `experiments.fdm.cifar10` prints at its end."""

import os
from typing import Any

from experiments.run.numbers import with_spread

NOISES = {"uniform": "uniform", "truncated": "truncated normal"}


def report(results: dict[str, Any], folder: os.PathLike) -> str:
    """Returns the summary of a run."""
    lines = []
    if "likelihood" in results:
        lines += likelihoods(results["likelihood"])
    if "quality" in results:
        lines += quality(results["quality"])
    if "divergences" in results:
        lines += divergences(results["divergences"])
    cost = results["costs"]["FDM"]
    lines.append(
        f"a step of FDM takes {cost['time_ratio']:.2f} steps of FM, {cost['milliseconds']:.1f} ms"
    )
    lines.append(
        f"everything is in {folder}: config.json, results.json, figures/, and the networks"
    )
    return "\n".join(lines)


def likelihoods(found: dict[str, Any]) -> list[str]:
    """Returns the lines of the likelihoods, in bits per dimension."""
    lines = ["bits per dimension of held-out images, mean ± standard error"]
    rows = next(iter(found["networks"].values()))["bits_per_dim"]
    heads = [f"{row['divergence']}, K = {row['draws']}" for row in rows]
    lines.append(_line("noise in the bins / method", heads))
    for name, made in found["networks"].items():
        lines.append(_line(_title(name), [_cell(row) for row in made["bits_per_dim"]]))
    counts = ", ".join(
        f"{row['num_images']} images by {row['divergence']}" for row in rows if row["draws"] == 1
    )
    lines.append(f" ({counts} divergence; K draws of the noise in the bins)")
    for noise, gap in found["fdm_minus_fm"].items():
        how = f"{gap['divergence']}, K = {gap['draws']}"
        lines.append(f" {NOISES[noise]}: FDM - FM on the same images {_cell(gap, '+')} ({how})")
    heads = ["Hutchinson - exact", "of the flow", "of the errors", "errors - flow"]
    lines.append("the same images and noise by two divergences; and without a Jacobian")
    lines.append(_line("", heads))
    for name, made in found["networks"].items():
        both, without = made.get("hutchinson_minus_exact"), made["without_jacobian"]
        cells = ["-" if both is None else _cell(both, "+")]
        cells += [_cell(without["flow"]), _cell(without["errors"]), _cell(without["gap"], "+")]
        lines.append(_line(_title(name), cells))
    return lines


def quality(found: dict[str, Any]) -> list[str]:
    """Returns the lines of the Frechet distances."""
    lines = [f"Frechet distance in {found['space']}"]
    lines.append(_line("", ["to held-out", "to training", "images"]))
    rows = {_title(name): row for name, row in found["networks"].items()}
    rows |= {row["method"]: row for row in found["data"]}
    for name, row in rows.items():
        cells = [with_spread([row[k]], ".3f") for k in ("frechet_test", "frechet_train")]
        lines.append(_line(name, [*cells, str(row["num_images"])]))
    return lines


def divergences(found: dict[str, Any]) -> list[str]:
    """Returns the lines of the divergence in the loss."""
    lines = ["the divergence in the loss: noise of the probes alone, relative to the exact square"]
    heads = ["penalty", "its variance", "gradient: variance", "bias squared"]
    heads += ["then: held-out loss", "penalty", "above exact"]
    lines.append(_line("", heads))
    for name, made in found["trained"].items():
        spread = found["noise"].get(name)
        cells = ["-"] * 4
        if spread is not None:
            keys = ("penalty", "penalty_variance", "gradient_variance", "gradient_bias")
            cells = [f"{spread[key]:.3g}" for key in keys]
        cells += [_cell(made["flow"]), _cell(made["penalty"]), _cell(made["penalty_above"], "+")]
        lines.append(_line(name, cells))
    return lines


def _title(name: str) -> str:
    noise, method = name.split("/")
    return f"{NOISES[noise]} / {method}"


def _cell(row: dict[str, float], sign: str = "") -> str:
    return f"{row['mean']:{sign}.3f} ± {row['standard_error']:.3f}"


def _line(label: str, cells: list[str]) -> str:
    return f" {label:28s}" + "".join(f"{cell:>20s}" for cell in cells)
