"""Preparing a bank: data stored as bytes, weights, classes and mirror images.

Every function of `fmjax.empirical` takes the data set as a plain floating array `[n, *dims]` or as
a `Bank`. Make a bank if it serves many calls: its norms are computed once. A bank can also be what
an array cannot:

* bytes, `prepare(images, scale=1 / 127.5, shift=-1)`: a quarter of the memory, scaled by chunks;
  `take` returns some of the points in the units of the states
* weighted: `reweighted`, by any weights, or by a mask, `labels == label` for one class; under
  `vmap` every example may have its own
* closed under a symmetry: `mirrored` adds the mirror image of every point. A network trained with
  random flips has seen this law
* spread over the devices of a mesh, by `padded` and `partition` (`fmjax.empirical.devices`)

A smoothed bank, points blurred by Gaussian noise, is a bank on another path: `paths.smoothed`.

References:
  Bertrand et al. (2025), On the Closed-Form of Flow Matching, arXiv 2506.03719.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from fmjax import _bank, _checks
from fmjax._bank import EXCLUDED, Bank
from fmjax.types import Array

__all__ = ["mirrored", "prepare", "reweighted", "take"]


def prepare(
    points: Array,
    *,
    scale: Array | float = 1.0,
    shift: Array | float = 0.0,
    chunk_size: int = 1024,
) -> Bank:
    """Prepares a data set for many calls, so that its norms are computed once.

    Args:
      points: `[n, *dims]`, floating, or integers such as the bytes of images. They are stored in
        this dtype, half precision included. Computations convert a chunk at a time to float32 or
        wider. (On CPUs XLA widens whole arrays of bfloat16; float16 and bytes save memory there
        too.)
      scale: `[]`, the factor that brings the points to the units of the states.
      shift: `[]`, added after scaling. For bytes in [-1, 1] take scale 1 / 127.5 and shift -1.
      chunk_size: number of points scaled at a time while preparing.

    Returns:
      The bank.

    Raises:
      ValueError: if there are no points, if integers come with neither scale nor shift, if scale or
        shift is not a single number, if `chunk_size` is not positive, or, outside of `jit`, if a
        point is not finite.

    Example:
      >>> import fmjax
      >>> import jax.numpy as jnp
      >>> pixels = jnp.array([[0], [255]], jnp.uint8)
      >>> bank = fmjax.empirical.prepare(pixels, scale=1 / 127.5, shift=-1.0)
      >>> bank.half_squares.tolist()
      [0.5, 0.5]

    Reference:
      Bertrand et al. (2025), arXiv 2506.03719, eq. (6). [bertrand2025closed]
    """
    if isinstance(points, Bank) or jnp.ndim(scale) or jnp.ndim(shift):
        got = "a Bank" if isinstance(points, Bank) else f"{jnp.shape(scale)}, {jnp.shape(shift)}"
        message = f"points must be an array and scale and shift single numbers, got {got}."
        raise ValueError(message)
    points = _checks.array(points, "the bank")
    plain = not isinstance(scale, jax.Array) and scale == 1.0 and _is_zero(shift)
    _check_rows(points)
    if plain:
        _check_floating(points)
    dtype = _checks.wide(jnp.zeros((), jnp.result_type(points, 1.0))).dtype
    factors = (None, None) if plain else (jnp.asarray(scale, dtype), jnp.asarray(shift, dtype))
    bank = Bank(points, jnp.zeros(points.shape[0], dtype), None, *factors)
    bank = bank._replace(half_squares=_bank.squares(bank, chunk_size))
    _bank.check_finite(bank.half_squares)
    return bank


def _check_rows(points: Array) -> None:
    if points.ndim == 0 or points.shape[0] == 0:
        message = (
            f"the bank must have shape [n, *dims] with n >= 1, got {points.shape}: the first axis "
            "counts the points; look for a filter that leaves none."
        )
        raise ValueError(message)


def _check_floating(points: Array) -> None:
    if not jnp.issubdtype(points.dtype, jnp.floating):
        message = (
            f"a bank of {points.dtype} must be scaled to the units of the states: give scale and "
            "shift to empirical.prepare, such as scale=1 / 127.5, shift=-1 for bytes."
        )
        raise ValueError(message)


def take(bank: Array | Bank, index: Array) -> Array:
    """Selects points of the bank in the units of the states, such as the batch of a training step.

    Args:
      bank: `[n, *dims]`, or a `Bank`. Only the selected points are scaled; weights do not matter.
      index: `[*shape]`, integers from 0 to n - 1. Under `jit` indices are not checked: one past the
        end is clamped to the last point, as in jax.

    Returns:
      `[*shape, *dims]`, floating.

    Raises:
      ValueError: if the bank is empty, if the index is not of integers, if a point of a plain array
        is not floating, or, outside of `jit`, if there is no point of an index.

    Example:
      >>> import fmjax
      >>> import jax.numpy as jnp
      >>> pixels = jnp.array([[0], [255]], jnp.uint8)
      >>> bank = fmjax.empirical.prepare(pixels, scale=1 / 127.5, shift=-1.0)
      >>> fmjax.empirical.take(bank, jnp.array([1, 1, 0])).ravel().tolist()
      [1.0, 1.0, -1.0]

    Reference:
      Bertrand et al. (2025), arXiv 2506.03719, algorithm 2, whose banks are such points.
      [bertrand2025closed]
    """
    points = bank.points if isinstance(bank, Bank) else _checks.array(bank, "the bank")
    _check_rows(points)
    index = _checks.array(index, "index")
    if not jnp.issubdtype(index.dtype, jnp.integer):
        message = f"index must be of integers that count points of the bank, got {index.dtype}."
        raise ValueError(message)
    _bank.check_index(index, points.shape[0])
    if isinstance(bank, Bank):
        return points[index] if bank.scale is None else _bank.scaled(bank, points[index])
    _check_floating(points)
    return points[index]


def _ready(bank: Array | Bank) -> Bank:
    """Returns the bank, of a plain array with everything that `prepare` looks for."""
    return bank if isinstance(bank, Bank) else prepare(bank)


def _is_zero(value: Array | float) -> bool:
    return not isinstance(value, jax.Array) and value == 0.0


def reweighted(bank: Array | Bank, weights: Array) -> Bank:
    """Gives the points of a bank new weights, for example to condition on a class.

    Args:
      bank: `[n, *dims]`, or a `Bank`, whose own weights are replaced.
      weights: `[n]`, not negative, of any positive sum; or a mask, such as `labels == label`.

    Returns:
      The bank; its points are shared, not copied. Derivatives with respect to a weight are right
      where it is positive, and 0 for a weight of 0. Under `jit` weights are not checked: every
      result is NaN if none is positive or if one is negative. Reweight before `padded` and
      `partition`: padding has no weight, and all weights in one device's part may be zero.

    Raises:
      ValueError: if the weights are not `[n]` or not real, or, outside of `jit`, if one is negative
        or not finite, or none is positive. For a plain array also as `prepare`.

    Example:
      >>> import fmjax
      >>> import jax.numpy as jnp
      >>> bank, labels = jnp.array([[-1.0], [1.0], [2.0]]), jnp.array([0, 1, 1])
      >>> ones = fmjax.empirical.reweighted(bank, labels == 1)
      >>> fmjax.empirical.weights(fmjax.paths.linear(), ones, jnp.zeros(1), 0.0).tolist()
      [0.0, 0.5, 0.5]

    Reference:
      Bertrand et al. (2025), arXiv 2506.03719, appendix A.1, with other weights than 1 / n.
      [bertrand2025closed]
    """
    bank, weights = _ready(bank), _checks.array(weights, "weights")
    _checks.real(weights=weights)
    if weights.shape != bank.points.shape[:1]:
        message = (
            f"weights must be [n] for a bank of {bank.points.shape[0]} points, got "
            f"{weights.shape}: one number for each point."
        )
        raise ValueError(message)
    _bank.check_weights(weights)
    weights = weights.astype(bank.half_squares.dtype)
    none = weights == 0
    logs = jnp.where(none, EXCLUDED, jnp.log(jnp.where(none, 1.0, weights)))
    logs = jnp.where(jnp.all(none), jnp.nan, logs)  # of no point at all nothing is known
    return bank._replace(log_weights=logs)


def mirrored(bank: Array | Bank, *, axis: int = -2) -> Bank:
    """Adds the mirror image of every point to a bank, which doubles its size.

    A network that is trained on randomly flipped images has seen this law.

    Args:
      bank: `[n, *dims]`, or a `Bank`.
      axis: the axis that is reversed, counted with the first axis
        n: -2 is the width of images `[n, height, width, channels]`.

    Returns:
      The bank of 2 n points.

    Raises:
      ValueError: if the axis is the first one, or there is no such axis.

    Example:
      >>> import fmjax
      >>> import jax.numpy as jnp
      >>> fmjax.empirical.mirrored(jnp.array([[[1.0], [2.0]]])).points[..., 0].tolist()
      [[1.0, 2.0], [2.0, 1.0]]

    Reference:
      Bertrand et al. (2025), arXiv 2506.03719, appendix D.3, where flips are left out for this
      reason. [bertrand2025closed]
    """
    bank = _ready(bank)
    ndim = bank.points.ndim
    if not -ndim < axis < ndim or axis == 0:
        message = f"axis must name an axis of the points {bank.points.shape[1:]}, got {axis}."
        raise ValueError(message)
    twice = lambda array: jnp.concatenate([array, array])  # noqa: E731
    return bank._replace(
        points=jnp.concatenate([bank.points, jnp.flip(bank.points, axis)]),
        half_squares=twice(bank.half_squares),
        log_weights=None if bank.log_weights is None else twice(bank.log_weights),
    )
