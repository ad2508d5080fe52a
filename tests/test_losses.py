"""Losses by their value, and by what minimises them."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fmjax import losses, paths
from tests import oracles


@pytest.mark.parametrize("path", [paths.linear(0.1), paths.cosine(), paths.ve(0.1, 3.0)])
def test_cfm_by_hand(path):
    x0, x1, t = jnp.array([1.0, -2.0]), jnp.array([3.0, 5.0]), 0.3
    c = paths.coefficients(path, t)
    x = c.alpha * x1 + c.sigma * x0
    expected = np.mean((2.0 * x + t - (c.alpha_dot * x1 + c.sigma_dot * x0)) ** 2)
    ours = losses.cfm(lambda x, t: 2.0 * x + t, path, x0, x1, t)
    assert float(ours) == pytest.approx(float(expected), rel=1e-6)


def test_cfm_is_minimal_at_the_exact_velocity():
    path, n = paths.linear(), 50_000
    x1 = oracles.sample(jax.random.key(0), n)
    x0 = jax.random.normal(jax.random.key(1), x1.shape)
    t = jax.random.uniform(jax.random.key(2), (n,))

    def values(shift):
        velocity = lambda x, t: oracles.law(paths.coefficients(path, t), x).velocity + shift
        return jax.vmap(partial(losses.cfm, velocity, path))(x0, x1, t)

    for shift in (jnp.array([0.2, 0.0, 0.0]), jnp.array([0.0, -0.3, 0.1])):
        # E[loss(u + c)] = E[loss(u)] + |c|^2 / d exactly at the minimiser.
        growth = values(shift) - values(jnp.zeros(3))
        error = float(growth.std()) / n**0.5
        assert abs(float(growth.mean()) - float(jnp.mean(shift**2))) < 5 * error


def test_a_field_of_another_shape_is_named():
    with pytest.raises(ValueError, match=r"x \(2,\), velocity \(2, 1\)"):
        losses.cfm(lambda x, t: x[:, None], paths.linear(), jnp.zeros(2), jnp.ones(2), 0.5)
