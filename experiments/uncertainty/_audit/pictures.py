"""The pictures of an audit that no other experiment has: the Jacobian, and copies."""

import numpy as np
from matplotlib.figure import Figure

from experiments.uncertainty._audit import answers, measures


def jacobian(rows: list[dict[str, float]], *, title: str) -> Figure:
    """Returns over time what an exact Jacobian does not have: asymmetry, negative eigenvalues.

    Args:
      rows: for each time what `measures.spectra` returns.
      title: whose Jacobian.
    """
    figure = Figure(figsize=(11.0, 4.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    t = [row["t"] for row in rows]
    curves = {
        left: {
            "asymmetry": "of the Jacobian J",
            "asymmetry_covariance": "of the covariance C",
        },
        right: {
            "negative_ratio": "least, over the greatest",
            "negative_share": "share of negative ones",
            "negative_mass": "their sum, over that of all",
        },
    }
    for ax, named in curves.items():
        for place, (name, label) in enumerate(named.items()):
            if name in rows[0]:
                errors = [row[f"{name}_standard_error"] for row in rows]
                values = [row[name] for row in rows]
                ax.errorbar(t, values, errors, fmt="o-", capsize=3, color=f"C{place}", label=label)
        ax.set(xlabel="t (noise at 0, data at 1)")
    left.axhline(answers.NOISE, color="gray", linestyle=":", label="above: mostly error")
    left.set(title="asymmetry, exact: 0", ylabel="|M - Mᵀ| / |M + Mᵀ|")
    right.set(title="negative eigenvalues of C, exact: none", ylabel="share")
    for ax in (left, right):
        ax.legend(fontsize=11)
        ax.set_ylim(0.0, 1.3 * ax.get_ylim()[1])  # above all, the legend
    figure.suptitle(f"What a posterior's Jacobian does not have ({title})")
    return figure


def copies(ratios: dict[str, np.ndarray], *, title: str) -> Figure:
    """Returns the distance ratios of samples and of held-out examples.

    Args:
      ratios: what `measures.copies` returns second.
      title: whose samples.
    """
    figure = Figure(figsize=(8.0, 4.8), layout="constrained")
    ax = figure.subplots()
    labels = {"samples": "samples", "held_out": "held-out examples"}
    bins = np.linspace(0.0, 1.0, 31)
    for place, (name, label) in enumerate(labels.items()):
        values = ratios[name]
        weights = np.full(len(values), 1.0 / len(values))
        shown = {"histtype": "stepfilled", "alpha": 0.45, "color": f"C{place}"}
        ax.hist(values, bins, weights=weights, label=f"{len(values)} {label}", **shown)
    ax.axvline(measures.COPY, color="black", linestyle=":", label="below: a copy")
    ax.set(
        xlabel="distance to the nearest training example, over that to the second nearest",
        ylabel="share",
        xlim=(0.0, 1.0),
    )
    ax.legend(fontsize=11, loc="upper left")
    figure.suptitle(f"Does it repeat its training data? ({title})")
    return figure
