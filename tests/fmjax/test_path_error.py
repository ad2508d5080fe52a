"""The error of a learned law against closed forms, against scipy, and against the likelihood.

The main case is one-dimensional: four peaks on the linear path and the velocity `u + 0.2 sin 2x`,
whose total variation and bound were computed outside of this library (`_lagrangian` is one way).
"""

from functools import partial

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, stats

from fmjax import divergence, empirical, likelihood, losses, path_error, paths, samplers
from tests.oracles import round as mixtures

PATHS = {
    "linear": paths.linear(),
    "linear with noise left": paths.linear(0.1),
    "cosine": paths.cosine(),
    "vp": paths.vp(),
    "ve": paths.ve(),
}
TRUE = partial(mixtures.velocity, mixtures.LINE)
DENSITY = partial(mixtures.log_density, mixtures.LINE)
TIMES = np.array([0.0, 0.25, 0.5, 0.75, 1.0])
# Two programs outside of this library agree on these: mixtures in NumPy, and `_lagrangian`.
TOTAL_VARIATION = np.array([0.03545, 0.06821, 0.09275, 0.12203])
BOUND = np.array([0.03580, 0.07137, 0.11510, 0.17681])
GRID, CELL = np.linspace(-6.0, 6.0, 1501), 12.0 / 1500
# Equal steps of fifth order: exact to about 1e-12 here, and smooth in the point and the time.
PRECISE = partial(samplers.fixed, num_steps=400, solver=diffrax.Tsit5())


def _wrong(x, t):
    return TRUE(x, t) + 0.2 * jnp.sin(2 * x)


def _conditional(path, x1, x, t):
    """The velocity of one data point, `(sigma_dot / sigma) (x - alpha x1) + alpha_dot x1`."""
    c = paths.coefficients(path, t)
    return c.sigma_dot / c.sigma * (x - c.alpha * x1) + c.alpha_dot * x1


def _normal(path, x1, x, t):
    """The logarithm of N(alpha x1, sigma^2 I)."""
    alpha, sigma = path.alpha(t), path.sigma(t)
    return -0.5 * jnp.sum(((x - alpha * x1) / sigma) ** 2 + jnp.log(2 * jnp.pi * sigma**2))


@pytest.mark.slow
def test_conditional_fields_obey_the_continuity_equation_on_every_path(x64):
    x1 = jnp.array([[1.0, -2.0, 0.5], [0.2, 0.1, -1.5]])
    x = jnp.array([[0.3, -1.0, 2.0], [-0.7, 0.4, 0.9]])
    t = jnp.array([0.2, 0.85])

    def one(path, x1, x, t):
        field = partial(_conditional, path, x1)
        bank = partial(empirical.log_density, path, x1[None])
        away = path_error.residual(bank, lambda x, t: field(x, t) + jnp.sin(x[::-1]) + x, x, t)
        score = -(x - path.alpha(t) * x1) / path.sigma(t) ** 2
        # Of the perturbation delta alone: -(div delta + delta . score), div sin x[::-1] = cos x_2.
        by_hand = -(jnp.cos(x[1]) + 3 + jnp.sum((jnp.sin(x[::-1]) + x) * score))
        div = divergence.exact(lambda x: field(x, t), x)[1]
        return path_error.residual(partial(_normal, path, x1), field, x, t), away, by_hand, div

    def every(x1, x, t):
        return [jax.vmap(partial(one, path))(x1, x, t) for path in PATHS.values()]

    for name, (zero, away, by_hand, div) in zip(PATHS, jax.jit(every)(x1, x, t), strict=True):
        scale = np.abs(by_hand) + np.abs(div)
        np.testing.assert_array_less(np.abs(zero) / scale, 1e-12, err_msg=name)
        np.testing.assert_allclose(away, by_hand, rtol=1e-10, err_msg=name)
        if name == "linear":  # it is not zero, though u = x1 - x0 does not look like it
            np.testing.assert_allclose(div, -3 / (1 - t), rtol=1e-12)


@pytest.mark.slow
def test_the_residual_is_the_definition_with_the_true_velocity(x64):
    x = jnp.linspace(-4.0, 4.0, 9)
    t = jnp.array([[0.1], [0.6], [1.0]])  # t = 1 is finite: the data are smooth

    @jax.jit
    @partial(jax.vmap, in_axes=(None, 0))
    @jax.vmap
    def both(x, t):
        by_hand = -0.4 * jnp.cos(2 * x) - 0.2 * jnp.sin(2 * x) * mixtures.score(mixtures.LINE, x, t)
        return path_error.residual(DENSITY, _wrong, x, t), by_hand

    ours, by_hand = both(x, t + 0 * x[None])
    np.testing.assert_allclose(ours, by_hand, rtol=1e-11, atol=1e-11)


