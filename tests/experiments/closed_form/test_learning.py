"""Networks of few images against their exact field: what is measured of one, and a tiny run."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

import experiments.run
import fmjax
from experiments.closed_form import learning
from experiments.closed_form._generalization import pictures
from experiments.images import data
from experiments.images.features import Embedding
from experiments.run import arrays, cli
from experiments.run import pictures as run_pictures
from tests.oracles import tiny

TINY = tiny.config(
    learning.Config,
    sizes=(3, 0),
    embedding_steps=2,
    channels=(8,),
    batch_size=8,
    num_steps=4,
    save_every=2,
    times=(0.3, 0.8),
    num_samples=6,
    solver_steps=4,
    eval_batch_size=4,
)
RNG = np.random.default_rng(0)


def _exact(points, x, t):
    """The velocity of the points at one state, in NumPy."""
    logits = -np.sum((x[None] - t * points) ** 2, axis=(1, 2, 3)) / (2 * (1 - t) ** 2)
    return (np.tensordot(special.softmax(logits), points, 1) - x) / (1 - t)


@pytest.mark.slow
def test_what_is_measured_of_a_network_by_hand():
    points = RNG.normal(size=(3, 2, 2, 1)).astype(np.float32)
    apply = lambda params, x, t: 2 * params * t * x
    asked = tiny.replace(TINY.measures, solver_steps=200, times=(0.3, 0.9))
    found = learning.run_network(apply, 0.6, points, asked, jax.random.key(1))
    x0 = np.asarray(jax.random.normal(jax.random.key(1), (6, 2, 2, 1)))
    for i, noise in enumerate(x0):
        for j, t in enumerate((0.0, 0.3, 0.9)):
            states = {
                "on_path": t * points[i % 3] + (1 - t) * noise,
                "along_flow": noise * np.exp(0.6 * t**2),
            }
            for name, x in states.items():
                wanted = np.mean((1.2 * t * x - _exact(points, x, t)) ** 2)
                assert found[name][i, j] == pytest.approx(wanted, rel=2e-3, abs=1e-5)
        np.testing.assert_allclose(found["sample"][i], noise * np.exp(0.6), rtol=1e-3)
    table = learning.gaps(found, asked.times)
    assert table["times"] == [0.0, 0.3, 0.9]
    np.testing.assert_allclose(table["on_path"], found["on_path"].mean(axis=0), rtol=1e-6)
    errors = np.std(np.float64(found["along_flow"]), axis=0, ddof=1) / 6**0.5
    np.testing.assert_allclose(table["along_flow_standard_error"], errors, rtol=1e-6)


@pytest.mark.slow
def test_the_exact_field_is_at_no_distance_from_itself():
    points = RNG.normal(size=(3, 2, 2, 1)).astype(np.float32)
    path, bank = learning.path, jnp.asarray(points)
    exact = lambda x, t: fmjax.empirical.velocity(path, bank, x, jnp.minimum(t, 0.95))
    found = learning.run_network(
        lambda params, x, t: exact(x, t), 0.0, points, TINY.measures, jax.random.key(1)
    )
    assert max(found["on_path"].max(), found["along_flow"].max()) < 1e-8


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("learning") / "run"
    learning.main(tiny.replace(TINY, workdir=str(folder)))
    return folder


@pytest.mark.slow
def test_the_run_gives_back_its_networks(run):
    with pytest.raises(ValueError, match=r"2 networks, got name None: give one of 'n_3', 'n_1438'"):
        experiments.run.load(run)
    few = tiny.loaded(run, "n_3", run / "n_3", TINY)
    all_of_them = tiny.loaded(run, "n_1438", run / "n_1438", TINY)
    np.testing.assert_array_equal(few.data.train, all_of_them.data.train[:3])
    kept = arrays.read(run / "arrays.npz")["n_3"]
    assert kept["samples"].shape == (6, 8, 8, 1)
    assert set(kept["nearest"].tolist()) <= {0, 1, 2}
    x = jnp.full((8, 8, 1), 0.3)
    assert float(jnp.abs(few.velocity(x, 0.5) - all_of_them.velocity(x, 0.5)).max()) > 1e-6


@pytest.mark.slow
def test_a_run_leaves_numbers_and_figures(run):
    networks = json.loads((run / "results.json").read_text())["networks"]
    assert [network["n"] for network in networks] == [3, 1438]
    for network in networks:
        assert network["gaps"]["times"] == [0.0, 0.3, 0.8]
        assert all(0 < gap < 1e4 for gap in network["gaps"]["along_flow"])
        assert 0 < network["collapse_time"] < 1
        lines = (run / f"n_{network['n']}" / "metrics.jsonl").read_text().splitlines()
        assert [json.loads(line)["step"] for line in lines] == [2, 4]
    assert networks[0]["collapse_time"] < networks[1]["collapse_time"]
    tiny.check_pictures(run / "figures", {"learning", "samples"})


@pytest.mark.long
def test_an_interrupted_run_ends_as_if_it_had_not_been(run, tmp_path, capsys):
    again = tmp_path / "again"
    shutil.copytree(run, again)
    (again / "results.json").unlink()
    shutil.rmtree(again / "n_1438" / "checkpoints" / "4")
    (again / "n_1438" / "evaluation.json").unlink()
    before = (again / "n_3" / "evaluation.json").stat().st_mtime_ns  # is read back
    learning.main(tiny.replace(TINY, workdir=str(again)))
    assert (again / "n_3" / "evaluation.json").stat().st_mtime_ns == before
    assert (again / "results.json").read_bytes() == (run / "results.json").read_bytes()
    out = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in out[3:5]] == ["3", "1438"]
    with pytest.raises(ValueError, match=r"other options: num_steps"):
        learning.main(tiny.replace(TINY, workdir=str(again), num_steps=5))


@pytest.mark.slow
def test_the_panels_show_what_they_say(run):
    images = data.load("digits")
    networks = json.loads((run / "results.json").read_text())["networks"]
    kept = [json.loads((run / f"n_{n}" / "evaluation.json").read_text()) for n in (3, 1438)]
    rows = [row | {"shown": whole["shown"]} for row, whole in zip(networks, kept, strict=True)]
    with run_pictures.style():
        figure = pictures.learning(rows, images, dataset="digits")["learning"]
    path, flow, quality_panel, novelty = figure.axes
    for ax, name in ((path, "on_path"), (flow, "along_flow")):
        drawn = [line.get_ydata() for line in ax.lines if len(line.get_xdata()) == 3]
        np.testing.assert_array_equal(drawn, [row["gaps"][name] for row in rows])
    assert quality_panel.get_ylabel() == "Fréchet distance in classifier features"
    drawn = {line.get_label(): list(line.get_ydata()) for line in quality_panel.lines}
    wanted = [row["frechet_held_out"] for row in rows]
    assert drawn["samples to held-out images"] == wanted
    drawn = {line.get_label(): list(line.get_ydata()) for line in novelty.lines}
    assert drawn["held-out images"] == [row["distance_of_held_out"] for row in rows]


@pytest.mark.long
def test_distances_in_another_space_are_measured_anew_without_labels(run, tmp_path):
    again = tmp_path / "again"
    shutil.copytree(run, again)
    config = tiny.replace(TINY, workdir=str(again), embedding_steps=0)
    found = {"classifier features": tiny.results(run)["networks"]}
    # On the digits the components are all the pixels, turned and moved: the same distances.
    pixels = Embedding(lambda x: np.asarray(x).reshape(len(x), -1), "raw pixels")
    for name, features in (("principal components", None), ("raw pixels", pixels)):
        learning.main(config, features=features)
        found[name] = tiny.results(again)["networks"]
    for first, *others in zip(*found.values(), strict=True):
        assert [row["space"] for row in (first, *others)] == list(found)
        assert all(row["gaps"] == first["gaps"] for row in others)
        distances = [row["frechet_held_out"] for row in (first, *others)]
        assert distances[1] == pytest.approx(distances[2], rel=1e-3)
        assert distances[0] != pytest.approx(distances[1], rel=0.1)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--sizes", "10", "10"], "sizes must be different numbers from 2 to 1438"),
        (["--sizes", "1438", "0"], "sizes must be different"),
        (["--sizes", "1"], "sizes must be different numbers from 2"),
        (["--sizes", "2000"], "got (2000,)"),
        (["--times", "0.5", "0.2"], "times must increase"),
        (["--times", "0.5", "1.0"], "times must be distinct numbers between 0 and 1"),
        (["--num-samples", "1"], "num_samples must be at least 2"),
        (["--batch-size", "0"], "batch_size must be at least 1"),
        (["--workdir", __file__ + "/run"], "cannot write the run folder"),
    ],
)
def test_a_users_mistake_is_one_line(arguments, words, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        cli.run(learning.main, learning.Config, args=arguments)
    assert stopped.value.code == 1
    assert words in capsys.readouterr().err
