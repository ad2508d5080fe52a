"""What is compared: a target, a matching of the divergence, and whether it has a weight.

The target of a pair is what every data set offers, and its penalty is noisy. The exact field of a
mixture is known, so the same penalty is also trained without that noise: what it then gains is the
gain of matching the divergence, and what a pair's penalty does not gain of it is lost to noise.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax

import fmjax
from experiments.fdm import _laws
from experiments.fdm._errors import sample_pair
from experiments.fdm._laws import Mixture
from fmjax import divergence, losses
from fmjax.losses import Matching, Target
from fmjax.paths import Path
from fmjax.types import Array, Key


class Method(NamedTuple):
    """One way to train a velocity.

    Attributes:
      target: `(mixture, path, bank, x0, x1, t) -> target` of the regression, which needs no bank.
      matching: `(key, d) -> matching` of the penalty; None for a loss without a penalty.
    """

    target: Callable[..., Target]
    matching: Callable[[Key, int], Matching] | None


def of_pair(_: Mixture, path: Path, __: Array, x0: Array, x1: Array, t: Array) -> Target:
    """Returns the target of one pair."""
    return losses.of_pair(path, x0, x1, t)


def of_law(mixture: Mixture, path: Path, _: Array, x0: Array, x1: Array, t: Array) -> Target:
    """Returns the exact target of a mixture at the state of one pair."""
    law, x = _laws.law(mixture), fmjax.paths.interpolate(path, x0, x1, t)
    score, rate = jax.grad(law.log_marginal, argnums=(1, 2))(path, x, t)
    velocity, slope = jax.linearize(lambda x: law.velocity(path, x, t), x)
    sigma = path.sigma(t)
    return Target(x, velocity, -sigma * score, -sigma * rate, sigma, lambda z: sigma * slope(z))


def trace(key: Key, size: int) -> Matching:
    """Returns the squared residual: exact up to 2 dimensions, else of two probes without bias."""
    if size <= 2:
        return partial(losses.match_trace, divergence=divergence.unrolled)
    return partial(losses.match_product, key)


def jacobian(key: Key, _: int) -> Matching:
    """Returns the squared entries of the residual's matrix, by one probe."""
    return partial(losses.match_jacobian, key)


METHODS = {
    "FM": Method(of_pair, None),
    "FDM": Method(of_pair, trace),
    "FDM, Jacobian": Method(of_pair, jacobian),
    "exact field": Method(of_law, None),
    "exact field, divergence": Method(of_law, trace),
    "exact field, Jacobian": Method(of_law, jacobian),
}


def loss_of(method: Method, mixture: Mixture, velocity: Callable, weight: Array, key: Key) -> Array:
    """Returns the loss of one example, drawn from the key.

    Args:
      method: the target and the penalty.
      mixture: the law of the data.
      velocity: the field that is trained.
      weight: of the penalty, where the method has one.
      key: of the pair, the time and the probes.
    """
    key_pair, key_probe = jax.random.split(key)
    x0, x1, t = sample_pair(mixture, key_pair)
    options = {"weight": 0.0}
    if method.matching is not None:
        options = {"weight": weight, "matching": method.matching(key_probe, x1.size)}
    target = partial(method.target, mixture)
    return losses.dm(velocity, _laws.path, x1[None], x0, x1, t, target=target, **options)
