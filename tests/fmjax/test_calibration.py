"""Calibration against laws whose moments are known, SciPy, a bootstrap, and an exact velocity."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from fmjax import metrics, paths, posterior
from tests.oracles import mixture as oracles

calibration = jax.jit(metrics.calibration)
NUM, DIMS, SHAPE, SCALE = 50_000, 3, 2.5, 0.4


def _gaussian_posteriors(seed=0):
    """Posteriors N(m, s I) whose variances s are Gamma distributed: U = d s, error = s chi^2_d."""
    rng = np.random.default_rng(seed)
    s = SCALE * rng.gamma(SHAPE, size=NUM)
    return DIMS * s, s * rng.chisquare(DIMS, NUM)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_exact_gaussian_posteriors_have_the_moments_of_the_closed_form():
    found = calibration(*_gaussian_posteriors())
    mean_s, mean_s2 = SHAPE * SCALE, SHAPE * (SHAPE + 1) * SCALE**2
    var_u = DIMS**2 * SHAPE * SCALE**2
    var_error = (DIMS**2 + 2 * DIMS) * mean_s2 - (DIMS * mean_s) ** 2
    # Var(error - U) = E[Var(error | U)] = 2 d E[s^2].
    standard_error = np.sqrt(2 * DIMS * mean_s2 / NUM) / (DIMS * mean_s)
    assert abs(found.ratio - 1) < 5 * standard_error
    np.testing.assert_allclose(found.ratio_standard_error, standard_error, rtol=0.02)
    np.testing.assert_allclose(found.mean_uncertainty, DIMS * mean_s, rtol=0.015)
    np.testing.assert_allclose(found.mean_error, DIMS * mean_s, rtol=0.015)
    np.testing.assert_allclose(found.best_pearson, np.sqrt(var_u / var_error), rtol=0.03)
    np.testing.assert_allclose(found.pearson, np.sqrt(var_u / var_error), rtol=0.03)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("factor", [0.5, 1.0, 3.0])
def test_the_standard_error_is_the_spread_of_a_bootstrap(factor):
    u, error = (values[:2000] for values in _gaussian_posteriors(1))
    u = factor * u + 0.3  # over- or underconfident, and not proportional
    found = calibration(u, error)
    picks = np.random.default_rng(2).integers(0, len(u), (2000, len(u)))
    ratios = error[picks].mean(axis=1) / u[picks].mean(axis=1)
    np.testing.assert_allclose(found.ratio, error.mean() / u.mean(), rtol=1e-12)
    # The spread of 2000 draws has a relative standard error of 1.6 %.
    np.testing.assert_allclose(found.ratio_standard_error, ratios.std(), rtol=0.08)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_correlations_against_scipy():
    u, error = (values[:300] for values in _gaussian_posteriors(3))
    variance = u[:, None] - np.array([1.0, 3.0])
    found = calibration(u, error, variance=variance)
    np.testing.assert_allclose(found.pearson, scipy.stats.pearsonr(u, error)[0], rtol=1e-10)
    np.testing.assert_allclose(found.spearman, scipy.stats.spearmanr(u, error)[0], rtol=1e-10)
    np.testing.assert_allclose(found.best_pearson, np.std(u) / np.std(error), rtol=1e-10)
    np.testing.assert_allclose(found.negative_variances, np.mean(variance < 0), rtol=1e-12)
    assert calibration(u, error).negative_variances is None


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("t", [0.2, 0.7])
def test_an_exact_velocity_is_calibrated_and_a_wrong_one_is_not(t):
    path, n = paths.linear(), 4000
    x1 = oracles.sample(jax.random.key(0), n)
    x0 = jax.random.normal(jax.random.key(1), x1.shape)

    def one(scale, x0, x1):
        velocity = lambda x, t: oracles.law(paths.coefficients(path, t), x).velocity
        x = paths.interpolate(path, x0, x1, t)
        error = jnp.sum((x1 - posterior.mean(velocity, path, x, t)) ** 2)
        return scale * posterior.trace(velocity, path, x, t), error

    many = jax.jit(jax.vmap(one, (None, 0, 0)))
    exact, doubled = (calibration(*many(scale, x0, x1)) for scale in (1.0, 2.0))
    assert abs(exact.ratio - 1) < 5 * exact.ratio_standard_error
    # A bound on (2) by sampling: the difference of two correlations of n pairs.
    assert abs(exact.pearson - exact.best_pearson) < 10 / n**0.5
    assert abs(doubled.ratio - 0.5) < 5 * doubled.ratio_standard_error
    assert doubled.ratio + 5 * doubled.ratio_standard_error < 1
    np.testing.assert_allclose(doubled.pearson, exact.pearson, rtol=1e-10)


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_float32_of_any_scale_agrees_with_float64(scale):
    u, error = (values[:1000] for values in _gaussian_posteriors(4))
    ours = calibration(jnp.float32(scale * u), jnp.float32(scale * error))
    ratio = error.mean() / u.mean()
    spread = np.std(error - ratio * u, ddof=1) / u.mean() / 1000**0.5
    np.testing.assert_allclose(ours.ratio, ratio, rtol=1e-5)
    np.testing.assert_allclose(ours.ratio_standard_error, spread, rtol=1e-5)
    np.testing.assert_allclose(ours.best_pearson, u.std() / error.std(), rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, jnp.uint8])
def test_half_precision_and_bytes_are_computed_in_float32(dtype):
    rng = np.random.default_rng(5)
    # Whole numbers up to 255, which all three hold; their sum and squares overflow float16.
    u, error = (jnp.asarray(rng.integers(0, 256, 4000), dtype) for _ in range(2))
    ours = calibration(u, error)
    a, b = (np.asarray(values.astype(jnp.float32), np.float64) for values in (u, error))
    assert ours.ratio.dtype == ours.ratio_standard_error.dtype == jnp.float32
    np.testing.assert_allclose(ours.ratio, b.mean() / a.mean(), rtol=1e-5)
    spread = np.std(b - b.mean() / a.mean() * a, ddof=1) / a.mean() / 4000**0.5
    np.testing.assert_allclose(ours.ratio_standard_error, spread, rtol=1e-5)


@pytest.mark.slow
def test_what_is_not_a_number_stays_so():
    u = jnp.array([1.0, 2.0, 3.0])
    constant = metrics.calibration(jnp.full(3, 0.1), u)
    assert jnp.isnan(constant.pearson)
    assert constant.best_pearson == 0
    exact = metrics.calibration(u, 2 * u)
    assert (float(exact.ratio), float(exact.ratio_standard_error)) == (2.0, 0.0)
    broken = metrics.calibration(u.at[1].set(jnp.nan), u, variance=u[:, None].at[0].set(jnp.nan))
    assert all(map(jnp.isnan, (broken.ratio, broken.ratio_standard_error, broken.spearman)))
    assert jnp.isnan(broken.negative_variances)


@pytest.mark.parametrize(
    ("shapes", "match"),
    [
        (((3,), (4,), None), "one shape with 2 entries or more"),
        (((1,), (1,), None), "one shape with 2 entries or more"),
        (((3, 2), (3, 2), None), "sum over the entries of each example"),
        (((3,), (3,), (2, 2)), "variances of the same examples"),
        (((3,), (3,), ()), "variances of the same examples"),
    ],
)
def test_shapes_that_do_not_belong_together(shapes, match):
    u, error, variance = (None if shape is None else jnp.ones(shape) for shape in shapes)
    with pytest.raises(ValueError, match=match):
        metrics.calibration(u, error, variance=variance)


@pytest.mark.slow
def test_several_times_by_vmap():
    u, error = (jnp.float32(values[:600].reshape(3, 200)) for values in _gaussian_posteriors(6))
    together = jax.vmap(metrics.calibration)(u, error)
    for index in range(3):
        one = calibration(u[index], error[index])
        np.testing.assert_allclose(together.ratio[index], one.ratio, rtol=1e-6)
        np.testing.assert_allclose(together.spearman[index], one.spearman, rtol=1e-6)
