"""The ablations of FDM: their exact fields, their measures, and a run of a few steps."""

import json
from functools import partial

import jax
import jax.numpy as jnp
import matplotlib.image
import numpy as np
import pytest
import scipy.stats

import experiments.run
from experiments.fdm import _laws, ablations
from experiments.fdm._ablations import measures, variants
from experiments.fdm._errors import RUN_AWAY, errors, sample_pair
from fmjax import divergence, losses, path_error
from tests.oracles import tiny

TINY = tiny.config(
    ablations.Config,
    problems=("plane",),
    seeds=(0, 3),
    num_steps=10,
    batch_size=8,
    width=4,
    num_points=6,
    num_trajectories=3,
    grid_points=5,
)
FEW = {
    "flow matching": variants.VARIANTS["flow matching"],
    "1 probe, half the batch": variants.VARIANTS["1 probe, half the batch"],
}


@pytest.mark.slow
@pytest.mark.parametrize("mixture", [_laws.LINE, _laws.SPACE])
def test_density_and_velocity_of_a_mixture(mixture, x64):
    density = partial(_laws.log_density, mixture)
    field = partial(_laws.velocity, mixture)

    @jax.jit
    @jax.vmap
    def at(key):
        x0, x1, t = sample_pair(mixture, key)
        x = t * x1 + (1 - t) * x0
        r = path_error.residual(density, field, x, t)
        return x, t, density(x, t), r / (1.0 + jnp.sum(field(x, t) ** 2))

    states, times, logs, residuals = at(jax.random.split(jax.random.key(0), 20))
    # The continuity equation, by derivatives of the density.
    assert float(jnp.max(jnp.abs(residuals))) < 1e-10
    for x, t, log_p in zip(states, times, logs, strict=True):
        parts = [
            w * scipy.stats.multivariate_normal.pdf(x, t * m, (t * s) ** 2 + (1 - t) ** 2)
            for w, m, s in zip(*mixture, strict=True)
        ]
        assert float(log_p) == pytest.approx(np.log(np.sum(parts)), rel=1e-10)
    assert mixture.weights.sum() == pytest.approx(1.0)


@pytest.mark.slow
def test_samples_of_a_mixture_have_its_moments():
    mixture, n = _laws.PLANE, 20_000
    x = jax.vmap(partial(_laws.sample, mixture=mixture))(jax.random.split(jax.random.key(0), n))
    mean = mixture.weights @ mixture.means
    squares = mixture.weights @ (mixture.means**2 + mixture.deviations[:, None] ** 2)
    for values, expected in ((x, mean), (x**2, squares)):
        z = (values.mean(axis=0) - expected) / (values.std(axis=0) / n**0.5)
        assert float(jnp.max(jnp.abs(z))) < 5


@pytest.mark.slow
def test_the_exact_field_has_no_error():
    mixture = _laws.PLANE
    field = partial(_laws.velocity, mixture)
    keys = jax.random.split(jax.random.key(0), 64)

    @jax.jit
    def all_of(scale):
        moved = lambda x, t: scale * field(x, t)
        return (
            errors(mixture, moved, keys),
            measures.laws(mixture, moved, keys, 30),
        )

    error, laws = all_of(1.0)
    assert max(float(e) for e in error.values()) < 1e-5
    assert abs(float(laws["relative_entropy"])) < 2e-3  # the solver's
    assert max(float(v) for v in laws["total_variation"].values()) < 2e-3
    error, laws = all_of(0.7)
    assert min(float(e) for e in error.values()) > 1e-3
    assert float(laws["relative_entropy"]) > 0.05
    assert float(laws["total_variation"]["1"]) > 0.05


@pytest.mark.slow
def test_smoothness_of_a_linear_field():
    matrix = np.array([[0.3, -0.8], [0.5, 0.4]], np.float32)
    field = lambda x, t: (1 + t) * (jnp.asarray(matrix) @ x)
    found = jax.jit(partial(measures.smoothness, field))(jnp.ones((3, 2)))
    growth = 1 + measures.TIMES
    norm = np.linalg.norm(matrix, 2)
    for name, size in (("norm", norm), ("divergence", np.trace(matrix) / 2)):
        np.testing.assert_allclose(found[f"{name}_mean"], growth * size, rtol=1e-4)
        np.testing.assert_allclose(found[f"{name}_max"], growth * size, rtol=1e-4)


@pytest.mark.slow
def test_the_wrong_matchings_differ_where_they_should(x64):
    x0, x1 = jnp.array([0.7, -1.2]), jnp.array([1.5, 0.2])
    target = losses.of_pair(_laws.path, x0, x1, 0.4)
    options = {"divergence": divergence.unrolled}

    def slope(match, theta):
        field = lambda x: theta[0] * jnp.sin(x) + theta[1] * jnp.array([x[1], 0.3])
        return match(field, target, **options)[1]

    theta = jnp.array([0.6, -0.4])
    both = lambda match: jax.value_and_grad(partial(slope, match))(theta)
    square, gradient = both(losses.match_trace)
    other, without = both(variants.match_without_stop)
    root, absolute = both(variants.match_absolute)
    assert float(other) == pytest.approx(float(square), rel=1e-12)
    assert float(root) == pytest.approx(float(square) ** 0.5, rel=1e-12)
    np.testing.assert_allclose(2 * root * absolute, gradient, rtol=1e-10)
    # The direction without a divergence is seen through the score alone.
    assert float(gradient[1]) == 0.0
    assert abs(float(without[1])) > 0.01


