"""What an average velocity can be trained on where the exact field of the data is known.

The MeanFlow loss takes the velocity of the drawn pair twice, as target and as tangent of the
derivative along the flow. Each can be the exact velocity of the data, its conditional mean.
"""

from collections.abc import Callable
from functools import partial

import fmjax
from fmjax.types import Array, AverageVelocity, PyTree

path = fmjax.paths.linear()
exact = partial(fmjax.empirical.velocity, path)  # (bank, x, t) -> dx, of all n points
Loss = Callable[[AverageVelocity, Array, Array, Array, Array, Array], Array]
"""`(average_velocity, bank, x0, x1, r, t) -> []`, of one pair."""


def average(apply: Callable[..., Array], params: PyTree) -> AverageVelocity:
    """Returns the average velocity; the network sees t and the length of the interval."""
    return lambda x, r, t: apply(params, x, t, r - t)


def of_pair(u: AverageVelocity, bank: Array, x0: Array, x1: Array, r: Array, t: Array) -> Array:  # noqa: ARG001
    """Computes the MeanFlow loss: the velocity of the pair is target and tangent."""
    return fmjax.losses.meanflow(u, path, x0, x1, r, t)


def exact_tangent(
    u: AverageVelocity, bank: Array, x0: Array, x1: Array, r: Array, t: Array
) -> Array:
    """Computes the loss with the exact velocity as tangent alone."""
    return fmjax.losses.improved_meanflow(u, partial(exact, bank), path, x0, x1, r, t)


def exact_target(
    u: AverageVelocity, bank: Array, x0: Array, x1: Array, r: Array, t: Array
) -> Array:
    """Computes the loss with the exact velocity as target alone."""
    pair = fmjax.predictions.target(fmjax.predictions.velocity, path, x0, x1, t)
    guide = fmjax.losses.marginal(partial(exact, bank))
    return fmjax.losses.improved_meanflow(u, lambda *_: pair, path, x0, x1, r, t, guide=guide)


def exact_field(u: AverageVelocity, bank: Array, x0: Array, x1: Array, r: Array, t: Array) -> Array:
    """Computes the loss with the exact velocity in both places."""
    guide = fmjax.losses.marginal(partial(exact, bank))
    return fmjax.losses.meanflow(u, path, x0, x1, r, t, guide=guide)


def with_divergence(
    weight: float, key: Array, u: AverageVelocity, bank: Array, *pair_and_times: Array
) -> Array:
    """Computes the loss on the exact velocity, plus flow and divergence matching of its slice.

    Args:
      weight: of the divergence penalty.
      key: of the probe.
      u: the average velocity.
      bank: the data.
      *pair_and_times: x0, x1, r and t.
    """
    x0, x1, _, t = pair_and_times
    probe = partial(fmjax.divergence.hutchinson, key)
    matching = partial(fmjax.losses.match_trace, divergence=probe)
    velocity = fmjax.onestep.instantaneous(u)
    slice_of = fmjax.losses.dm(velocity, path, bank, x0, x1, t, weight=weight, matching=matching)
    return exact_field(u, bank, *pair_and_times) + slice_of


# By their places in the tables: target, then tangent.
PLACES: dict[str, Loss] = {
    "pair, pair": of_pair,
    "pair, exact": exact_tangent,
    "exact, pair": exact_target,
    "exact, exact": exact_field,
}
