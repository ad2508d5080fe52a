"""The image experiments for a few steps: run folders, resuming, and their users' mistakes."""

import functools
import json
import re
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest

from experiments.images import data, objectives, training
from experiments.run import arrays, cli, loop, options
from experiments.uncertainty import maps, meanflow
from experiments.uncertainty._posterior import measures
from tests import slow
from tests.oracles import tiny

NAMES = sorted(tiny.EXPERIMENTS)
SLOW = pytest.param("meanflow", marks=pytest.mark.slow)
LONG = pytest.param("maps", marks=pytest.mark.long)  # with all its rivals it takes minutes
EVERY = ["small", SLOW, LONG]
TINY = {"small": tiny.SMALL, "maps": tiny.UNCERTAINTY, "meanflow": tiny.MEANFLOW}
FIGURES = {
    "meanflow": {"samples", "maps", "agreement", "calibration"},
    "small": {"samples", "uncertainty", "calibration", "generation", "exact"},
    "maps": {"samples", "uncertainty", "calibration", "generation", "exact", "rivals"},
}
# The networks of a run, in the order of their training.
PLACES = {"meanflow": (".", "flow"), "maps": (".", "ensemble/1"), "small": (".",)}


@pytest.fixture(scope="module", autouse=True)
def _few_programs():
    """Draws in few numbers of steps, each of which is a program of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(meanflow, "STEPS", (1, 4))
        yield


def _main(name, folder, **options):
    options = {"workdir": str(folder)} | options
    experiment = maps if name == "small" else tiny.EXPERIMENTS[name]
    experiment.main(tiny.replace(TINY[name], **options))


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Returns the run folder of a few steps on the digits, by the name of the run."""

    @functools.cache
    def folder(name):
        place = tmp_path_factory.mktemp(name) / "digits"
        _main(name, place)
        return place

    return folder


@pytest.mark.parametrize("name", EVERY)
def test_a_run_folder_holds_everything(runs, name):
    folder = runs(name)
    assert json.loads((folder / "config.json").read_text())["training"]["channels"] == [8]
    for place in PLACES[name]:
        lines = (folder / place / "metrics.jsonl").read_text().splitlines()
        lines = [json.loads(line) for line in lines]
        assert [line["step"] for line in lines] == [2, 4]
        assert all(np.isfinite(line["held_out_loss"]) for line in lines)
        assert (folder / place / "checkpoints" / "4").is_dir()
    tiny.check_pictures(folder / "figures", FIGURES[name])


@pytest.mark.parametrize(
    ("name", "network", "place"),
    [
        ("small", "flow", "."),
        pytest.param("maps", "flow", ".", marks=pytest.mark.long),
        pytest.param("maps", "ensemble/1", "ensemble/1", marks=pytest.mark.long),
        pytest.param("meanflow", "MeanFlow", ".", marks=pytest.mark.slow),
        pytest.param("meanflow", "flow", "flow", marks=pytest.mark.slow),
    ],
)
def test_a_run_gives_back_its_networks(runs, name, network, place):
    place = runs(name) / place
    found = tiny.loaded(runs(name), network, place, TINY[name])
    images = training.load(TINY[name].source, TINY[name].seed)[1]
    np.testing.assert_array_equal(found.data.held_out, images.held_out)
    velocity = lambda _, x, t: found.velocity(x, t)
    key = training.keys(TINY[name].seed)[0]
    loss = objectives.held_out_loss(velocity, images, key)(None, None)["held_out_loss"]
    last = json.loads((place / "metrics.jsonl").read_text().splitlines()[-1])
    np.testing.assert_allclose(loss, last["held_out_loss"], rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("small", "held_out"),
        pytest.param("maps", "held_out", marks=pytest.mark.long),
        pytest.param("meanflow", "flow", marks=pytest.mark.slow),
    ],
)
def test_the_arrays_of_a_run_are_those_of_its_numbers(runs, name, part):
    results, found = tiny.results(runs(name)), arrays.read(runs(name) / "arrays.npz")
    rows = results[part if name == "meanflow" else "uncertainty"]
    for row in rows:
        u, variance = (found[part][str(row["t"])][k] for k in ("uncertainty", "variance"))
        np.testing.assert_allclose(u, variance.sum(axis=(1, 2, 3)), rtol=1e-4)
        np.testing.assert_allclose(u.mean(), row["mean_uncertainty"], rtol=1e-5)
    drawn = found["samples"]
    if name == "small":
        assert drawn.shape == (4, 8, 8, 1)
        assert set(found) == {"samples", "generations", "held_out", "train", "exact"}
    elif name == "maps":
        assert {"generations", "train", "exact", "rivals"} <= set(found)
    else:
        steps = {"1", "4"}
        assert {name: set(of) for name, of in drawn.items()} == {"MeanFlow": steps, "flow": steps}


