"""The tables of EFM against the rival losses: distances by method, epoch and seed.

The scores are those of `experiments.images.quality`.
"""

import os
from functools import partial
from typing import Any

import numpy as np

from experiments.run.folder import read_metrics
from experiments.run.numbers import by_method, with_spread


def curve(folder: os.PathLike, per_epoch: int) -> list[dict[str, float]]:
    """Returns epoch, test and train distance of every evaluation during a training."""
    names = ("frechet_test", "frechet_train")
    return [
        {"epoch": line["step"] / per_epoch} | {name: line[name] for name in names}
        for line in read_metrics(folder, names[0])
    ]


def gaps(rows: list[dict[str, Any]], others: list[dict[str, Any]], name: str) -> list[float]:
    """Returns in percent how far rows lie above the rows of another method with the same seed."""
    other = {row["seed"]: row[name] for row in others}
    return [100 * (row[name] / other[row["seed"]] - 1) for row in rows if row["seed"] in other]


def _spread(rows: list[dict[str, Any]], score: str, form: str) -> str:
    return with_spread((row[score] for row in rows), form)


def table(rows: list[dict[str, Any]], of_data: list[dict[str, Any]]) -> str:
    """Returns the final numbers of every method, mean and standard deviation over seeds.

    Args:
      rows: one for every network.
      of_data: from `of_data`.
    """
    methods = by_method(rows)
    head = ["test Frechet", "above CFM, %", "train Frechet", "memorized", "nearest training image"]
    lines = [f"{'method':16s} seeds" + "".join(f"{text:>24s}" for text in head)]
    for name, mine in (methods | by_method(of_data)).items():
        spread = partial(_spread, mine)
        above = gaps(mine, methods.get("CFM", []), "frechet_test") if name in methods else []
        cells = [
            spread("frechet_test", ".3f"),
            with_spread(above, "+.1f") if above and name != "CFM" else "-",
            spread("frechet_train", ".3f"),
            spread("memorized", ".3f"),
            spread("nearest_distance", ".3f"),
        ]
        seeds = str(len(mine)) if name in methods else ""
        lines.append(f"{name:16s} {seeds:>5s}" + "".join(f"{cell:>24s}" for cell in cells))
    return "\n".join(lines)


def epochs_table(rows: list[dict[str, Any]], most: int = 6) -> str:
    """Returns the test distance of every method after some of the epochs, as tables 1 and 2."""
    count = len(rows[0]["curve"])
    chosen = sorted({round(i) for i in np.geomspace(1, count, min(most, count))})
    epochs = [rows[0]["curve"][i - 1]["epoch"] for i in chosen]
    lines = [f"{'epoch':16s}" + "".join(f"{epoch:>20g}" for epoch in epochs)]
    for name, mine in by_method(rows).items():
        cells = [
            with_spread((row["curve"][i - 1]["frechet_test"] for row in mine), ".3f")
            for i in chosen
        ]
        lines.append(f"{name:16s}" + "".join(f"{cell:>20s}" for cell in cells))
    return "\n".join(lines)
