"""The check of a path, and of its coefficients at a time that is known."""

from __future__ import annotations

import inspect
from typing import Any

import jax

from fmjax._checks.clock import time
from fmjax._checks.words import described, is_path
from fmjax.types import Array

__all__ = ["check", "positive_alpha", "positive_sigma"]

_PATHS = ("linear", "cosine", "vp", "ve", "ve_to_zero")


def check(value: Any, name: str = "path") -> None:
    """Raises ValueError unless the value is a path."""
    if is_path(value):
        return
    instead = "build one, such as paths.linear()"
    if isinstance(value, str) and value in _PATHS:
        instead = f"write paths.{value}()"
    elif getattr(value, "__module__", "").startswith("fmjax.paths") and inspect.isfunction(value):
        instead = f"call it, paths.{value.__name__}()"
    elif callable(value) and not isinstance(value, type):
        instead = f"the arguments are in another order; {instead}"
    message = f"{name} must be a fmjax.paths.Path, got {described(value)}: {instead}."
    raise ValueError(message)


def positive_sigma(path: Any, t: Array | float) -> None:
    """Raises ValueError if the path has no noise at a static time; reads no array's value."""
    check(path)
    _positive("sigma", path.sigma, t, "take t below 1, or a path that keeps some noise, such as "
              "paths.linear(sigma_min=1e-3)")  # fmt: skip


def positive_alpha(path: Any, t: Array | float, instead: str) -> None:
    """Raises ValueError if the path has no data at a static time; reads no array's value.

    Args:
      path: the path.
      t: scalar array or number.
      instead: the end of the message, which says what to do.
    """
    check(path)
    _positive("alpha", path.alpha, t, instead)


def _positive(name: str, coefficient: Any, t: Array | float, instead: str) -> None:
    if isinstance(t, jax.Array):
        return
    with jax.ensure_compile_time_eval():  # a number inside `jit` is known as well
        value = coefficient(time(t))
    if not isinstance(value, jax.core.Tracer) and not float(value) > 0:
        message = (
            f"{name} must be positive, got {float(value)} at t = {float(t)}, and is divided by: "
            f"{instead}."
        )
        raise ValueError(message)
