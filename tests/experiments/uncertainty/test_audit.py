"""The audit of velocities whose every number is known: by hand, or in closed form."""

import functools
import json
import math
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import experiments.run
import fmjax
from experiments.fdm import _laws
from experiments.fdm._trajectories import training
from experiments.images import data
from experiments.run import cli
from experiments.uncertainty import audit, maps
from experiments.uncertainty._audit import answers, foreign, measures, sources, subjects
from experiments.uncertainty._audit.options import Examples, Facts, Subject
from experiments.uncertainty._audit.sources import Data
from tests.oracles import tiny

PATH = fmjax.paths.linear()
# A shifted, skewed mixture: nothing about it is symmetric.
LAW = fmjax.toy.gaussian_mixture(
    jnp.array([0.7, 0.3]),
    jnp.array([[1.0, -2.0], [-0.5, 1.5]]),
    jnp.array([[[0.5, 0.2], [0.2, 0.3]], [[0.3, 0.0], [0.0, 0.8]]]),
)
FIELD = lambda x, t: LAW.velocity(PATH, x, t)
ASKED = tiny.config(
    audit.Measures, times=(0.3, 0.7), num_uncertainty=1000, num_jacobians=16, num_likelihood=16,
    num_samples=64, eval_batch_size=1000, tolerance=1e-5,
)  # fmt: skip


def _drawn(number, seed):
    return jax.vmap(LAW.sample)(jax.random.split(jax.random.key(seed), number))


def _said(results):
    return {one["question"]: one for one in results["answers"]}


@pytest.fixture(scope="module")
def exact():
    """The audit of the exact velocity of the mixture."""
    points = Data("mixture", _drawn(1000, 1), _drawn(500, 2))
    return audit.audit(FIELD, PATH, points, key=jax.random.key(0), asked=ASKED), points


@pytest.mark.slow
def test_the_exact_velocity_passes_every_question(exact):
    (results, arrays), points = exact
    for row in results["calibration"]:
        assert abs(row["ratio"] - 1) < 5 * row["ratio_standard_error"] < 0.5
        assert abs(row["pearson"] - row["best_pearson"]) < 0.15
    for row in results["jacobian"]:
        assert row["asymmetry"] < 1e-5
        assert row["negative_ratio"] == row["negative_share"] == row["negative_mass"] == 0.0
    truth = np.asarray(jax.vmap(LAW.log_prob)(points.held_out[:16]))
    assert results["likelihood"]["nats_mean"] == pytest.approx(truth.mean(), abs=1e-3)
    assert abs(measures.excess(results["copies"])) < 5
    said = _said(results)
    assert [one["question"] for one in said.values() if not one["answered"]] == [
        "Is there a map of every example?"
    ]
    assert said["Is U calibrated?"]["answer"].startswith(
        "At t = 0.3, 0.7 yes, E[error] / E[U] is 1"
    )
    assert said["Is the covariance positive?"]["answer"] == "Yes, but for rounding."
    assert arrays["samples"].shape == (64, 2)
    text = audit.report(results)
    assert "| 0.7 | " in text
    assert text.count("* **") == len(results["answers"])
    assert set(audit.figures(results, arrays, "mixture")) == {"calibration", "copies", "jacobian"}


def test_what_a_jacobian_has_too_much_is_measured_by_hand(key):
    # C = diag(4, -1) on the linear path at t = 1/2: J = 2 (C - I / 2) / (1 / 2), and a turn of 1.
    turn = jnp.array([[0.0, 1.0], [-1.0, 0.0]])
    matrix = 4 * jnp.diag(jnp.array([4.0, -1.0])) - 2 * jnp.eye(2) + turn
    field = lambda x, t: matrix @ x
    found = jax.jit(lambda x: measures.jacobian(field, PATH, 0, key, x, 0.5))(jnp.ones(2))
    # |J - J^T| = |2 turn| = sqrt 8, |J + J^T| = 2 |diag(14, -6)|.
    assert found["asymmetry"] == pytest.approx(math.sqrt(8 / (4 * (14**2 + 6**2))), rel=1e-5)
    # C + turn / 4: the same turn, on 2 |diag(4, -1)|.
    assert found["asymmetry_covariance"] == pytest.approx(
        math.sqrt(8 / 16 / (4 * (4**2 + 1))), rel=1e-5
    )
    assert found["least"] == pytest.approx(-1, rel=1e-5)
    assert found["greatest"] == pytest.approx(4, rel=1e-5)
    assert (found["negative_share"], found["negative_mass"]) == (0.5, pytest.approx(0.2, rel=1e-5))
    row = measures.spectra(0.5, {name: np.full(3, value) for name, value in found.items()})
    assert row["negative_ratio"] == pytest.approx(0.25, rel=1e-5)
    assert row["num_states"] == 3


