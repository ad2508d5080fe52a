"""The summary that `experiments.uncertainty.maps` prints at the end of a run."""

import os
from typing import Any

from experiments.uncertainty import _calibration


def report(results: dict[str, Any], folder: os.PathLike) -> str:
    """Returns the summary that is printed at the end of a run.

    Args:
      results: what `maps.evaluate` returns.
      folder: the run folder.
    """
    count = results["uncertainty"][0]["num_images"]
    lines = [f"uncertainty U of {count} held-out images against the error of the posterior mean"]
    lines.append(_calibration.table(results["uncertainty"]))
    trained = ", ".join(f"{row['ratio']:.2f}" for row in results["uncertainty_train"])
    lines.append(f"E[error]/E[U] on training images at the same times: {trained}")
    edges = ", ".join(f"{row['ratio']:.1f}" for row in results["edges"])
    lines.append(f"variance on the edges of generated images over elsewhere: {edges}")
    for part in ("train", "held_out"):
        gaps = ", ".join(f"{row['median_relative_error']:.2f}" for row in results["exact"][part])
        law = "their data set" if part == "train" else "the best kernel density"
        lines.append(f"U against the exact one of {law}, {part.replace('_', '-')} states: {gaps}")
    if "rivals" in results:
        lines += ["other measures: Pearson correlation with the error, passes, time ratio"]
        lines += [_rival(results["rivals"], row) for row in results["rivals"]["costs"][1:]]
    if "likelihood" in results:
        likelihood = results["likelihood"]
        lines.append(
            f"held-out negative log-likelihood: {likelihood['bits_per_dim']:.3f} ± "
            f"{likelihood['standard_error']:.3f} bits per dimension ({likelihood['how']})"
        )
    lines.append(f"everything is in {folder}: config.json, metrics.jsonl, results.json, figures/")
    return "\n".join(lines)


def _rival(results: dict[str, Any], cost: dict[str, Any]) -> str:
    """Returns the line of one method: its correlations in the order of the times, its cost."""
    mine = [row for row in results["rows"] if row["method"] == cost["method"]]
    correlations = " ".join(f"{row['pearson']:5.2f}" for row in sorted(mine, key=lambda r: r["t"]))
    return f" {cost['method']:30s} {correlations}  {cost['passes']:6d} F  {cost['time_ratio']:8.1f}"
