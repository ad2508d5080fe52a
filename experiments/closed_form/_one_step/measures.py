"""The variance of a gradient over pairs, and how far one-step samples are from images."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

import fmjax
from experiments.closed_form._one_step.targets import average
from experiments.images import data
from fmjax.types import Array, PyTree


class Scores:
    """One-step samples of all networks, and how far they are from images, in pixels.

    Attributes:
      held_out: the scores of the held-out images themselves.
    """

    def __init__(
        self, apply: Callable[..., Array], images: data.Images, num_samples: int, seed: int
    ):
        noise = jax.random.normal(jax.random.key(seed), (num_samples, *images.train.shape[1:]))
        one = lambda params, x0: fmjax.samplers.one_step(average(apply, params), x0)  # noqa: E731
        self._many = jax.jit(jax.vmap(jax.vmap(one, (None, 0)), (0, None)))
        self._noise = noise
        parts = (jnp.asarray(data.centers(part, images.levels)) for part in images[:2])
        self._train, self._test = (x.reshape(len(x), -1) for x in parts)
        self._frechet = jax.jit(fmjax.metrics.frechet)
        self._memorized = jax.jit(fmjax.metrics.memorization_ratio)
        self.held_out = self._of(self._test)

    def samples(self, params: PyTree) -> np.ndarray:
        """Returns one-step samples of all networks from the same noise, `[seeds, n, h, w, c]`."""
        return np.asarray(self._many(params, self._noise))

    def __call__(self, params: PyTree) -> dict[str, np.ndarray]:
        """Returns the scores of all networks by their names."""
        each = [self._of(jnp.asarray(x).reshape(len(x), -1)) for x in self.samples(params)]
        return {name: np.array([one[name] for one in each]) for name in each[0]}

    def _of(self, x: Array) -> dict[str, float]:
        return {
            "frechet_test": float(self._frechet(x, self._test)),
            "frechet_train": float(self._frechet(x, self._train)),
            "memorized": float(self._memorized(x, self._train)),
        }


def gradient_variance(loss: Callable[..., Array], params: object, examples: tuple) -> tuple:
    """Computes the squared mean of the gradient of single examples, and its variance.

    Args:
      loss: `(params, *example) -> []`.
      params: at which the gradient is taken.
      examples: arrays with one axis in front.

    Returns:
      The squared length of the mean gradient, without the part that the noise of the mean adds,
      and the sum over the parameters of the variances of one example's gradient.
    """
    count = len(jax.tree.leaves(examples)[0])

    def add(sums: tuple, example: tuple) -> tuple:
        one = jax.grad(loss)(params, *example)
        squares = sum(jnp.vdot(leaf, leaf) for leaf in jax.tree.leaves(one))
        return (jax.tree.map(jnp.add, sums[0], one), sums[1] + squares), None

    start = (jax.tree.map(jnp.zeros_like, params), jnp.zeros(()))
    (total, squares), _ = jax.lax.scan(add, start, examples)
    length = sum(jnp.vdot(leaf, leaf) for leaf in jax.tree.leaves(total)) / count**2
    variance = (squares / count - length) * count / (count - 1)
    return length - variance / count, variance
