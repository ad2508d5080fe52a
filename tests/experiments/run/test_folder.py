"""What a run keeps of its measurements and reads back of its metrics."""

import dataclasses
import json
import math

import numpy as np
import pytest

from experiments.run import checkpoints, folder, paths, saved
from tests.experiments.run import test_loop


def test_a_measurement_is_made_once_and_anew_with_other_options(tmp_path):
    file, made = tmp_path / "n_3" / "evaluation.json", []

    def make():
        made.append(None)
        return {"gaps": np.array([0.5, 0.25]), "late": None, "count": np.int64(len(made))}

    options = {"times": (0.25, 0.75), "num_samples": 6}
    first = folder.remembered(file, options, make)
    assert first == {"gaps": [0.5, 0.25], "late": None, "count": 1}  # lists, also the first time
    assert folder.remembered(file, dict(reversed(options.items())), make) == first
    assert folder.remembered(file, options | {"num_samples": 7}, make)["count"] == 2
    assert folder.remembered(file, options, make)["count"] == 3
    # A file of an older layout is none of these options.
    file.write_text(json.dumps({"gaps": [1.0]}))
    assert folder.remembered(file, options, make)["count"] == 4
    assert len(made) == 4


def test_a_measurement_that_is_not_finite_is_not_kept(tmp_path):
    file = tmp_path / "evaluation.json"
    for wrong in ({"a": [1.0, {"b": math.inf}]}, {"a": np.array([math.nan]), "name": "fm"}):
        with pytest.raises(ArithmeticError, match=r"a, to be kept in .*, is not finite"):
            folder.remembered(file, {}, lambda wrong=wrong: wrong)
    assert not file.exists()


def test_a_damaged_measurement_is_named(tmp_path):
    file = tmp_path / "evaluation.json"
    for content in ('{"options"', "[1]", ""):
        file.write_text(content)
        with pytest.raises(ValueError, match=r"evaluation.json is damaged .*move it away"):
            folder.remembered(file, {}, dict)
        assert file.read_text() == content


def test_every_flipped_bit_of_a_file_is_noticed_or_changes_nothing(tmp_path):
    file, rng = tmp_path / "evaluation.json", np.random.default_rng(0)
    made = {"gaps": [0.5, 0.25], "shape": {"n": 12, "name": "crc32 0123abcd"}, "late": None}
    folder.write_json(file, made)
    content, noticed = file.read_bytes(), 0
    for place in range(len(content)):
        flipped = bytearray(content)
        flipped[place] ^= 1 << rng.integers(8)
        file.write_bytes(flipped)
        try:
            found = folder.read_json(file)
        except ValueError:
            noticed += 1
        else:
            assert found == made
    # A space of the indentation that becomes a tab, say, changes nothing.
    assert noticed > 0.6 * len(content)


def test_metrics_are_the_lines_with_a_number(tmp_path):
    lines = [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0, "frechet": 0.5}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert folder.read_metrics(tmp_path) == lines
    assert folder.read_metrics(tmp_path, "frechet") == lines[1:]


def test_metrics_that_are_not_there_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"metrics.jsonl, the record of .*: restore it"):
        folder.read_metrics(tmp_path)
    first, second = '{"step": 1, "loss": 0.5}\n', '{"step": 2, "loss": 0.25}\n'
    for content, words in (
        (first + '{"st', "line 2 is damaged (it is cut off)"),
        (second + first, "line 2 is damaged (a step after 2 is wanted, got 1)"),
    ):
        (tmp_path / "metrics.jsonl").write_text(content)
        with pytest.raises(ValueError, match="missing or damaged") as caught:
            folder.read_metrics(tmp_path)
        assert words in str(caught.value)


@dataclasses.dataclass(frozen=True)
class _Config:
    sizes: tuple[int, ...] = (1, 2, 3)
    a: int = 0
    b: int = 0
    c: int = 0
    d: int = 0
    e: int = 0


def test_a_folder_of_many_other_options_names_some(tmp_path):
    folder.open_folder(tmp_path, _Config())
    (tmp_path / "metrics.jsonl").write_text("")
    words = r"other options: sizes \(\[1, 2, 3\] there, \[4\] now\), a .* and 2 more; give another"
    with pytest.raises(ValueError, match=words):
        folder.open_folder(tmp_path, _Config((4,), 1, 1, 1, 1, 1))


def test_facts_of_another_run_are_named(tmp_path):
    folder.open_folder(tmp_path, _Config(), data="crc32 1", sizes=(2, 3))
    folder.check_facts(tmp_path, data="crc32 1", sizes=(2, 3))
    words = r"other data \(crc32 1 there, crc32 2 now\): restore the data of that run"
    with pytest.raises(ValueError, match=words):
        folder.check_facts(tmp_path, sizes=(2, 3), data="crc32 2")


# Names that a shell allows.


@pytest.mark.parametrize(
    "name",
    [
        "a b'\"#%&{}$!;|<>`]~,=@:+^()",
        "-x",
        "ü/日本/🙂",
        "n" * 255,
        "x.orbax-checkpoint-tmp-1/default",
    ],
)
def test_a_run_is_found_again_in_a_folder_of_any_name(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    place = folder.open_folder(name, _Config())
    assert str(place) == f"{tmp_path}/{name}"
    state = test_loop.fit(place, 5)
    assert test_loop.saved_steps(tmp_path / name) == [5]
    with pytest.raises(ValueError, match="holds a run with other options"):
        folder.open_folder(name, _Config(a=1))
    found = checkpoints.averaged(place, state.ema_params, 5)
    test_loop.assert_same_bits(found, state.ema_params)


@pytest.mark.parametrize(
    ("name", "named"),
    [
        ("lr[0.1]", "'['"),
        ("lr*", "'*'"),
        ("lr?", "'?'"),
        ("a\\b", r"'\\'"),
        ("a\nb", r"'\n'"),
        ("\udcff", r"'\udcff'"),
        ("gs:", "'gs:'"),
        ("gs:/a", "'gs:'"),
    ],
)
def test_a_name_that_orbax_cannot_find_again_is_refused(tmp_path, name, named):
    words = f"would lose its checkpoints, because of {named}: give a path without"
    for use in (
        lambda path: folder.open_folder(path, _Config()),
        lambda path: test_loop.fit(path, 5),
        lambda path: checkpoints.averaged(path, {}, 5),
        saved.load,
    ):
        with pytest.raises(ValueError, match="^a run in ") as caught:
            use(str(tmp_path / name / "run"))
        assert words in str(caught.value)
        assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_bucket_of_an_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="no folders are known that begin with 'gz://'"):
        paths.absolute("gz://bucket/run")
    assert str(paths.absolute("gs://bucket/run")) == "gs://bucket/run"


def test_paths_are_in_full(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/me")
    got = [str(paths.absolute(path)) for path in ("a/../b/", "~/c", "~no user", "//d//e")]
    assert got == [f"{tmp_path}/b", "/home/me/c", f"{tmp_path}/~no user", "/d/e"]
