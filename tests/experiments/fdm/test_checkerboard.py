"""The checkerboard experiment: its exact density by quadrature, its network, a run of few steps."""

import functools
import json
import shutil
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, stats

import fmjax
from experiments.fdm import checkerboard as fdm_checkerboard
from experiments.fdm._checkerboard import fields, law, measures
from experiments.run import arrays, cli
from fmjax.models.perceptron import apply as perceptron
from tests.oracles import tiny

PLACES = ("seed_0/weight_0.0", "seed_0/weight_0.3")
TINY = tiny.config(
    fdm_checkerboard.Config,
    weights=(0.0, 0.3),
    seeds=(0,),
    width=8,
    depth=2,
    batch_size=16,
    num_steps=4,
    num_evaluations=2,
    num_points=20,
    tolerance=1e-2,
    euler_steps=2,
    tv_times=(0.5,),
    grid_points=6,
)


@functools.cache
def _side(coordinate, corner, t):
    low, high = corner * law.SIDE, (corner + 1) * law.SIDE
    one = lambda x1: stats.norm.pdf(coordinate, t * x1, 1 - t)
    return integrate.quad(one, low, high, epsabs=1e-14, epsrel=1e-12)[0] / law.SIDE


def _by_quadrature(x, t):
    """Returns p_t(x) by integrating the noise over each square, side by side."""
    first, second = (float(coordinate) for coordinate in x)
    corners = [(i, j) for i in range(-2, 2) for j in range(-2, 2) if (i + j) % 2 == 0]
    return np.mean([_side(first, i, t) * _side(second, j, t) for i, j in corners])


@pytest.mark.slow
def test_the_exact_density_along_the_path(x64):
    function = jax.jit(jax.vmap(law.log_density))
    points = np.array([[0.3, -1.2], [1.9, 3.8], [-4.0, 0.7], [0.1, 0.05]])
    x = np.repeat(points, 3, axis=0)
    t = np.tile([0.1, 0.5, 0.9], 4)
    exact = [_by_quadrature(*pair) for pair in zip(x, t, strict=True)]
    np.testing.assert_allclose(np.exp(function(x, t)), exact, rtol=1e-9, atol=1e-30)
    # Far out, where the differences of Phi underflow, its logarithm and slope stay finite.
    slope = jax.grad(law.log_density)(jnp.array([9.0, -30.0]), 0.9)
    assert np.isfinite(np.asarray(slope)).all()


@pytest.mark.slow
def test_the_exact_density_in_float32_and_its_integral():
    grid, area = law.grid(100)
    assert area == pytest.approx(0.01)
    for t in (0.5, 0.9):
        log_p = jax.jit(jax.vmap(law.log_density, (0, None)))(grid, jnp.asarray(t))
        assert float(jnp.exp(log_p).sum()) * area == pytest.approx(1.0, abs=2e-4)
    some = np.asarray(grid)[::1371]
    got = np.exp(np.asarray(jax.vmap(law.log_density, (0, None))(some, jnp.asarray(0.9))))
    np.testing.assert_allclose(got, [_by_quadrature(x, 0.9) for x in some], rtol=2e-5, atol=1e-7)


@pytest.mark.slow
def test_the_exact_velocity_moves_the_exact_density(x64):
    x, t = jnp.array([[0.3, -1.2], [1.9, 3.8], [-2.2, 0.7]]), jnp.array([0.2, 0.6, 0.95])
    rest = partial(fmjax.path_error.residual, law.log_density, law.velocity)
    np.testing.assert_allclose(jax.jit(jax.vmap(rest))(x, t), 0.0, atol=1e-9)


@pytest.mark.slow
def test_the_loss_with_weight_0_is_flow_matching_and_the_penalty_is_added():
    params = fmjax.models.perceptron(jax.random.key(3), 2, width=5, depth=2)[1]
    batch, key = {"index": np.arange(8)}, jax.random.key(7)

    def plain(key):
        velocity = partial(perceptron, params)
        x0, x1, t = fdm_checkerboard.sample_pair(key)
        cfm = fmjax.losses.cfm(velocity, law.path, x0, x1, t)
        return cfm, fmjax.losses.cdm(velocity, law.path, x0, x1, t)

    keys = jax.vmap(partial(jax.random.fold_in, key))(np.arange(8))
    cfm, cdm = map(np.asarray, jax.jit(jax.vmap(plain))(keys))
    losses = {
        case: float(jax.jit(fdm_checkerboard.make_loss(fields.plain, *case))(params, key, batch))
        for case in ((0.0, 1), (0.5, 1), (0.5, 2))
    }
    assert losses[0.0, 1] == pytest.approx(cfm.mean(), rel=1e-6)
    assert losses[0.5, 1] == pytest.approx(cfm.mean() + 0.5 * cdm.mean(), rel=1e-5)
    assert losses[0.5, 2] == pytest.approx(cfm.mean() + 0.5 * cdm[::2].mean(), rel=1e-5)


