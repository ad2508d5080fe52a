"""The lines of metrics.jsonl: every kind of damage ends what is read before it."""

import json

import numpy as np
import pytest
from etils import epath

from experiments.run import lines

VALUES = [{"loss": 2.5 / step, "frechet": None, "speed": 1e-7 * step} for step in (5, 10, 15, 20)]


@pytest.fixture
def file(tmp_path):
    """A record of four lines."""
    checksum, texts = 0, []
    for step, values in zip((5, 10, 15, 20), VALUES, strict=True):
        text, checksum = lines.text(step, values, checksum)
        texts.append(text)
    (tmp_path / "metrics.jsonl").write_text("".join(texts))
    return epath.Path(tmp_path / "metrics.jsonl")


def test_lines_come_back_and_continue(file):
    found = lines.read(file)
    assert found.lines == [{"step": s, **v} for s, v in zip((5, 10, 15, 20), VALUES, strict=True)]
    assert (found.last, found.damage) == (20, "")
    assert b"".join(found.texts) == file.read_bytes()
    part = found.until(12)
    assert (part.lines, part.last) == (found.lines[:2], 10)
    # What follows continues the chain: the third line again, as it stood there.
    assert lines.text(15, VALUES[2], part.checksum)[0].encode() == found.texts[2]
    assert lines.read(file.parent / "none.jsonl") is None


def test_every_flipped_bit_ends_the_record_before_its_line(file):
    content, whole, rng = file.read_bytes(), lines.read(file), np.random.default_rng(0)
    for place in range(len(content)):
        flipped = bytearray(content)
        flipped[place] ^= 1 << rng.integers(8)
        file.write_bytes(flipped)
        found = lines.read(file)
        line = content[:place].count(b"\n")
        if found.lines != whole.lines:  # a space that became a tab changes nothing
            assert found.lines == whole.lines[:line], place
            assert found.damage.startswith(f"line {line + 1} is damaged (")


@pytest.mark.parametrize(
    ("order", "kept", "damage"),
    [
        ((0, 2, 3), 1, "line 2 is damaged (it does not agree with its checksum)"),
        ((1, 2, 3), 0, "line 1 is damaged (it does not agree"),
        ((0, 1, 1, 2, 3), 2, "line 3 is damaged (a step after 10 is wanted, got 10)"),
        ((0, 2, 1, 3), 1, "line 2 is damaged (it does not agree"),
        ((0, 1, 2), 3, ""),
    ],
    ids=["missing", "the first missing", "twice", "exchanged", "the last missing"],
)
def test_lines_that_are_missing_or_elsewhere(file, order, kept, damage):
    texts = lines.read(file).texts
    file.write_bytes(b"".join(texts[i] for i in order))
    found = lines.read(file)
    assert (len(found.lines), found.last) == (kept, 5 * kept)
    assert found.damage.startswith(damage)


def test_a_line_that_is_cut_off(file):
    file.write_bytes(file.read_bytes()[:-9])
    found = lines.read(file)
    assert (found.last, found.damage) == (15, "line 4 is damaged (it is cut off)")


def test_lines_of_an_older_version_come_first_and_are_covered_by_later_ones(file):
    old = [json.dumps({"step": step, "loss": 1.0 / step}) + "\n" for step in (1, 2)]
    file.write_text("".join(old))
    found = lines.read(file)
    assert (found.last, found.damage) == (2, "")
    file.write_text("".join(old) + lines.text(3, {"loss": 0.5}, found.checksum)[0])
    assert lines.read(file).last == 3
    file.write_text(file.read_text().replace('"loss": 1.0', '"loss": 7.0'))
    assert lines.read(file).damage == "line 3 is damaged (it does not agree with its checksum)"
    file.write_text("".join([lines.text(1, {"loss": 1.0}, 0)[0], old[1]]))
    assert lines.read(file).damage == "line 2 is damaged (its checksum is missing)"
