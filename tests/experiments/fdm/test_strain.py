"""`experiments.fdm.strain`: measures and steps by a second route, and a tiny run."""

import json
import shutil
from functools import partial

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import fmjax
from experiments.fdm import _laws, strain
from experiments.fdm._strain import measures, steps
from experiments.run import arrays, cli, saved
from tests.oracles import tiny

TINY = tiny.config(
    strain.Config,
    width=8,
    depth=1,
    batch_size=8,
    num_steps=4,
    save_every=2,
    num_seeds=2,
    num_states=40,
    num_starts=4,
    step_counts=(2, 3),
    tolerances=(0.3,),
)
PLANE = partial(_laws.velocity, _laws.PLANE)


def _wrong(x, t):
    """A field near the true one of the plane that turns."""
    return PLANE(x, t) + 0.2 * jnp.stack([-x[1], x[0]]) * (1 + jnp.sin(x[0]))


@pytest.mark.slow
def test_what_a_state_shows_is_what_matrices_say(x64):
    x, t = jnp.array([0.4, -1.3]), 0.6
    found = measures.local(_wrong, PLANE, x, t)
    wrong, true = (np.asarray(jax.jacfwd(field)(x, t)) for field in (_wrong, PLANE))
    gap = np.asarray(_wrong(x, t) - PLANE(x, t))
    assert found["jacobian"] == pytest.approx(np.sum((wrong - true) ** 2), rel=1e-12)
    assert found["rotation"] == pytest.approx(float(wrong[0, 1] - wrong[1, 0]) ** 2 / 2, rel=1e-12)
    assert found["error"] == pytest.approx(float(np.sum(gap**2)), rel=1e-12)
    spread = (1 - t) ** 2 / t * (2 + (1 - t) * np.trace(wrong))
    assert found["uncertainty"] == pytest.approx(float(spread), rel=1e-12)


@pytest.mark.slow
def test_ranks_are_spearmans_over_the_states_of_one_time(x64):
    x = measures.states(jax.random.key(0), _laws.PLANE, 0.5, 60)
    found = jax.jit(partial(measures.at_time, _wrong, PLANE))(x, 0.5)
    each = jax.jit(jax.vmap(partial(measures.local, _wrong, PLANE), (0, None)))(x, 0.5)
    assert found["error"] == pytest.approx(float(each["error"].mean()) / 2)
    for name in measures.SIGNS:
        wanted = stats.spearmanr(each[name], each["error"]).statistic
        assert found[f"rank_{name}"] == pytest.approx(wanted, rel=1e-9)


def test_states_are_draws_of_the_path(x64):
    law, t = _laws.PLANE, 0.7
    x = np.asarray(measures.states(jax.random.key(1), law, t, 20000))
    mean = t * law.weights @ law.means
    assert np.all(np.abs(x.mean(0) - mean) < 5 * x.std(0) / 20000**0.5)
    within = law.weights @ (t**2 * (law.means**2 + law.deviations[:, None] ** 2)) + (1 - t) ** 2
    np.testing.assert_allclose((x**2).mean(0), within, rtol=0.05)


@pytest.mark.slow
def test_a_trajectory_stays_within_its_bounds(x64):
    times, x0 = jnp.linspace(0.0, 0.95, 20), jnp.array([0.5, -0.8])
    slightly = lambda x, t: PLANE(x, t) + 1e-4 * (_wrong(x, t) - PLANE(x, t))
    found = jax.jit(partial(measures.follow, slightly, PLANE))(x0, times)
    assert np.all(found.least <= found.stretch[:, 0] + 1e-3)
    assert np.all(found.stretch[:, 1] <= found.greatest + 1e-3)
    assert np.all(found.stretch[1:, 0] < found.stretch[1:, 1])
    assert np.all(found.apart <= 1.02 * found.bound + 1e-9)
    assert found.apart[-1] > 0.1 * found.bound[-1]


def test_the_bound_is_the_solution_of_its_equation(x64):
    times = jnp.linspace(0.0, 1.0, 2001)
    # b' = 2 t b + (1 + t) from b = 0, by a solver.
    rates = lambda b, t: 2 * t * b + 1 + t
    wanted = fmjax.samplers.adaptive(rates, jnp.array(0.0), rtol=1e-10, atol=1e-10)
    found = measures.bound(times**2, 1 + times, times)
    assert float(found[-1]) == pytest.approx(float(wanted), rel=1e-6)


@pytest.mark.slow
def test_the_solver_that_counts_is_the_one_of_the_library(x64):
    x0 = jnp.array([0.5, -0.8])
    ends, used = steps.adaptive(_wrong, 1e-3, x0)
    library = partial(fmjax.samplers.adaptive, rtol=1e-3, atol=1e-3, solver=diffrax.Heun())
    np.testing.assert_allclose(ends, library(_wrong, x0), rtol=1e-3)
    finer = steps.adaptive(_wrong, 1e-6, x0)[1]
    assert 2 * 3 < int(used) < int(finer)


