"""Uncertainty against error, and maps against maps: what the experiments of the paper both show.

The measure is `fmjax.metrics.calibration`; here are its rows, their text and their picture.
Correlations are never pooled over t: error and U both fall with t, and pooling measures that.

References:
  Xing et al. (2026), Divergence is Uncertainty, arXiv 2605.00941, section 5.3.
"""

import jax
import numpy as np
from matplotlib.figure import Figure

import fmjax


def rows(by_time: dict[float, dict[str, np.ndarray]]) -> list[dict[str, float]]:
    """Measures at every time how the uncertainties agree with the errors.

    Args:
      by_time: from each time to `uncertainty` `[n]`, `error` `[n]`, its squared norm, and, where
        it was measured, `variance` `[n, *dims]`.

    Returns:
      For each time the entries of `fmjax.metrics.Calibration` under their names.
    """
    return [_row(t, result) for t, result in by_time.items()]


def _row(t: float, result: dict[str, np.ndarray]) -> dict[str, float]:
    found = fmjax.metrics.calibration(
        result["uncertainty"], result["error"], variance=result.get("variance")
    )
    told = {name: value for name, value in found._asdict().items() if value is not None}
    numbers = {name: float(value) for name, value in told.items()}
    return {"t": t, "num_images": len(result["error"]), **numbers}


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
    """Returns the rows of `rows` as lines of text."""
    lines = ["   t   E[error]     E[U]   E[error]/E[U]   Pearson   Spearman   best Pearson"]
    lines += [
        f" {row['t']:.2f}   {row['mean_error']:8.3f} {row['mean_uncertainty']:8.3f}"
        f"    {row['ratio']:.3f} ± {row['ratio_standard_error']:.3f}  {row['pearson']:8.2f}"
        f" {row['spearman']:10.2f} {row['best_pearson']:14.2f}"
        for row in rows
    ]
    return "\n".join(lines)


def typical(by_time: dict[float, dict[str, np.ndarray]]) -> int:
    """Returns the index of the image whose uncertainty at the middle time is the median of all."""
    middle = list(by_time)[len(by_time) // 2]
    return int(np.argsort(by_time[middle]["uncertainty"])[len(by_time[middle]["uncertainty"]) // 2])


def picture(
    by_time: dict[float, dict[str, np.ndarray]],
    rows: list[dict[str, float]],
    *,
    points: str = "held-out image a point (units of x in [-1, 1])",
) -> Figure:
    """Returns U against the squared error of every example, one panel for each time.

    Args:
      by_time: from each time to the stacked output of `measures.measure`.
      rows: the table's row for each time, in the same order.
      points: what the title says that every point is.
    """
    figure = Figure(figsize=(max(3.3 * len(rows), 9.0), 4.8), layout="constrained")
    axes = figure.subplots(1, len(rows), squeeze=False)[0]
    for ax, (t, result), row in zip(axes, by_time.items(), rows, strict=True):
        u, error = result["uncertainty"], result["error"]
        ax.scatter(u, error, s=9, alpha=0.5, color="tab:purple", edgecolors="none")
        ax.set(xlabel="U = tr Cov", ylim=(0.0, 1.05 * error.max()))
        ax.axline((u.mean(), u.mean()), slope=1.0, color="black", linewidth=1, label="error = U")
        ax.plot(u.mean(), error.mean(), "o", color="tab:orange", markersize=9, label="means")
        ax.set_title(
            f"t = {t:g}\nmean error / mean U = {row['ratio']:.2f}\n"
            f"Pearson {row['pearson']:.2f} (best {row['best_pearson']:.2f})"
        )
    axes[0].set_ylabel("squared error of the mean")
    axes[0].legend(loc="lower right", fontsize=10)
    figure.suptitle(f"Uncertainty against error, each {points}")
    return figure
