"""Fidelity and diversity of generated samples, from balls around the samples of each set.

The ball of a sample reaches to its k-th nearest neighbor in its own set. The union of all balls of
a set approximates the support of its law. From it Kynkaanniemi et al. define

    precision = the share of generated samples in the ball of any real sample             (1)
    recall    = the share of real samples in the ball of any generated sample             (2)

One outlier has a large ball, so Naeem et al. count balls instead, and only real samples have one:

    density  = the number of balls of real samples that hold a generated one, over k      (3)
    coverage = the share of real samples whose ball holds a generated sample              (4)

(3) is averaged over the generated samples. When the two laws agree, the expected density is 1 and
the expected coverage is `1 - prod_{j<k} (n - 1 - j) / (n + m - 1 - j)`, close to `1 - 2^-k` for
n = m. The expected precision and recall depend on the law. The sign of `|a - b|^2 - radius^2`
decides whether a sample is in a ball. It is computed by matrix products, and again from differences
for the balls whose surface is nearest to the sample.

References:
  Kynkaanniemi et al. (2019), Improved Precision and Recall Metric for Assessing Generative Models,
  arXiv 1904.06991. [kynkaanniemi2019improved]
  Naeem et al. (2020), Reliable Fidelity and Diversity Metrics for Generative Models, arXiv
  2002.09797. [naeem2020reliable]
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from fmjax import _checks
from fmjax.metrics import _search
from fmjax.metrics._common import check_chunk, check_samples
from fmjax.types import Array

__all__ = ["PRDC", "prdc"]


class PRDC(NamedTuple):
    """Fidelity (precision, density) and diversity (recall, coverage) of generated samples.

    Attributes:
      precision: `[]`, in [0, 1], eq. (1).
      recall: `[]`, in [0, 1], eq. (2).
      density: `[]`, not negative, eq. (3); above 1 if the generated samples lie where many balls
        overlap, as they do at the center in many dimensions.
      coverage: `[]`, in [0, 1], eq. (4).
    """

    precision: Array
    recall: Array
    density: Array
    coverage: Array


def prdc(real: Array, generated: Array, *, neighbors: int = 5, chunk: int = 256) -> PRDC:
    """Measures precision, recall, density and coverage of generated samples.

    The balls are closed: a sample on the surface is inside, and so is a copy of a real sample,
    even where real samples are repeated and the radius is zero. For continuous laws it makes no
    difference. Two equal sets have density `(k + 1) / k`, where open balls would give 1.

    The values depend on k, n and m: compare only at equal ones.

    Args:
      real: `[n, *dims]`, features of real samples, n > `neighbors`; finite.
      generated: `[m, *dims]`, features of generated samples, m > `neighbors`; finite.
      neighbors: k, at least 1; Kynkaanniemi et al. take 3, Naeem et al. 5.
      chunk: rows that are compared at once. Memory is copies of both sets, and a few times
        `chunk * max(n, m)` numbers and `chunk * (neighbors + 16)` examples.

    Returns:
      A `PRDC`, in time `n^2 + 3 n m + m^2`.

    Raises:
      ValueError: if the examples differ in shape, are too few or not floating, or `neighbors`
        or `chunk` is below 1.

    Example:
      >>> import fmjax
      >>> import jax
      >>> real, generated = jax.random.normal(jax.random.key(0), (2, 600, 2))
      >>> real = real.at[:300].add(20.0)  # a second mode, which is not generated
      >>> [round(float(value), 1) for value in fmjax.metrics.prdc(real, generated)]
      [1.0, 0.5, 1.0, 0.5]

    Reference:
      Kynkaanniemi et al. (2019), arXiv 1904.06991, precision and recall; Naeem et al. (2020),
      arXiv 2002.09797, density and coverage. [kynkaanniemi2019improved; naeem2020reliable]
    """
    check_chunk(chunk)
    _checks.count("it counts other samples", neighbors=neighbors)
    check_samples(real, generated, at_least=neighbors + 1)
    real, generated = _search.rows(real), _search.rows(generated)
    within, across = partial(_radii, neighbors, chunk), partial(_balls, neighbors, chunk)
    radii = within(real)
    balls = across(generated, real, radii)
    mean = partial(jnp.mean, dtype=real.dtype)
    values = PRDC(
        precision=mean(balls > 0),
        recall=mean(across(real, generated, within(generated)) > 0),
        density=mean(balls) / neighbors,
        coverage=mean(_nearest(chunk, real, generated) <= radii),
    )
    # A comparison with NaN is false and would be counted.
    finite = jnp.isfinite(real).all() & jnp.isfinite(generated).all()
    return jax.tree.map(lambda value: jnp.where(finite, value, jnp.nan), values)


def _radii(neighbors: int, chunk: int, x: Array) -> Array:
    """Finds the squared distance from each row to its k-th nearest among the others, `[n]`."""
    table, places = _search.table(x), jnp.arange(x.shape[0])

    def radius(row_and_place: tuple[Array, Array]) -> Array:
        row, place = row_and_place
        # The row itself is left out by its place, not by its distance: a copy of it counts.
        scores = jnp.where(places == place, jnp.inf, _search.scores(row, table))
        index, squares = _search.closest(row, table, scores, neighbors)
        return jnp.sort(jnp.where(index == place, jnp.inf, squares))[neighbors - 1]

    return jax.lax.map(radius, (x, places), batch_size=chunk)


def _nearest(chunk: int, x: Array, data: Array) -> Array:
    """Finds the squared distance from each row of x to the nearest row of data, `[n]`."""
    table = _search.table(data)

    def nearest(row: Array) -> Array:
        return jnp.min(_search.closest(row, table, _search.scores(row, table), 1)[1])

    return jax.lax.map(nearest, x, batch_size=chunk)


def _balls(neighbors: int, chunk: int, x: Array, centers: Array, radii: Array) -> Array:
    """Counts the balls that hold each row of x, `[n]`; the radii are squared."""
    table = _search.table(centers)

    def count(row: Array) -> Array:
        # Half the power of the point with respect to each ball: non-positive inside.
        own = jnp.sum((row - table.center) ** 2)
        powers = _search.scores(row, table) + 0.5 * (own - radii)
        index, squares = _search.closest(row, table, jnp.abs(powers), neighbors)
        return jnp.sum((powers <= 0.0).at[index].set(squares <= radii[index]))

    return jax.lax.map(count, x, batch_size=chunk)
