"""`experiments.uncertainty.head`: losses and measures by a second route, and a tiny run."""

import json
import shutil
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import fmjax
from experiments.run import arrays, cli, saved
from experiments.uncertainty import head
from experiments.uncertainty._head import costs, losses, measures, problems, tables
from experiments.uncertainty._head.problems import Problem
from tests.oracles import tiny

TINY = tiny.config(
    head.Config,
    width=8,
    depth=1,
    batch_size=8,
    num_steps=4,
    save_every=2,
    num_seeds=2,
    num_points=40,
    times=(0.3, 0.7),
    num_states=8,
    num_draws=9,
    eval_batch_size=8,
)
RNG = np.random.default_rng(0)
BANK = RNG.gamma(1.5, size=(7, 2)) - 0.4
PARAMS = {name: RNG.normal(size=(2, 2)) for name in ("velocity", "log_variance")}
PAIR = (np.array([0.3, -1.2]), np.array([1.5, 0.1]), 0.4)


def network(params, x, t):
    """Not a gradient, so that its Jacobian is not symmetric."""
    return jnp.tanh(params @ x.ravel()).reshape(x.shape) * (1.5 - t)


def test_beside_the_velocity_is_trained_by_flow_matching_alone(x64):
    slope = {
        name: jax.grad(partial(one, network))(PARAMS, *PAIR)
        for name, one in head.LOSSES.items() | {"flow": losses.flow}.items()
    }
    np.testing.assert_allclose(slope["beside"]["velocity"], slope["flow"]["velocity"], rtol=1e-13)
    assert float(jnp.abs(slope["flow"]["log_variance"]).max()) == 0.0
    assert float(jnp.abs(slope["joint"]["velocity"] - slope["flow"]["velocity"]).max()) > 0.01
    both = (slope[name]["log_variance"] for name in ("beside", "joint"))
    np.testing.assert_allclose(*both, rtol=1e-13)


def test_the_likelihood_is_that_of_scipy(x64):
    x0, x1, _ = PAIR
    x = 0.6 * x0 + 0.4 * x1
    mean, logs = (1.1 * np.tanh(PARAMS[name] @ x) for name in ("velocity", "log_variance"))
    wanted = -stats.norm.logpdf(x1 - x0, mean, np.exp(logs / 2)).mean()
    assert float(losses.joint(network, PARAMS, *PAIR)) == pytest.approx(wanted, rel=1e-12)
    flow = np.mean((x1 - x0 - mean) ** 2)
    assert float(losses.beside(network, PARAMS, *PAIR)) == pytest.approx(wanted + flow, rel=1e-12)


def test_a_batch_spreads_the_data_over_their_bins_and_each_network_over_its_own():
    still = lambda params, x, t: params * x
    seeds = {name: jnp.zeros(2) for name in ("velocity", "log_variance")}
    batch = {"bank": jnp.full((3, 4), 2.0), "index": jnp.zeros((4096, 2), int)}
    loss = losses.of_batch(still, losses.flow, 0.8)
    found = loss(seeds, jax.random.key(0), batch)
    # E (x1 - x0)^2 = 4 + 0.8^2 / 12 + 1; its variance is near 4 * 4 * 1.05 + 2.
    error = (19.0 / (2 * 4096 * 4)) ** 0.5
    assert abs(float(found) - 5.0 - 0.64 / 12) < 5 * error
    alone = losses.of_batch(still, losses.flow, 0.0)
    one = alone(seeds, jax.random.key(0), batch)
    other = alone(seeds, jax.random.key(1), batch)
    assert float(one) != float(other)


@pytest.mark.slow
def test_the_exact_variance_of_blurred_data_is_that_of_a_mixture(x64):
    width, (x0, x1, t) = 0.9, PAIR
    exact = partial(fmjax.empirical.velocity, problems.blurred(width), jnp.asarray(BANK))
    found = measures.of_velocity(exact, x0, x1, t)
    # Given x_t and the point b, x1 = b + h e is Gaussian; over the points it is a mixture.
    x, h, alpha, sigma = np.asarray(0.6 * x0 + 0.4 * x1), width / 12**0.5, 0.4, 0.6
    total = sigma**2 + (alpha * h) ** 2
    density = np.exp(-0.5 * np.sum((x - alpha * BANK) ** 2, axis=1) / total)
    weights = density / density.sum()
    means = BANK + alpha * h**2 / total * (x - alpha * BANK)
    mean = weights @ means
    variance = (h * sigma) ** 2 / total + weights @ (means - mean) ** 2
    velocity = mean - (x - alpha * mean) / sigma  # E[x1 - x0 | x]
    np.testing.assert_allclose(found["variance"], variance / sigma**2, rtol=1e-6)
    np.testing.assert_allclose(found["error"], (x1 - x0 - velocity) ** 2, rtol=1e-6)


