"""The exact law of toy data along a path, against integrals over the data."""

import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.stats

import fmjax
from tests import slow
from tests.fmjax import test_toy

PATHS = {"linear": fmjax.paths.linear(), "cosine": fmjax.paths.cosine(), "ve": fmjax.paths.ve()}
WEIGHTS, MEANS, DEVIATIONS = [0.2, 0.5, 0.3], [[0.0, 1.0], [3.0, -1.0], [-2.0, -2.0]], [0.3, 0.5, 1]
LAWS = {
    "gaussian": lambda: fmjax.toy.gaussian_mixture(
        test_toy.WEIGHTS, test_toy.MEANS, test_toy.COVARIANCES
    ),
    "isotropic": lambda: fmjax.toy.isotropic_mixture(WEIGHTS, MEANS, DEVIATIONS),
    "moons": fmjax.toy.moons,
    "checkerboard": fmjax.toy.checkerboard,
}


def by_integration(law, cells):
    """Returns the function (path, x, t) -> log p_t(x), E[dx_t/dt | x], by sums over a grid of data.

    The grid is made of the squares of the checkerboard, so that no cell straddles a side; for
    smooth laws the sum errs by less than float64 where their width is that of a cell.
    """
    side = 10 / 0.45 / cells
    line = (np.arange(cells) + 0.5) * side - 5 / 0.45
    grid = np.stack(np.meshgrid(line, line, indexing="ij"), axis=-1).reshape(-1, 2)
    density = jax.jit(lambda x: jax.lax.map(law.log_prob, x, batch_size=10_000))
    data = np.exp(np.asarray(density(jnp.asarray(grid)))) * side**2

    def integrate(path, x, t):
        c = [float(part) for part in fmjax.paths.coefficients(path, t)]
        alpha, sigma, alpha_dot, sigma_dot = c
        noise = (x - alpha * grid) / sigma
        joint = data * np.exp(-0.5 * (noise**2).sum(1)) / (2 * np.pi * sigma**2)
        speed = alpha_dot * grid + sigma_dot * noise
        return np.log(joint.sum()), joint @ speed / joint.sum()

    return integrate


@slow.but_the_first("name", LAWS)
def test_density_and_velocity_are_integrals_over_the_data(name, x64):
    # The density of the checkerboard jumps from cell to cell.
    cells, tolerance = (1000, 2e-4) if name == "checkerboard" else (250, 1e-9)
    law, x = LAWS[name](), np.array([0.7, -0.4])
    integrate = by_integration(law, cells)
    for path, t in (("linear", 0.7), ("cosine", 0.55), ("ve", 0.6)):
        log_p, velocity = integrate(PATHS[path], x, t)
        at = (PATHS[path], jnp.asarray(x), jnp.asarray(t))
        np.testing.assert_allclose(law.log_marginal(*at), log_p, rtol=tolerance)
        np.testing.assert_allclose(law.velocity(*at), velocity, rtol=20 * tolerance)


@pytest.mark.slow
def test_scalars_against_adaptive_quadrature(x64):
    weights, means, deviations = np.array([0.4, 0.6]), np.array([-3.0, 1.5]), np.array([0.3, 0.4])
    law, path, x, t = (
        fmjax.toy.isotropic_mixture(3 * weights, means, deviations),
        PATHS["ve"],
        0.9,
        0.4,
    )
    c = [float(part) for part in fmjax.paths.coefficients(path, t)]
    alpha, sigma, alpha_dot, sigma_dot = c
    joint = lambda y: (
        weights
        @ scipy.stats.norm.pdf(y, means, deviations)
        * scipy.stats.norm.pdf(x, alpha * y, sigma)
    )
    speed = lambda y: (alpha_dot * y + sigma_dot * (x - alpha * y) / sigma) * joint(y)
    p, moment = (scipy.integrate.quad(f, -8, 8, epsabs=1e-13)[0] for f in (joint, speed))
    np.testing.assert_allclose(law.log_marginal(path, x, t), np.log(p), rtol=1e-11)
    np.testing.assert_allclose(law.velocity(path, x, t), moment / p, rtol=1e-10)
    np.testing.assert_allclose(
        np.exp(law.log_prob(1.2)), weights @ scipy.stats.norm.pdf(1.2, means, deviations)
    )


