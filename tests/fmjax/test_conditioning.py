"""Conditioned fields against exact fields of Gaussian data, least squares and EDM's formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fmjax import divergence, losses, paths, posterior, predictions, toy

PATHS = {
    "linear": paths.linear(),
    "cosine": paths.cosine(),
    "vp": paths.vp(),
    "ve": paths.ve(0.02, 40.0),
    "ve_to_zero": paths.ve_to_zero(),
    "mine": paths.Path(alpha=lambda t: t**2, sigma=lambda t: 1 - t**3),
}
MEAN, STD = np.array([0.7, -1.9, 3.0]), np.array([0.2, 1.0, 4.0])
TIMES = (0.03, 0.5, 0.97)


def zeros(y, t):
    return 0.0 * y


def bent(y, t):
    return jnp.sin(y) + t * y[::-1]


def gaussian():
    return toy.gaussian_mixture(jnp.ones(1), MEAN[None], (STD * np.eye(3))[None] ** 2)


@pytest.mark.slow
@pytest.mark.parametrize("name", PATHS)
def test_gaussian_data_need_no_network(name, x64):
    path, law = PATHS[name], gaussian()
    field = predictions.conditioned(zeros, path, STD, MEAN)
    x = jnp.array([0.9, -3.0, 8.0])
    for t in TIMES:
        exact = lambda x, t=t: law.velocity(path, x, t)
        value, div = divergence.exact(lambda x, t=t: field(x, t), x)
        wanted, wanted_div = divergence.exact(exact, x)
        np.testing.assert_allclose(value, wanted, rtol=1e-8, atol=1e-10)
        np.testing.assert_allclose(div, wanted_div, rtol=1e-8)
        alpha, sigma = path.alpha(t), path.sigma(t)
        variance = (STD * sigma) ** 2 / ((alpha * STD) ** 2 + sigma**2)
        covariance = posterior.covariance(field, path, x, t)
        np.testing.assert_allclose(covariance, np.diag(variance), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", PATHS)
def test_input_and_target_of_the_network_have_unit_variance(name, x64):
    # Over skewed draws, with a network that writes down what it is asked for.
    path, n = PATHS[name], 200_000
    rng = np.random.default_rng(0)
    x0, x1 = rng.standard_normal(n), 0.5 + 3.0 * (rng.standard_exponential(n) - 1)
    std, mean = float(x1.std()), float(x1.mean())
    for t in TIMES:
        c = paths.coefficients(path, t)
        x, u = c.alpha * x1 + c.sigma * x0, c.alpha_dot * x1 + c.sigma_dot * x0
        asked = []
        field = predictions.conditioned(
            lambda y, t, asked=asked: (asked.append(y), 0.0 * y)[1], path, std, mean
        )
        rest = u - field(jnp.asarray(x), t)
        scale = float(predictions.residual_std(path, std, t))
        (y,), target = asked, rest / scale
        # The last line are the normal equations of least squares.
        for found in (y, target):
            np.testing.assert_allclose(np.mean(found), 0.0, atol=0.02)
            np.testing.assert_allclose(np.std(found), 1.0, atol=0.02)
        np.testing.assert_allclose(np.mean(y * target), 0.0, atol=0.02)


def test_the_weighted_loss_is_the_error_of_the_network(x64):
    path, x0, x1 = paths.cosine(), jnp.array([0.3, -1.0, 2.0]), jnp.array([0.5, 0.1, -3.0])
    field = predictions.conditioned(bent, path, STD, MEAN)
    for t in TIMES:
        weight = predictions.residual_std(path, STD, t) ** -2
        loss = losses.cfm(field, path, x0, x1, t, weight=weight)
        a, s = path.alpha(t), path.sigma(t)
        root = np.sqrt((a * STD) ** 2 + s**2)
        y = (a * x1 + s * x0 - a * MEAN) / root
        target = (s * (x1 - MEAN) / STD - a * STD * x0) / root
        np.testing.assert_allclose(loss, np.mean((bent(y, t) - target) ** 2), rtol=1e-10)


def test_a_weight_multiplies_the_square_of_its_entry():
    x0, x1 = jnp.zeros((2, 3)), jnp.arange(6.0).reshape(2, 3)
    still, path = lambda x, t: 0.0 * x, paths.linear()
    for weight in (2.0, np.array([1.0, 0.0, 3.0]), np.array([[1.0], [5.0]])):
        loss = losses.cfm(still, path, x0, x1, 0.5, weight=weight)
        np.testing.assert_allclose(loss, np.mean(weight * np.asarray(x1) ** 2), rtol=1e-6)


def test_it_is_the_preconditioning_of_karras_where_alpha_is_one(x64):
    # Their denoiser is c_skip x + c_out F(c_in x), eq. (7) and table 1 of arXiv 2206.00364.
    path, std, x = paths.ve(0.02, 40.0), 0.5, jnp.array([1.0, -3.0, 20.0])
    field = predictions.conditioned(bent, path, std)
    for t in TIMES:
        s = path.sigma(t)
        skip, root = std**2 / (s**2 + std**2), np.sqrt(s**2 + std**2)
        # Their target (x1 - c_skip x) / c_out is ours.
        denoised = skip * x + s * std / root * bent(x / root, t)
        wanted = predictions.convert(
            path, denoised, x, t, given=predictions.x1, wanted=predictions.velocity
        )
        np.testing.assert_allclose(field(x, t), wanted, rtol=1e-9)


@pytest.mark.parametrize("name", ["linear", "cosine", "ve", "mine"])
def test_it_is_finite_at_both_ends(name):
    field = predictions.conditioned(bent, PATHS[name], STD, MEAN)
    x = jnp.array([0.9, -3.0, 8.0])
    for t in (0.0, 1.0):
        value, jacobian = field(x, t), jax.jacfwd(field)(x, jnp.asarray(t))
        assert bool(jnp.isfinite(value).all() & jnp.isfinite(jacobian).all())
        assert value.dtype == jnp.float32


@pytest.mark.slow
def test_moments_by_channel_and_states_of_half_precision():
    x = jnp.linspace(-1.0, 1.0, 12, dtype=jnp.bfloat16).reshape(2, 2, 3)
    field = predictions.conditioned(zeros, paths.linear(), STD, MEAN)
    value = field(x, 0.25)
    assert value.dtype == jnp.bfloat16
    slope = (0.25 * STD**2 - 0.75) / ((0.25 * STD) ** 2 + 0.75**2)
    wanted = MEAN + slope * (np.asarray(x, np.float32) - 0.25 * MEAN)
    np.testing.assert_allclose(np.asarray(value, np.float32), wanted, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize(
    ("std", "mean", "match"),
    [
        (0.0, 0.0, "std must be positive and finite, got numbers from 0.0"),
        (np.array([1.0, -1.0, 1.0]), 0.0, "std must be positive and finite.*-1.0 to 1.0"),
        (np.inf, 0.0, "std must be positive and finite"),
        (1.0, np.array([0.0, np.nan, 0.0]), "mean must be finite"),
        (np.ones(2), 0.0, r"std must broadcast to the shape of x \(3,\), got \(2,\)"),
        (1.0, np.ones((3, 1)), r"mean must broadcast to the shape of x \(3,\), got \(3, 1\)"),
    ],
)
def test_moments_that_no_data_have_are_refused(std, mean, match):
    with pytest.raises(ValueError, match=match):
        predictions.conditioned(zeros, paths.linear(), std, mean)(jnp.zeros(3), 0.5)


@pytest.mark.slow
def test_moments_may_be_traced():
    x, path = jnp.array([0.9, -3.0, 8.0]), paths.linear()
    value = lambda s: predictions.conditioned(bent, path, s)(x, 0.4).sum()
    step = 1e-2
    difference = (value(1.0 + step) - value(1.0 - step)) / (2 * step)
    np.testing.assert_allclose(jax.grad(value)(1.0), difference, rtol=1e-2)