def _lagrangian(times):
    """Returns the total variation in the coordinates of the noise, by NumPy and scipy alone."""
    w, mu, s = mixtures.LINE
    x0 = np.linspace(-7.0, 7.0, 2001)

    def law(x, t):
        v = t**2 * s**2 + (1 - t) ** 2
        gap = x[:, None] - t * mu
        joint = w * np.exp(-0.5 * gap**2 / v) / np.sqrt(2 * np.pi * v)
        r = joint / joint.sum(axis=1, keepdims=True)
        slope = (t * s**2 - (1 - t)) / v
        u, pull = mu + slope * gap, -gap / v
        centered = pull - (r * pull).sum(axis=1, keepdims=True)
        return joint.sum(axis=1), (r * u).sum(axis=1), (r * (slope + centered * u)).sum(axis=1)

    def field(t, state):
        x = state[: x0.size]
        _, u, slope = law(x, t)
        return np.concatenate([u + 0.2 * np.sin(2 * x), slope + 0.4 * np.cos(2 * x)])

    start = np.concatenate([x0, np.zeros_like(x0)])
    solution = integrate.solve_ivp(
        field, (0, times[-1]), start, method="DOP853", rtol=1e-7, atol=1e-8, t_eval=times
    )
    for t, state in zip(times, solution.y.T, strict=True):
        p, *_ = law(state[: x0.size], t)
        gap = np.abs(p * np.exp(state[x0.size :]) - stats.norm.pdf(x0))
        yield 0.5 * np.trapezoid(gap, x0)


@pytest.mark.slow
def test_total_variation_and_bound_of_four_peaks(x64):
    grid = jnp.asarray(GRID)
    times = jnp.asarray(TIMES)
    solve = partial(samplers.adaptive, rtol=1e-7, atol=1e-7)
    distance = partial(path_error.total_variation, DENSITY, _wrong, grid, CELL, solve=solve)
    distances = np.array(jax.jit(lambda t: jax.lax.map(distance, t))(times[1:]))
    np.testing.assert_allclose(distances, TOTAL_VARIATION, atol=1e-5)
    np.testing.assert_allclose(distances[:3], list(_lagrangian(TIMES[1:4])), atol=2e-5)
    bounds = np.array(jax.jit(partial(path_error.bound, DENSITY, _wrong, grid, CELL))(times))
    np.testing.assert_allclose(bounds[1:], BOUND, atol=1e-5)
    assert bounds[0] == 0.0
    assert np.all(distances < bounds[1:])
    in_float32 = jax.jit(lambda grid, times: path_error.bound(DENSITY, _wrong, grid, CELL, times))
    in_float32 = in_float32(jnp.float32(GRID), jnp.float32(TIMES))
    assert in_float32.dtype == jnp.float32
    np.testing.assert_allclose(in_float32, bounds, atol=2e-6)


@pytest.mark.slow
def test_the_bound_is_half_the_mean_absolute_residual_of_samples():
    n, keys = 50_000, jax.random.split(jax.random.key(0), 3)
    x1 = mixtures.sample(keys[0], mixtures.LINE, n)
    x0, t = jax.random.normal(keys[1], (n,)), jax.random.uniform(keys[2], (n,))
    x = t * x1 + (1 - t) * x0
    absolute = np.abs(jax.jit(jax.vmap(partial(path_error.residual, DENSITY, _wrong)))(x, t))
    assert abs(0.5 * absolute.mean() - BOUND[-1]) < 5 * 0.5 * absolute.std() / n**0.5
    # E |u - v|^2 over the same t and x, a number of the same source.
    squares = (0.2 * np.sin(2 * np.asarray(x))) ** 2
    assert abs(squares.mean() - 0.021477) < 5 * squares.std() / n**0.5


