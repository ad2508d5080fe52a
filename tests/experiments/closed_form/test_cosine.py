"""The cosines of `experiments.closed_form.cosine` by hand and by brute force, and a tiny run."""

import dataclasses
import json
import math
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats
from sklearn.datasets import load_sample_images

import experiments.run
from experiments.closed_form import cosine as closed_form_cosine
from experiments.closed_form._cosine import measures, photographs
from experiments.images import data
from experiments.run import cli
from fmjax import collapse
from tests.oracles import tiny

CONFIG = tiny.config(
    closed_form_cosine.Config,
    num_pairs=6,
    num_times=6,
    sizes=(2, 4, 64),
    moons_points=40,
    eval_batch_size=8,
)
_of_pair = jax.jit(measures.of_pair)


def _time(bank, n):
    return collapse.collapse_time(measures.path, jnp.asarray(collapse.variances(bank)), n)


@pytest.mark.slow
def test_two_points_by_hand(x64):
    # At t = 1/2 the state of x0 = (0, 2) and x1 = (4, 0) is (2, 1). Its squared distances from
    # half of (4, 0) and of (0, 0) are 1 and 5, over 2 (1 - t)^2 = 1/2: the weights are
    # exp(-2) and exp(-10), so w = 1 / (1 + exp(-8)) and u = ((4 w, 0) - (2, 1)) / (1 / 2).
    bank = jnp.array([[4.0, 0.0], [0.0, 0.0]])
    w = 1 / (1 + math.exp(-8))
    u = np.array([8 * w - 4, -2])
    single = np.array([4, -2])
    found = _of_pair(bank, jnp.arange(2), jnp.array([0.0, 2.0]), 0, 0.5)
    expected = u @ single / math.sqrt((u @ u) * (single @ single))
    np.testing.assert_allclose(found, (expected, w), rtol=1e-12)


@pytest.mark.slow
def test_many_points_by_brute_force(x64):
    rng = np.random.default_rng(0)
    bank = rng.gamma(0.5, size=(30, 2, 2, 1)) - 0.3
    bank[[7, 21]] = bank[3]  # three copies
    groups = collapse.groups(bank)
    rows = bank.reshape(30, -1)
    for index, t in ((3, 0.05), (21, 0.5), (12, 0.85)):
        x0 = rng.normal(size=4)
        x = t * rows[index] + (1 - t) * x0
        logits = stats.norm.logpdf(x, t * rows, 1 - t).sum(axis=1)
        weights = special.softmax(logits)
        u = weights @ (rows - x) / (1 - t)
        single = rows[index] - x0
        expected = u @ single / np.linalg.norm(u) / np.linalg.norm(single)
        own = weights[(rows == rows[index]).all(axis=1)].sum()
        noise = jnp.asarray(x0.reshape(2, 2, 1))
        found = _of_pair(jnp.asarray(bank), jnp.asarray(groups), noise, index, t)
        np.testing.assert_allclose(found, (expected, own), rtol=1e-10)


def test_subsampled_images_are_pixels_of_the_large_ones():
    images = np.arange(2 * 6 * 9 * 3).reshape(2, 6, 9, 3)
    # Of six rows those at 1, 3, 5 and of nine columns those at 1, 4, 7 are mid-cell.
    np.testing.assert_array_equal(photographs.subsample(images, 3), images[:, 1::2, 1::3])
    np.testing.assert_array_equal(photographs.subsample(images, 1), images[:, 3:4, 4:5])
    square = images[:, :, :6]
    np.testing.assert_array_equal(photographs.subsample(square, 6), square)
    # 28 to 16 pixels: every one of another place, in order, symmetric up to half a pixel.
    line = photographs.subsample(np.arange(28 * 28).reshape(1, 28, 28, 1), 16)[0, 0, :, 0] % 28
    assert (np.diff(line) >= 1).all()
    assert line[0] + line[-1] in (27, 28)


