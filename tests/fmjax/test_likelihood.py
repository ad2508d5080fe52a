"""Log-likelihoods against SciPy and closed forms; gradients are in tests/measured/identities.py."""

from functools import partial

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from fmjax import divergence, likelihood, paths, samplers
from tests import slow
from tests.oracles import mixture as oracles

COVARIANCE = np.array([[1.5, 0.6], [0.6, 0.8]])
CENTER = np.array([2.0, -1.0])


def _gaussian(path):
    """The exact velocity from the path's noise to N(CENTER, COVARIANCE)."""

    def velocity(x, t):
        c = paths.coefficients(path, t)
        center, covariance = (jnp.asarray(a, x.dtype) for a in (CENTER, COVARIANCE))
        s = c.alpha**2 * covariance + c.sigma**2 * jnp.eye(2, dtype=x.dtype)
        pull = jnp.linalg.solve(s, x - c.alpha * center)
        x1 = center + c.alpha * covariance @ pull
        return c.alpha_dot * x1 + c.sigma_dot * c.sigma * pull

    return velocity


@pytest.mark.slow
def test_standard_normal_against_scipy(x64):
    x = jax.random.normal(jax.random.key(0), (3, 4)) + 1.0
    for scale in (1.0, 0.3, 50.0):
        truth = stats.norm(scale=scale).logpdf(np.asarray(x)).sum()
        assert float(likelihood.standard_normal(x, scale=scale)) == pytest.approx(truth, rel=1e-12)


@pytest.mark.slow
@slow.but_the_first(
    ("solve", "tolerance"),
    [
        (samplers.adaptive, 1e-4),
        (partial(samplers.fixed, num_steps=100), 1e-3),
    ],
    ids=["adaptive", "fixed"],
)
def test_a_full_gaussian_against_scipy(solve, tolerance):
    x = jnp.array([[1.0, 0.0], [3.5, -2.0], [2.0, -1.0]])
    ours = jax.jit(jax.vmap(partial(likelihood.log_prob, _gaussian(paths.linear()), solve=solve)))(
        x
    )
    truth = stats.multivariate_normal(CENTER, COVARIANCE).logpdf(x)
    np.testing.assert_allclose(ours, truth, atol=tolerance)


@pytest.mark.slow
def test_variance_exploding_noise_has_one_normaliser_per_dimension(x64):
    # The flow carries N(CENTER, COVARIANCE + 2500 I) exactly; N(0, 2500 I) is its usual stand-in.
    path = paths.ve(0.01, 50.0)
    x = jnp.array([1.0, 0.5])
    ours = likelihood.log_prob(
        _gaussian(path),
        x,
        log_prob0=partial(likelihood.standard_normal, scale=50.0),
        solve=partial(samplers.adaptive, rtol=1e-8, atol=1e-8),
    )
    # The flow is affine: x0 = CENTER + S0^(1/2) S1^(-1/2) (x - CENTER), S_t = COVARIANCE + s_t^2 I.
    roots = [np.sqrt(np.linalg.eigvalsh(COVARIANCE) + s**2) for s in (50.0, 0.01)]
    axes = np.linalg.eigh(COVARIANCE)[1]
    x0 = CENTER + axes @ (roots[0] / roots[1] * (axes.T @ (np.asarray(x) - CENTER)))
    truth = stats.norm(scale=50.0).logpdf(x0).sum() + np.log(roots[0] / roots[1]).sum()
    assert float(ours) == pytest.approx(truth, abs=1e-6)


@pytest.mark.slow
def test_the_density_integrates_to_one():
    velocity = lambda x, t: oracles.law(paths.coefficients(paths.linear(), t), x).velocity
    # Importance sampling from a wide Gaussian: mean of p/q is one, within five standard errors.
    x = 2.0 * jax.random.normal(jax.random.key(0), (8192, 3)) + 0.2
    solve = partial(samplers.fixed, num_steps=24)
    log_p = jax.jit(jax.vmap(partial(likelihood.log_prob, velocity, solve=solve, t1=0.95)))(x)
    log_q = jax.vmap(partial(likelihood.standard_normal, scale=2.0))(x - 0.2)
    ratio = np.exp(np.asarray(log_p - log_q))
    assert abs(ratio.mean() - 1) < 5 * ratio.std() / len(ratio) ** 0.5


