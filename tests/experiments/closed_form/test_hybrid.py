"""Flows that change from the exact field to a learned one: by hand, and a tiny run."""

import json
import shutil

import jax
import numpy as np
import pytest
from scipy import special

from experiments.closed_form import hybrid
from experiments.closed_form._generalization import measures, pictures
from experiments.images import features, objectives, training
from experiments.run import arrays, cli
from experiments.run import pictures as run_pictures
from tests.oracles import tiny

TINY = tiny.config(
    hybrid.Config,
    embedding_steps=2,
    channels=(8,),
    batch_size=8,
    num_steps=4,
    save_every=2,
    taus=(0.0, 0.4, 0.7, 1.0),
    num_noises=5,
    solver_steps=6,
    eval_batch_size=4,
)
RNG = np.random.default_rng(0)
POINTS = np.float32(RNG.normal(size=(4, 3, 2, 1)) + 0.3)


def _exact(x, t):
    logits = -np.sum((x[None] - t * POINTS) ** 2, axis=(1, 2, 3)) / (2 * (1 - t) ** 2)
    return (np.tensordot(special.softmax(logits), POINTS, 1) - x) / (1 - t)


def _learned(x, t):
    return 0.7 * x[::-1] + t


def _by_hand(x, tau, steps):
    """Returns the sample by Euler's method in NumPy."""
    for field, start, stop in ((_exact, 0.0, tau), (_learned, tau, 1.0)):
        h = (stop - start) / steps
        for k in range(steps) if h else ():
            x = x + h * field(x, start + k * h)
    return x


@pytest.fixture(scope="module")
def samples():
    """Samples of a network that is a linear field, and their noise."""
    noise = jax.random.normal(jax.random.key(2), (5, 3, 2, 1))
    apply = lambda params, x, t: params * x[::-1] + t
    asked = tiny.replace(TINY.measures, solver_steps=30)
    return hybrid.generate_all(apply, 0.7, POINTS, noise, asked), np.asarray(noise)


