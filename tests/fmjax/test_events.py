"""Events against truncated Gaussian laws in closed form, and against quadrature in one dimension.

For Gaussian data and an affine event everything is exact: given the state the data are Gaussian,
and given the event too they are that Gaussian cut by a half space, whose moments are textbook.
The velocity of the conditioned law is then `(sigma_dot x + D E[x1 | x_t, E]) / sigma`.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.special

from fmjax import empirical, events, paths, posterior, samplers
from tests.oracles import mixture as oracles

PATHS = {
    "linear": paths.linear(),
    "cosine": paths.cosine(),
    "vp": paths.vp(),
    "ve_to_zero": paths.ve_to_zero(0.01, 20.0),
}
MEAN, COVARIANCE = oracles.MEANS[1], oracles.COVARIANCES[1]  # of the data
DIRECTION, LEVEL = np.array([0.8, -1.1, 0.5]), 0.3  # E has a probability of about 0.07
VALUES, VECTORS = np.linalg.eigh(COVARIANCE)
EXACT = partial(events.log_probability, jitter=0.0)


def affine(x1):
    return jnp.asarray(DIRECTION, x1.dtype) @ x1 - LEVEL


def velocity(path):
    """Returns the velocity of N(MEAN, COVARIANCE) along a path, in eigenvectors."""

    def field(x, t):
        mean, values, vectors = (jnp.asarray(a, x.dtype) for a in (MEAN, VALUES, VECTORS))
        c = paths.coefficients(path, t)
        slope = c.alpha_dot * c.alpha * values + c.sigma_dot * c.sigma
        slope = slope / (c.alpha**2 * values + c.sigma**2)
        return c.alpha_dot * mean + vectors @ (slope * (vectors.T @ (x - c.alpha * mean)))

    return field


def given_state(c, x):
    """Returns mean and covariance of the data given the state, by their precisions, in NumPy."""
    precision = np.linalg.inv(COVARIANCE)
    covariance = np.linalg.inv(precision + (c.alpha / c.sigma) ** 2 * np.eye(3))
    return covariance @ (precision @ MEAN + c.alpha / c.sigma**2 * x), covariance


def states(path, n, last=0.99):
    """Returns n times and a state of the data at each."""
    t = jnp.linspace(0.07, last, n)
    x1 = MEAN[None] + jax.random.normal(jax.random.key(3), (n, 3)) @ oracles.FACTORS[1].T
    noise = jax.random.normal(jax.random.key(4), (n, 3))
    return jax.vmap(partial(paths.interpolate, path))(noise, x1, t), t


def coefficients(path, t):
    """Returns the path's coefficients at every time, as float64."""
    with jax.enable_x64(True):
        many = jax.vmap(partial(paths.coefficients, path))(np.float64(t))
    return [paths.Coefficients(*row) for row in np.array(many).T]


def cut(mean, covariance):
    """Returns the mean and covariance of N(mean, covariance) given DIRECTION @ x1 > LEVEL."""
    spread = covariance @ DIRECTION
    std = np.sqrt(DIRECTION @ spread)
    z = (DIRECTION @ mean - LEVEL) / std
    # phi(z) / Phi(z), by scipy's scaled erfc so that it holds far outside E.
    ratio = np.sqrt(2 / np.pi) / scipy.special.erfcx(-z / np.sqrt(2))
    mean = mean + spread / std * ratio
    return z, mean, covariance - np.outer(spread, spread) / std**2 * ratio * (ratio + z)


def ours(path, x, t):
    """Returns log P(E | x_t) and the conditioned velocity for every state."""
    guided = events.conditioned(affine, velocity(path), path, jitter=0.0)
    both = lambda x, t: (EXACT(affine, velocity(path), path, x, t), guided(x, t))
    return [np.array(a) for a in jax.jit(jax.vmap(both))(x, t)]


def truth(path, x, t):
    """Returns the same for the Gaussian cut by a half space, in float64."""
    log_p, v = [], []
    for c, state in zip(coefficients(path, t), np.float64(x), strict=True):
        z, mean, _ = cut(*given_state(c, state))
        log_p.append(scipy.special.log_ndtr(z))
        v.append((c.sigma_dot * state + c.wronskian * mean) / c.sigma)
    return np.array(log_p), np.array(v)


