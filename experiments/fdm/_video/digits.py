"""Moving digits: clips of a real digit that moves on a straight line and is mirrored at the walls.

The digit is drawn between pixels by linear interpolation, which moves its center of mass by exactly
as much, so that the track of every clip is known and can be measured in a frame without a network.

After Srivastava et al. (2015), arXiv 1502.04681 (moving MNIST).
"""

from typing import NamedTuple

import numpy as np

from experiments.images import data, prepared

SPEEDS = (1 / 16, 3 / 16)  # sides of a digit per frame


class Size(NamedTuple):
    """Pixels of the side of a frame, and of a digit in it."""

    side: int
    digit: int


class Clips(NamedTuple):
    """Clips to train on and to predict, uint8 `[n, frames, h, w, c]`.

    Attributes:
      train: clips of the training digits, or windows of the first part of every video.
      test: clips of held-out digits, or windows of the last part.
      more: as many held-out clips again, which show what a distance of clips is by chance; none of
        a user's own.
      tracks: `[n, frames, 2]`, row and column of the center of mass in `test`; None where it is not
        known.
    """

    train: np.ndarray
    test: np.ndarray
    more: np.ndarray
    tracks: np.ndarray | None


def glyphs(name: str, data_dir: str | None, digit: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns training and held-out digits in [0, 1], `[n, digit, digit]`."""
    pillow = prepared.require("PIL.Image", "moving digits")
    images = data.load(name, data_dir=data_dir)

    def resized(pixels: np.ndarray) -> np.ndarray:
        gray = np.float32(pixels[..., 0]) / (images.levels - 1)
        how = pillow.Resampling.BILINEAR  # averages where it shrinks
        return np.stack([np.asarray(pillow.fromarray(x).resize((digit, digit), how)) for x in gray])

    return resized(images.train), resized(images.held_out)


def positions(rng: np.random.Generator, size: Size, count: int, frames: int) -> np.ndarray:
    """Draws where the corner of a digit is in each frame, `[count, frames, 2]`.

    Starts are uniform in the room of the frame, directions uniform, speeds uniform in SPEEDS.
    """
    room = size.side - size.digit
    start = rng.uniform(0.0, room, size=(count, 1, 2))
    angle = rng.uniform(0.0, 2.0 * np.pi, size=(count, 1))
    speed = size.digit * rng.uniform(*SPEEDS, size=(count, 1, 1))
    step = speed * np.stack([np.sin(angle), np.cos(angle)], axis=-1)
    straight = start + step * np.arange(frames)[:, None]
    return room - np.abs(straight % (2 * room) - room)  # mirrored at 0 and at the room's end


def drawn(glyph: np.ndarray, corners: np.ndarray, side: int) -> np.ndarray:
    """Returns frames in [0, 1], `[frames, side, side]`, of a digit with its corner there."""
    digit = len(glyph)
    whole = np.minimum(np.floor(corners).astype(int), side - digit)
    frames = np.zeros((len(corners), side + 1, side + 1), np.float32)
    for frame, (row, column), (down, right) in zip(frames, whole, corners - whole, strict=True):
        for i, high in ((0, 1.0 - down), (1, down)):
            for j, wide in ((0, 1.0 - right), (1, right)):
                top, left = row + i, column + j
                frame[top : top + digit, left : left + digit] += high * wide * glyph
    return frames[:, :side, :side]


def clips(
    rng: np.random.Generator, digits: np.ndarray, side: int, *, count: int, frames: int
) -> tuple[np.ndarray, np.ndarray]:
    """Draws clips, uint8 `[count, frames, side, side, 1]`, and tracks `[count, frames, 2]`."""
    chosen = digits[rng.integers(len(digits), size=count)]
    corners = positions(rng, Size(side, digits.shape[1]), count, frames)
    made = np.stack([drawn(*pair, side) for pair in zip(chosen, corners, strict=True)])
    return np.uint8(np.round(255 * made))[..., None], corners + center(chosen)[:, None]


def center(frames: np.ndarray, floor: float = 0.0) -> np.ndarray:
    """Returns row and column of the center of mass of gray frames, `[..., 2]` of `[..., h, w]`.

    Args:
      frames: in [0, 1].
      floor: what is darker has no mass, and what is brighter has it above that; a frame without any
        has its center in the middle.
    """
    mass = np.maximum(np.float64(frames) - floor, 0.0)
    whole = mass.sum(axis=(-2, -1))
    found = []
    for axis in (-2, -1):
        line = mass.sum(axis=-1 if axis == -2 else -2)
        middle = (line.shape[-1] - 1) / 2
        moment = line @ np.arange(line.shape[-1])
        found.append(np.where(whole > 0, moment / np.where(whole > 0, whole, 1.0), middle))
    return np.stack(found, axis=-1)


def load(
    name: str,
    data_dir: str | None,
    size: Size,
    *,
    counts: tuple[int, int],
    frames: int,
    seed: int,
) -> Clips:
    """Returns moving digits, deterministic in the seed.

    Args:
      name: of the data set of digits, `digits` or `mnist`.
      data_dir: where a prepared one lies.
      size: of frames and digits.
      counts: training clips, and held-out clips of either kind.
      frames: of a clip.
      seed: of all draws.
    """
    known, unknown = glyphs(name, data_dir, size.digit)
    parts = ((known, counts[0]), (unknown, counts[1]), (unknown, counts[1]))
    made = [
        clips(np.random.default_rng([seed, 100 + i]), part, size.side, count=count, frames=frames)
        for i, (part, count) in enumerate(parts)
    ]
    (train, _), (test, tracks), (more, _) = made
    return Clips(train, test, more, tracks)
