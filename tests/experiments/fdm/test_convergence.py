"""The comparison of FM, FDM and exact targets: its targets, densities and distances, a tiny run."""

import json
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats

import experiments.run
from experiments.fdm import _laws, convergence
from experiments.fdm._convergence import measures, methods, tables, training
from experiments.fdm._errors import sample_pair
from experiments.run import arrays
from fmjax import losses
from tests.oracles import tiny

TINY = tiny.config(
    convergence.Config,
    laws=("line",),
    budgets=(10,),
    widths=(8,),
    weights=(0.1, 3.0),
    seeds=(0, 3),
    tuning_seeds=(7,),
    batch_size=8,
    num_points=16,
)
FEW = {name: methods.METHODS[name] for name in ("FM", "FDM, Jacobian", "exact field, divergence")}


@pytest.mark.slow
@pytest.mark.parametrize("mixture", [_laws.PLANE, _laws.FAR], ids=["plane", "far"])
def test_the_target_of_the_law_is_its_exact_field(mixture, x64):
    size = mixture.means.shape[1]
    field = partial(_laws.velocity, mixture)

    @jax.jit
    @jax.vmap
    def at(key):
        x0, x1, t = sample_pair(mixture, key)
        target = methods.of_law(mixture, _laws.path, x1[None], x0, x1, t)
        exact = lambda x: field(x, t)
        trace, jacobian = (
            match(exact, target)[1]
            for match in (losses.match_trace, partial(losses.match_jacobian, key))
        )
        z = jnp.cos(jnp.arange(size))
        slope = jax.jvp(exact, (target.x,), (z,))[1] * target.sigma
        return t, target[:5], trace, jacobian, jnp.max(jnp.abs(target.slope(z) - slope))

    found = jax.device_get(at(jax.random.split(jax.random.key(0), 10)))
    times, target, trace, jacobian, slope = found
    assert slope.max() < 1e-12
    assert trace.max() < 1e-18
    assert jacobian.max() < 1e-18
    for t, x, velocity, noise, *_ in zip(times, *target, strict=True):
        means, deviations = t * mixture.means, np.hypot(t * mixture.deviations, 1 - t)
        logs = [
            np.log(w) + scipy.stats.norm.logpdf(x, m, s).sum()
            for w, m, s in zip(mixture.weights, means, deviations, strict=True)
        ]
        share = scipy.special.softmax(logs)
        scores = (means - x) / deviations[:, None] ** 2
        np.testing.assert_allclose(noise, -(1 - t) * share @ scores, atol=1e-11)
        slopes = (t * mixture.deviations**2 - (1 - t)) / deviations**2
        speeds = mixture.means + slopes[:, None] * (x - means)
        np.testing.assert_allclose(velocity, share @ speeds, atol=1e-11)


@pytest.mark.slow
def test_euler_steps_of_a_linear_field_make_a_known_gaussian(x64):
    matrix = np.array([[0.3, -0.8], [0.5, -1.4]])
    noise = jax.random.normal(jax.random.key(1), (5, 2))
    velocity = lambda x, t: (1 + t) * (matrix @ x)
    x, log_q = jax.vmap(partial(measures.euler, velocity, num_steps=4))(noise)
    product = np.eye(2)
    for t in np.arange(4) / 4:
        product = (np.eye(2) + 0.25 * (1 + t) * matrix) @ product
    np.testing.assert_allclose(x, noise @ product.T, rtol=1e-12)
    law = scipy.stats.multivariate_normal(cov=product @ product.T)
    np.testing.assert_allclose(log_q, law.logpdf(x), rtol=1e-12)


@pytest.mark.slow
def test_distances_of_a_law_that_is_too_wide_are_those_of_two_gaussians():
    # The path to N(0, s^2) from noise is x(t) = x(0) sqrt(v(t)); of s = 1.5 in the place of 0.5.
    def velocity(x, t):
        variance = (1.5 * t) ** 2 + (1 - t) ** 2
        return (1.5**2 * t - (1 - t)) / variance * x

    narrow = _laws.Mixture(np.ones(1), np.zeros((1, 1)), np.array([0.5]))
    keys = jax.random.split(jax.random.key(2), 20_000)
    found = jax.jit(partial(measures.distances, narrow, velocity))(keys)
    ratio = 0.5 / 1.5
    forwards, backwards = (0.5 * (r**2 - 1) - np.log(r) for r in (ratio, 1 / ratio))
    # The spread of log p - log q is that of 0.5 (1 - r^2) x^2, of x^2 over its mean.
    assert abs(found["kl"] - forwards) < 5 * 0.5 * (1 - ratio**2) * 2**0.5 / 20_000**0.5
    spread = 0.5 * (1 / ratio**2 - 1) * 2**0.5 / 20_000**0.5
    assert abs(found["kl_euler_64"] - backwards) < 5 * spread + 0.1  # and 64 steps
    assert found["kl_euler_4"] < found["kl_euler_16"]  # few steps make too narrow a law
    line = np.linspace(-12, 12, 20_001)
    p, q = (scipy.stats.norm.pdf(line, scale=s) for s in (0.5, 1.5))
    exact = 0.5 * np.abs(p - q).sum() * (line[1] - line[0])
    assert abs(found["tv"] - exact) < 5 * 0.5 / 20_000**0.5


