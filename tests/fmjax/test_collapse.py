"""The collapse time against SciPy's root finder and closed forms, and against what it predicts."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize, stats

from fmjax import collapse, empirical, paths

PATHS = {
    "linear": paths.linear(),
    "some noise left": paths.linear(0.05),
    "cosine": paths.cosine(),
    "vp": paths.vp(),
    "own": paths.Path(alpha=lambda t: t**2, sigma=lambda t: jnp.exp(-2 * t)),
}
VARIANCES = np.array([4.0, 1.3, 0.2, 1e-3, 0.0])


@pytest.mark.parametrize("name", PATHS)
def test_the_information_is_what_the_noise_leaves_of_the_entropy(name, x64):
    # h(x_t) - h(x_t | x1) of a covariance that is not diagonal.
    path = PATHS[name]
    rotation = stats.ortho_group.rvs(5, random_state=0)
    covariance = rotation * VARIANCES @ rotation.T
    for t in (0.1, 0.6, 0.93):
        alpha, sigma = float(path.alpha(jnp.float64(t))), float(path.sigma(jnp.float64(t)))
        noise = sigma**2 * np.eye(5)
        law = lambda c: stats.multivariate_normal(np.zeros(5), c).entropy()
        expected = law(alpha**2 * covariance + noise) - law(noise)
        found = collapse.information(path, jnp.asarray(VARIANCES), t)
        assert float(found) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("name", PATHS)
def test_the_time_against_brentq(name, x64):
    path, variances = PATHS[name], jnp.asarray(VARIANCES)
    times = jax.jit(partial(collapse.collapse_time, path, variances))

    def excess(t, n):
        ratio = float(path.alpha(jnp.float64(t)) / path.sigma(jnp.float64(t)))
        return 0.5 * np.log1p(ratio**2 * VARIANCES).sum() - np.log(n)

    for n in (3.0, 20.0, 50.0):
        root = optimize.brentq(excess, 1e-6, 1 - 1e-12, args=(n,), xtol=1e-14)
        assert float(times(n)) == pytest.approx(root, abs=1e-12)


@pytest.mark.slow
def test_one_variance_in_closed_form():
    s = 0.5
    for d, n in ((2, 50_000), (64, 1438), (3072, 20_000)):
        ratio = np.sqrt(n ** (2 / d) - 1) / s
        found = collapse.collapse_time(paths.linear(), jnp.full(d, s**2), n)
        assert float(found) == pytest.approx(ratio / (1 + ratio), rel=2e-5)
        assert found.dtype == jnp.float32


@pytest.mark.slow
def test_derivatives_are_those_of_the_root(x64):
    # r = sqrt(n^(2/d) - 1) / s and t = r / (1 + r), by hand.
    def time(variance, n):
        return collapse.collapse_time(paths.linear(), jnp.full(6, variance), n)

    def by_hand(variance, n):
        ratio = jnp.sqrt((n ** (1 / 3) - 1) / variance)
        return ratio / (1 + ratio)

    for argument in (0, 1):
        ours, theirs = (jax.grad(f, argument)(0.7, 300.0) for f in (time, by_hand))
        assert float(ours) == pytest.approx(float(theirs), rel=1e-10)


@pytest.mark.slow
def test_where_there_is_no_such_time():
    time = collapse.collapse_time
    assert float(time(paths.linear(), jnp.ones(3), 1)) < 1e-6  # one point is known at once
    assert float(time(paths.ve(sigma_max=0.1), jnp.ones(3), 2)) < 1e-6  # already at the start
    assert float(time(paths.linear(0.5), jnp.ones(3), 1e6)) == 1.0  # noise is left at the end
    assert float(time(paths.linear(), jnp.zeros(3), 2)) == 1.0  # copies of one point


@pytest.mark.slow
def test_the_field_collapses_when_it_is_predicted():
    # The mean weight of the point that made the state, before, at and after the time.
    n, path, spread = 3000, paths.linear(), jnp.linspace(0.2, 2.0, 30)
    keys = jax.random.split(jax.random.key(0), 2)
    bank = 0.5 + spread[None] * jax.random.normal(keys[0], (n, 30))
    noise = jax.random.normal(keys[1], (200, 30))
    center = collapse.collapse_time(path, spread**2, n)

    @jax.jit
    @partial(jax.vmap, in_axes=(0, 0, None))
    def weight(index, x0, t):
        x = paths.interpolate(path, x0, bank[index], t)
        return empirical.weights(path, bank, x, t)[index]

    before, at, after = (weight(jnp.arange(200), noise, f * center).mean() for f in (0.6, 1, 1.4))
    assert before < 0.05
    assert 0.45 < at < 0.7  # elsewhere 0.53 to 0.61
    assert after > 0.95


def test_mistakes_are_named():
    with pytest.raises(ValueError, match=r"n must be at least 1, got 0\.5: it counts"):
        collapse.collapse_time(paths.linear(), jnp.ones(2), 0.5)
    with pytest.raises(ValueError, match="n must be at least 1, got nan"):
        collapse.collapse_time(paths.linear(), jnp.ones(2), float("nan"))
    with pytest.raises(ValueError, match=r"sigma must be positive, got 0\.0 at t = 1\.0"):
        collapse.information(paths.linear(), jnp.ones(2), 1.0)


def test_what_is_no_number_gives_none():
    time = jax.jit(lambda variances, n: collapse.collapse_time(paths.linear(), variances, n))
    ones = jnp.ones(3)
    for variances, n in ((ones.at[1].set(jnp.nan), 9.0), (-ones, 9.0), (ones, jnp.nan)):
        assert jnp.isnan(time(variances, n))
    assert jnp.isfinite(time(ones, 9.0))


def test_copies_and_the_entropy_of_the_data_set():
    points = np.float32([[0.5, 1], [2, 0], [0.5, 1], [0.5, 2], [0.5, 1], [2, 0]])
    groups = collapse.groups(points)
    same = (points[:, None] == points[None]).all(axis=-1)
    np.testing.assert_array_equal(groups[:, None] == groups[None], same)
    assert collapse.entropy(groups) == pytest.approx(stats.entropy([3, 2, 1]))
    assert collapse.entropy(groups[:2]) == pytest.approx(math.log(2))
    assert collapse.groups(np.array([0.0, -0.0, 1.0])).tolist() == [0, 0, 1]


@pytest.mark.parametrize("shape", [(50, 3, 2), (5, 3, 2)])
def test_variances_are_squared_singular_values(shape):
    bank = np.float32(np.random.default_rng(0).gamma(1.0, size=shape))
    rows = bank.reshape(len(bank), -1)
    singular = np.linalg.svd(rows - rows.mean(axis=0), compute_uv=False)
    found = collapse.variances(bank)
    np.testing.assert_allclose(np.sort(found)[::-1], singular**2 / len(bank), atol=1e-6)
    assert found.sum() == pytest.approx(bank.var(axis=0).sum(), rel=1e-5)
    assert found.min() >= 0.0


def test_a_data_set_without_points_is_refused():
    for function in (collapse.variances, collapse.groups):
        with pytest.raises(ValueError, match=r"points must be \[n, \*dims\] .* got shape \(0, 3\)"):
            function(np.zeros((0, 3)))
    with pytest.raises(ValueError, match="a number for each point"):
        collapse.entropy(np.zeros(0, np.int32))
