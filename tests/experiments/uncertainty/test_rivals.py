"""The rivals of U and what they cost; samples of few steps; one model's maps against another's."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import linalg, stats

import fmjax
from experiments.images import data, features
from experiments.uncertainty._onestep import tables
from experiments.uncertainty._posterior import rivals
from tests.oracles import flows

PATH = fmjax.paths.linear()
PRIOR = np.array([0.25, 1.0, 4.0])


def _gaussian(x, t, key=None):
    """The velocity to N(0, diag PRIOR); a key adds what a dropped feature would."""
    v = (PRIOR.astype(x.dtype) * t - (1 - t)) / (PRIOR.astype(x.dtype) * t**2 + (1 - t) ** 2) * x
    return v if key is None else v + jax.random.normal(key, x.shape, x.dtype)


def _posterior_variance(t):
    return PRIOR * (1 - t) ** 2 / (PRIOR * t**2 + (1 - t) ** 2)


@pytest.mark.slow
def test_the_exact_map_and_the_probes_against_the_closed_form():
    x, t = jnp.array([0.3, -1.0, 0.8]), 0.4
    covariance = np.linalg.inv(np.linalg.inv(flows.SIGMA) + (t / (1 - t)) ** 2 * np.eye(3))
    ours = rivals.exact(PATH, flows.gaussian_velocity, jax.random.key(0), x, t)
    np.testing.assert_allclose(ours, np.diag(covariance), rtol=1e-4)
    probes = functools.partial(fmjax.estimators.hutchinson, num_probes=16)
    one = lambda key: rivals.one_probe(PATH, flows.gaussian_velocity, key, x, t)
    sixteen = lambda key: rivals.estimated(probes, PATH, flows.gaussian_velocity, key, x, t)
    variances = []
    for function in (one, sixteen):
        values = np.asarray(jax.jit(jax.vmap(function))(jax.random.split(jax.random.key(1), 4000)))
        assert abs(values.mean() - np.trace(covariance)) < 5 * stats.sem(values)
        variances.append(values.var())
    assert variances[0] / variances[1] == pytest.approx(16, rel=0.25)


@pytest.mark.slow
def test_the_diagonal_by_products_on_a_posterior_of_low_rank(x64):
    prior = jnp.concatenate([jnp.array([4.0, 2.0, 1.0, 0.5]), jnp.full(36, 1e-6)])
    turn = jnp.asarray(np.linalg.qr(np.random.default_rng(0).normal(size=(40, 40)))[0])
    gaussian = lambda x, t: (prior * t - (1 - t)) / (prior * t**2 + (1 - t) ** 2) * x
    velocity = lambda x, t: turn @ gaussian(turn.T @ x, t)
    nystrom = functools.partial(fmjax.estimators.xnysdiag, num_probes=16)
    ours = rivals.estimated(nystrom, PATH, velocity, jax.random.key(0), jnp.ones(40), 0.5)
    truth = (turn**2) @ (0.25 * prior / (0.25 * prior + 0.25))
    np.testing.assert_allclose(ours, truth, atol=2e-5)


@pytest.mark.slow
@pytest.mark.parametrize("t", [0.2, 0.6])
def test_the_variance_of_the_seeds_is_that_of_the_posterior(t):
    x, num_seeds = jnp.array([0.5, -1.0, 0.7]), 20_000
    ours = jax.jit(lambda key: rivals.seeds(num_seeds, 20, PATH, _gaussian, key, x, t))(
        jax.random.key(2)
    )
    truth = _posterior_variance(t)
    # Five standard errors of a variance, and a hundredth of the data's for the steps.
    assert (abs(ours - truth) < 5 * truth * (2 / num_seeds) ** 0.5 + 0.01 * PRIOR).all()


@pytest.mark.slow
def test_the_ensemble_and_dropout_against_numpy(x64):
    x, t, key = jnp.array([0.5, -1.0, 0.7]), 0.3, jax.random.key(3)
    velocities = [lambda x, t, a=a: a * x**2 - t for a in (0.5, 1.0, 3.0)]
    # On the linear path the mean is x + (1 - t) v.
    means = [np.asarray(x) + 0.7 * (a * np.asarray(x) ** 2 - 0.3) for a in (0.5, 1.0, 3.0)]
    ours = rivals.ensemble(PATH, *velocities, key, x, t)
    np.testing.assert_allclose(ours, np.var(means, axis=0, ddof=1), rtol=1e-12)
    dropped = [0.7 * jax.random.normal(k, (3,)) for k in jax.random.split(key, 6)]
    ours = rivals.dropout(6, PATH, _gaussian, key, x, t)
    np.testing.assert_allclose(ours, np.var(dropped, axis=0, ddof=1), rtol=1e-12)


# Costs

HIDDEN, SIZE = 7, 64  # no other array of these programs has an axis of 7
W = [np.random.default_rng(i).normal(size=(HIDDEN, SIZE)) / 8 for i in range(2)]


def _network(params, x, t, key=None):
    """Two products with matrices, so that passes can be counted; a key drops features."""
    kept = 1.0 if key is None else jax.random.bernoulli(key, 0.9, (SIZE,))
    hidden = jnp.tanh(jnp.asarray(W[0], x.dtype) @ (kept * x.ravel()) + t)
    return params * (jnp.asarray(W[1], x.dtype).T @ hidden).reshape(x.shape)


def _multiplications(jaxpr):
    """Counts the multiplications of the network's matrices that a program runs, loops unrolled."""
    total = 0
    for equation in jaxpr.eqns:
        name, parts = equation.primitive.name, jax.tree.leaves(tuple(equation.params.values()))
        inside = [getattr(part, "jaxpr", part) for part in parts]
        inner = sum(_multiplications(part) for part in inside if hasattr(part, "eqns"))
        assert not (inner and name in {"while", "cond"}), "how often it runs is not known"
        total += inner * equation.params.get("length", 1)  # of a scan
        if name == "dot_general" and any(HIDDEN in v.aval.shape for v in equation.invars):
            (contracted, _), _ = equation.params["dimension_numbers"]
            summed = np.prod([equation.invars[0].aval.shape[i] for i in contracted], dtype=int)
            total += int(summed) * equation.outvars[0].aval.size
    return total