def test_a_conditioned_field_by_hand(x64):
    # The best linear velocity by the moments of the board, whose coordinates are uniform.
    params = fmjax.models.perceptron(jax.random.key(3), 2, width=5, depth=2)[1]
    std = np.sqrt(integrate.quad(lambda x: x**2 / (4 * law.SIDE), -2 * law.SIDE, 2 * law.SIDE)[0])
    assert std == pytest.approx(law.STD, rel=1e-12)
    x, t = jnp.array([0.7, -2.1]), 0.3
    root = np.hypot(t * std, 1 - t)
    rest = perceptron(params, x / root, t)
    linear = (t * std**2 - (1 - t)) / root**2 * x
    found = jax.jit(fields.conditioned.velocity)(params, x, t)
    np.testing.assert_allclose(found, linear + std / root * rest, rtol=1e-6)
    # What the best linear prediction leaves, by the variance of x1 - x0 given the state.
    left = 1 + std**2 - (t * std**2 - (1 - t)) ** 2 / root**2
    assert float(fields.conditioned.scale(t)) ** 2 == pytest.approx(left, rel=1e-9)

    batch, key = {"index": np.arange(4)}, jax.random.key(7)
    keys = jax.vmap(partial(jax.random.fold_in, key))(np.arange(4))

    def one(key):
        x0, x1, t = fdm_checkerboard.sample_pair(key)
        velocity = partial(fields.conditioned.velocity, params)
        both = [f(velocity, law.path, x0, x1, t) for f in (fmjax.losses.cfm, fmjax.losses.cdm)]
        return (both[0] + 0.5 * both[1]) / fields.conditioned.scale(t) ** 2

    loss = jax.jit(fdm_checkerboard.make_loss(fields.conditioned, 0.5, 1))(params, key, batch)
    assert float(loss) == pytest.approx(float(jax.jit(jax.vmap(one))(keys).mean()), rel=1e-6)


def test_the_blurred_law_square_by_square(x64):
    points, std = np.array([[0.3, -1.2], [1.9, 3.8], [-4.0, 0.7], [0.01, 0.05]]), 0.1

    def side(coordinate, corner):  # by the distribution function, as the noise is symmetric
        low, high = corner * law.SIDE, (corner + 1) * law.SIDE
        return np.diff(stats.norm.cdf([low, high], coordinate, std))[0] / law.SIDE

    corners = [(i, j) for i in range(-2, 2) for j in range(-2, 2) if (i + j) % 2 == 0]
    exact = [np.mean([side(x, i) * side(y, j) for i, j in corners]) for x, y in points]
    found = jax.vmap(partial(law.log_blurred, std=std))(jnp.asarray(points))
    np.testing.assert_allclose(np.exp(found), exact, rtol=1e-9)
    gap = np.log(law.CEILING) - np.log(exact).mean()
    assert measures.blurred(jnp.asarray(points), std) == pytest.approx(gap, rel=1e-9)


def test_the_schedule_is_that_of_the_paper():
    rate = fdm_checkerboard.Training().learning_rate
    optimizer = fdm_checkerboard.adam(rate, 30_000)
    state = optimizer.init(jnp.zeros(()))
    step = jax.jit(lambda state: optimizer.update(jnp.ones(()), state))
    rates = []
    for _ in range(32):
        update, state = step(state)
        rates.append(-float(update))  # of a constant gradient Adam's step is the learning rate
    np.testing.assert_allclose(rates[:10], 1e-4 * np.arange(10), rtol=1e-4)
    np.testing.assert_allclose(rates[10:20], 1e-3, rtol=1e-4)
    np.testing.assert_allclose(rates[20:30], 0.999e-3, rtol=1e-4)
    short = fdm_checkerboard.adam(rate, 1500)
    state = short.init(jnp.zeros(()))
    step = jax.jit(lambda i, state: short.update(jnp.ones(()), state)[1])
    last = jax.jit(lambda state: short.update(jnp.ones(()), state)[0])
    rate = -float(last(jax.lax.fori_loop(0, 1509, step, state)))
    assert rate == pytest.approx(0.999**2998 * 1e-3, rel=1e-3)  # 5 %, however long the training


@pytest.mark.slow
def test_what_is_measured_of_a_network_that_stays_where_it_is():
    # Velocity 0: its density is that of the noise at every time.
    params = jax.tree.map(
        jnp.zeros_like, fmjax.models.perceptron(jax.random.key(0), 2, width=4, depth=1)[1]
    )
    asked = tiny.replace(TINY.measures, num_points=400, grid_points=40)
    result = fdm_checkerboard.evaluate(perceptron, params, asked, jax.random.key(1))
    noise = lambda x: np.exp(-0.5 * np.sum(np.asarray(x) ** 2, axis=-1)) / (2 * np.pi)
    grid, area = law.grid(40)
    np.testing.assert_allclose(result["grid"], noise(grid), rtol=1e-4)
    # Of a uniform square of side s around c, E|x|^2 = |c|^2 + s^2 / 6.
    centers = [(i + 0.5, j + 0.5) for i in range(-2, 2) for j in range(-2, 2) if (i + j) % 2 == 0]
    square = law.SIDE**2 * (np.mean([i**2 + j**2 for i, j in centers]) + 1 / 6)
    wanted = -np.log(2 * np.pi) - 0.5 * square
    assert abs(result["log_likelihood"] - wanted) < 5 * result["standard_error"]
    # Nothing moves, so Euler's method is exact too.
    assert result["density_by_euler"] == pytest.approx(result["density"], rel=1e-5)
    exact = np.array([_by_quadrature(x, 0.5) for x in np.asarray(grid, float)])
    variation = 0.5 * np.abs(exact - noise(grid)).sum() * area
    assert result["total_variation"]["0.5"] == pytest.approx(variation, abs=1e-4)


