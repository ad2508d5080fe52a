"""Where two motifs of promoters are found: the TATA box and the initiator.

The score of a stretch of letters is the logarithm of its probability under the counts of a matrix
over its probability under the background; a hit is a stretch whose score has 80 per cent of the way
from the least to the greatest one. Matrices: Bucher (1990), J. Mol. Biol. 212, 563, from 502
promoters, as JASPAR has them (MA0108.1, of 389 sites, and POL002.1, of 303).
"""

from typing import NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

_SHARE = 0.8  # of the way from the least to the greatest score


class Motif(NamedTuple):
    """A motif.

    Attributes:
      name: for tables and pictures.
      counts: `[4, width]`, how often A, C, G and T stand at each of its positions.
      window: first and last place of its beginning, counted from the start site, where it acts.
    """

    name: str
    counts: np.ndarray
    window: tuple[int, int]


_TATA = [
    [61, 16, 352, 3, 354, 268, 360, 222, 155, 56, 83, 82, 82, 68, 77],
    [145, 46, 0, 10, 0, 0, 3, 2, 44, 135, 147, 127, 118, 107, 101],
    [152, 18, 2, 2, 5, 0, 20, 44, 157, 150, 128, 128, 128, 139, 140],
    [31, 309, 35, 374, 30, 121, 6, 121, 33, 48, 31, 52, 61, 75, 71],
]
_INITIATOR = [
    [49, 0, 288, 26, 77, 67, 45, 50],
    [48, 303, 0, 81, 95, 118, 85, 96],
    [69, 0, 0, 116, 0, 46, 73, 56],
    [137, 0, 15, 80, 131, 72, 100, 101],
]
# The box stands some thirty letters before the start site; the A of the initiator's CA is the site.
MOTIFS = (
    Motif("TATA box", np.array(_TATA), (-40, -20)),
    Motif("initiator", np.array(_INITIATOR), (-4, 0)),
)


def weights(motif: Motif, background: np.ndarray) -> np.ndarray:
    """Returns the score of each letter at each position, nats, `[4, width]`.

    Args:
      motif: the motif.
      background: `[4]`, the frequencies of A, C, G and T where there is no motif. Each is also
        counted once, as if it had been seen, so that no score is infinite.
    """
    counts = motif.counts + background[:, None]
    return np.log(counts / counts.sum(axis=0) / background[:, None])


def hits(letters: np.ndarray, motif: Motif, background: np.ndarray) -> np.ndarray:
    """Returns where the motif begins.

    Args:
      letters: `[n, length]` places in ACGT.
      motif: the motif.
      background: as for `weights`.

    Returns:
      bool `[n, length - width + 1]`.
    """
    table = weights(motif, background)
    width = table.shape[1]
    windows = sliding_window_view(letters, width, axis=1)
    scores = table[windows, np.arange(width)].sum(axis=-1)
    low, high = table.min(axis=0).sum(), table.max(axis=0).sum()
    return scores >= low + _SHARE * (high - low)


def acting(found: np.ndarray, motif: Motif, start: int) -> np.ndarray:
    """Returns which sequences have a hit in the window where the motif acts, bool `[n]`.

    Args:
      found: of `hits`.
      motif: the motif.
      start: place of the letter of the start site.
    """
    first, last = (start + offset for offset in motif.window)
    return found[:, first : last + 1].any(axis=1)


def check_start(start: int, length: int) -> None:
    """Raises ValueError unless the windows of all motifs lie within the sequences."""
    before = max(-motif.window[0] for motif in MOTIFS)
    after = max(motif.window[1] + motif.counts.shape[1] for motif in MOTIFS)
    if not before <= start <= length - after:
        message = (
            f"--start {start} is no start site of sequences of {length} letters: {before} letters "
            f"before it and {after} from it on are wanted; None measures no motifs."
        )
        raise ValueError(message)
