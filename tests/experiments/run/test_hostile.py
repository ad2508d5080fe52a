"""Files and run folders of somebody else: each is read as what it says, or refused in one line."""

import dataclasses
import json
import os
import sys
import zipfile

import numpy as np
import pytest

from experiments.images import data
from experiments.run import arrays, checksums, folder, lines, records, saved


def _array(shape="(20, 4, 4)", header=None):
    """The bytes of an array of bytes, which claims any shape."""
    header = header or f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}}}"
    size = len(header).to_bytes(4, "little")
    return b"\x93NUMPY\x02\x00" + size + header.encode() + bytes(20 * 4 * 4)


def _zip(path, **how):
    """Makes a zip archive from the names and contents of its files."""
    members = how.pop("members", {"images.npy": _array()})
    with zipfile.ZipFile(path, "w", **how) as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def _objects(path):
    np.savez(path, images=np.array([{}, 1], object))


def _changed(path, old, new, **how):
    _zip(path, **how)
    path.write_bytes(path.read_bytes().replace(old, new))


_ARCHIVES = {
    "Object arrays cannot be loaded": _objects,
    "'images' is no array": lambda path: _zip(path, members={"images": b"text"}),
    "Unable to allocate|EOF": lambda path: _zip(
        path, members={"images.npy": _array(f"({10**12},)")}
    ),
    "Python int too large": lambda path: _zip(path, members={"images.npy": _array(f"({10**30},)")}),
    "negative dimensions": lambda path: _zip(path, members={"images.npy": _array("(-5,)")}),
    "Header info length": lambda path: _zip(path, members={"a.npy": _array(header=" " * 20000)}),
    "[Mm]emory|recursion|nested|parse": lambda path: _zip(
        path, members={"a.npy": _array(header="-" * 9000 + "1")}
    ),
    "not a zip file": lambda path: path.write_bytes(_array()),
    "That compression method": lambda path: _changed(path, b"\x08\x00", b"\x63\x00", compression=8),
    "Is a directory": lambda path: path.mkdir(),
}


@pytest.mark.parametrize("words", _ARCHIVES)
def test_an_archive_of_anything_else_is_refused_in_one_line(tmp_path, words):
    path = tmp_path / "it.npz"
    _ARCHIVES[words](path)
    for read in (arrays.read, lambda path: data.load(str(path))):
        with pytest.raises(ValueError, match=words) as caught:
            read(path)
        assert str(caught.value).startswith(str(path))
        assert "\n" not in str(caught.value)


def test_an_archive_larger_than_the_memory_is_refused_unread(tmp_path):
    path, claimed = tmp_path / "it.npz", 10**15
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("images.npy", _array())
        archive.filelist[0].file_size = claimed  # in the directory at its end
    with pytest.raises(ValueError, match=r"its arrays are 1e\+06 GB, and this machine has .* GB"):
        data.load(str(path))


def test_names_that_lead_elsewhere_are_names_only(tmp_path):
    names = ("../../up.npy", f"{tmp_path}/full.npy")
    _zip(tmp_path / "it.npz", members=dict.fromkeys(names, _array()))
    found = arrays.read(tmp_path / "it.npz")
    assert found[".."][".."]["up"].shape == (20, 4, 4)
    assert os.listdir(tmp_path) == ["it.npz"]
    assert not (tmp_path.parent.parent / "up.npy").exists()
    _zip(tmp_path / "it.npz", members={"a.npy": _array(), "a/b.npy": _array()})
    with pytest.raises(ValueError, match="two arrays are named a/b, or one in the other"):
        arrays.read(tmp_path / "it.npz")


_RECORDS = {
    b"\xff\x00 text": "utf|Expecting|codec",
    b'{"a": ' + b"[" * 100000: "recursion|nested|deep",
    b'{"a": ' + b"[" * 60 + b"]" * 60 + b"}": "nested more than 50 deep",
    b'{"a": [NaN]}': "not finite",
    b'{"a": 1e999}': "not finite",
    b'{"a": ' + b"9" * 30 + b"}": "more than 64 bits",
    b'{"a": ' + b"9" * 5000 + b"}": "Exceeds the limit",
    b"3": "holds no names",
}


