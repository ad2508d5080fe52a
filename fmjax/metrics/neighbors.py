"""Generated samples beside the training set: the nearest one, and whether it was memorised.

References: Yoon et al. (2023), ICML workshop SPIGM; Gu et al. (2023), arXiv 2310.02664.
"""

from __future__ import annotations

import numbers

import jax
import jax.numpy as jnp

from fmjax.metrics import _search
from fmjax.metrics._common import check_chunk, check_samples
from fmjax.types import Array


def nearest_neighbor(x: Array, data: Array, *, chunk: int = 256) -> tuple[Array, Array]:
    """Returns, for each row of x, the index of the nearest row of data and its distance.

    One matrix product per chunk proposes the 17 nearest rows, and differences decide among them, so
    a copy is at distance zero. The product rounds: it may miss the nearest row where more than 17
    have squared distances that agree to the float precision of the squared distance from the mean
    of the data. Half precision is searched in float32.

    Args:
      x: `[n, *dims]`, for example generated images.
      data: `[m, *dims]`, for example the training set.
      chunk: rows of x that are compared at once; memory is a copy of the data, `chunk` times m
        numbers and the 17 rows whose differences are taken.

    Returns:
      `(index, distance)`, both `[n]`; the distance is Euclidean, over all of `[*dims]`. Of equal
      rows the first counts.

    Raises:
      ValueError: if the examples differ in shape or are not floating, or `chunk` < 1.

    Example:
      >>> data = jnp.array([[0.0, 0.0], [10.0, 0.0]])
      >>> index, distance = nearest_neighbor(jnp.array([[7.0, 4.0], [0.0, 0.0]]), data)
      >>> index.tolist(), distance.tolist()
      ([1, 0], [5.0, 0.0])
    """
    check_samples(x, data)
    check_chunk(chunk)
    x, data = _search.rows(x), _search.rows(data)
    table = _search.table(data)

    def nearest(row: Array) -> tuple[Array, Array]:
        index, squares = _search.closest(row, table, _search.scores(row, table), 1)
        place = jnp.argmin(squares)
        return index[place], jnp.sqrt(squares[place])

    return jax.lax.map(nearest, x, batch_size=chunk)


def distance_ratio(generated: Array, train: Array, *, chunk: int = 256) -> Array:
    """Returns, per generated sample, how much nearer its nearest training sample is than the next.

    The distance to the nearest row of `train` over that to the nearest row that differs from it:
    1 between two rows, 0 on one of them. Copies of the nearest row are passed over: otherwise a
    sample near a repeated row would have ratio 1, and such rows are the first to be memorised.
    Only the 18 nearest rows are looked at; where a row is repeated more often than 17 times, take
    `numpy.unique(train, axis=0)`.

    Args:
      generated: `[n, *dims]`.
      train: `[m, *dims]`, m >= 2; what the model was trained on.
      chunk: generated samples that are compared at once; memory is a copy of `train`,
        `chunk` times m numbers and the 18 rows whose differences are taken.

    Returns:
      `[n]`, in [0, 1], for a histogram beside that of as many held-out samples. Where no other
      row is in sight it is 1, or 0 on a copy.

    Raises:
      ValueError: if the examples differ in shape or are not floating, `train` has one row only,
        or `chunk` < 1.

    Example:
      >>> train = jnp.array([[0.0], [0.0], [8.0]])
      >>> distance_ratio(jnp.array([[0.0], [-2.0], [4.0]]), train).tolist()
      [0.0, 0.20000000298023224, 1.0]

    Reference:
      Yoon et al. (2023), Diffusion Probabilistic Models Generalize when They Fail to Memorize,
      ICML workshop SPIGM; Gu et al. (2023), arXiv 2310.02664.
      [yoon2023diffusion; gu2023memorization]
    """
    check_samples(generated, train)
    check_chunk(chunk)
    if train.shape[0] < 2:
        message = f"train must have a nearest and a second row, got {train.shape}: pass all of it."
        raise ValueError(message)
    generated, train = _search.rows(generated), _search.rows(train)
    table = _search.table(train)

    def ratio(row: Array) -> Array:
        index, squares = _search.closest(row, table, _search.scores(row, table), 2)
        found, nearest = train[index], train[index[jnp.argmin(squares)]]
        others = jnp.any(found != nearest[None], axis=1)
        second = jnp.min(squares, where=others, initial=jnp.max(squares))
        first = jnp.min(squares)
        # A copy has ratio 0 also where the second distance is 0, being that to another copy.
        return jnp.sqrt(first / jnp.where(first == 0.0, 1.0, second))

    return jax.lax.map(ratio, generated, batch_size=chunk)


def memorization_ratio(
    generated: Array, train: Array, *, threshold: float | Array = 1 / 3, chunk: int = 256
) -> Array:
    """Returns the share of the generated samples that repeat a training sample.

    Those whose `distance_ratio` is below the threshold. Judge it beside the value for held-out
    samples, which is not zero in few dimensions.

    Args:
      generated: `[n, *dims]`.
      train: `[m, *dims]`, m >= 2; what the model was trained on.
      threshold: `[]`, in (0, 1]; Yoon et al. take 1/3.
      chunk: generated samples that are compared at once; memory is a copy of `train`,
        `chunk` times m numbers and the 18 rows whose differences are taken.

    Returns:
      `[]`, in [0, 1].

    Raises:
      ValueError: if the examples differ in shape or are not floating, `train` has one row only,
        a static `threshold` is outside (0, 1], or `chunk` < 1.

    Example:
      >>> train = jnp.array([[0.0], [4.0], [8.0]])
      >>> float(memorization_ratio(jnp.array([[0.9], [1.1], [2.0], [7.9]]), train))
      0.5

    Reference:
      Yoon et al. (2023), ICML workshop SPIGM; Gu et al. (2023), arXiv 2310.02664.
      [yoon2023diffusion; gu2023memorization]
    """
    if isinstance(threshold, numbers.Number) and not 0.0 < threshold <= 1.0:
        message = f"threshold must lie in (0, 1], got {threshold}: it is a ratio of distances."
        raise ValueError(message)
    ratios = distance_ratio(generated, train, chunk=chunk)
    share = jnp.mean(ratios < threshold, dtype=ratios.dtype)
    return jnp.where(jnp.any(jnp.isnan(ratios)), jnp.nan, share)  # not: novel
