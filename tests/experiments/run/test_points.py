"""A user's own points: files of numbers are read as they are, anything else is one error."""

import re

import numpy as np
import pytest

from experiments.run import points

ROWS = np.array([[1.5, -2.0], [0.25, 1e-3], [3.0, 4.0], [5.0, 6.0]])


def _npy(x):
    return lambda path: np.save(path, x)


def _text(text):
    return lambda path: path.write_text(text)


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("x.npy", _npy(ROWS)),
        ("x.npy", _npy(np.asfortranarray(np.float16(ROWS)))),
        ("x.csv", lambda path: np.savetxt(path, ROWS, delimiter=",")),
        ("x.csv", _text("x, y\n1.5,-2\n0.25,1e-3\n3,4\n5,6\n")),
        ("x.csv", _text("# x, y\n 1.5 , -2\n\n0.25,0.001\n3,4\n5,6")),
        (
            "x.csv",
            lambda path: path.write_bytes(b"\xef\xbb\xbf1.5,-2\r\n.25,.001\r\n3,4\n5,6\n"),
        ),
    ],
)
def test_numbers_come_as_they_are(tmp_path, name, write):
    write(tmp_path / name)
    found = points.read(str(tmp_path / name), "[n, 2]", trailing=2)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, ROWS, rtol=1e-3)
    assert points.label(str(tmp_path / name)) == "x"
    assert points.holds(str(tmp_path / name))


def test_trajectories_of_a_table_have_one_channel(tmp_path):
    np.savetxt(tmp_path / "x.csv", ROWS, delimiter=",")
    found = points.read(str(tmp_path / "x.csv"), "[n, length, channels]")
    np.testing.assert_array_equal(found, np.float32(ROWS)[..., None])
    np.save(tmp_path / "x.npy", np.arange(24).reshape(2, 4, 3))
    found = points.read(str(tmp_path / "x.npy"), "[n, length, channels]")
    np.testing.assert_array_equal(found, np.arange(24.0).reshape(2, 4, 3))


def test_the_home_folder_is_found(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    np.save(tmp_path / "x.npy", ROWS)
    assert points.holds("~/x.npy")
    assert points.read("~/x.npy", "[n, d]").shape == (4, 2)


@pytest.mark.parametrize(
    ("name", "write", "words"),
    [
        ("x.npy", lambda path: None, "no file .*x.npy: an .npy or .csv file of numbers [n, 2] is"),
        ("x.npy", _npy(ROWS[0]), "has shape [2], and [n, 2] is wanted: one example in each row."),
        ("x.npy", _npy(np.zeros((4, 3))), "has shape [4, 3], and [n, 2] is wanted"),
        ("x.npy", _npy(np.zeros((0, 2))), "has shape [0, 2], and [n, 2] is wanted"),
        ("x.npy", _npy(np.array([["a", "b"]])), "holds <U1, and numbers are wanted: write floats."),
        ("x.npy", _npy(ROWS > 0), "holds bool, and numbers are wanted"),
        ("x.npy", _npy(ROWS * 1j), "holds complex128, and numbers are wanted"),
        ("x.npy", _npy(np.array([[1, None]], object)), "cannot be read as numbers (.*np.save("),
        ("x.npy", _text("1,2"), "cannot be read as numbers (.*write it again with np.save(path"),
        ("x.npy", _npy([[1, 2], [3, np.inf], [np.nan, 1]]), "has 2 .*of them example 1: remove or"),
        ("x.npy", _npy([[1e300, 2]]), "has 1 examples with numbers that are not finite in float32"),
        ("x.csv", _text(""), "cannot be read as numbers (it holds no numbers): write it again"),
        ("x.csv", _text("x,y\n"), "cannot be read as numbers (it holds no numbers)"),
        ("x.csv", _text("1,2\n3\n"), "cannot be read as numbers (the number of columns changed"),
        ("x.csv", _text("1;2\n3;4\n"), "cannot be read as numbers (could not convert string"),
        ("x.csv", _text("1,2\n3,four\n"), "'four' to float64"),
        ("x.csv", lambda path: path.write_bytes(b"\xff\xfe1,2"), "cannot be read as numbers"),
        ("x.csv", lambda path: path.mkdir(), "no file .*x.csv"),
    ],
)
def test_anything_else_is_one_error_that_names_the_file(tmp_path, name, write, words):
    write(tmp_path / name)
    with pytest.raises((ValueError, OSError)) as caught:
        points.read(str(tmp_path / name), "[n, 2]", trailing=2)
    said = str(caught.value)
    assert re.search(re.escape(words).replace(r"\.\*", ".*"), said), said
    assert str(tmp_path / name) in said
    assert "\n" not in said


def test_images_are_told_from_points(tmp_path):
    np.save(tmp_path / "images.npy", np.zeros((3, 4, 4), np.uint8))
    (tmp_path / "broken.npy").write_text("")
    for name in ("images.npy", "broken.npy", "none.npy", "a.npz", "digits"):
        assert not points.holds(str(tmp_path / name))


def test_parts_have_nothing_in_common_and_are_those_of_the_seed():
    rows = np.arange(10.0)[:, None]
    first, second = points.split("x.npy", rows, {"--num-train": 6, "--num-test": 4}, 3)
    assert (len(first), len(second)) == (6, 4)
    assert sorted(np.concatenate([first, second]).ravel()) == list(range(10))
    again = points.split("x.npy", rows, {"--num-train": 6, "--num-test": 2}, 3)
    np.testing.assert_array_equal(again[0], first)
    assert not np.array_equal(points.split("x.npy", rows, {"a": 6}, 4)[0], first)
    words = "x.npy holds 10 examples, too few for --num-train 7 and --num-test 4, which have none"
    with pytest.raises(ValueError, match=words):
        points.split("x.npy", rows, {"--num-train": 7, "--num-test": 4}, 3)