@pytest.mark.parametrize("name", ["gaussian", "isotropic", "moons"])
def test_at_the_ends_the_law_is_that_of_the_data_and_of_the_noise(name, x64):
    law, path, x = LAWS[name](), PATHS["cosine"], jnp.array([0.7, -0.4])
    np.testing.assert_allclose(law.log_marginal(path, x, 1.0), law.log_prob(x), rtol=1e-10)
    normal = scipy.stats.norm.logpdf(x).sum()
    np.testing.assert_allclose(law.log_marginal(path, x, 0.0), normal, rtol=1e-12)


@pytest.mark.slow
def test_a_component_without_weight_changes_nothing_but_has_a_derivative(x64):
    path, x, t = PATHS["linear"], jnp.array([0.2, 0.1]), 0.6
    deviations, means = jnp.array([0.5, 0.3]), jnp.array([[1.0, 0.0], [0.2, 0.4]])
    one = fmjax.toy.isotropic_mixture(jnp.ones(1), means[:1], deviations[:1])
    two = lambda w: fmjax.toy.isotropic_mixture(jnp.array([1.0, w]), means, deviations)
    np.testing.assert_allclose(two(0.0).velocity(path, x, t), one.velocity(path, x, t), rtol=1e-14)
    slope = jax.grad(lambda w: two(w).log_marginal(path, x, t))
    step = 1e-6
    difference = two(step).log_marginal(path, x, t) - two(0.0).log_marginal(path, x, t)
    np.testing.assert_allclose(slope(0.0), difference / step, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", LAWS)
def test_one_example_float32_jit_vmap_and_pickle(name):
    law, path = pickle.loads(pickle.dumps(LAWS[name]())), PATHS["linear"]
    x = jax.random.normal(jax.random.key(0), (3, 2))
    t = jnp.array([0.3, 0.6, 0.9])
    for function in (law.log_marginal, law.velocity):
        batch = jax.jit(jax.vmap(function, (None, 0, 0)), static_argnums=0)(path, x, t)
        assert batch.dtype == jnp.float32
        np.testing.assert_allclose(batch[1], function(path, x[1], t[1]), rtol=2e-5, atol=1e-5)
        with pytest.raises(ValueError, match="shapes must be equal"):
            function(path, x, 0.5)


@pytest.mark.slow
def test_samples_of_isotropic_mixtures_follow_their_moments():
    law = fmjax.toy.isotropic_mixture([0.25, 0.75], [[[1.0]], [[-2.0]]], [0.5, 1.0])
    x = jax.vmap(law.sample)(jax.random.split(jax.random.key(0), 40_000))
    assert x.shape == (40_000, 1, 1)
    mean, variance = -1.25, 0.25 * 0.25 + 0.75 * 1.0 + 0.25 * 0.75 * 9.0
    assert abs(float(x.mean()) - mean) < 5 * (variance / 40_000) ** 0.5
    assert abs(float(x.var()) / variance - 1) < 5 * (2 / 40_000) ** 0.5


def test_a_law_of_ones_own_says_what_it_lacks():
    law = fmjax.toy.Density(sample=jax.random.normal, log_prob=lambda x: -0.5 * x**2)
    with pytest.raises(NotImplementedError, match="log_marginal, velocity"):
        law.velocity(PATHS["linear"], jnp.zeros(2), 0.5)


@pytest.mark.parametrize(("weights", "means"), [([0.5], [0.0, 1.0]), (0.5, [1.0]), ([], [])])
def test_isotropic_mixtures_of_other_shapes_are_refused(weights, means):
    with pytest.raises(ValueError, match=r"weights \[k\], means \[k, \*dims\]"):
        fmjax.toy.isotropic_mixture(weights, means, weights)
