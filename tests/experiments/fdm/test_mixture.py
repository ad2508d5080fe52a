"""The four peaks of `experiments.fdm.mixture`: their closed forms, a tiny run, users' mistakes."""

import json
import shutil
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import experiments.run
import fmjax
from experiments.fdm import _laws
from experiments.fdm import mixture as fdm_mixture
from experiments.fdm._mixture import measures
from experiments.run import arrays, cli
from experiments.run.folder import read_metrics
from tests.oracles import round as mixtures
from tests.oracles import tiny

CONFIG = tiny.config(
    fdm_mixture.Config,
    width=8,
    depth=1,
    num_seeds=2,
    weight=0.5,
    batch_size=16,
    num_steps=4,
    save_every=2,
    num_pairs=64,
    num_times=20,
    tolerance=1e-2,
)
WEIGHTS, MEANS, DEVIATIONS = (
    _laws.LINE.weights,
    _laws.LINE.means[:, 0],
    _laws.LINE.deviations,
)


@pytest.mark.slow
def test_the_law_and_its_velocity_in_closed_form():
    x, t = np.linspace(-4.0, 4.0, 41, dtype=np.float32), jnp.float32(0.7)
    both = lambda x: (measures.log_density(x, t), measures.true_velocity(x, t))
    log_p, velocity = jax.jit(jax.vmap(both))(x)
    scale = np.sqrt((0.7 * DEVIATIONS) ** 2 + 0.3**2)
    p = stats.norm(0.7 * MEANS, scale).pdf(x[:, None]) @ WEIGHTS
    np.testing.assert_allclose(np.exp(log_p), p, rtol=1e-4)
    theirs = jax.vmap(lambda x: mixtures.velocity(mixtures.LINE, x, t))(x)
    np.testing.assert_allclose(velocity, theirs, rtol=1e-4, atol=1e-4)
    drawn = measures.sample_data(np.random.default_rng(0), 400, 50)
    assert drawn.dtype == np.float32
    mean = WEIGHTS @ MEANS
    assert abs(drawn.mean() - mean) < 5 * drawn.std() / drawn.size**0.5


