"""A dry run: what it says of a training, and that it changes nothing."""

import dataclasses
import functools
import importlib
import re
import time

import jax
import numpy as np
import pytest

import fmjax
from experiments.run import checkpoints, cli, folder, lock, loop, rehearsal
from experiments.run.options import Place
from experiments.run.saved import Network
from tests.experiments.run import test_loop
from tests.experiments.run.test_loop import contents
from tests.oracles.tiny import replace


@dataclasses.dataclass(frozen=True)
class Config:
    """Options of a small run that trains two networks."""

    workdir: Place = None
    """Run folder."""
    dataset: str = "rows"
    """Name of the data."""
    num_steps: int = 10
    """Training steps."""
    helper: bool = False
    """Whether a helper is trained first."""


@dataclasses.dataclass(frozen=True)
class Helper:
    """Options of the helper."""

    size: int = 3


def main(config):
    place = loop.open_run(config.workdir, config, rows=len(test_loop.ROWS))
    if config.helper:
        own = loop.open_run(place / "helper", Helper())
        state = test_loop.fit(own, 5)
        assert np.isfinite(jax.device_get(state.params["w"])).all()
        lock.release(own)
    test_loop.fit(place, config.num_steps)
    test_loop.fit(place / "second", config.num_steps)
    folder.write_json(place / "results.json", {"ended": 1})
    print("ended")


def restore(config, place):
    read = functools.partial(checkpoints.averaged, place, test_loop.make_params(), config.num_steps)
    network = Network(lambda p, x, t: x, read, fmjax.paths.linear(), lambda: test_loop.ROWS)
    return {"first": network, "second": network}


def dry(place, capsys, *args):
    """What a dry run says, by the first word of its lines."""
    cli.run(main, Config, args=["--dry-run", "--workdir", str(place), *args])
    lines = capsys.readouterr().out.splitlines()
    assert "ended" not in lines
    return {line.split()[0]: line[11:] for line in lines}


def test_it_says_what_is_trained_and_writes_nothing(tmp_path, capsys):
    told = dry(tmp_path / "run", capsys)
    assert list(tmp_path.iterdir()) == []
    assert told["data"] == "rows, float32 [3]: 56 training examples"
    assert told["trainings"] == "2: first, second"
    assert told["network"] == "4 parameters"
    assert told["measured"] == str(tmp_path / "run")
    # Four float32 each, and for the optimizer Adam's two moments and its count.
    sizes = "16 bytes parameters, 16 bytes their average, 36 bytes the optimizer's state"
    assert sizes in told["memory"]
    assert re.match(r"[\d.]+ \w+: 10 steps of [\d.]+ m?s, 2 evaluations of ", told["time"])
    assert told["time"].endswith("for all 2 if each takes as long")


def test_the_time_is_the_one_that_the_steps_take(tmp_path, capsys, monkeypatch):
    evaluate = lambda params, key: time.sleep(0.05) or {}
    fit = functools.partial(test_loop.fit, evaluate=evaluate)
    monkeypatch.setattr(test_loop, "fit", fit)
    told = dry(tmp_path / "run", capsys, "--num-steps", "1000")["time"]
    number, each, unit = re.search(r"(\d+) evaluations of ([\d.]+) (\w+);", told).groups()
    assert (number, unit) == ("200", "ms")
    assert 50 <= float(each) < 100
    total, unit = re.match(r"([\d.]+) (\w+):", told).groups()
    assert unit == "s"
    assert 200 * 0.05 < float(total) < 40  # the steps take some milliseconds each


def test_a_run_that_is_there_stays_as_it_is(tmp_path, capsys):
    place = tmp_path / "run"
    cli.run(main, Config, args=["--workdir", str(place)])
    before = contents(place)
    capsys.readouterr()
    told = dry(place, capsys)
    assert told["measured"] == f"{place}, step 10 of 10 is saved there"
    assert told["time"].startswith("0 ms: 0 steps of ")
    assert contents(place) == before
    with pytest.raises(SystemExit) as left:
        dry(place, capsys, "--dataset", "others")
    assert left.value.code == 1
    assert "holds a run with other options: dataset" in capsys.readouterr().err
    assert contents(place) == before


def test_a_helper_is_told_and_the_run_goes_on_to_its_own_training(tmp_path, capsys):
    told = dry(tmp_path / "run", capsys, "--helper")
    assert told["helper"] == str(tmp_path / "run" / "helper")
    assert told["measured"] == str(tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_after_it_runs_write_again(tmp_path, capsys):
    dry(tmp_path / "run", capsys)
    assert not rehearsal.is_on()
    cli.run(main, Config, args=["--workdir", str(tmp_path / "run")])
    assert capsys.readouterr().out == "ended\n"
    assert (tmp_path / "run" / "results.json").exists()


def test_who_trains_nothing_has_no_such_option(capsys, monkeypatch):
    monkeypatch.delattr(importlib.import_module(__name__), "restore")
    with pytest.raises(SystemExit) as left:
        cli.run(main, Config, args=["--dry-run"])
    assert left.value.code == 2


def _told(module, config, capsys):
    with rehearsal.of(config, module.restore):
        module.main(config)
    lines = capsys.readouterr().out.splitlines()
    return {line.split()[0] for line in lines}


WANTED = {"folder", "trainings", "network", "memory", "time", "how"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("paper", "name"),
    [
        pytest.param("fdm", "ablations", marks=pytest.mark.long),
        ("fdm", "checkerboard"),
        ("fdm", "convergence"),
        ("fdm", "dna"),
        ("fdm", "mixture"),
        ("fdm", "trajectories"),
        ("fdm", "video"),
        pytest.param("closed_form", "learning", marks=pytest.mark.long),
        ("closed_form", "efm_toy"),
    ],
)
def test_experiments_are_told(paper, name, tmp_path, capsys):
    module = importlib.import_module(f"experiments.{paper}.{name}")
    tests = importlib.import_module(f"tests.experiments.{paper}.test_{name}")
    tiny = tests.CONFIG if name == "mixture" else tests.TINY
    config = dataclasses.replace(tiny, workdir=str(tmp_path / "run"))
    if name == "trajectories":  # which take long to simulate
        np.save(file := tmp_path / "x.npy", np.random.default_rng(0).normal(size=(200, 8, 1)))
        config = replace(config, system=str(file), num_train=100, num_test=100)
    before = list(tmp_path.iterdir())
    assert _told(module, config, capsys) > WANTED
    assert list(tmp_path.iterdir()) == before
