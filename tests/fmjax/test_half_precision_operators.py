"""Jacobians at states of half precision: in float32, since less has no linear algebra."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fmjax import collapse, couplings, estimators, events, onestep, paths, posterior, toy

PATH = paths.linear()
HALVES = pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16], ids=["bfloat16", "float16"])
PRIOR = np.array([4.0, 1.0, 0.25, 2.0])


def field(x, t):
    """The exact velocity of independent Gaussians; the posterior variances at 1/2 are below."""
    prior = jnp.asarray(PRIOR, x.dtype)
    return (t * prior - (1 - t)) / (t**2 * prior + (1 - t) ** 2) * x


VARIANCES = PRIOR / (PRIOR + 1)  # at t = 1/2


@pytest.mark.slow
@HALVES
def test_components_and_extremes(dtype):
    key, x = jax.random.key(0), jnp.ones(4, dtype)
    for t in (0.5, jnp.asarray(0.5, dtype)):
        found = posterior.principal_components(key, field, PATH, x, t, num_components=2)
        assert found.variances.dtype == jnp.float32
        np.testing.assert_allclose(found.variances, [0.8, 2 / 3], rtol=1e-5)
        np.testing.assert_allclose(found.residuals, 0.0, atol=1e-5)
        np.testing.assert_allclose(
            posterior.extremes(key, field, PATH, x, t), [0.2, 0.8], rtol=1e-5
        )


@pytest.mark.slow
def test_a_network_that_computes_in_half_precision_has_components():
    network = lambda x, t: field(x.astype(jnp.bfloat16), t).astype(jnp.float32)
    found = posterior.principal_components(
        jax.random.key(0), network, PATH, jnp.ones(4), 0.5, num_components=4
    )
    np.testing.assert_allclose(found.variances, np.sort(VARIANCES)[::-1], rtol=2e-2)


@pytest.mark.slow
@HALVES
@pytest.mark.parametrize(
    "estimator",
    [estimators.xtrace, estimators.xnystrace, estimators.xdiag, estimators.xnysdiag,
     estimators.hutchinson, estimators.bekas],
)  # fmt: skip
def test_estimates_are_those_of_the_same_state_in_float32(estimator, dtype):
    scales = jnp.exp(-0.3 * jnp.arange(40.0))
    f = lambda x: scales.astype(x.dtype) * x + 0.01 * jnp.sum(x)
    x = jnp.linspace(0.0, 1.0, 40).astype(dtype)
    make = partial(estimator, jax.random.key(0), f, num_probes=4)
    (value, found), (_, wanted) = make(x), make(x.astype(jnp.float32))
    assert value.dtype == dtype  # of the field itself
    for ours, theirs in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.slow
@HALVES
def test_sensitivities_keep_growing(dtype):
    # J is 1 + 1 everywhere, so that S = J J^T = 4 d: beyond 256, bfloat16 adds no 4.
    x = jnp.zeros(600, dtype)
    average = lambda x, r, t: jnp.sum(x) * 2 * jnp.ones_like(x) - x
    diagonal = onestep.sensitivity_diagonal(average, PATH, x, chunk_size=1)
    np.testing.assert_allclose(diagonal, 2400.0, rtol=1e-6)
    np.testing.assert_allclose(onestep.sensitivity_trace(average, PATH, x), 1.44e6, rtol=1e-6)
    small = onestep.sensitivity(average, PATH, x[:300])
    np.testing.assert_allclose(small, 1200.0, rtol=1e-6)


@HALVES
def test_the_limit_at_the_noise_end(dtype):
    covariance = jnp.array([[2.0, 1.0], [1.0, 2.0]], dtype)
    found = posterior.prior_covariance(covariance, PATH, 0.5)
    wanted = covariance.astype(jnp.float32) @ np.linalg.inv(np.array([[3.0, 1.0], [1.0, 3.0]]))
    np.testing.assert_allclose(found, wanted, rtol=1e-5)


@HALVES
def test_information_and_variances_near_the_ends(dtype):
    # Squares of alpha / sigma and of sigma are beyond the range of float16.
    variances, t = jnp.array([2.0, 0.5], dtype), jnp.asarray(1 - 2**-11, jnp.float16)
    ratio = (2.0**11 - 1) ** 2
    found = collapse.information(PATH, variances, t)
    np.testing.assert_allclose(found, 0.5 * np.log1p(ratio * np.array([2.0, 0.5])).sum(), rtol=1e-5)
    wide = collapse.collapse_time(PATH, variances.astype(jnp.float32), 2000)
    assert collapse.collapse_time(PATH, variances, 2000) == wide
    path, early = paths.ve_to_zero(1e-3, 300.0), jnp.asarray(0.0, dtype)
    np.testing.assert_allclose(
        posterior.prior_variance(variances, path, early), [2.0, 0.5], rtol=1e-4
    )


@pytest.mark.slow
@HALVES
def test_pairs_far_apart(dtype):
    # The optimal pairs are sorted. Their squares are beyond the range of float16, and what another
    # pairing costs more is lost in bfloat16.
    x0 = 32 * jnp.arange(8, dtype=dtype)[:, None]
    x1 = 1024 + x0
    ours, _ = couplings.minibatch_ot(jax.random.key(0), x0, x1)
    np.testing.assert_array_equal(ours, x0)
    assert float(couplings.squared_euclidean(x0[0], x1[7])) == 1248**2


@HALVES
def test_asymmetry_has_squares_beyond_the_range_of_float16(dtype):
    # J = 300 (1 + turn): the antisymmetric part is as large as the symmetric one.
    matrix = 300 * jnp.array([[1.0, -1.0], [1.0, 1.0]], dtype)
    found = posterior.asymmetry(jax.random.key(0), lambda x, t: matrix @ x, jnp.ones(2, dtype), 0.5)
    np.testing.assert_allclose(found, 1.0, rtol=1e-6)
    assert found.dtype == jnp.float32


@pytest.mark.slow
@HALVES
def test_events_and_laws(dtype):
    x = jnp.asarray([0.5, -2.0], dtype)
    gaussian = lambda x, t: (2 * t - 1) / (t**2 + (1 - t) ** 2) * x
    found = events.log_probability(lambda x1: x1[0], gaussian, PATH, x, 0.5, jitter=0.0)
    np.testing.assert_allclose(jnp.exp(found), 0.760250, rtol=1e-5)  # Phi(1 / sqrt 2)
    for law in (toy.moons(), toy.eight_gaussians(), toy.checkerboard()):
        ours, wide = law.log_prob(x), law.log_prob(x.astype(jnp.float32))
        assert ours.dtype == jnp.float32
        np.testing.assert_array_equal(ours, wide)
    mixture = toy.gaussian_mixture(
        jnp.ones(2, dtype), jnp.ones((2, 2), dtype), jnp.tile(jnp.eye(2, dtype=dtype), (2, 1, 1))
    )
    np.testing.assert_allclose(mixture.log_prob(x), -np.log(2 * np.pi) - 4.625, rtol=1e-6)
