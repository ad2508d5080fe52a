"""The noise end, the classes, the units of the data, and fields that are no posterior's."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fmjax import paths, posterior, predictions
from tests.oracles import mixture as oracles

PATH = paths.linear()
X = np.array([0.4, -0.1, 0.7])
CENTER = oracles.WEIGHTS @ oracles.MEANS
PRIOR = (
    np.einsum("k,kij->ij", oracles.WEIGHTS, oracles.COVARIANCES)
    + np.einsum("k,ki,kj->ij", oracles.WEIGHTS, oracles.MEANS, oracles.MEANS)
    - np.outer(CENTER, CENTER)
)


def _mixture(x, t):
    return oracles.law(paths.coefficients(PATH, t), x).velocity


def _component(x, t, k):
    return oracles.law(paths.coefficients(PATH, t), x, oracles.component(k)).velocity


@pytest.mark.slow
def test_the_mixture_tends_to_its_prior_linearly_in_t(x64):
    found = jax.jit(lambda x, t: posterior.covariance(_mixture, PATH, x, t))
    errors = [np.abs(found(X, jnp.asarray(t)) - PRIOR).max() for t in (1e-2, 1e-3, 1e-4)]
    assert errors[0] < 0.2
    for coarse, fine in itertools.pairwise(errors):
        assert fine == pytest.approx(coarse / 10, rel=0.2)
    # That of Gaussian data with the same moments has the same limit.
    limits = [posterior.prior_covariance(PRIOR, PATH, t) for t in (1e-4, 0.0)]
    np.testing.assert_allclose(limits[0], PRIOR, atol=1e-3)
    np.testing.assert_allclose(limits[1], PRIOR, atol=1e-15)


def test_the_prior_of_white_data_in_many_dimensions():
    found = posterior.prior_covariance(jnp.eye(1500), PATH, 0.9)
    np.testing.assert_allclose(jnp.diag(found), 0.1**2 / (0.9**2 + 0.1**2), rtol=1e-5)


@pytest.mark.parametrize("t", [0.5, 0.999, 1 - 2**-20, 1 - 2**-24])
def test_the_prior_of_data_in_a_plane_is_right_to_rounding_however_near_the_data(t):
    points = np.random.default_rng(0).normal(size=(40, 2)) @ [[1.0, 2.0, 0.0], [0.5, 0.0, -3.0]]
    covariance = np.cov(points.T).astype(np.float32)
    found = posterior.prior_covariance(jnp.asarray(covariance), PATH, jnp.float32(t))
    alpha, sigma = (np.float64(f(jnp.float32(t))) for f in PATH)
    values, vectors = np.linalg.eigh(covariance.astype(float))
    values = np.maximum(values, 0.0)
    values = sigma**2 * values / (alpha**2 * values + sigma**2)
    error = found - (vectors * values) @ vectors.T
    assert np.abs(error).max() < 5e-7 * np.abs(covariance).max()


@pytest.mark.slow
def test_priors_of_diagonal_matrices_agree_and_vanish_at_the_data():
    variance = jnp.array([4.0, 0.25, 0.0])
    for t in (0.0, 0.3, 0.99):
        np.testing.assert_allclose(
            posterior.prior_covariance(jnp.diag(variance), PATH, t),
            jnp.diag(posterior.prior_variance(variance, PATH, t)),
            atol=1e-7,
        )
    assert not posterior.prior_variance(variance, PATH, 1.0).any()  # of the constant entry, too
    with pytest.raises(ValueError, match=r"square matrix.*\(2, 3\).*prior_variance"):
        posterior.prior_covariance(jnp.zeros((2, 3)), PATH, 0.5)


@pytest.mark.parametrize("rank", [0, 1, 2])
def test_the_prior_of_data_in_a_subspace_is_finite_up_to_the_data(rank):
    points = np.random.default_rng(0).normal(size=(rank, 3)).astype(np.float32)
    covariance = points.T @ points
    values, vectors = np.linalg.eigh(covariance.astype(np.float64))
    values[: 3 - rank] = 0.0
    compute = jax.jit(partial(posterior.prior_covariance, covariance, paths.linear()))
    for t in (0.0, 0.5, 0.99, 1.0 - 1e-5, 1.0):
        t = np.float32(t)
        variance, alpha = np.float64(1.0 - t) ** 2, np.float64(t)
        # In the directions of no variance 0 over 0 at t = 1, whose limit is 0.
        exact = values * variance / np.maximum(alpha**2 * values + variance, 1e-300)
        found = compute(jnp.asarray(t))
        np.testing.assert_allclose(found, vectors * exact @ vectors.T, atol=3e-6 * (1 + values[-1]))
        slope = jax.jacfwd(compute)(jnp.asarray(t))
        assert np.isfinite(slope).all()


LIMITS = {
    posterior.covariance: partial(posterior.prior_covariance, PRIOR),
    posterior.diagonal: partial(posterior.prior_variance, np.diag(PRIOR).copy()),
    posterior.trace: lambda path, t: jnp.trace(posterior.prior_covariance(PRIOR, path, t)),
}


@pytest.mark.slow
@pytest.mark.parametrize("quantity", LIMITS)
def test_near_noise_is_the_prior_below_and_the_formula_above(quantity, x64):
    limit = LIMITS[quantity]
    guarded = posterior.near_noise(quantity, limit)
    times = jnp.array([0.0, 1e-9, 0.0499, 0.05, 0.3])
    traced = jax.jit(jax.vmap(lambda t: guarded(_mixture, PATH, X, t)))(times)
    exact = jax.jit(jax.vmap(lambda t: quantity(_mixture, PATH, X, t)))(times[3:])
    for i, t in enumerate(times.tolist()):
        truth = limit(PATH, t) if t < 0.05 else exact[i - 3]
        np.testing.assert_allclose(traced[i], truth, rtol=1e-12, atol=1e-14)
    for t in (0, 0.0, np.float64(0.01)):  # static: the velocity is not even called
        found = guarded(lambda x, t: 1 / 0, PATH, X, t)
        np.testing.assert_allclose(found, limit(PATH, t), rtol=1e-12)


@pytest.mark.slow
def test_near_noise_has_a_gradient_at_the_noise_end(x64):
    variance = jnp.asarray(np.diag(PRIOR))
    guarded = posterior.near_noise(
        posterior.trace, lambda path, t: posterior.prior_variance(variance, path, t).sum()
    )
    slope = jax.jit(jax.vmap(jax.grad(lambda t: guarded(_mixture, PATH, X, t))))
    found = slope(jnp.array([0.0, 0.02, 0.3]))
    # d/dt of v s^2 / (t^2 v + s^2), by hand, and a central difference of the formula.
    for i, t in enumerate((0.0, 0.02)):
        total, s = t**2 * variance + (1 - t) ** 2, 1 - t
        rate = (-2 * s * total - s**2 * (2 * t * variance - 2 * s)) / total**2
        np.testing.assert_allclose(found[i], jnp.sum(variance * rate), atol=1e-12)
    trace = jax.jit(lambda t: posterior.trace(_mixture, PATH, X, t))
    np.testing.assert_allclose(found[2], (trace(0.3 + 1e-6) - trace(0.3 - 1e-6)) / 2e-6, rtol=1e-7)
    # Without the guard both are lost.
    assert not bool(jnp.isfinite(trace(0.0)))


@pytest.mark.slow
def test_near_noise_takes_options_and_refuses_a_bad_smallest_time():
    limit = LIMITS[posterior.diagonal]
    loose = posterior.near_noise(posterior.diagonal, limit, smallest_t=0.5)
    field = lambda x, t: -x
    found = loose(field, PATH, jnp.asarray(X), jnp.asarray(0.4), chunk_size=2)
    np.testing.assert_allclose(found, limit(PATH, 0.4), rtol=1e-6)
    for wrong in (0.0, 1.0, -0.1):
        with pytest.raises(ValueError, match=rf"\(0, 1\), got {wrong}: try 0.05"):
            posterior.near_noise(posterior.diagonal, limit, smallest_t=wrong)
    with pytest.raises(ValueError, match="wrap the call in jax.vmap"):
        loose(field, PATH, X, jnp.zeros(3))
    with pytest.raises(ValueError, match="must lie in"):
        loose(field, PATH, X, 1.5)


@pytest.mark.slow
@pytest.mark.parametrize("function", [posterior.total_covariance, posterior.total_diagonal])
def test_a_class_that_is_certain_leaves_nothing_between(function, x64):
    numbers, given = jnp.arange(3), jnp.array([0.0, 1.0, 0.0])
    parts = jax.jit(lambda x, t: function(_component, PATH, x, t, numbers, given))(X, 0.4)
    law = oracles.law(paths.coefficients(PATH, 0.4), jnp.asarray(X), oracles.component(1))
    truth = law.covariance if parts.within.ndim == 2 else jnp.diag(law.covariance)
    np.testing.assert_allclose(parts.mean, law.mean, atol=1e-14)
    np.testing.assert_allclose(parts.within, truth, atol=1e-14)
    np.testing.assert_allclose(parts.between, jnp.zeros_like(truth), atol=1e-14)


@pytest.mark.slow
def test_classes_may_be_vectors_and_states_images():
    labels, shares = jnp.array([[1.0, 0.0], [0.0, 1.0]]), jnp.array([0.25, 0.75])
    # Class c is one image, of the constant 3 c_0 + 5 c_1; so the mean is 4.5, the variance 0.75.
    field = lambda x, t, c: (c @ jnp.array([3.0, 5.0]) - x) / (1 - t)
    x = jax.random.normal(jax.random.key(0), (2, 2, 3))
    entries = posterior.total_diagonal(field, PATH, x, 0.5, labels, shares)
    whole = posterior.total_covariance(field, PATH, x, 0.5, labels, shares)
    for parts in (entries, whole):
        np.testing.assert_allclose(parts.mean, jnp.full((2, 2, 3), 4.5), rtol=1e-6)
        np.testing.assert_allclose(parts.total, jnp.full(parts.total.shape, 0.75), rtol=1e-5)
    assert entries.between.shape == (2, 2, 3)
    assert whole.between.shape == (12, 12)


@pytest.mark.parametrize("function", [posterior.total_covariance, posterior.total_diagonal])
def test_classes_and_probabilities_that_differ_are_named(function):
    for shares in (jnp.ones(2), jnp.ones((3, 1)), jnp.array(1.0)):
        with pytest.raises(ValueError, match=r"one entry per class, got shapes \(3,\)"):
            function(_component, PATH, X, 0.5, jnp.arange(3), shares)
    with pytest.raises(ValueError, match="one entry per class"):
        function(_component, PATH, X, 0.5, jnp.array(1), jnp.ones(1))


@pytest.mark.slow
def test_asymmetry_against_the_matrix(x64):
    jacobian = np.random.default_rng(0).normal(size=(12, 12)) + 2 * np.eye(12)
    field = lambda x, t: (jnp.asarray(jacobian) @ x.ravel()).reshape(x.shape)
    truth = np.linalg.norm(jacobian - jacobian.T) / np.linalg.norm(jacobian + jacobian.T)
    for num_probes in (12, 40):
        found = posterior.asymmetry(
            jax.random.key(0), field, jnp.ones((2, 2, 3)), 0.3, num_probes=num_probes
        )
        assert float(found) == pytest.approx(truth, rel=1e-13)


def test_asymmetry_by_probes_against_all_signs(x64):
    # Two probes in three dimensions: the 64 pairs of sign vectors are equally likely.
    jacobian = np.array([[1.0, 2.0, -0.5], [0.3, -1.0, 0.8], [1.1, 0.2, 0.4]])
    signs = np.array(list(itertools.product((-1.0, 1.0), repeat=3)))
    squares = [((signs @ m) ** 2).sum(1) for m in (jacobian - jacobian.T, jacobian + jacobian.T)]
    odd, even = (square[:, None] + square[None] for square in squares)
    truth, n = np.sqrt(odd / even).mean(), 4000
    field = lambda x, t: jnp.asarray(jacobian) @ x
    draw = jax.jit(
        jax.vmap(lambda k: posterior.asymmetry(k, field, jnp.ones(3), 0.5, num_probes=2))
    )
    draws = np.asarray(draw(jax.random.split(jax.random.key(0), n)))
    assert draws.std() > 0.1
    assert abs(draws.mean() - truth) < 5 * draws.std() / n**0.5


@pytest.mark.slow
def test_asymmetry_of_exact_and_of_constant_fields(x64, key):
    exact = jax.jit(lambda x: posterior.asymmetry(key, _mixture, x, 0.4))
    assert float(exact(jnp.asarray(X))) < 1e-14
    for field in (lambda x, t: 0.0 * x, lambda x, t: x**2):
        measure = lambda x, field=field: posterior.asymmetry(key, field, x, 0.5)
        value, slope = jax.value_and_grad(measure)(jnp.ones(3))
        assert float(value) == 0.0
        assert bool(jnp.all(jnp.isfinite(slope)))
    turn = lambda x, t: jnp.array([[0.0, 1.0], [-1.0, 0.0]]) @ x
    assert float(posterior.asymmetry(key, turn, jnp.ones(2), 0.5)) == np.inf
    with pytest.raises(ValueError, match="num_probes must be at least 1, got 0"):
        posterior.asymmetry(key, turn, jnp.ones(2), 0.5, num_probes=0)
    with pytest.raises(ValueError, match="shapes must be equal"):
        posterior.asymmetry(key, lambda x, t: x[:1], jnp.ones(2), 0.5)


@pytest.mark.slow
def test_data_units_of_images_per_channel(x64):
    # The network's own data are N(0, I): in data units N(shift, scale^2), channel by channel.
    network = lambda x, t: (2 * t - 1) / (t**2 + (1 - t) ** 2) * x
    scale, shift = jnp.array([2.0, 0.5, -10.0]), jnp.array([1.0, 0.0, 4.0])
    field, noise = posterior.in_data_units(network, PATH, scale=scale, shift=shift)
    y = jax.random.normal(jax.random.key(0), (2, 2, 3))
    wide, origin = (jnp.broadcast_to(a, y.shape) for a in (scale, shift))
    x = wide * y + 0.3 * origin
    kept = 0.7**2 / (0.3**2 + 0.7**2)
    entries = posterior.diagonal(field, PATH, x, 0.3, noise=noise)
    np.testing.assert_allclose(entries, kept * wide**2, rtol=1e-13)
    mean = wide * posterior.mean(network, PATH, y, 0.3) + origin
    np.testing.assert_allclose(posterior.mean(field, PATH, x, 0.3), mean, rtol=1e-13)


def test_units_that_do_not_fit_are_named():
    for wrong in ({"scale": jnp.ones(2)}, {"scale": 1.0, "shift": jnp.ones((5, 2, 2, 3))}):
        field, _ = posterior.in_data_units(_mixture, PATH, **wrong)
        with pytest.raises(ValueError, match=r"must broadcast.*\(2, 2, 3\).*one per channel"):
            field(jnp.zeros((2, 2, 3)), 0.5)


@pytest.mark.slow
def test_near_noise_refuses_what_its_limit_does_not_know():
    x, variance = jnp.zeros(2), jnp.array([4.0, 1.0])
    limit = partial(posterior.prior_variance, variance)
    guarded = posterior.near_noise(posterior.diagonal, limit)
    for options in ({"of": predictions.x0}, {"noise": lambda w: 4.0 * w}):
        with pytest.raises(ValueError, match=r"near_noise takes no (of|noise)"):
            guarded(lambda x, t: -x, PATH, x, 0.3, **options)
    slip = posterior.near_noise(posterior.trace, limit)
    for t in (jnp.float32(0.0), 0.3):
        with pytest.raises(ValueError, match=r"limit has shape \(2,\), the quantity \(\)"):
            slip(lambda x, t: -x, PATH, x, t)


@pytest.mark.slow
def test_the_noise_is_known_at_the_noise_end():
    # Cov[x0 | x_t] -> 0 as t -> 0, static and traced, without a matrix.
    field = lambda x, t: jnp.array([1.0, -2.0]) - x  # E[x1] - x, the exact velocity at t = 0
    for t in (0.0, jnp.float32(0.0)):
        ours = posterior.diagonal(field, PATH, jnp.ones(2), t, of=predictions.x0)
        np.testing.assert_array_equal(ours, np.zeros(2))
    with pytest.raises(ValueError, match="0 times infinity"):
        posterior.diagonal(field, PATH, jnp.ones(2), 0.0, of=predictions.velocity)
    later = posterior.covariance(field, PATH, jnp.ones(2), 0.4, of=predictions.x0)
    np.testing.assert_allclose(later, posterior.gain(field, PATH, jnp.ones(2), 0.4), atol=1e-6)


def test_integers_are_states_in_data_units_too():
    field, _ = posterior.in_data_units(lambda x, t: x, PATH, scale=0.5)
    np.testing.assert_allclose(field(jnp.array([1, 2]), 0.5), [1.0, 2.0])
