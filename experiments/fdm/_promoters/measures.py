"""How far two sets of sequences are apart, and what one network's sequences are."""

import functools
from collections.abc import Callable
from typing import Any

import diffrax
import jax
import jax.numpy as jnp
import numpy as np

import fmjax
from experiments.fdm._promoters import motifs
from experiments.run import batches
from fmjax import simplex
from fmjax.types import Array, Key, PyTree

Embed = Callable[[np.ndarray], np.ndarray]
WORDS = (3, 4, 5, 6)  # lengths of the words whose spectra are compared


def generated(
    apply: Callable[..., Array],
    params: PyTree,
    path: simplex.Path,
    shape: tuple[int, int],
    labels: np.ndarray,
    key: Key,
    *,
    num_steps: int,
    size: int,
    label: str,
) -> np.ndarray:
    """Returns one sequence for each label, by Euler's method, int8 `[n, length]`.

    Letters are drawn by the last prediction, at the end of the path.

    Args:
      apply: `(params, x, t, context=label) -> logits`.
      params: the parameters.
      path: the path.
      shape: of a sequence on the simplex, (length, letters).
      labels: int `[n]`.
      key: a typed PRNG key.
      num_steps: Euler steps.
      size: sequences at a time.
      label: what the progress bar says.
    """

    def one(params: PyTree, key: Key, context: Array) -> Array:
        key_noise, key_letters = jax.random.split(key)
        logits = functools.partial(apply, params, context=context)
        x0 = simplex.uniform(key_noise, shape)
        field = simplex.as_velocity(logits, path)
        x = fmjax.samplers.fixed(field, x0, num_steps=num_steps, solver=diffrax.Euler())
        return jax.random.categorical(key_letters, logits(x, jnp.ones(())))

    many = functools.partial(jax.vmap(one, in_axes=(None, 0, 0)), params)
    keys = jax.random.split(key, len(labels))
    return batches.in_batches(many, keys, labels, size=size, label=label).astype(np.int8)


def by_position(letters: np.ndarray, others: np.ndarray) -> dict[str, float]:
    """Compares the letters at every position: total variation, and both KL in nats; means.

    Each letter is counted half a time more than it is seen, so that both KL are finite.

    Args:
      letters: `[n, length]`.
      others: `[m, length]`, the reference.
    """
    p, q = frequencies(letters), frequencies(others)
    return {
        "tv": float(0.5 * np.abs(p - q).sum(axis=1).mean()),
        "kl": float((q * np.log(q / p)).sum(axis=1).mean()),
        "reverse_kl": float((p * np.log(p / q)).sum(axis=1).mean()),
    }


def frequencies(letters: np.ndarray) -> np.ndarray:
    """Returns the share of each letter at each position, half a count more each, `[length, 4]`."""
    counts = (letters[..., None] == np.arange(4)).sum(axis=0) + 0.5
    return counts / counts.sum(axis=1, keepdims=True)


def spectrum(letters: np.ndarray, word: int) -> np.ndarray:
    """Returns the share of every word of so many letters among all words, `[4 ** word]`."""
    codes = sum(
        letters[:, i : letters.shape[1] - word + 1 + i].astype(np.int64) * 4 ** (word - 1 - i)
        for i in range(word)
    )
    counts = np.bincount(codes.ravel(), minlength=4**word)
    return counts / counts.sum()


def by_words(letters: np.ndarray, others: np.ndarray) -> dict[str, float]:
    """Returns the total variation of the spectra of words, by the length of the words."""
    return {
        f"words_{word}": float(0.5 * np.abs(spectrum(letters, word) - spectrum(others, word)).sum())
        for word in WORDS
    }


def sp_mse(embed: Embed, letters: np.ndarray, others: np.ndarray) -> float:
    """Returns the mean squared difference of what `embed` predicts of paired sequences.

    With the mean over the H3K4me3 outputs of the Sei network as `embed` this is the SP-MSE of the
    papers (Avdeyev et al. 2023; arXiv 2602.00869, section on promoters), whose weights are not
    free. The experiment gives it the class probabilities of its own classifier.

    Args:
      embed: `[n, length]` letters to `[n]` or `[n, k]`.
      letters: `[n, length]`.
      others: `[n, length]`, the real sequence on whose label each of `letters` was conditioned.
    """
    return float(np.square(np.float64(embed(letters)) - np.float64(embed(others))).mean())


def apart(
    letters: np.ndarray,
    others: np.ndarray,
    labels: np.ndarray,
    *,
    start: int | None,
    features: Embed | None,
    embed: Embed | None,
) -> dict[str, Any]:
    """Returns all distances of sequences from held-out ones with the same labels, and motifs.

    Args:
      letters: `[n, length]`.
      others: `[n, length]`, held-out sequences.
      labels: `[n]`, of both.
      start: place of the start site; None measures no motifs.
      features: `[n, length] -> [n, k]`, for the Frechet distance; None measures none.
      embed: of `sp_mse`; None measures none.
    """
    found = by_position(letters, others) | by_words(letters, others)
    if start is not None:
        found["motifs"] = {
            motif.name: by_class(letters, motif, labels, background(others), start)
            for motif in motifs.MOTIFS
        }
    if features is not None:
        ours, theirs = (jnp.asarray(features(part)) for part in (letters, others))
        found["frechet"] = float(fmjax.metrics.frechet(ours, theirs))
    if embed is not None:
        found["sp_mse"] = sp_mse(embed, letters, others)
    return found


def background(letters: np.ndarray) -> np.ndarray:
    """Returns the shares of the four letters, `[4]`."""
    return spectrum(letters, 1)


def by_class(
    letters: np.ndarray, motif: motifs.Motif, labels: np.ndarray, shares: np.ndarray, start: int
) -> list[float]:
    """Returns the share of sequences with the motif where it acts, by class."""
    acts = motifs.acting(motifs.hits(letters, motif, shares), motif, start)
    return [float(acts[labels == label].mean()) for label in np.unique(labels)]


def paired(rng: np.random.Generator, labels: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Returns places of different examples that have the wanted labels, `[n]`.

    Raises:
      ValueError: if a label is wanted more often than there is.
    """
    places = np.empty(len(wanted), np.int64)
    for label in np.unique(wanted):
        there, asked = np.flatnonzero(labels == label), wanted == label
        if len(there) < asked.sum():
            message = (
                f"{len(there)} training sequences of class {label}, and {asked.sum()} are wanted "
                "beside the samples: give a smaller --num-samples."
            )
            raise ValueError(message)
        places[asked] = rng.choice(there, asked.sum(), replace=False)
    return places
