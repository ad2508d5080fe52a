"""Images of a user: .npy files and folders of pictures."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from experiments.images import data, labels, own


@pytest.fixture
def pixels():
    """Twelve colored images of 4x6 pixels, none of them gray."""
    return np.random.default_rng(0).integers(0, 256, (12, 4, 6, 3), np.uint8)


def _write(folder, images, names=None, mode=None):
    folder.mkdir(parents=True, exist_ok=True)
    for i, image in enumerate(images):
        name = names[i] if names else f"{i:02}.png"
        Image.fromarray(image.squeeze(), mode).save(folder / name)
    return folder


def _sorted(images):
    return np.array(sorted(images.reshape(len(images), -1).tolist()))


def _all(found):
    return np.concatenate([found.train, found.held_out])


def test_a_folder_is_read_in_the_order_of_its_names_and_split_by_the_seed(tmp_path, pixels):
    _write(tmp_path / "photos", pixels, [f"{i:02}{s}" for i, s in enumerate([".png", ".BMP"] * 6)])
    (tmp_path / "photos" / "notes.txt").write_text("no image")
    (tmp_path / "photos" / ".hidden.png").write_text("no image either")
    np.testing.assert_array_equal(own.read(str(tmp_path / "photos"))["images"], pixels)
    found = data.load(f"{tmp_path / 'photos'}/", held_out=0.25, seed=3)
    wanted = data.split(pixels, 0.25, 3)
    np.testing.assert_array_equal(found.train, wanted[0])
    np.testing.assert_array_equal(found.held_out, wanted[1])
    assert found.levels == 256
    assert own.label(f"{tmp_path}/photos/") == own.label("a/photos.npz") == "photos"
    assert own.label("digits") == "digits"


def test_a_folder_for_each_class_gives_the_labels(tmp_path, pixels):
    for name, part in (("b cat", pixels[:5]), ("a dog", pixels[5:7]), ("c", pixels[7:])):
        _write(tmp_path / name, part)
    (tmp_path / "empty").mkdir()
    order = np.r_[5:7, 0:5, 7:12]
    classes = np.repeat([0, 1, 2], [2, 5, 5])
    found = own.read(str(tmp_path))
    np.testing.assert_array_equal(found["images"], pixels[order])
    np.testing.assert_array_equal(found["labels"], classes)
    images = data.load(str(tmp_path), held_out=0.25, seed=1)
    got = labels.load(str(tmp_path), images, held_out=0.25, seed=1)
    of = {image.tobytes(): label for image, label in zip(pixels[order], classes, strict=True)}
    assert [of[x.tobytes()] for x in _all(images)] == np.concatenate(got).tolist()


def test_gray_images_have_one_channel_unless_one_is_colored(tmp_path, pixels):
    gray = pixels[..., 0]
    _write(tmp_path / "gray", gray)
    np.testing.assert_array_equal(own.read(str(tmp_path / "gray"))["images"], gray[..., None])
    _write(tmp_path / "both", gray)
    _write(tmp_path / "both", pixels[:1])
    mixed = own.read(str(tmp_path / "both"))["images"]
    np.testing.assert_array_equal(mixed[0], pixels[0])
    np.testing.assert_array_equal(mixed[1:], np.repeat(gray[1:, ..., None], 3, -1))
    black_and_white = gray > 99
    _write(tmp_path / "bits", black_and_white)
    read = own.read(str(tmp_path / "bits"))["images"]
    np.testing.assert_array_equal(read[..., 0], 255 * black_and_white)


def test_a_jpeg_is_what_pillow_reads(tmp_path, pixels):
    smooth = np.kron(pixels, np.ones((1, 8, 8, 1), np.uint8))
    names = [f"{i:02}.jpg" for i in range(12)]
    _write(tmp_path, smooth, names)
    read = own.read(str(tmp_path))["images"]
    wanted = [np.asarray(Image.open(tmp_path / name)) for name in names]
    np.testing.assert_array_equal(read, wanted)
    assert np.abs(read.astype(int) - smooth).mean() < 40  # lossy, and the same images


def test_an_npy_file_is_an_array_of_images(tmp_path, pixels):
    np.save(tmp_path / "a.npy", pixels[..., 0])
    found = data.load(str(tmp_path / "a.npy"))
    assert found.train.shape[1:] == (4, 6, 1)
    np.testing.assert_array_equal(_sorted(_all(found)), _sorted(pixels[..., 0]))
    np.save(tmp_path / "a.npy", pixels / 255)
    with pytest.raises(ValueError, match=r'a.npy: "images" must be uint8, got float64: floats in'):
        data.load(str(tmp_path / "a.npy"))
    with pytest.raises(ValueError, match='"labels" is missing, and the classes of the images are'):
        labels.load(str(tmp_path / "a.npy"), found)


def test_npy_missing_damaged_or_hostile(tmp_path, pixels):
    path = tmp_path / "a.npy"
    with pytest.raises(FileNotFoundError, match=r"no file .*a\.npy: expected an \.npy file"):
        data.load(str(path))
    np.save(path, pixels)
    whole = path.read_bytes()
    claim = whole.replace(b"(12, 4, 6, 3)", b"(9999999999,)", 1)
    np.save(path, np.array([{}], object))
    pickled = path.read_bytes()
    for content in (b"", b"text", whole[:40], whole[:-1], claim, pickled):
        path.write_bytes(content)
        with pytest.raises(
            ValueError, match=r"a\.npy cannot be read as an \.npy file \(.+\): write"
        ):
            data.load(str(path))


def _wide(folder, x):
    return _write(folder, [x[0], x[1].transpose(1, 0, 2)])


def _transparent(folder, x):
    return _write(folder, [np.concatenate([x[0], x[0][..., :1]], -1)])


def _deep(folder, x):
    return _write(folder, [x[0, ..., 0].astype(np.uint16) * 257])


def _deep_colors(folder, x):
    """A PNG file of 16 bits for each color, which pillow reads as if it had 8."""
    _write(folder, [x[0]])
    height, width = x.shape[1:3]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in x[0] * np.uint16(257))
    parts = {
        b"IHDR": struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0),
        b"IDAT": zlib.compress(rows),
        b"IEND": b"",
    }
    whole = [
        struct.pack(">I", len(content))
        + name
        + content
        + struct.pack(">I", zlib.crc32(name + content))
        for name, content in parts.items()
    ]
    (folder / "00.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(whole))


def _broken(folder, x):
    _write(folder, x)
    file = folder / "03.png"
    file.write_bytes(file.read_bytes()[:60])


def _bomb(folder, x):
    _write(folder, x)
    file = folder / "03.png"
    content = file.read_bytes()  # the header claims 60,000 x 60,000 pixels
    file.write_bytes(content[:16] + struct.pack(">II", 60_000, 60_000) + content[24:])


def _both(folder, x):
    _write(folder, x)
    _write(folder / "cats", x)


BAD_FOLDERS = {
    "empty": (lambda folder, _: folder.mkdir(), r"holds no images: give a folder of \.png"),
    "both": (_both, "holds both images and folders of images"),
    "sizes": (_wide, r"00\.png has 6x4 pixels and .*01\.png 4x6: bring all to one size"),
    "transparent": (_transparent, r"00\.png is transparent: paste it on a background"),
    "16 bits": (
        _deep,
        r"00\.png has pixels of 16 bits, and 8 are wanted: .*np\.uint8\(pixels // 257",
    ),
    "16 bits of colors": (_deep_colors, r"00\.png has pixels of 16 bits, and 8 are wanted: where"),
    "broken": (_broken, r"03\.png cannot be read as an image \(.+\): remove it"),
    "bomb": (_bomb, r"03\.png cannot be read as an image \(.+\): remove it"),
}


@pytest.mark.parametrize("bad", BAD_FOLDERS)
def test_what_is_wrong_with_a_folder_is_said(tmp_path, pixels, bad):
    make, message = BAD_FOLDERS[bad]
    make(tmp_path / "photos", pixels)
    with pytest.raises(ValueError, match=message) as caught:
        data.load(str(tmp_path / "photos"))
    assert str(tmp_path / "photos") in str(caught.value)


def test_a_folder_without_classes_has_no_labels(tmp_path, pixels):
    place = str(_write(tmp_path / "photos", pixels))
    with pytest.raises(ValueError, match="put the images into one folder for each class"):
        labels.load(place, data.load(place))
