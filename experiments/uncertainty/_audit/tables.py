"""The report of an audit, as Markdown that is printed and kept."""

import math
from typing import Any

_CALIBRATION = (
    "| t | alpha/sigma | E[error] | E[U] | E[error] / E[U] | Pearson | Spearman | best Pearson |",
    "|---|---|---|---|---|---|---|---|",
)
_JACOBIAN = (
    "| t | asymmetry of J | asymmetry of C | -least / greatest eigenvalue | "
    "negative eigenvalues, % | their mass |",
    "|---|---|---|---|---|---|",
)


def report(results: dict[str, Any]) -> str:
    """Returns what was found as Markdown: two tables, then every question with its answer.

    Args:
      results: what `audit.audit` returns first.
    """
    lines = [f"# Audit of {results['name']}", "", results["about"], ""]
    if not isinstance(results["calibration"], str):
        lines += [*_CALIBRATION, *map(_calibration, results["calibration"]), ""]
    if not isinstance(results["jacobian"], str):
        lines += [*_JACOBIAN, *map(_jacobian, results["jacobian"]), ""]
    for one in results["answers"]:
        lines += [f"* **{one['question']}** {one['answer']}"]
    return "\n".join(lines)


def _calibration(row: dict[str, float]) -> str:
    correlations = (
        f"{row[name]:.2f}" if math.isfinite(row[name]) else "-"  # of a U that is constant
        for name in ("pearson", "spearman", "best_pearson")
    )
    return (
        f"| {row['t']:g} | {row['alpha_over_sigma']:.2g} | {row['mean_error']:.4g} | "
        f"{row['mean_uncertainty']:.4g} | {row['ratio']:.3f} ± {row['ratio_standard_error']:.3f} | "
        f"{' | '.join(correlations)} |"
    )


def _jacobian(row: dict[str, float]) -> str:
    with_error = lambda name, form, factor=1: (  # noqa: E731
        f"{factor * row[name]:{form}} ± {factor * row[f'{name}_standard_error']:{form}}"
        if name in row
        else "-"
    )
    return (
        f"| {row['t']:g} | {with_error('asymmetry', '.3f')} | "
        f"{with_error('asymmetry_covariance', '.3f')} | {with_error('negative_ratio', '.3f')} | "
        f"{with_error('negative_share', '.1f', 100)} | {with_error('negative_mass', '.3f')} |"
    )