@pytest.mark.slow
@pytest.mark.parametrize("name", PATHS)
def test_gaussian_data_and_an_affine_event_are_exact(name, x64):
    x, t = states(PATHS[name], 12)
    log_p, v = ours(PATHS[name], x, t)
    exact_log_p, exact_v = truth(PATHS[name], x, t)
    np.testing.assert_allclose(log_p, exact_log_p, rtol=1e-10)
    scale = np.abs(exact_v).max(1, keepdims=True)
    np.testing.assert_allclose(v / scale, exact_v / scale, atol=1e-8)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["linear", "ve_to_zero"])
def test_float32(name):
    x, t = states(PATHS[name], 12, last=0.95)
    log_p, v = ours(PATHS[name], x, t)
    assert log_p.dtype == v.dtype == np.float32
    exact_log_p, exact_v = truth(PATHS[name], x, t)
    scale = np.abs(exact_v).max(1, keepdims=True)
    # Measured: 8e-7 and 4e-6 on the linear path, 1.1e-5 and 9e-5 on the other.
    np.testing.assert_allclose(log_p, exact_log_p, rtol=4e-5)
    np.testing.assert_allclose(v / scale, exact_v / scale, atol=3e-4)


@pytest.mark.slow
def test_the_conditioned_velocity_has_the_posterior_of_the_cut_law(x64):
    # So it is a velocity in full: its Jacobian, a third derivative here, is the covariance that is
    # left once the event is known.
    path = PATHS["linear"]
    x, t = states(path, 4, last=0.8)
    guided = events.conditioned(affine, velocity(path), path, jitter=0.0)
    left = jax.jit(jax.vmap(partial(posterior.covariance, guided, path)))(x, t)
    for c, state, covariance in zip(coefficients(path, t), np.array(x), left, strict=True):
        _, _, wanted = cut(*given_state(c, state))
        np.testing.assert_allclose(covariance, wanted, rtol=1e-8, atol=1e-10)


NODES = np.polynomial.legendre.leggauss(400)


class Line:
    """A two-peaked law on the line; its conditioned law by quadrature, its velocity by hand."""

    def __init__(self, weights, means, stds, level):
        self.weights, self.means, self.stds = (np.array(a) for a in (weights, means, stds))
        self.level = level

    def velocity(self, x, t):
        """Returns the velocity on the linear path."""
        variance = t**2 * self.stds**2 + (1 - t) ** 2
        gap = x - t * self.means
        r = jax.nn.softmax(np.log(self.weights) - 0.5 * gap**2 / variance - 0.5 * jnp.log(variance))
        slope = (t * self.stds**2 - (1 - t)) / variance
        return jnp.sum(r * (self.means + slope * gap))

    def event(self, x1):
        """Returns what is positive below the level."""
        return 2.0 * (self.level - x1)

    def exact(self, x, t):
        """Returns P(E | x_t = x) and the velocity of the law given E, by Gauss and Legendre."""
        nodes, weights = NODES

        def integral(low, high, function):
            x1 = 0.5 * (high - low) * nodes + 0.5 * (high + low)
            gap = (x1[:, None] - self.means) / self.stds
            prior = (self.weights / self.stds * np.exp(-0.5 * gap**2)).sum(1)
            likelihood = np.exp(-0.5 * ((x - t * x1) / (1 - t)) ** 2)
            return 0.5 * (high - low) * np.sum(weights * prior * likelihood * function(x1))

        one = lambda x1: np.ones_like(x1)
        inside = integral(-6.0, self.level, one)
        v = integral(-6.0, self.level, lambda x1: (x1 - x) / (1 - t)) / inside
        return inside / (inside + integral(self.level, 6.0, one)), v


def _on_a_line(line, t, x):
    path = paths.linear()
    guided = events.conditioned(line.event, line.velocity, path, jitter=0.0)
    both = lambda t, x: (jnp.exp(EXACT(line.event, line.velocity, path, x, t)), guided(x, t))
    ours = jax.jit(jax.vmap(both))(jnp.asarray(t), jnp.asarray(x))
    exact = np.array([line.exact(b, a) for a, b in zip(t, x, strict=True)]).T
    return np.array(ours), exact