@pytest.mark.slow
def test_duhamel_and_the_error_equation_against_the_likelihood(x64):
    start, end = np.array([-2.0, -0.7, 0.1, 0.9, 1.8]), np.array([0.3, 0.5, 0.9, 1.0, 1.0])
    along = partial(path_error.duhamel, DENSITY, _wrong, solve=PRECISE)
    arrived, error = jax.jit(jax.vmap(along))(jnp.asarray(start), jnp.asarray(end))
    # d eps / dt and d (eps v) / dx of p and the likelihood by differences of fourth order.
    steps = 2e-3 * np.array([-2, -1, 1, 2])[:, None]
    slopes = np.array([1, -8, 8, -1]) / (12 * 2e-3)
    x, t = np.array([-2.2, -0.4, 0.8, 2.0]), np.array([0.3, 0.5, 0.7, 0.8])

    @jax.jit
    @jax.vmap
    def flux(x, t):
        learned = likelihood.log_prob(_wrong, x, t1=t, solve=PRECISE)
        error = jnp.exp(DENSITY(x, t)) - jnp.exp(learned)
        return error, error * _wrong(x, t)

    places = [(x + 0 * steps).ravel(), (x + steps).ravel(), arrived]
    moments = [(t + steps).ravel(), (t + 0 * steps).ravel(), end]
    truth, moved = map(np.asarray, flux(*map(jnp.concatenate, (places, moments))))
    np.testing.assert_allclose(error, truth[32:], atol=1e-9)
    assert np.abs(truth[33:]).min() > 0.02
    left = slopes @ truth[:16].reshape(4, 4) + slopes @ moved[16:32].reshape(4, 4)
    right = jax.vmap(partial(path_error.forcing, DENSITY, _wrong))(jnp.asarray(x), jnp.asarray(t))
    np.testing.assert_allclose(left, right, rtol=1e-6, atol=1e-7)


@pytest.mark.slow
def test_a_flow_that_starts_from_another_law(x64):
    # Truth N(0, (1 + t)^2); the learned flow carries N(1, 1/4) by v = x to N(e^t, e^2t / 4).
    widening = lambda x, t: likelihood.standard_normal(x, scale=1 + t)
    options = {"log_prob0": lambda x: likelihood.standard_normal(x - 1.0, scale=0.5)}
    options |= {"solve": partial(samplers.fixed, num_steps=40, solver=diffrax.Tsit5())}
    x0, t, grow = np.array([-0.5, 1.3]), 0.7, lambda x, t: x

    def learned(x):
        return stats.norm(np.exp(t), np.exp(t) / 2).pdf(x)

    move = jax.jit(jax.vmap(lambda x: path_error.duhamel(widening, grow, x, t, **options)))
    x, error = move(jnp.asarray(x0))
    np.testing.assert_allclose(x, x0 * np.exp(t), rtol=1e-7)
    np.testing.assert_allclose(error, stats.norm(0, 1.7).pdf(x) - learned(x), atol=1e-7)
    grid = np.linspace(-12.0, 12.0, 1001)
    ours = jax.jit(
        lambda x: path_error.total_variation(widening, grow, x, 0.024, t, **options, batch_size=300)
    )(jnp.asarray(grid))
    gap = np.abs(stats.norm(0, 1.7).pdf(grid) - learned(grid))
    assert float(ours) == pytest.approx(0.5 * np.trapezoid(gap, grid), abs=1e-6)


@pytest.mark.slow
def test_the_conditional_residual_is_a_noisy_marginal_one():
    # E[r(x | x1) | x] = r(x), which is why the mean of the absolute value can only be larger.
    density = partial(mixtures.log_density, mixtures.PLANE)
    turn = lambda x, t: mixtures.velocity(mixtures.PLANE, x, t) + 0.5 * jnp.sin(x[::-1] + 2 * x)
    n, keys = 40_000, jax.random.split(jax.random.key(1), 2)
    x1 = mixtures.sample(keys[0], mixtures.PLANE, n)
    x0 = jax.random.normal(keys[1], x1.shape)
    path = paths.linear()

    @jax.jit
    @partial(jax.vmap, in_axes=(0, 0, None))
    def both(x0, x1, t):
        x = paths.interpolate(path, x0, x1, t)
        marginal = path_error.residual(density, turn, x, t)
        conditional = path_error.residual(partial(_normal, path, x1), turn, x, t)
        return x, marginal, conditional, losses.cdm_absolute(turn, path, x0, x1, t)

    for t in (0.2, 0.5, 0.8):
        x, marginal, conditional, loss = (np.asarray(part, float) for part in both(x0, x1, t))
        np.testing.assert_allclose(loss, np.abs(conditional), rtol=1e-4, atol=1e-4)
        gap = conditional - marginal
        for weight in (np.ones(n), x[:, 0], np.sin(2 * x[:, 1]), np.sign(marginal)):
            assert abs((weight * gap).mean()) < 5 * (weight * gap).std() / n**0.5
        more = np.abs(conditional) - np.abs(marginal)
        assert more.mean() > 5 * more.std() / n**0.5


