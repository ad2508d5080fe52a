"""Draws of the memoryless flow against posteriors in closed form and by quadrature.

One call moves many independent coordinates of one example where the velocity acts on each by
itself, and many keys where it does not. Random moments are allowed five standard errors, plus
the sampler's own error where that is not far below them.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate

from fmjax import paths, samplers
from tests import slow
from tests.oracles import mixture as oracles

PATHS = {
    "linear": paths.linear(),
    "cosine": paths.cosine(),
    "vp": paths.vp(),
    "ve": paths.ve(0.001, 20.0),
}
MEAN, VARIANCE = 1.3, 0.5


def _gaussian(path):
    """The exact velocity of N(MEAN, VARIANCE) data, each entry by itself."""

    def velocity(x, t):
        a, s, a_dot, s_dot = paths.coefficients(path, t)
        pull = (x - a * MEAN) / (a**2 * VARIANCE + s**2)
        return a_dot * (MEAN + a * VARIANCE * pull) + s_dot * s * pull

    return velocity


def _given(path, x, t, s):
    """Mean and variance of the state at s given x at t, by noising back from s to t (Bayes)."""
    alpha, sigma = (np.array([float(f(jnp.float32(r))) for r in (t, s)]) for f in path)
    ratio = alpha[0] / alpha[1]
    noise = sigma[0] ** 2 - (ratio * sigma[1]) ** 2  # x_t = ratio x_s + N(0, noise)
    prior = alpha[1] ** 2 * VARIANCE + sigma[1] ** 2
    gain = prior * ratio / (ratio**2 * prior + noise)
    return alpha[1] * MEAN + gain * (x - alpha[0] * MEAN), (1 - gain * ratio) * prior


def _close(draws, mean, variance, slack):
    """Asserts both moments within five standard errors, and `slack` of the data's variance."""
    n, draws = draws.size, np.asarray(draws, np.float64)
    assert abs(draws.mean() - mean) < 5 * np.sqrt(variance / n) + 1e-5
    assert abs(draws.var() - variance) < 5 * variance * np.sqrt(2 / n) + slack * VARIANCE + 1e-6


@pytest.mark.slow
@slow.but_the_first("name", PATHS)
def test_gaussian_data_from_every_time(name, key):
    # 50 steps err by at most 0.14 % of the data's variance (linear, cosine), 0.4 % (vp) and
    # 0.65 % (ve), from a recursion of the variance in float64.
    path, slack = PATHS[name], {"vp": 0.004, "ve": 0.0066}.get(name, 0.0015)
    state = jnp.full(50_000, 0.4)
    draw = jax.jit(partial(samplers.memoryless_sde, key, _gaussian(path), path, state))
    for t0 in (0.1, 0.3, 0.5, 0.9):
        _close(draw(jnp.float32(t0)), *_given(path, 0.4, t0, 1.0), slack)


@pytest.mark.slow
def test_the_law_of_every_later_state_and_not_of_the_last_alone(key):
    path, state = PATHS["cosine"], jnp.full(50_000, -0.7)
    for t0, t1 in ((0.2, 0.6), (0.5, 0.55)):
        draws = samplers.memoryless_sde(key, _gaussian(path), path, state, t0, t1)
        _close(draws, *_given(path, -0.7, t0, t1), 0.001)


def _mixture(path):
    return lambda x, t: oracles.law(paths.coefficients(path, t), x).velocity


