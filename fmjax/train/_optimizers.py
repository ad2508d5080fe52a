"""What a step asks of an optimizer of optax, and what it tells one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import optax

from fmjax import _checks
from fmjax.types import Array, PyTree

__all__ = ["check", "extended", "told"]


def check(optimizer: optax.GradientTransformation) -> None:
    """Raises ValueError unless the optimizer has the two functions of one of optax."""
    both = (getattr(optimizer, name, None) for name in ("init", "update"))
    if isinstance(optimizer, type) or not all(callable(one) for one in both):
        message = (
            f"optimizer must be a gradient transformation of optax, got "
            f"{_checks.described(optimizer)}: write one such as optax.adam(1e-3), after the "
            "parameters or the loss."
        )
        raise ValueError(message)


def told(value: Array, gradient: PyTree, value_fn: Callable[[PyTree], Array]) -> dict[str, Any]:
    """Returns what an optimizer may take in addition to the gradient, under the names of optax."""
    return {"value": value, "grad": gradient, "value_fn": value_fn}


def extended(
    optimizer: optax.GradientTransformation,
) -> optax.GradientTransformationExtraArgs:
    """Returns an optimizer whose update takes gradient and loss, and may ignore the loss."""
    if isinstance(optimizer, optax.MultiSteps):  # its wrapper would not hand them on
        optimizer = optimizer.gradient_transformation()
    return optax.with_extra_args_support(optimizer)