@pytest.mark.slow
def test_what_is_lost_at_the_edges_of_the_squares():
    side = law.SIDE
    points = side * np.array([[0.5, 0.5], [-1.05, 0.5], [0.95, -1.6], [0.5, 1.3]])
    distances = measures.edge_distance(points)
    np.testing.assert_allclose(distances, [0.5, 0.05, 0.05, 0.3], atol=1e-12)
    log_p = np.log(law.CEILING) - np.array([0.1, 0.4, 0.3, 0.0])
    lost = measures.lost(points, log_p)
    assert lost == pytest.approx({"nats": 0.2, "share_at_edges": 7 / 8})
    key = jax.random.split(jax.random.key(0), 4000)
    data = np.asarray(jax.vmap(law.density.sample)(key))
    near = measures.edge_distance(data) < measures.EDGE
    area = measures.edge_area()
    assert abs(near.mean() - area) < 5 * (area * (1 - area) / 4000) ** 0.5


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkerboard") / "run"
    fdm_checkerboard.main(tiny.replace(TINY, workdir=str(folder)))
    return folder


@pytest.mark.slow
def test_the_run_gives_back_its_networks(run):
    found = [tiny.loaded(run, name, run / name, TINY) for name in PLACES]
    for place in PLACES:
        kept = json.loads((run / place / "evaluation.json").read_text())["grid"]
        seed, weight = place.split("/")
        grid = arrays.read(run / "arrays.npz")[seed][weight]["grid"]
        np.testing.assert_allclose(grid, kept, rtol=1e-12)
    x = jnp.array([0.3, -1.2])
    plain, fdm = (one.velocity(x, 0.5) for one in found)
    assert float(jnp.abs(plain - fdm).max()) > 0
    np.testing.assert_array_equal(fdm, found[1].apply(found[1].params, x, 0.5))
    assert found[1].data is law.density


@pytest.mark.slow
def test_a_run_leaves_numbers_and_figures(run, capsys):
    models = json.loads((run / "results.json").read_text())["models"]
    assert [(m["seed"], m["weight"]) for m in models] == [(0, 0), (0, 0.3)]
    for model in models:
        assert model["density"] == pytest.approx(np.exp(model["log_likelihood"]))
        assert 0 < model["total_variation"]["0.5"] < 1
        lines = (run / model["folder"] / "metrics.jsonl").read_text().splitlines()
        assert [json.loads(line)["step"] for line in lines] == [2, 4]
    tiny.check_pictures(run / "figures", {"densities", "curves", "path", "weights"})


@pytest.mark.slow
def test_one_more_seed_leaves_the_other_networks_alone(run, tmp_path, capsys):
    again = tmp_path / "again"
    shutil.copytree(run, again)
    shutil.rmtree(again / "seed_0" / "weight_0.3" / "checkpoints" / "4")  # interrupted
    (again / "seed_0" / "weight_0.3" / "evaluation.json").unlink()
    config = tiny.replace(TINY, workdir=str(again), seeds=(0, 5))
    fdm_checkerboard.main(config)
    before, after = (json.loads((f / "results.json").read_text())["models"] for f in (run, again))
    assert [model for model in after if model["seed"] == 0] == before
    out = capsys.readouterr().out
    assert "the greatest possible exp(mean) x 100 is 2.53125" in out


@pytest.mark.slow
def test_a_run_interrupted_in_its_first_network_keeps_its_options(run, tmp_path):
    again = tmp_path / "again"
    shutil.copytree(run, again)
    (again / "results.json").unlink()
    for name in ("0.0", "0.3"):
        (again / "seed_0" / f"weight_{name}" / "evaluation.json").unlink()
    shutil.rmtree(again / "seed_0" / "weight_0.3")
    config = tiny.replace(TINY, workdir=str(again), learning_rate=1e-4)
    with pytest.raises(ValueError, match=r"other options: learning_rate"):
        fdm_checkerboard.main(config)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--weights", "0", "-1"], "weights must be different numbers that are not negative"),
        (["--seeds", "1", "1"], "seeds must be different"),
        (["--tv-times", "1.0"], "tv_times must lie strictly between 0 and 1"),
        (["--every", "1000"], "every must be between 1 and 512"),
        (["--num-steps", "0"], "num_steps must be at least 1"),
        (["--workdir", __file__ + "/run"], "cannot write the run folder"),
    ],
)
def test_a_users_mistake_is_one_line(arguments, words, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        cli.run(fdm_checkerboard.main, fdm_checkerboard.Config, args=arguments)
    assert stopped.value.code == 1
    assert words in capsys.readouterr().err
