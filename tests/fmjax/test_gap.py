"""The distance of a learned velocity from the exact one: by hand, by scipy, and from the loss."""

from functools import partial

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate

from fmjax import empirical, losses, path_error, paths, samplers
from tests.oracles import round as mixtures

TRUE = partial(mixtures.velocity, mixtures.PLANE)
TIMES = np.array([0.0, 0.15, 0.5, 0.95])


def _bent(x, t):
    return 0.4 * jnp.sin(2 * x[::-1] + x) * (1 + t)


def _wrong(x, t):
    return TRUE(x, t) + _bent(x, t)


def _bent_by_hand(x, t):
    return 0.4 * np.sin(2 * x[..., ::-1] + x) * (1 + t)


def test_on_the_path_of_a_pair(x64):
    rng = np.random.default_rng(0)
    x0, x1 = rng.normal(size=(5, 2)), rng.gamma(1.5, size=(5, 2))
    for path, alpha, sigma in (
        (paths.linear(), lambda t: t, lambda t: 1 - t),
        (paths.cosine(), lambda t: np.sin(np.pi * t / 2), lambda t: np.cos(np.pi * t / 2)),
    ):
        one = partial(path_error.gap_on_path, _wrong, TRUE, path)
        ours = jax.jit(jax.vmap(one, (0, 0, None)))(x0, x1, jnp.asarray(TIMES))
        for i, t in enumerate(TIMES):  # the exact field cancels, whatever the path
            bent = _bent_by_hand(alpha(t) * x1 + sigma(t) * x0, t)
            np.testing.assert_allclose(ours[:, i], (bent**2).mean(axis=1), rtol=1e-12)


@pytest.mark.slow
def test_along_the_flow_of_the_learned_field(x64):
    x0 = np.array([[0.7, -1.1], [-1.5, 0.4]])
    solve = partial(samplers.fixed, num_steps=25, solver=diffrax.Tsit5())
    one = partial(path_error.gap_along_flow, _wrong, TRUE, times=jnp.asarray(TIMES), solve=solve)
    ours = jax.jit(jax.vmap(one))(x0)
    velocity = jax.jit(_wrong)
    for start, gaps in zip(x0, ours, strict=True):
        field = lambda t, x: np.asarray(velocity(x, t))
        states = integrate.solve_ivp(
            field, (0, TIMES[-1]), start, method="DOP853", rtol=1e-9, atol=1e-9, t_eval=TIMES
        ).y.T
        bent = _bent_by_hand(states, TIMES[:, None])
        np.testing.assert_allclose(gaps, (bent**2).mean(axis=1), rtol=1e-7)


@pytest.mark.slow
def test_along_a_flow_in_closed_form_that_starts_late(x64):
    # v = 2 t x takes x from time 0.2 to x exp(t^2 - 0.04); the other field is x + 1.
    x, times = np.array([[1.3, -0.4], [0.2, 2.0]]), np.array([0.2, 0.5, 1.0])
    solve = partial(samplers.fixed, num_steps=40, solver=diffrax.Tsit5())
    ours = path_error.gap_along_flow(
        lambda x, t: 2 * t * x, lambda x, t: x + 1.0, x, times, solve=solve
    )
    states = x[None] * np.exp(times**2 - 0.04)[:, None, None]
    wanted = ((2 * times[:, None, None] - 1) * states - 1) ** 2
    np.testing.assert_allclose(ours, wanted.mean(axis=(1, 2)), rtol=1e-9)


@pytest.mark.slow
def test_the_loss_exceeds_that_of_the_exact_field_by_the_gap():
    n, keys = 40_000, jax.random.split(jax.random.key(0), 2)
    x1 = mixtures.sample(keys[0], mixtures.PLANE, n)
    x0 = jax.random.normal(keys[1], x1.shape)
    path, times = paths.linear(), jnp.array([0.2, 0.7])

    @jax.jit
    @jax.vmap
    def one(x0, x1):
        excess = lambda t: losses.cfm(_wrong, path, x0, x1, t) - losses.cfm(TRUE, path, x0, x1, t)
        return jax.vmap(excess)(times), path_error.gap_on_path(_wrong, TRUE, path, x0, x1, times)

    excess, gap = (np.asarray(a, float) for a in one(x0, x1))
    difference = excess - gap
    assert np.all(np.abs(difference.mean(axis=0)) < 5 * difference.std(axis=0) / n**0.5)
    assert np.all(gap.mean(axis=0) > 20 * difference.std(axis=0) / n**0.5)  # it could have failed


@pytest.mark.slow
def test_a_field_that_has_memorized_all_but_one_point_is_wrong_about_that_one_alone():
    bank = jnp.array([[4.0, 1.0], [-3.0, 2.0], [0.5, -4.0]])
    path, x0, times = paths.linear(), jnp.array([0.3, -0.2]), jnp.array([0.7, 0.9])
    exact = partial(empirical.velocity, path, bank)
    learned = partial(empirical.velocity, path, bank[:2])
    one = partial(path_error.gap_on_path, learned, exact, path)
    known, unknown = jax.jit(lambda x1: jax.vmap(one, (None, 0, None))(x0, x1, times))(bank[1:])
    assert float(known.max()) < 1e-6
    assert float(unknown.min()) > 10.0
    # Its own trajectories end at its own points, where the exact field is the same.
    along = jax.jit(partial(path_error.gap_along_flow, learned, exact))(x0, jnp.array([0.0, 0.9]))
    assert float(along[1]) < 1e-6 < float(along[0])


def test_wrong_arguments_are_named():
    still, x, path = lambda x, t: 0 * x, jnp.zeros(2), paths.linear()
    with pytest.raises(ValueError, match=r"a vector of one or more times.* got shape \(\)"):
        path_error.gap_on_path(still, still, path, x, x, 0.5)
    with pytest.raises(ValueError, match=r"every entry of times must lie in \[0, 1\]"):
        path_error.gap_on_path(still, still, path, x, x, [0.5, 1.5])
    with pytest.raises(ValueError, match=r"shapes must be equal.*velocity \(1,\), exact \(2,\)"):
        path_error.gap_on_path(lambda x, t: x[:1], still, path, x, x, [0.5])
    with pytest.raises(ValueError, match="shapes must be equal"):
        path_error.gap_on_path(still, still, path, x, x[:1], [0.5])
    with pytest.raises(ValueError, match="vector of two or more times"):
        path_error.gap_along_flow(still, still, x, [0.5])
    with pytest.raises(ValueError, match="shapes must be equal"):
        path_error.gap_along_flow(still, lambda x, t: x[:1], x, [0.0, 0.5])