@pytest.mark.slow
def test_what_is_measured_on_velocities_whose_answers_are_known():
    # u, and u + 0.2 sin 2x, whose numbers are those of tests/fmjax/test_path_error.py.
    times = jnp.array([0.25, 0.5, 0.75, 1.0])
    true = measures.true_densities(times)
    x0, x1, t = fdm_mixture.pairs(tiny.replace(CONFIG, num_pairs=4000), 1)

    @jax.jit
    @jax.vmap
    def measured(size):
        velocity = lambda x, t: measures.true_velocity(x, t) + size * jnp.sin(2 * x)
        density = measures.densities(velocity, times, tolerance=1e-4)
        errors = jax.vmap(partial(measures.errors, velocity))(x0, x1, t)
        return (
            jax.vmap(fmjax.metrics.total_variation)(measures.CELL * true, measures.CELL * density),
            measures.bound(velocity, times),
            measures.conditional_bound(velocity, x0, x1),
            jax.tree.map(jnp.mean, errors),
        )

    distance, bound, conditional, errors = measured(jnp.array([0.0, 0.2]))
    np.testing.assert_allclose(distance[0], 0.0, atol=1e-3)
    np.testing.assert_allclose(distance[1], [0.03545, 0.06821, 0.09275, 0.12203], atol=1e-3)
    np.testing.assert_allclose(bound[0], 0.0, atol=1e-4)
    np.testing.assert_allclose(bound[1], [0.03580, 0.07137, 0.11510, 0.17681], atol=1e-3)
    # Near the data (1 - t) |r(x | x1)| is |1 - x0^2|, of mean 4 phi(1), for any velocity.
    decades = np.diff(np.asarray(conditional)[:, measures.DECADES], axis=1)
    each = 0.5 * np.log(10) * np.abs(1 - np.asarray(x0) ** 2)
    tolerance = 5 * each.std() / len(each) ** 0.5
    np.testing.assert_allclose(decades[:, -1], 2 * stats.norm.pdf(1) * np.log(10), atol=tolerance)
    assert abs(errors["flow"][0]) + abs(errors["divergence"][0]) < 1e-6
    assert float(errors["flow"][1]) == pytest.approx(0.021477, rel=0.05)
    assert float(0.5 * errors["residual"][1]) == pytest.approx(0.17681, rel=0.05)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a run of a few steps."""
    folder = tmp_path_factory.mktemp("mixture") / "run"
    fdm_mixture.main(tiny.replace(CONFIG, workdir=str(folder)))
    return folder


@pytest.mark.slow
def test_the_run_gives_back_its_networks(run):
    errors = tiny.results(run)["FDM"]["errors"]["flow"]["seeds"]
    x0, x1, t = fdm_mixture.pairs(CONFIG, 1)
    kept = arrays.read(run / "arrays.npz")["methods"]["FDM"]["flow"]
    np.testing.assert_allclose(kept, errors, rtol=1e-6)
    assert errors[0] != pytest.approx(errors[1], rel=1e-3)
    found = experiments.run.load(run, "FDM/1")
    x = t * x1 + (1 - t) * x0
    gap = jax.vmap(found.velocity)(x, t) - jax.vmap(measures.true_velocity)(x, t)
    np.testing.assert_allclose(jnp.mean(gap**2), errors[1], rtol=1e-4)
    assert found.data is _laws.LINE


@pytest.mark.slow
def test_a_run_folder_holds_everything(run):
    tiny.check_pictures(run / "figures", {"densities", "path", "training", "bounds"})
    results = tiny.results(run)
    for name, place in (("FM", "."), ("FDM", "FDM")):
        lines = (run / place / "metrics.jsonl").read_text().splitlines()
        lines = [json.loads(line) for line in lines]
        assert [line["step"] for line in lines] == [2, 4]
        assert [line["flow"] for line in lines] == [h["flow"] for h in results["history"][name]]
        by_time = results[name]["by_time"]
        np.testing.assert_allclose([row["t"] for row in by_time], np.arange(1, 21) / 20)
        for row in by_time:
            distances, bounds = (row[part] for part in ("total_variation", "bound"))
            assert np.all(np.less(distances["seeds"], np.add(bounds["seeds"], 0.02)))
            assert distances["mean"] == pytest.approx(np.mean(distances["seeds"]))
            assert distances["std"] == pytest.approx(np.std(distances["seeds"], ddof=1))
        assert len(results[name]["conditional_bound"]) == 4
        assert set(results[name]["errors"]) == set(measures.ERRORS)
    assert len(results["true velocity"]["conditional_bound"]) == 4


@pytest.mark.slow
def test_both_methods_start_from_the_same_networks_and_differ_by_the_weight(run):
    first = [read_metrics(place, "flow")[0]["flow"] for place in (run, run / "FDM")]
    # After two steps of Adam from the same start on the same data: near, and not equal.
    assert first[0] == pytest.approx(first[1], rel=0.05)
    assert first[0] != first[1]


@pytest.mark.long
def test_a_training_that_was_interrupted_ends_in_the_same_bits(run, tmp_path):
    again, network = tmp_path / "again", fdm_mixture.networks(CONFIG)
    shutil.copytree(run, again)
    shutil.rmtree(again / "FDM" / "checkpoints" / "4")
    errors = lambda params: {"flow": jnp.zeros(2)}
    ended = [
        fdm_mixture.train(CONFIG, CONFIG.weight, network, errors, place / "FDM")
        for place in (again, run)  # continued from step 2, and restored
    ]
    jax.tree.map(np.testing.assert_array_equal, *ended)
    assert [line["step"] for line in read_metrics(again / "FDM", "flow")] == [2, 4]


@pytest.mark.slow
def test_every_network_is_trained_as_if_alone():
    apply = lambda params, x, t: params["a"] * jnp.tanh(x) + params["b"] * t
    params = {"a": jnp.array([0.3, -0.2]), "b": jnp.array([1.0, 0.5])}
    key, x = jax.random.key(0), jax.random.normal(jax.random.key(1), (16, 2)) + 1.0

    @jax.jit
    @jax.value_and_grad
    def loss(params, x, weight):
        return fdm_mixture.make_loss(apply, weight)(params, key, {"x": x})

    value, before = loss(params, x, 0.3)
    _, after = loss(params, x.at[:, 1].add(1.0), 0.3)
    for name in params:
        assert before[name][0] == after[name][0]
        assert before[name][1] != after[name][1]
    # The weight multiplies the divergence loss of the same pairs: the loss is a line in it.
    ends = [float(loss(params, x, weight)[0]) for weight in (0.0, 0.6)]
    assert float(value) == pytest.approx(np.mean(ends), rel=1e-5)
    assert ends[1] > ends[0] + 0.1


@pytest.mark.slow
def test_another_configuration_is_refused(run):
    before = tiny.contents(run)
    with pytest.raises(ValueError, match=r"other options: weight .*--workdir"):
        fdm_mixture.main(tiny.replace(CONFIG, workdir=str(run), weight=0.1))
    assert tiny.contents(run) == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--num-seeds", "1"], "num_seeds must be between 2 and 100"),
        (["--num-times", "30"], "num_times must be a multiple of 20"),
        (["--weight", "-1"], "weight must be between 0"),
        (["--tolerance", "nan"], "tolerance must be between"),
        (["--seed", "-1"], "seed must be between 0"),
        (["--workdir", __file__ + "/run"], "run"),
    ],
)
def test_a_users_mistake_is_one_line(arguments, words, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        cli.run(fdm_mixture.main, fdm_mixture.Config, args=arguments)
    assert stopped.value.code == 1
    error = capsys.readouterr().err
    assert words in error
    assert "Traceback" not in error
