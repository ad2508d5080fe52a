"""What every conditioned velocity shares: its bounds, and how the pull is held near the noise."""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp

from fmjax import _checks, paths
from fmjax.paths import Path
from fmjax.types import Array, Velocity

__all__ = ["check_jitter", "check_smallest_t", "pulled"]


def check_smallest_t(smallest_t: float) -> None:
    """Raises ValueError unless the pull is held from a time in [0, 1) on."""
    _checks.moments(smallest_t=smallest_t)
    if not 0.0 <= smallest_t < 1.0:
        message = f"smallest_t must lie in [0, 1), got {smallest_t}: take the default for linear()."
        raise ValueError(message)


def check_jitter(jitter: float) -> None:
    """Raises ValueError unless the error to expect of the gain is 0 or more."""
    if not jitter >= 0:
        message = f"jitter must not be negative, got {jitter}: it is added to a variance; give 0."
        raise ValueError(message)


def pulled(
    velocity: Velocity,
    path: Path,
    smallest_t: float,
    pull: Callable[[Array, Array], tuple[Array, Array]],
) -> Velocity:
    """Adds a pull to a velocity; below `smallest_t` it is the one of that time, of the same noise.

    Args:
      velocity: the field, `(x[*dims], t[]) -> [*dims]`.
      path: its path.
      smallest_t: the smallest time at which the pull is evaluated.
      pull: `(x[*dims], t[]) -> (scale[], direction[*dims])`; their product, times D and the ratio
        of the two standard deviations of the noise, is added wherever there is noise.
    """

    def field(x: Array, t: Array) -> Array:
        t, x = _checks.time(t), _checks.state(x)
        here = paths.coefficients(path, t)
        held = jnp.maximum(t, smallest_t)
        ended = here.sigma == 0
        # Of the same noise at the time `held`; one from smallest_t on.
        ratio = path.sigma(held) / jnp.where(ended, 1, here.sigma)
        scale, direction = pull(ratio * x, held)
        change = here.wronskian * ratio * scale * direction
        return _checks.at(velocity, t)(x) + jnp.where(ended, jnp.zeros_like(x), change)

    return field