def _chosen(size=SIZE, **options):
    options = {"dropout_passes": 5, "sde_seeds": 18, "sde_steps": 2, "networks": 3} | options
    return rivals.methods(PATH, size, training_passes=1000, **options)


@pytest.mark.parametrize("name", list(_chosen()))
def test_the_passes_are_those_that_are_run(name):
    method, x = _chosen()[name], jnp.ones((8, 8, 1))

    def run(network, count):
        velocities = [functools.partial(network, 1.0 + i) for i in range(count)]
        return lambda key, x, t: method.run(*velocities, key, x, t)

    program = jax.make_jaxpr(run(_network, method.networks))(jax.random.key(0), x, 0.5)
    assert _multiplications(program.jaxpr) / (2 * HIDDEN * SIZE) == method.passes


def test_the_passes_where_products_are_as_many_as_entries():
    x = jnp.ones((5, 6, 1))
    small = lambda x, t: (jnp.asarray(W[1][:, :30].T) @ jnp.tanh(W[0][:, :30] @ x.ravel())).reshape(
        x.shape
    )
    method = _chosen(30)["U, XNysDiag with 16 probes"]
    program = jax.make_jaxpr(lambda *rest: method.run(small, *rest))(jax.random.key(0), x, 0.5)
    assert _multiplications(program.jaxpr) / (2 * HIDDEN * 30) == method.passes


def test_what_is_left_out_and_what_training_costs():
    every = _chosen()
    assert [name for name, method in every.items() if method.training] == ["ensemble of 3"]
    assert every["ensemble of 3"].training == 2000  # one of the three is there anyway
    names = set(_chosen(networks=1, dropout_passes=0))
    assert set(every) - names == {"ensemble of 3", "dropout, 5 passes"}