@pytest.mark.slow
def test_on_a_line_the_gaussian_case_equals_quadrature(x64):
    line = Line([1.0], [0.7], [0.8], 0.2)
    t, x = (a.ravel() for a in np.meshgrid([0.1, 0.4, 0.7, 0.9], [-1.0, 0.1, 0.9]))
    ours, exact = _on_a_line(line, t, x)
    np.testing.assert_allclose(ours, exact, rtol=1e-9)


@pytest.mark.slow
def test_two_peaks_are_approximated_best_near_the_data(x64):
    line = Line([0.7, 0.3], [-1.2, 1.0], [0.3, 0.5], 0.4)
    times, n = (0.05, 0.2, 0.4, 0.6, 0.8, 0.9), 200
    rng = np.random.default_rng(0)
    t, k = np.repeat(times, n), rng.choice(2, 6 * n, p=line.weights)
    x = t * rng.normal(line.means[k], line.stds[k]) + (1 - t) * rng.normal(size=6 * n)
    ours, exact = _on_a_line(line, t, x)
    error = np.abs(ours[0] - exact[0]).reshape(6, n).mean(1)
    # One Gaussian for two peaks: what (1) costs is 0.08 of a probability, until the state says
    # to which peak it belongs.
    assert np.all((error[:3] > 0.06) & (error[:3] < 0.09))
    assert error[4] < 6e-4
    assert error[5] < 2e-6


def _draws(sampler, n):
    """Returns n draws of DATA given E, from noise, `[n, 3]`."""
    guided = events.conditioned(affine, velocity(paths.linear()), paths.linear(), jitter=0.0)
    x0 = jax.random.normal(jax.random.key(7), (n, 3))
    keys = jax.random.split(jax.random.key(8), n)
    return np.asarray(jax.jit(jax.vmap(lambda key, x: sampler(key, guided, x)))(keys, x0))