def test_a_field_that_runs_away_counts_a_million_nats():
    keys = jax.random.split(jax.random.key(2), 4)
    away = jax.jit(partial(measures.distances, _laws.LINE, lambda x, t: 1e30 * x))(keys)
    assert float(away.pop("tv")) == 1.0
    assert {float(value) for value in away.values()} == {1e6}


def test_moments_are_those_of_the_mixture(key):
    for mixture in (_laws.PLANE, _laws.FAR):
        x = jax.vmap(partial(_laws.sample, mixture=mixture))(jax.random.split(key, 4000))
        mean, std = training.moments(mixture)
        assert np.abs((x.mean(axis=0) - mean) / std).max() < 5 / 4000**0.5
        np.testing.assert_allclose(x.std(axis=0), std, rtol=0.15)


@pytest.mark.slow
def test_a_run_of_a_few_steps_and_the_same_again(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(convergence, "METHODS", FEW)
    config = tiny.replace(TINY, workdir=str(tmp_path))
    convergence.main(config)
    printed = capsys.readouterr().out
    found = json.loads((tmp_path / "results.json").read_text())["line"]
    rows = found["budgets"]
    # The Jacobian of one dimension is left out.
    assert list(rows) == ["FM", "exact field, divergence"]
    assert [list(row) for row in rows.values()] == [["10"], ["10"]]
    assert rows["FM"]["10"] == found["widths"]["FM"]["8"]
    tried = found["weights"]["exact field, divergence"]
    assert tried["weight"] == min((0.1, 3.0), key=lambda w: np.mean(tried["kl"][f"{w:g}"]))
    assert abs(found["exact"]["kl"]) < 1e-2 < np.min(rows["FM"]["10"]["kl"])
    assert found["exact"]["flow"] < 1e-9
    for name, row in rows.items():
        assert np.shape(row["10"]["kl"]) == (2,)
        assert row["10"]["weight"] == found["weights"][name]["weight"]
    assert rows["FM"]["10"]["cost"] == 1.0
    assert rows["FM"]["10"]["kl"] != rows["exact field, divergence"]["10"]["kl"]
    tiny.check_pictures(tmp_path / "figures", {"time", "weights", "widths", "samplers"})
    assert "line, 10 steps" in printed
    # The networks, both trained and neither alike.
    for index, seed in enumerate(TINY.seeds):
        run = experiments.run.load(tmp_path, f"line/FM/steps_10/seed_{seed}")
        keys = jax.random.split(jax.random.key(1), 16)
        again = jax.jit(partial(measures.distances, run.data, run.velocity))(keys)
        assert float(again["kl"]) == pytest.approx(rows["FM"]["10"]["kl"][index], rel=1e-4)
    start, _ = training.start(convergence.cell(config, "line", "FM"))
    file = convergence.place(tmp_path, convergence.cell(config, "line", "FM"))
    moved = jax.tree.map(lambda a, b: float(np.abs(a - b).max()), start, _as(start, f"{file}.npz"))
    assert max(jax.tree.leaves(moved)) > 1e-3
    # Everything is read back, and the numbers are the same.
    monkeypatch.setattr(convergence, "measured", None)
    convergence.main(config)
    assert json.loads((tmp_path / "results.json").read_text())["line"] == found
    assert capsys.readouterr().out[-len(tables.table("line", found)) :] in printed


def _as(tree, file):
    """Returns the arrays of a file in the structure of a tree."""
    return jax.tree.unflatten(jax.tree.structure(tree), jax.tree.leaves(arrays.read(file)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"laws": ("sphere",)}, "laws must be of line, plane, space, far"),
        ({"seeds": (1, 1)}, "seeds must be different"),
        ({"tuning_seeds": (3,)}, "seeds and tuning_seeds must differ"),
        ({"budgets": (20, 10)}, "budgets must increase"),
        ({"budgets": (15,)}, "budgets multiples of 10"),
        ({"weights": (float("nan"),)}, "weights must increase and be at least"),
        ({"weights": (float("inf"),)}, "weights must be finite"),
        ({"batch_size": 0}, "batch_size"),
    ],
)
def test_options_are_checked_before_anything_is_made(options, message, tmp_path):
    config = tiny.replace(TINY, workdir=str(tmp_path / "run"), **options)
    with pytest.raises(ValueError, match=message):
        convergence.main(config)
    assert not (tmp_path / "run").exists()