@pytest.mark.slow
def test_the_comparison_and_its_costs():
    rng = np.random.default_rng(0)
    networks, key = [jnp.float32(a) for a in (1.0, 2.0, 3.0)], jax.random.key(0)
    by_time = {
        t: {"noised": np.float32(rng.normal(size=(5, 8, 8, 1))), "error": rng.gamma(2.0, size=5)}
        for t in (0.3, 0.7)
    }
    chosen = _chosen()
    compiled = rivals.compile_all(_network, networks, chosen)
    rows, arrays = rivals.compare(compiled, by_time, key, size=2)
    assert [(row["method"], row["t"]) for row in rows] == list(itertools.product(chosen, by_time))
    for row in rows:
        values, error = arrays[row["method"]][row["t"]], by_time[row["t"]]["error"]
        probed = "Hutchinson" in row["method"]
        assert values.shape == ((5,) if probed else (5, 8, 8, 1))
        score = np.float64(values).reshape(5, -1).sum(axis=1)
        assert row["num_images"] == 5
        assert row["mean_score"] == pytest.approx(score.mean(), rel=1e-4)
        assert row["ratio"] == pytest.approx(error.mean() / score.mean(), rel=1e-4)
        assert row["pearson"] == pytest.approx(stats.pearsonr(score, error)[0], abs=1e-3)
        assert row["spearman"] == pytest.approx(stats.spearmanr(score, error)[0], abs=1e-3)
    for t, measured in by_time.items():
        # The first network is the one that is scored, all three are the ensemble.
        x = measured["noised"][3]
        ours = arrays["U, exact"][t][3]
        truth = rivals.exact(PATH, functools.partial(_network, networks[0]), key, x, t)
        np.testing.assert_allclose(ours, truth, atol=1e-5)
        means = [x + (1 - t) * np.asarray(_network(p, x, t)) for p in networks]
        ours = arrays["ensemble of 3"][t][3]
        np.testing.assert_allclose(ours, np.var(means, axis=0, ddof=1), rtol=1e-3, atol=1e-6)
    costs = rivals.costs(compiled, chosen, by_time[0.3]["noised"][:2])
    assert [row["method"] for row in costs] == list(chosen)
    assert costs[0]["method"] == rivals.FORWARD
    assert (costs[0]["passes"], costs[0]["time_ratio"]) == (1, 1.0)
    assert all(row["milliseconds"] > 0 and row["time_ratio"] > 0 for row in costs)
    assert [row["passes"] for row in costs] == [method.passes for method in chosen.values()]


# Samples of few steps


def _images(n=40, m=25):
    rng = np.random.default_rng(0)
    draw = lambda n: np.uint8(17 * rng.beta(0.7, 1.6, (n, 3, 3, 1)))
    return data.Images(draw(n), draw(m), 17)


def _frechet(x, y):
    """The distance by the root of a matrix, in float64."""
    (a, b), (c, d) = ((z.mean(axis=0), np.cov(z, rowvar=False)) for z in (x, y))
    # A little on the diagonal: the root of a singular product has no digits.
    noise = 1e-10 * np.eye(len(a))
    root = linalg.sqrtm((b + noise) @ (d + noise)).real
    return ((a - c) ** 2).sum() + np.trace(b + d - 2 * root)


@pytest.mark.slow
@pytest.mark.parametrize("num_features", [64, 4])
def test_the_frechet_distance_against_scipy(num_features, monkeypatch):
    monkeypatch.setattr(features, "_NUM_FEATURES", num_features)
    images, rng = _images(), np.random.default_rng(1)
    drawn = {
        "MeanFlow": {1: np.float32(rng.normal(size=(60, 3, 3, 1)))},
        "flow": {50: np.float32(rng.uniform(-1, 0.5, size=(60, 3, 3, 1)))},
    }
    rows = tables.table(drawn, images)
    train, held_out = ((2.0 * a.reshape(-1, 9) + 1) / 17 - 1 for a in images[:2])
    _, vectors = np.linalg.eigh(np.cov(train, rowvar=False))
    project = lambda x: np.float64(x).reshape(len(x), -1) @ vectors[:, -num_features:]
    expected = [
        ("MeanFlow", 1, drawn["MeanFlow"][1][:25]),  # as many as there are held-out images
        ("flow", 50, drawn["flow"][50][:25]),
        ("held-out images", 0, held_out),
    ]
    assert len(rows) == 3
    for row, (model, steps, x) in zip(rows, expected, strict=True):
        assert (row["model"], row["steps"], row["num_samples"]) == (model, steps, 25)
        truth = _frechet(project(x), project(train))
        assert row["frechet"] == pytest.approx(truth, rel=1e-3)


