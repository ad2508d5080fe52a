"""Sequences of DNA from a file: a table, FASTA, or one sequence in each line.

* .csv: a line of names, among them `sequence`; a column to condition on, words or numbers; and
  `split`, with the words train and test. Without it every tenth sequence, in a fixed random order,
  is held out.
* .fa, .fasta, .fna: headers, which are not read, and sequences over one or several lines.
* any other: one sequence in each line.

Each may be compressed, with .gz at its end. All sequences have one length, and the letters A, C, G
and T, small or large; a sequence with an N, a letter that is not known, is left out.
"""

import csv
import gzip
import itertools
import os
import pathlib
import sys
import zlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from experiments.run import errors, numbers

LETTERS = "ACGT"
_FASTA = (".fa", ".fasta", ".fna")
_ONE_IN = 10  # is held out of a file that has no split


class Part(NamedTuple):
    """Sequences with their classes.

    Attributes:
      letters: int8 `[n, length]`, the places in LETTERS.
      labels: int32 `[n]`, the class of each; zeros where there is nothing to condition on.
    """

    letters: np.ndarray
    labels: np.ndarray


class Sequences(NamedTuple):
    """A data set of sequences.

    Attributes:
      train, held_out: the two parts.
      classes: the names of the classes; one name where there is nothing to condition on.
    """

    train: Part
    held_out: Part
    classes: tuple[str, ...]


class _Row(NamedTuple):
    line: int
    sequence: str
    condition: str
    split: str


def read(name: str | None, condition: str, num_bins: int) -> Sequences:
    """Reads a file of sequences.

    Args:
      name: path of the file; ~ is the home folder. None is refused: there are no usual data.
      condition: the column to condition on; "" for none. Words are classes as they are; numbers are
        cut into `num_bins` classes of as many training sequences each.
      num_bins: classes of a column of numbers.

    Raises:
      OSError: if there is no such file.
      ValueError: if it cannot be read, has a letter that is none of DNA, sequences of several
        lengths or no such column; the message names the file and the line.
    """
    wanted = (
        "--sequences wants a file of DNA sequences of one length: a .csv file with a column "
        "`sequence`, a FASTA file, or one sequence in each line."
    )
    if not name:
        raise ValueError(wanted)
    path = pathlib.Path(os.path.expanduser(name))
    if not path.is_file():
        message = f"no file {path}: {wanted}"
        raise FileNotFoundError(message)
    try:
        rows = list(_rows(path, condition))
    except (OSError, EOFError, zlib.error, UnicodeDecodeError, csv.Error) as error:
        message = f"{path} cannot be read as text ({errors.first_line(error)}): write it again."
        raise ValueError(message) from error
    letters, kept = _letters(path, rows)
    rows = [row for row, keep in zip(rows, kept, strict=True) if keep]
    held_out = _held_out(path, rows)
    words = np.array([row.condition for row in rows])
    labels, classes = _classes(path, words, ~held_out, num_bins)
    parts = [Part(letters[chosen], labels[chosen]) for chosen in (~held_out, held_out)]
    return Sequences(*parts, classes)


def fingerprint(data: Sequences) -> str:
    """Returns a short text that changes with any letter or label."""
    parts = [array for part in (data.train, data.held_out) for array in part]
    sizes = f"{len(data.train.letters)} + {len(data.held_out.letters)}"
    length = data.train.letters.shape[1]
    return f"{sizes} of {length} letters, crc32 {numbers.crc32(*parts)}"


def _rows(path: pathlib.Path, condition: str) -> Iterator[_Row]:
    """Yields the rows of a file, with the numbers of their lines."""
    opened = gzip.open if path.suffix == ".gz" else open
    kind = pathlib.Path(path.stem).suffix if path.suffix == ".gz" else path.suffix
    with opened(path, "rt", encoding="utf-8", newline="") as file:
        if kind == ".csv":
            yield from _of_table(path, csv.DictReader(file), condition)
        elif condition:
            message = (
                f"{path} has no columns, so there is no {condition!r} to condition on: give a .csv "
                "file, or leave --condition out."
            )
            raise ValueError(message)
        elif kind in _FASTA:
            yield from _of_fasta(path, file)
        else:
            for line, text in enumerate(file, 1):
                if text.strip():
                    yield _Row(line, text.strip(), "", "")


