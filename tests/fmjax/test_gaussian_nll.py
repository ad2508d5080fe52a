"""The loss of a variance head, and that what it learns is a diagonal of the posterior covariance.

The expectation over pairs is a sum: over all points of a skewed bank, or over a fine grid of the
data of a skewed mixture on a line. The covariance comes by the Jacobian and from those sums.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize, stats

from fmjax import empirical, losses, paths, posterior, predictions, toy
from tests import slow

PATHS = {"linear": paths.linear(), "cosine": paths.cosine(), "vp": paths.vp()}
BANK = np.array([[0.0, 1.0], [2.0, -0.5], [0.3, 0.2], [-1.5, 2.5], [4.0, 1.0]])
STATE = np.array([0.7, 0.4])


def constant(mean, log_variance):
    """Two outputs that do not depend on the state."""
    return lambda x, t: (mean, log_variance)


def expected(path, x0, x1, probability, t):
    """The mean loss over all pairs through one state, a function of what the heads return."""

    def mean_loss(heads):
        one = lambda x0, x1: losses.gaussian_nll(constant(*heads), path, x0, x1, t)
        return probability @ jax.vmap(one)(x0, x1)

    return mean_loss


def of_bank(path, t):
    """All pairs of the bank through the state, with their probabilities."""
    bank, x = jnp.asarray(BANK), jnp.asarray(STATE)
    x0 = (x[None] - path.alpha(t) * bank) / path.sigma(t)
    density = jnp.exp(-0.5 * jnp.sum(x0**2, axis=1))  # of the noise that each point needs
    return x0, bank, density / density.sum()


def by_sum(path, x0, x1, probability, t):
    """The mean and the variances of the pairs' velocity, by their definition."""
    alpha, sigma = (jax.grad(f)(t) for f in (path.alpha, path.sigma))
    u = alpha * x1 + sigma * x0
    mean = probability @ u
    return mean, probability @ (u - mean[None]) ** 2


def by_jacobian(velocity, path, x, t):
    """What the heads should learn, from the velocity alone."""
    return velocity(x, t), posterior.diagonal(velocity, path, x, t, of=predictions.velocity)


@slow.but_the_first("t", [0.45, 0.2, 0.8])
@slow.but_the_first("name", PATHS)
def test_on_a_bank_the_gradient_vanishes_at_the_velocity_and_the_diagonal(name, t, x64):
    path, pairs = PATHS[name], of_bank(PATHS[name], t)
    exact = partial(empirical.velocity, path, jnp.asarray(BANK))
    mean, variance = by_jacobian(exact, path, jnp.asarray(STATE), t)
    summed = by_sum(path, *pairs, t)
    np.testing.assert_allclose(mean, summed[0], rtol=1e-10)
    np.testing.assert_allclose(variance, summed[1], rtol=1e-8)
    loss = expected(path, *pairs, t)
    best = (mean, jnp.log(variance))
    value, slope = jax.value_and_grad(loss)(best)
    np.testing.assert_allclose(jnp.stack(slope), 0.0, atol=1e-9)
    # There the scaled square is one on average, whatever the law.
    np.testing.assert_allclose(value, 0.5 * np.mean(1 + np.log(2 * np.pi * summed[1])), rtol=1e-9)
    for moved in ((mean + 0.1, best[1]), (mean, best[1] + 0.3), (mean, best[1] - 0.3)):
        assert float(loss(moved)) > float(value) + 1e-4
        assert float(jnp.abs(jnp.stack(jax.grad(loss)(moved))).max()) > 1e-3


def test_beside_another_mean_the_best_variance_is_its_squared_error(x64):
    path, t = PATHS["cosine"], 0.45
    pairs = of_bank(path, t)
    mean, variance = by_sum(path, *pairs, t)
    off = mean + jnp.array([0.7, -0.2])
    slope = jax.grad(lambda logs: expected(path, *pairs, t)((off, logs)))
    best = jnp.log(variance + jnp.array([0.49, 0.04]))
    np.testing.assert_allclose(slope(best), 0.0, atol=1e-12)
    assert float(jnp.abs(slope(jnp.log(variance))).min()) > 1e-3


