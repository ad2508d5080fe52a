"""Every experiment for a few steps, stopped and resumed; its numbers against other routes."""

import dataclasses
import functools
import json
import pathlib
import shutil
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import matplotlib.image
import numpy as np
import pytest
from scipy import stats

import fmjax
from experiments import cli, data, evaluation, figures
from experiments import uncertainty_images as experiment
from tests import oracles

TINY = experiment.Config(
    channels=(8, 8),
    batch_size=8,
    num_steps=4,
    save_every=2,
    times=(0.3, 0.7),
    num_uncertainty=6,
    num_likelihood=2,
    likelihood_probes=1,
    num_samples=4,
    eval_batch_size=4,
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The run folder of a few steps on the digits."""
    folder = tmp_path_factory.mktemp("run") / "digits"
    experiment.main(dataclasses.replace(TINY, workdir=str(folder)))
    return folder


def _results(folder):
    return json.loads((folder / "results.json").read_text())


def test_a_run_folder_holds_everything(run):
    config = json.loads((run / "config.json").read_text())
    assert config["channels"] == [8, 8]
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 4]
    assert all(np.isfinite(line["held_out_loss"]) for line in lines)
    results = _results(run)
    assert [row["t"] for row in results["uncertainty"]] == [0.3, 0.7]
    assert np.isfinite(results["likelihood"]["bits_per_dim"])
    for name in ("uncertainty", "calibration", "samples"):
        picture = matplotlib.image.imread(run / "figures" / f"{name}.png")
        assert min(picture.shape[:2]) > 100
        assert picture.std() > 0.05  # not blank


def test_a_run_that_was_interrupted_ends_as_if_it_had_not_been(run, tmp_path):
    again = tmp_path / "again"
    shutil.copytree(run, again)
    shutil.rmtree(again / "checkpoints" / "4")
    (again / "results.json").unlink()
    experiment.main(dataclasses.replace(TINY, workdir=str(again)))
    assert _results(again) == _results(run)


def test_another_configuration_is_refused_and_nothing_is_touched(run):
    before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
    other = dataclasses.replace(TINY, workdir=str(run), learning_rate=1e-4)
    with pytest.raises(ValueError, match=r"learning_rate.*--workdir|learning_rate"):
        experiment.main(other)
    assert {p: p.read_bytes() for p in run.rglob("*") if p.is_file()} == before


def test_a_mistyped_option_does_not_lock_the_folder(tmp_path):
    config = dataclasses.replace(TINY, workdir=str(tmp_path / "run"))
    with pytest.raises(ValueError, match="batch_size must lie between"):
        experiment.main(dataclasses.replace(config, batch_size=5000))
    folder = experiment.loop.open_run(config.workdir, config, data="anything")
    assert json.loads((folder / "config.json").read_text())["batch_size"] == 8


def test_a_run_without_its_config_is_refused(run, tmp_path):
    again = tmp_path / "again"
    shutil.copytree(run, again)
    (again / "config.json").unlink()
    with pytest.raises(ValueError, match=r"holds a run but no config\.json"):
        experiment.main(dataclasses.replace(TINY, workdir=str(again)))
    assert not (again / "config.json").exists()


def test_other_data_under_the_same_name_is_refused(run, tmp_path, monkeypatch):
    other = data.load("digits")
    other.train[0, 0, 0] += 1
    monkeypatch.setattr(data, "load", lambda *_, **__: other)
    with pytest.raises(ValueError, match=r"other options: data .*crc32"):
        experiment.main(dataclasses.replace(TINY, workdir=str(run)))


def test_a_solver_that_gives_up_is_one_line():
    velocity = lambda params, x, t: 1e5 * x**3
    sample = functools.partial(fmjax.samplers.adaptive, max_steps=16)
    function = evaluation.batched(velocity, None, sample)
    with pytest.raises(ArithmeticError, match="samples: the adaptive solver used up its steps"):
        evaluation.in_batches(function, jnp.ones((2, 3)), size=2, label="samples")


def test_a_users_own_images(tmp_path, capsys):
    images = np.random.default_rng(0).integers(0, 256, (40, 5, 6, 3), dtype=np.uint8)
    np.savez(tmp_path / "mine.npz", images=images)
    config = dataclasses.replace(
        TINY,
        dataset=str(tmp_path / "mine.npz"),
        workdir=str(tmp_path / "run"),
        times=(0.5,),
        num_uncertainty=100,  # more than are held out: all 8 are measured
        num_likelihood=0,
        num_samples=2,
    )
    experiment.main(config)
    out = capsys.readouterr().out
    assert str(tmp_path / "run") in out
    assert "E[error]/E[U]" in out
    assert "bits per dimension" not in out


def test_the_help_names_every_option_with_its_default():
    help_text = subprocess.run(
        [sys.executable, "-m", "experiments.uncertainty_images", "--help"],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    for field in dataclasses.fields(experiment.Config):
        assert f"--{field.name.replace('_', '-')}" in help_text
    assert "(default: 2000)" in help_text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--dataset", "mist"], "unknown data set 'mist'"),
        (["--dataset", "nowhere.npz"], "nowhere.npz"),
        (["--dataset", "mnist", "--data-dir", "nowhere"], "nowhere"),
        (["--times", "0.0", "0.5"], "times must be distinct numbers between 0 and 1"),
        (["--times", "0.5", "0.5"], "times must be distinct numbers"),
        (["--tolerance", "nan"], "tolerance must be between"),
        (["--learning-rate", "-1"], "learning_rate must be between"),
        (["--seed", "99999999999999999999"], "seed must be an integer from 0"),
        (["--num-likelihood", "1"], "one image has no standard error"),
        (["--held-out", "0.0001"], "at least 2 held-out images"),
        (["--workdir", __file__ + "/run"], "run"),
        (["--batch-size", "100000"], "batch_size must lie between"),
        (["--num-uncertainty", "0"], "num_uncertainty must be at least 2"),
        (["--num-likelihood", "-1"], "num_likelihood must be at least 0"),
    ],
)
def test_a_users_mistake_is_one_line(arguments, words, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        cli.run(experiment.main, experiment.Config, args=arguments)
    assert stopped.value.code == 1
    error = capsys.readouterr().err
    assert words in error
    assert "Traceback" not in error


def test_measure_against_the_closed_form_of_a_mixture(x64):
    velocity = lambda x, t: oracles.law(fmjax.paths.coefficients(experiment.path, t), x).velocity
    x0, x1 = jnp.array([0.3, -1.0, 0.8]), jnp.array([1.0, 0.2, -0.4])
    ours = experiment.measure(velocity, x0, x1, 0.4)
    x = 0.4 * x1 + 0.6 * x0
    law = oracles.law(fmjax.paths.coefficients(experiment.path, 0.4), x)
    np.testing.assert_allclose(ours["noised"], x, atol=1e-14)
    np.testing.assert_allclose(ours["mean"], law.mean, atol=1e-12)
    np.testing.assert_allclose(ours["variance"], jnp.diag(law.covariance), atol=1e-12)
    np.testing.assert_allclose(ours["uncertainty"], jnp.trace(law.covariance), atol=1e-12)
    np.testing.assert_allclose(ours["error"], jnp.sum((x1 - law.mean) ** 2), atol=1e-12)


def test_the_table_against_scipy_and_a_bootstrap():
    rng = np.random.default_rng(0)
    u = rng.gamma(3.0, 1.0, 4000).astype(np.float32)
    error = (u * rng.chisquare(5, 4000) / 5).astype(np.float32)  # E[error | u] = u
    row = evaluation.calibration(0.5, {"uncertainty": u, "error": error, "variance": u - 1.0})
    assert row["ratio"] == pytest.approx(error.mean() / u.mean(), rel=1e-5)
    assert row["pearson"] == pytest.approx(stats.pearsonr(u, error)[0], rel=1e-4)
    assert row["spearman"] == pytest.approx(stats.spearmanr(u, error)[0], rel=1e-4)
    # For a calibrated U the Pearson correlation is sqrt(Var U / Var error) exactly.
    assert row["pearson"] == pytest.approx(row["best_pearson"], abs=0.05)
    assert row["negative_variances"] == pytest.approx(float((u < 1).mean()))
    picks = rng.integers(0, 4000, (500, 4000))
    ratios = error[picks].mean(axis=1) / u[picks].mean(axis=1)
    assert row["ratio_standard_error"] == pytest.approx(ratios.std(), rel=0.15)
    assert abs(row["ratio"] - 1) < 5 * row["ratio_standard_error"]


def test_batches_with_a_rest_give_every_example_once():
    x = jnp.arange(7.0)
    square = jax.jit(jax.vmap(lambda x: x**2))
    for size in (1, 3, 7, 10):
        ours = evaluation.in_batches(square, x, size=size, label="test")
        np.testing.assert_array_equal(ours, np.arange(7.0) ** 2)


def test_the_likelihood_of_a_known_law():
    # The velocity to N(0, 4 I); the density of one image by scipy.
    velocity = lambda x, t: (4 * t - (1 - t)) / (4 * t**2 + (1 - t) ** 2) * x
    x1 = jax.random.normal(jax.random.key(0), (3, 3, 1))
    config = dataclasses.replace(TINY, likelihood_probes=0, tolerance=1e-6)
    ours = experiment.log_likelihood(velocity, config, jax.random.key(0), x1)
    truth = stats.norm(scale=2.0).logpdf(np.asarray(x1)).sum()
    assert float(ours) == pytest.approx(truth, abs=1e-3)
    # A multiple of the identity: one Rademacher probe has no variance.
    probed = experiment.log_likelihood(
        velocity, dataclasses.replace(config, likelihood_probes=1), jax.random.key(0), x1
    )
    assert float(probed) == pytest.approx(truth, abs=1e-3)


def test_the_loss_uses_dropout_and_the_evaluation_does_not():
    images = data.Images(np.zeros((8, 4, 4, 1), np.uint8), np.zeros((8, 4, 4, 1), np.uint8), 17)
    seen = []

    def apply(params, x, t, key=None):
        seen.append(key is not None)
        return params * x

    experiment.make_loss(apply, 17)(1.0, jax.random.key(0), {"x": jnp.asarray(images.train)})
    assert seen == [True]
    evaluate = experiment.make_evaluate(apply, images, jax.random.key(7))
    first = evaluate(1.0, jax.random.key(0))
    assert seen[1:] == [False]
    assert first == evaluate(1.0, jax.random.key(1))  # the same noise every time


def test_figures_take_colour_and_negative_variances(tmp_path):
    rng = np.random.default_rng(0)
    shape = (6, 5, 7, 3)
    result = {name: rng.normal(size=shape) for name in ("image", "noised", "mean", "variance")}
    result |= {name: rng.gamma(2.0, size=6) for name in ("uncertainty", "error")}
    row = evaluation.calibration(0.5, result)
    arrays = {"samples": rng.normal(size=(5, 5, 7, 3)), "by_time": {0.5: result}}
    figures.save_all(tmp_path / "figures", arrays, {"uncertainty": [row]}, dataset="noise")
    names = {path.name for path in (tmp_path / "figures").iterdir()}
    assert names == {"uncertainty.png", "calibration.png", "samples.png"}


@pytest.mark.slow
def test_the_main_job_with_its_defaults(tmp_path):
    begin = time.monotonic()
    command = [
        sys.executable,
        "-m",
        "experiments.uncertainty_images",
        "--workdir",
        tmp_path / "run",
    ]
    subprocess.run(command, check=True)
    assert time.monotonic() - begin < 180
    results = _results(tmp_path / "run")
    assert all(abs(row["ratio"] - 1) < 0.1 for row in results["uncertainty"])
    assert results["likelihood"]["bits_per_dim"] < 2.05


def test_every_experiment_is_in_the_table_of_the_readme():
    folder = pathlib.Path(experiment.__file__).parent
    table = (folder / "README.md").read_text()
    shared = {
        "__init__",
        "cli",
        "data",
        "devices",
        "evaluation",
        "figures",
        "loop",
        "prepared",
        "record",
    }
    for path in folder.glob("*.py"):
        assert path.stem in shared or f"experiments.{path.stem}" in table


def test_the_solver_of_the_likelihood_is_adaptive_per_image():
    log_p = functools.partial(
        experiment.log_likelihood, lambda x, t: -x, dataclasses.replace(TINY, likelihood_probes=0)
    )
    x1 = jnp.stack([jnp.ones((2, 2, 1)), 50 * jnp.ones((2, 2, 1))])
    keys = jax.random.split(jax.random.key(0), 2)
    np.testing.assert_allclose(
        jax.vmap(log_p)(keys, x1)[0], jax.vmap(log_p)(keys[:1], x1[:1])[0], rtol=1e-6
    )
