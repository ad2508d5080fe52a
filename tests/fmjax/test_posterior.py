"""Posterior moments where the closed forms (tests/measured/identities.py) do not reach."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate

from fmjax import divergence, estimators, paths, posterior, predictions
from tests.oracles import mixture as oracles

PATH = paths.linear()
PRIOR = np.array([[1.5, 0.6], [0.6, 0.8]])
CENTER = np.array([2.0, -1.0])


def _gaussian(x, t):
    """The exact velocity to N(CENTER, PRIOR) on the linear path."""
    s = t**2 * PRIOR + (1 - t) ** 2 * jnp.eye(2)
    pull = jnp.linalg.solve(s, x - t * CENTER)
    return CENTER + t * PRIOR @ pull - (1 - t) * pull


@pytest.mark.slow
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


@pytest.mark.slow
def test_the_covariance_tends_to_the_prior_at_the_noise_end(x64):
    errors = [
        np.abs(posterior.covariance(_gaussian, PATH, jnp.array([0.5, 1.5]), t) - PRIOR).max()
        for t in (1e-2, 1e-3)
    ]
    assert errors[0] < 0.1
    assert errors[1] < errors[0] / 5  # linear in t


@pytest.mark.slow
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


@pytest.mark.slow
def test_a_field_that_is_not_a_gradient_is_symmetrized(x64):
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


@pytest.mark.slow
def test_images_keep_their_shape():
    field = lambda x, t: jnp.tanh(x) * t
    x = jax.random.normal(jax.random.key(0), (4, 4, 3))
    full = posterior.covariance(field, PATH, x, 0.5)
    variances = posterior.diagonal(field, PATH, x, 0.5)
    assert full.shape == (48, 48)
    assert variances.shape == (4, 4, 3)
    np.testing.assert_allclose(variances.ravel(), jnp.diag(full), rtol=1e-5)
    np.testing.assert_allclose(posterior.trace(field, PATH, x, 0.5), variances.sum(), rtol=1e-5)


@pytest.mark.slow
def test_the_trace_takes_any_estimator():
    velocity = lambda x, t: oracles.law(paths.coefficients(PATH, t), x).velocity
    x, keys = jnp.array([0.4, -0.1, 0.7]), jax.random.split(jax.random.key(0), 4000)
    truth = float(posterior.trace(velocity, PATH, x, 0.5, divergence=divergence.chunked))
    draw = lambda key: posterior.trace(
        velocity, PATH, x, 0.5, divergence=partial(divergence.hutchinson, key)
    )
    draws = jax.jit(jax.vmap(draw))(keys)
    assert abs(float(draws.mean()) - truth) < 5 * float(draws.std()) / 4000**0.5


@pytest.mark.slow
def test_the_estimate_agrees_with_the_trace_and_the_diagonal(x64):
    # Five standard errors over independent keys, with white noise and with colored.
    jacobian = jnp.asarray(np.random.default_rng(0).normal(size=(12, 12)))
    field = lambda x, t: (jacobian @ x.ravel()).reshape(x.shape)
    factors = jnp.linspace(0.5, 2.0, 12).reshape(2, 2, 3)
    options = {"of": predictions.velocity, "noise": lambda w: factors * w}
    x, keys = jnp.ones((2, 2, 3)), jax.random.split(jax.random.key(1), 500)
    for estimator, exact in (
        (estimators.hutchinson, posterior.trace),
        (estimators.bekas, posterior.diagonal),
    ):
        draw = lambda key, estimator=estimator: posterior.estimate(
            field, PATH, x, 0.4, estimator=partial(estimator, key, num_probes=4), **options
        )
        found = jax.jit(jax.vmap(draw))(keys)
        truth = exact(field, PATH, x, 0.4, **options)
        gap = np.abs(found.mean.mean(0) - truth)
        assert found.mean[0].shape == found.standard_error[0].shape == truth.shape
        assert np.all(gap < 5 * found.mean.std(0) / 500**0.5)
        reported = np.mean(found.standard_error**2, axis=0)
        np.testing.assert_allclose(reported, found.mean.var(0), rtol=0.3)


@pytest.mark.slow
def test_noise_whose_covariance_does_not_commute_with_the_data(x64):
    # N(CENTER, PRIOR) by NumPy: C = S - t^2 S (t^2 S + s^2 G)^-1 S, v = E[x1 - x0 | x].
    gamma, t = np.array([[0.5, -0.3], [-0.3, 2.0]]), 0.4
    inverse = np.linalg.inv(t**2 * PRIOR + (1 - t) ** 2 * gamma)
    truth = PRIOR - t**2 * PRIOR @ inverse @ PRIOR
    slope = (t * PRIOR - (1 - t) * gamma) @ inverse
    field = lambda x, _: CENTER + slope @ (x - t * CENTER)
    x, noise = jnp.array([0.5, 1.5]), lambda w: jnp.asarray(gamma) @ w
    assert np.abs(PRIOR @ gamma - gamma @ PRIOR).max() > 0.1
    ours = posterior.covariance(field, PATH, x, t, noise=noise)
    np.testing.assert_allclose(ours, truth, atol=1e-14)
    product = posterior.matvec(field, PATH, x, t, jnp.array([1.0, -2.0]), noise=noise)
    np.testing.assert_allclose(product, truth @ [1.0, -2.0], atol=1e-14)
    entries = posterior.diagonal(field, PATH, x, t, noise=noise)
    np.testing.assert_allclose(entries, np.diag(truth), atol=1e-14)
    # Of the noise, (6): alpha^2 / sigma^2 times; of the velocity: D^2 / sigma^2 times, D = 1.
    of = partial(posterior.covariance, field, PATH, x, t, noise=noise)
    np.testing.assert_allclose(of(of=predictions.x0), (0.4 / 0.6) ** 2 * truth, atol=1e-14)
    np.testing.assert_allclose(of(of=predictions.velocity), truth / 0.6**2, atol=1e-14)
    with pytest.raises(ValueError, match=r"shapes must be equal, got x \(2,\), noise \(1,\)"):
        posterior.trace(field, PATH, x, t, noise=lambda w: w[:1])


@pytest.mark.slow
def test_the_gradient_of_u_against_differences(x64):
    gamma = jnp.array([[1.3, 0.5, -0.2], [0.5, 0.8, 0.3], [-0.2, 0.3, 0.6]])
    x, step = jnp.array([0.4, -0.1, 0.7]), 1e-5
    for matrix in (jnp.eye(3), gamma):
        mixture = oracles.MIXTURE._replace(noise=matrix)
        law = lambda x, t, mixture=mixture: oracles.law(paths.coefficients(PATH, t), x, mixture)
        total = jax.jit(
            lambda x, law=law, matrix=matrix: posterior.trace(
                lambda x, t: law(x, t).velocity, PATH, x, 0.4, noise=lambda w: matrix @ w
            )
        )
        np.testing.assert_allclose(total(x), jnp.trace(law(x, 0.4).covariance), rtol=1e-13)
        differences = [(total(x + step * e) - total(x - step * e)) / (2 * step) for e in np.eye(3)]
        ours = jax.jit(jax.grad(total))(x)
        assert float(jnp.abs(ours).max()) > 0.1
        np.testing.assert_allclose(ours, differences, rtol=1e-8, atol=1e-9)


KEY = jax.random.key(0)
SHARES = jnp.array([0.5, 0.5])
ESTIMATOR = partial(estimators.hutchinson, KEY)
# Everything that takes a velocity: `(velocity, x, t) -> numbers`.
FUNCTIONS = {
    "mean": lambda v, x, t: posterior.mean(v, PATH, x, t),
    "matvec": lambda v, x, t: posterior.matvec(v, PATH, x, t, jnp.ones_like(x)),
    "covariance": lambda v, x, t: posterior.covariance(v, PATH, x, t),
    "gain": lambda v, x, t: posterior.gain(v, PATH, x, t),
    "diagonal": lambda v, x, t: posterior.diagonal(v, PATH, x, t),
    "trace": lambda v, x, t: posterior.trace(v, PATH, x, t),
    "estimate": lambda v, x, t: posterior.estimate(v, PATH, x, t, estimator=ESTIMATOR),
    "components": lambda v, x, t: posterior.principal_components(
        KEY, v, PATH, x, t, num_components=2
    ),
    "extremes": lambda v, x, t: posterior.extremes(KEY, v, PATH, x, t),
    "asymmetry": lambda v, x, t: posterior.asymmetry(KEY, v, x, t),
    "total_covariance": lambda v, x, t: posterior.total_covariance(
        lambda x, t, c: v(x, t), PATH, x, t, jnp.arange(2), SHARES
    ),
    "total_diagonal": lambda v, x, t: posterior.total_diagonal(
        lambda x, t, c: v(x, t), PATH, x, t, jnp.arange(2), SHARES
    ),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_velocity_that_is_not_finite_shows_everywhere(name):
    found = FUNCTIONS[name](lambda x, t: x * jnp.nan, jnp.ones((2, 3)), 0.5)
    for array in jax.tree.leaves(found):
        assert not bool(jnp.any(jnp.isfinite(array)))


@pytest.mark.parametrize("name", ["covariance", "gain", "total_covariance"])
def test_a_matrix_that_is_too_large_is_refused_before_the_velocity_is_called(name):
    def velocity(x, t):
        raise AssertionError("called")

    with pytest.raises(ValueError, match=r"12288 entries.*0\.6 GB.*4096.*principal_components"):
        FUNCTIONS[name](velocity, jnp.zeros((64, 64, 3)), 0.5)


@pytest.mark.parametrize("name", [name for name in FUNCTIONS if name != "mean"])
def test_shapes_and_times_that_do_not_fit_are_named(name):
    function = FUNCTIONS[name]
    with pytest.raises(ValueError, match=r"must be a scalar, got shape \(5,\).*jax\.vmap"):
        function(_gaussian, jnp.zeros((5, 2)), jnp.zeros(5))
    with pytest.raises(ValueError, match="must lie in"):
        function(_gaussian, jnp.zeros(2), 1.2)
    with pytest.raises(ValueError, match="shapes must be equal"):
        function(lambda x, t: x[:1], jnp.zeros(2), 0.5)
    if name not in {"gain", "asymmetry"}:
        with pytest.raises(ValueError, match=r"0 times infinity at t = 0.*posterior\.near_noise"):
            function(_gaussian, jnp.zeros(2), 0.0)


@pytest.mark.parametrize("function", [posterior.covariance, posterior.diagonal, posterior.trace])
def test_the_noise_end_is_refused_where_it_is_static(function):
    for t in (0, 0.0, np.float32(0.0)):
        with pytest.raises(ValueError, match=r"covariance of the data set.*posterior\.gain"):
            function(_gaussian, PATH, jnp.zeros(2), t)
        with pytest.raises(ValueError, match="0 times infinity"):
            jax.jit(lambda x, t=t: function(_gaussian, PATH, x, t))(jnp.zeros(2))
    assert bool(jnp.all(jnp.isfinite(function(_gaussian, paths.ve(), jnp.zeros(2), 0.0))))


@pytest.mark.slow
def test_paths_with_traced_parameters():
    def total(power):
        path = paths.Path(alpha=lambda t: t**power, sigma=lambda t: 1 - t)
        return posterior.trace(_gaussian, path, jnp.array([0.5, 1.5]), 0.5)

    step = 1e-2
    slope = (total(2.0 + step) - total(2.0 - step)) / (2 * step)
    assert float(jax.jit(jax.grad(total))(2.0)) == pytest.approx(float(slope), rel=1e-2)


@pytest.mark.slow
def test_numbers_and_lists_are_states_too():
    field = lambda x, t: -x * t
    assert float(posterior.trace(field, PATH, 1.5, 0.5)) == pytest.approx(
        float(posterior.trace(field, PATH, jnp.array(1.5), 0.5))
    )
    assert posterior.diagonal(field, PATH, np.array([1.0, 2.0]), 0.5).dtype == jnp.float32
    assert divergence.exact(lambda x: 3.0 * x, 2)[1] == 3.0


def test_wrong_input_is_named():
    with pytest.raises(ValueError, match="wrap the call in jax.vmap"):
        posterior.mean(_gaussian, PATH, jnp.zeros((5, 2)), jnp.zeros(5))
    with pytest.raises(ValueError, match="must lie in"):
        posterior.mean(_gaussian, PATH, jnp.zeros(2), 1.2)
    with pytest.raises(ValueError, match="shapes must be equal"):
        posterior.mean(lambda x, t: x[:1], PATH, jnp.zeros(2), 0.5)
    with pytest.raises(ValueError, match="shapes must be equal"):
        posterior.matvec(_gaussian, PATH, jnp.zeros(2), 0.5, jnp.zeros(3))
