"""The tables that `experiments.uncertainty.head` prints at its end."""

from typing import Any

from experiments.run import numbers

LABELS = {
    "head": "head",
    "jacobian": "Jacobian",
    "joint": "head, joint",
    "exact": "exact field",
    "map": "mean error, map",
    "constant": "mean error",
}
PARTS = {"held_out": "held-out", "train": "training"}
# Title and form of what is shown.
SCORES = {
    "error": ("error", ".3f"),
    "ratio": ("error/variance", ".3f"),
    "pearson": ("correlation", ".2f"),
    "nll": ("nats per entry", ".3f"),
    "nll_coarse": ("coarse floor", ".3f"),
    "off": ("off by", ".3f"),
    "negative": ("negative", ".4f"),
    "raised": ("raised", ".4f"),
}


def report(results: dict[str, Any], titles: dict[str, str]) -> str:
    """Returns the summary that is printed at the end of a run.

    Args:
      results: what the run writes.
      titles: of the data, by key.
    """
    lines = ["the variance of the velocity's target, by method; mean ± deviation over seeds:"]
    lines += ["mean squared error, over mean variance, correlation with it, likelihood (lower is"]
    lines += ["better; by two floors), median |variance / exact - 1|, shares negative and raised"]
    head = "".join(f"{title:>17}" for title, _ in SCORES.values())
    for key, parts in results["scores"].items():
        for part, rows in parts.items():
            lines += ["", f"{titles[key]}, {PARTS[part]}", f"{'t':>5}  {'':16}{head}"]
            for row in rows:
                lines += [
                    f"{row['t']:5g}  {LABELS[name]:16}"
                    + "".join(map(_cell, [found] * len(SCORES), SCORES))
                    for name, found in row["methods"].items()
                ]
    for name, title in (("evaluation", "velocity"), ("step", "flow matching")):
        told = [f"{row['method']} {row['time_ratio']:.2f}" for row in results["costs"][name]]
        lines += ["", f"time of one {name} over that of {title}: {', '.join(told)}"]
    return "\n".join(lines)


def _cell(found: dict[str, Any], score: str) -> str:
    if score not in found:
        return f"{'-':>17}"
    form = SCORES[score][1]
    values = found[score].get("seeds", [found[score]["mean"]])
    return f"{numbers.with_spread(values, form):>17}"