@pytest.mark.slow
def test_a_sample_of_the_images_themselves_is_nearest():
    images = _images(400, 400)
    centered = data.centers(images.train, 17)
    drawn = {"flow": {1: np.random.default_rng(2).permutation(centered), 2: centered + 0.5}}
    same, moved, held_out = tables.table(drawn, images)
    assert same["frechet"] == pytest.approx(0.0, abs=1e-3)
    assert moved["frechet"] == pytest.approx(9 * 0.25, rel=1e-2)
    assert 0.0 < held_out["frechet"] < 0.2


@pytest.mark.slow
def test_samples_are_drawn_by_each_models_sampler_from_the_same_noise():
    noise = jax.random.normal(jax.random.key(0), (70, 2, 2, 1))
    models = {"MeanFlow": ("one", jnp.float32(2.0)), "flow": ("two", jnp.float32(3.0))}
    sampler = lambda factor: (
        lambda apply, steps, params, x: factor * params * x + steps + len(apply)
    )
    drawn = tables.sample(
        models, {"flow": sampler(10), "MeanFlow": sampler(1)}, (1, 4), noise, size=64
    )
    for name, factor in (("MeanFlow", 2.0), ("flow", 30.0)):
        assert list(drawn[name]) == [1, 4]
        for steps in (1, 4):
            np.testing.assert_allclose(drawn[name][steps], factor * noise + steps + 3, rtol=1e-5)


def _random(*shape):
    return np.float32(np.random.default_rng(sum(shape)).gamma(2.0, size=shape))


@pytest.mark.slow
def test_the_agreement_of_two_models_against_numpy():
    ours, theirs = (
        {
            "uncertainty": _random(6 + i)[:6],
            "variance": _random(6 + i, 3, 2, 1)[:6],
            "mean": _random(7 + i, 3, 2, 1)[:6],
        }
        for i in (0, 1)
    )
    row = tables.agreement(0.5, ours, theirs)
    u, v = ours["uncertainty"], theirs["uncertainty"]
    assert (row["t"], row["num_images"]) == (0.5, 6)
    assert row["u_ratio"] == pytest.approx(u.mean() / v.mean(), rel=1e-5)
    assert row["u_correlation"] == pytest.approx(np.corrcoef(u, v)[0, 1], abs=1e-5)
    pixels = zip(ours["variance"], theirs["variance"], strict=True)
    maps = [np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in pixels]
    assert row["map_correlation"] == pytest.approx(np.mean(maps), abs=1e-5)
    gap = np.sqrt(np.mean((ours["mean"] - theirs["mean"]) ** 2))
    assert row["rms_mean_difference"] == pytest.approx(gap, rel=1e-5)


@pytest.mark.slow
def test_the_maps_of_one_step_samples_against_numpy():
    made = {
        "sample": _random(7, 3, 2, 1),
        "renoised": _random(7, 2, 3, 2, 1),
        "sensitivity": _random(7, 3, 2, 1) ** 2,
        "prior": _random(3, 2, 1),
    }
    found = tables.one_step(made, (0.3, 0.7))
    total = made["sensitivity"].sum(axis=(1, 2, 3))
    assert found["num_samples"] == 7
    assert found["prior"] == pytest.approx(made["prior"].sum(), rel=1e-5)
    assert found["sensitivity_mean"] == pytest.approx(total.mean(), rel=1e-5)
    np.testing.assert_allclose(
        found["sensitivity_5_50_95"], np.percentile(total, [5, 50, 95]), rtol=1e-5
    )
    for index, row in enumerate(found["renoised"]):
        renoised = made["renoised"][:, index]
        sums = renoised.sum(axis=(1, 2, 3))
        assert row["t"] == (0.3, 0.7)[index]
        assert row["mean_renoised"] == pytest.approx(sums.mean(), rel=1e-5)
        assert row["correlation_of_totals"] == pytest.approx(
            np.corrcoef(sums, total)[0, 1], abs=1e-5
        )
        pairs = zip(renoised, made["sensitivity"], strict=True)
        pixels = [np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in pairs]
        assert row["correlation_of_maps"] == pytest.approx(np.mean(pixels), abs=1e-5)
