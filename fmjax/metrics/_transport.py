"""Optimal transport between two weighted sets of points, exactly, by successive shortest paths.

Given costs C, supplies a of the rows and demands b of the columns, the plan is the P >= 0 with row
sums a and column sums b that minimizes `sum_ij P_ij C_ij`. One path after the other carries mass
from a row that still has some to a column that still wants some. A path may go forward over any
cost, and back over what was carried before. Potentials u and v with

    C_ij - u_i - v_j >= 0,    equal to 0 where P_ij > 0                                   (1)

make all steps of a path non-negative, so that Dijkstra's algorithm finds the shortest path. At the
end they prove that no plan is cheaper. They are also the derivatives of the least cost in a and b.

References:
  Ahuja, Magnanti and Orlin (1993), Network Flows, section 9.7. [ahuja1993network]
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from fmjax import _checks
from fmjax.types import Array

__all__ = ["Plan", "least", "solve"]

_Change = Callable[[Array, Array, Array], Array]
"""`(value, parent, node) -> value`, for one step of a path."""


class Plan(NamedTuple):
    """A plan, with the potentials (1) that prove it the cheapest.

    Attributes:
      flow: `[m, n]`, what is carried to each column from each row.
      supply: `[n]`, what is left in the rows: 0 up to rounding.
      demand: `[m]`, what the columns still want: 0 up to rounding.
      rows: `[n]`, the potentials u.
      columns: `[m]`, the potentials v.
    """

    flow: Array
    supply: Array
    demand: Array
    rows: Array
    columns: Array


class _Search(NamedTuple):
    """The state of a search for shortest paths; the nodes are the n rows, then the m columns."""

    distance: Array
    parent: Array
    done: Array
    last: Array


def least(costs: Array, supply: Array | None, demand: Array | None) -> Array:
    """Computes the least mean cost; it has derivatives in the costs and in the weights.

    Args:
      costs: `[n, m]`.
      supply: `[n]`, weights that are not negative, with any sum; None weighs all rows alike.
      demand: `[m]`, weights of the columns, likewise.

    Returns:
      `[]`; NaN if a weight is negative, if all weights are zero, or if a number is not finite.

    Raises:
      ValueError: if weights are not `[n]` and `[m]`.
    """
    n, m = costs.shape
    if supply is None and demand is None:  # whole numbers, so that rounding leaves no remainder
        shares = math.gcd(n, m)
        a, b = jnp.full(n, m // shares, costs.dtype), jnp.full(m, n // shares, costs.dtype)
    else:
        a, b = _weights("x", supply, n), _weights("y", demand, m)
    a, b = a.astype(costs.dtype), b.astype(costs.dtype)
    fixed = jax.lax.stop_gradient((costs, a, b))
    fine = jax.tree.reduce(jnp.logical_and, jax.tree.map(lambda z: jnp.all(jnp.isfinite(z)), fixed))
    fine = fine & jnp.all(a >= 0) & jnp.all(b >= 0)
    plan = solve(*jax.tree.map(lambda z: jnp.where(fine, z, 1 / z.size), fixed))
    mean = jnp.sum(plan.flow.T * costs) / jnp.sum(plan.flow)
    # These terms are zero; they carry the derivatives in the weights.
    mean += jnp.sum(plan.rows * (a - fixed[1])) + jnp.sum(plan.columns * (b - fixed[2]))
    return jnp.where(fine, mean, jnp.nan)


def _weights(name: str, weights: Array | None, size: int) -> Array:
    """Checks the weights of the rows or columns and divides them by their sum."""
    if weights is None:
        return jnp.full(size, 1 / size)
    weights = _checks.wide(weights)
    if weights.shape != (size,):
        message = (
            f"weights_{name} must be one number for each of the {size} examples of {name}, got "
            f"shape {weights.shape}."
        )
        raise ValueError(message)
    return weights / jnp.sum(weights)


def solve(costs: Array, supply: Array, demand: Array) -> Plan:
    """Finds the cheapest plan for finite costs `[n, m]`; both sides must have the same sum."""
    columns = jnp.min(costs, axis=0)
    rows = jnp.min(costs - columns[None], axis=1)
    start = Plan(jnp.zeros_like(costs.T), supply, demand, rows, columns)

    def unfinished(plan: Plan) -> Array:
        return jnp.any(plan.supply > 0) & jnp.any(plan.demand > 0)

    return jax.lax.while_loop(unfinished, lambda plan: _carry(costs, plan), start)


def _carry(costs: Array, plan: Plan) -> Plan:
    """Adds one path to a plan; the path uses up a row, a column or a way back."""
    n = costs.shape[0]
    source = jnp.argmax(plan.supply > 0)
    found = _shortest(costs, plan, source)
    target = found.last
    amount = jnp.minimum(plan.supply[source], plan.demand[target - n])
    amount = _walk(found, source, _narrowest(n, plan.flow), amount)
    flow = _walk(found, source, _moved(n, amount), plan.flow)
    ahead = jnp.where(found.done, found.distance[target] - found.distance, 0.0)
    return Plan(
        flow,
        plan.supply.at[source].add(-amount),
        plan.demand.at[target - n].add(-amount),
        plan.rows + ahead[:n],
        plan.columns - ahead[n:],
    )


def _shortest(costs: Array, plan: Plan, source: Array) -> _Search:
    """Searches for paths from a row until it reaches the nearest column that wants something."""
    n, m = costs.shape
    never_rows, never_columns = jnp.full(n, jnp.inf), jnp.full(m, jnp.inf)

    def running(search: _Search) -> Array:
        return (search.last < n) | (plan.demand[search.last - n] <= 0)

    def step(search: _Search) -> _Search:
        node = jnp.argmin(jnp.where(search.done, jnp.inf, search.distance))
        row, column = jnp.minimum(node, n - 1), jnp.maximum(node - n, 0)
        # (1) holds up to rounding, which must not make a step negative.
        onward = jnp.maximum(costs[row] - plan.rows[row] - plan.columns, 0.0)
        back = jnp.where(plan.flow[column] > 0, 0.0, never_rows)
        steps = jnp.where(
            node < n,
            jnp.concatenate([never_rows, onward]),
            jnp.concatenate([back, never_columns]),
        )
        reached = search.distance[node] + steps.astype(costs.dtype)
        done = search.done.at[node].set(True)
        better = ~done & (reached < search.distance)
        distance = jnp.where(better, reached, search.distance)
        return _Search(distance, jnp.where(better, node, search.parent), done, node)

    distance = jnp.full(n + m, jnp.inf, costs.dtype).at[source].set(0.0)
    start = _Search(distance, jnp.zeros(n + m, int), jnp.zeros(n + m, bool), source)
    return jax.lax.while_loop(running, step, start)


def _walk(found: _Search, source: Array, change: _Change, value: Array) -> Array:
    """Applies a change to a value at every step `(value, parent, node)` of the path found."""

    def step(state: tuple[Array, Array]) -> tuple[Array, Array]:
        node, value = state
        parent = found.parent[node]
        return parent, change(value, parent, node)

    return jax.lax.while_loop(lambda state: state[0] != source, step, (found.last, value))[1]


def _narrowest(n: int, flow: Array) -> _Change:
    """Makes the change that limits an amount: a step back takes no more than was carried."""

    def change(amount: Array, parent: Array, node: Array) -> Array:
        carried = flow[jnp.maximum(parent - n, 0), jnp.minimum(node, n - 1)]
        return jnp.where(parent < n, amount, jnp.minimum(amount, carried))

    return change


def _moved(n: int, amount: Array) -> _Change:
    """Makes the change that moves an amount through the flow by a step, forward or back."""

    def change(flow: Array, parent: Array, node: Array) -> Array:
        forward = parent < n
        row, column = jnp.where(forward, parent, node), jnp.where(forward, node, parent) - n
        return flow.at[column, row].add(jnp.where(forward, amount, -amount))

    return change
