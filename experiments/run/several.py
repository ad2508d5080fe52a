"""Several networks of one kind, each from a seed of its own, to be trained at once by `vmap`."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from fmjax.types import Array, Key, PyTree

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


def mean_loss(
    one: Callable[[PyTree, Key, dict[str, Array]], Array], *, own: str
) -> Callable[[PyTree, Key, dict[str, Array]], Array]:
    """Returns the mean over the networks of what each of them minimizes.

    Args:
      one: `(params, key, batch) -> []`, the loss of one network.
      own: the entry of the batch of which every network has its own part, `[examples, networks,
        ...]`; all other entries are the same for all.
    """

    def loss(params: PyTree, key: Key, batch: dict[str, Array]) -> Array:
        keys = jax.random.split(key, batch[own].shape[1])
        axes = {name: 1 if name == own else None for name in batch}
        # Adam takes no notice of the scale of a gradient, so the mean trains each as if alone.
        return jax.vmap(one, in_axes=(0, 0, axes))(params, keys, batch).mean()

    return loss
