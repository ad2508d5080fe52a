"""Flow matching in JAX as pure functions.

A velocity field is any function `velocity(x, t) -> dx` of one example; time runs from noise
at `t = 0` to data at `t = 1`. The modules, from the ground up:

* `paths`, `predictions`: the Gaussian path and what a network may predict along it
* `divergence`, `estimators`: the divergence, exact or in bounded memory; estimates with errors
* `empirical`: the exact field of a finite data set
* `collapse`: the time from which a single data point determines that field
* `posterior`: mean and covariance of the data given a noisy state, from any velocity
* `events`: condition a trained velocity on an event that is defined afterwards
* `path_error`: how far the law of a learned flow is from the true law, with a bound
* `strain`: how a field stretches and turns, and what bounds the growth of its errors
* `onestep`: mean and covariance of the data for models that sample in one step
* `losses`, `couplings`, `times`, `train`: training
* `simplex`: flow matching of categories, as letters of a sequence, with all of the above
* `samplers`, `likelihood`, `metrics`: sample from a model and evaluate it
* `toy`, `models`: densities and networks to start with

A module is loaded on first use, so `import fmjax` takes no longer than importing jax.

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
        simplex,
        strain,
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
    "simplex",
    "strain",
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
