"""Images that pillow has decoded, as arrays: of one size, 8 bits, without transparency."""

from collections.abc import Sequence
from typing import Any

import numpy as np

_GRAY, _COLORS = {"1", "L"}, {"P", "RGB", "CMYK", "YCbCr"}


def pixels(name: str, image: Any, *, deep: bool = False) -> np.ndarray:
    """Returns an image as uint8 `[h, w, 1]` or `[h, w, 3]`.

    Args:
      name: of the image, for errors.
      image: of pillow.
      deep: whether it is known to have more than 8 bits, of which pillow drops the rest.

    Raises:
      ValueError: if converting it would lose anything.
    """
    mode, wrong = image.mode, ""
    if "A" in mode or "transparency" in image.info:
        wrong = "is transparent: paste it on a background and save it without an alpha channel"
    elif deep or mode.startswith("I;16"):
        wrong = (
            "has pixels of 16 bits, and 8 are wanted: where they fill 0 ... 65535, save "
            "np.uint8(pixels // 257)"
        )
    elif mode not in _GRAY | _COLORS:
        wrong = f"has pixels of mode {mode!r}, not of 8 bits: scale them to 0 ... 255"
    if wrong:
        message = f"{name} {wrong}."
        raise ValueError(message)
    found = np.asarray(image.convert("L" if mode in _GRAY else "RGB"))
    return found.reshape(*found.shape[:2], -1)


def stacked(names: Sequence[str], read: Sequence[np.ndarray]) -> np.ndarray:
    """Returns images as uint8 `[n, h, w, c]`, gray ones only if all are.

    Args:
      names: of the images, for errors.
      read: their pixels.

    Raises:
      ValueError: if they are not of one size.
    """
    for name, one in zip(names, read, strict=True):
        if one.shape[:2] != read[0].shape[:2]:
            sizes = [
                "x".join(map(str, shape)) for shape in (read[0].shape[1::-1], one.shape[1::-1])
            ]
            message = (
                f"{names[0]} has {sizes[0]} pixels and {name} {sizes[1]}: bring all to one size, "
                "such as with PIL.ImageOps.fit."
            )
            raise ValueError(message)
    if len({one.shape for one in read}) > 1:  # a gray image among colored ones
        read = [np.broadcast_to(one, (*one.shape[:2], 3)) for one in read]
    return np.stack(read)
