"""The log-density from errors of denoising: exact laws, the flow's density, and wrong fields."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fmjax import likelihood, paths, toy
from tests import slow

PATHS = {"linear": paths.linear(), "cosine": paths.cosine(), "vp": paths.vp()}
WEIGHTS = np.array([0.2, 0.5, 0.3])
MEANS = np.array([[-1.5, 0.5], [0.8, 1.0], [0.3, -1.2]])
COVARIANCES = np.array(
    [[[0.3, 0.1], [0.1, 0.2]], [[0.5, -0.3], [-0.3, 0.4]], [[0.1, 0.0], [0.0, 0.6]]]
)
LAW = toy.gaussian_mixture(WEIGHTS, MEANS, COVARIANCES)
POINTS = jnp.array([[-1.5, 0.4], [0.5, 1.4], [0.2, -0.3]])


@slow.but_the_first("name", PATHS)
def test_of_a_known_law_it_is_the_log_density(name):
    path = PATHS[name]
    draw = partial(likelihood.from_errors, num_draws=4000)
    found = jax.jit(jax.vmap(lambda k, x: draw(k, partial(LAW.velocity, path), path, x)))(
        jax.random.split(jax.random.key(0), len(POINTS)), POINTS
    )
    exact = jax.vmap(LAW.log_prob)(POINTS)
    assert (np.abs(found.mean - exact) < 5 * found.standard_error + 1e-3).all()
    assert (found.standard_error < 0.1).all()


@pytest.mark.slow
def test_the_standard_error_is_no_smaller_than_the_spread():
    path = PATHS["linear"]
    draw = partial(likelihood.from_errors, num_draws=64)
    found = jax.jit(jax.vmap(lambda k: draw(k, partial(LAW.velocity, path), path, POINTS[1])))(
        jax.random.split(jax.random.key(1), 400)
    )
    exact = LAW.log_prob(POINTS[1])
    spread = found.mean.std()
    assert abs(found.mean.mean() - exact) < 5 * spread / 20
    assert 0.9 * spread < found.standard_error.mean() < 3 * spread


@pytest.mark.slow
def test_of_a_wrong_velocity_it_is_too_low_by_the_weighted_squared_error():
    """With the same draws, on average over the law: int t (1 - t) E|x_t|^2 dt for this one."""
    path, n = PATHS["linear"], 1000
    exact = partial(LAW.velocity, path)
    turned = lambda x, t: exact(x, t) + (1 - t) * jnp.array([-x[1], x[0]])
    keys = jax.random.split(jax.random.key(2), n)
    x1 = jax.vmap(LAW.sample)(jax.random.split(jax.random.key(3), n))
    found = [
        jax.jit(jax.vmap(lambda k, x, f=field: likelihood.from_errors(k, f, path, x, num_draws=64)))
        for field in (exact, turned)
    ]
    lost = found[0](keys, x1).mean - found[1](keys, x1).mean
    energy = WEIGHTS @ (np.square(MEANS).sum(1) + np.trace(COVARIANCES, axis1=1, axis2=2))
    error = lost.std() / np.sqrt(n)
    assert error < 0.02
    assert abs(lost.mean() - (energy + 2) / 20) < 5 * error


@pytest.mark.parametrize(
    ("path", "options", "message"),
    [
        (paths.ve(0.01, 20.0), {}, "alpha / sigma = 0.05 at t = 0"),
        (paths.linear(sigma_min=0.1), {}, "sigma / alpha = 0.1 at t = 1"),
        (PATHS["linear"], {"num_draws": 1}, "num_draws"),
    ],
)
def test_wrong_input_gets_one_clear_error(path, options, message):
    with pytest.raises(ValueError, match=message):
        likelihood.from_errors(jax.random.key(0), lambda x, t: x, path, jnp.zeros(2), **options)