@pytest.mark.slow
def test_the_conditional_residual_of_the_true_velocity_grows_towards_the_data(x64):
    # At t = 1 the law is smooth, so (1 - t) |r(x | x1)| tends to |1 - x0^2|: E = 4 phi(1).
    n, keys = 20_000, jax.random.split(jax.random.key(2), 2)
    x1, x0 = mixtures.sample(keys[0], mixtures.LINE, n), jax.random.normal(keys[1], (n,))
    path, t = paths.linear(), 1 - 1e-4

    @jax.jit
    @jax.vmap
    def residual(x0, x1):
        x = paths.interpolate(path, x0, x1, t)
        return path_error.residual(partial(_normal, path, x1), TRUE, x, t)

    scaled = (1 - t) * np.abs(residual(x0, x1))
    standard_error = scaled.std() / n**0.5
    assert abs(scaled.mean() - 4 * stats.norm.pdf(1)) < 5 * standard_error + 1e-3


@pytest.mark.slow
def test_two_dimensions_in_float32():
    density = partial(mixtures.log_density, mixtures.PLANE)
    turn = lambda x, t: mixtures.velocity(mixtures.PLANE, x, t) + 0.3 * jnp.sin(x[::-1] + 2 * x)
    axis = jnp.linspace(-5.0, 5.0, 51)
    grid, cell = jnp.stack(jnp.meshgrid(axis, axis), axis=-1).reshape(-1, 2), 0.2**2
    times = jnp.array([0.0, 0.4, 0.9])
    run = partial(path_error.bound, density, turn, grid, cell, num_nodes=4)
    bounds = jax.jit(run)(times)
    solve = partial(samplers.fixed, num_steps=12)
    run = partial(path_error.total_variation, density, turn, grid, cell, solve=solve)
    distances = jax.jit(lambda t: jax.lax.map(run, t))(times[1:])
    assert bounds.dtype == distances.dtype == jnp.float32
    assert 0.3 * float(bounds[1]) < float(distances[0]) < float(bounds[1])
    assert 0.3 * float(bounds[2]) < float(distances[1]) < float(bounds[2])


def test_points_off_the_law_count_as_nothing():
    uniform = lambda x, t: jnp.where(jnp.abs(x) < 1, -jnp.log(2.0), -jnp.inf)
    grid = jnp.linspace(-2.0, 2.0, 41)
    ours = path_error.bound(uniform, lambda x, t: x, grid, 0.1, [0.0, 1.0])
    assert float(ours[1]) == pytest.approx(0.5 * 19 / 20, rel=1e-5)  # |r| = div v = 1 inside


def test_wrong_arguments_are_named():
    still, x = lambda x, t: 0 * x, jnp.zeros(2)
    with pytest.raises(ValueError, match=r"log_density must return a scalar, got shape \(2,\)"):
        path_error.residual(lambda x, t: -(x**2), still, x, 0.5)
    with pytest.raises(ValueError, match="shapes must be equal"):
        path_error.residual(DENSITY, lambda x, t: x[:1], x, 0.5)
    with pytest.raises(ValueError, match="t must be a scalar"):
        path_error.forcing(DENSITY, still, x, jnp.zeros(3))
    grid = jnp.zeros((4, 2))
    with pytest.raises(ValueError, match="vector of two or more times"):
        path_error.bound(DENSITY, still, grid, 0.1, 0.5)
    with pytest.raises(ValueError, match=r"every entry of times must lie in \[0, 1\]"):
        path_error.bound(DENSITY, still, grid, 0.1, [0.0, 1.5])
    with pytest.raises(ValueError, match="times must increase"):
        path_error.bound(DENSITY, still, grid, 0.1, [0.5, 0.2])
    for words, options in (
        ("cell must be positive, got 0", {"cell": 0.0}),
        ("num_nodes must be at least 1, got 0", {"num_nodes": 0}),
    ):
        with pytest.raises(ValueError, match=words):
            path_error.bound(DENSITY, still, grid, **({"cell": 0.1, "times": [0.0, 1.0]} | options))
    with pytest.raises(ValueError, match="t0 < t1"):
        path_error.total_variation(DENSITY, still, grid, 0.1, 0.0)