def _of_table(path: pathlib.Path, reader: csv.DictReader, condition: str) -> Iterator[_Row]:
    columns = reader.fieldnames or []
    for name in ("sequence", condition):
        if name and name not in columns:
            message = f"{path} has no column {name!r}, only {', '.join(columns) or 'no line'}."
            raise ValueError(message)
    for row in reader:
        wanted = [row["sequence"], row[condition] if condition else "", row.get("split", "")]
        if None in wanted:
            message = f"{path}, line {reader.line_num}: fewer columns than the first line names."
            raise ValueError(message)
        yield _Row(reader.line_num, *(word.strip() for word in wanted))


def _of_fasta(path: pathlib.Path, lines: Iterator[str]) -> Iterator[_Row]:
    """Yields the records of a FASTA file, each under the line of its header."""
    header, parts = 0, []
    for number, line in enumerate(lines, 1):
        if line.startswith(">"):
            if header:
                yield _Row(header, "".join(parts), "", "")
            header, parts = number, []
        elif line.strip():
            if not header:
                message = f"{path}, line {number}: a FASTA file begins with a header, '>name'."
                raise ValueError(message)
            parts.append(line.strip())
    if header:
        yield _Row(header, "".join(parts), "", "")


def _letters(path: pathlib.Path, rows: list[_Row]) -> tuple[np.ndarray, np.ndarray]:
    """Returns the letters of the sequences without an N, and which these are."""
    if not rows:
        message = f"{path} has no sequences."
        raise ValueError(message)
    length = len(rows[0].sequence)
    for row in rows:
        if len(row.sequence) != length or not length:
            message = (
                f"{path}, line {row.line}: a sequence of {len(row.sequence)} letters, and the "
                f"first one has {length}: cut all to one length."
            )
            raise ValueError(message)
        if wrong := set(row.sequence.upper()) - {*LETTERS, "N"}:
            message = (
                f"{path}, line {row.line}: the letter {min(wrong)!r} is none of A, C, G, T and N."
            )
            raise ValueError(message)
    known = np.array(["N" not in row.sequence.upper() for row in rows])
    if not known.all():
        print(f"{path}: {(~known).sum()} sequences with an N are left out", file=sys.stderr)
    text = "".join(row.sequence.upper() for row, keep in zip(rows, known, strict=True) if keep)
    codes = np.frombuffer(text.encode(), np.uint8).reshape(-1, length)
    return np.searchsorted(np.frombuffer(LETTERS.encode(), np.uint8), codes).astype(np.int8), known


def _held_out(path: pathlib.Path, rows: list[_Row]) -> np.ndarray:
    """Returns which sequences are held out, at least two, and not all but one."""
    words = np.array([row.split for row in rows])
    if not (words == "").all():
        for row in rows:
            if row.split not in ("train", "test"):
                message = f"{path}, line {row.line}: split is {row.split!r}, and not train or test."
                raise ValueError(message)
        held_out = words == "test"
    else:
        order = np.random.default_rng(0).permutation(len(rows))
        held_out = order < max(len(rows) // _ONE_IN, 2)
    if held_out.sum() < 2 or (~held_out).sum() < 2:
        message = (
            f"{path}: {(~held_out).sum()} sequences to train on and {held_out.sum()} held out: at "
            "least two of each are wanted."
        )
        raise ValueError(message)
    return held_out


def _classes(
    path: pathlib.Path, words: np.ndarray, train: np.ndarray, num_bins: int
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Returns the class of every row, and the names of the classes."""
    try:
        values = words.astype(np.float64)
    except ValueError:
        names, labels = np.unique(words, return_inverse=True)
        if len(names) > len(words) // 2:
            message = f"{path}: {len(names)} classes of {len(words)} sequences: too many."
            raise ValueError(message) from None
        return labels.astype(np.int32), tuple(names.tolist())
    if not np.isfinite(values).all():
        message = f"{path}: a number to condition on is not finite."
        raise ValueError(message)
    edges = np.quantile(values[train], np.linspace(0, 1, num_bins + 1)[1:-1])
    labels = np.searchsorted(edges, values, side="right").astype(np.int32)
    ends = ["", *(f"{edge:.3g}" for edge in edges), ""]
    return labels, tuple(f"{a} to {b}" for a, b in itertools.pairwise(ends))
