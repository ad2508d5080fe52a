"""Checksums of what a run keeps: of arrays, and of records that JSON holds.

Where one 32-bit word of an array changes, or up to 32 bits in a row of a record, the checksum
changes for certain. Larger damage is missed once in 2^32 times.

The checksum of an array is computed where the array lies, by integers modulo 2^32: with the words
w_0, w_1, ... of its elements in their order, it is the sum over i of mix(w_i + c i), where mix maps
the 32-bit words one to one and c is odd. The order of the sum has no influence, so an array has one
checksum, however it is spread over devices and hosts.
"""

import json
import math
import re
import zlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fmjax.types import Array, PyTree

NAME = "checksum"  # of the entry of a record
_SIGN = re.compile("crc32:[0-9a-f]{8}")
# The finalizer of MurmurHash3: every bit of the word reaches every bit of the result.
_FACTORS, _SHIFTS = (0x85EBCA6B, 0xC2B2AE35), (16, 13, 16)
_STRIDE = 0x9E3779B9  # 2^32 over the golden ratio, odd


def of_arrays(tree: PyTree) -> dict[str, int]:
    """Computes the checksum of every array of a tree, by its dotted name.

    Args:
      tree: arrays of real numbers, booleans or integers, on devices or of NumPy.
    """
    sums = {name: _of_array(leaf) for name, leaf in by_name(tree).items()}
    return {name: int(one) for name, one in jax.device_get(sums).items()}


@jax.jit
def _of_array(x: Array) -> Array:
    words = _words(jnp.asarray(x))
    position = jnp.zeros(words.shape, jnp.uint32)
    for axis in range(words.ndim):  # in place of a reshape, which would gather the shards
        stride = np.uint32(math.prod(words.shape[axis + 1 :]) % 2**32)
        position += stride * jax.lax.broadcasted_iota(jnp.uint32, words.shape, axis)
    mixed = words + np.uint32(_STRIDE) * position
    for shift, factor in zip(_SHIFTS, (*_FACTORS, 1), strict=True):
        mixed = (mixed ^ (mixed >> shift)) * np.uint32(factor)
    return jnp.sum(mixed, dtype=jnp.uint32)


def _words(x: Array) -> Array:
    """Returns the bits of an array as 32-bit words: two for each element of 64 bits."""
    if x.dtype == bool:
        return x.astype(jnp.uint32)
    bits = jnp.finfo(x.dtype).bits if jnp.issubdtype(x.dtype, jnp.floating) else None
    bits = bits or jnp.iinfo(x.dtype).bits
    width = {4: jnp.uint4, 8: jnp.uint8, 16: jnp.uint16}.get(bits, jnp.uint32)
    return jax.lax.bitcast_convert_type(x, width).astype(jnp.uint32)


def by_name(tree: PyTree) -> dict[str, Array]:
    """Lists the leaves of a tree by their dotted names, such as params.layer.bias."""
    dotted = lambda path: jax.tree_util.keystr(path, simple=True, separator=".")  # noqa: E731
    return {dotted(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def of_record(record: dict[str, Any], before: int = 0) -> int:
    """Computes the checksum of a record.

    Args:
      record: what JSON can hold.
      before: the checksum of the records before it, of which it continues the chain.
    """
    return zlib.crc32(json.dumps(record).encode(), before)


def signed(record: dict[str, Any], before: int = 0) -> dict[str, Any]:
    """Returns a record with its checksum as the last entry.

    Args:
      record: what JSON can hold.
      before: the checksum of the records before it.
    """
    return {**record, NAME: f"crc32:{of_record(record, before):08x}"}


def is_signed(record: dict[str, Any]) -> bool:
    """Returns whether a record has a checksum, also one whose name was damaged."""
    found = (isinstance(value, str) and _SIGN.fullmatch(value) for value in record.values())
    return NAME in record or any(found)


def checked(record: dict[str, Any], before: int = 0) -> dict[str, Any]:
    """Returns a record without its checksum; a record of an older version has none.

    Args:
      record: as JSON gives it back.
      before: the checksum of the records before it.

    Raises:
      ValueError: if the record is not what was signed.
    """
    content = {name: value for name, value in record.items() if name != NAME}
    if is_signed(record) and record != signed(content, before):
        message = f"it does not agree with its {NAME}"
        raise ValueError(message)
    return content
