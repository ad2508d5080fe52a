"""Hugging Face data sets, written to a folder and read back; the gate installs their package."""

import importlib.util
import sys

import numpy as np
import pytest
from PIL import Image

from experiments.images import data, labels, own

here = pytest.mark.skipif(
    importlib.util.find_spec("datasets") is None, reason="the extra huggingface is not installed"
)


@pytest.fixture
def rows():
    """Twelve gray images of 5x4 pixels and their classes."""
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (12, 5, 4, 1), np.uint8), rng.integers(0, 3, 12)


def _table(pixels, classes=None, **more):
    import datasets

    columns = {"picture": [Image.fromarray(one.squeeze()) for one in pixels], **more}
    features = {"picture": datasets.Image(), **{k: datasets.Value("int64") for k in more}}
    if classes is not None:
        columns["kind"], features["kind"] = classes, datasets.ClassLabel(names=["a", "b", "c"])
    return datasets.Dataset.from_dict(columns, features=datasets.Features(features))


@here
def test_the_splits_of_a_saved_data_set_are_what_was_written(tmp_path, rows):
    import datasets

    pixels, classes = rows
    parts = {"train": _table(pixels[:10], classes[:10]), "test": _table(pixels[10:], classes[10:])}
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "saved")
    name = f"hf:{tmp_path / 'saved'}"
    found = data.load(name)
    np.testing.assert_array_equal(found.train, pixels[:10])
    np.testing.assert_array_equal(found.held_out, pixels[10:])
    got = labels.load(name, found)
    np.testing.assert_array_equal(got.train, classes[:10])
    np.testing.assert_array_equal(got.held_out, classes[10:])
    assert own.label(name) == "saved"


@here
def test_a_data_set_of_one_split_without_classes_is_split_at_random(tmp_path, rows):
    pixels, _ = rows
    _table(pixels, number=list(range(12))).save_to_disk(tmp_path)
    found = data.load(f"hf:{tmp_path}", held_out=0.25, seed=3)
    for part, wanted in zip(found, data.split(pixels, 0.25, 3), strict=False):
        np.testing.assert_array_equal(part, wanted)
    with pytest.raises(ValueError, match='"labels"'):
        labels.load(f"hf:{tmp_path}", found, held_out=0.25, seed=3)


@here
def test_a_folder_of_parquet_files_is_read_as_the_hub_keeps_them(tmp_path, rows, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    pixels, classes = rows
    (tmp_path / "files").mkdir()
    for split, part in (("train", slice(0, 10)), ("validation", slice(10, 12))):
        file = tmp_path / "files" / f"{split}-00000-of-00001.parquet"
        _table(pixels[part], classes[part]).to_parquet(file)
    found = own.read(f"hf:{tmp_path / 'files'}")
    np.testing.assert_array_equal(found["images"], pixels[:10])
    np.testing.assert_array_equal(found["held_out"], pixels[10:])
    np.testing.assert_array_equal(found["held_out_labels"], classes[10:])


@here
def test_what_is_no_data_set_of_images_is_named(tmp_path, rows, monkeypatch):
    import datasets

    pixels, _ = rows
    datasets.Dataset.from_dict({"n": [1, 2]}).save_to_disk(tmp_path / "numbers")
    with pytest.raises(ValueError, match="no column of images, but n: give"):
        own.read(f"hf:{tmp_path / 'numbers'}")
    both = {name: [Image.fromarray(pixels[0].squeeze())] for name in ("picture", "other")}
    features = datasets.Features({name: datasets.Image() for name in both})
    datasets.Dataset.from_dict(both, features=features).save_to_disk(tmp_path / "two")
    with pytest.raises(ValueError, match="several columns of images, picture, other"):
        own.read(f"hf:{tmp_path / 'two'}")
    sizes = [*pixels[:2], np.zeros((3, 3, 1), np.uint8)]
    _table(sizes).save_to_disk(tmp_path / "sizes")
    with pytest.raises(ValueError, match=r"train\[0\] has 4x5 pixels and .*train\[2\] 3x3"):
        own.read(f"hf:{tmp_path / 'sizes'}")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match=r"hf:nobody/nothing cannot be read \(.*OWNER/NAME"):
        own.read("hf:nobody/nothing")


def test_without_the_package_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ModuleNotFoundError, match=r"hf:a/b needs datasets.*\[huggingface\]"):
        own.read("hf:a/b")