@pytest.mark.slow
@slow.but_the_first(
    ("name", "x", "t0"),
    [
        ("linear", (0.1, 0.2, -0.1), 0.2),
        ("cosine", (-0.3, 0.9, 0.1), 0.35),
    ],
)
def test_the_whole_covariance_of_a_skewed_mixture(name, x, t0):
    path, n, x = PATHS[name], 20_000, jnp.array(x)
    draw = lambda key: samplers.memoryless_sde(key, _mixture(path), path, x, t0)
    draws = jax.jit(jax.vmap(draw))(jax.random.split(jax.random.key(1), n))
    draws, truth = np.asarray(draws, np.float64), oracles.law(paths.coefficients(path, t0), x)
    error = 5 * draws.std(0) / n**0.5
    np.testing.assert_array_less(np.abs(draws.mean(0) - truth.mean), error)
    gap = draws - np.asarray(truth.mean)
    products = gap[:, :, None] * gap[:, None, :]
    error = 5 * products.std(0) / n**0.5
    np.testing.assert_array_less(np.abs(products.mean(0) - truth.covariance), error)


@pytest.mark.slow
def test_laplace_data_by_quadrature(key):
    # p(x1) = exp(-|x1|) / 2: with y = x / t and r = ((1 - t) / t)^2 the posterior mean is
    # y - r (A - B) / (A + B), A and B the masses of the two half lines.
    path, x, t0, n = PATHS["linear"], 0.35, 0.4, 50_000

    def velocity(x, t):
        y, r = x / t, ((1 - t) / t) ** 2
        log_a = -y + jax.scipy.special.log_ndtr((y - r) / jnp.sqrt(r))
        log_b = y + jax.scipy.special.log_ndtr(-(y + r) / jnp.sqrt(r))
        return (y - r * jnp.tanh((log_a - log_b) / 2) - x) / (1 - t)

    draws = samplers.memoryless_sde(key, velocity, path, jnp.full(n, x), t0)
    draws = np.asarray(draws, np.float64)
    law = lambda z, f: f(z) * np.exp(-abs(z) - (x - t0 * z) ** 2 / (2 * (1 - t0) ** 2))
    expect = lambda f: integrate.quad(law, -25, 25, args=(f,), points=[0.0, 1.0])[0]
    mass = expect(lambda z: 1.0)
    # Two moments, a skewed one, and two tails.
    for f in (
        lambda z: z,
        lambda z: z**2,
        lambda z: z**3,
        lambda z: 1.0 * (z > 1.0),
        lambda z: 1.0 * (z < -0.5),
    ):
        values = f(draws)
        error = 5 * values.std() / n**0.5 + 0.002 * abs(values).mean()
        assert abs(values.mean() - expect(f) / mass) < error


@pytest.mark.slow
def test_from_the_noise_it_is_a_sampler_that_forgets_its_start(key):
    # At t = 0 the posterior is the law of the data, whatever the state.
    path, n = PATHS["linear"], 10_000
    x0 = jax.random.normal(jax.random.key(5), (n, 3))
    draw = lambda key, x: samplers.memoryless_sde(key, _mixture(path), path, x, 0.0)
    x1 = jax.jit(jax.vmap(draw))(jax.random.split(key, n), x0)
    _is_the_data(x1, slack=0.004)
    mixed = np.corrcoef(np.asarray(x0).T, np.asarray(x1).T)[:3, 3:]
    assert np.abs(mixed).max() < 5 / n**0.5
    # The flow equation does not forget.
    flow = jax.jit(jax.vmap(partial(samplers.fixed, _mixture(path), num_steps=20)))(x0)
    mixed = np.corrcoef(np.asarray(x0).T, np.asarray(flow).T)[:3, 3:]
    assert np.abs(mixed).max() > 0.5


def _is_the_data(draws, slack):
    """Asserts the mixture's mean and covariance, its share `slack` apart."""
    draws = np.asarray(draws, np.float64)
    mean = oracles.WEIGHTS @ oracles.MEANS
    offset = oracles.MEANS - mean
    covariance = np.einsum("k,kij->ij", oracles.WEIGHTS, oracles.COVARIANCES)
    covariance += np.einsum("k,ki,kj->ij", oracles.WEIGHTS, offset, offset)
    error = 5 * draws.std(0) / len(draws) ** 0.5
    np.testing.assert_array_less(np.abs(draws.mean(0) - mean), error)
    gap = draws - mean
    products = gap[:, :, None] * gap[:, None, :]
    error = 5 * products.std(0) / len(draws) ** 0.5 + slack * np.trace(covariance)
    np.testing.assert_array_less(np.abs(products.mean(0) - covariance), error)


