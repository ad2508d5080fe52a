"""Options in parts: their flags, their names, their checks, and a run folder that records them."""

import dataclasses
import json
import math

import pytest

from experiments.run import cli, folder, options
from experiments.run.options import Free, Place


@dataclasses.dataclass(frozen=True)
class Source:
    """The data."""

    dataset: str = "digits"
    """Name of a data set."""
    data_dir: Place = None
    """Folder of prepared data sets."""


@dataclasses.dataclass(frozen=True)
class Measures:
    """What is measured."""

    num_samples: int = 8
    """Samples."""
    times: tuple[float, ...] = (0.3, 0.7)
    """Times in (0, 1)."""

    def check(self):
        """Raises ValueError for times or numbers out of bounds."""
        options.check_times(self.times)
        options.check_bounds(self, {"num_samples": (2, math.inf)})


@dataclasses.dataclass(frozen=True)
class Config:
    """The options."""

    source: Source = Source()
    measures: Free[Measures] = Measures(num_samples=9)
    seed: int = 0
    """Seed."""
    seeds: Free[tuple[int, ...]] = (0,)
    """Seeds."""
    workdir: Place = None
    """Run folder."""


FLAT = {
    "dataset": "digits",
    "data_dir": None,
    "num_samples": 9,
    "times": (0.3, 0.7),
    "seed": 0,
    "seeds": (0,),
    "workdir": None,
}


def test_options_are_listed_by_their_names_alone():
    assert options.flat(Config()) == FLAT
    assert options.flat(dataclasses.asdict(Config())) == FLAT
    assert list(options.flat(Config())) == list(FLAT)


def test_the_types_say_on_which_options_no_training_depends():
    assert options.free(Config()) == {"data_dir", "num_samples", "times", "seeds", "workdir"}
    assert options.places(Config()) == {"data_dir", "workdir"}
    assert options.fixed(Config()) == {"dataset": "digits", "seed": 0}
    assert options.free(Source()) == {"data_dir"}
    assert options.fixed(Measures()) == {"num_samples": 8, "times": (0.3, 0.7)}


def test_options_of_parts_keep_their_flags(capsys):
    received = []
    arguments = ["--dataset", "mnist", "--times", "0.5", "--seed", "3", "--data-dir", "there"]
    cli.run(lambda config: received.append(config), Config, args=arguments)
    source, measures = Source("mnist", "there"), Measures(9, (0.5,))
    assert received == [Config(source, measures, seed=3)]
    with pytest.raises(SystemExit):
        cli.run(lambda config: received.append(config), Config, args=["--help"])
    text = " ".join(capsys.readouterr().out.replace("│", " ").split())  # out of its boxes
    for name, value in FLAT.items():
        shown = " ".join(map(str, value)) if isinstance(value, tuple) else value
        assert f"--{name.replace('_', '-')} " in text
        assert f"(default: {shown})" in text
    assert "source options" in text
    assert "The data." in text


@pytest.mark.parametrize(
    ("measures", "words"),
    [
        (Measures(num_samples=1), "num_samples must be at least 2, got 1"),
        (Measures(times=(0.5, 0.5)), "times must be distinct numbers"),
    ],
)
def test_every_part_is_checked(measures, words):
    options.check_parts(Config())
    with pytest.raises(ValueError, match=words):
        options.check_parts(Config(measures=measures))


def test_bounds_refuse_nan_and_name_the_greatest_value():
    with pytest.raises(ValueError, match="seed must be between 1 and 5, got 0"):
        options.check_bounds(Config(), {"seed": (1, 5)})
    with pytest.raises(ValueError, match="num_samples must be at least 0, got nan"):
        options.check_bounds(Measures(num_samples=math.nan), {"num_samples": (0, math.inf)})


def _recorded(path):
    return folder.read_json(path / "config.json")


def test_a_run_folder_records_the_parts_and_names_options_without_them(tmp_path):
    folder.open_folder(tmp_path, Config(), data="crc32 1")
    (tmp_path / "metrics.jsonl").write_text("")
    assert _recorded(tmp_path) == {
        "source": {"dataset": "digits", "data_dir": None},
        "measures": {"num_samples": 9, "times": [0.3, 0.7]},
        "seed": 0,
        "seeds": [0],
        "workdir": None,
        "data": "crc32 1",
    }
    before = (tmp_path / "config.json").read_bytes()
    words = r'options: dataset \("digits" there, "mnist" now\), seed \(0 there, 1 now\); give'
    with pytest.raises(ValueError, match=words):
        folder.open_folder(tmp_path, Config(source=Source("mnist"), seed=1), data="crc32 1")
    assert (tmp_path / "config.json").read_bytes() == before


def test_what_no_training_depends_on_may_change_and_is_recorded(tmp_path):
    folder.open_folder(tmp_path, Config())
    (tmp_path / "metrics.jsonl").write_text("")
    before = (tmp_path / "config.json").read_bytes()
    folder.open_folder(tmp_path, Config(source=Source(data_dir="there"), workdir="elsewhere"))
    assert (tmp_path / "config.json").read_bytes() == before  # a place is recorded once
    folder.open_folder(tmp_path, Config(measures=Measures(times=(0.5,)), seeds=(1, 2)))
    after = _recorded(tmp_path)
    assert after["measures"] == {"num_samples": 8, "times": [0.5]}
    assert after["seeds"] == [1, 2]


def test_a_run_whose_options_were_recorded_without_parts_is_compared_and_continued(tmp_path):
    old = json.dumps(FLAT)  # as the versions before wrote it, of the same run
    (tmp_path / "config.json").write_text(old)
    (tmp_path / "metrics.jsonl").write_text("")
    words = r'options: dataset \("digits" there, "mnist" now\); give another'
    with pytest.raises(ValueError, match=words) as caught:
        folder.open_folder(tmp_path, Config(source=Source("mnist")))
    assert "\n" not in str(caught.value)
    assert (tmp_path / "config.json").read_text() == old
    folder.open_folder(tmp_path, Config())
    assert _recorded(tmp_path)["source"] == {"dataset": "digits", "data_dir": None}


def test_a_run_with_options_that_are_no_more_is_refused(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(FLAT | {"momentum": 0.9}))
    (tmp_path / "metrics.jsonl").write_text("")
    words = r'options: momentum \(0\.9 there, "absent" now\); give another'
    with pytest.raises(ValueError, match=words):
        folder.open_folder(tmp_path, Config())


def test_options_come_back_from_what_json_holds_of_them():
    config = Config(Source("mnist"), Measures(times=(0.5,)), seed=3, seeds=(1, 2), workdir="a")
    held = json.loads(json.dumps(dataclasses.asdict(config)))
    assert options.build(Config, held) == config
    held["measures"]["sizes"] = [1]
    with pytest.raises(ValueError, match="it has sizes, unknown here"):
        options.build(Config, held)
    del held["measures"]["sizes"], held["measures"]["times"]
    with pytest.raises(ValueError, match="it lacks times"):
        options.build(Config, held)
    for name, value in (("seed", "3"), ("seed", 3.0), ("seed", True), ("seeds", 3), ("workdir", 1)):
        with pytest.raises(ValueError, match=f"^{name}: {value!r} is no "):
            options.build(
                Config, json.loads(json.dumps(dataclasses.asdict(config))) | {name: value}
            )
    with pytest.raises(ValueError, match=r"^measures: \[3\] is no Measures"):
        options.build(
            Config, json.loads(json.dumps(dataclasses.asdict(config))) | {"measures": [3]}
        )
