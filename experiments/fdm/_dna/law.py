"""The toy law of DNA: independent letters, whose probabilities are drawn once."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from experiments.run import options
from fmjax import simplex
from fmjax.types import Array


@dataclasses.dataclass(frozen=True)
class Letters:
    """The law of the sequences; the defaults are the paper's."""

    length: int = 4
    """Positions of a sequence."""
    num_classes: int = 40
    """Letters that a position can have, from 2 to 500."""
    law_seed: int = 0
    """Seed of the probabilities of the letters, an integer >= 0."""

    def check(self) -> None:
        """Raises ValueError for numbers out of their bounds."""
        bounds = {"length": (1, 1000), "num_classes": (2, 500), "law_seed": (0, 2**32 - 1)}
        options.check_bounds(self, bounds)


def probabilities(letters: Letters) -> np.ndarray:
    """Returns the probability of every letter at every position, `[length, num_classes]`.

    The softmax of uniform numbers in [0, 1], so the likeliest letter is at most e times as likely
    as the least likely one.
    """
    rng = np.random.default_rng(letters.law_seed)
    weights = np.exp(rng.uniform(size=(letters.length, letters.num_classes)))
    return weights / weights.sum(axis=1, keepdims=True)


def sample(rng: np.random.Generator, law: np.ndarray, *shape: int) -> np.ndarray:
    """Draws sequences, `[*shape, length]` integers."""
    levels = law.cumsum(axis=1)[:, :-1]
    u = rng.uniform(size=(*shape, len(law), 1))
    return (u > levels).sum(axis=-1).astype(np.int32)


def posterior(path: simplex.Path, law: Array, x: Array, t: Array) -> Array:
    """Returns the exact log-probabilities of the letters given a noisy state, by Bayes' rule.

    Positions are independent, under the data as under the noise, so each has its own. Euler's steps
    can leave a position where the linear path comes from no letter; it has the nearest one then. At
    its end that path has no density, so the time is at most 1 - 1e-6.
    """
    likelihood = path.log_density(x, jnp.minimum(t, 1 - 1e-6))
    nearest = jnp.where(x == x.max(-1, keepdims=True), 0.0, -jnp.inf)
    nowhere = jnp.isneginf(likelihood).all(-1, keepdims=True)
    return jax.nn.log_softmax(jnp.log(law) + jnp.where(nowhere, nearest, likelihood))