def _probed(**flat):
    return tiny.replace(ASKED, probes=8, num_likelihood=0, num_samples=0, **flat)


@pytest.mark.slow
def test_probes_estimate_what_columns_compute(key):
    # A linear field in 12 dimensions with a known covariance: U = 8 at t = 1/2, not symmetric.
    spread = jnp.linspace(-0.2, 1.5, 12)
    spread = spread * (8 / spread.sum())
    turn = jnp.triu(jnp.ones((12, 12)), 1) * 0.3
    matrix = 4 * jnp.diag(spread) - 2 * jnp.eye(12) + turn - turn.T
    field = lambda x, t: matrix @ x
    one = lambda key: measures.estimated(
        field, PATH, 8, key, jnp.zeros(12), jnp.ones(12), 0.5
    )["uncertainty"]  # fmt: skip
    u = jax.jit(jax.vmap(one))(jax.random.split(key, 200))
    assert abs(u.mean() - 8) < 5 * u.std() / 200**0.5 + 1e-4
    both = [
        jax.jit(jax.vmap(lambda k, n=n: measures.jacobian(field, PATH, n, k, jnp.ones(12), 0.5)))(
            jax.random.split(key, 64)
        )
        for n in (0, 8)
    ]
    assert set(both[1]) == {"asymmetry", "asymmetry_covariance", "least", "greatest"}
    for name, estimated in both[1].items():
        np.testing.assert_allclose(estimated.mean(), both[0][name].mean(), rtol=0.05, atol=0.02)


@pytest.mark.slow
def test_a_coupled_velocity_is_found_out_by_its_calibration_and_not_asked_if_it_is_said(key):
    # N(0, 1) coupled to N(0, 4) by x1 = 2 x0: v = x / (1 + t). At t = 1/2 (2) gives 2/3, and the
    # mean 4/3 x errs by (x1 - 2 x0)^2 * 4/9 ... = 8/9 on independent pairs: the ratio is 4/3.
    points = Data("line", 2 * jax.random.normal(key, (4000, 1)))
    asked = tiny.replace(ASKED, times=(0.5,), num_uncertainty=4000, num_likelihood=0, num_samples=0)
    field = lambda x, t: x / (1 + t)
    results, _ = audit.audit(field, PATH, points, key=key, asked=asked)
    (row,) = results["calibration"]
    assert row["mean_uncertainty"] == pytest.approx(2 / 3, rel=1e-4)
    assert abs(row["ratio"] - 4 / 3) < 5 * row["ratio_standard_error"] < 0.2
    said = _said(results)
    assert "U is too small" in said["Is U calibrated?"]["answer"]
    assert said["Does U tell one example from another?"]["answer"].endswith("for every example.")
    for facts, why in ((Facts(coupled=True), "coupled pairs"), (Facts(guided=True), "guided")):
        silent, arrays = audit.audit(field, PATH, points, key=key, facts=facts, asked=asked)
        unanswered = [one for one in silent["answers"] if not one["answered"]]
        assert len(unanswered) == 8  # likelihood and copies were not asked for
        assert sum(why in one["answer"] for one in unanswered) == 6
        assert arrays == {}
        assert "| t |" not in audit.report(silent)


def _row(t, ratio, error, **more):
    row = {"t": t, "num_images": 101, "ratio": ratio, "ratio_standard_error": error}
    return row | {"pearson": 0.4, "best_pearson": 0.5} | more