SAMPLERS = {
    "fixed": lambda key, v, x: samplers.fixed(v, x, num_steps=100),
    "memoryless_sde": lambda key, v, x: samplers.memoryless_sde(
        key, v, paths.linear(), x, 0.0, num_steps=100
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SAMPLERS)
def test_samples_follow_the_cut_law(name):
    n = 4000
    x1 = _draws(SAMPLERS[name], n)
    z, mean, covariance = cut(MEAN, COVARIANCE)
    # Probability integral transform of DIRECTION @ x1: uniform under the law given E.
    std = np.sqrt(DIRECTION @ COVARIANCE @ DIRECTION)
    tail = scipy.special.ndtr((DIRECTION @ (MEAN - x1).T) / std)
    level = scipy.special.ndtr(z)
    inside = tail < level
    # Heun leaves 11 of 4,000 outside, at most 0.011 beyond the edge; the SDE's steps leave 1.
    assert (~inside).sum() < 20
    assert (DIRECTION @ x1.T - LEVEL).min() > -0.02
    counts = np.histogram(tail[inside] / level, 10, (0, 1))[0]
    assert np.abs(counts / n - 0.1).max() < 5 * np.sqrt(0.09 / n)
    assert np.all(np.abs(x1.mean(0) - mean) < 5 * np.sqrt(np.diag(covariance) / n))
    variances = np.diag(covariance)
    spread = np.sqrt((np.outer(variances, variances) + covariance**2) / n)
    assert np.all(np.abs(np.cov(x1.T) - covariance) < 5 * spread)


def test_below_the_smallest_time_the_limit_is_approached(x64):
    # At t = 0 of the linear path the velocity given E is E[x1 | E] - x0, from any x0; what is
    # kept from smallest_t misses it by a share of about smallest_t.
    path, x0 = PATHS["linear"], jnp.asarray([0.4, -1.0, 0.8])
    wanted = cut(MEAN, COVARIANCE)[1] - x0
    guided = partial(events.conditioned, affine, velocity(path), path, jitter=0.0)
    ours = jax.jit(lambda x: [guided(smallest_t=share)(x, 0.0) for share in (0.04, 0.01)])(x0)
    far, near = (float(np.linalg.norm(v - wanted)) for v in ours)
    assert far < 0.04 * np.linalg.norm(wanted)  # 0.032 of 1.11
    assert 3.5 < far / near < 5.5  # 4.4


def test_a_negative_variance_counts_by_its_size_and_jitter_is_added():
    # v = -5 x on the linear path at 1 / 2: m = x - 5 x / 2 = -1.5 x, so grad m = -1.5, and
    # sigma^2 / alpha = 1 / 2. C = 2 x1 - 1 has gradient 2.
    ask = partial(events.log_probability, jitter=0.7, log_cdf=lambda z: 10.0 * z)
    event, field = (lambda x1: 2.0 * x1 - 1.0), (lambda x, t: -5.0 * x)
    got = jax.jit(lambda x: ask(event, field, paths.linear(), x, 0.5))(jnp.asarray(-2.0))
    assert float(got) == pytest.approx(10.0 * 5.0 / np.sqrt(0.5 * 1.5 * 4 + 0.7 * 4), rel=1e-6)


def test_the_unit_of_the_event_does_not_matter():
    path, x = paths.linear(), jnp.asarray([0.5, -1.0, 2.0])
    ask = jax.jit(
        lambda unit: events.log_probability(
            lambda x1: unit * affine(x1), velocity(path), path, x, 0.4
        )
    )
    assert float(ask(1e-3)) == pytest.approx(float(ask(1.0)), rel=1e-4)


@pytest.mark.slow
def test_next_to_a_point_of_a_data_set_the_event_is_decided():
    # Whose exact posterior has no variance left in float32: no division by it, no pull.
    bank = jnp.array([[0.5, -1.0], [-2.0, 0.3], [-1.0, 2.0]])
    path, event = paths.linear(), lambda x1: x1[0]
    field = partial(empirical.velocity, path, bank)
    guided = events.conditioned(event, field, path, jitter=0.0)
    t = jnp.array([0.5, 0.9, 0.99])
    inside, outside = jnp.outer(t, bank[0]), jnp.outer(t, bank[1])
    ask = jax.jit(jax.vmap(partial(events.log_probability, event, field, path, jitter=0.0)))
    pulled = jax.jit(jax.vmap(guided))
    assert np.isfinite(np.asarray(pulled(inside, t))).all()
    np.testing.assert_array_equal(pulled(inside, t)[1:], jax.vmap(field)(inside, t)[1:])
    assert np.isfinite(np.asarray(pulled(outside, t))).all()
    assert ask(inside, t)[1:].tolist() == [0.0, 0.0]
    assert ask(outside, t)[-1] == -np.inf


def test_where_no_noise_is_left_the_event_does_not_move_the_state():
    path, x = paths.cosine(), jnp.asarray([0.5, -1.0, 2.0])
    guided = events.conditioned(affine, velocity(path), path)
    # Operation by operation: two compiled programs may round the velocity differently.
    np.testing.assert_array_equal(guided(x, 1.0), velocity(path)(x, 1.0))


def test_wrong_arguments_are_refused():
    path, x = paths.linear(), jnp.ones(3)
    ask = partial(events.log_probability, velocity=lambda x, t: x, path=path, x=x)
    with pytest.raises(ValueError, match=r"one number, shape \(\), got \[\(3,\)\].*shape \(3,\)"):
        ask(lambda x1: x1, t=0.5)
    with pytest.raises(ValueError, match=r"got \[\(\), \(\)\]"):
        events.conditioned(lambda x1: (x1[0], x1[1]), lambda x, t: x, path)(x, 0.5)
    with pytest.raises(ValueError, match="jitter must not be negative, got -0.1"):
        ask(affine, t=0.5, jitter=-0.1)
    with pytest.raises(ValueError, match=r"alpha must be positive, got 0.0 at t = 0.0.*smallest_t"):
        ask(affine, t=0.0)
    with pytest.raises(ValueError, match=r"sigma must be positive, got 0.0 at t = 1.0"):
        ask(affine, t=1.0)
    with pytest.raises(ValueError, match=r"of \['bool'\].*not x.max\(\) > 2.5"):
        ask(lambda x1: x1[0] > 1, t=0.5)
    with pytest.raises(ValueError, match=r"smallest_t must lie in \[0, 1\), got 1.0"):
        events.conditioned(affine, lambda x, t: x, path, smallest_t=1.0)
