"""What a velocity and the logarithm of its target's variance are trained on.

Two networks of one kind give the two outputs, so that what trains one never changes the other
unless the loss says so. *beside*: the velocity has its own loss, and the variance the likelihood
without a gradient through the mean. *joint*: both have the likelihood.
"""

from collections.abc import Callable

import jax

import fmjax
from experiments.run import several
from experiments.uncertainty._head.problems import path
from fmjax.types import Array, Key, PyTree

Network = Callable[[PyTree, Array, Array], Array]
Loss = Callable[[Network, PyTree, Array, Array, Array], Array]
"""`(network, params, x0, x1, t) -> []`, of one pair."""


def outputs(network: Network, params: PyTree, x: Array, t: Array) -> tuple[Array, Array]:
    """Returns the velocity and the log-variance of its target."""
    return tuple(network(params[name], x, t) for name in ("velocity", "log_variance"))


def flow(network: Network, params: PyTree, x0: Array, x1: Array, t: Array) -> Array:
    """Computes the flow matching loss of the velocity alone."""
    velocity = lambda x, t: network(params["velocity"], x, t)  # noqa: E731
    return fmjax.losses.cfm(velocity, path, x0, x1, t)


def beside(network: Network, params: PyTree, x0: Array, x1: Array, t: Array) -> Array:
    """Computes flow matching for the velocity, and the likelihood for the variance."""

    def heads(x: Array, t: Array) -> tuple[Array, Array]:
        velocity, log_variance = outputs(network, params, x, t)
        return jax.lax.stop_gradient(velocity), log_variance

    nll = fmjax.losses.gaussian_nll(heads, path, x0, x1, t)
    return flow(network, params, x0, x1, t) + nll


def joint(network: Network, params: PyTree, x0: Array, x1: Array, t: Array) -> Array:
    """Computes the likelihood, for velocity and variance."""
    return fmjax.losses.gaussian_nll(lambda x, t: outputs(network, params, x, t), path, x0, x1, t)


def of_batch(
    network: Network, one: Loss, width: float
) -> Callable[[PyTree, Key, dict[str, Array]], Array]:
    """Returns the mean over the networks, and over the pairs of each, of what each minimizes.

    Args:
      network: of both outputs.
      one: the loss of a pair.
      width: of the uniform noise on every entry of the data.
    """

    def of_network(params: PyTree, key: Key, batch: dict[str, Array]) -> Array:
        keys, x1 = jax.random.split(key, 3), batch["bank"][batch["index"]]
        x1 = x1 + width * jax.random.uniform(keys[0], x1.shape, minval=-0.5, maxval=0.5)
        x0, t = jax.random.normal(keys[1], x1.shape), jax.random.uniform(keys[2], x1.shape[:1])
        return jax.vmap(lambda *pair: one(network, params, *pair))(x0, x1, t).mean()

    return several.mean_loss(of_network, own="index")
