"""Images of data sets that tensorflow-datasets has prepared, read without TensorFlow.

A prepared data set is a folder `<data_dir>/<name>/<version>/` with dataset_info.json,
features.json and one or more array_record files per split. Everything is looked at before the
first image is read, so that a wrong folder or a damaged file gives one error which names the
path, what was expected there and what to do. Only the download of a new data set needs
TensorFlow.
"""

import contextlib
import importlib
import importlib.util
import os
import re
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import numpy as np

from experiments.run import errors

DOWNLOADED = ("mnist", "fashion_mnist", "cifar10")
FOLDER_ONLY = ("cifar10_subset",)  # not among the data sets that tfds can download
_OTHERWISE = "or use --dataset digits, which needs no files, or --dataset path/to/images.npz"
_READ_BLOCK = 1000  # examples that are decoded in parallel; 2 to 4 times faster than singly


def load(name: str, data_dir: str | None) -> tuple[np.ndarray, np.ndarray]:
    """Returns the official training and test images of a data set.

    Args:
      name: one of `DOWNLOADED` or `FOLDER_ONLY`, or another one that `knows` finds.
      data_dir: the folder above `<name>/`; if None, tfds' own default (the environment's
        TFDS_DATA_DIR or ~/tensorflow_datasets), into which a missing data set is downloaded.

    Returns:
      Two arrays, uint8 `[n, h, w, c]`.

    Raises:
      OSError: if a file or folder is missing, or the download failed.
      ValueError: if a file is damaged.
      ModuleNotFoundError: if a package is missing.
    """
    return _load(name, data_dir, "image")


def load_labels(name: str, data_dir: str | None) -> tuple[np.ndarray, np.ndarray]:
    """Returns the labels of the images that `load` returns, in the same order.

    Args:
      name: one of `DOWNLOADED` or `FOLDER_ONLY`.
      data_dir: as for `load`.

    Returns:
      Two arrays of integers, `[n]`.

    Raises:
      OSError: as `load`.
      ValueError: as `load`.
      ModuleNotFoundError: as `load`.
    """
    return _load(name, data_dir, "label", skip=("image",))


def knows(name: str, data_dir: str | None) -> bool:
    """Returns whether a name is one of ours, or of a data set in a folder of prepared ones."""
    if name in (*DOWNLOADED, *FOLDER_ONLY):
        return True
    if data_dir is None or not re.fullmatch(r"\w+", name):
        return False
    tfds = require("tensorflow_datasets", f"data set {name}")
    return bool(_versions(tfds.core.Path(data_dir).expanduser() / name))


def _load(
    name: str, data_dir: str | None, column: str, skip: tuple[str, ...] = ()
) -> tuple[np.ndarray, np.ndarray]:
    """Returns one column of the training and test examples; what is skipped is not decoded."""
    tfds = require("tensorflow_datasets", f"data set {name}")
    require("array_record.python.array_record_module", f"data set {name}")
    default = os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")
    root = tfds.core.Path(default if data_dir is None else data_dir).expanduser()
    decoders = {other: tfds.decode.SkipDecoding() for other in skip}
    with _quiet():
        if data_dir is None and not _versions(root / name):
            _prepare(tfds, name, root)
        splits = _open_splits(tfds, _folder(root, name), decoders)
        train, test = (_read(*split, column) for split in splits)
    return train, test


def require(module: str, what: str, *, extra: str = "experiments") -> ModuleType:
    """Imports an optional package, or says which extra brings it."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        message = (
            f"{what} needs {error.name}, which is not installed: "
            f'in the checkout, pip install -e ".[{extra}]".'
        )
        raise ModuleNotFoundError(message, name=error.name) from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hides remarks of tfds and array_record, such as on the group size of the files."""
    logging = require("absl.logging", "reading tensorflow-datasets")
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.FATAL)
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)


