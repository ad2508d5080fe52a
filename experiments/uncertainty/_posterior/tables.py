"""How an experiment evaluates: many examples a few at a time, and uncertainty against error.

For a velocity that is exact, the squared error of the posterior mean has the scalar uncertainty
U = tr Cov[x1 | x_t] as its conditional mean, whatever the state. So at each t

    E[error] / E[U] = 1,                                                          (1)
    the regression of the error on U has slope one, and
    Pearson(U, error) = sqrt(Var U / Var error),                                  (2)

which is also the best correlation that any function of the state can have with the error. Far
from 1 in (1) the model is over- or underconfident; a correlation below (2) says that its U is
wrong from state to state; above it, that U varies too little (or that few images were used: it
is computed from the model's own U, so it is the ceiling of the exact U only as far as the model
has learned it); and (2) above 1 can only come from a U that is mostly noise.
Correlations are never pooled over t: error and U both fall with t, and pooling measures that.

References:
  Xing et al. (2026), Divergence is Uncertainty, arXiv 2605.00941, section 5.3.
"""

import os
from typing import Any

import jax
import numpy as np

import fmjax


def calibration(t: float, result: dict[str, np.ndarray]) -> dict[str, float]:
    """Returns the row of the table for one time.

    Args:
      t: the time, for the row.
      result: `uncertainty` `[n]` and `error` `[n]`, its squared norm, and `variance` `[n, *dims]`.

    Returns:
      Means, their ratio (1) with its standard error, the correlations of U with the error, the
      best Pearson correlation (2), and the share of entries with a negative variance.
    """
    uncertainty, error = result["uncertainty"], result["error"]
    ratio = error.mean() / uncertainty.mean()
    # Standard error of a ratio of means, by the delta method.
    residual = np.std(error - ratio * uncertainty, ddof=1)
    return {
        "t": t,
        "num_images": len(error),
        "mean_error": float(error.mean()),
        "mean_uncertainty": float(uncertainty.mean()),
        "ratio": float(ratio),
        "ratio_standard_error": float(residual / uncertainty.mean() / len(error) ** 0.5),
        "pearson": float(fmjax.metrics.pearson(uncertainty, error)),
        "spearman": float(fmjax.metrics.spearman(uncertainty, error)),
        "best_pearson": float(uncertainty.std() / error.std()),
        "negative_variances": float((result["variance"] < 0).mean()),
    }


def calibrations(by_time: dict[float, dict[str, np.ndarray]]) -> list[dict[str, float]]:
    """Returns the rows of `calibration` for every time."""
    return [calibration(t, result) for t, result in by_time.items()]


def pooled(by_time: dict[float, dict[str, np.ndarray]]) -> dict[str, float]:
    """Returns the correlations of U with the error over all times at once.

    They are high whatever U knows of an image, since both fall with t: to be shown beside those at
    one t, never instead of them.
    """
    join = lambda name: np.concatenate([result[name] for result in by_time.values()])  # noqa: E731
    uncertainty, error = join("uncertainty"), join("error")
    return {
        "pearson": float(fmjax.metrics.pearson(uncertainty, error)),
        "spearman": float(fmjax.metrics.spearman(uncertainty, error)),
    }


def totals(values: np.ndarray) -> np.ndarray:
    """Returns the sum of every example, `[n]`, of `[n, *dims]`."""
    return values.reshape(len(values), -1).sum(axis=1)


def map_correlations(maps: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Returns the correlation over entries of every pair, `[n]`; NaN where one is constant.

    Args:
      maps: `[n, *dims]`.
      others: `[n, *dims]`.
    """
    pairs = (a.reshape(len(a), -1) for a in (maps, others))
    return np.asarray(jax.vmap(fmjax.metrics.pearson)(*pairs))


def table(rows: list[dict[str, float]]) -> str:
    """Returns the rows of `calibration` as lines of text."""
    lines = ["   t   E[error]     E[U]   E[error]/E[U]   Pearson   Spearman   best Pearson"]
    lines += [
        f" {row['t']:.2f}   {row['mean_error']:8.3f} {row['mean_uncertainty']:8.3f}"
        f"    {row['ratio']:.3f} ± {row['ratio_standard_error']:.3f}  {row['pearson']:8.2f}"
        f" {row['spearman']:10.2f} {row['best_pearson']:14.2f}"
        for row in rows
    ]
    return "\n".join(lines)


def report(results: dict[str, Any], folder: os.PathLike) -> str:
    """Returns the summary that is printed at the end of a run.

    Args:
      results: what `maps.evaluate` returns.
      folder: the run folder.
    """
    count = results["uncertainty"][0]["num_images"]
    lines = [f"uncertainty U of {count} held-out images against the error of the posterior mean"]
    lines.append(table(results["uncertainty"]))
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
