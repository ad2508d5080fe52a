"""Crops of photographs that scikit-learn ships, for images of up to 256x256 pixels."""

import numpy as np

from experiments.images import data, prepared


def photographs(side: int = 256, stride: int = 16) -> np.ndarray:
    """Returns square crops of the two photographs of scikit-learn, float32 in [-1, 1].

    Large images that need no download. Neighboring crops overlap: they are nearer to each other
    than as many photographs would be, and collapse later.

    Args:
      side: pixels of each side, from 1 to 427.
      stride: pixels between two crops; of 16, there are 550 crops of 256.

    Returns:
      `[n, side, side, 3]`.
    """
    datasets = prepared.require("sklearn.datasets", "data set photographs")
    pictures = np.stack(datasets.load_sample_images().images)  # 427 x 640 pixels
    views = np.lib.stride_tricks.sliding_window_view(pictures, (side, side), axis=(1, 2))
    crops = np.moveaxis(views[:, ::stride, ::stride], 3, -1).reshape(-1, side, side, 3)
    return data.centers(crops, 256)


def subsample(images: np.ndarray, side: int) -> np.ndarray:
    """Returns smaller images: of side x side equal cells the pixel at the middle of each.

    Args:
      images: `[n, h, w, c]`.
      side: pixels of each side, at most h and w.

    Returns:
      `[n, side, side, c]`.
    """
    rows, columns = (np.int64((np.arange(side) + 0.5) * m / side) for m in images.shape[1:3])
    return images[:, rows[:, None], columns]
