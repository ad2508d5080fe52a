"""The MeanFlow losses on a known velocity, against the enumeration of all pairs through a state."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fmjax import empirical, losses, paths
from tests import slow

BANK = np.array([[0.0, 1.0], [2.0, -0.5], [0.3, 0.2], [-1.5, 2.5], [4.0, 1.0]])
R, T = 0.8, 0.45


def network(params, x, r, t):
    """An average velocity of no special form."""
    return jnp.tanh(params["a"] @ x + params["b"] * (r - 0.3 * t)) + params["c"] * x * t


@pytest.fixture
def params(x64):
    rng = np.random.default_rng(3)
    shapes = {"a": (2, 2), "b": (2,), "c": (2,)}
    return {name: jnp.asarray(rng.normal(size=shape)) for name, shape in shapes.items()}


@pytest.fixture
def pairs(params):
    """The path, the exact velocity, and all pairs through one state with their probabilities."""
    path, x = paths.cosine(), jnp.array([0.7, 0.4])
    bank = jnp.asarray(BANK)
    x0 = (x[None] - path.alpha(T) * bank) / path.sigma(T)
    density = jnp.exp(-0.5 * jnp.sum(x0**2, axis=1))  # of the noise that each point needs
    return path, partial(empirical.velocity, path, bank), x0, bank, density / density.sum()


def four(path, exact, x0, x1):
    """The loss of a pair with pair or exact velocity as (target, tangent)."""
    pair = jax.jvp(lambda t: paths.interpolate(path, x0, x1, t), (T,), (1.0,))[1]
    guide, constant = losses.marginal(exact), lambda x, t: pair
    return {
        ("pair", "pair"): lambda u: losses.meanflow(u, path, x0, x1, R, T),
        ("pair", "exact"): lambda u: losses.improved_meanflow(u, exact, path, x0, x1, R, T),
        ("exact", "pair"): lambda u: losses.improved_meanflow(
            u, constant, path, x0, x1, R, T, guide=guide
        ),
        ("exact", "exact"): lambda u: losses.meanflow(u, path, x0, x1, R, T, guide=guide),
    }


def gradients(kind, params, pairs):
    """Losses and flat gradients of all pairs, `[n]` and `[n, p]`."""
    path, exact, x0, x1, _ = pairs
    loss = lambda params, x0, x1: four(path, exact, x0, x1)[kind](partial(network, params))
    values, found = jax.vmap(jax.value_and_grad(loss), (None, 0, 0))(params, x0, x1)
    return values, jnp.concatenate([leaf.reshape(5, -1) for leaf in jax.tree.leaves(found)], 1)


@slow.but_the_first("kind", [("pair", "exact"), ("pair", "pair"), ("exact", "pair")])
def test_the_mean_gradient_over_all_pairs_is_the_one_on_the_exact_velocity(kind, params, pairs):
    probability = pairs[-1]
    _, wanted = gradients(("exact", "exact"), params, pairs)
    _, found = gradients(kind, params, pairs)
    np.testing.assert_allclose(probability @ found, wanted[0], rtol=1e-12, atol=1e-13)
    assert float(jnp.std(found, axis=0).max()) > 0.1  # each pair by itself has another


def test_on_the_exact_velocity_the_pair_does_not_count(params, pairs):
    values, found = gradients(("exact", "exact"), params, pairs)
    np.testing.assert_allclose(values, values[0], rtol=1e-13)
    np.testing.assert_allclose(found, found[:1].repeat(5, 0), rtol=1e-11, atol=1e-13)


@slow.but_the_first("kind", [("pair", "pair"), ("pair", "exact"), ("exact", "pair")])
def test_a_loss_on_pairs_exceeds_it_by_the_noise_of_its_target(kind, params, pairs):
    path, exact, x0, x1, probability = pairs
    x = paths.interpolate(path, x0[0], x1[0], T)
    speed = jax.vmap(lambda x0, x1: path_velocity(path, x0, x1))(x0, x1)
    noise = speed - exact(x, T)[None]
    turn = (R - T) * jax.jacfwd(partial(network, params), argnums=0)(x, R, T)
    moves = {"pair": 1.0, "exact": 0.0}
    matrix = moves[kind[0]] * jnp.eye(2) + moves[kind[1]] * turn
    wanted = probability @ jnp.mean((noise @ matrix.T) ** 2, axis=1)
    values, _ = gradients(kind, params, pairs)
    least, _ = gradients(("exact", "exact"), params, pairs)
    np.testing.assert_allclose(probability @ values - least[0], wanted, rtol=1e-12)


def path_velocity(path, x0, x1):
    """The velocity of a pair, from the slopes of the path."""
    alpha, sigma = (jax.grad(f)(T) for f in (path.alpha, path.sigma))
    return alpha * x1 + sigma * x0


def test_a_field_of_another_shape_is_refused():
    guide = losses.marginal(lambda x, t: x[:1])
    x = jnp.ones(2)
    with pytest.raises(ValueError, match=r"velocity.*\(1,\)"):
        losses.meanflow(lambda x, r, t: x, paths.linear(), x, x, R, T, guide=guide)
    with pytest.raises(ValueError, match="velocity must be a function"):
        losses.marginal(jnp.ones(2))