@pytest.mark.slow
def test_samples_by_hand(samples):
    drawn, noise = samples
    assert drawn.shape == (4, 5, 3, 2, 1)
    for tau, some in zip(TINY.measures.taus, drawn, strict=True):
        wanted = [_by_hand(x, tau, 30) for x in noise]
        np.testing.assert_allclose(some, wanted, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_with_tau_1_every_sample_is_a_training_point_and_with_0_none_is(samples):
    drawn, _ = samples
    space = measures.distances(drawn, POINTS, POINTS[:2] + 1, hybrid.pixels)
    assert space["distance"].shape == (4, 5)
    assert space["distance"][-1].max() < 1e-5
    assert space["distance"][0].min() > 0.5
    assert space["memorized"][-1] == space["decided"][-1] == 1.0
    every = np.linalg.norm((drawn[:, :, None] - POINTS[None, None]).reshape(4, 5, 4, -1), axis=-1)
    np.testing.assert_allclose(space["distance"], every.min(axis=-1), rtol=1e-5, atol=1e-6)
    nearest = every.argmin(axis=-1)
    np.testing.assert_allclose(space["decided"], (nearest == nearest[-1:]).mean(axis=1))
    apart = np.linalg.norm((POINTS[:2, None] + 1 - POINTS[None]).reshape(2, 4, -1), axis=-1)
    assert space["held_out"] == pytest.approx(apart.min(axis=1).mean(), rel=1e-5)
    # In a space where only the first row counts.
    top = measures.distances(drawn, POINTS, POINTS[:2] + 1, lambda x: 2 * x[:, 0])
    gaps = (drawn[:, :, None, 0] - POINTS[None, None, :, 0]).reshape(4, 5, 4, -1)
    wanted = 2 * np.linalg.norm(gaps, axis=-1).min(axis=-1)
    np.testing.assert_allclose(top["distance"], wanted, rtol=1e-4, atol=1e-5)


def test_four_noises_from_near_to_far():
    distance = np.stack([RNG.permutation(16).astype(float), np.zeros(16)])
    np.testing.assert_array_equal(distance[0][hybrid.followed(distance)], [2.0, 6.0, 10.0, 14.0])
    few = hybrid.followed(np.array([[3.0, 1.0, 2.0, 0.0]]))
    np.testing.assert_array_equal(few, [3, 1, 2, 0])


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hybrid") / "run"
    hybrid.main(tiny.replace(TINY, workdir=str(folder)))
    return folder


@pytest.mark.slow
def test_the_run_gives_back_its_network(run):
    found = tiny.loaded(run, None, run, TINY)
    images = training.load(TINY.source, TINY.seed)[1]
    np.testing.assert_array_equal(found.data.train, images.train)
    kept = arrays.read(run / "arrays.npz")
    assert kept["images"].shape == (len(TINY.measures.taus), 4, 8, 8, 1)  # four noises are followed
    velocity = lambda _, x, t: found.velocity(x, t)
    key = training.keys(TINY.seed)[0]
    loss = objectives.held_out_loss(velocity, images, key, place=training.at_centers)(None, None)
    last = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    np.testing.assert_allclose(loss["held_out_loss"], last["held_out_loss"], rtol=1e-5)


@pytest.mark.slow
def test_a_run_leaves_numbers_and_a_figure(run):
    results = json.loads((run / "results.json").read_text())
    assert results["taus"] == [0.0, 0.4, 0.7, 1.0]
    assert 0.3 < results["collapse_time"] < 0.7
    assert list(results["spaces"]) == ["pixels", "classifier features"]
    for space in results["spaces"].values():
        assert len(space["distance"]) == len(space["standard_error"]) == 4
        assert space["distance"][0] > space["distance"][-1]
    space = results["spaces"]["pixels"]
    assert space["distance"][0] > space["held_out"] > space["distance"][-1]
    tiny.check_pictures(run / "figures", {"hybrid"})
    lines = (run / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [2, 4]


@pytest.mark.long
def test_an_interrupted_run_ends_as_if_it_had_not_been(run, tmp_path, capsys):
    again = tmp_path / "again"
    shutil.copytree(run, again)
    (again / "results.json").unlink()
    shutil.rmtree(again / "checkpoints" / "4")
    hybrid.main(tiny.replace(TINY, workdir=str(again)))
    assert (again / "results.json").read_bytes() == (run / "results.json").read_bytes()
    out = capsys.readouterr().out
    assert " 0.40   " in out
    assert "collapse of the posterior predicted at t = 0." in out


@pytest.mark.slow
def test_features_of_ones_own_take_the_place_of_a_classifiers(run, tmp_path):
    again = tmp_path / "again"
    shutil.copytree(run, again)
    doubled = features.Embedding(lambda x: 2 * np.asarray(x), "doubled pixels")
    hybrid.main(tiny.replace(TINY, workdir=str(again)), features=doubled)
    results = json.loads((again / "results.json").read_text())
    assert list(results["spaces"]) == ["pixels", "doubled pixels"]
    assert (results["space"], results["held_out_accuracy"]) == ("doubled pixels", None)
    one, two = (np.array(space["distance"]) for space in results["spaces"].values())
    np.testing.assert_allclose(two, 2 * one, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_the_figure_of_two_spaces_shows_means_noises_and_images(tmp_path):
    taus, shape = np.array([0.0, 0.25, 0.5, 1.0]), (4, 4, 6, 5, 3)
    space = {"distance": np.arange(4.0), "standard_error": np.full(4, 0.1), "held_out": 1.5}
    results = {"taus": taus, "collapse_time": 0.4, "spaces": {"pixels": space, "features": space}}
    four = RNG.uniform(size=(4, 4))
    arrays = {
        "images": RNG.uniform(-1, 1, shape),
        "distances": {"pixels": four, "features": 2 * four},
    }
    with run_pictures.style():
        figure = pictures.hybrid(results, arrays, dataset="noise")
        run_pictures.save(tmp_path / "figures", {"hybrid": figure})
    tiny.check_pictures(tmp_path / "figures", {"hybrid"})
    strips, panels = figure.axes[:4], figure.axes[4:]
    assert len(panels) == 2
    for ax, factor in zip(panels, (1, 2), strict=True):
        curves = [line.get_ydata() for line in ax.lines if len(line.get_xdata()) == 4]
        for noise in range(4):
            assert any(np.array_equal(factor * four[:, noise], curve) for curve in curves)
        assert any(np.array_equal(space["distance"], curve) for curve in curves)
    for ax in strips:
        centers = [np.mean(image.get_extent()[:2]) for image in ax.images]
        np.testing.assert_allclose(centers, taus, atol=1e-12)
        # As wide as high, pixel by pixel, in inches.
        box = ax.get_position()
        width, height = figure.get_size_inches()
        wide = box.width * width / (ax.get_xlim()[1] - ax.get_xlim()[0]) * 0.25 / 5
        assert wide == pytest.approx(box.height * height / 6, rel=1e-6)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--taus", "0.0", "0.5"], "taus must increase from 0 to 1"),
        (["--taus", "0.0", "nan", "1.0"], "taus must increase"),
        (["--taus", "0.0", "0.999999999", "1.0"], "taus must increase"),
        (["--batch-size", "12"], "batch_size 12 does not divide by the 8 devices"),
        (["--taus", "0.0", "1.0"], "at least one between them"),
        (["--taus", "0.0", "0.5", "0.5", "1.0"], "taus must increase"),
        (["--num-noises", "3"], "num_noises must be at least 4"),
        (["--embedding-dir", "there", "--embedding-steps", "0"], "leave one of them out"),
        (["--solver-steps", "0"], "solver_steps must be at least 1"),
        (["--held-out", "0.0001"], "at least 2 held-out images"),
        (["--workdir", __file__ + "/run"], "cannot write the run folder"),
    ],
)
def test_a_users_mistake_is_one_line(arguments, words, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        cli.run(hybrid.main, hybrid.Config, args=arguments)
    assert stopped.value.code == 1
    assert words in capsys.readouterr().err
