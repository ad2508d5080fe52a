"""Strain and rotation of a field against its matrix, and the bounds of the growth they give."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from fmjax import models, paths, posterior, samplers, strain, toy
from tests import slow

KEY = jax.random.key(0)
X = np.array([0.7, -1.1, 0.4, 0.2])
LAW = toy.isotropic_mixture(
    np.array([0.5, 0.3, 0.2]),
    np.random.default_rng(3).gamma(1.5, size=(3, 4)) - 1.0,
    np.array([0.3, 0.6, 0.2]),
)
PATH = paths.linear()


def _exact(x, t):
    return LAW.velocity(PATH, x, t)


def _turned(x, t):
    """A smooth field whose Jacobian is far from symmetric and changes with state and time."""
    matrix = jnp.asarray(np.random.default_rng(1).normal(size=(x.size, x.size)), x.dtype)
    return (jnp.sin(matrix @ x.ravel() + t) + 0.3 * x.ravel() ** 2).reshape(x.shape)


def _parts(field, x, t):
    jacobian = np.asarray(jax.jacfwd(lambda x: field(x, t))(x)).reshape(x.size, x.size)
    return 0.5 * (jacobian + jacobian.T), 0.5 * (jacobian - jacobian.T)


@pytest.mark.parametrize("t", [0.1, 0.8])
def test_norms_are_those_of_the_two_parts_of_the_matrix(x64, t):
    x = jnp.asarray(X.reshape(2, 2))
    even, odd = map(np.linalg.norm, _parts(_turned, x, t))
    for num_probes in (4, 9):
        found = strain.norms(KEY, _turned, x, t, num_probes=num_probes)
        np.testing.assert_allclose(found, [even, odd], rtol=1e-13)
    ratio = posterior.asymmetry(KEY, _turned, x, t)
    assert float(ratio) == pytest.approx(odd / even, rel=1e-13)


def test_squares_of_the_norms_by_probes_are_unbiased(x64):
    x, count = jnp.asarray(X), 4000
    truth = [np.sum(part**2) for part in _parts(_turned, x, 0.4)]
    draw = jax.jit(jax.vmap(lambda key: strain.norms(key, _turned, x, 0.4, num_probes=3)))
    for part, square in zip(draw(jax.random.split(KEY, count)), truth, strict=True):
        drawn = np.asarray(part) ** 2
        assert drawn.std() > 0.1
        assert abs(drawn.mean() - square) < 5 * drawn.std() / count**0.5


def test_a_gradient_field_does_not_turn_and_a_rotation_has_no_strain(x64):
    assert strain.norms(KEY, _exact, jnp.asarray(X), 0.6).rotation < 1e-13
    turn = lambda x, t: 3 * jnp.array([-x[1], x[0]])
    found, slope = jax.value_and_grad(lambda x: strain.norms(KEY, turn, x, 0.5).strain)(jnp.ones(2))
    assert (float(found), slope.tolist()) == (0.0, [0.0, 0.0])
    assert float(strain.norms(KEY, turn, jnp.ones(2), 0.5).rotation) == pytest.approx(3 * 2**0.5)


@pytest.mark.slow
@pytest.mark.parametrize("t", [0.2, 0.9])
def test_extremes_are_eigenvalues_of_the_strain(x64, t):
    x = jnp.asarray(X)
    for field in (_turned, _exact):
        wanted = np.linalg.eigvalsh(_parts(field, x, t)[0])[[0, -1]]
        found = strain.extremes(KEY, field, x, t)
        np.testing.assert_allclose(found, wanted, rtol=1e-11, atol=1e-11)
    least, greatest = strain.extremes(KEY, _turned, x, t, num_matvecs=2)
    inner = np.linalg.eigvalsh(_parts(_turned, x, t)[0])[[0, -1]]
    assert inner[0] < least < greatest < inner[1]


@slow.but_the_first("path", [paths.cosine(), paths.linear(), paths.vp()])
def test_extremes_and_the_extremes_of_the_covariance_are_one_number(x64, path):
    field, x, t = lambda x, t: LAW.velocity(path, x, t), jnp.asarray(X), 0.7
    c = paths.coefficients(path, t)
    rates = np.array(strain.extremes(KEY, field, x, t))
    scale = c.sigma**2 / (c.alpha * c.wronskian)
    wanted = posterior.extremes(KEY, field, path, x, t)
    np.testing.assert_allclose(scale * (c.sigma * rates - c.sigma_dot), wanted, rtol=1e-9)


def _flow(field, x, times, num_steps):
    """Returns the Jacobians of the flow from the first time to every other, and all states."""
    solve = partial(samplers.fixed, num_steps=num_steps)
    follow = lambda x: samplers.trajectory(field, x, times, solve=solve)
    return np.asarray(jax.jit(jax.jacrev(follow))(x)), np.asarray(follow(x))


@pytest.mark.slow
@pytest.mark.parametrize(("field", "slack"), [(_turned, 0.01), (_exact, 5e-4)])
def test_the_flow_stretches_within_the_bounds(x64, field, slack):
    x, times, num_steps = jnp.asarray(X), jnp.array([0.0, 0.5, 0.95]), 60
    jacobians, states = _flow(field, x, times, num_steps)
    solve = partial(samplers.fixed, num_steps=num_steps)
    found = jax.jit(lambda x: strain.growth(KEY, field, x, times, solve=solve))(x)
    np.testing.assert_allclose(found.states, states, rtol=1e-12)
    assert (float(found.least[0]), float(found.greatest[0])) == (0.0, 0.0)
    for i in range(len(times)):
        for j in range(i + 1, len(times)):
            flow = jacobians[j] @ np.linalg.inv(jacobians[i])
            factors = np.log(np.linalg.svd(flow, compute_uv=False))
            least, greatest = (float(g[j] - g[i]) for g in (found.least, found.greatest))
            assert least - 1e-4 < factors[-1] < factors[0] < greatest + 1e-4  # of the solver
    whole = np.log(np.linalg.svd(jacobians[-1], compute_uv=False)[0])
    assert found.greatest[-1] - whole > slack  # the bound is not the factor itself


def test_of_gaussian_data_the_bounds_are_reached(x64):
    variances = jnp.array([4.0, 1.0, 0.09])
    total = lambda t: t**2 * variances + (1 - t) ** 2
    field = lambda x, t: (t * variances - (1 - t)) / total(t) * x
    times = jnp.array([0.0, 0.3, 0.8])
    found = strain.growth(KEY, field, jnp.array([0.3, -2.0, 1.0]), times)
    wanted = 0.5 * np.log(np.stack([total(t) for t in times]))
    # The rates keep their order at every time, so one direction is the extreme throughout.
    np.testing.assert_allclose(found.least, wanted[:, 2], atol=2e-4)
    np.testing.assert_allclose(found.greatest, wanted[:, 0], atol=2e-4)
    fine = partial(samplers.adaptive, rtol=1e-10, atol=1e-10)
    found = strain.growth(KEY, field, jnp.array([0.3, -2.0, 1.0]), times, solve=fine)
    np.testing.assert_allclose(found.greatest, wanted[:, 0], atol=1e-8)


@pytest.mark.slow
def test_the_end_of_a_slightly_wrong_field_is_within_the_bound(x64):
    times, fine = jnp.linspace(0.0, 0.95, 96), partial(samplers.fixed, num_steps=4)
    starts = jnp.asarray(np.random.default_rng(5).normal(size=(8, 4)))
    wrong = lambda x, t: _exact(x, t) + 1e-5 * jnp.sin(3 * x[::-1] + t)

    def both(x):
        grown = strain.growth(KEY, _exact, x, times, solve=fine)
        end = samplers.trajectory(wrong, x, times, solve=fine)[-1]
        size = jax.vmap(lambda x, t: jnp.linalg.norm(wrong(x, t) - _exact(x, t)))
        error = size(grown.states, times) * jnp.exp(grown.greatest[-1] - grown.greatest)
        return jnp.linalg.norm(end - grown.states[-1]), jnp.trapezoid(error, times)

    apart, bound = jax.jit(jax.vmap(both))(starts)
    assert np.all(apart < 1.001 * bound)  # the distances are not quite small
    assert np.median(apart / bound) > 0.1  # and the bound says something


@pytest.mark.slow
def test_of_a_network_in_float32():
    size = {"width": 16, "depth": 2, "rngs": nnx.Rngs(0)}
    apply, params = models.functional(models.MLP((4,), **size))
    params = jax.tree.map(lambda p: p + 0.3 * jax.random.normal(KEY, p.shape), params)
    field, x = partial(apply, params), jnp.asarray(X, jnp.float32)
    even, odd = _parts(field, x, 0.3)
    assert np.linalg.norm(odd) > 0.01
    found = strain.norms(KEY, field, x, 0.3)
    np.testing.assert_allclose(found, [np.linalg.norm(even), np.linalg.norm(odd)], rtol=1e-5)
    wanted = np.linalg.eigvalsh(even)[[0, -1]]
    np.testing.assert_allclose(strain.extremes(KEY, field, x, 0.3), wanted, atol=1e-5)


def test_a_field_that_is_not_a_number_stays_one():
    none = lambda x, t: x * jnp.nan
    assert np.isnan(strain.norms(KEY, none, jnp.ones(3), 0.5)).all()
    assert np.isnan(strain.extremes(KEY, none, jnp.ones(3), 0.5)).all()
    found = strain.growth(KEY, none, jnp.ones(3), jnp.array([0.0, 1.0]))
    assert np.isnan([found.least[-1], found.greatest[-1]]).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: strain.norms(KEY, _turned, X, 0.5, num_probes=0), "num_probes must be at least 1"),
        (lambda: strain.extremes(KEY, _turned, X, 0.5, num_matvecs=0), "num_matvecs must be at"),
        (lambda: strain.growth(KEY, _turned, X, [0.0, 1.0], num_matvecs=0), "num_matvecs must be"),
        (lambda: strain.extremes(KEY, _turned, jnp.ones(0), 0.5), "without one there is no eigen"),
        (lambda: strain.extremes(KEY, lambda x, t: x[:1], X, 0.5), "shapes must be equal"),
        (lambda: strain.norms(KEY, _turned, X, 1.5), r"t must lie in .0, 1., got 1.5"),
        (lambda: strain.growth(KEY, _turned, X, [0.5]), "times must be a vector of two or more"),
        (lambda: strain.extremes(_turned, KEY, X, 0.5), "velocity must be a function"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
