"""How alike the exact velocity of a data set and the velocity of a single pair are.

At `x_t = t x1 + (1 - t) x0`, with noise x0 and x1 one of n points, flow matching regresses on
x1 - x0, one of many velocities that meet there, and its minimizer is their mean u, which is known
in closed form. Between the two

    cos(u(x_t, t), x1 - x0)                                                       (1)

is 1 where nothing is left to average over: where the posterior weight of x1 given x_t is 1. That
happens about the time t_c of `fmjax.collapse`, at which the state knows as much of the data as
there is to know of which point it is, the entropy of the data set: log n, or less where points
are equal. What equal points weigh is taken together.

At the noise end u is the mean of the data minus x0 and (1) is not 0 but, in many dimensions, about
`sqrt((d + |mean|^2) / (d + E|x1|^2))`: how near to 1 it starts depends on the scale of the data.

References:
  Bertrand et al. (2025), On the Closed-Form of Flow Matching, arXiv 2506.03719, figure 1.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import fmjax
from experiments.run import batches, numbers
from fmjax.types import Array, Key

path = fmjax.paths.linear()  # the paper's
THRESHOLD = 0.9  # figure 1c counts the cosines above it
EDGES = np.linspace(-1.0, 1.0, 21)  # of the bins of the histograms


def of_pair(bank: Array, groups: Array, x0: Array, index: Array, t: Array) -> tuple[Array, Array]:
    """Returns the cosine (1) of one pair and the posterior weight of its point and its copies.

    Args:
      bank: `[n, *dims]`, the data set.
      groups: `[n]`, a number for every point, the same for equal points.
      x0: `[*dims]`, noise.
      index: `[]`, which point is x1.
      t: `[]`, in [0, 1).
    """
    x1 = bank[index]
    x = fmjax.paths.interpolate(path, x0, x1, t)
    exact = fmjax.empirical.velocity(path, bank, x, t)
    single = fmjax.predictions.target(fmjax.predictions.velocity, path, x0, x1, t)
    cosine = jnp.sum(exact * single) / jnp.sqrt(jnp.sum(exact**2) * jnp.sum(single**2))
    weights = fmjax.empirical.weights(path, bank, x, t)
    weight = jnp.sum(jnp.where(groups == groups[index], weights, 0.0))
    return jnp.clip(cosine, -1.0, 1.0), weight  # rounding may go beyond


@jax.jit
def _of_pairs(
    bank: Array, groups: Array, noise: Array, indices: Array, pair: Array, t: Array
) -> tuple[Array, Array]:
    """Returns what `of_pair` does for some of the pairs, each at its own time."""
    one = functools.partial(of_pair, bank, groups)
    return jax.vmap(one)(noise[pair], indices[pair], t)


def measure(
    bank: np.ndarray, key: Key, times: np.ndarray, *, num_pairs: int, size: int, label: str
) -> dict[str, Any]:
    """Returns everything that is known of one data set.

    Args:
      bank: float32 `[n, *dims]`.
      key: for the pairs, which are the same at all times.
      times: `[k]`, increasing, in [0, 1).
      num_pairs: pairs of noise and data.
      size: pairs at a time; memory grows with `size * n`.
      label: what the progress bar says.

    Returns:
      `shape` of a point, its `dimension`, `num_points` and `num_pairs`; the collapse times,
      `predicted` and `measured`; and `rows`, a dict for every time.
    """
    groups = fmjax.collapse.groups(bank)
    key_noise, key_point = jax.random.split(key)
    noise = jax.random.normal(key_noise, (num_pairs, *bank.shape[1:]))
    indices = jax.random.randint(key_point, (num_pairs,), 0, len(bank))
    function = functools.partial(_of_pairs, jnp.asarray(bank), jnp.asarray(groups), noise, indices)
    every = (np.tile(np.arange(num_pairs), len(times)), np.repeat(np.float32(times), num_pairs))
    found = batches.in_batches(function, *every, size=size, label=label)
    cosines, weights = (values.reshape(len(times), num_pairs) for values in found)
    variances, entropy = fmjax.collapse.variances(bank), fmjax.collapse.entropy(groups)
    predicted = fmjax.collapse.collapse_time(path, jnp.asarray(variances), np.exp(entropy))
    return {
        "shape": list(bank.shape[1:]),
        "dimension": int(bank[0].size),
        "num_points": len(bank),
        "num_pairs": num_pairs,
        "predicted": float(predicted),
        "measured": crossing(times, weights.mean(axis=1)),
        "rows": [row(*values) for values in zip(times, cosines, weights, strict=True)],
    }


def row(t: float, cosines: np.ndarray, weights: np.ndarray) -> dict[str, Any]:
    """Returns what is reported of the pairs at one time.

    Args:
      t: the time.
      cosines: `[num_pairs]`, eq. (1).
      weights: `[num_pairs]`, of the true points.

    Returns:
      The mean cosine and its standard error, the share above `THRESHOLD`, the mean weight, and the
      share in each bin of `EDGES`.
    """
    return {
        "t": float(t),
        "mean_cosine": float(cosines.mean()),
        "standard_error": float(cosines.std(ddof=1) / len(cosines) ** 0.5),
        "share": float((cosines > THRESHOLD).mean()),
        "mean_weight": float(weights.mean()),
        "frequencies": (np.histogram(cosines, EDGES)[0] / len(cosines)).tolist(),
    }


def pictured(entry: dict[str, Any]) -> list[dict[str, Any]]:
    """Returns the rows of the six times of figure 1a, of an output of `measure`."""
    return entry["rows"][:: (len(entry["rows"]) - 1) // 5]


def size_of(shape: Sequence[int]) -> str:
    """Returns the size of an image `[h, w, c]` in words, and nothing for `[d]`."""
    return "x".join(map(str, shape[:2])) if len(shape) == 3 else ""


def crossing(times: np.ndarray, weights: np.ndarray) -> float | None:
    """Returns when mean weights first reach 1/2, between times by a line; None if they do not.

    Args:
      times: `[k]`, increasing.
      weights: `[k]`; where the first is at least 1/2 the answer is the first time.
    """
    reached = np.flatnonzero(weights >= 0.5)
    if not len(reached):
        return None
    last = reached[0]
    first = max(last - 1, 0)
    return float(np.interp(0.5, weights[first : last + 1], times[first : last + 1]))


def fingerprint(bank: np.ndarray) -> str:
    """Returns a short text that changes with any number of the data set."""
    return f"{list(bank.shape)}, crc32 {numbers.crc32(bank)}"