def test_the_mixture_is_drawn_from_its_own_law():
    made = problems.of_law(0, num_points=2000, count=50)
    assert made.bank.shape == (2000, 2)
    np.testing.assert_array_equal(made.parts["train"], made.bank[:50])
    assert not (made.parts["held_out"][:, None] == made.bank[None]).any()
    mean = 0.5 * np.array([-1.2, 0.4]) + 0.3 * np.array([1.0, 1.1]) + 0.2 * np.array([0.6, -1.3])
    error = made.bank.std(axis=0) / 2000**0.5
    assert (np.abs(made.bank.mean(axis=0) - mean) < 5 * error).all()


def test_methods_of_a_problem_by_hand(x64):
    heads = partial(losses.outputs, network)
    exact = lambda bank, x, t: x * bank.mean() - t
    parts = {name: RNG.normal(size=(5, 2)) for name in ("train", "held_out")}
    problem = Problem("two entries", BANK, 0.0, parts, exact)
    seeds = {key: jnp.stack([value, 2 * value]) for key, value in PARAMS.items()}
    trained = {"beside": seeds, "joint": jax.tree.map(lambda a: -a, seeds)}
    call = partial(measures.measure, heads, trained, problem, t=0.4, seed=0, size=4)
    found, train = (call(part=part) for part in ("held_out", "train"))
    made = measures.methods(found, train)
    assert {error.shape for error, _ in made.values()} == {(2, 5, 2), (1, 5, 2)}
    # The states again: the first error of the first network is that of this noise.
    x0 = np.random.default_rng([0, 3, 400, 0]).normal(size=(5, 2)).astype(np.float32)[3]
    x1, t = parts["held_out"][3], np.float32(0.4)
    x = (1 - t) * x0 + t * x1
    for seed, scale in enumerate((1, 2)):
        slope, logs = scale * np.asarray(PARAMS["velocity"]), scale * PARAMS["log_variance"]
        mean = np.tanh(slope @ x) * (1.5 - t)
        np.testing.assert_allclose(made["head"][0][seed, 3], (x1 - x0 - mean) ** 2, rtol=1e-5)
        np.testing.assert_allclose(
            made["head"][1][seed, 3], np.exp(np.tanh(logs @ x) * (1.5 - t)), rtol=1e-5
        )
        # On the linear path the variance is (I + (1 - t) J) / t.
        jacobian = (1.5 - t) * np.diag(slope) * (1 - np.tanh(slope @ x) ** 2)
        np.testing.assert_allclose(
            made["jacobian"][1][seed, 3], (1 + (1 - t) * jacobian) / t, rtol=1e-5
        )
        np.testing.assert_allclose(
            made["joint"][1][seed, 3], np.exp(-np.tanh(logs @ x) * (1.5 - t)), rtol=1e-5
        )
    wanted = (1 + (1 - t) * BANK.mean()) / t
    np.testing.assert_allclose(made["exact"][1], wanted, rtol=1e-5)
    squares = train["beside"]["error"]
    np.testing.assert_allclose(made["map"][1][1, 2], squares[1].mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(made["constant"][1][1, 2], squares[1].mean(), rtol=1e-6)


def test_scores_by_brute_force():
    rng = np.random.default_rng(3)
    error, exact = rng.gamma(1.0, size=(30, 4)), rng.gamma(3.0, size=(30, 4))
    variance = exact + rng.normal(size=(30, 4))
    assert (variance < 0).any()
    found = measures.scores(error, variance, exact, (0.05, 0.5))
    u, e = variance.sum(axis=1), error.sum(axis=1)
    assert found["ratio"] == pytest.approx(e.mean() / u.mean(), rel=1e-5)
    assert found["pearson"] == pytest.approx(np.corrcoef(u, e)[0, 1], abs=1e-5)
    assert found["best_pearson"] == pytest.approx(u.std() / e.std(), rel=1e-5)
    for key, floor in (("nll", 0.05), ("nll_coarse", 0.5)):
        s = np.where(variance < floor * error.mean(), floor * error.mean(), variance)
        logs = stats.norm.logpdf(np.sqrt(error), 0.0, np.sqrt(s))
        assert found[key] == pytest.approx(-logs.mean(), rel=1e-12)
    assert found["negative"] == pytest.approx(np.mean(variance < 0))
    assert found["raised"] == pytest.approx(np.mean(variance < 0.05 * error.mean()))
    assert found["off"] == pytest.approx(np.median(np.abs(variance - exact) / exact))
    alike = measures.scores(error, np.full_like(error, 0.5), exact, (0.05, 0.5))
    assert "pearson" not in alike
    assert alike["ratio"] == pytest.approx(error.mean() / 0.5, rel=1e-5)


def test_no_variance_is_likelier_than_the_true_one():
    rng = np.random.default_rng(4)
    true = rng.gamma(2.0, size=(4000, 3))
    error = true * rng.normal(size=true.shape) ** 2
    nll = lambda s: measures.scores(error, s, true, (1e-3, 0.1))["nll"]
    others = (1.3 * true, true / 1.3, np.full_like(true, true.mean()), true[::-1])
    assert all(nll(true) < nll(other) - 0.01 for other in others)


def test_costs_are_ratios_to_the_velocity_and_to_flow_matching():
    exact = lambda bank, x, t: x * bank.mean() - t
    problem = Problem("two entries", BANK, 0.1, {}, exact)
    found = costs.of_evaluation(network, PARAMS, problem, np.zeros((3, 2), np.float32))
    assert [row["method"] for row in found] == ["velocity", "head", "jacobian", "exact"]
    assert found[0]["time_ratio"] == 1.0
    seeds = {key: jnp.stack([value, value]) for key, value in PARAMS.items()}
    batch = {"bank": BANK, "index": np.zeros((4, 2), np.int32)}
    found = costs.of_step(network, 0.1, seeds, jax.random.key(0), batch)
    assert [row["method"] for row in found] == ["flow matching", "beside", "joint"]
    assert all(row["milliseconds"] > 0 for row in found)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return tiny.images_file(tmp_path_factory, 50)


@pytest.fixture(scope="module")
def run(tmp_path_factory, images):
    folder = tmp_path_factory.mktemp("head") / "run"
    head.main(tiny.replace(TINY, workdir=str(folder), dataset=images))
    return folder


@pytest.mark.slow
def test_a_run_leaves_numbers_and_figures(run):
    results = json.loads((run / "results.json").read_text())
    assert list(results["scores"]) == ["images", "law"]
    for parts in results["scores"].values():
        for rows in parts.values():
            assert [row["t"] for row in rows] == [0.3, 0.7]
            assert list(rows[0]["methods"]) == list(tables.LABELS)
            joint, beside = (rows[0]["methods"][name]["nll"]["seeds"] for name in ("joint", "head"))
            assert len({*joint, *beside}) == 4  # each network is another one
    assert arrays.read(run / "arrays.npz")["images"]["0.3"]["head"]["variance"].shape == (
        8,
        4,
        4,
        1,
    )
    tiny.check_pictures(run / "figures", {"scores", "maps"})


@pytest.mark.slow
def test_the_run_gives_back_its_velocities(run):
    found = saved.load(run, "images/joint/1")
    x, t = jnp.ones((4, 4, 1)), 0.3
    np.testing.assert_allclose(found.velocity(x, t), found.apply(found.params, x, t)[0], rtol=1e-6)
    assert saved.load(run, "law/beside/0").velocity(jnp.ones(2), t).shape == (2,)
    with pytest.raises(ValueError, match="law/joint/1"):
        saved.load(run, "law")


@pytest.mark.slow
def test_a_run_again_gives_the_same(run, images, tmp_path, capsys):
    again = tmp_path / "again"
    shutil.copytree(run, again)
    (again / "results.json").unlink()
    head.main(tiny.replace(TINY, workdir=str(again), dataset=images))
    assert tiny.results(again) == tiny.results(run)
    assert "nats per entry" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--num-seeds", "1"], "num_seeds must be between 2"),
        (["--num-points", "10"], "num_points must be between 4000"),
        (["--num-states", "2"], "num_states must be at least 8"),
        (["--times", "0.5", "0.5"], "times must be distinct"),
        (["--floor", "0"], "floor must be between 1e-09 and 1"),
        (["--width", "1"], "width must be at least 2"),
        (["--num-steps", "0"], "num_steps must be at least 1"),
        (["--dataset", "nothing"], "unknown data set 'nothing'"),
        pytest.param(
            ["--batch-size", "12"], "12 does not divide by the 8 devices", marks=pytest.mark.slow
        ),
    ],
)
def test_a_users_mistake_is_one_line(arguments, words, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        cli.run(head.main, head.Config, args=arguments)
    assert stopped.value.code == 1
    error = capsys.readouterr().err
    assert words in error
    assert "Traceback" not in error
