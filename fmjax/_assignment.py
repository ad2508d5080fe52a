"""The assignment of least total cost: exact, and started from approximate dual potentials.

Given costs C `[n, n]`, the best permutation minimizes `sum_i C[i, pi(i)]`. For any numbers f and g,

    R_ij = C_ij - (f_i + g_j)                                                        (1)
    sum_i R[i, pi(i)] = sum_i C[i, pi(i)] - (sum f + sum g)     for every pi         (2)

so the best permutation of R is the best of C, however rough f and g are. They decide only how soon
it is found: with optimal ones R is nowhere negative and 0 at the best pairs, most rows get the
column of their smallest R, and few rows are left to search for. Potentials near to those come from
Sinkhorn's iteration at falling temperatures. The search is exact: it takes the rows left one by
one along shortest augmenting paths, the Hungarian algorithm.

Rounding is all that (2) leaves. f and g are whole multiples of one power of two, less than 2^23
each (2^52 in float64), so that f + g is exact. Then (1) is rounded once, relative to R, not to C or
f. With `f_i = min_j (C_ij - g_j)` the R of the best pairs sum to the gap between their cost and the
bound `sum f + sum g` that duality gives. Potentials that do not raise this bound above
`sum_i min_j C_ij`, that of f = g = 0, are dropped, and R = C. So the rounding in (1) weighs no more
than that of the costs above the least of their row. Of whole numbers R is exact: ties stay ties.

References:
  Jonker and Volgenant (1987), Computing 38(4), 325-340: the search. [jonker1987shortest]
  Schmitzer (2019), arXiv 1610.06519: Sinkhorn's iteration, absorbed. [schmitzer2019stabilized]
  Thibault et al. (2021), arXiv 1711.01851: its overrelaxation. [thibault2021overrelaxed]
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from fmjax.types import Array

__all__ = ["best_rows", "potentials", "search"]

# Measured on a CPU: the least time for 64 to 512 points in 2, 64 and 784 dimensions.
_STAGES = 4
_ITERATIONS = 10
_COLDEST = 1e-3
_RELAXATION = 1.5


class _Matching(NamedTuple):
    """Some rows with their columns, -1 where there is none, and a potential of each column.

    A row that has a column needs no potential of its own: it is R - v at that column.
    """

    v: Array
    row: Array
    column: Array


class _Paths(NamedTuple):
    """Shortest paths from one row to the columns; `row` is the next one, -1 at a free column."""

    distance: Array
    parent: Array
    done: Array
    row: Array
    column: Array
    offset: Array


def best_rows(costs: Array) -> Array:
    """Finds the assignment of least total cost.

    Args:
      costs: `[n, n]`, floating, of any sign and scale. inf forbids a pair, and NaN counts as inf.

    Returns:
      `[n]`, the row of each column. Some permutation where no allowed one is complete, or where a
      cost is -inf.
    """
    if not costs.size:
        return jnp.arange(len(costs))
    costs = jnp.where(jnp.isnan(costs), jnp.inf, costs)
    f, g = potentials(costs)
    return search(costs - (f[:, None] + g[None]))  # eq. (1)


def potentials(costs: Array) -> tuple[Array, Array]:
    """Computes approximate dual potentials of the rows and the columns, or zeros.

    Args:
      costs: `[n, n]`, n > 0, without NaN.

    Returns:
      `(f, g)`, both `[n]`, finite, with an exact sum f_i + g_j in floating point.
    """
    f, g = _tight(costs, *jnp.zeros((2, len(costs)), costs.dtype))
    # The diagonal is a pairing at random; unlike a mean, its median survives huge costs. To count
    # the smaller ones compiles in less time than to sort.
    diagonal = jnp.diagonal(costs) - f - g
    smaller = jnp.sum(diagonal[None] < diagonal[:, None], axis=1)
    unit = jnp.max(jnp.where(smaller <= len(costs) // 2, diagonal, -jnp.inf))
    unit = jnp.where((unit > 0) & jnp.isfinite(unit), unit, 1)
    cooling = _COLDEST ** (1 / (_STAGES - 1))

    def stage(k: Array, pair: tuple[Array, Array]) -> tuple[Array, Array]:
        return _sinkhorn(costs, *pair, (unit * cooling**k).astype(costs.dtype))

    _, g = jax.lax.fori_loop(0, _STAGES, stage, (f, g))
    return _on_grid(costs, g, unit * _COLDEST / 8)


def _tight(costs: Array, f: Array, g: Array) -> tuple[Array, Array]:
    """Raises or lowers f, then g, until the smallest R of every row and column is 0."""
    for axis in (1, 0):
        least = jnp.min(costs - f[:, None] - g[None], axis=axis)
        least = jnp.where(jnp.isfinite(least), least, 0)
        f, g = (f + least, g) if axis else (f, g + least)
    return f, g


def _sinkhorn(costs: Array, f: Array, g: Array, temperature: Array) -> tuple[Array, Array]:
    """Improves the potentials at one temperature, by scalings a and b of exp(-R / temperature).

    R has a 0 in every row and column: no sum is 0. Scalings beyond the range are given up.
    """
    f, g = _tight(costs, f, g)
    kernel = jnp.exp((f[:, None] + g[None] - costs) / temperature)

    def scale(_: Array, scalings: tuple[Array, Array]) -> tuple[Array, Array]:
        a, b = scalings
        a = a * (a * (kernel @ b)) ** -_RELAXATION
        return a, b * (b * (a @ kernel)) ** -_RELAXATION

    a, b = jax.lax.fori_loop(0, _ITERATIONS, scale, (jnp.ones_like(f), jnp.ones_like(g)))
    better = f + temperature * jnp.log(a), g + temperature * jnp.log(b)
    fine = jnp.all(jnp.isfinite(better[0]) & jnp.isfinite(better[1]))
    return jnp.where(fine, better[0], f), jnp.where(fine, better[1], g)


def _on_grid(costs: Array, g: Array, step: Array) -> tuple[Array, Array]:
    """Rounds potentials to multiples of a power of two near `step`, or drops them; see the top."""
    info = jnp.finfo(costs.dtype)
    f = jnp.min(costs - g[None], axis=1)
    largest = jnp.maximum(jnp.max(jnp.abs(f)), jnp.max(jnp.abs(g)))
    step = jnp.maximum(step, 2 * info.eps * largest)
    step = jax.lax.reduce_precision(step, info.nexp, 0)
    g = jnp.round(g / step) * step
    f = jnp.round(jnp.min(costs - g[None], axis=1) / step) * step
    # The bound must rise by more than its own rounding.
    raised = jnp.sum(f - jnp.min(costs, axis=1)) + jnp.sum(g)
    raised -= 4 * info.eps * len(f) * largest
    fine = (raised > 0) & jnp.all(jnp.isfinite(f)) & jnp.all(jnp.isfinite(g))
    return jnp.where(fine, f, 0), jnp.where(fine, g, 0)


def search(costs: Array) -> Array:
    """Finds the row of each column in the assignment of least total cost, `[n]`."""
    n = len(costs)
    rows = jnp.arange(n)
    nearest = jnp.argmin(costs, axis=1)
    row = jnp.full(n, -1).at[nearest].max(rows)
    column = jnp.where(row[nearest] == rows, nearest, -1)

    def unfinished(matching: _Matching) -> Array:
        return jnp.any(matching.column < 0)

    start = _Matching(jnp.zeros(n, costs.dtype), row, column)
    return jax.lax.while_loop(unfinished, lambda matching: _match(costs, matching), start).row


def _match(costs: Array, matching: _Matching) -> _Matching:
    """Gives one more row a column; rows on its way move to the next column of the path."""
    source = jnp.argmin(matching.column)
    paths = _shortest(costs, matching, source)
    last = paths.distance[paths.column]
    ahead = jnp.where(paths.done & jnp.isfinite(paths.distance), paths.distance - last, 0)

    def move(state: tuple[Array, ...]) -> tuple[Array, ...]:
        row, column, here, _ = state
        parent = paths.parent[here]
        moved = row.at[here].set(parent), column.at[parent].set(here)
        return *moved, column[parent], parent == source

    state = (matching.row, matching.column, paths.column, False)
    row, column, *_ = jax.lax.while_loop(lambda state: ~state[-1], move, state)
    return _Matching(matching.v + ahead, row, column)


def _shortest(costs: Array, matching: _Matching, source: Array) -> _Paths:
    """Searches for shortest paths from a row until the nearest column is free.

    Every step is done with one more column, whatever the numbers are, so that it ends.
    """
    n = len(costs)

    def step(paths: _Paths) -> _Paths:
        reached = costs[paths.row] - matching.v - paths.offset
        better = ~paths.done & (reached < paths.distance)
        distance = jnp.where(better, reached, paths.distance)
        parent = jnp.where(better, paths.row, paths.parent)
        least = jnp.min(jnp.where(paths.done, jnp.inf, distance))
        near = ~paths.done & (distance == least)
        column = jnp.argmax(jnp.where(near, 1 + (matching.row < 0), 0))  # a free one, if any
        row = matching.row[column]
        offset = costs[row, column] - matching.v[column] - least
        return _Paths(distance, parent, paths.done.at[column].set(True), row, column, offset)

    never, zero = jnp.full(n, jnp.inf, costs.dtype), jnp.zeros((), costs.dtype)
    # Under vmap a matching that is complete waits for others: nothing to search for.
    first = jnp.where(matching.column[source] < 0, source, -1)
    start = _Paths(never, jnp.full(n, source), jnp.zeros(n, bool), first, source, zero)
    return jax.lax.while_loop(lambda paths: paths.row >= 0, step, start)