def test_a_minimizer_finds_them_from_afar(x64):
    path, t = PATHS["cosine"], 0.45
    pairs = of_bank(path, t)
    loss = expected(path, *pairs, t)
    both = jax.value_and_grad(lambda z: loss((z[:2], z[2:])))
    start = np.array([3.0, -2.0, 1.5, -1.0])
    found = optimize.minimize(
        lambda z: tuple(map(np.asarray, both(z))), start, jac=True, options={"gtol": 1e-9}
    )
    mean, variance = by_sum(path, *pairs, t)
    np.testing.assert_allclose(found.x[:2], mean, rtol=1e-6)
    np.testing.assert_allclose(np.exp(found.x[2:]), variance, rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("t", [0.5, 0.15, 0.9])
@pytest.mark.parametrize("name", ["linear", "vp"])
def test_on_a_mixture_too_by_quadrature(name, t, x64):
    path, x = PATHS[name], jnp.array([0.35])
    weights, means, stds = [0.7, 0.3], [-1.0, 2.0], [0.3, 0.8]
    squares = jnp.square(jnp.array(stds)).reshape(2, 1, 1)
    law = toy.gaussian_mixture(jnp.array(weights), jnp.array(means).reshape(2, 1), squares)
    line = np.linspace(-6.0, 9.0, 6001)
    x0 = (x - path.alpha(t) * line) / path.sigma(t)
    density = sum(
        w * stats.norm.pdf(line, m, s) for w, m, s in zip(weights, means, stds, strict=True)
    )
    mass = density * stats.norm.pdf(np.asarray(x0))
    pairs = (x0[:, None], jnp.asarray(line)[:, None], jnp.asarray(mass / mass.sum()))
    mean, variance = by_jacobian(partial(law.velocity, path), path, x, t)
    slope = jax.grad(expected(path, *pairs, t))((mean, jnp.log(variance)))
    np.testing.assert_allclose(jnp.stack(slope), 0.0, atol=1e-7)
    np.testing.assert_allclose(variance, by_sum(path, *pairs, t)[1], rtol=1e-6)


def test_a_pairs_loss_is_the_density_of_scipy(x64):
    x0, x1, t = jnp.array([0.3, -1.2, 0.8]), jnp.array([1.5, 0.1, -0.4]), 0.3
    heads = lambda x, t: (jnp.sin(x) + t, 0.5 * x - 1.0)
    ours = losses.gaussian_nll(heads, PATHS["linear"], x0, x1, t)
    x = 0.7 * np.asarray(x0) + 0.3 * np.asarray(x1)
    logs = stats.norm.logpdf(x1 - x0, np.sin(x) + t, np.exp(0.25 * x - 0.5))
    assert float(ours) == pytest.approx(-logs.mean(), rel=1e-13)


def test_with_a_stopped_gradient_only_the_variance_is_trained(x64):
    pair = (PATHS["linear"], jnp.array([0.3, -1.2]), jnp.array([1.5, 0.1]), 0.4)

    def loss(params):
        velocity = jax.lax.stop_gradient(params["v"])
        return losses.gaussian_nll(constant(velocity, params["l"]), *pair)

    slope = jax.grad(loss)({"v": jnp.zeros(2), "l": jnp.zeros(2)})
    np.testing.assert_array_equal(slope["v"], 0.0)
    np.testing.assert_allclose(slope["l"], (1 - np.array([1.2, 1.3]) ** 2) / 4, rtol=1e-12)


def test_the_gradient_for_the_mean_is_that_of_cfm_over_twice_the_variance(x64):
    pair = (PATHS["cosine"], jnp.array([0.3, -1.2]), jnp.array([1.5, 0.1]), 0.4)
    mean, logs = jnp.array([0.2, 0.5]), jnp.array([-1.0, 2.0])
    ours = jax.grad(lambda m: losses.gaussian_nll(constant(m, logs), *pair))(mean)
    plain = jax.grad(lambda m: losses.cfm(lambda x, t: m, *pair))(mean)
    np.testing.assert_allclose(ours, plain / (2 * np.exp(logs)), rtol=1e-12)


def test_small_and_large_variances_stay_finite_in_float32():
    x0 = x1 = jnp.zeros(2)  # so that the target is zero
    for logs in (-150.0, -100.0, 80.0):
        off = float(np.exp(logs / 2))  # one standard deviation
        loss = lambda m, s: losses.gaussian_nll(constant(m, s), PATHS["linear"], x0, x1, 0.5)
        value, slope = jax.value_and_grad(loss, (0, 1))(jnp.full(2, off), jnp.full(2, logs))
        assert float(value) == pytest.approx(0.5 * (np.log(2 * np.pi) + logs + 1), rel=1e-5)
        np.testing.assert_allclose(slope[1], 0.0, atol=1e-5)
        np.testing.assert_allclose(slope[0] * np.float32(off), 0.5, rtol=1e-4)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16], ids=["float16", "bfloat16"])
def test_half_precision_is_computed_in_float32(dtype):
    x0, x1 = jnp.array([-300.0, 2.0], dtype), jnp.array([500.0, 1.0], dtype)
    heads = lambda x, t: (jnp.zeros_like(x), jnp.array([8.0, -6.0], dtype))
    found = losses.gaussian_nll(heads, PATHS["linear"], x0, x1, jnp.asarray(0.5, dtype))
    target = np.asarray(x1, np.float64) - np.asarray(x0, np.float64)
    wanted = -stats.norm.logpdf(target, 0.0, np.exp([4.0, -3.0])).mean()
    assert found.dtype == jnp.float32
    assert float(found) == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize(
    ("heads", "words"),
    [
        (lambda x, t: x, r"heads must return \(velocity, log_variance\)"),
        (lambda x, t: (x, x, x), r"heads must return \(velocity, log_variance\).*return both"),
        (lambda x, t: (x, x[:1]), r"x \(2,\).*log_variance \(1,\)"),
        (lambda x, t: (x[:1], x), r"x \(2,\), velocity \(1,\)"),
        (lambda x, t: (x, 0.0), r"x \(2,\), velocity \(2,\), log_variance \(\)"),
        (lambda x, t: (x, jnp.ones(2, int)), "log_variance must return real floating numbers"),
        (jnp.ones(2), r"heads must be a function \(x, t\) -> \(velocity, log_variance\)"),
    ],
    ids=["one", "three", "short variance", "short mean", "number", "integers", "no function"],
)
def test_heads_that_do_not_fit_are_named(heads, words):
    with pytest.raises(ValueError, match=words):
        losses.gaussian_nll(heads, PATHS["linear"], jnp.zeros(2), jnp.ones(2), 0.5)


def test_pairs_that_do_not_fit_are_refused():
    both = lambda x, t: (x, x)
    with pytest.raises(ValueError, match=r"x0 \(2,\), x1 \(3,\)"):
        losses.gaussian_nll(both, PATHS["linear"], jnp.zeros(2), jnp.ones(3), 0.5)
    with pytest.raises(ValueError, match=r"t must be a scalar, got shape \(2,\)"):
        losses.gaussian_nll(both, PATHS["linear"], jnp.zeros(2), jnp.ones(2), jnp.ones(2) / 2)
    with pytest.raises(ValueError, match="x must have entries"):
        losses.gaussian_nll(both, PATHS["linear"], jnp.zeros((2, 0)), jnp.zeros((2, 0)), 0.5)
