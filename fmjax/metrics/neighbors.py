"""Generated samples compared with the training set: nearest rows, and memorization.

References: Yoon et al. (2023), ICML workshop SPIGM; Gu et al. (2023), arXiv 2310.02664.
"""

from __future__ import annotations

import numbers

import jax
import jax.numpy as jnp

from fmjax.metrics import _search
from fmjax.metrics._common import check_chunk, check_samples
from fmjax.types import Array

__all__ = ["distance_ratio", "memorization_ratio", "nearest_neighbor"]


def nearest_neighbor(x: Array, data: Array, *, chunk: int = 256) -> tuple[Array, Array]:
    """Finds the nearest row of data for each row of x, and its distance.

    One matrix product per chunk proposes the 17 nearest rows, and differences decide among them, so
    a copy is at distance zero. The product rounds. It may miss the nearest row if more than 17 rows
    have squared distances that agree to its precision, which is relative to the squared distance
    from the mean of the data. Half precision is searched in float32.

    Args:
      x: `[n, *dims]`, for example generated images.
      data: `[m, *dims]`, for example the training set.
      chunk: rows of x that are compared at once. Memory is a copy of the data, `chunk` times m
        numbers, and 17 differences for each row of the chunk.

    Returns:
      `(index, distance)`, both `[n]`; the distance is Euclidean, over all of `[*dims]`. Among
      equal rows of data the first is taken.

    Raises:
      ValueError: if the examples differ in shape or are not floating, or `chunk` < 1.

    Example:
      >>> import fmjax
      >>> import jax.numpy as jnp
      >>> x, data = jnp.array([[7.0, 4.0], [0.0, 0.0]]), jnp.array([[0.0, 0.0], [10.0, 0.0]])
      >>> index, distance = fmjax.metrics.nearest_neighbor(x, data)
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
    """Compares the distances from each generated sample to its two nearest training samples.

    The ratio is the distance to the nearest row of `train`, over the distance to the nearest row
    that differs from it: 1 halfway between two rows, 0 on one of them. Copies of the nearest row
    are skipped. Otherwise a sample near a repeated row would have ratio 1, and repeated rows are
    the first to be memorized. Only the 18 nearest rows are compared; if a row is repeated more than
    17 times, pass `numpy.unique(train, axis=0)`.

    Args:
      generated: `[n, *dims]`, generated samples.
      train: `[m, *dims]`, m >= 2; what the model was trained on.
      chunk: generated samples that are compared at once. Memory is a copy of `train`, `chunk` times
        m numbers, and 18 differences for each sample of the chunk.

    Returns:
      `[n]`, in [0, 1]. Draw its histogram next to the histogram of as many held-out samples. If all
      rows compared are equal, the ratio is 1, or 0 on a copy.

    Raises:
      ValueError: if the examples differ in shape or are not floating, `train` has one row only,
        or `chunk` < 1.

    Example:
      >>> import fmjax
      >>> import jax.numpy as jnp
      >>> train = jnp.array([[0.0], [0.0], [8.0]])
      >>> fmjax.metrics.distance_ratio(jnp.array([[0.0], [-2.0], [4.0]]), train).tolist()
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
        # A copy has ratio 0 also where the second distance is 0, the distance to another copy.
        return jnp.sqrt(first / jnp.where(first == 0.0, 1.0, second))

    return jax.lax.map(ratio, generated, batch_size=chunk)


def memorization_ratio(
    generated: Array, train: Array, *, threshold: float | Array = 1 / 3, chunk: int = 256
) -> Array:
    """Measures the share of the generated samples that repeat a training sample.

    A sample repeats one if its `distance_ratio` is below the threshold. Compare the share with the
    value for held-out samples, which is not zero in few dimensions.

    Args:
      generated: `[n, *dims]`, generated samples.
      train: `[m, *dims]`, m >= 2; what the model was trained on.
      threshold: `[]`, in (0, 1]; Yoon et al. take 1/3.
      chunk: generated samples that are compared at once. Memory is a copy of `train`, `chunk` times
        m numbers, and 18 differences for each sample of the chunk.

    Returns:
      `[]`, in [0, 1].

    Raises:
      ValueError: if the examples differ in shape or are not floating, `train` has one row only,
        a static `threshold` is outside (0, 1], or `chunk` < 1.

    Example:
      >>> import fmjax
      >>> import jax.numpy as jnp
      >>> train = jnp.array([[0.0], [4.0], [8.0]])
      >>> float(fmjax.metrics.memorization_ratio(jnp.array([[0.9], [1.1], [2.0], [7.9]]), train))
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
    return jnp.where(jnp.any(jnp.isnan(ratios)), jnp.nan, share)  # a NaN is not a novel sample