@pytest.mark.slow
def test_the_bias_without_stop_gradient():
    # 3.446 by quadrature over pairs (tests/fmjax/test_matching.py).
    found = variants.bias(jax.random.key(0), count=20_000)
    for name, expected in (("with", 0.0), ("without", 3.446)):
        row = found[name]
        assert abs(row["gradient"] - expected) < 5 * row["standard_error"]
        assert row["standard_error"] < 0.2


def _refuse(*_):
    raise AssertionError


@pytest.mark.slow
def test_a_run_of_a_few_steps_and_the_same_again(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(ablations, "VARIANTS", FEW)
    monkeypatch.setattr(variants, "bias", lambda _: {"with": {"gradient": 0, "standard_error": 0}})
    config = tiny.replace(TINY, workdir=str(tmp_path))
    ablations.main(config)
    printed = capsys.readouterr().out
    found = json.loads((tmp_path / "results.json").read_text())
    assert list(found["plane"]) == list(FEW)
    for row in found["plane"].values():
        assert np.shape(row["curve"]["flow"]) == (10, 2)  # points of the curve, seeds
        assert np.isfinite(row["relative_entropy"]).all()
        assert set(row["total_variation"]) == {"0.5", "0.9", "1"}
    plain, half = found["plane"].values()
    assert plain["curve"]["flow"] != half["curve"]["flow"]
    assert plain["time"] == 1.0
    assert half["time"] > 0
    for name in ("bars", "curves", "derivatives"):
        picture = matplotlib.image.imread(tmp_path / "figures" / f"plane_{name}.png")
        assert picture.std() > 0.05
    # The networks too.
    (name, row), keys = list(found["plane"].items())[1], jax.random.split(jax.random.key(1), 6)
    for index, seed in enumerate(TINY.seeds):
        run = experiments.run.load(tmp_path, f"plane/{name}/seed_{seed}")
        error = errors(run.data, run.velocity, keys)
        np.testing.assert_allclose(error["flow"], row["curve"]["flow"][-1][index], rtol=1e-5)
    # Every variant is read back, and the numbers are the same.
    monkeypatch.setattr(ablations, "run", _refuse)
    ablations.main(config)
    assert json.loads((tmp_path / "results.json").read_text()) == found
    assert capsys.readouterr().out == printed


@pytest.mark.slow
@pytest.mark.parametrize("factor", [1e3, np.nan])
def test_a_network_that_runs_away_marks_its_own_numbers(factor):
    states, _ = ablations.start(TINY, ablations.PROBLEMS["plane"])
    wild = jax.tree.map(lambda a: a.at[1].multiply(factor), states.params)
    error = jax.device_get(ablations._errors(TINY.measures, "plane", wild))
    law = jax.device_get(ablations._law(TINY.measures, "plane", wild))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((error, law)))
    assert error["flow"][1] == law["relative_entropy"][1] == RUN_AWAY
    assert error["flow"][0] < 10.0
    assert law["relative_entropy"][0] < 10.0
    assert law["total_variation"]["1"][1] == 1.0 or not np.isnan(factor)
    row = {"time": 1.0, "curve": {name: [e] for name, e in error.items()}, **law}
    line = ablations.table("plane", {"x": row}).split("\n")[1]
    # The flow error, the error of the divergence and KL; not the total variation, a number up to 1.
    assert line.count("ran away") == 3
    assert "±" in line


@pytest.mark.slow
def test_variants_share_their_start_and_their_data():
    problem = ablations.PROBLEMS["plane"]
    states, keys = ablations.start(TINY, problem)
    kernels = states.params["layer_0"]["kernel"]
    assert kernels.shape == (2, 3, 4)
    assert float(jnp.abs(kernels[0] - kernels[1]).max()) > 0.1  # seeds differ
    losses_seen = []
    for variant in (FEW["flow matching"], variants.Variant(variants.exact, weight=1e-12)):
        step = ablations.make_step(TINY.training, problem, variant)
        first = jax.jit(jax.vmap(lambda s, k, step=step: step(s, k, None)[1].loss))
        losses_seen.append(first(states, keys))
    np.testing.assert_allclose(losses_seen[1], losses_seen[0], rtol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"problems": ("line",)}, "problems must be of plane, space"),
        ({"seeds": (1, 1)}, "seeds must be different"),
        ({"num_steps": 15}, "num_steps must be a multiple of 10"),
        ({"batch_size": 2}, "batch_size"),
    ],
)
def test_options_are_checked_before_anything_is_made(options, message, tmp_path):
    config = tiny.replace(TINY, workdir=str(tmp_path / "run"), **options)
    with pytest.raises(ValueError, match=message):
        ablations.main(config)
    assert not (tmp_path / "run").exists()