def test_a_row_and_the_crossing_by_hand():
    cosines = np.array([-1.0, -0.05, 0.899, 0.95, 1.0])
    made = measures.row(0.3, cosines, np.array([0.0, 0.0, 0.5, 1.0, 1.0]))
    assert made["mean_cosine"] == pytest.approx(cosines.mean())
    assert made["standard_error"] == pytest.approx(stats.sem(cosines))
    assert made["share"] == 0.4
    assert made["mean_weight"] == 0.5
    bins = {0: 0.2, 9: 0.2, 18: 0.2, 19: 0.4}  # of width 0.1, the last with its upper edge
    assert made["frequencies"] == [bins.get(i, 0.0) for i in range(20)]
    times = np.array([0.1, 0.2, 0.4, 0.6])
    for weights, expected in (
        ([0.0, 0.25, 0.75, 0.9], 0.3),
        ([0.0, 0.5, 0.4, 0.9], 0.2),
        ([0.6, 0.7, 0.8, 0.9], 0.1),
        ([0.0, 0.1, 0.2, 0.3], None),
    ):
        found = measures.crossing(times, np.array(weights))
        assert found == (expected if expected is None else pytest.approx(expected))


@pytest.mark.slow
def test_gaussian_points_collapse_when_predicted_and_start_where_they_must():
    rng = np.random.default_rng(1)
    bank = np.float32(0.4 + np.linspace(0.2, 0.8, 400) * rng.normal(size=(600, 400)))
    times = np.linspace(0.0, 0.95, 20)
    found = measures.measure(
        bank, jax.random.key(0), times, num_pairs=64, size=128, label="Gaussian"
    )
    assert (found["dimension"], found["num_points"], found["num_pairs"]) == (400, 600, 64)
    assert found["predicted"] == pytest.approx(found["measured"], abs=0.03)
    assert 0.1 < found["predicted"] < 0.4
    start, *_, end = found["rows"]
    d, center = 400, bank.mean(axis=0)
    expected = np.sqrt((d + center @ center) / (d + (bank**2).sum(axis=1).mean()))
    assert start["mean_cosine"] == pytest.approx(expected, abs=0.01)
    assert end["mean_cosine"] > 0.9999
    assert end["share"] == end["frequencies"][-1] == 1.0
    means = [row["mean_weight"] for row in found["rows"]]
    assert start["mean_weight"] == pytest.approx(1 / 600, rel=1e-3)
    assert np.all(np.diff(means) > -1e-6)


@pytest.mark.slow
def test_a_data_set_that_holds_everything_twice_is_no_larger():
    bank = np.float32(np.random.default_rng(2).gamma(1.0, size=(300, 12)))
    times = np.linspace(0.1, 0.95, 8)
    options = {"num_pairs": 40, "size": 64, "label": "points"}
    once, twice = (
        measures.measure(points, jax.random.key(0), times, **options)
        for points in (bank, np.repeat(bank, 2, axis=0))
    )
    assert once["predicted"] == pytest.approx(float(_time(bank, 300)), rel=1e-4)
    assert once["predicted"] == pytest.approx(twice["predicted"], rel=1e-4)
    assert once["predicted"] < 0.99 * float(_time(bank, 600))
    for found in (once, twice):  # each of two copies has half the weight of the point
        assert found["rows"][-1]["mean_weight"] > 0.95
        assert found["measured"] == pytest.approx(once["predicted"], abs=0.1)


