"""Images of a Hugging Face data set, `hf:NAME`: from the hub, or from a folder on this disk.

The package `datasets` reads it, which is an extra of its own: `pip install -e ".[huggingface]"`. A
data set has one column of images, and may have one of classes. Its split "train" is trained on,
"test" or else "validation" is held out.
"""

import os
from typing import Any

import numpy as np

from experiments.images import decoded, prepared
from experiments.run import errors, progress

PREFIX = "hf:"
_HELD_OUT = ("test", "validation")


def read(name: str) -> dict[str, np.ndarray]:
    """Returns the images and labels of a data set.

    Args:
      name: hf:OWNER/NAME of the hub, or hf:FOLDER, written by `Dataset.save_to_disk` or holding
        files that `datasets.load_dataset` takes.

    Returns:
      "images", uint8 `[n, h, w, c]`, "held_out" where the data set has such a split, and "labels"
      and "held_out_labels" where it has classes.

    Raises:
      ValueError: if it cannot be read, or its columns are not those of a data set of images.
      ModuleNotFoundError: if the package is not installed.
    """
    datasets = prepared.require("datasets", f"data set {name}", extra="huggingface")
    splits = _splits(datasets, name)
    train = "train" if "train" in splits else next(iter(splits))
    held_out = next((one for one in _HELD_OUT if one in splits and one != train), None)
    image = _column(name, splits[train], datasets.Image, "images")
    label = _column(name, splits[train], datasets.ClassLabel, "classes")
    if image is None:
        columns = ", ".join(splits[train].column_names)
        message = f"{name} has no column of images, but {columns}: give a data set of images."
        raise ValueError(message)
    parts, found = {train: ("images", "labels")}, {}
    if held_out is not None:
        parts[held_out] = "held_out", "held_out_labels"
    for split, (images, labels) in parts.items():
        found[images] = _images(f"{name}, {split}", splits[split][image])
        if label is not None:
            found[labels] = np.asarray(splits[split][label])
    return found


def _splits(datasets: Any, name: str) -> dict[str, Any]:
    """Returns the splits by their names."""
    place = os.path.expanduser(name.removeprefix(PREFIX))
    saved = any(os.path.exists(os.path.join(place, f"{f}.json")) for f in ("dataset_dict", "state"))
    try:
        read = datasets.load_from_disk(place) if saved else datasets.load_dataset(place)
    except Exception as error:  # the network, the hub, the disk and pyarrow have their own each
        message = (
            f"{name} cannot be read ({errors.first_line(error)}): give hf:OWNER/NAME as the hub "
            "has it, or hf:FOLDER, written by save_to_disk."
        )
        raise ValueError(message) from error
    return dict(read) if isinstance(read, dict) else {"train": read}


def _column(name: str, split: Any, kind: type, what: str) -> str | None:
    """Returns the name of the only column of a kind, None where there is none."""
    columns = [column for column, feature in split.features.items() if isinstance(feature, kind)]
    if len(columns) > 1:
        message = (
            f"{name} has several columns of {what}, {', '.join(columns)}: save it with one of them "
            "(select_columns, save_to_disk), and give hf:FOLDER."
        )
        raise ValueError(message)
    return columns[0] if columns else None


def _images(name: str, column: Any) -> np.ndarray:
    names = [f"{name}[{i}]" for i in range(len(column))]
    items = zip(names, progress.each(column, "images", unit="image"), strict=True)
    return decoded.stacked(names, [decoded.pixels(one, image) for one, image in items])
