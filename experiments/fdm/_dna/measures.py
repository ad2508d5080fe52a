"""How far a network of letters is from the law: its predictions along the path, and its samples."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from experiments.fdm._dna import law as laws
from fmjax import metrics, simplex
from fmjax.types import Array, Key, Velocity

TIMES = (0.1, 0.3, 0.5, 0.7, 0.9)


def surplus(logits: Velocity, path: simplex.Path, law: Array, x: Array, t: Array) -> Array:
    """Returns the KL divergence of the predicted from the exact probabilities, per position.

    Its mean over noisy states is what the cross-entropy has above its least value, in nats.
    """
    exact = laws.posterior(path, law, x, t)
    ours = jax.nn.log_softmax(logits(x, t))
    return jnp.sum(jax.scipy.special.xlogy(exact, exact) - exact * ours) / len(law)


def along_the_path(logits: Velocity, path: simplex.Path, law: Array, key: Key, x1: Array) -> Array:
    """Returns the mean of `surplus` at every one of TIMES, `[times]`."""

    def at(key: Key, t: Array) -> Array:
        def one(key: Key, x1: Array) -> Array:
            return surplus(logits, path, law, path.sample(key, x1, t), t)

        return jax.vmap(one)(jax.random.split(key, len(x1)), x1).mean()

    return jax.vmap(at)(jax.random.split(key, len(TIMES)), jnp.asarray(TIMES))


def generated(
    logits: Velocity, path: simplex.Path, shape: tuple[int, int], key: Key, *, num_steps: int
) -> Array:
    """Returns the letters of one sample, `[length]`: of the last prediction at t = 1."""
    field = simplex.as_velocity(logits, path)
    x = simplex.sample(field, simplex.uniform(key, shape), num_steps=num_steps)
    return logits(x, jnp.ones(())).argmax(-1)


def frequencies(letters: np.ndarray, num_classes: int) -> np.ndarray:
    """Returns how often every letter is seen at every position, `[length, num_classes]`."""
    counts = [np.bincount(column, minlength=num_classes) for column in letters.T]
    return np.stack(counts) / len(letters)


def distances(letters: np.ndarray, law: np.ndarray) -> dict[str, float]:
    """Returns the distances of the letters' marginals from the law, means over positions.

    TV is the total variation, KL(law, samples) in nats with half a count for every letter, so that
    one that is never seen has a finite one, and KL(samples, law).
    """
    seen = frequencies(letters, law.shape[1])
    smooth = (seen * len(letters) + 0.5) / (len(letters) + 0.5 * law.shape[1])
    apart = partial(np.sum, axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        reverse = np.where(seen > 0, seen * np.log(seen / law), 0.0)
    return {
        "tv": float(jax.vmap(metrics.total_variation)(seen, law).mean()),
        "kl": float(apart(law * np.log(law / smooth)).mean()),
        "reverse_kl": float(apart(reverse).mean()),
    }


def sampler(
    apply: Callable[..., Array], path: simplex.Path, shape: tuple[int, int], num_steps: int
) -> Callable[..., Array]:
    """Returns `(params, keys) -> letters [n, length]`, compiled."""

    def many(params, keys):
        one = partial(generated, partial(apply, params), path, shape, num_steps=num_steps)
        return jax.vmap(one)(keys)

    return jax.jit(many)