@pytest.mark.long
def test_the_results_of_maps(runs):
    results = tiny.results(runs("maps"))
    for part in ("uncertainty", "uncertainty_train", "edges"):
        assert [row["t"] for row in results[part]] == [0.3, 0.7]
    assert [row["num_images"] for row in results["edges"]] == [3, 3]
    assert set(results["exact"]) == {"widths", "train", "held_out"}
    assert np.isfinite(results["likelihood"]["bits_per_dim"])
    rows, costs = results["rivals"]["rows"], results["rivals"]["costs"]
    assert len(rows) == 2 * (len(costs) - 1) == 14  # seven methods at two times
    assert all(row["num_images"] == 4 and row["mean_score"] is not None for row in rows)


@pytest.mark.slow
def test_the_results_of_meanflow(runs):
    results = tiny.results(runs("meanflow"))
    drawn = [(row["model"], row["steps"]) for row in results["samples"]]
    both = [(model, steps) for model in ("MeanFlow", "flow") for steps in (1, 4)]
    assert drawn == [*both, ("held-out images", 0)]
    for part in ("MeanFlow", "flow", "agreement"):
        assert [row["t"] for row in results[part]] == [0.3, 0.7]
    assert results["one_step"]["num_samples"] == 3


@pytest.mark.parametrize("name", [SLOW, LONG])
def test_a_run_that_was_interrupted_ends_as_if_it_had_not_been(runs, name, tmp_path):
    again = tmp_path / "again"
    shutil.copytree(runs(name), again)
    # Stopped while its second network was in training.
    shutil.rmtree(again / PLACES[name][1] / "checkpoints" / "4")
    (again / "results.json").unlink()
    _main(name, again)
    assert tiny.results(again) == tiny.results(runs(name))


@pytest.mark.long
def test_a_field_that_is_not_finite_ends_in_one_line_and_loses_nothing(
    runs, tmp_path, monkeypatch, capsys
):
    again = tmp_path / "again"
    shutil.copytree(runs("maps"), again)
    before, measure = tiny.contents(again), measures.measure
    monkeypatch.setattr(
        measures, "measure", lambda *args: measure(*args) | {"error": jax.numpy.nan * args[-1]}
    )
    config = tiny.replace(TINY["maps"], workdir=str(again))
    with pytest.raises(SystemExit) as stopped:
        cli.run(lambda _: maps.main(config), maps.Config, args=[])
    assert stopped.value.code == 1
    line = capsys.readouterr().err.splitlines()[-1]
    assert "error: held-out, t = 0.3: 6 of 6 results are not finite" in line
    assert "The checkpoints are kept." in line
    assert tiny.contents(again) == before


@pytest.mark.parametrize("name", EVERY)
def test_another_configuration_is_refused_and_nothing_is_touched(runs, name):
    before = tiny.contents(runs(name))
    with pytest.raises(ValueError, match=r"other options: learning_rate .*--workdir"):
        _main(name, runs(name), learning_rate=1e-4)
    assert tiny.contents(runs(name)) == before


@pytest.mark.parametrize("name", [SLOW, LONG])
def test_the_same_networks_may_be_measured_anew(runs, name, tmp_path):
    again = tmp_path / "again"
    shutil.copytree(runs(name), again)
    _main(name, again, num_uncertainty=5)
    assert (again / "metrics.jsonl").read_bytes() == (runs(name) / "metrics.jsonl").read_bytes()
    assert json.loads((again / "config.json").read_text())["uncertainty"]["num_uncertainty"] == 5
    before, after = (tiny.results(folder) for folder in (runs(name), again))
    rows = "uncertainty" if name == "maps" else "flow"
    assert [row["num_images"] for row in after[rows]] == [5, 5]
    assert before[rows] != after[rows]


@pytest.mark.parametrize("name", EVERY)
def test_other_data_under_the_same_name_is_refused(runs, name, monkeypatch):
    other = data.load("digits")
    other.train[0, 0, 0] += 1
    monkeypatch.setattr(data, "load", lambda *_, **__: other)
    with pytest.raises(ValueError, match=r"other options: data .*crc32"):
        _main(name, runs(name))


def test_a_run_without_its_config_is_refused(runs, tmp_path):
    again = tmp_path / "again"
    shutil.copytree(runs("small"), again)
    (again / "config.json").unlink()
    with pytest.raises(ValueError, match=r"holds a run but no config\.json"):
        _main("small", again)
    assert not (again / "config.json").exists()


@pytest.mark.parametrize("name", NAMES)
def test_a_mistyped_option_does_not_lock_the_folder(name, tmp_path):
    with pytest.raises(ValueError, match="batch_size must lie between"):
        _main(name, tmp_path / "run", batch_size=5000)
    config = tiny.replace(TINY[name], workdir=str(tmp_path / "run"))
    folder = loop.open_run(config.workdir, config, data="anything")
    assert json.loads((folder / "config.json").read_text())["training"]["batch_size"] == 8


