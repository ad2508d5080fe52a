"""The table of the checkerboard: every weight over its seeds, and what a blur would lose."""

from typing import Any

import numpy as np

from experiments.fdm._checkerboard import law, measures
from experiments.run import numbers


def table(rows: list[dict[str, Any]]) -> str:
    """Returns the final numbers of every weight, mean and standard deviation over seeds."""
    times = list(rows[0]["total_variation"])
    heads = "  ".join(f"TV({t})".rjust(8) for t in times)
    lines = [f"  weight  seeds  mean log-likelihood  exp(mean) x 100  by Euler  at edges  {heads}"]
    for weight in dict.fromkeys(row["weight"] for row in rows):
        mine = [row for row in rows if row["weight"] == weight]
        log_p = numbers.with_spread([row["log_likelihood"] for row in mine], ".4f")
        density = numbers.with_spread([100 * row["density"] for row in mine], ".4f")
        euler = 100 * np.mean([row["density_by_euler"] for row in mine])
        edges = np.mean([row["lost"]["share_at_edges"] for row in mine])
        tv = [np.mean([row["total_variation"][t] for row in mine]) for t in times]
        others = "  ".join(f"{value:8.4f}" for value in [euler, edges, *tv])
        lines.append(f"{weight:8g}  {len(mine):5d}  {log_p:>19}  {density:>15}  {others}")
    lines.append(f"the greatest possible exp(mean) x 100 is {law.CEILING * 100:.5f}")
    lines.append(
        "at edges: share of what is missing to it that is lost within "
        f"{measures.EDGE:g} of a side of the squares, {measures.edge_area():.0%} of their area"
    )
    gaps = {std: np.mean([row["blurred"][std] for row in rows]) for std in rows[0]["blurred"]}
    lost = ", ".join(f"{gap:.4f} by {std}" for std, gap in gaps.items())
    lines += [f"blurred, the exact law loses (nats): {lost}"] if gaps else []
    return "\n".join(lines)
