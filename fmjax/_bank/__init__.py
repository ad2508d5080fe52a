"""A finite data set, and what it says about x1 given x_t, in one pass over it."""

from fmjax._bank.points import (
    EXCLUDED,
    HIGHEST,
    Bank,
    along,
    average,
    half_squares,
    of,
    scaled,
    squares,
    weighted_sum,
)
from fmjax._bank.refined import Refined, check_count, refine
from fmjax._bank.summary import anchored, checked, masses, potentials, summarize, tilted

__all__ = [
    "EXCLUDED",
    "HIGHEST",
    "Bank",
    "Refined",
    "along",
    "anchored",
    "average",
    "check_count",
    "checked",
    "half_squares",
    "masses",
    "of",
    "potentials",
    "refine",
    "scaled",
    "squares",
    "summarize",
    "tilted",
    "weighted_sum",
]
