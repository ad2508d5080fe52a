"""Data sets by name and from files, what is said when they are damaged, and batches."""

import importlib.util
import io
import json
import pathlib
import shutil

import jax
import numpy as np
import pytest

from experiments.images import data, labels, prepared, training
from experiments.images.options import Source
from experiments.run import batches

tfds = pytest.importorskip("tensorflow_datasets")
SHARED = pathlib.Path(__file__).parents[4] / "shared" / "tfds"
SHARDS = 20  # examples per file, so that the training split has three
LENGTHS = {"train": 50, "test": 20}


def draw(split: str) -> np.ndarray:
    """The images of the data set written below."""
    random = np.random.default_rng(len(split))
    return random.integers(0, 256, (LENGTHS[split], 4, 5, 1), dtype=np.uint8)


def png(image: np.ndarray) -> io.BytesIO:
    """One image as a PNG file; given as a file, tfds stores it without TensorFlow."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(image[..., 0]).save(file, "PNG")
    file.seek(0)
    return file


def write(root: pathlib.Path) -> pathlib.Path:
    """Writes a small mnist, in the files that a full one has; returns its version folder."""
    folder = root / "mnist" / "3.0.1"
    folder.mkdir(parents=True)
    features = tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(shape=(4, 5, 1)),
            "label": tfds.features.ClassLabel(num_classes=10),
        }
    )
    version = tfds.core.Version("3.0.1")
    identity = tfds.core.DatasetIdentity(
        name="mnist", version=version, data_dir=str(folder), module_name=""
    )
    info = tfds.core.DatasetInfo(builder=identity, features=features)
    writer = tfds.core.SequentialWriter(
        ds_info=info, max_examples_per_shard=SHARDS, file_format="array_record"
    )
    writer.initialize_splits(list(LENGTHS))
    for split in LENGTHS:
        rows = [{"image": png(image), "label": i % 10} for i, image in enumerate(draw(split))]
        writer.add_examples({split: rows})
    writer.close_all()
    return folder


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    root = tmp_path_factory.mktemp("tfds")
    write(root)
    return root


@pytest.fixture
def copy(written, tmp_path):
    """A copy of the data set to damage: its version folder."""
    shutil.copytree(written, tmp_path / "copy")
    return tmp_path / "copy" / "mnist" / "3.0.1"


def assert_same_images(got, wanted):
    """The same images in any order: the writer may shuffle."""
    assert got.shape == wanted.shape
    assert got.dtype == np.uint8
    flat = [sorted(image.tobytes() for image in images) for images in (got, wanted)]
    assert flat[0] == flat[1]


# Named data sets.


def test_digits_are_those_of_scikit_learn():
    from sklearn import datasets

    images = data.load("digits", held_out=0.2, seed=3)
    assert images.levels == 17
    assert images.train.shape == (1438, 8, 8, 1)
    assert images.held_out.shape == (359, 8, 8, 1)
    everything = np.concatenate([images.train, images.held_out])
    assert_same_images(everything, np.uint8(datasets.load_digits().images[..., None]))
    assert everything.max() == images.levels - 1


def test_the_split_is_a_function_of_the_seed():
    first, again, other = (data.load("digits", seed=seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.train, again.train)
    np.testing.assert_array_equal(first.held_out, again.held_out)
    assert not np.array_equal(first.held_out, other.held_out)


def test_a_prepared_data_set_is_read_whole(written, capfd):
    images = data.load("mnist", data_dir=str(written))
    assert images.levels == 256
    assert_same_images(images.train, draw("train"))
    assert_same_images(images.held_out, draw("test"))
    assert capfd.readouterr() == ("", "")  # remarks of the readers are hidden


def test_blocks_smaller_than_a_file(written, monkeypatch):
    monkeypatch.setattr(prepared, "_READ_BLOCK", 7)
    assert_same_images(data.load("mnist", data_dir=str(written)).train, draw("train"))


def test_the_newest_version_is_read(copy):
    shutil.copytree(copy, copy.parent / "3.0.0")
    shutil.copytree(copy, copy.parent / "10.0.0")
    (copy / "dataset_info.json").unlink()
    (copy.parent / "3.0.0" / "dataset_info.json").unlink()
    assert len(data.load("mnist", data_dir=str(copy.parents[1])).train) == 50


def test_the_default_folder_of_tfds_is_looked_at(written, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(written))
    assert_same_images(data.load("mnist").train, draw("train"))


def test_what_is_missing_is_downloaded(tmp_path, monkeypatch):
    class Builder:
        """Stands for tfds' builder, which needs the network and TensorFlow."""

        def download_and_prepare(self):
            write(tmp_path)

    def builder(name, *, data_dir, file_format):
        assert (name, str(data_dir), file_format) == ("mnist", str(tmp_path), "array_record")
        return Builder()

    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: True)
    monkeypatch.setattr(tfds, "builder", builder)
    assert_same_images(data.load("mnist").train, draw("train"))


