"""Noise within bins against SciPy, and the bound against probabilities of bins by integrals."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from experiments.images import likelihood
from tests import slow

WIDTH, SCALE = 0.5, 0.1
WEIGHTS, MEANS = np.array([0.3, 0.7]), np.array([[0.2, -0.4], [0.5, 0.1]])
DEVIATIONS = np.array([[0.15, 0.3], [0.4, 0.2]])
CENTER = np.array([0.35, -0.1])


@pytest.fixture(params=["float32", "float64"])
def dtype(request):
    with jax.enable_x64(request.param == "float64"):
        yield jnp.dtype(request.param)


def test_the_truncated_normal_is_scipys(dtype):
    noise = likelihood.truncated_normal(WIDTH, SCALE)
    law = stats.truncnorm(-2.5, 2.5, scale=SCALE)
    u = jnp.linspace(-0.249, 0.249, 40, dtype=dtype).reshape(5, 8)
    found = noise.log_prob(u)
    assert found.dtype == dtype
    rtol = 1e-12 if dtype == jnp.float64 else 1e-5
    assert float(found) == pytest.approx(law.logpdf(np.asarray(u)).sum(), rel=rtol)
    drawn = noise.draw(jax.random.key(0), (20000,), dtype)
    assert drawn.dtype == dtype
    assert np.abs(drawn).max() <= WIDTH / 2
    assert np.isfinite(jax.vmap(noise.log_prob)(drawn)).all()
    assert stats.kstest(np.asarray(drawn), law.cdf).pvalue > 1e-4
    # Nothing is probable outside of the bin, everything has the same density at its center.
    assert noise.log_prob(jnp.array([0.0, 0.26], dtype)) == -jnp.inf


def test_uniform_noise_is_scipys(dtype):
    noise, law = likelihood.uniform(WIDTH), stats.uniform(-WIDTH / 2, WIDTH)
    u = noise.draw(jax.random.key(0), (3, 5000), dtype)
    assert u.dtype == noise.log_prob(u).dtype == dtype
    assert stats.kstest(np.asarray(u).ravel(), law.cdf).pvalue > 1e-4
    wanted = law.logpdf(np.asarray(u[:, :9])).sum()
    assert float(noise.log_prob(u[:, :9])) == pytest.approx(wanted, rel=1e-5)
    assert noise.log_prob(jnp.array([0.3], dtype)) == -jnp.inf


def _gaussian(x):
    """The log-density of a mixture of two Gaussians in the plane."""
    means, scales = (jnp.asarray(a, x.dtype) for a in (MEANS, DEVIATIONS))
    each = jax.scipy.stats.norm.logpdf(x[None], means, scales)
    return jax.nn.logsumexp(each.sum(axis=1) + np.log(WEIGHTS).astype(x.dtype))


def _logistic(x):
    """The log-density of a mixture of two logistic laws on the line."""
    means, scales = (jnp.asarray(a[:, 0], x.dtype) for a in (MEANS, DEVIATIONS))
    each = jax.scipy.stats.logistic.logpdf(x, means, scales)
    return jax.nn.logsumexp(each + np.log(WEIGHTS).astype(x.dtype))


def _probability(law, dims):
    """The logarithm of the probability of the bin around CENTER, by the distribution function."""
    ends = CENTER[:dims] + np.array([[-WIDTH / 2], [WIDTH / 2]])
    low, high = (law(MEANS[:, :dims], DEVIATIONS[:, :dims]).cdf(end) for end in ends)
    return np.log(WEIGHTS @ np.prod(high - low, axis=1))


LAWS = {"gaussian": (_gaussian, stats.norm, 2), "logistic": (_logistic, stats.logistic, 1)}
NOISES = {
    "truncated": likelihood.truncated_normal(WIDTH, SCALE),
    "uniform": likelihood.uniform(WIDTH),
}


@slow.but_the_first(
    ("law", "noise"), [(law, noise) for law in LAWS for noise in ("truncated", "uniform")]
)
def test_the_bound_grows_with_the_draws_to_the_probability_of_the_bin(law, noise, dtype):
    log_density, scipy_law, dims = LAWS[law]
    truth, noise = _probability(scipy_law, dims), NOISES[noise]

    @jax.jit
    @jax.vmap
    def weight(key):
        u = noise.draw(key, (dims,), dtype)
        return log_density(jnp.asarray(CENTER[:dims], dtype) + u) - noise.log_prob(u)

    log_weights = weight(jax.random.split(jax.random.key(1), 300 * 256)).reshape(300, 256)
    assert log_weights.dtype == dtype
    means, errors = [], []
    for count in (1, 4, 32, 256):
        values = np.float64(likelihood.bound(log_weights.reshape(-1, count)))
        means.append(values.mean())
        errors.append(values.std() / len(values) ** 0.5)
    means, errors = np.array(means), np.array(errors)
    assert np.all(means < truth + 5 * errors)
    assert np.all(np.diff(means) > 0)
    assert means[0] + 5 * errors[0] < truth  # one draw is not there
    variance = np.exp(2 * np.float64(log_weights - truth)).mean() - 1
    assert abs(means[-1] - truth) < 5 * errors[-1] + variance / 256


def test_the_noise_that_the_model_has_in_a_bin_leaves_no_gap(x64):
    # The model within the bin is the truncated normal itself: every draw has the same weight.
    noise = likelihood.truncated_normal(WIDTH, SCALE)
    u = noise.draw(jax.random.key(0), (50, 2))
    density = lambda u: jax.scipy.stats.norm.logpdf(u, 0.0, SCALE).sum()
    weights = jax.vmap(density)(u) - jax.vmap(noise.log_prob)(u)
    inside = np.log(2 * stats.norm.cdf(WIDTH / 2 / SCALE) - 1)
    np.testing.assert_allclose(weights, 2 * inside, rtol=1e-9)


def test_the_density_of_data_with_the_noise_that_a_flow_leaves(x64):
    mean, std, left = 0.4, 0.6, 0.2

    def velocity(x, t):  # exact, from noise to N(mean, std^2), on the linear path
        variance = t**2 * std**2 + (1 - t) ** 2
        slope = (t * std**2 - (1 - t)) / variance
        return mean + slope * (x - t * mean)

    x = jnp.array([[0.1, -0.9], [1.2, 0.3]])
    log_p = partial(likelihood.log_likelihood, velocity, 0, 1e-7, jax.random.key(0))
    for noise in (0.0, left):
        truth = stats.norm(mean, np.hypot(std, noise)).logpdf(np.asarray(x)).sum()
        assert float(jax.jit(log_p)(x, noise)) == pytest.approx(truth, abs=1e-5)
