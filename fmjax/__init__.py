"""Flow matching in JAX as pure functions.

A velocity field is any function `velocity(x, t) -> dx` of one example; time runs from noise
at `t = 0` to data at `t = 1`. Every module is a floor of one house:

* `paths`, `predictions`: the Gaussian path and what a network may predict along it
* `divergence`, `estimators`: exact, in bounded memory, or estimated with a standard error
* `empirical`: the exact field of a finite data set
* `collapse`: when that field comes down to single points of it
* `posterior`: mean and covariance of the data given a noisy state, from any velocity
* `events`: a trained velocity given an event that is defined afterwards
* `path_error`: how far the law of a learned flow is from the true one, and a bound on it
* `onestep`: the same for models that sample in one step, and what it is not
* `losses`, `couplings`, `times`, `train`: training
* `samplers`, `likelihood`, `metrics`: using and judging the result
* `toy`, `models`: densities and networks to start with

Modules are loaded on first use, so that `import fmjax` costs no more than jax itself.

Example:
  >>> import fmjax
  >>> path = fmjax.paths.linear()
  >>> float(fmjax.paths.interpolate(path, 0.0, 2.0, 0.5))
  1.0
"""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # editors and type checkers read this, and do not run `__getattr__`
    from fmjax import (
        collapse,
        couplings,
        divergence,
        empirical,
        estimators,
        events,
        likelihood,
        losses,
        metrics,
        models,
        onestep,
        path_error,
        paths,
        posterior,
        predictions,
        samplers,
        times,
        toy,
        train,
        types,
    )

__version__ = "0.2.0"

__all__ = [
    "__version__",
    "collapse",
    "couplings",
    "divergence",
    "empirical",
    "estimators",
    "events",
    "likelihood",
    "losses",
    "metrics",
    "models",
    "onestep",
    "path_error",
    "paths",
    "posterior",
    "predictions",
    "samplers",
    "times",
    "toy",
    "train",
    "types",
]
_MODULES = tuple(name for name in __all__ if not name.startswith("_"))


def _load(name: str) -> ModuleType:
    """Loads a module of the library when it is first named (PEP 562)."""
    if name in _MODULES:
        return importlib.import_module(f"fmjax.{name}")
    message = f"module 'fmjax' has no attribute {name!r}; it has {', '.join(_MODULES)}"
    raise AttributeError(message)


if not TYPE_CHECKING:  # with it, a type checker would let every wrong name pass
    __getattr__ = _load


def __dir__() -> list[str]:
    """Lists the modules whether they have been loaded or not."""
    return sorted(__all__)
