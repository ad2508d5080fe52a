"""The dimension of data around points, by the energy of the noise and by the spectrum of the gain.

At the state `x = alpha x1`, the point itself without noise, the dimension of the data as the field
sees it at the scale sigma / alpha is (`fmjax.posterior.dimension`)

    E[|x0|^2 | x] = tr G + |E[x0 | x]|^2,    G = alpha grad m = Cov[x0 | x]                 (1)

and the second term vanishes with the noise. G, the gain, tends to the projection onto the tangent
space of the data, so that the number of its eigenvalues above 1/2,

    directions in which the data are wider than the noise,                                 (2)

says the same by another road. The exact field of n points (`fmjax.empirical`) sees points: once the
nearest of them is further than the noise, (1) is 0 at a point of the data. How many of them the
posterior still holds, their effective number, says where this begins.

References:
  Kamkari et al. (2024), A Geometric View of Data Complexity, arXiv 2406.03537.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import fmjax
from experiments.images import training
from experiments.run import batches, numbers
from fmjax.paths import Path
from fmjax.types import Array, PyTree, Velocity

path = training.path
ENOUGH = 20  # points that the posterior of a bank has to hold


class Field(NamedTuple):
    """A velocity as a function of its parameters: a network, the field of a bank, or of a law.

    Attributes:
      apply: `(params, x, t) -> dx` of one example.
      params: the parameters.
    """

    apply: Callable[..., Array]
    params: PyTree


def of_bank(points: np.ndarray) -> Field:
    """Returns the exact field of a finite data set, `[n, *dims]`."""
    return Field(functools.partial(fmjax.empirical.velocity, path), jnp.asarray(points))


def noises(times: tuple[float, ...]) -> np.ndarray:
    """Returns sigma / alpha, the noise in units of the data, at every time."""
    t = np.asarray(times)
    return np.asarray(path.sigma(t) / path.alpha(t))


def _spectrum(velocity: Velocity, path: Path, x1: Array, t: Array) -> Array:
    """Returns the eigenvalues of the gain at a point, the largest first, `[d]`."""
    gain = fmjax.posterior.gain(velocity, path, path.alpha(t) * x1, t)
    return jnp.linalg.eigvalsh(gain)[::-1]


@jax.jit
def _numbers(bank: Array, x1: Array, t: Array) -> Array:
    """Returns the effective number of points at the states of points, `[n]`."""
    one = functools.partial(fmjax.empirical.effective_number, path, bank)
    return jax.vmap(lambda x1, t: one(path.alpha(t) * x1, t))(x1, t)


def _at_times(
    function: Callable[..., Array],
    points: np.ndarray,
    times: tuple[float, ...],
    *,
    size: int,
    label: str,
) -> np.ndarray:
    """Returns what a batched function says of every point at every time, `[times, n, ...]`."""
    every = np.concatenate([points] * len(times))
    t = np.repeat(np.float32(times), len(points))
    found = batches.in_batches(function, every, t, size=size, label=label)
    return found.reshape(len(times), len(points), *found.shape[1:])


def dimensions(
    field: Field, points: np.ndarray, times: tuple[float, ...], *, size: int, label: str
) -> np.ndarray:
    """Returns the dimension (1) at every time and point, `[times, n]`.

    Args:
      field: whose data it is the dimension of.
      points: `[n, *dims]`.
      times: of the path.
      size: points at a time.
      label: what the progress bar says.
    """
    many = batches.batched(*field, fmjax.posterior.dimension, path)
    return _at_times(many, points, times, size=size, label=f"dimension, {label}")


def spectra(
    field: Field, points: np.ndarray, times: tuple[float, ...], *, size: int, label: str
) -> np.ndarray:
    """Returns the eigenvalues of the gain, the largest first, `[times, n, d]`; as `dimensions`."""
    many = batches.batched(*field, _spectrum, path)
    return _at_times(many, points, times, size=size, label=f"spectrum, {label}")


def effective_numbers(
    bank: np.ndarray, points: np.ndarray, times: tuple[float, ...], *, size: int, label: str
) -> np.ndarray:
    """Returns how many points the posterior of a bank holds at points, `[times, n]`."""
    many = functools.partial(_numbers, jnp.asarray(bank))
    return _at_times(many, points, times, size=size, label=f"points held, {label}")


def directions(spectra: np.ndarray) -> np.ndarray:
    """Returns the number (2) of eigenvalues above 1/2, `[times, n]`, of `[times, n, d]`."""
    return (spectra > 0.5).sum(axis=-1)


def rows(found: dict[str, np.ndarray], times: tuple[float, ...]) -> list[dict[str, Any]]:
    """Returns for every time the noise, and of each array `[times, n]` mean and standard error."""
    made = []
    for i, (t, noise) in enumerate(zip(times, noises(times), strict=True)):
        means = {name: numbers.mean(values[i]) for name, values in found.items()}
        made.append({"t": t, "noise": float(noise), **means})
    return made


def meaningful(rows: list[dict[str, Any]]) -> float | None:
    """Returns the least noise at which the bank holds `ENOUGH` points on average, or None."""
    held = [row["noise"] for row in rows if row["points_held"]["mean"] >= ENOUGH]
    return min(held) if held else None


def by_class(values: np.ndarray, labels: np.ndarray) -> list[dict[str, Any]]:
    """Returns the mean dimension of each class at every time, with its standard error.

    Args:
      values: `[times, n]`.
      labels: `[n]`. A class of one image has no standard error and is left out.
    """
    found = []
    for label in np.unique(labels):
        own = values[:, labels == label]
        if own.shape[1] > 1:
            each = [numbers.mean(at) for at in own]
            found.append({"label": int(label), "count": own.shape[1], "dimensions": each})
    return found


def agreement(
    some: list[dict[str, Any]], others: list[dict[str, Any]], i: int, j: int
) -> float | None:
    """Returns the rank correlation of two lists of `by_class`, at the i-th and the j-th time.

    It is None if they have fewer than three classes in common.
    """
    first, second = (
        {row["label"]: row["dimensions"][k]["mean"] for row in rows}
        for rows, k in ((some, i), (others, j))
    )
    both = [label for label in first if label in second]
    if len(both) < 3:
        return None
    pair = (np.array([means[label] for label in both]) for means in (first, second))
    return float(fmjax.metrics.spearman(*pair))
