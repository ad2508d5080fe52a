"""Spreading a bank over the devices of a mesh.

Pad the bank so that its points divide evenly, and run inside `shard_map` with `axis_name`:

    mesh = jax.make_mesh((8,), ("bank",), axis_types=(jax.sharding.AxisType.Auto,))
    bank = empirical.padded(bank, mesh.size)
    specs = empirical.partition(bank, "bank")
    field = partial(empirical.velocity, path, axis_name="bank", chunk_size=1000)
    many = jax.vmap(field, in_axes=(None, 0, 0))  # over x [batch, *dims] and t [batch]
    many = jax.shard_map(many, mesh=mesh, in_specs=(specs, P(), P()), out_specs=P())

References:
  Bertrand et al. (2025), On the Closed-Form of Flow Matching, arXiv 2506.03719.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from fmjax import _checks
from fmjax._bank import EXCLUDED, Bank
from fmjax.empirical.banks import prepare
from fmjax.types import Array

__all__ = ["padded", "partition"]


def padded(bank: Array | Bank, multiple: int) -> Bank:
    """Adds points of weight zero until the number of points is a multiple of a given one.

    Args:
      bank: `[n, *dims]`, or a `Bank`.
      multiple: positive, such as the number of devices.

    Returns:
      The bank, unchanged if its size is a multiple already. Its law is unchanged.

    Raises:
      ValueError: if `multiple` is not positive.

    Example:
      >>> import fmjax
      >>> import jax.numpy as jnp
      >>> fmjax.empirical.padded(jnp.ones((5, 2)), 4).points.shape
      (8, 2)
    """
    bank = _ready(bank)
    _checks.count("it is the number of parts", multiple=multiple)
    missing = -bank.points.shape[0] % multiple
    if not missing:
        return bank
    logs = bank.log_weights
    logs = jnp.zeros_like(bank.half_squares) if logs is None else logs
    more = lambda array: jnp.pad(array, [(0, missing), *[(0, 0)] * (array.ndim - 1)])  # noqa: E731
    return bank._replace(
        points=more(bank.points),
        half_squares=more(bank.half_squares),
        log_weights=jnp.pad(logs, (0, missing), constant_values=EXCLUDED),
    )


def partition(bank: Array | Bank, axis_name: str) -> Bank:
    """Describes how a bank is split over an axis of a mesh, for `shard_map` and `device_put`.

    Args:
      bank: `[n, *dims]`, or a `Bank`; n must divide by the size of the axis (`padded`).
      axis_name: the axis of the mesh over which the points are spread.

    Returns:
      A `Bank` whose fields are partition specs in place of arrays.

    Raises:
      ValueError: for a plain array as `prepare`.

    Example:
      >>> import fmjax
      >>> import jax.numpy as jnp
      >>> tuple(fmjax.empirical.partition(jnp.ones((8, 2)), "bank").points)
      ('bank',)
    """
    bank, along, whole = _ready(bank), jax.P(axis_name), jax.P()
    return Bank(
        points=along,
        half_squares=along,
        log_weights=None if bank.log_weights is None else along,
        scale=None if bank.scale is None else whole,
        shift=None if bank.shift is None else whole,
    )


def _ready(bank: Array | Bank) -> Bank:
    """Checks and prepares a plain array; a `Bank` stays as it is."""
    return bank if isinstance(bank, Bank) else prepare(bank)
