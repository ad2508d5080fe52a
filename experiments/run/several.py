"""Several networks of one kind, each from a seed of its own, to be trained at once by `vmap`."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from fmjax.types import Array, PyTree

Apply = Callable[..., Array]


def networks(
    make: Callable[[int], tuple[Apply, PyTree]], *, seed: int, count: int
) -> tuple[Apply, PyTree]:
    """Makes networks that differ in their first parameters alone.

    Args:
      make: from a seed to a network, `(params, x, *times) -> dx`, and its parameters.
      seed: from which the seeds of all networks are drawn.
      count: of networks.

    Returns:
      The network, and the parameters of all with the networks in front.
    """
    seeds = np.random.SeedSequence(seed).generate_state(count).tolist()
    (apply, *_), params = zip(*map(make, seeds), strict=True)
    return apply, stacked(params)


def stacked(params: Sequence[PyTree]) -> PyTree:
    """Returns the parameters of several networks as one tree, with the networks in front."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *params)
