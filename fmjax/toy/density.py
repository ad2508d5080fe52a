"""The tuple of functions that a law is."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from fmjax.paths import Path
from fmjax.types import Array, Key

__all__ = ["Density"]


def _unknown(path: Path, x: Array, t: Array) -> Array:
    message = (
        "the law along a path is not known: make the law with the functions for it, as in "
        "fmjax.toy.Density(sample, log_prob, log_marginal, velocity), each (path, x, t) -> value."
    )
    raise NotImplementedError(message)


class Density(NamedTuple):
    """A law with a sampler, a log-density, and the exact field of a path to it.

    Attributes:
      sample: `key -> x1[*dims]`, one example; vmap it over split keys.
      log_prob: `x1[*dims] -> []`, the log-density of one example, nats.
      log_marginal: `(path, x[*dims], t[]) -> []`, the log-density of a state of the path,
        `log p_t(x)`, in nats. The noise of the path is standard normal.
      velocity: `(path, x[*dims], t[]) -> [*dims]`, the marginal velocity `E[dx_t/dt | x_t = x]`.
    """

    sample: Callable[[Key], Array]
    log_prob: Callable[[Array], Array]
    log_marginal: Callable[[Path, Array, Array], Array] = _unknown
    velocity: Callable[[Path, Array, Array], Array] = _unknown