def test_the_words_say_what_is_right_wrong_and_not_known():
    rows = [_row(0.1, 0.6, 0.15), _row(0.3, 0.8, 0.02), _row(0.5, 1.2, 0.01), _row(0.7, 1.02, 0.02)]
    said = answers._calibrated(rows)
    assert "At t = 0.7 yes," in said
    assert "At t = 0.3 it is 0.800 ± 0.020: U is too large." in said
    assert "At t = 0.5 it is 1.200 ± 0.010: U is too small." in said
    assert "At t = 0.1 it is 0.600 ± 0.150: too uncertain to tell." in said
    rows = [
        _row(0.1, 1, 1, best_pearson=1.4), _row(0.3, 1, 1, pearson=0.2), _row(0.5, 1, 1),
        _row(0.7, 1, 1, pearson=math.nan),
    ]  # fmt: skip
    said = answers._tells(rows)  # the standard error of no correlation is 0.1
    assert "At t = 0.1 no, U differs more than the errors allow." in said
    assert "At t = 0.3 the correlation is less than 3 standard errors (0.10 each)" in said
    assert "At t = 0.5 yes, Pearson 0.40, of at most 0.50" in said
    assert "At t = 0.7 U is the same for every example." in said


def test_a_time_too_near_to_the_noise_is_told_by_each_of_three_signs():
    x1 = np.array([[0.0, 1.0], [2.0, 1.0], [4.0, 4.0]])  # variances 4 and 3
    rows = [_row(t, 1, 1, mean_error=6.9) for t in (0.1, 0.3, 0.5, 0.7)]
    rows[0]["mean_error"], rows[1]["best_pearson"] = 7.1, 1.2
    jacobian = [{"asymmetry_covariance": a} for a in (0.4, 0.4, 0.6, 0.4)]
    said = answers._near_noise(measures.near_noise(rows, jacobian, x1))
    assert "t = 0.1: the posterior mean errs more (7.1) than the mean of all data (7)." in said
    assert "t = 0.3: U differs more than the errors allow (best Pearson 1.20)." in said
    assert "t = 0.5: the part of the covariance that cannot be right is 0.60 of" in said
    assert "t = 0.7" not in said
    assert answers._near_noise(measures.near_noise(rows[3:], jacobian[3:], x1)) == "None of these."


def test_copies_are_called_copies(key):
    train, others = jax.random.normal(key, (2, 200, 6))
    found, _ = measures.copies(np.asarray(train[:100]), Data("cloud", others, train))
    assert (found["samples"]["share"], found["held_out"]["share"]) == (1.0, 0.0)
    assert answers._copies(found).startswith("Yes. 100.0 ± 0.0 % of 100 samples")
    fresh = jax.random.normal(jax.random.fold_in(key, 1), (100, 6))
    found, _ = measures.copies(np.asarray(fresh), Data("cloud", others, train))
    assert answers._copies(found).startswith("Not more than held-out examples do.")


def test_a_flow_that_cannot_be_followed_is_an_answer(key, monkeypatch):
    def gives_up(*_, **__):
        raise ArithmeticError("the solver used up its steps")

    monkeypatch.setattr(measures, "likelihood", gives_up)
    monkeypatch.setattr(audit, "draw", gives_up)
    asked = tiny.replace(ASKED, times=(0.5,))
    points = Data("line", jnp.ones((8, 1)), jnp.ones((8, 1)))
    results, arrays = audit.audit(
        lambda x, t: x, PATH, points, key=key, facts=Facts(guided=True), asked=asked
    )
    assert arrays == {}
    for one in results["answers"][-2:]:
        assert not one["answered"]
        assert "cannot be followed from noise to data (the solver used up" in one["answer"]


# The command

MODEL = """
    from functools import partial
    import jax.numpy as jnp
    import fmjax

    PRIOR = jnp.array([4.0, 1.0])
    PATH = fmjax.paths.cosine()

    def noise(params, x, s):  # batches, s = 0 at the data
        alpha, sigma = PATH.alpha(1 - s), PATH.sigma(1 - s)
        return (sigma / (alpha**2 * params + sigma**2))[:, None] * x if params.ndim == 0 else (
            sigma[:, None] * x / (alpha[:, None] ** 2 * params[None] + sigma[:, None] ** 2))

    def velocity():
        model = fmjax.predictions.unbatched(partial(noise, PRIOR))
        return fmjax.predictions.reverse_time(model, PATH, given=fmjax.predictions.x0), PATH

    def batched():
        return lambda x, t: jnp.zeros((1, 2))

    def broken():
        raise RuntimeError("no weights")

    number = 3
    nothing = lambda: None
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with a user's module and points, in which the command runs."""
    (tmp_path / "mymodel.py").write_text(textwrap.dedent(MODEL))
    (tmp_path / "damaged.py").write_text("import nowhere_to_be_found\n")
    points = np.random.default_rng(0).normal(size=(120, 2)) * [2.0, 1.0]
    np.save(tmp_path / "points.npy", points)
    np.savez(tmp_path / "both.npz", held_out=points, train=points[:7])
    np.savez(tmp_path / "wrong.npz", data=points)
    np.save(tmp_path / "nan.npy", np.where(points > 2, np.nan, points))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "mymodel", raising=False)
    return tmp_path