@pytest.mark.slow
def test_the_moons_are_enlarged_and_moved():
    asked = closed_form_cosine.Moons(moons_points=4000, moons_noise=0.1)
    points = closed_form_cosine.moons(asked, 0)
    assert points.shape == (4000, 2)
    assert points.dtype == np.float32
    gap = points.mean(axis=0) - (3 * np.array([0.5, 0.25]) - 1)
    assert np.all(np.abs(gap) < 5 * stats.sem(points))
    plain = closed_form_cosine.moons(
        dataclasses.replace(asked, moons_scale=1.0, moons_shift=0.0), 0
    )
    np.testing.assert_allclose(points, 3 * plain - 1, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_photographs_are_crops_in_their_places():
    crops = photographs.photographs(side=120, stride=100)
    pictures = np.float64(load_sample_images().images)
    assert crops.shape == (2 * 4 * 6, 120, 120, 3)
    assert crops.dtype == np.float32
    for index, (picture, row, column) in {0: (0, 0, 0), 8: (0, 1, 2), 47: (1, 3, 5)}.items():
        place = (slice(100 * row, 100 * row + 120), slice(100 * column, 100 * column + 120))
        wanted = (pictures[picture][place] + 0.5) / 128 - 1  # the centers of the bins
        np.testing.assert_allclose(crops[index], wanted, atol=1e-6)
    found = closed_form_cosine.load(CONFIG, "photographs")
    assert found.shape == (550, 256, 256, 3)


# A run of a few points.


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a run on moons, digits and a user's own images in color."""
    folder = tmp_path_factory.mktemp("cosine")
    images = np.random.default_rng(0).integers(0, 256, (30, 5, 6, 3), dtype=np.uint8)
    np.savez(folder / "mine.npz", images=images)
    datasets = ("moons", "digits", str(folder / "mine.npz"))
    closed_form_cosine.main(tiny.replace(CONFIG, datasets=datasets, workdir=str(folder / "run")))
    return folder / "run"


@pytest.mark.slow
def test_a_run_without_a_network_says_so(run):
    with pytest.raises(ValueError, match=r"which trains no velocity: read its results.json"):
        experiments.run.load(run)


def _again(run, folder, **options):
    """Runs once more in a copy of the folder and returns its results."""
    shutil.copytree(run, folder)
    options = {"datasets": ("moons", "digits", str(run.parent / "mine.npz"))} | options
    closed_form_cosine.main(tiny.replace(CONFIG, workdir=str(folder), **options))
    return tiny.results(folder)


@pytest.mark.slow
def test_a_run_folder_holds_everything(run):
    tiny.check_pictures(run / "figures", {"histograms", "means", "sizes"})
    results = tiny.results(run)
    sizes = {name: [entry["shape"] for entry in entries] for name, entries in results.items()}
    assert sizes == {
        "moons": [[2]],
        "digits": [[2, 2, 1], [4, 4, 1], [8, 8, 1]],
        "mine": [[2, 2, 3], [4, 4, 3], [5, 6, 3]],
    }
    labels = [entry["label"] for entries in results.values() for entry in entries]
    assert labels[0] == "moons"
    assert labels[-1] == "mine 5x6"
    assert results["digits"][0]["num_points"] == 1438
    assert results["mine"][0]["num_points"] == 24
    for entry in (entry for entries in results.values() for entry in entries):
        times = [row["t"] for row in entry["rows"]]
        np.testing.assert_allclose(times, np.linspace(0.01, 0.99, 6))  # of figure 1a
        assert [row["t"] for row in measures.pictured(entry)] == times
        for row in entry["rows"]:
            assert sum(row["frequencies"]) == pytest.approx(1.0)
            assert row["share"] == pytest.approx(row["frequencies"][-1])
            assert -1 <= row["mean_cosine"] <= 1


@pytest.mark.slow
def test_what_was_measured_is_not_measured_again(run, tmp_path, monkeypatch, capsys):
    results, measured = tiny.results(run), []
    measure = closed_form_cosine.measure

    def counted(asked, seed, name, bank):
        measured.append((name, bank[0].size))
        return measure(asked, seed, name, bank)

    monkeypatch.setattr(closed_form_cosine, "measure", counted)
    assert _again(run, tmp_path / "same") == results
    assert measured == []
    printed = capsys.readouterr().out
    assert len(printed.splitlines()) == 2 + 7 + 1
    assert " digits 8x8     64    1438" in printed
    # Another size is measured, the others are read; and one that is left out is not reported.
    other = _again(run, tmp_path / "other", datasets=("digits",), sizes=(3,))
    assert measured == [("digits", 9)]
    assert list(other) == ["digits"]
    assert other["digits"][1] == results["digits"][-1]


@pytest.mark.slow
def test_other_data_of_the_same_name_are_measured_anew(run, tmp_path, monkeypatch):
    other = data.load("digits")
    other.train[0, 0, 0] += 1  # a pixel that no smaller size has
    monkeypatch.setattr(data, "load", lambda *_, **__: other)
    before = tiny.results(run)["digits"]
    after = _again(run, tmp_path / "again", datasets=("digits",))["digits"]
    assert after[:2] == before[:2]
    assert after[2]["data"] != before[2]["data"]
    assert after[2]["dimension"] == 64


@pytest.mark.slow
def test_without_images_there_is_no_figure_of_sizes(tmp_path):
    closed_form_cosine.main(
        tiny.replace(CONFIG, datasets=("moons",), workdir=str(tmp_path / "run"))
    )
    tiny.check_pictures(tmp_path / "run" / "figures", {"histograms", "means"})


def test_a_users_own_points_are_measured_as_they_are(tmp_path):
    random = np.random.default_rng(0)
    points = np.float32(random.gamma(2.0, 1.0, (30, 3)))
    np.save(tmp_path / "cloud.npy", points)
    config = tiny.replace(CONFIG, datasets=(str(tmp_path / "cloud.npy"),))
    bank = closed_form_cosine.load(config, config.datasets[0])
    np.testing.assert_array_equal(bank, points)
    assert [whole.shape for whole in closed_form_cosine.sized(bank, (4,))] == [(30, 3)]
    closed_form_cosine.main(tiny.replace(config, workdir=str(tmp_path / "run")))
    (entry,) = tiny.results(tmp_path / "run")["cloud"]
    assert (entry["label"], entry["dimension"], entry["num_points"]) == ("cloud", 3, 30)


@pytest.mark.slow
def test_another_configuration_is_refused(run):
    before = tiny.contents(run)
    with pytest.raises(ValueError, match=r"other options: num_pairs .*--workdir"):
        closed_form_cosine.main(tiny.replace(CONFIG, workdir=str(run), num_pairs=7))
    assert tiny.contents(run) == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--datasets", "mist"], "unknown data set 'mist'"),
        (["--datasets", "digits", "mnist", "--data-dir", "nowhere"], "nowhere"),
        (["--datasets", "moons", "moons"], "datasets must be one or more of different names"),
        (["--datasets", "moons", "a/moons.npz"], "different names"),
        (["--num-times", "50"], "num_times must be one more than a multiple of 5, got 50"),
        (["--num-times", "1"], "num_times must be at least 6"),
        (["--num-pairs", "1"], "num_pairs must be at least 2"),
        (["--sizes", "8", "0"], "sizes must be different positive numbers"),
        (["--sizes", "8", "8"], "sizes must be different positive numbers"),
        (["--moons-noise", "0"], "noise must be finite and at least 0.01"),
        (["--moons-scale", "nan"], "moons_scale must be between"),
        (["--workdir", __file__ + "/run"], "run"),
    ],
)
def test_a_users_mistake_is_one_line(arguments, words, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        cli.run(closed_form_cosine.main, closed_form_cosine.Config, args=arguments)
    assert stopped.value.code == 1
    error = capsys.readouterr().err
    assert words in error
    assert "Traceback" not in error
    assert not list(tmp_path.rglob("evaluation.json"))


@pytest.mark.slow
def test_json_of_a_run_is_strict(run):
    def refuse(constant):
        raise AssertionError(constant)

    json.loads((run / "results.json").read_text(), parse_constant=refuse)
