"""The feature space in which a run compares images, recorded so that one run never mixes two.

`experiments.images.classifier` trains one on the labels of a data set; others are given by their
function.
"""

import os
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from sklearn.decomposition import PCA

from experiments.images import data
from experiments.run.folder import read_json, write_json
from fmjax.types import Array


class Embedding(NamedTuple):
    """A space in which images are compared.

    Attributes:
      embed: `[n, h, w, c]` in [-1, 1] `-> [n, size]`, floating, of a few images at a time.
      fingerprint: of a classifier, it changes with any parameter; for your own features a name that
        no others share.
      accuracy: share of held-out images that a classifier gets right, in [0, 1]; else None.
    """

    embed: Callable[[Array], Array]
    fingerprint: str
    accuracy: float | None = None

    @property
    def name(self) -> str:
        """What the space is called in figures."""
        return self.fingerprint if self.accuracy is None else "classifier features"

    def facts(self) -> dict[str, Any]:
        """Returns what a run records of the space that it measures in."""
        return {
            "space": self.name,
            "fingerprint": self.fingerprint,
            "held_out_accuracy": self.accuracy,
        }

    def __str__(self) -> str:
        if self.accuracy is None:
            return f"compared in {self.name}"
        return (
            f"compared in features of a classifier, right on {self.accuracy:.2%} of held-out images"
        )


_TAKEN = ("pixels", "principal components", "classifier features")
_AT_A_TIME = 256  # images


def checked(features: Embedding, images: data.Images) -> Embedding:
    """Returns features of one's own, held to what an embedding is at every call.

    Args:
      features: the embedding.
      images: the data set, of which two are tried.

    Raises:
      ValueError: if it is no embedding of images, or has no name of its own.
    """
    if not isinstance(features, Embedding):
        message = (
            "features must be a features.Embedding(embed, fingerprint), got "
            f"{type(features).__name__}."
        )
        raise ValueError(message)  # noqa: TRY004 - a mistake of one line, as every other
    name = features.fingerprint
    if not isinstance(name, str) or not name.strip() or name in _TAKEN:
        message = f"features need a name of their own as fingerprint, got {name!r}."
        raise ValueError(message)

    def embed(x: Array) -> np.ndarray:
        parts = [x[start : start + _AT_A_TIME] for start in range(0, len(x), _AT_A_TIME)]
        return np.concatenate([_as_features(features, part) for part in parts])

    embed(data.centers(images.train[:2], images.levels))
    return features._replace(embed=embed)


def _as_features(features: Embedding, x: Array) -> np.ndarray:
    """Returns the features of some images, or says what is wrong with them."""
    values = np.asarray(features.embed(x))
    floating = np.issubdtype(values.dtype, np.floating)
    if values.ndim < 2 or len(values) != len(x) or not floating or not np.isfinite(values).all():
        finite = "" if not floating or np.isfinite(values).all() else ", not all finite"
        message = (
            f"{features.fingerprint} must be finite floating features [n, size] of {len(x)} "
            f"images, got {values.dtype} {values.shape}{finite}."
        )
        raise ValueError(message)
    return values


def pin(folder: os.PathLike, embedding: Embedding) -> None:
    """Records in a run folder which embedding its distances are measured in.

    Args:
      folder: the run folder, from `loop.open_run`.
      embedding: the one at hand.

    Raises:
      ValueError: if the folder has distances in another; none is added.
    """
    file = folder / "embedding.json"
    if not file.exists():
        write_json(file, embedding.facts())
        return
    before = read_json(file).get("fingerprint")
    if before != embedding.fingerprint:
        message = (
            f"the distances in {folder} are measured in another embedding ({before} there, "
            f"{embedding.fingerprint} now): give that one, or another --workdir."
        )
        raise ValueError(message)


_NUM_FEATURES = 64


def principal_components(images: data.Images) -> Callable[[np.ndarray], np.ndarray]:
    """Returns the projection on the principal components of the training images.

    It takes x `[n, h, w, c]` and returns `[n, components]`, for the distance (1).
    """
    flat = lambda x: np.asarray(x, np.float64).reshape(len(x), -1)  # noqa: E731
    train = flat(data.centers(images.train, images.levels))
    count = min(_NUM_FEATURES, *train.shape)
    fitted = PCA(count, svd_solver="covariance_eigh").fit(train)
    return lambda x: fitted.transform(flat(x)).astype(np.float32)
