"""A user's own videos, cut into windows that move.

They are an .npz file, every array of it one video, uint8 `[frames, h, w]` or `[frames, h, w, c]`;
or a folder of frames as images, in the order of their names, or of one such folder for each video.
The first part of a video is for training, the last for predictions.
"""

import os
import pathlib

import numpy as np

from experiments.fdm._video.digits import Clips
from experiments.images import own


def read(name: str) -> dict[str, np.ndarray]:
    """Returns videos by their names, uint8 `[frames, h, w, c]`, all with frames of one shape.

    Raises:
      OSError: if there is no such file or folder.
      ValueError: if a file cannot be read, or holds no videos, or frames differ in size; the error
        names the file and the frame, or the video.
    """
    path = pathlib.Path(os.path.expanduser(name))
    if path.suffix == ".npz":
        found = {key: _video(f"{path}: {key}", array) for key, array in own.read(name).items()}
    else:
        found = _folder(path)
    first, *others = found
    for other in others:
        if found[other].shape[1:] != found[first].shape[1:]:
            shapes = " and ".join(f"{n} {list(found[n].shape[1:])}" for n in (first, other))
            message = f"{path}: the videos have frames of different shapes, {shapes}: give one."
            raise ValueError(message)
    return found


def _video(what: str, array: np.ndarray) -> np.ndarray:
    gray = array.ndim == 3
    fits = gray or (array.ndim == 4 and array.shape[-1] in (1, 3))
    if array.dtype != np.uint8 or not fits or 0 in array.shape:
        message = (
            f"{what} is {array.dtype} {list(array.shape)}, and a video is wanted, uint8 "
            "[frames, h, w] or [frames, h, w, 1 or 3]."
        )
        raise ValueError(message)
    return array[..., None] if gray else array


def _folder(path: pathlib.Path) -> dict[str, np.ndarray]:
    if not path.is_dir():
        message = f"no folder {path}: --clips is digits, mnist, an .npz file or a folder of frames."
        raise FileNotFoundError(message)
    seen = sorted(p for p in path.iterdir() if not p.name.startswith("."))
    folders = [p for p in seen if p.is_dir()]
    if folders and not any(p.suffix.lower() in own.SUFFIXES for p in seen):
        return {p.name: own.read(str(p))["images"] for p in folders}
    return {path.name: own.read(str(path))["images"]}  # or says what it holds


def windows(video: np.ndarray, frames: int, stride: int, motion: float) -> np.ndarray:
    """Returns the windows of a video that move, `[n, frames, h, w, c]`.

    Args:
      video: `[length, h, w, c]`.
      frames: of a window.
      stride: frames between the starts of two windows.
      motion: mean absolute difference of consecutive frames, in levels of 0 ... 255, that a window
        must exceed.
    """
    starts = range(0, len(video) - frames + 1, stride)
    cut = [video[start : start + frames] for start in starts]
    gaps = [np.abs(np.diff(one.astype(np.int16), axis=0)).mean() for one in cut]
    moving = [one for one, gap in zip(cut, gaps, strict=True) if gap > motion]
    return np.stack(moving) if moving else np.empty((0, frames, *video.shape[1:]), np.uint8)


def load(name: str, *, frames: int, stride: int, motion: float, held_out: float) -> Clips:
    """Returns the moving windows of a user's videos.

    Args:
      name: of the file or folder.
      frames: of a window.
      stride: frames between two windows.
      motion: as in `windows`.
      held_out: share of each video, at its end, that is not trained on.

    Raises:
      OSError: as `read`.
      ValueError: as `read`; if a video is too short, or too few windows move.
    """
    videos, parts = read(name), ([], [])
    for label, video in videos.items():
        cut = round((1.0 - held_out) * len(video))
        if min(cut, len(video) - cut) < frames:
            message = (
                f"{name}: the video {label} has {len(video)} frames, {cut} to train on and "
                f"{len(video) - cut} held out, and a clip has {frames}: give a longer video, or "
                "smaller --frames and --past."
            )
            raise ValueError(message)
        for part, piece in zip(parts, (video[:cut], video[cut:]), strict=True):
            part.append(windows(piece, frames, stride, motion))
    train, test = (np.concatenate(part) for part in parts)
    if len(train) < 2 or len(test) < 2:
        message = (
            f"{name}: {len(train)} training and {len(test)} held-out windows of {frames} frames "
            "move, and 2 of each are needed: give a smaller --motion or --stride."
        )
        raise ValueError(message)
    return Clips(train, test, test[:0], None)