@pytest.mark.slow
def test_curves_are_errors_of_solutions_along_the_times(x64):
    apply = lambda params, x, t: _wrong(x, t) * params
    params, times = jnp.array([1.0, 0.8]), jnp.linspace(0.0, 1.0, 9)
    x0 = jax.random.normal(jax.random.key(2), (3, 2))
    density = {"rate": jnp.stack([0.2 + times, 1.2 - times])}
    found = steps.curves(apply, params, x0, density, times, (2, 5), (0.1,))
    grid = fmjax.samplers.graded(times, density["rate"][1], 5)
    field = partial(apply, params[1])
    heun = partial(fmjax.samplers.fixed, num_steps=1)
    ends = jax.vmap(lambda x: fmjax.samplers.trajectory(field, x, grid, solve=heun)[-1])(x0)
    truth = jax.vmap(partial(fmjax.samplers.fixed, field, num_steps=20))(x0)
    wanted = np.median(np.sqrt(np.mean((ends - truth) ** 2, axis=1)))
    assert found["rate"]["error"][1, 1] == pytest.approx(float(wanted), rel=1e-9)
    assert found["rate"]["evaluations"].tolist() == [[4, 10], [4, 10]]
    assert found["adaptive"]["error"].shape == (2, 1)


@pytest.mark.slow
def test_the_density_of_the_error_is_its_root(x64):
    times, x0 = jnp.linspace(0.0, 0.9, 10), jnp.array([[0.5, -0.8]])
    pilots = jax.jit(jax.vmap(partial(measures.follow, _wrong, PLANE), (0, None)))(x0, times)
    found = jax.jit(partial(steps.densities, _wrong))(pilots, times)
    ratio = (found["error"] / found["local"]) ** 3
    np.testing.assert_allclose(
        ratio, np.exp(pilots.greatest[0, -1] - pilots.greatest[0]), rtol=1e-9
    )
    x, t0, t1 = pilots.states[0, 4], times[4], times[5]
    off = [fmjax.samplers.fixed(_wrong, x, t0, t1, num_steps=k) for k in (1, 2)]
    size = float(jnp.linalg.norm(off[0] - off[1])) / 0.1**3
    assert found["local"][4] == pytest.approx(float(size) ** (1 / 3), rel=1e-6)
    jacobian = np.asarray(jax.jacfwd(_wrong)(x, t0))
    rate = np.abs(np.linalg.eigvalsh((jacobian + jacobian.T) / 2)).max()
    assert found["rate"][4] == pytest.approx(float(rate), rel=1e-9)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("strain") / "run"
    strain.main(tiny.replace(TINY, workdir=str(folder)))
    return folder


@pytest.mark.slow
def test_a_run_leaves_numbers_and_figures(run):
    results = json.loads((run / "results.json").read_text())
    assert len(results["by_time"]["share"]) == len(strain.TIMES)
    assert len(set(results["by_time"]["error"][0]["seeds"])) == 2  # each network is another one
    assert set(results["curves"]) == {"equal", "rate", "local", "error", "adaptive"}
    assert arrays.read(run / "arrays.npz")["grown"]["greatest"].shape == (2, 4, len(strain.GRID))
    tiny.check_pictures(run / "figures", {"rotation", "growth", "steps"})


@pytest.mark.slow
def test_the_run_gives_back_its_networks(run):
    found = saved.load(run, "flow/1")
    x = jnp.ones(16)
    assert found.velocity(x, 0.5).shape == (16,)


@pytest.mark.slow
def test_a_run_again_gives_the_same(run, tmp_path, capsys):
    again = tmp_path / "again"
    shutil.copytree(run, again)
    (again / "results.json").unlink()
    strain.main(tiny.replace(TINY, workdir=str(again)))
    assert (again / "results.json").read_bytes() == (run / "results.json").read_bytes()
    assert "rank correlation" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--num-seeds", "1"], "num_seeds must be between 2"),
        (["--num-states", "5"], "num_states must be at least 10"),
        (["--num-starts", "3"], "num_starts must be at least 4"),
        (["--step-counts", "8", "4"], "step_counts must be increasing"),
        (["--tolerances", "0.01", "0.1"], "tolerances must be decreasing"),
        (["--learning-rate", "0"], "learning_rate must be between"),
        (["--law", "near"], "near"),
        pytest.param(
            ["--batch-size", "12"], "12 does not divide by the 8 devices", marks=pytest.mark.slow
        ),
    ],
)
def test_a_users_mistake_is_one_line(arguments, words, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        cli.run(strain.main, strain.Config, args=arguments)
    assert stopped.value.code
    error = capsys.readouterr().err
    assert words in error
    assert "Traceback" not in error