def test_a_failed_download_says_what_else_there_is(tmp_path, monkeypatch):
    def builder(*_, **__):
        raise ConnectionError("no route to host\nmany more lines")

    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: True)
    monkeypatch.setattr(tfds, "builder", builder)
    with pytest.raises(OSError, match=r"failed \(no route to host\): .*--data-dir.*digits.*npz"):
        data.load("mnist")


def test_without_tensorflow_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ModuleNotFoundError, match=r"\[prepare\].*--data-dir.*digits.*npz"):
        data.load("cifar10")


def test_without_tfds_the_extra_is_named():
    with pytest.raises(ModuleNotFoundError, match=r"x needs no_such_package.*\[experiments\]"):
        prepared.require("no_such_package.module", "x")


def test_the_subset_cannot_be_downloaded(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="cannot be downloaded: give --data-dir"):
        data.load("cifar10_subset")


@pytest.mark.parametrize("name", ["digitz", "images.png", ""])
def test_an_unknown_name_lists_the_known(name):
    with pytest.raises(ValueError, match=r"digits, mnist, .*cifar10_subset, or a path .*\.npz or"):
        data.load(name)


@pytest.mark.parametrize("held_out", [0.0, 1.0, -0.1])
def test_held_out_is_a_share(held_out):
    with pytest.raises(ValueError, match=r"held_out must lie in \(0, 1\)"):
        data.load("digits", held_out=held_out)


def test_a_negative_seed_is_refused():
    with pytest.raises(ValueError, match="seed must be an integer from 0"):
        data.load("digits", seed=-1)


# Damage.