@pytest.mark.slow
def test_states_of_the_path_end_as_data(key):
    path, n, t0 = PATHS["linear"], 10_000, 0.05
    x0 = jax.random.normal(jax.random.key(6), (n, 3))
    start = t0 * oracles.sample(jax.random.key(7), n) + (1 - t0) * x0
    draw = lambda key, x: samplers.memoryless_sde(key, _mixture(path), path, x, t0)
    _is_the_data(jax.jit(jax.vmap(draw))(jax.random.split(key, n), start), slack=0.004)


def _ending_variance(noise, t0, t1=1 - 1e-9):
    """The variance at 1 of eq. (1) from a point, g^2 = noise(t): dV/dt = 2 f V + g^2, by scipy."""

    def rate(t, v):
        spread = t**2 * VARIANCE + (1 - t) ** 2
        slope = (t * VARIANCE - (1 - t)) / spread - noise(t) / 2 / spread
        return 2 * slope * v + noise(t)

    return integrate.solve_ivp(rate, (t0, t1), [0.0], rtol=1e-10, atol=1e-12).y[0, -1]


@pytest.mark.slow
def test_only_the_memoryless_noise_gives_the_posterior(key):
    t0, path = 0.3, PATHS["linear"]
    truth = _given(path, 0.4, t0, 1.0)[1]
    memoryless = _ending_variance(lambda t: 2 * (1 - t) / t, t0)
    assert memoryless == pytest.approx(truth, rel=1e-6)
    assert _ending_variance(lambda t: 0.0, t0) == 0.0  # the flow equation: one ending
    other = _ending_variance(lambda t: 1 - t, t0)
    assert other < 0.6 * truth
    # An Euler-Maruyama run of eq. (1), written out, meets both, and ours the first.
    normal, h = np.random.default_rng(0).standard_normal, (1 - t0) / 400
    for noise, wanted in (
        (lambda t: 2 * (1 - t) / t, memoryless),
        (lambda t: 1 - t, other),
    ):
        x = np.full(50_000, 0.4)
        for t in t0 + h * np.arange(400):
            spread = t**2 * VARIANCE + (1 - t) ** 2
            v = MEAN + (t * VARIANCE - (1 - t)) / spread * (x - t * MEAN)
            score = -(x - t * MEAN) / spread
            x = x + h * (v + noise(t) / 2 * score) + np.sqrt(noise(t) * h) * normal(x.size)
        _close(x, x.mean(), wanted, slack=0.002)
    ours = samplers.memoryless_sde(key, _gaussian(path), path, jnp.full(50_000, 0.4), t0)
    _close(ours, _given(path, 0.4, t0, 1.0)[0], memoryless, slack=0.001)


@pytest.mark.slow
def test_the_error_of_the_variance_falls_with_the_square_of_the_steps(key):
    path = PATHS["linear"]
    truth = _given(path, 0.4, 0.3, 1.0)[1]
    draw = partial(samplers.memoryless_sde, key, _gaussian(path), path, jnp.full(1_000_000, 0.4))
    errors = [float(truth - jnp.var(draw(0.3, num_steps=n))) for n in (3, 6)]
    # Standard error of each: 0.0005 of 0.46; the errors are 0.08 and 0.02.
    assert errors[0] / errors[1] == pytest.approx(4.0, abs=0.8)


