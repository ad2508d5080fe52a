"""How far a network of letters is from the law: its predictions along the path, and its samples."""

import operator
from collections.abc import Callable
from functools import partial
from typing import Any

import diffrax
import jax
import jax.numpy as jnp
import numpy as np

import fmjax
from experiments.fdm._dna import law as laws
from experiments.run import numbers
from fmjax import simplex
from fmjax.types import Array, Key, PyTree, Velocity

TIMES = (0.1, 0.3, 0.5, 0.7, 0.9)
# How letters are read from the last prediction, at t = 1: drawn by its probabilities, which for the
# exact field gives the law, or the likeliest, as in the paper's code.
READINGS = ("drawn", "likeliest")


def surplus(logits: Velocity, path: simplex.Path, law: Array, x: Array, t: Array) -> Array:
    """Returns the KL divergence of the predicted from the exact probabilities, per position.

    Its mean over noisy states is what the cross-entropy has above its least value, in nats.
    """
    exact = laws.posterior(path, law, x, t)
    ours = jax.nn.log_softmax(logits(x, t))
    probs = jnp.exp(exact)
    return jnp.sum(jnp.where(probs > 0, probs * (exact - ours), 0.0)) / len(law)


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
    """Returns the letters of one sample by Euler's method, in every reading, `[2, length]`.

    A step of either path stays within the simplex, so nothing is projected.
    """
    key_noise, key_letters = jax.random.split(key)
    field, x0 = simplex.as_velocity(logits, path), simplex.uniform(key_noise, shape)
    x = fmjax.samplers.fixed(field, x0, num_steps=num_steps, solver=diffrax.Euler())
    last = logits(x, jnp.ones(()))
    return jnp.stack([jax.random.categorical(key_letters, last), last.argmax(-1)])


def marginals(
    apply: Callable[..., Array],
    params: PyTree,
    shape: tuple[int, int],
    *,
    path: simplex.Path,
    keys: Key,
    num_steps: int,
) -> dict[str, np.ndarray]:
    """Returns the frequencies of the letters of samples, by reading, `[seeds, length, classes]`.

    Every one of the networks, `params` with a leading axis, draws with its own row of the keys.
    """

    @jax.jit
    def many(params: PyTree, keys: Key) -> Array:
        one = partial(generated, partial(apply, params), path, shape, num_steps=num_steps)
        return jax.lax.map(one, keys, batch_size=1000)

    each = [jax.tree.map(operator.itemgetter(seed), params) for seed in range(len(keys))]
    letters = np.stack([np.asarray(many(*pair)) for pair in zip(each, keys, strict=True)])
    return {
        reading: np.stack([frequencies(one, shape[1]) for one in letters[:, :, index]])
        for index, reading in enumerate(READINGS)
    }


def references(
    law: np.ndarray, path: simplex.Path, keys: Key, num_steps: int, rng: np.random.Generator
) -> dict[str, dict[str, np.ndarray]]:
    """Returns `marginals` of the exact field, and as many fresh sequences of the law."""
    exact = partial(laws.posterior, path)
    seeds, count = keys.shape
    same = np.broadcast_to(np.float32(law), (seeds, *law.shape))
    fresh = [frequencies(laws.sample(rng, law, count), law.shape[1]) for _ in range(seeds)]
    return {
        "exact field": marginals(exact, same, law.shape, path=path, keys=keys, num_steps=num_steps),
        "data": {READINGS[0]: np.stack(fresh)},
    }


def frequencies(letters: np.ndarray, num_classes: int) -> np.ndarray:
    """Returns how often every letter is seen at every position, `[length, num_classes]`."""
    counts = [np.bincount(column, minlength=num_classes) for column in letters.T]
    return np.stack(counts) / len(letters)


def distances(seen: np.ndarray, law: np.ndarray, num_samples: int) -> dict[str, float]:
    """Returns the distances of frequencies from the law, means over positions.

    TV is the total variation, KL(law, samples) in nats with half a count for every letter, so that
    one that is never seen has a finite one, and KL(samples, law).
    """
    smooth = (seen * num_samples + 0.5) / (num_samples + 0.5 * law.shape[1])
    with np.errstate(divide="ignore", invalid="ignore"):
        reverse = np.where(seen > 0, seen * np.log(seen / law), 0.0)
    return {
        "tv": float(jax.vmap(fmjax.metrics.total_variation)(seen, law).mean()),
        "kl": float((law * np.log(law / smooth)).sum(axis=1).mean()),
        "reverse_kl": float(reverse.sum(axis=1).mean()),
    }


def apart(seen: np.ndarray, law: np.ndarray, num_samples: int) -> dict[str, dict[str, Any]]:
    """Returns mean, standard deviation and values of `distances` of `[seeds, length, classes]`."""
    rows = [distances(one, law, num_samples) for one in seen]
    return {key: numbers.summary(np.array([row[key] for row in rows])) for key in rows[0]}