@pytest.mark.parametrize("content", _RECORDS, ids=_RECORDS.values())
def test_a_record_of_anything_else_is_refused_in_one_line(tmp_path, content):
    (tmp_path / "config.json").write_bytes(content)
    (tmp_path / "metrics.jsonl").write_bytes(content + b"\n")
    with pytest.raises(ValueError, match="config.json is damaged") as caught:
        folder.open_folder(tmp_path, _Config())
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match=_RECORDS[content]):
        records.read(tmp_path / "config.json")
    assert "line 1 is damaged" in lines.read(tmp_path / "metrics.jsonl").damage


def test_a_metric_that_is_no_number_is_named(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 1.0}\n{"step": 2, "loss": "x"}\n')
    assert len(folder.read_metrics(tmp_path)) == 2
    with pytest.raises(ValueError, match=r"damaged \(its loss of step 2 is no number\)"):
        folder.read_metrics(tmp_path, "loss")


# Run folders.


@dataclasses.dataclass(frozen=True)
class _Config:
    num_steps: int = 3


def _run(tmp_path):
    place = tmp_path / "run"
    folder.open_folder(place, _Config())
    (place / "metrics.jsonl").write_text("")
    folder.lock.release_all()
    return place


def _signed(file, **entries):
    """Changes entries of a record, which agrees with its checksum then."""
    record = {name: v for name, v in json.loads(file.read_text()).items() if name != "checksum"}
    file.write_text(json.dumps(checksums.signed(record | entries)))


@pytest.mark.parametrize(
    "name", [".writable", "writer.json", "config.json", "metrics.jsonl", "checkpoints", "a/figures"]
)
def test_nothing_is_written_through_a_link_out_of_the_run_folder(tmp_path, name):
    place, outside = _run(tmp_path), tmp_path / "outside"
    outside.write_bytes(b"precious")
    (place / name).parent.mkdir(exist_ok=True)
    (place / name).unlink(missing_ok=True)
    (place / name).symlink_to(outside)
    with pytest.raises(ValueError, match=r"is a link out of its run folder, to '.*outside'"):
        folder.open_folder(place, _Config())
    assert outside.read_bytes() == b"precious"
    (place / name).unlink()
    (place / name).symlink_to(place / "provenance.json")  # what stays inside is the user's affair
    folder.paths.check_own(place)


def test_a_run_folder_may_be_a_link_itself_and_holds_no_pipes(tmp_path):
    (tmp_path / "link").symlink_to(_run(tmp_path))
    folder.open_folder(tmp_path / "link", _Config())
    os.mkfifo(tmp_path / "link" / "evaluation.json")
    with pytest.raises(ValueError, match=r"evaluation.json' is no file and no folder"):
        folder.open_folder(tmp_path / "link", _Config())


@pytest.mark.parametrize(
    "name", ["hostile", ".hostile", "../hostile", "experiments.fdm.hostile", "a\nb"]
)
def test_a_folder_imports_nothing_but_experiments(tmp_path, monkeypatch, name):
    (tmp_path / "hostile.py").write_text("raise SystemExit('this code has run')\n")
    monkeypatch.syspath_prepend(tmp_path)
    place = _run(tmp_path)
    _signed(place / "provenance.json", module=name)
    with pytest.raises(
        ValueError, match=r"which this version does not have: a module that"
    ) as caught:
        saved.load(place)
    assert "\n" not in str(caught.value)
    assert "hostile" not in sys.modules


@pytest.mark.parametrize("entries", [{"module": 3}, {"facts": "abc"}, {"sessions": {"a": 1}}])
def test_an_entry_of_another_kind_is_named(tmp_path, entries):
    place, (name,) = _run(tmp_path), entries
    _signed(place / "provenance.json", module="experiments.fdm.mixture")
    _signed(place / "provenance.json", **entries)
    with pytest.raises(ValueError, match=rf"provenance.json is damaged \(its {name} is no "):
        saved.load(place) if name != "sessions" else folder.open_folder(place, _Config())


def test_a_file_that_is_a_folder_is_named(tmp_path):
    place = _run(tmp_path)
    (place / "config.json").unlink()
    (place / "config.json").mkdir()
    with pytest.raises(ValueError, match=r"config.json is damaged \(it is no file\)"):
        folder.open_folder(place, _Config())