@pytest.mark.slow
def test_directions_without_variance_get_none(key):
    # Data at one point: the posterior is that point, from any state, however few the steps.
    path, point = PATHS["linear"], jnp.array([0.7, -1.0])
    velocity = lambda x, t: (point - x) / (1 - t)
    for t0, steps in ((0.0, 2), (0.1, 7), (0.9, 50)):
        x1 = samplers.memoryless_sde(
            key, velocity, path, jnp.array([3.0, 2.0]), t0, num_steps=steps
        )
        np.testing.assert_allclose(x1, point, atol=2e-6)


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(), (3,), (4, 4, 3)])
def test_any_shape_one_key_one_draw(shape, key):
    path, x = PATHS["cosine"], jnp.full(shape, 0.4)
    draw = jax.jit(lambda key: samplers.memoryless_sde(key, _gaussian(path), path, x, 0.3))
    first, again, other = draw(key), draw(key), draw(jax.random.key(9))
    assert first.shape == shape
    np.testing.assert_array_equal(first, again)
    assert bool(jnp.all(first != other))
    assert np.unique(first).size == first.size  # no two entries share their noise


@pytest.mark.slow
def test_gradients_are_those_of_a_finite_difference(key, x64):
    path = PATHS["linear"]
    draw = lambda x: samplers.memoryless_sde(key, _gaussian(path), path, x, 0.3, num_steps=8)
    x = jnp.float64(0.4)
    slope = (draw(x + 1e-5) - draw(x - 1e-5)) / 2e-5
    assert float(jax.grad(draw)(x)) == pytest.approx(float(slope), rel=1e-8)
    # Given noise, the draw of a Gaussian moves as the posterior's mean: alpha C / sigma^2.
    exact = 0.3 * VARIANCE / (0.09 * VARIANCE + 0.49)
    assert float(slope) == pytest.approx(exact, rel=1e-8)


@pytest.mark.slow
def test_no_interval_no_step(key):
    never = lambda x, t: 1 / 0
    x = jnp.array([1.0, 2.0])
    for t in (0, 0.4, 1.0):
        np.testing.assert_array_equal(
            samplers.memoryless_sde(key, never, PATHS["linear"], x, t, t), x
        )
    still = jax.jit(partial(samplers.memoryless_sde, key, _gaussian(PATHS["vp"]), PATHS["vp"], x))
    np.testing.assert_allclose(still(jnp.float32(0.4), jnp.float32(0.4)), x, rtol=1e-6)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda draw, v, x: draw(v, x, 0.5, num_steps=0), "num_steps must be at least 1, got 0"),
        (lambda draw, v, x: draw(v, x, jnp.zeros(3)), "t0 must be a scalar.*jax.vmap"),
        (lambda draw, v, x: draw(v, x, np.zeros(3)), "t0 must be a scalar.*jax.vmap"),
        (lambda draw, v, x: draw(v, x, 0.5, jnp.ones(3)), "t1 must be a scalar.*jax.vmap"),
        (lambda draw, v, x: draw(v, x, -0.1), "t0 must lie in"),
        (lambda draw, v, x: draw(v, x, 0.5, 1.5), "t1 must lie in"),
        (lambda draw, v, x: draw(v, x, 0.5, 0.2), "runs towards the data.*samplers.fixed"),
        (lambda draw, v, x: draw(lambda x, t: x[:1], x, 0.5), r"x \(2,\), velocity \(1,\)"),
    ],
)
def test_wrong_arguments_are_named(call, words, key):
    def draw(velocity, x, *times, **options):
        return samplers.memoryless_sde(key, velocity, PATHS["linear"], x, *times, **options)

    with pytest.raises(ValueError, match=words):
        call(draw, _gaussian(PATHS["linear"]), jnp.array([0.4, -1.0]))


@pytest.mark.slow
def test_a_traced_end_of_the_flow_returns_the_state():
    x = jnp.array([0.3, -0.7])
    draw = jax.jit(
        lambda t0: samplers.memoryless_sde(jax.random.key(0), _still, paths.linear(), x, t0)
    )
    np.testing.assert_array_equal(draw(1.0), x)


def _still(x, t):
    return jnp.zeros_like(x)
