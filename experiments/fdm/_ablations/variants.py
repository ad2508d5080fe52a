"""The choices that the ablations of flow and divergence matching compare, one matching each.

The library's matchings, and two that it does not have because they are wrong in a way that is to be
shown: without the stop-gradient the penalty is not stationary at the exact velocity, and the
absolute value regresses on a median. Every other choice is a number: of probes, of the share of the
batch, of the weight.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from experiments.fdm import _laws
from experiments.fdm._errors import sample_pair
from experiments.fdm._laws import Mixture, path
from fmjax import divergence, losses
from fmjax.losses import Matching, Target
from fmjax.types import Array, Divergence, Key


def match_without_stop(field: Callable, target: Target, *, divergence: Divergence) -> tuple:
    """Returns value and squared residual with a gradient through the value beside the score."""
    value, div = divergence(field, target.x)
    r = target.rate + jnp.sum(value * target.noise) - target.sigma * div
    return value, r**2 / target.x.size


def match_absolute(field: Callable, target: Target, *, divergence: Divergence) -> tuple:
    """Returns value and absolute residual, the root of the penalty of `losses.match_trace`."""
    value, div = divergence(field, target.x)
    return value, jnp.abs(losses.scaled_residual(value, div, target)) / target.x.size**0.5


class Problem(NamedTuple):
    """A law of the data, and the exact divergence that is fastest in its dimension."""

    mixture: Mixture
    exact: Divergence


PROBLEMS = {
    "plane": Problem(_laws.PLANE, divergence.unrolled),
    "space": Problem(_laws.SPACE, divergence.exact),
}


class Variant(NamedTuple):
    """One choice: `matching(exact, key)`, and by what weight, share and steps are multiplied."""

    matching: Callable[[Divergence, Key], Matching]
    weight: float = 1.0
    every: int = 1
    steps: int = 1


def exact(exact: Divergence, _: Key) -> Matching:
    """The square of the exact residual."""
    return partial(losses.match_trace, divergence=exact)


def probes(count: int) -> Callable[[Divergence, Key], Matching]:
    """The square of the residual with the mean of several probes."""
    return lambda _, key: partial(
        losses.match_trace, divergence=partial(divergence.hutchinson, key, num_probes=count)
    )


VARIANTS: dict[str, Variant] = {
    "flow matching": Variant(exact, weight=0.0),
    "flow matching, 2x steps": Variant(exact, weight=0.0, steps=2),
    "flow matching, 4x steps": Variant(exact, weight=0.0, steps=4),
    "exact": Variant(exact),
    "1 probe": Variant(probes(1)),
    "2 probes": Variant(probes(2)),
    "4 probes": Variant(probes(4)),
    "16 probes": Variant(probes(16)),
    "product of 2 probes": Variant(lambda _, key: partial(losses.match_product, key)),
    "Jacobian, 1 probe": Variant(lambda _, key: partial(losses.match_jacobian, key)),
    "no stop-gradient": Variant(lambda d, _: partial(match_without_stop, divergence=d)),
    "absolute value": Variant(lambda d, _: partial(match_absolute, divergence=d)),
    "1 probe, half the batch": Variant(probes(1), every=2),
    "1 probe, a quarter": Variant(probes(1), every=4),
    "1 probe, weight / 10": Variant(probes(1), weight=0.1),
    "1 probe, weight x 3": Variant(probes(1), weight=3.0),
    "1 probe, weight x 10": Variant(probes(1), weight=10.0),
    "1 probe, weight x 100": Variant(probes(1), weight=100.0),
}


def bias(key: Key, *, count: int = 400_000) -> dict[str, dict[str, float]]:
    """Returns the mean gradient of the penalty at the exact field of the one-dimensional mixture.

    For a change of the velocity in the direction sin x at t = 0.5, by pairs, in units of time; at
    the exact field it should be 0.
    """
    t, field = jnp.asarray(0.5), partial(_laws.velocity, _laws.LINE)

    def slope(match: Callable, key: Key) -> Array:
        x0, x1, _ = sample_pair(_laws.LINE, key)
        target = losses.of_pair(path, x0, x1, t)
        moved = lambda theta, x: field(x, t) + theta * jnp.sin(x)  # noqa: E731
        penalty = lambda theta: match(partial(moved, theta), target, divergence=divergence.unrolled)  # noqa: E731
        return jax.grad(lambda theta: penalty(theta)[1])(0.0) / path.sigma(t) ** 2

    result = {}
    matches = {"with": losses.match_trace, "without": match_without_stop}
    for name, match in matches.items():
        values = jax.jit(jax.vmap(partial(slope, match)))(jax.random.split(key, count))
        error = float(values.std()) / count**0.5
        result[name] = {"gradient": float(values.mean()), "standard_error": error}
    return result
