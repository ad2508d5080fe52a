"""A finite data set, and the law of x1 given x_t from one pass over it."""

from fmjax._bank.points import (
    EXCLUDED,
    HIGHEST,
    Bank,
    along,
    average,
    half_squares,
    of,
    result_type,
    scaled,
    squares,
    weighted_sum,
)
from fmjax._bank.refined import Refined, check_count, refine
from fmjax._bank.summary import (
    anchored,
    checked,
    coefficients,
    masses,
    potentials,
    pulled,
    summarize,
    tilted,
)
from fmjax._bank.values import check_distinct, check_finite, check_index, check_weights

__all__ = [
    "EXCLUDED",
    "HIGHEST",
    "Bank",
    "Refined",
    "along",
    "anchored",
    "average",
    "check_count",
    "check_distinct",
    "check_finite",
    "check_index",
    "check_weights",
    "checked",
    "coefficients",
    "half_squares",
    "masses",
    "of",
    "potentials",
    "pulled",
    "refine",
    "result_type",
    "scaled",
    "squares",
    "summarize",
    "tilted",
    "weighted_sum",
]
