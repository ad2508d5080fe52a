"""Posterior moments where the closed forms (tests/measurements.py) do not reach."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate

from fmjax import divergence, paths, posterior
from tests import oracles

PATH = paths.linear()
PRIOR = np.array([[1.5, 0.6], [0.6, 0.8]])
CENTRE = np.array([2.0, -1.0])


def _gaussian(x, t):
    """The exact velocity to N(CENTRE, PRIOR) on the linear path."""
    s = t**2 * PRIOR + (1 - t) ** 2 * jnp.eye(2)
    pull = jnp.linalg.solve(s, x - t * CENTRE)
    return CENTRE + t * PRIOR @ pull - (1 - t) * pull


def test_laplace_data_by_quadrature(x64):
    # p(x1) = exp(-|x1 - 1|) / 2, state x = 0.9 at t = 0.4: everything by scipy's quad.
    t, x = 0.4, 0.9
    law = lambda z, k: z**k * np.exp(-abs(z - 1) - (x - t * z) ** 2 / (2 * (1 - t) ** 2))
    moments = [
        integrate.quad(law, -30, 30, args=(k,), points=[1.0], epsabs=1e-13)[0] for k in range(3)
    ]
    mean, second = moments[1] / moments[0], moments[2] / moments[0]

    grid = jnp.linspace(-30.0, 32.0, 620_001)  # the same law as a fine sum, for autodiff

    def velocity(x, t):
        logits = -jnp.abs(grid - 1) - (x - t * grid) ** 2 / (2 * (1 - t) ** 2)
        return (jax.nn.softmax(logits) @ grid - x) / (1 - t)

    state = jnp.asarray(x)
    assert float(posterior.mean(velocity, PATH, state, t)) == pytest.approx(mean, abs=1e-8)
    ours = posterior.covariance(velocity, PATH, state, t)
    assert float(ours[0, 0]) == pytest.approx(second - mean**2, abs=1e-8)


def test_the_covariance_tends_to_the_prior_at_the_noise_end(x64):
    errors = [
        np.abs(posterior.covariance(_gaussian, PATH, jnp.array([0.5, 1.5]), t) - PRIOR).max()
        for t in (1e-2, 1e-3)
    ]
    assert errors[0] < 0.1
    assert errors[1] < errors[0] / 5  # linear in t


def test_the_gain_is_finite_everywhere():
    for t in (0.0, 1e-6, 0.5, 1.0 - 1e-6, 1.0):
        gain = posterior.gain(_gaussian, PATH, jnp.array([0.5, 1.5]), t)
        values = np.linalg.eigvalsh(gain)
        assert values.min() > -1e-6
        assert values.max() < 1 + 1e-6
    np.testing.assert_allclose(
        posterior.gain(_gaussian, PATH, jnp.zeros(2), 0.0), np.zeros((2, 2)), atol=1e-6
    )
    np.testing.assert_allclose(
        posterior.gain(_gaussian, PATH, jnp.zeros(2), 1.0), np.eye(2), atol=1e-6
    )


def test_a_field_that_is_not_a_gradient_is_symmetrised(x64):
    twist = jnp.array([[0.0, 0.7], [-0.7, 0.0]])
    crooked = lambda x, t: _gaussian(x, t) + twist @ x
    x = jnp.array([0.5, 1.5])
    ours = posterior.covariance(crooked, PATH, x, 0.4)
    straight = posterior.covariance(_gaussian, PATH, x, 0.4)
    np.testing.assert_allclose(ours, straight, atol=1e-14)
    vector = jnp.array([0.3, -2.0])
    np.testing.assert_allclose(
        posterior.matvec(crooked, PATH, x, 0.4, vector), straight @ vector, atol=1e-14
    )


def test_images_keep_their_shape():
    field = lambda x, t: jnp.tanh(x) * t
    x = jax.random.normal(jax.random.key(0), (4, 4, 3))
    full = posterior.covariance(field, PATH, x, 0.5)
    variances = posterior.diagonal(field, PATH, x, 0.5)
    assert full.shape == (48, 48)
    assert variances.shape == (4, 4, 3)
    np.testing.assert_allclose(variances.ravel(), jnp.diag(full), rtol=1e-5)
    np.testing.assert_allclose(posterior.trace(field, PATH, x, 0.5), variances.sum(), rtol=1e-5)


def test_the_trace_takes_any_estimator():
    velocity = lambda x, t: oracles.law(paths.coefficients(PATH, t), x).velocity
    x, keys = jnp.array([0.4, -0.1, 0.7]), jax.random.split(jax.random.key(0), 4000)
    truth = float(posterior.trace(velocity, PATH, x, 0.5, divergence=divergence.chunked))
    draw = lambda key: posterior.trace(
        velocity, PATH, x, 0.5, divergence=partial(divergence.hutchinson, key)
    )
    draws = jax.vmap(draw)(keys)
    assert abs(float(draws.mean()) - truth) < 5 * float(draws.std()) / 4000**0.5


@pytest.mark.parametrize("function", [posterior.covariance, posterior.diagonal, posterior.trace])
def test_the_noise_end_is_refused_where_it_is_static(function):
    for t in (0, 0.0, np.float32(0.0)):
        with pytest.raises(ValueError, match=r"covariance of the data set.*posterior\.gain"):
            function(_gaussian, PATH, jnp.zeros(2), t)
        with pytest.raises(ValueError, match="0 times infinity"):
            jax.jit(lambda x, t=t: function(_gaussian, PATH, x, t))(jnp.zeros(2))
    assert bool(jnp.all(jnp.isfinite(function(_gaussian, paths.ve(), jnp.zeros(2), 0.0))))


def test_paths_with_traced_parameters():
    def total(power):
        path = paths.Path(alpha=lambda t: t**power, sigma=lambda t: 1 - t)
        return posterior.trace(_gaussian, path, jnp.array([0.5, 1.5]), 0.5)

    step = 1e-2
    slope = (total(2.0 + step) - total(2.0 - step)) / (2 * step)
    assert float(jax.jit(jax.grad(total))(2.0)) == pytest.approx(float(slope), rel=1e-2)


def test_numbers_and_lists_are_states_too():
    field = lambda x, t: -x * t
    assert float(posterior.trace(field, PATH, 1.5, 0.5)) == pytest.approx(
        float(posterior.trace(field, PATH, jnp.array(1.5), 0.5))
    )
    assert posterior.diagonal(field, PATH, np.array([1, 2]), 0.5).dtype == jnp.float32
    assert divergence.exact(lambda x: 3.0 * x, 2)[1] == 3.0


@pytest.mark.parametrize(
    "function", [posterior.mean, posterior.covariance, posterior.diagonal, posterior.trace]
)
def test_wrong_input_is_named(function):
    with pytest.raises(ValueError, match="wrap the call in jax.vmap"):
        function(_gaussian, PATH, jnp.zeros((5, 2)), jnp.zeros(5))
    with pytest.raises(ValueError, match="must lie in"):
        function(_gaussian, PATH, jnp.zeros(2), 1.2)
    with pytest.raises(ValueError, match="shapes must be equal"):
        function(lambda x, t: x[:1], PATH, jnp.zeros(2), 0.5)
    with pytest.raises(ValueError, match="shapes must be equal"):
        posterior.matvec(_gaussian, PATH, jnp.zeros(2), 0.5, jnp.zeros(3))