def _prepare(tfds: ModuleType, name: str, root: Any) -> None:
    """Downloads a data set into tfds' default folder, or says what that would need."""
    missing = f"{name} is not in {root} yet"
    if name in FOLDER_ONLY:
        message = (
            f"{missing} and cannot be downloaded: give --data-dir, the folder that holds "
            f"{name}/<version>/, {_OTHERWISE}."
        )
        raise FileNotFoundError(message)
    if importlib.util.find_spec("tensorflow") is None:
        message = (
            f"{missing}, and preparing a download needs TensorFlow: "
            'in the checkout, pip install -e ".[prepare]", give '
            f"--data-dir, a folder where {name} is prepared, {_OTHERWISE}."
        )
        raise ModuleNotFoundError(message, name="tensorflow")
    try:
        builder = tfds.builder(name, data_dir=root, file_format="array_record")
        builder.download_and_prepare()
    except Exception as error:  # the network, the disk, the mirror: anything can happen here
        message = (
            f"{missing}, and downloading it failed ({errors.first_line(error)}): try again, give "
            f"--data-dir, a folder where {name} is prepared, {_OTHERWISE}."
        )
        raise OSError(message) from error


def _versions(folder: Any) -> list[Any]:
    """Returns the version folders such as 3.0.1 of a data set, the newest last."""
    paths = folder.iterdir() if folder.is_dir() else ()
    versions = [path for path in paths if re.fullmatch(r"\d+\.\d+\.\d+", path.name)]
    return sorted(versions, key=lambda path: [int(part) for part in path.name.split(".")])


def _folder(root: Any, name: str) -> Any:
    """Returns the newest prepared version in `root/name/`, or says what is not there."""
    wanted = f"expected {root / name}/<version>/dataset_info.json, as tensorflow-datasets writes it"
    advice = f"give the folder above {name}/ as --data-dir, {_OTHERWISE}"
    if not root.is_dir():
        message = f"no data folder {root}: {wanted}; {advice}."
        raise FileNotFoundError(message)
    if not (root / name).is_dir():
        found = ", ".join(sorted(path.name for path in root.iterdir())[:8]) or "nothing"
        message = f"no data set {name} in {root}, which holds {found}: {wanted}; {advice}."
        raise FileNotFoundError(message)
    versions = _versions(root / name)
    if not versions:
        message = f"no version folder such as 1.0.0 in {root / name}: {wanted}; {advice}."
        raise FileNotFoundError(message)
    folder = versions[-1]
    for file in ("dataset_info.json", "features.json"):
        if not (folder / file).exists():
            message = (
                f"no file {folder / file}: the data set is incomplete; copy or prepare it again."
            )
            raise FileNotFoundError(message)
    return folder


def _open_splits(
    tfds: ModuleType, folder: Any, decoders: dict[str, Any]
) -> list[tuple[list[tuple[Any, int]], Any]]:
    """Returns for train and test (files with their lengths, examples); all files exist."""
    try:
        builder = tfds.builder_from_directory(folder)
        splits = [builder.info.splits[name] for name in ("train", "test")]
    except Exception as error:  # each damage has its own exception, most with long messages
        message = (
            f"{folder}/dataset_info.json or features.json is damaged ({errors.first_line(error)}): "
            "copy or prepare the data set again."
        )
        raise ValueError(message) from error
    if builder.info.file_format.value != "array_record":
        message = (
            f"{folder} holds {builder.info.file_format.value} files, expected array_record, which "
            'is read without TensorFlow: prepare the data set with file_format="array_record".'
        )
        raise ValueError(message)
    for path in (path for split in splits for path in split.filepaths):
        if not path.exists():
            message = f"no file {path}, which dataset_info.json lists: copy or prepare it again."
            raise FileNotFoundError(message)
    return [
        (
            list(zip(split.filepaths, split.shard_lengths, strict=True)),
            builder.as_data_source(split=split.name, decoders=decoders),
        )
        for split in splits
    ]


def _read(files: list[tuple[Any, int]], source: Any, column: str) -> np.ndarray:
    """Returns a column of a split; reads file by file, so that an error can name the file."""
    values, begin = [], 0
    for path, length in files:
        try:
            for start in range(begin, begin + length, _READ_BLOCK):
                block = range(start, min(start + _READ_BLOCK, begin + length))
                values += [example[column] for example in source.__getitems__(block)]
        except Exception as error:  # array_record and the image decoders have their own each
            message = (
                f"{path} is damaged ({errors.first_line(error)}), expected {length} readable "
                "images: copy or prepare the data set again."
            )
            raise ValueError(message) from error
        begin += length
    return np.stack(values)
