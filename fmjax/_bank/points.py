"""The points of a bank: scaling, splitting, products and sums, a chunk at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from fmjax import _checks
from fmjax.types import Array, PyTree

__all__ = [
    "EXCLUDED",
    "HIGHEST",
    "Bank",
    "accumulate",
    "along",
    "average",
    "each",
    "exponentials",
    "half_squares",
    "inner",
    "of",
    "part",
    "result_type",
    "scaled",
    "size_of_parts",
    "squares",
    "weighted_sum",
]

# The exact field is the reference for everything else, so no product is rounded to TF32.
HIGHEST = jax.lax.Precision.HIGHEST
# The logarithm of no weight; finite, so that a part without any weight has a peak to subtract.
EXCLUDED = -1e30


class Bank(NamedTuple):
    """A prepared data set, `scale * points + shift`, with its norms and weights.

    It is a pytree, so it passes through `jit`, `device_put` and `shard_map`. `empirical.prepare`
    makes it.

    Attributes:
      points: `[n, *dims]`, floating, or integers to be scaled chunk by chunk.
      half_squares: `[n]`, half the squared norm of each scaled point, of float32 at least. All
        computations have this dtype, also where the points are stored in half precision.
      log_weights: `[n]`, logarithms of weights of any sum; None if all are equal.
      scale: `[]`; None if the points need no scaling.
      shift: `[]`; None with `scale`.
    """

    points: Array
    half_squares: Array
    log_weights: Array | None = None
    scale: Array | None = None
    shift: Array | None = None


def of(bank: Array | Bank) -> Bank:
    """Returns the bank as a `Bank`; of a plain array the norms are computed here."""
    if isinstance(bank, Bank):
        return bank
    bank = _checks.array(bank, "the bank")
    return Bank(bank, half_squares(bank))


def half_squares(points: Array) -> Array:
    """Returns half the squared norm of each point, `[n]`."""
    # On the CPU, XLA of jax 0.7 makes a copy of the points for this; a dot product of each point
    # with itself would not, but its error there is ten times larger. `prepare` goes by chunks.
    return 0.5 * jnp.sum(_checks.wide(points).reshape(points.shape[0], -1) ** 2, axis=1)


def scaled(bank: Bank, points: Array) -> Array:
    """Returns some of the bank's points in the units of the states, in the dtype of its norms."""
    points = points.astype(bank.half_squares.dtype)
    return points if bank.scale is None else points * bank.scale + bank.shift


def result_type(bank: Array | Bank, x: Array) -> jnp.dtype:
    """Returns the dtype of a result that is shaped like the state x.

    The dtype is wide enough for the state and for the points. Points that are stored in half
    precision widen nothing: the result is as precise as the state.
    """
    points = bank.points if isinstance(bank, Bank) else _checks.array(bank, "the bank")
    if isinstance(bank, Bank) and bank.scale is not None:
        points = bank.half_squares
    x = _checks.floating(x)
    return x.dtype if jnp.finfo(points.dtype).bits < 32 else jnp.result_type(points, x)


def part(bank: Bank, start: Array | int, size: int) -> Bank:
    """Returns `size` points from `start` on, scaled."""
    # Sliced from the bank itself: scanning over a reshaped bank would copy all of it.
    cut = lambda array: jax.lax.dynamic_slice_in_dim(array, start, size)  # noqa: E731
    log_weights = None if bank.log_weights is None else cut(bank.log_weights)
    return Bank(scaled(bank, cut(bank.points)), cut(bank.half_squares), log_weights)


def size_of_parts(bank: Bank, chunk_size: int | None) -> int:
    """Returns how many points are taken at a time."""
    if chunk_size is None:
        return bank.points.shape[0]
    _checks.count("it counts points of the bank", chunk_size=chunk_size)
    return min(chunk_size, bank.points.shape[0])


def accumulate(
    bank: Bank,
    chunk_size: int | None,
    map_part: Callable[[Bank, Array], PyTree],
    merge: Callable[[PyTree, PyTree], PyTree],
) -> PyTree:
    """Returns `merge` of `map_part(part, start)` over the parts of the bank."""
    size, total = size_of_parts(bank, chunk_size), bank.points.shape[0]
    count = total // size

    def one(start: Array | int, size: int = size) -> PyTree:
        return map_part(part(bank, start, size), start)

    def step(result: PyTree, start: Array) -> tuple[PyTree, None]:
        return merge(result, one(start)), None

    result = one(0)
    if count > 1:
        # Computed again on the way back, or reverse mode would keep every scaled part.
        again = jax.checkpoint(step, prevent_cse=False)
        result, _ = jax.lax.scan(again, result, size * jnp.arange(1, count))
    if count * size < total:
        result = merge(result, one(count * size, total - count * size))
    return result


def exponentials(logits: Array) -> Array:
    """Returns the exponentials of logits minus the largest logit, which rounding may leave above 0.

    XLA may compute a logit twice, once for the maximum and once for this. The two then differ by a
    rounding error of their terms, and at 1 / sigma^2 = 1e8 the exponential overflows.
    """
    return jnp.exp(logits - jax.lax.stop_gradient(jnp.maximum(logits, 0.0)))


def average(weights: Array, bank: Array) -> Array:
    """Returns the weighted sum of the points of the bank, `[*dims]`."""
    return jnp.tensordot(weights, bank, axes=1, precision=HIGHEST)


def inner(piece: Bank, vector: Array) -> Array:
    """Returns the inner product of every point of a scaled part with a vector, `[m]`."""
    flat = piece.points.reshape(piece.points.shape[0], -1)
    return jnp.matmul(flat, vector.ravel(), precision=HIGHEST)


def along(bank: Bank, vector: Array, chunk_size: int | None) -> Array:
    """Returns the inner product of every point with a vector, `[n]`."""
    return each(bank, chunk_size, lambda piece: inner(piece, vector))


def squares(bank: Bank, chunk_size: int | None) -> Array:
    """Returns half the squared norm of every scaled point, `[n]`."""
    return each(bank, chunk_size, lambda piece: half_squares(piece.points))


def weighted_sum(bank: Bank, weights: Array, chunk_size: int | None) -> Array:
    """Returns the weighted sum of the points, `[*dims]`."""

    def map_part(piece: Bank, start: Array) -> Array:
        size = piece.points.shape[0]
        return average(jax.lax.dynamic_slice_in_dim(weights, start, size), piece.points)

    return accumulate(bank, chunk_size, map_part, jnp.add)


def each(bank: Bank, chunk_size: int | None, function: Callable[[Bank], Array]) -> Array:
    """Returns one number for every point, `[n]`, from a function of a part of the bank."""
    size, total = size_of_parts(bank, chunk_size), bank.points.shape[0]
    count = total // size

    def one(start: Array | int, size: int = size) -> Array:
        return function(part(bank, start, size))

    if size == total:
        return one(0)
    found = [jax.lax.map(one, size * jnp.arange(count)).ravel()]
    rest = [one(count * size, total - count * size)] if count * size < total else []
    return jnp.concatenate(found + rest)
