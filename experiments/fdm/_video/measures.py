"""How good predicted frames are: PSNR, SSIM, position and speed of a digit, distance of clips.

Frames are compared one by one, at the horizon 1, 2, ... frames after the last that is known. PSNR
is 10 log10(1 / mean squared error) in dB for pixels in [0, 1]; an error below the rounding of 8
bits counts as this. SSIM is that of scikit-image, with its window of 7 pixels.

The distance of whole clips, past and predicted frames, is the squared Frechet distance of Gaussians
fitted to features: here the leading principal components, over the training clips, of the latents
of the experiment's own encoder. It compares clips of one run. The customary one, FVD, has the
features of the network I3D, which cannot be had without a download: give its function as `embed`.

References:
  Wang et al. (2004), Image Quality Assessment (SSIM), IEEE Transactions on Image Processing 13(4).
  Unterthiner et al. (2018), arXiv 1812.01717 (FVD).
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from sklearn.decomposition import PCA

import fmjax
from experiments.fdm._video import digits
from experiments.images import prepared

WINDOW = 7  # pixels of the window of SSIM
COMPONENTS = 32  # of the latents of a clip
_FITTED = 500  # training clips whose components these are
FLOOR = 0.25  # brightness below which a pixel has no mass: the decoder's background is not black
_frechet = jax.jit(fmjax.metrics.frechet)


def psnr(true: np.ndarray, found: np.ndarray) -> np.ndarray:
    """Returns the PSNR of every frame in dB, `[n, frames]` of `[n, frames, h, w, c]` in [0, 1]."""
    error = ((np.float64(true) - found) ** 2).mean(axis=(-3, -2, -1))
    return -10.0 * np.log10(np.maximum(error, (0.5 / 255) ** 2))


def ssim(true: np.ndarray, found: np.ndarray) -> np.ndarray:
    """Returns the SSIM of every frame, `[n, frames]` of `[n, frames, h, w, c]` in [0, 1]."""
    metrics = prepared.require("skimage.metrics", "SSIM")
    how = {"data_range": 1.0, "channel_axis": -1, "win_size": WINDOW}
    rows = zip(np.float32(true), np.float32(found), strict=True)
    one = lambda pair: metrics.structural_similarity(*pair, **how)  # noqa: E731
    return np.array([[one(pair) for pair in zip(*row, strict=True)] for row in rows])


def motion(found: np.ndarray, last: np.ndarray, tracks: np.ndarray) -> dict[str, np.ndarray]:
    """Returns how far position and speed of a digit are off, in pixels, `[n, frames]` each.

    Args:
      found: predicted frames in [0, 1], `[n, frames, h, w, 1]`.
      last: the last frame before them, `[n, h, w, 1]`.
      tracks: `[n, frames + 1, 2]`, the true positions, of the last frame first.
    """
    frames = np.concatenate([last[:, None], found], axis=1)[..., 0]
    at = digits.center(frames, FLOOR)
    moved, true = np.diff(at, axis=1), np.diff(tracks, axis=1)
    return {
        "position": np.linalg.norm(at - tracks, axis=-1)[:, 1:],
        "speed": np.linalg.norm(moved - true, axis=-1),
    }


def features(
    encode: Callable[[np.ndarray], np.ndarray], train: np.ndarray
) -> Callable[[np.ndarray], np.ndarray]:
    """Returns a function from clips, `[n, frames, h, w, c]` in [0, 1], to features `[n, d]`.

    Args:
      encode: `frames[n, h, w, c] -> latents` of uint8.
      train: the latents of the training clips, `[n, frames, tokens, features]`.
    """
    flat = train[:_FITTED].reshape(min(len(train), _FITTED), -1)
    fitted = PCA(min(COMPONENTS, *flat.shape), svd_solver="full").fit(flat)

    def embed(clips: np.ndarray) -> np.ndarray:
        frames = np.uint8(np.round(255 * clips)).reshape(-1, *clips.shape[2:])
        latents = encode(frames).reshape(len(clips), -1)
        return np.float32(fitted.transform(latents))

    return embed


def distance(x: np.ndarray, y: np.ndarray) -> float:
    """Returns the squared Frechet distance of two sets of features, `[n, d]` each."""
    return float(_frechet(x, y))


def best(scores: np.ndarray) -> np.ndarray:
    """Returns of every clip the scores of the draw with the highest mean, `[n, frames]`.

    Args:
      scores: `[draws, n, frames]`.
    """
    chosen = scores.mean(axis=-1).argmax(axis=0)
    return np.take_along_axis(scores, chosen[None, :, None], axis=0)[0]


def summary(scores: np.ndarray) -> dict[str, Any]:
    """Returns the mean by horizon, over all, and its standard error over clips of `[n, frames]`."""
    each = scores.mean(axis=1)
    return {
        "mean": float(each.mean()),
        "standard_error": float(each.std(ddof=1) / len(each) ** 0.5),
        "by_horizon": scores.mean(axis=0),
    }