def test_wrong_folders_say_where_the_data_should_be(written, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no data folder .*/nowhere: expected .*mnist"):
        data.load("mnist", data_dir=str(tmp_path / "nowhere"))
    with pytest.raises(FileNotFoundError, match=r"no data set cifar10 in .* holds mnist: "):
        data.load("cifar10", data_dir=str(written))
    with pytest.raises(FileNotFoundError, match=r"holds 3\.0\.1: .*give the folder above mnist/"):
        data.load("mnist", data_dir=str(written / "mnist"))
    (tmp_path / "mnist").mkdir()
    with pytest.raises(FileNotFoundError, match=r"no version folder such as 1\.0\.0 in"):
        data.load("mnist", data_dir=str(tmp_path))


SHARD = "mnist-train.array_record-00001"


def truncate(folder, size):
    with (folder / SHARD).open("r+b") as file:
        file.truncate(size)


def scribble(folder):
    with (folder / SHARD).open("r+b") as file:
        file.seek(300)  # among the records; most of the file is padding
        file.write(b"\xff" * 200)


def edit(folder, name, old, new):
    text = (folder / name).read_text()
    assert old in text
    (folder / name).write_text(text.replace(old, new))


DAMAGES = {
    "truncated": (lambda f: truncate(f, 70_000), ValueError, f"{SHARD} is damaged .*expected 20"),
    "empty": (lambda f: truncate(f, 0), ValueError, f"{SHARD} is damaged .*expected 20"),
    "scribbled": (scribble, ValueError, f"{SHARD} is damaged .*expected 20 readable images"),
    "no shard": (lambda f: (f / SHARD).unlink(), FileNotFoundError, f"no file .*{SHARD}, which"),
    "fewer images": (
        lambda f: edit(f, "dataset_info.json", '"10"', '"11"'),
        ValueError,
        "00002 is damaged .*expected 11",
    ),
    "no info": (
        lambda f: (f / "dataset_info.json").unlink(),
        FileNotFoundError,
        r"no file .*/3\.0\.1/dataset_info\.json: the data set is incomplete",
    ),
    "no features": (
        lambda f: (f / "features.json").unlink(),
        FileNotFoundError,
        r"no file .*/3\.0\.1/features\.json: the data set is incomplete",
    ),
    "half info": (
        lambda f: (f / "dataset_info.json").write_text("{"),
        ValueError,
        r"/dataset_info\.json or features\.json is damaged",
    ),
    "half features": (
        lambda f: (f / "features.json").write_text("{"),
        ValueError,
        r"/dataset_info\.json or features\.json is damaged",
    ),
    "no test split": (
        lambda f: edit(f, "dataset_info.json", '"test"', '"extra"'),
        ValueError,
        r"/dataset_info\.json or features\.json is damaged",
    ),
    "tfrecord": (
        lambda f: edit(f, "dataset_info.json", '"array_record"', '"tfrecord"'),
        ValueError,
        "holds tfrecord files, expected array_record",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_names_the_path(copy, damage):
    change, error, message = DAMAGES[damage]
    change(copy)
    with pytest.raises(error, match=message) as caught:
        data.load("mnist", data_dir=str(copy.parents[1]))
    assert str(copy) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.is_dir(), reason="needs prepared data sets in ../shared/tfds")
def test_real_cifar_images():
    images = data.load("cifar10_subset", data_dir=str(SHARED))
    assert images.train.shape == (20_000, 32, 32, 3)
    assert images.held_out.shape == (5_000, 32, 32, 3)


# A user's own file.


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 200, (20, 3, 4, 3), dtype=np.uint8)


def test_npz_is_split_by_the_seed(tmp_path, images):
    np.savez(tmp_path / "a.npz", images=images)
    got = data.load(str(tmp_path / "a.npz"), held_out=0.25)
    assert (len(got.train), len(got.held_out), got.levels) == (15, 5, 256)
    assert_same_images(np.concatenate([got.train, got.held_out]), images)


def test_npz_may_hold_one_array_of_any_name_and_gray_images(tmp_path, images):
    np.savez_compressed(tmp_path / "a.npz", images[..., 0])
    got = data.load(str(tmp_path / "a.npz"))
    assert_same_images(np.concatenate([got.train, got.held_out]), images[..., :1])


def test_npz_may_bring_its_own_split_and_levels(tmp_path, images):
    np.savez(tmp_path / "a.npz", images=images, held_out=images[:3], levels=200, names=["x"])
    got = data.load(str(tmp_path / "a.npz"))
    np.testing.assert_array_equal(got.train, images)
    np.testing.assert_array_equal(got.held_out, images[:3])
    assert got.levels == 200


BAD_FILES = {
    "floats": (lambda x: {"images": x / 255}, r"uint8, got float64: .*np\.round\(255"),
    "16 bits": (
        lambda x: {"images": x.astype(np.uint16) * 257},
        r"got uint16: 16 bits .* become 8 by np\.uint8\(images // 257\)",
    ),
    "integers": (lambda x: {"images": x.astype(int)}, r"got int64: .*astype\(np\.uint8\)"),
    "booleans": (lambda x: {"images": x > 9}, "got bool: .*levels=2"),
    "rank": (lambda x: {"images": x[0, 0]}, r"shape \[n, h, w\] or .*, got \[4, 3\]"),
    "empty": (lambda x: {"images": x[:, :0]}, r"got \[20, 0, 4, 3\]"),
    "few": (lambda x: {"images": x[:9]}, "at least 10 images, got 9"),
    "values": (lambda x: {"images": x, "levels": 17}, r"in 0 \.\.\. 16, got 199"),
    "levels": (lambda x: {"images": x, "levels": 1.5}, '"levels" must be one integer'),
    "many levels": (lambda x: {"images": x, "levels": 300}, '"levels" must be one integer'),
    "two arrays": (lambda x: {"a": x, "b": x}, 'one array named "images", got a, b'),
    "no arrays": (lambda _: {"levels": 3}, 'one array named "images", got none'),
    "held_out": (lambda x: {"images": x, "held_out": x[:, :2]}, r"shape \(3, 4, 3\) like"),
    "objects": (lambda _: {"images": np.array([{}])}, "cannot be read as an .npz"),
}


@pytest.mark.parametrize("bad", BAD_FILES)
def test_npz_errors_say_what_was_wanted(tmp_path, images, bad):
    arrays, message = BAD_FILES[bad]
    np.savez(tmp_path / "a.npz", **arrays(images))
    with pytest.raises(ValueError, match=message) as caught:
        data.load(str(tmp_path / "a.npz"))
    assert str(tmp_path / "a.npz") in str(caught.value)


def test_npz_missing_or_damaged(tmp_path, images):
    path = tmp_path / "a.npz"
    with pytest.raises(FileNotFoundError, match=r"no file .*a\.npz: expected an \.npz"):
        data.load(str(path))
    np.savez(path, images=images)
    whole = path.read_bytes()
    contents = {
        "text": b"hello",
        "nothing": b"",
        "half": whole[: len(whole) // 2],
        "one byte wrong": whole[:300] + bytes([whole[300] ^ 1]) + whole[301:],
    }
    for content in contents.values():
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"a\.npz cannot be read as an \.npz file \(.+\): "):
            data.load(str(path))


# Labels.


def test_the_labels_of_digits_belong_to_their_images():
    from sklearn import datasets

    digits = datasets.load_digits()
    truth = {
        np.uint8(x).tobytes(): label for x, label in zip(digits.images, digits.target, strict=True)
    }
    source = Source(held_out=0.3)
    _, images = training.load(source, 5)  # whose held-out images are shuffled
    found = labels.matching(source, 5, images)
    for part in ("train", "held_out"):
        wanted = [truth[image.tobytes()] for image in getattr(images, part)]
        np.testing.assert_array_equal(getattr(found, part), wanted)
        assert getattr(found, part).dtype == np.int32
    assert labels.fingerprint(found).startswith("10 classes")
    other = found._replace(train=np.roll(found.train, 1))
    assert labels.fingerprint(other) != labels.fingerprint(found)


def test_the_labels_of_a_prepared_data_set_are_in_the_order_of_its_images(written, capfd):
    images = data.load("mnist", data_dir=str(written))
    found = labels.load("mnist", images, data_dir=str(written))
    for part, split in (("train", "train"), ("held_out", "test")):
        truth = {image.tobytes(): i % 10 for i, image in enumerate(draw(split))}
        wanted = [truth[image.tobytes()] for image in getattr(images, part)]
        np.testing.assert_array_equal(getattr(found, part), wanted)
    assert capfd.readouterr() == ("", "")


def test_the_labels_of_npz_follow_the_split(tmp_path, images):
    path, own = str(tmp_path / "a.npz"), np.arange(20)
    np.savez(path, images, labels=own)  # the images under any name
    got = data.load(path, held_out=0.25, seed=2)
    found = labels.load(path, got, held_out=0.25, seed=2)
    np.testing.assert_array_equal(got.train, images[found.train])
    np.testing.assert_array_equal(got.held_out, images[found.held_out])
    np.savez(path, images=images, held_out=images[:3], labels=own, held_out_labels=own[:3])
    found = labels.load(path, data.load(path))
    assert (found.train.tolist(), found.held_out.tolist()) == (own.tolist(), [0, 1, 2])


BAD_LABELS = {
    "none": ({}, '"labels" is missing, and the classes of the images are needed'),
    "too few": ({"labels": np.arange(19)}, r'"labels" must be 20 integers, .*got int64 \(19,\)'),
    "floats": ({"labels": np.ones(20)}, '"labels" must be 20 integers, .*got float64'),
    "negative": ({"labels": np.arange(20) - 1}, r'"labels" must count from 0, got -1 \.\.\. 18'),
}


@pytest.mark.parametrize("bad", BAD_LABELS)
def test_npz_labels_errors_say_what_was_wanted(tmp_path, images, bad):
    arrays, message = BAD_LABELS[bad]
    path = str(tmp_path / "a.npz")
    np.savez(path, images=images, **arrays)
    with pytest.raises(ValueError, match=message) as caught:
        labels.load(path, data.load(path))
    assert "np.savez(path, images=images, labels=...)" in str(caught.value)
    np.savez(path, images=images, held_out=images[:3], labels=np.arange(20))
    with pytest.raises(ValueError, match='"held_out_labels" is missing'):
        labels.load(path, data.load(path))


# Batches.


def take(iterator, count):
    return [next(iterator)["x"] for _ in range(count)]


@pytest.mark.parametrize("step", [0, 1, 4, 5, 13])
def test_batches_start_at_any_step(images, step):
    start = batches.batches(images, 4, seed=0)
    np.testing.assert_array_equal(take(start(step), 7), take(start(0), step + 7)[step:])


def test_an_epoch_shows_each_image_once(images):
    first, second = np.split(np.stack(take(batches.batches(images, 5, seed=1)(0), 8)), 2)
    assert_same_images(np.concatenate(first), images)
    assert_same_images(np.concatenate(second), images)
    assert not np.array_equal(first, second)


def test_what_does_not_fill_a_batch_is_left_out(images):
    epoch = np.concatenate(take(batches.batches(images, 6, seed=0)(0), 3))
    assert len({image.tobytes() for image in epoch}) == 18


def test_the_seed_decides_the_order(images):
    orders = [np.stack(take(batches.batches(images, 5, seed=seed)(0), 4)) for seed in (0, 0, 1)]
    np.testing.assert_array_equal(orders[0], orders[1])
    assert not np.array_equal(orders[0], orders[2])


def test_a_batch_that_processes_cannot_share_is_refused(images, monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(ValueError, match="batch_size 5 must be a multiple of the 2 processes"):
        batches.batches(images, 5, seed=0)


@pytest.mark.parametrize("size", [0, 21])
def test_a_batch_that_cannot_be_is_refused(images, size):
    with pytest.raises(ValueError, match=f"between 1 and the 20 training images, got {size}"):
        batches.batches(images, size, seed=0)


# Dequantization.


@pytest.mark.parametrize("levels", [2, 17, 256])
def test_dequantized_pixels_stay_in_their_bins(key, levels):
    pixels = np.random.default_rng(0).integers(0, levels, (500, 6, 5, 1), dtype=np.uint8)
    x = data.dequantize(key, jax.numpy.asarray(pixels), levels)
    assert x.dtype == np.float32
    assert x.min() >= -1.0
    assert x.max() <= 1.0
    # u is the place within the bin, uniform: mean 1/2, variance 1/12, also given the pixel.
    u = (np.float64(x) + 1) / data.bin_width(levels) - pixels
    assert -1e-4 < u.min() < 0.001
    assert 0.999 < u.max() < 1 + 1e-4
    assert abs(u.mean() - 1 / 2) < 5 * np.sqrt(1 / 12 / u.size)
    assert abs(u.var() - 1 / 12) < 5 * np.sqrt(1 / 180 / u.size)
    correlation = np.corrcoef(u.ravel(), pixels.ravel())[0, 1]
    assert abs(correlation) < 5 / np.sqrt(u.size)
    back = data.quantize(x, levels)
    assert back.dtype == np.uint8
    assert np.mean(np.asarray(back) != pixels) < 1e-3  # rounding at the edges of a bin


def test_quantize_clips(key):
    del key
    x = jax.numpy.array([-3.0, -1.0, 0.0, 1.0, 3.0])
    assert data.quantize(x, 256).tolist() == [0, 0, 128, 255, 255]


def test_bins_fill_the_interval():
    assert data.bin_width(17) * 17 == pytest.approx(2.0)


def test_written_info_is_that_of_a_real_data_set(written):
    """Guards the tests above: the files are those that tfds writes, in several shards."""
    info = json.loads((written / "mnist" / "3.0.1" / "dataset_info.json").read_text())
    lengths = {split["name"]: split["shardLengths"] for split in info["splits"]}
    assert lengths == {"train": ["20", "20", "10"], "test": ["20"]}


def test_another_data_set_in_the_folder_is_read_by_its_name(written, tmp_path):
    shutil.copytree(written / "mnist", tmp_path / "letters")
    got, wanted = (
        data.load(name, data_dir=str(place))
        for name, place in (("letters", tmp_path), ("mnist", written))
    )
    for a, b in zip(got, wanted, strict=True):
        np.testing.assert_array_equal(a, b)
    found = labels.load("letters", got, data_dir=str(tmp_path))
    assert [len(part) for part in found] == [len(got.train), len(got.held_out)]
    with pytest.raises(ValueError, match="unknown data set 'figures'"):
        data.load("figures", data_dir=str(tmp_path))
    assert not prepared.knows("../letters", str(tmp_path))