FEW = [
    "--times", "0.5", "--num-likelihood", "0", "--num-jacobians", "4", "--eval-batch-size", "120",
    "--no-compilation-cache",
]  # fmt: skip


def test_the_command_asks_a_model_of_the_users(here, capsys):
    arguments = ["--model", "mymodel:velocity", "--dataset", "points.npy", *FEW]
    cli.run(audit.main, audit.Config, args=arguments)
    out = capsys.readouterr().out
    assert "# Audit of mymodel.velocity on points" in out
    assert "Not answered: it takes training data, and none were given." in out
    folder = here / "runs" / "uncertainty" / "audit" / "mymodel.velocity"
    results = json.loads((folder / "results.json").read_text())
    assert (folder / "report.md").read_text() in out
    # Cosine path at t = 1/2: alpha = sigma, so the variances are 4/5 and 1/2.
    assert results["calibration"][0]["mean_uncertainty"] == pytest.approx(1.3, rel=1e-4)
    tiny.check_pictures(folder / "figures", {"calibration", "jacobian"})
    with pytest.raises(ValueError, match="other options: dataset"):
        audit.main(
            audit.Config(
                workdir=str(folder), subject=Subject(model="mymodel:velocity"),
                examples=Examples(dataset="both.npz"), measures=ASKED,
            )
        )  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "give one of --run FOLDER"),
        (["--run", "a", "--model", "b:c"], "got both"),
        (["--run", "nowhere"], "is no run folder of this version"),
        (["--model", "mymodel"], "must be MODULE:FUNCTION"),
        (["--model", "mymodel:velocity", "--network", "flow"], "names a network of a run"),
        (["--model", "mymodle:velocity"], "ModuleNotFoundError: No module named 'mymodle'"),
        (["--model", "damaged:velocity"], "No module named 'nowhere_to_be_found'"),
        (["--model", "mymodel:speed"], "has nothing of that name"),
        (["--model", "mymodel:number"], "is a int"),
        (["--model", "mymodel:broken"], "RuntimeError: no weights"),
        (["--model", "mymodel:nothing"], "must return a velocity"),
        (["--model", "mymodel:velocity"], "brings no data: give --dataset"),
        (["--model", "mymodel:batched", "--dataset", "points.npy"], "unbatched takes a model"),
        (["--model", "mymodel:velocity", "--dataset", "digits"], "a velocity must take one"),
        (["--model", "mymodel:velocity", "--dataset", "wrong.npz"], 'must hold "held_out"'),
        (["--model", "mymodel:velocity", "--dataset", "nan.npy"], "must be finite"),
        (["--model", "mymodel:velocity", "--dataset", "none.npy"], "no file"),
        (["--model", "mymodel:velocity", "--probes", "1"], "one probe has no standard error"),
    ],
)
def test_a_users_mistake_is_one_line(here, arguments, words, capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.run(audit.main, audit.Config, args=[*arguments, *FEW])
    assert stopped.value.code == 1
    error = capsys.readouterr().err
    assert words in error
    assert "Traceback" not in error


def test_a_network_of_ours_that_couples_is_known(monkeypatch):
    run = experiments.run.Run(FIELD, PATH, None, None, None, None)
    monkeypatch.setattr(experiments.run, "load", lambda folder, name: run)
    for name, coupled in (("seed_0/OT-CFM", True), ("seed_0/CFM", False), (None, False)):
        found = subjects.load(Subject(run="runs/mine/digits/", network=name), Facts())
        assert found.facts == Facts(coupled=coupled)
        assert found.name == "_".join(["digits", *(name or "").split("/")]).rstrip("_")


def test_parameters_that_a_partial_has_bound_are_arguments():
    apply = lambda params, x, t: params * x
    found, params = subjects.split(functools.partial(apply, jnp.float32(3)))
    assert (params, found(params, 2.0, 0.5)) == ((3.0,), 6.0)
    found, params = subjects.split(lambda x, t: 3 * x)
    assert (params, found(params, 2.0, 0.5)) == ((), 6.0)


def test_the_data_of_every_kind_of_run(tmp_path):
    drawn = sources.load(Examples(), _laws.PLANE, 0)
    truth = _laws.PLANE.weights @ _laws.PLANE.means
    assert drawn.held_out.shape == (sources.DRAWN, 2)
    spread = drawn.held_out.std(axis=0) / sources.DRAWN**0.5
    assert (abs(drawn.held_out.mean(axis=0) - truth) < 5 * spread).all()
    assert drawn.train is None
    held_out, train = np.zeros((3, 5, 2), np.float32), np.ones((4, 5, 2), np.float32)
    found = sources.load(Examples(), training.Trajectories(None, train, held_out), 0)
    np.testing.assert_array_equal(found.held_out, held_out)
    np.testing.assert_array_equal(found.train, train)
    images = data.load("digits")
    found = sources.load(Examples(), images, 0)
    np.testing.assert_array_equal(data.quantize(found.held_out, 17), images.held_out)
    np.testing.assert_array_equal(data.quantize(found.train, 17), images.train)
    with pytest.raises(ValueError, match="the run has none held out: give --dataset"):
        sources.load(Examples(), train, 0)
    np.savez(tmp_path / "two.npz", held_out=held_out, train=train[:, 0])
    with pytest.raises(ValueError, match="examples of one shape"):
        sources.load(Examples(dataset=str(tmp_path / "two.npz")), None, 0)


def test_the_model_of_another_convention_has_the_posterior_of_its_table():
    # The exact noise of images N(0, 4), by the model's own table: U = d 4 s^2 / (4 a^2 + s^2).
    abar = jnp.asarray(np.cumprod(1 - foreign.BETAS), jnp.float32)

    def noise(x, timesteps):
        level = abar[jnp.round(timesteps).astype(int)][:, None, None, None]
        return jnp.sqrt(1 - level) * x / (4 * level + 1 - level)

    velocity, path = foreign.velocity(noise)
    trace = jax.jit(lambda t: fmjax.posterior.trace(velocity, path, jnp.ones((2, 2, 1)), t))
    for timestep in (99, 499):
        level = float(abar[timestep])
        assert float(trace(1 - (timestep + 1) / 1000)) == pytest.approx(
            4 * 4 * (1 - level) / (3 * level + 1), rel=1e-3
        )


@pytest.mark.slow
def test_the_model_of_another_convention_learns():
    images, network = data.load("digits"), foreign.Denoiser(width=16)
    bank, errors = data.centers(images.held_out, images.levels), []
    key = jax.random.key(3)
    noise, t = jax.random.normal(key, bank.shape), jnp.full(len(bank), 0.8)
    for num_steps in (1, 300):
        weights = foreign.train(network, images, num_steps, key, batch_size=32)
        velocity, path = foreign.velocity(functools.partial(network.apply, weights))

        def error(x0, x1, t, velocity=velocity, path=path):
            x = fmjax.paths.interpolate(path, x0, x1, t)
            return jnp.sum((fmjax.posterior.mean(velocity, path, x, t) - x1) ** 2)

        errors.append(float(jax.jit(jax.vmap(error))(noise, bank, t).mean()))
    assert errors[1] < 0.5 * errors[0]


@pytest.mark.slow
@pytest.mark.parametrize("probes", [0, 4])
def test_an_audit_of_a_run_of_ours(tmp_path, probes):
    maps.main(tiny.replace(tiny.SMALL, workdir=str(tmp_path / "run")))
    asked = tiny.replace(
        ASKED, times=(0.7,), num_uncertainty=6, num_jacobians=3, num_likelihood=2, num_samples=4,
        eval_batch_size=4, likelihood_probes=1, tolerance=1e-2, probes=probes,
    )  # fmt: skip
    config = audit.Config(
        workdir=str(tmp_path / "audit"), subject=Subject(run=str(tmp_path / "run")), measures=asked
    )
    audit.main(config)
    results = tiny.results(tmp_path / "audit")
    assert all(one["answered"] for one in results["answers"])
    assert results["calibration"][0]["num_images"] == 6
    assert ("negative_variances" in results["calibration"][0]) == (probes == 0)
    assert np.isfinite(results["likelihood"]["bits_mean"])
    names = {"calibration", "jacobian", "maps", "copies", "samples"}
    tiny.check_pictures(tmp_path / "audit" / "figures", names)
