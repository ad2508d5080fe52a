"""Static checks of the arguments of public functions.

The checks look only at shapes, dtypes, types and Python numbers. Those are known while jax traces,
so a check costs nothing at run time and works the same under `jit`, `vmap` and `grad`. No check
reads the values of arrays; docstrings say what the values must be.

* `arrays`: states, shapes, banks, counts
* `clock`: times
* `letters`: points of the simplex, and classes
* `paths`: a path, and where its coefficients vanish
* `functions`: velocities, and every other argument that is a function, and what such a
  function returns
* `words`: what came, in a few words, however many parameters it holds
"""

from __future__ import annotations

from fmjax._checks.arrays import (
    MAX_DENSE,
    array,
    bank,
    bank_shape,
    count,
    dense,
    entries,
    fitting,
    floating,
    penalty,
    real,
    same_shape,
    state,
    wide,
    wide_dtype,
)
from fmjax._checks.clock import every, moments, time, times
from fmjax._checks.functions import (
    at,
    divergence_of,
    function,
    functions,
    instance,
    pair,
    returned,
    returned_tree,
)
from fmjax._checks.letters import alphabet, classes, letters, positions
from fmjax._checks.paths import check as path
from fmjax._checks.paths import positive_alpha, positive_sigma
from fmjax._checks.words import described

__all__ = [
    "MAX_DENSE",
    "alphabet",
    "array",
    "at",
    "bank",
    "bank_shape",
    "classes",
    "count",
    "dense",
    "described",
    "divergence_of",
    "entries",
    "every",
    "fitting",
    "floating",
    "function",
    "functions",
    "instance",
    "letters",
    "moments",
    "pair",
    "path",
    "penalty",
    "positions",
    "positive_alpha",
    "positive_sigma",
    "real",
    "returned",
    "returned_tree",
    "same_shape",
    "state",
    "time",
    "times",
    "wide",
    "wide_dtype",
]
