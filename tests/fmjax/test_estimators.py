"""Estimators against dense matrices, brute-force leave-one-out loops and their own variances."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matfree import stochtrace
from sklearn.datasets import load_digits

from fmjax import divergence, empirical, estimators, paths, posterior
from tests import slow

SHAPE, K = (8, 5), 6  # d = 40
RUNS = 400
TRACES = ["hutchinson", "xtrace", "xnystrace"]
DIAGONALS = ["bekas", "xdiag", "xnysdiag"]
NAMES = TRACES + DIAGONALS
ROBUST = [name for name in NAMES if "nys" not in name]
LEAVE_ONE_OUT = [name for name in NAMES if name.startswith("x")]


def _matrices():
    """Skewed test matrices as NumPy arrays: every entry, sign and transpose shows."""
    draw = np.random.default_rng(0)
    basis = np.linalg.qr(draw.standard_normal((40, 40)))[0]
    skewed = draw.gamma(0.7, size=(40, 40)) - 0.4
    return {
        "decay": (basis * 0.6 ** np.arange(40)) @ basis.T,
        "rank 3": (basis[:, :3] * [3.0, 2.0, 0.5]) @ basis[:, :3].T,
        "nonsymmetric": skewed @ (basis * 0.7 ** np.arange(40)) @ basis.T + 0.3 * np.eye(40),
        "indefinite": (basis * (0.8 ** np.arange(40) * (-1.0) ** np.arange(40))) @ basis.T,
    }


MATRICES = _matrices()


def _linear(matrix):
    """A field whose Jacobian is the matrix, at points of a two-dimensional shape."""
    return lambda x: (jnp.asarray(matrix, x.dtype) @ x.ravel()).reshape(x.shape)


def _truth(name, matrix):
    diagonal = np.diag(matrix)
    return diagonal.sum() if name in TRACES else diagonal.reshape(SHAPE)


def _many(name, matrix, dtype=None, **options):
    """Returns RUNS independent estimates."""
    point = jnp.ones(SHAPE, dtype)
    options = {"num_probes": K, **options}
    one = lambda key: getattr(estimators, name)(key, _linear(matrix), point, **options)[1]
    return jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(1), RUNS))


def _run(name, key, field, x):
    """Returns the value and one estimate, compiled: op by op it would compile far longer."""
    return jax.jit(lambda k, x: getattr(estimators, name)(k, field, x, num_probes=K))(key, x)


def _distance(samples, truth):
    """Returns the largest distance of the mean from the truth, in standard errors."""
    samples = np.asarray(samples)
    error = samples.std(0, ddof=1) / np.sqrt(len(samples)) + 1e-13
    return np.max(np.abs(samples.mean(0) - truth) / error)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "kind"),
    [(n, k) for k in ("nonsymmetric", "indefinite") for n in ROBUST]
    + [(n, "decay") for n in NAMES],
)
def test_unbiased_with_an_honest_standard_error(name, kind, x64):
    estimate, truth = _many(name, MATRICES[kind]), _truth(name, MATRICES[kind])
    assert _distance(estimate.mean, truth) < 5
    promised = np.sqrt(np.mean(np.asarray(estimate.standard_error) ** 2))
    made = np.sqrt(np.mean((np.asarray(estimate.mean) - truth) ** 2))
    # Independent terms promise what they make, up to the spread of 400 squared errors; those
    # that share probes only its order, which the module's docstring says.
    low, high = (0.5, 2.0) if name in LEAVE_ONE_OUT else (0.85, 1.15)
    assert low < promised / made < high


@slow.but_the_first("name", ["xnystrace", "xnysdiag"])
def test_nystrom_is_biased_without_warning_on_an_indefinite_jacobian(name, x64):
    estimate, truth = _many(name, MATRICES["indefinite"]), _truth(name, MATRICES["indefinite"])
    assert _distance(estimate.mean, truth) > 5
    error = np.sqrt(np.mean((np.asarray(estimate.mean) - truth) ** 2))
    assert error > np.sqrt(np.mean(truth**2))  # no digit is right
    assert np.sqrt(np.mean(np.asarray(estimate.standard_error) ** 2)) < 0.2 * error


@pytest.mark.slow
@pytest.mark.parametrize("probe", [jax.random.rademacher, jax.random.normal])
def test_variances_are_the_formulas(probe, x64):
    a = MATRICES["nonsymmetric"]
    s = 0.5 * (a + a.T)
    signs = probe is jax.random.rademacher
    trace = 2 * (np.sum(s**2) - signs * np.sum(np.diag(s) ** 2))
    row = np.sum(a**2, 1) + (-1 if signs else 1) * np.diag(a) ** 2
    for name, formula in (("hutchinson", trace), ("bekas", row.reshape(SHAPE))):
        estimate = _many(name, a, probe=probe)
        # K times the squared standard error is an unbiased estimate of one probe's variance.
        assert _distance(K * np.asarray(estimate.standard_error) ** 2, formula) < 5
        means = np.asarray(estimate.mean)
        assert _distance(K * (means - _truth(name, a)) ** 2, formula) < 5


def _leave_one_out(name, a, z):
    """Returns the terms (3), each from its own dense factorization; z is [K, d]."""
    d, terms = len(a), []
    for i in range(len(z)):
        others = np.delete(z, i, 0).T
        if "nys" in name:
            y = a @ others
            known, span = y @ np.linalg.solve(others.T @ y, y.T), others
            rest = (a - known) @ z[i]
        else:
            span = np.linalg.qr(a @ others)[0]
            known = span @ span.T @ a
            rest = a @ z[i] - known @ z[i]
        if name in DIAGONALS:
            terms.append(np.diag(known) + z[i] * rest)
            continue
        q = np.linalg.qr(span)[0]
        u = z[i] - q @ (q.T @ z[i])  # the probe beyond what the others span, resized
        u *= np.sqrt((d - len(z) + 1) / (u @ u))
        terms.append(np.trace(known) + u @ (a - known) @ u)
    return np.array(terms)


@slow.but_the_first("name", LEAVE_ONE_OUT)
def test_leave_one_out_equals_one_factorization_for_each_probe(name, x64, key):
    a = MATRICES["decay" if "nys" in name else "nonsymmetric"]
    x = jnp.ones(SHAPE)
    sampler = stochtrace.sampler_sphere if name in TRACES else stochtrace.sampler_signs
    terms = _leave_one_out(name, a, np.asarray(sampler(x, num=K)(key)).reshape(K, -1))
    value, (mean, error) = _run(name, key, _linear(a), x)
    np.testing.assert_allclose(value.ravel(), a.sum(1), rtol=1e-12)
    np.testing.assert_allclose(mean.ravel(), terms.mean(0).ravel(), rtol=1e-8, atol=1e-9)
    spread = terms.std(0, ddof=1) / np.sqrt(K)
    np.testing.assert_allclose(error.ravel(), spread.ravel(), rtol=1e-7, atol=1e-9)


@pytest.mark.slow
def test_monte_carlo_equals_numpy_and_the_divergence_of_the_same_key(x64, key):
    a, x = MATRICES["nonsymmetric"], jnp.ones(SHAPE)
    z = np.stack([jax.random.rademacher(k, SHAPE).ravel() for k in jax.random.split(key, K)])
    forms = z * (z @ a.T)
    for name, terms in (("hutchinson", forms.sum(1)), ("bekas", forms.reshape(K, *SHAPE))):
        _, (mean, error) = _run(name, key, _linear(a), x)
        np.testing.assert_allclose(mean, terms.mean(0), rtol=1e-12)
        np.testing.assert_allclose(error, terms.std(0, ddof=1) / np.sqrt(K), rtol=1e-12)
    _, known = divergence.hutchinson(key, _linear(a), x, num_probes=K)
    np.testing.assert_allclose(forms.sum(1).mean(), known, rtol=1e-12)


@slow.but_the_first("size", [1e-25, 1e15])
@slow.but_the_first("name", LEAVE_ONE_OUT)
def test_exact_at_low_rank_whatever_the_unit(name, size, key):
    # Rank 3 and 6 probes. In float32; without rescaling 1e-25 is below every threshold.
    a = size * MATRICES["rank 3"]
    _, (mean, error) = _run(name, key, _linear(a), jnp.ones(SHAPE))
    np.testing.assert_allclose(mean / size, _truth(name, a) / size, atol=2e-5)
    np.testing.assert_allclose(error / size, 0.0, atol=2e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", LEAVE_ONE_OUT)
def test_small_operators_are_not_taken_for_low_rank_ones(name, key):
    matrix = MATRICES["decay"] * 2.0**-30
    small = _run(name, key, _linear(matrix), jnp.ones(SHAPE))[1]
    large = _run(name, key, _linear(matrix * 2.0**30), jnp.ones(SHAPE))[1]
    for a, b in zip(small, large, strict=True):
        np.testing.assert_allclose(a * 2.0**30, b, rtol=1e-4, atol=1e-5)
    assert np.all(large.standard_error > 0)


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(), (4, 3)])
@pytest.mark.parametrize("name", LEAVE_ONE_OUT)
def test_exact_where_the_dimension_is_at_most_twice_the_probes(name, shape, x64, key):
    field = lambda x: jnp.sin(x) * (1 + jnp.sum(x**2))
    x = jax.random.gamma(jax.random.key(3), 2.0, shape)
    expected = divergence.diagonal(field, x)[1]
    value, (mean, error) = _run(name, key, field, x)
    np.testing.assert_allclose(value, field(x), rtol=1e-14)
    expected = expected.sum() if name in TRACES else expected
    np.testing.assert_allclose(mean, expected, rtol=1e-12)
    assert error.shape == mean.shape
    assert not np.any(error)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_nan_stays_nan_and_zero_is_zero(name, key):
    x = jnp.ones(SHAPE)
    # One NaN of the Jacobian reaches the estimate, though the value is finite.
    spoilt = lambda x: x.at[2, 3].set(jnp.sqrt(x[0, 0] - x[0, 1]) * 0)
    value, estimate = _run(name, key, spoilt, x)
    assert np.all(np.isfinite(value))
    assert np.any(np.isnan(estimate.mean))
    assert np.any(np.isnan(estimate.standard_error))
    zeros = _run(name, key, jnp.zeros_like, x)[1]
    assert not np.any(zeros.mean)
    assert not np.any(zeros.standard_error)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_float32_stays_float32_and_shapes_stay(name, x64, key):
    narrow = _run(name, key, _linear(MATRICES["decay"]), jnp.ones(SHAPE, jnp.float32))
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(narrow))
    shape = () if name in TRACES else SHAPE
    assert narrow[0].shape == SHAPE
    assert narrow[1].mean.shape == narrow[1].standard_error.shape == shape


@pytest.mark.slow
@slow.but_the_first("name", NAMES)
def test_gradients_flow_where_the_rank_exceeds_the_probes(name, x64, key):
    def total(scale):
        field = lambda x: scale * _linear(MATRICES["decay"])(x)
        return jnp.sum(getattr(estimators, name)(key, field, jnp.ones(SHAPE), num_probes=K)[1].mean)

    estimate, slope = jax.jit(jax.value_and_grad(total))(1.3)
    np.testing.assert_allclose(1.3 * slope, estimate, rtol=1e-9)  # linear in scale


@pytest.mark.slow
def test_a_spread_of_zero_has_a_finite_derivative(key):
    error = lambda x: estimators.hutchinson(key, lambda z: z**2, x)[1].standard_error
    np.testing.assert_array_equal(jax.grad(error)(jnp.array([1.0, 2.0])), [0.0, 0.0])


@pytest.mark.parametrize("name", NAMES)
def test_wrong_arguments_are_named(name, key):
    estimator = getattr(estimators, name)
    with pytest.raises(ValueError, match=r"num_probes must be at least 2, got 1.*hutchinson"):
        estimator(key, jnp.sin, jnp.ones(3), num_probes=1)
    with pytest.raises(ValueError, match=r"x \(3,\), field \(2,\)"):
        estimator(key, lambda x: x[:2], jnp.ones(3))


def _digits_posterior():
    """Returns the scaled mean of 8x8 digits, whose Jacobian is the covariance, and its parts."""
    bank = jnp.asarray(load_digits().images[:400] / 8.0 - 1.0)
    path, t = paths.linear(), 0.3
    x = t * bank[7] + (1 - t) * jax.random.normal(jax.random.key(5), (8, 8))
    velocity = partial(empirical.velocity, path, bank)
    field = lambda z: (1 - t) ** 2 / t * posterior.mean(velocity, path, z, t)
    return field, x, t, (path, bank)


@pytest.mark.slow
@slow.but_the_first("name", TRACES)
def test_as_divergence_feeds_the_posterior(name, x64, key):
    field, x, t, (path, bank) = _digits_posterior()
    estimator = partial(getattr(estimators, name), key, num_probes=K)
    as_divergence = estimators.as_divergence(estimator)
    value, (mean, error) = jax.jit(partial(estimator, field))(x)
    for a, b in zip(jax.jit(partial(as_divergence, field))(x), (value, mean), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)
    velocity = partial(empirical.velocity, path, bank)
    u = jax.jit(lambda x: posterior.trace(velocity, path, x, t, divergence=as_divergence))(x)
    assert abs(u - np.trace(empirical.covariance(path, bank, x, t))) < 5 * error


@pytest.mark.slow
def test_as_divergence_refuses_a_diagonal(key):
    wrong = estimators.as_divergence(partial(estimators.bekas, key))
    with pytest.raises(ValueError, match=r"scalar, got an estimate of shape \(3,\).*xtrace"):
        wrong(jnp.sin, jnp.ones(3))


@pytest.mark.slow
def test_on_a_posterior_of_digits_leave_one_out_beats_more_probes():
    field, x, t, (path, bank) = _digits_posterior()
    covariance = np.asarray(empirical.covariance(path, bank, x, t))
    keys = jax.random.split(jax.random.key(6), 20)

    def error(name, num_probes):
        one = lambda key: getattr(estimators, name)(key, field, x, num_probes=num_probes)[1].mean
        means = np.asarray(jax.jit(jax.vmap(one))(keys))
        truth = np.diag(covariance)
        truth = truth.sum() if name in TRACES else truth.reshape(8, 8)
        return np.sqrt(np.sum((means - truth) ** 2) / len(means)) / np.linalg.norm(truth)

    # 16 probes against four times as many.
    assert error("xnysdiag", 16) < 0.5 * error("bekas", 64)
    assert error("xnystrace", 16) < error("hutchinson", 64)
