"""`experiments.uncertainty.measurements`: laws, problems, scores by brute force; a tiny run."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import experiments.run
import fmjax
from experiments.run import arrays, cli
from experiments.uncertainty import measurements
from experiments.uncertainty._measurements import laws, measures, problems
from experiments.uncertainty._measurements.laws import Law
from experiments.uncertainty._measurements.problems import Problem
from tests.oracles import tiny

TINY = tiny.config(
    measurements.Config,
    problems=("superresolution",),
    num_centers=6,
    num_truths=3,
    num_draws=4,
    solver_steps=2,
    eval_batch_size=8,
)
RNG = np.random.default_rng(0)
ROOT = RNG.normal(size=(3, 3)) * np.array([1.2, 0.6, 0.3])
LAW = Law("skewed", RNG.gamma(1.5, size=(4, 3)) - 0.4, ROOT @ ROOT.T)
PROBLEM = Problem("two of three", RNG.normal(size=(2, 3)), 0.4)


def _velocity(law):
    params = laws.parameters(law)
    return lambda x, t: laws.velocity(params, x, t)


@pytest.mark.parametrize("t", [0.0, 0.3, 0.9, 1.0])
def test_the_velocity_is_that_of_the_score_of_the_mixture(t, x64):
    def log_density(x):
        total = t**2 * LAW.covariance + (1 - t) ** 2 * np.eye(3)
        each = [jax.scipy.stats.multivariate_normal.logpdf(x, t * b, total) for b in LAW.centers]
        return jax.scipy.special.logsumexp(jnp.stack(each))

    x = jnp.array([0.4, -0.9, 1.3])
    score = jax.grad(log_density)(x)
    # On the linear path v = (x + sigma score) / t where t > 0; at 0 it is the mean of the data - x.
    expected = (x + (1 - t) * score) / t if t else LAW.centers.mean(axis=0) - x
    np.testing.assert_allclose(_velocity(LAW)(x, t), expected, rtol=1e-5, atol=1e-5)


def test_the_posterior_is_that_of_a_grid():
    law = Law("plane", np.array([[0.5, -0.2], [-1.0, 0.8]]), np.array([[0.3, 0.1], [0.1, 0.2]]))
    problem, y = Problem("one of two", np.array([[0.7, -1.1]]), 0.5), np.array([-0.6])
    line = np.linspace(-5, 5, 801)
    grid = np.stack(np.meshgrid(line, line, indexing="ij"), -1)
    density = sum(stats.multivariate_normal.pdf(grid, b, law.covariance) for b in law.centers)
    density = density * stats.norm.pdf(y - grid @ problem.matrix[0], 0, problem.noise_std)
    density /= density.sum()
    mean = (density[..., None] * grid).sum(axis=(0, 1))
    variance = (density[..., None] * (grid - mean) ** 2).sum(axis=(0, 1))
    found = laws.posterior(law, problem, y)
    np.testing.assert_allclose(laws.moments(found), (mean, variance), rtol=1e-6)
    draws = laws.sample(found, RNG, 4000)
    assert np.all(np.abs(draws.mean(axis=0) - mean) < 5 * stats.sem(draws))
    fourth = np.sqrt(((draws - mean) ** 2).var(axis=0) / 4000)
    assert np.all(np.abs(draws.var(axis=0) - variance) < 5 * fourth)


def test_the_laws_are_those_of_the_images():
    x = RNG.gamma(1.0, size=(40, 5))
    found = laws.laws(x, num_centers=7, width=0.3)
    np.testing.assert_allclose(found["gaussian"].covariance, np.cov(x.T) + 0.09 * np.eye(5))
    np.testing.assert_allclose(found["gaussian"].centers, x.mean(axis=0, keepdims=True))
    np.testing.assert_array_equal(found["images"].centers, x[:7])
    draws = laws.draw(found["images"], RNG, 3000)
    center = x[:7].mean(axis=0)
    assert np.all(np.abs(draws.mean(axis=0) - center) < 5 * stats.sem(draws))
    wanted = x[:7].var(axis=0) + 0.09
    fourth = np.sqrt(((draws - center) ** 2).var(axis=0) / 3000)
    assert np.all(np.abs(draws.var(axis=0) - wanted) < 5 * fourth)


def test_the_problems_by_slices_of_an_image():
    image = RNG.normal(size=(5, 4, 2))
    made = problems.problems(image.shape, much_noise=0.5, little_noise=0.1)
    seen = {name: problem.matrix @ image.ravel() for name, problem in made.items()}
    np.testing.assert_array_equal(seen["denoising"], image.ravel())
    np.testing.assert_array_equal(seen["inpainting"], image[:2].ravel())
    blocks = [image[2 * i : 2 * i + 2, 2 * j : 2 * j + 2] for i in range(2) for j in range(2)]
    small = np.stack([block.mean(axis=(0, 1)) for block in blocks]).ravel()
    np.testing.assert_allclose(seen["superresolution"], small)
    assert [problem.noise_std for problem in made.values()] == [0.5, 0.1, 0.1]


@pytest.mark.slow
def test_the_substitutes_by_dense_matrices(x64):
    velocity, path, variance = _velocity(LAW), laws.path, 0.7
    x, t, y = jnp.array([0.5, -0.3, 0.8]), 0.6, jnp.array([1.0, -2.0])
    a, noise = PROBLEM.matrix, PROBLEM.noise_std**2 * np.eye(2)
    mean = np.asarray(fmjax.posterior.mean(velocity, path, x, t))
    exact = np.asarray(fmjax.posterior.covariance(velocity, path, x, t))
    flat = variance * 0.4**2 / (0.6**2 * variance + 0.4**2) * np.eye(3)
    for name, outer, inner in (
        ("exact", exact, exact), ("inside", exact, flat), ("identity", flat, flat),
    ):  # fmt: skip
        shift = outer @ a.T @ np.linalg.solve(a @ inner @ a.T + noise, y - a @ mean)
        guided = problems.GUIDES[name](PROBLEM, y, velocity, path, variance)
        np.testing.assert_allclose(guided(x, t), velocity(x, t) + shift / 0.4, rtol=1e-4)
    assert problems.GUIDES["none"](PROBLEM, y, velocity, path, variance) is velocity


@pytest.mark.parametrize("name", ["exact", "inside", "identity"])
def test_of_independent_gaussian_entries_every_method_gives_the_conditional_law(name, x64):
    law = Law("round", np.array([[0.3, -0.8, 0.5]]), 0.7 * np.eye(3))
    y = jnp.array([0.9, -1.4])
    found = laws.posterior(law, PROBLEM, np.asarray(y))
    given = _velocity(Law("given y", found.centers, found.covariance))
    field = problems.GUIDES[name](PROBLEM, y, _velocity(law), laws.path, 0.7)
    for t in (0.05, 0.5, 0.95, 1.0):
        x = jnp.asarray(RNG.normal(size=3))
        np.testing.assert_allclose(field(x, t), given(x, t), rtol=1e-3, atol=1e-4)


def test_scores_of_draws_of_the_right_law_and_of_others():
    assert (measures.place(19), measures.nominal(19)) == (1, pytest.approx(0.9))
    assert (measures.place(39), measures.nominal(39)) == (2, pytest.approx(0.9))
    assert measures.nominal(4) == pytest.approx(0.6)
    n, k, d, scale = 3000, 19, 2, np.array([1.0, 3.0])
    mean = RNG.gamma(1.0, size=(n, d))
    truth, draws = (mean[:, None] + scale * RNG.normal(size=(n, m, d)) for m in (1, k))
    variance = np.broadcast_to(scale**2, (n, d))
    found = measures.scores(truth[:, 0], draws, mean, variance)
    for name, right in {"coverage": 0.9, "error_over_u": 1.0, "distance": 0.0}.items():
        assert abs(found[name]["mean"] - right) < 5 * found[name]["standard_error"], name
    assert found["psnr"] == pytest.approx(10 * np.log10(4 / (5 * (1 + 1 / k))), abs=0.3)
    narrow = measures.scores(
        truth[:, 0], mean[:, None] + (draws - mean[:, None]) / 2, mean, variance
    )
    assert narrow["coverage"]["mean"] < 0.75
    assert narrow["error_over_u"]["mean"] > 3
    moved = measures.scores(truth[:, 0], draws + scale, mean, variance)
    assert moved["distance"]["mean"] == pytest.approx(1, abs=0.05)
    assert measures.best(truth[:, 0], mean) == pytest.approx(10 * np.log10(4 / 5), abs=0.3)


# A run of a few draws.


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return tiny.images_file(tmp_path_factory, 30)


@pytest.fixture(scope="module")
def run(tmp_path_factory, images):
    folder = tmp_path_factory.mktemp("measurements") / "run"
    measurements.main(tiny.replace(TINY, workdir=str(folder), dataset=images))
    return folder


@pytest.mark.slow
def test_a_run_leaves_numbers_and_figures(run, images):
    results = json.loads((run / "results.json").read_text())
    assert results["nominal_coverage"] == pytest.approx(0.6)
    tiny.check_pictures(run / "figures", {"scores", "draws"})
    kept = arrays.read(run / "arrays.npz")
    made = problems.problems((4, 4, 1), much_noise=0.5, little_noise=0.1)
    for law, of_law in results["laws"].items():
        assert list(of_law) == ["superresolution"]
        for name, found in of_law.items():
            assert list(found["methods"]) == ["posterior", *problems.GUIDES]
            drawn = kept[law][name]
            assert drawn["y"].shape == (3, len(made[name].matrix))
            for method, row in found["methods"].items():
                draws = drawn["draws"][method]
                assert draws.shape == (3, 4, 16)
                errors = ((draws.mean(axis=1) - drawn["truth"]) ** 2).mean()
                assert row["psnr"] == pytest.approx(10 * np.log10(4 / errors), rel=1e-4)
    with pytest.raises(ValueError, match=r"which trains no velocity: read its results.json"):
        experiments.run.load(run)


@pytest.mark.slow
def test_a_run_again_gives_the_same(run, images, tmp_path, capsys):
    again = tmp_path / "again"
    shutil.copytree(run, again)
    (again / "results.json").unlink()
    measurements.main(tiny.replace(TINY, workdir=str(again), dataset=images))
    assert (again / "results.json").read_bytes() == (run / "results.json").read_bytes()
    out = capsys.readouterr().out
    assert "intervals of 60%" in out
    assert "images, smoothed, superresolution: PSNR of the exact mean" in out


@pytest.mark.slow
def test_the_flow_given_y_of_a_gaussian_ends_in_its_posterior():
    law = Law("skewed", LAW.centers[:1], LAW.covariance)
    asked = tiny.replace(TINY.measures, num_truths=200, num_draws=19, solver_steps=40)
    asked = tiny.replace(asked, eval_batch_size=1000)
    found, _ = measurements.measure(law, PROBLEM, asked, np.random.default_rng(3))
    right = {"coverage": 0.9, "error_over_u": 1.0, "distance": 0.0}
    for name in ("posterior", "exact"):
        row = found["methods"][name]
        for score, value in right.items():
            assert abs(row[score]["mean"] - value) < 5 * row[score]["standard_error"], score
    off = {name: row["distance"]["mean"] for name, row in found["methods"].items()}
    assert off["exact"] < 0.02 < off["identity"] < off["none"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--num-centers", "1"], "num_centers must be at least 2"),
        (["--num-centers", "2000"], "num_centers must be between 2 and 1438"),
        (["--problems", "blur"], "problems must be of denoising, inpainting, superresolution"),
        (["--width", "0"], "width must be between"),
        (["--much-noise", "0"], "much_noise must be between"),
        (["--little-noise", "nan"], "little_noise must be between"),
        (["--num-truths", "1"], "num_truths must be at least 2"),
        (["--num-draws", "2"], "num_draws must be at least 3"),
        (["--solver-steps", "0"], "solver_steps must be at least 1"),
        (["--eval-batch-size", "0"], "eval_batch_size must be at least 1"),
        (["--seed", "-1"], "seed must be between"),
        (["--dataset", "nothing"], "unknown data set 'nothing'"),
        (["--workdir", __file__ + "/run"], "run"),
    ],
)
def test_a_users_mistake_is_one_line(arguments, words, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        cli.run(measurements.main, measurements.Config, args=arguments)
    assert stopped.value.code == 1
    error = capsys.readouterr().err
    assert words in error
    assert "Traceback" not in error
