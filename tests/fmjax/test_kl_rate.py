"""The growth of the Kullback-Leibler divergence: Gaussians by hand, peaks integrated in time."""

from functools import partial

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import linalg

from fmjax import likelihood, path_error, samplers
from tests.oracles import round as mixtures

# A field that turns and shears, so that neither law keeps its axes.
LEARNED, SHIFT = np.array([[0.3, -0.8], [0.1, 0.5]]), np.array([0.4, -1.0])
MEAN, GROWTH = np.array([1.0, 0.5]), np.array([0.6, -0.4])
SOLVE = partial(samplers.fixed, num_steps=60, solver=diffrax.Tsit5())


def _true_log_density(x, t):
    """The logarithm of N(MEAN t, diag exp(2 GROWTH t))."""
    mean, scale = t * jnp.asarray(MEAN, x.dtype), jnp.exp(t * jnp.asarray(GROWTH, x.dtype))
    return jnp.sum(-0.5 * ((x - mean) / scale) ** 2 - jnp.log(scale) - 0.5 * np.log(2 * np.pi))


def _true(x, t):
    mean, growth = jnp.asarray(MEAN, x.dtype), jnp.asarray(GROWTH, x.dtype)
    return mean + growth * (x - mean * t)


def _wrong(x, t):
    return jnp.asarray(LEARNED, x.dtype) @ x + jnp.asarray(SHIFT, x.dtype) + 0 * t


def _learned_law(t):
    """The mean and covariance that the learned field makes of N(0, I), by matrix exponentials."""
    flow = linalg.expm(LEARNED * t)
    return np.linalg.solve(LEARNED, (flow - np.eye(2)) @ SHIFT), flow @ flow.T


@pytest.mark.slow
@pytest.mark.parametrize("t", [0.7, 1.0])
def test_gaussian_laws_by_hand(t, x64):
    x = np.array([[0.9, -0.3], [-1.5, 2.0]])
    of = partial(path_error.kl_rate, _true_log_density, _true, _wrong, solve=SOLVE)
    ours = jax.jit(jax.vmap(of, (0, None)))(x, t)
    mean, covariance = _learned_law(t)
    velocities = MEAN + GROWTH * (x - MEAN * t) - (x @ LEARNED.T + SHIFT)
    scores = np.linalg.solve(covariance, (x - mean).T).T - (x - MEAN * t) / np.exp(2 * GROWTH * t)
    np.testing.assert_allclose(ours.rate, (velocities * scores).sum(axis=1), rtol=1e-9)
    np.testing.assert_allclose(ours.velocity_gap, (velocities**2).sum(axis=1), rtol=1e-12)
    np.testing.assert_allclose(ours.score_gap, (scores**2).sum(axis=1), rtol=1e-9)


def _kl_of_gaussians(t):
    mean, covariance = _learned_law(t)
    variances, offset = np.exp(2 * GROWTH * t), mean - MEAN * t
    trace = np.trace(np.linalg.solve(covariance, np.diag(variances)))
    far = offset @ np.linalg.solve(covariance, offset)
    log_ratio = np.linalg.slogdet(covariance)[1] - np.log(variances).sum()
    return 0.5 * (trace + far - 2 + log_ratio)


@pytest.mark.slow
def test_its_mean_is_the_derivative_of_the_divergence(x64):
    nodes, weights = np.polynomial.hermite_e.hermegauss(20)  # the rate is a quadratic of x
    weights = np.outer(weights, weights).ravel() / weights.sum() ** 2
    standard = np.stack(np.meshgrid(nodes, nodes), axis=-1).reshape(-1, 2)
    t, step = 0.6, 1e-4
    x = MEAN * t + np.exp(GROWTH * t) * standard
    of = partial(path_error.kl_rate, _true_log_density, _true, _wrong, solve=SOLVE)
    mean = weights @ np.asarray(jax.jit(jax.vmap(of, (0, None)))(x, t).rate)
    slope = (_kl_of_gaussians(t + step) - _kl_of_gaussians(t - step)) / (2 * step)
    assert mean == pytest.approx(slope, rel=1e-6)


@pytest.mark.slow
def test_of_four_peaks_it_adds_up_to_the_divergence_and_is_below_its_bound(x64):
    true = partial(mixtures.velocity, mixtures.LINE)
    log_density = partial(mixtures.log_density, mixtures.LINE)
    learned = lambda x, t: true(x, t) + 0.2 * jnp.sin(2 * x)
    grid, cell, end = jnp.linspace(-7.0, 7.0, 1001), 14.0 / 1000, 0.8
    nodes, weights = np.polynomial.legendre.leggauss(12)
    times, weights = 0.5 * end * (nodes + 1), 0.5 * end * weights
    of = partial(path_error.kl_rate, log_density, true, learned, solve=SOLVE)

    @jax.jit
    def means(t):
        p = cell * jnp.exp(jax.vmap(log_density, (0, None))(grid, t))
        return [p @ part for part in jax.vmap(of, (0, None))(grid, t)]

    @jax.jit
    def divergence(x):
        log_p = log_density(x, end)
        log_q = likelihood.log_prob(learned, x, t1=end, solve=SOLVE)
        return cell * jnp.exp(log_p) * (log_p - log_q)

    rates, velocities, scores = np.array([means(t) for t in times]).T
    whole = float(jax.vmap(divergence)(grid).sum())
    assert weights @ rates == pytest.approx(whole, rel=1e-4)
    assert 0.01 < whole < weights @ np.sqrt(velocities * scores)


@pytest.mark.slow
def test_the_same_field_has_no_rate():
    standing = lambda x, t: likelihood.standard_normal(x)
    still = lambda x, t: 0 * x
    solve = partial(samplers.fixed, num_steps=3)
    for moving, expected in ((still, [0.0, 0.0, 0.0]), (lambda x, t: x + 1, [0.0, 2.69, 0.0])):
        one = path_error.kl_rate(standing, moving, still, jnp.array([0.3, -2.0]), 0.5, solve=solve)
        np.testing.assert_allclose(one, expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        ({"log_density": lambda x, t: -(x**2)}, "log_density must return a scalar"),
        ({"velocity": lambda x, t: x[:1]}, "velocity"),
        ({"exact": lambda x, t: x[:1]}, "exact"),
        ({"exact": "exact"}, "exact"),
        ({"t": 0.0}, "t0 < t1"),
    ],
    ids=["density", "velocity", "field", "string", "time"],
)
def test_mistakes_are_named(wrong, match):
    given = {"log_density": _true_log_density, "exact": _true, "velocity": _wrong}
    given |= {"x": jnp.zeros(2), "t": 0.5} | wrong
    with pytest.raises(ValueError, match=match):
        path_error.kl_rate(**given)
