"""The table of a law: every method after the largest number of steps, and at every width."""

from typing import Any

import numpy as np

from experiments.fdm._convergence.measures import EULER
from experiments.run import numbers

COLUMNS = {
    "weight": "weight",
    "cost": "time",
    "flow": "flow error",
    "divergence": "div. error",
    "kl": "KL (nats)",
    "tv": "TV",
    **{f"kl_euler_{n}": f"Euler {n}" for n in EULER},
}


def _block(title: str, rows: dict[str, dict[str, Any]]) -> str:
    lines = [f"{title:28s}" + "".join(f"{name:>22s}" for name in COLUMNS.values())]
    for method, row in rows.items():
        cells = [numbers.with_spread(np.atleast_1d(row[name]), ".3g") for name in COLUMNS]
        lines.append(f"{method:28s}" + "".join(f"{cell:>22s}" for cell in cells))
    return "\n".join(lines)


def table(law: str, found: dict[str, Any]) -> str:
    """Returns the numbers of one law: by number of steps, and by width.

    The columns are the weight of the penalty, the time of a step over flow matching's, the two
    errors of the field, KL(data, model) and the total variation at t = 1, and KL(model, data) of
    samples by 4, 16 and 64 steps of Euler's method. The last row is the exact velocity, measured
    alike: what it has is the error of the solver.
    """
    blocks = []
    for kind, unit in (("budgets", "steps"), ("widths", "wide")):
        first = next(iter(found[kind].values()))
        for size in first:
            rows = {method: rows[size] for method, rows in found[kind].items()}
            rows["the velocity itself"] = {"weight": 0.0, "cost": 0.0, **found["exact"]}
            blocks.append(_block(f"{law}, {size} {unit}", rows))
    return "\n\n".join(blocks)
