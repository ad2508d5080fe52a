"""`experiments.closed_form.dimension`: laws and measures by brute force, and a tiny run."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats

import fmjax
from experiments.closed_form import dimension
from experiments.closed_form._dimension import laws, measures, tables
from experiments.run import arrays, cli
from tests.oracles import tiny

TINY = tiny.config(
    dimension.Config,
    channels=(8,),
    batch_size=8,
    num_steps=4,
    save_every=2,
    times=(0.3, 0.8),
    num_draws=30,
    num_points=5,
    num_images=9,
    num_spectra=3,
    eval_batch_size=8,
)
RNG = np.random.default_rng(0)
BANK = RNG.gamma(1.5, size=(12, 3)) - 0.4


def _posterior(bank, x, t):
    """The mean and the covariance of the noise at a state, by the weights of all points."""
    weights = special.softmax(-np.sum((x - t * bank) ** 2, axis=1) / (2 * (1 - t) ** 2))
    noise = (x - t * bank) / (1 - t)
    mean = weights @ noise
    return mean, (weights[:, None] * (noise - mean)).T @ (noise - mean), weights


def test_dimension_spectrum_and_points_held_of_a_bank_by_brute_force(x64):
    points, times, given = BANK[:4] + 0.05, (0.4, 0.7), {"size": 4, "label": "bank"}
    field = measures.of_bank(BANK)
    found = measures.dimensions(field, points, times, **given)
    spectra = measures.spectra(field, points, times, **given)
    held = measures.effective_numbers(BANK, points, times, **given)
    assert found.shape == held.shape == (2, 4)
    for i, t in enumerate(np.float64(np.float32(times))):
        for k, point in enumerate(points):
            mean, covariance, weights = _posterior(BANK, t * point, t)
            expected = np.trace(covariance) + mean @ mean
            assert found[i, k] == pytest.approx(expected, rel=1e-6)
            eigenvalues = np.linalg.eigvalsh(covariance)[::-1]
            np.testing.assert_allclose(spectra[i, k], eigenvalues, rtol=1e-4, atol=1e-6)
            assert held[i, k] == pytest.approx(1 / np.sum(weights**2), rel=1e-6)
            assert measures.directions(spectra)[i, k] == np.sum(eigenvalues > 0.5)


def test_the_velocity_of_the_sphere_is_that_of_points_spread_over_it(x64):
    law = laws.laws(3)["sphere"]
    # A spiral whose points have equal areas: sums over it are integrals over the sphere.
    k = np.arange(4000) + 0.5
    height, angle = 1 - k / 2000, np.pi * (1 + 5**0.5) * k
    around = np.sqrt(1 - height**2)
    even = np.stack([around * np.cos(angle), around * np.sin(angle), height], 1)
    bank = jnp.asarray(laws.RADIUS * even @ np.asarray(law.params).T)
    x, t = jnp.asarray(np.random.default_rng(1).normal(size=10)), 0.6  # inside, and off the plane
    exact = fmjax.empirical.velocity(laws.path, bank, x, t)
    np.testing.assert_allclose(law.apply(law.params, x, t), exact, atol=1e-4)


@pytest.mark.parametrize("name", ["gaussian", "sphere"])
def test_the_dimension_of_a_law_is_a_closed_form(name, x64):
    law = laws.laws(5)[name]
    points, times = np.float64(law.draw(RNG, 6)), (0.5, 0.8, 0.99)
    field = measures.Field(law.apply, law.params)
    found = measures.dimensions(field, points, times, size=6, label=name)
    t = np.float64(np.float32(times))[:, None, None]
    if name == "gaussian":
        total = t**2 * laws.SCALES**2 + (1 - t) ** 2
        along = (points @ np.asarray(law.params))[None]
        terms = t**2 * laws.SCALES**2 / total + ((1 - t) * t * along / total) ** 2
        expected = terms.sum(axis=-1)
    else:  # of the law of von Mises and Fisher, a ratio of Bessel functions of orders 3/2 and 1/2
        k = (t[..., 0] / (1 - t[..., 0]) * laws.RADIUS) ** 2
        expected = 2 * k * (1 - special.ive(1.5, k) / special.ive(0.5, k)) + np.zeros((1, 6))
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert found[-1] == pytest.approx(law.dimension, abs=2e-3)


def test_draws_lie_on_their_manifold_and_fill_it():
    found = {name: (law, law.draw(RNG, 2000)) for name, law in laws.laws(0).items()}
    for law, points in found.values():
        columns = np.asarray(law.params)
        assert points.shape == (2000, laws.AMBIENT)
        assert points.dtype == np.float32
        np.testing.assert_allclose(columns.T @ columns, np.eye(3), atol=1e-6)
        np.testing.assert_allclose(points @ columns @ columns.T, points, atol=1e-5)
    law, points = found["gaussian"]
    deviations = (points @ np.asarray(law.params)).std(axis=0)
    np.testing.assert_allclose(deviations, laws.SCALES, rtol=5 / (2 * 2000) ** 0.5)
    law, points = found["sphere"]
    np.testing.assert_allclose(np.linalg.norm(points, axis=1), laws.RADIUS, rtol=1e-5)
    assert np.all(np.abs(points.mean(axis=0)) < 5 * stats.sem(points) + 1e-6)


def test_rows_classes_and_the_least_noise_by_hand():
    values = np.array([[1.0, 3.0, 5.0, 8.0], [2.0, 2.0, 4.0, 4.0]])
    held = np.array([[30.0, 10.0, 30.0, 30.0], [1.0, 1.0, 1.0, 1.0]])
    rows = measures.rows({"bank": values, "points_held": held}, (0.2, 0.5))
    assert [row["noise"] for row in rows] == pytest.approx([4.0, 1.0])
    assert rows[0]["bank"]["mean"] == 4.25
    assert rows[0]["bank"]["standard_error"] == pytest.approx(stats.sem(values[0]))
    assert measures.meaningful(rows) == pytest.approx(4.0)
    assert measures.meaningful(rows[1:]) is None
    labels = np.array([7, 2, 2, 7])
    found = measures.by_class(values, labels)
    assert [(row["label"], row["count"]) for row in found] == [(2, 2), (7, 2)]
    assert [at["mean"] for at in found[0]["dimensions"]] == [4.0, 3.0]
    assert found[1]["dimensions"][0]["standard_error"] == pytest.approx(stats.sem([1.0, 8.0]))
    assert measures.by_class(values, np.array([0, 1, 2, 3])) == []  # no class has two images
    images = {"rows": rows, "title": "two", "classes": {"network": found, "bank": found}}
    assert tables.classes_at(images) == (1, 0)
    assert measures.agreement(found, found, 0, 1) is None  # of two classes
    three = [
        {"label": k, "dimensions": [{"mean": m}, {"mean": -m}]} for k, m in enumerate((5, 1, 2))
    ]
    assert measures.agreement(three, three[::-1], 0, 0) == pytest.approx(1)
    assert measures.agreement(three, three, 0, 1) == pytest.approx(-1)


# A run of a few steps, on images of one's own.


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    one_class = np.zeros(50, int)  # nothing to rank
    return tiny.images_file(tmp_path_factory, 50, labels=one_class)


@pytest.fixture(scope="module")
def run(tmp_path_factory, images):
    folder = tmp_path_factory.mktemp("dimension") / "run"
    dimension.main(tiny.replace(TINY, workdir=str(folder), dataset=images))
    return folder


@pytest.mark.slow
def test_a_run_leaves_numbers_and_figures(run):
    results = json.loads((run / "results.json").read_text())
    results.pop("checksum")
    assert list(results) == ["gaussian", "sphere", "images"]
    assert [results[name]["ambient"] for name in results] == [10, 10, 16]
    assert [results[name]["num_bank"] for name in results] == [30, 30, 40]
    assert results["images"]["title"] == "mine"
    tiny.check_pictures(run / "figures", {"noises", "classes", "spectra"})
    kept = arrays.read(run / "arrays.npz")
    for name, found in results.items():
        smooth = "network" if name == "images" else "law"
        spectrum = kept[name][f"spectrum_of_{smooth}"]
        assert spectrum.shape == (2, 3, found["ambient"])
        for i, row in enumerate(found["rows"]):
            for column in (smooth, "bank", "bank_at_new"):
                assert row[column]["mean"] == pytest.approx(kept[name][column][i].mean(), rel=1e-5)
        # The mean number of noise that the field expects adds to the trace, and is not negative.
        few = kept[name][smooth][:, :3]
        assert np.all(few > spectrum.sum(axis=-1) - 1e-4)


@pytest.mark.slow
def test_the_run_gives_back_its_network_and_the_same_dimensions(run, images):
    found = tiny.loaded(run, None, run, tiny.replace(TINY, dataset=images))
    kept = arrays.read(run / "arrays.npz")["images"]
    many = jax.vmap(lambda x: fmjax.posterior.dimension(found.velocity, found.path, x, 0.8))
    again = jax.jit(many)(kept["images"])
    np.testing.assert_allclose(kept["network"][1], again, rtol=1e-4)
    assert len(kept["classes"]) == 9


@pytest.mark.slow
def test_a_run_again_gives_the_same_and_measures_may_change(run, images, tmp_path, capsys):
    again = tmp_path / "again"
    shutil.copytree(run, again)
    (again / "results.json").unlink()
    config = tiny.replace(TINY, workdir=str(again), dataset=images)
    dimension.main(config)
    assert (again / "results.json").read_bytes() == (run / "results.json").read_bytes()
    out = capsys.readouterr().out
    assert "Gaussian of rank 3, dimension 3, in 10 dimensions, n = 30" in out
    assert "mine by class: network at t = 0.8 (noise 0.25), bank at t = 0.3 (noise 2.33)" in out
    assert "its bank holds 20 points " in out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--times", "0.5", "0.4"], "times must increase"),
        (["--times", "0.5", "1.0"], "times must be distinct numbers between 0 and 1"),
        (["--num-draws", "1"], "num_draws must be at least 2"),
        (["--num-points", "1"], "num_points must be at least 2"),
        (["--num-images", "0"], "num_images must be at least 2"),
        (["--num-spectra", "1"], "num_spectra must be at least 2"),
        (["--eval-batch-size", "0"], "eval_batch_size must be at least 1"),
        (["--num-steps", "0"], "num_steps must be at least 1"),
        (["--dataset", "nothing"], "unknown data set 'nothing'"),
        (["--batch-size", "12"], "batch_size 12 does not divide by the 8 devices"),
        (["--workdir", __file__ + "/run"], "cannot write the run folder"),
    ],
)
def test_a_users_mistake_is_one_line(arguments, words, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        cli.run(dimension.main, dimension.Config, args=arguments)
    assert stopped.value.code == 1
    error = capsys.readouterr().err
    assert words in error
    assert "Traceback" not in error


def test_images_without_classes_are_one_line(tmp_path, capsys):
    np.savez(tmp_path / "plain.npz", images=np.zeros((20, 4, 4), np.uint8))
    arguments = ["--dataset", str(tmp_path / "plain.npz"), "--workdir", str(tmp_path / "run")]
    with pytest.raises(SystemExit):
        cli.run(dimension.main, dimension.Config, args=arguments)
    assert '"labels" is missing' in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