@pytest.mark.long
def test_the_networks_of_an_ensemble_differ_and_their_data_do_not(runs, monkeypatch):
    config = TINY["maps"]
    images = data.load("digits")
    _, networks = maps.train(
        config, images, runs("maps"), jax.random.key(0)
    )  # of a run that has ended: restored
    assert len(networks) == 2
    pairs = zip(*map(jax.tree.leaves, networks), strict=True)
    assert any(np.abs(a - b).max() > 0.01 for a, b in pairs)
    calls = []
    monkeypatch.setattr(
        training, "flow", lambda *args, seed, **_: (calls.append((args, seed)), (None, seed))[1]
    )
    config = tiny.replace(config, ensemble=3, seed=2**32 - 1)
    _, networks = maps.train(config, images, runs("maps"), "key")
    assert networks == [2**32 - 1, 999, 1999]
    assert all(args[:2] == (config.training, images) and args[3] == "key" for args, _ in calls)
    assert len({args[2] for args, _ in calls}) == 3
    for none in ({"num_rivals": 0}, {"ensemble": 0}):
        alone = tiny.replace(config, **none)
        assert len(maps.train(alone, images, runs("maps"), 0)[1]) == 1


@pytest.mark.slow
def test_a_users_own_images_in_color_and_of_odd_size(tmp_path, capsys):
    images = np.random.default_rng(0).integers(0, 256, (40, 5, 6, 3), dtype=np.uint8)
    np.savez(tmp_path / "mine.npz", images=images)
    options = {
        "dataset": str(tmp_path / "mine.npz"),
        "times": (0.5,),
        "num_uncertainty": 100,  # more than are held out: all 8 are measured
    }
    _main(
        "maps", tmp_path / "run", num_likelihood=0, num_rivals=0, num_samples=2,
        num_trajectories=2, **options,
    )  # fmt: skip
    out = capsys.readouterr().out
    assert str(tmp_path / "run") in out
    assert "E[error]/E[U]" in out
    assert "bits per dimension" not in out
    assert "other measures" not in out
    pictures = FIGURES["maps"] - {"rivals"}
    tiny.check_pictures(tmp_path / "run" / "figures", pictures)
    results = tiny.results(tmp_path / "run")
    assert results["uncertainty"][0]["num_images"] == 8


# The command line


@pytest.mark.slow
@slow.but_the_first("name", NAMES)
def test_the_help_names_every_option_with_its_default(name):
    help_text = subprocess.run(
        [sys.executable, "-m", f"experiments.uncertainty.{name}", "--help"],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    help_text = " ".join(help_text.replace("│", " ").split())  # out of its box
    config = tiny.EXPERIMENTS[name].Config
    for option in options.flat(config()):
        assert re.search(f"--{option.replace('_', '-')}[ ,]", help_text), option  # a switch has two
    assert f"(default: {config().training.num_steps})" in help_text


BOTH = [
    (["--dataset", "mist"], "unknown data set 'mist'"),
    (["--dataset", "nowhere.npz"], "nowhere.npz"),
    (["--dataset", "mnist", "--data-dir", "nowhere"], "nowhere"),
    (["--times", "0.0", "0.5"], "times must be distinct numbers between 0 and 1"),
    (["--times", "0.5", "0.5"], "times must be distinct numbers"),
    (["--learning-rate", "-1"], "learning_rate must be between"),
    (["--seed", "99999999999999999999"], "seed must be an integer from 0"),
    (["--held-out", "0.0001"], "at least 2 held-out images"),
    (["--workdir", __file__ + "/run"], "run"),
    (["--batch-size", "100000"], "batch_size must lie between"),
    (["--num-uncertainty", "0"], "num_uncertainty must be at least 2"),
]
UNCERTAINTY = [
    (["--tolerance", "nan"], "tolerance must be between"),
    (["--num-likelihood", "1"], "one image has no standard error"),
    (["--num-likelihood", "-1"], "num_likelihood must be at least 0"),
    (["--num-rivals", "1"], "one image has no correlation"),
    (["--ensemble", "1"], "one network does not differ from itself"),
    (["--dropout-passes", "1"], "dropout_passes must be at least 2"),
    (["--num-trajectories", "1"], "num_trajectories must be at least 2"),
]
MEANFLOW = [
    (["--num-samples", "1"], "num_samples must be at least 2"),
    (["--fraction-equal", "1.5"], "fraction_equal must be between 0 and 1"),
    (["--time-std", "0"], "time_std must be between"),
    (["--power", "-1"], "power must be between 0 and 2"),
    (["--renoisings", "0"], "renoisings must be at least 1"),
]


@pytest.mark.parametrize(
    ("experiment", "arguments", "words"),
    [(experiment, *case) for experiment in tiny.EXPERIMENTS.values() for case in BOTH]
    + [(maps, *case) for case in UNCERTAINTY]
    + [(meanflow, *case) for case in MEANFLOW],
)
def test_a_users_mistake_is_one_line(experiment, arguments, words, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        cli.run(experiment.main, experiment.Config, args=arguments)
    assert stopped.value.code == 1
    error = capsys.readouterr().err
    assert words in error
    assert "Traceback" not in error


@pytest.mark.long
def test_the_main_job_with_its_defaults(tmp_path):
    command = [sys.executable, "-m", "experiments.uncertainty.maps"]
    subprocess.run([*command, "--workdir", tmp_path / "run"], check=True, timeout=1800)
    results = tiny.results(tmp_path / "run")
    assert all(abs(row["ratio"] - 1) < 0.1 for row in results["uncertainty"])
    assert results["likelihood"]["bits_per_dim"] < 2.05
