"""The dimension of the data around a point: closed forms, FLIPD's formula, and a sphere."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fmjax import divergence, empirical, paths, posterior, predictions
from tests import slow

PATHS = [paths.linear(), paths.cosine(), paths.vp()]


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


def _rotation(d, seed=0):
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(d, d)))[0]


def _gaussian(path, covariance):
    """The exact velocity of data from N(0, covariance)."""

    def mean(x, t):
        alpha, sigma = path.alpha(t), path.sigma(t)
        total = alpha**2 * covariance + sigma**2 * jnp.eye(len(covariance))
        return alpha * covariance @ jnp.linalg.solve(total, x)

    return predictions.as_velocity(mean, path, given=predictions.x1)


@slow.but_the_first("path", PATHS)
@slow.but_the_first("t", [0.3, 0.9])
def test_of_a_gaussian_in_a_subspace_it_is_a_closed_form(path, t):
    scales = np.array([3.0, 0.9, 0.2, *np.zeros(7)])
    rotation = _rotation(10)
    field = _gaussian(path, jnp.asarray(rotation * scales**2 @ rotation.T))
    along = np.array([0.5, -1.5, 2.0, *np.zeros(7)]) * scales
    alpha, sigma = float(path.alpha(t)), float(path.sigma(t))
    total = alpha**2 * scales**2 + sigma**2
    expected = np.sum(alpha**2 * scales**2 / total + (sigma * alpha * along / total) ** 2)
    found = posterior.dimension(field, path, jnp.asarray(rotation @ along), t)
    assert found == pytest.approx(expected, rel=1e-9)


def test_it_tends_to_the_dimension_of_the_subspace():
    path, rotation = paths.linear(), _rotation(10)
    scales = np.array([2.0, 1.0, 0.7, *np.zeros(7)])
    field = _gaussian(path, jnp.asarray(rotation * scales**2 @ rotation.T))
    x1 = jnp.asarray(rotation @ (np.array([0.5, -1.5, 1.0, *np.zeros(7)]) * scales))
    assert posterior.dimension(field, path, x1, 0.99) == pytest.approx(3, abs=1e-3)
    away = x1 + jnp.asarray(0.1 * rotation[:, 5])  # off the data by ten sigma / alpha
    assert posterior.dimension(field, path, away, 0.99) > 50


@pytest.mark.slow
@pytest.mark.parametrize("path", PATHS)
def test_it_is_the_number_of_flipd(path):
    """By second derivatives of the density of a skewed data set."""
    bank = jnp.asarray(np.random.default_rng(1).gamma(1.5, size=(12, 3)))
    x1, t = bank[2] + jnp.array([0.1, -0.2, 0.05]), 0.6
    density = partial(empirical.log_density, path, bank, t=t)
    x = path.alpha(t) * x1
    slope, bend = jax.grad(density)(x), jnp.trace(jax.hessian(density)(x))
    expected = 3 + path.sigma(t) ** 2 * (bend + slope @ slope)
    field = partial(empirical.velocity, path, bank)
    assert posterior.dimension(field, path, x1, t) == pytest.approx(float(expected), rel=1e-9)


@pytest.mark.slow
def test_a_sphere_in_six_dimensions_has_two():
    points = np.random.default_rng(2).normal(size=(4000, 3))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    bank = jnp.asarray(points @ _rotation(6)[:3])
    path, t = paths.linear(), 0.87  # sigma / alpha = 0.15, where some 20 points are neighbors
    field = partial(empirical.velocity, path, bank)
    found = jax.vmap(lambda x: posterior.dimension(field, path, x, t))(bank[:100])
    assert abs(found.mean() - 2) < 0.1
    assert found.std() < 0.6


@pytest.mark.slow
def test_a_random_divergence_leaves_it_unbiased():
    path = paths.linear()
    bank = jnp.asarray(np.random.default_rng(1).gamma(1.5, size=(12, 3)))
    field = partial(empirical.velocity, path, bank)
    exact = posterior.dimension(field, path, bank[4], 0.6)

    def draw(key):
        probes = partial(divergence.hutchinson, key)
        return posterior.dimension(field, path, bank[4], 0.6, divergence=probes)

    found = jax.vmap(draw)(jax.random.split(jax.random.key(0), 2000))
    assert abs(found.mean() - exact) < 5 * found.std() / np.sqrt(2000)
