"""Checksums: the formula by whole numbers of Python, every flipped bit, any layout of an array."""

import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.run import checksums


def by_hand(x):
    """The sum of the docstring, word by word, with Python's integers."""
    x, total = np.asarray(x), 0
    width = {1: np.uint8, 2: np.uint16}.get(x.dtype.itemsize, np.uint32)
    for i, word in enumerate(x.ravel().view(width).tolist()):
        mixed = (word + 0x9E3779B9 * i) % 2**32
        mixed = (mixed ^ mixed >> 16) * 0x85EBCA6B % 2**32
        mixed = (mixed ^ mixed >> 13) * 0xC2B2AE35 % 2**32
        total += mixed ^ mixed >> 16
    return total % 2**32


ARRAYS = {
    "float32": np.random.default_rng(0).normal(size=(2, 3)).astype(np.float32),
    "bfloat16": np.asarray(jnp.linspace(-2.0, 5.0, 6, dtype=jnp.bfloat16)).reshape(3, 2),
    "int32": np.array(-7, np.int32),
    "bool": np.array([True, False, True]),
    "empty": np.zeros((0, 4), np.float32),
}


def test_the_checksum_is_the_sum_of_the_mixed_words():
    found = checksums.of_arrays({"a": (ARRAYS, np.uint32([5]))})
    assert found.pop("a.1") == by_hand(np.uint32([5]))
    assert found == {f"a.0.{name}": by_hand(x) for name, x in ARRAYS.items()}


def test_numbers_of_64_bits_are_two_words_each(x64):
    x = np.random.default_rng(1).normal(size=(2, 2))
    assert checksums.of_arrays({"x": jnp.asarray(x)}) == {"x": by_hand(x)}


@pytest.mark.parametrize("name", ["float32", "bfloat16"])
def test_every_flipped_bit_and_every_exchange_is_seen(name):
    x = ARRAYS[name]
    bits = np.unpackbits(x.view(np.uint8))
    flipped = np.packbits(bits ^ np.eye(bits.size, dtype=np.uint8), axis=-1).view(x.dtype)
    exchanged = [x.ravel()[np.roll(np.r_[:6], k)] for k in range(1, 6)]
    for i, j in itertools.combinations(range(6), 2):
        order = np.r_[:6]
        order[[i, j]] = order[[j, i]]
        exchanged.append(x.ravel()[order])
    changed = np.concatenate([flipped, exchanged]).reshape(-1, *x.shape)
    sums = jax.vmap(checksums._of_array)(changed)
    assert len(set(sums.tolist()) | {by_hand(x)}) == len(changed) + 1


def test_an_array_has_one_checksum_however_it_is_spread():
    x = np.random.default_rng(2).normal(size=(16, 8)).astype(np.float32)
    mesh = jax.make_mesh((4, 2), ("data", "model"))
    for layout in (jax.P(), jax.P("data"), jax.P("model", "data"), jax.P(None, ("data", "model"))):
        placed = jax.device_put(x, jax.NamedSharding(mesh, layout))
        assert checksums.of_arrays({"x": placed}) == {"x": by_hand(x)}
        assert "all-gather" not in checksums._of_array.lower(placed).compile().as_text()


RECORD = {"options": {"times": [0.25, 0.5], "name": "crc32 0123abcd"}, "gap": 1.5, "late": None}


def test_a_signed_record_is_given_back_and_any_other_is_refused():
    text = json.dumps(checksums.signed(RECORD))
    assert checksums.checked(json.loads(text)) == RECORD
    assert checksums.checked(RECORD) == RECORD  # of an older version
    for old, new in (("0.25", "0.35"), ("gap", "gaq"), ("null", "true"), ('"checks', '"chucks')):
        with pytest.raises(ValueError, match="does not agree with its checksum"):
            checksums.checked(json.loads(text.replace(old, new)))
    with pytest.raises(ValueError, match="does not agree"):
        checksums.checked(checksums.signed(RECORD, before=1))