@pytest.mark.slow
def test_an_unbiased_divergence_gives_an_unbiased_log_density():
    velocity, x = _gaussian(paths.linear()), jnp.array([1.0, 0.0])
    solve = partial(samplers.fixed, num_steps=100)

    def estimate(key):
        random = partial(divergence.hutchinson, key)
        return likelihood.log_prob(velocity, x, divergence=random, solve=solve)

    draws = jax.jit(jax.vmap(estimate))(jax.random.split(jax.random.key(0), 2000))
    truth = likelihood.log_prob(velocity, x, solve=solve)
    assert abs(float(draws.mean() - truth)) < 5 * float(draws.std()) / 2000**0.5


@pytest.mark.slow
def test_a_log_density_never_depends_on_the_rest_of_the_batch():
    log_prob = jax.vmap(partial(likelihood.log_prob, _gaussian(paths.linear())))
    x = jnp.array([[1.0, 0.0], [300.0, -200.0]])
    np.testing.assert_allclose(log_prob(x)[0], log_prob(x[:1])[0], rtol=1e-6)


@pytest.mark.slow
def test_images_and_scalars():
    shrink = lambda x, t: jnp.log(2.0) * x  # N(0, I) to N(0, 4 I)
    for shape in ((), (2,), (4, 4, 3)):
        x = jax.random.normal(jax.random.key(0), shape)
        truth = stats.norm(scale=2.0).logpdf(np.asarray(x)).sum()
        ours = likelihood.log_prob(shrink, x, divergence=divergence.chunked)
        assert float(ours) == pytest.approx(truth, rel=1e-4)


@pytest.mark.slow
def test_second_derivatives_by_the_adjoint_that_the_docstring_names():
    solve = partial(samplers.fixed, num_steps=40, adjoint=diffrax.DirectAdjoint())
    log_prob = partial(likelihood.log_prob, lambda x, t: jnp.log(2.0) * x, solve=solve)
    ours = jax.hessian(log_prob)(jnp.array([0.3, -0.5]))
    np.testing.assert_allclose(ours, -0.25 * np.eye(2), atol=1e-3)  # N(0, 4 I)


def test_integer_points_are_not_rounded_constants():
    ours = likelihood.standard_normal(jnp.arange(3), scale=2.5)
    assert float(ours) == pytest.approx(stats.norm(scale=2.5).logpdf([0, 1, 2]).sum(), rel=1e-6)


def test_bits_per_dim_by_hand():
    # A uniform law over 256 levels costs 8 bits per dimension, whatever its dimension.
    levels, d = 256, 12
    log_prob = d * jnp.log(0.5)  # the uniform density on [-1, 1]^d
    ours = likelihood.bits_per_dim(log_prob, d, bin_width=2 / levels)
    assert float(ours) == pytest.approx(8.0, rel=1e-6)
    assert float(likelihood.bits_per_dim(-jnp.log(2.0) * 3, 3)) == pytest.approx(1.0)


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match="num_dims must be at least 1, got 0"):
        likelihood.bits_per_dim(jnp.array(-1.0), 0)
    with pytest.raises(ValueError, match="shapes must be equal"):
        likelihood.log_prob(lambda x, t: x[:1], jnp.zeros(2))
    with pytest.raises(ValueError, match="t0 < t1"):
        likelihood.log_prob(lambda x, t: x, jnp.zeros(2), t0=1.0, t1=0.0)
    with pytest.raises(ValueError, match="scale must be positive"):
        likelihood.standard_normal(jnp.zeros(2), scale=0.0)
    with pytest.raises(ValueError, match="t1 must lie in|t0 must lie in"):
        likelihood.log_prob(lambda x, t: x, jnp.zeros(2), t1=1.5)
