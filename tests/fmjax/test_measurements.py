"""Linear measurements against the conditional law of Gaussian data, and a mixture on a line.

Gaussian data given y are Gaussian again, with textbook mean and covariance, so the conditioned
velocity is the velocity of that law, at every state and time.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fmjax import events, paths, predictions, samplers, toy
from tests import slow

PATHS = {
    "linear": paths.linear(), "cosine": paths.cosine(), "vp": paths.vp(),
    "ve_to_zero": paths.ve_to_zero(0.01, 20.0),
}  # fmt: skip
RNG = np.random.default_rng(4)
ROOT = RNG.normal(size=(4, 4)) * np.array([2.0, 1.0, 0.5, 0.2])
MEAN, COVARIANCE = np.array([0.5, -1.0, 0.3, 2.0]), ROOT @ ROOT.T
A = RNG.normal(size=(2, 4))
Y, NOISE = np.array([0.7, -1.9]), np.array([0.3, 0.6])


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


def _gaussian(path, center, covariance):
    """The exact velocity of N(center, covariance)."""

    def mean(x, t):
        alpha, sigma = path.alpha(t), path.sigma(t)
        total = alpha**2 * covariance + sigma**2 * np.eye(len(covariance))
        return center + alpha * covariance @ jnp.linalg.solve(total, x - alpha * center)

    return predictions.as_velocity(mean, path, given=predictions.x1)


def _given(covariance=COVARIANCE, noise=NOISE):
    """Mean and covariance of the data given y."""
    weight = covariance @ A.T @ np.linalg.inv(A @ covariance @ A.T + np.diag(noise**2))
    return MEAN + weight @ (Y - A @ MEAN), covariance - weight @ A @ covariance


@slow.but_the_first("name", PATHS)
@slow.but_the_first("t", [0.2, 0.6, 0.95])
def test_of_gaussian_data_it_is_the_velocity_of_the_conditional_law(name, t):
    path = PATHS[name]
    found = events.given_linear(
        lambda x1: jnp.asarray(A) @ x1, jnp.asarray(Y), _gaussian(path, MEAN, COVARIANCE), path,
        noise_std=jnp.asarray(NOISE), jitter=0.0,
    )  # fmt: skip
    exact = _gaussian(path, *_given())
    for x in RNG.normal(size=(3, 4)) * 2:
        np.testing.assert_allclose(found(x, t), exact(jnp.asarray(x), t), rtol=1e-7, atol=1e-9)


@pytest.mark.slow
def test_samples_have_the_mean_and_the_covariance_of_the_conditional_law():
    path = PATHS["linear"]
    field = events.given_linear(
        lambda x1: jnp.asarray(A) @ x1, jnp.asarray(Y), _gaussian(path, MEAN, COVARIANCE), path,
        noise_std=jnp.asarray(NOISE), jitter=0.0, smallest_t=1e-4,
    )  # fmt: skip
    noise = jax.random.normal(jax.random.key(0), (4000, 4))
    x = jax.jit(jax.vmap(partial(samplers.fixed, field, num_steps=60)))(noise)
    mean, covariance = _given()
    error = np.sqrt(np.diag(covariance) / len(x))
    assert (np.abs(x.mean(0) - mean) < 5 * error + 1e-3).all()
    spread = np.sqrt(np.outer(np.diag(covariance), np.diag(covariance)) * 2 / len(x))
    assert (np.abs(np.cov(x.T) - covariance) < 5 * spread + 1e-3).all()


@pytest.mark.slow
def test_of_two_peaks_it_is_exact_towards_the_data():
    path = PATHS["linear"]
    weights, centers, stds = np.array([0.3, 0.7]), np.array([-1.5, 1.0]), np.array([0.3, 0.5])
    law = toy.gaussian_mixture(weights, centers[:, None], np.square(stds)[:, None, None])
    y, noise = 0.4, 0.5
    shares = weights * np.exp(-0.5 * (y - centers) ** 2 / (stds**2 + noise**2))
    shares /= np.sqrt(stds**2 + noise**2)
    gain = stds**2 / (stds**2 + noise**2)
    given = toy.gaussian_mixture(
        shares / shares.sum(),
        (centers + gain * (y - centers))[:, None],
        (stds**2 * (1 - gain))[:, None, None],
    )
    field = events.given_linear(
        lambda x1: x1, jnp.array([y]), partial(law.velocity, path), path,
        noise_std=noise, jitter=0.0,
    )  # fmt: skip
    errors = []
    for t in (0.5, 0.8, 0.95, 0.99):
        x = jnp.linspace(-2, 2, 41)[:, None] * t
        found = jax.vmap(lambda x, t=t: field(x, t))(x)
        exact = jax.vmap(lambda x, t=t: given.velocity(path, x, t))(x)
        density = np.exp(jax.vmap(lambda x, t=t: given.log_marginal(path, x, t))(x))
        errors.append(np.sum(density * np.abs(found - exact)[:, 0]) / density.sum())
    assert errors[0] > 0.05
    assert errors[3] < 0.01 * errors[0]
    assert (np.diff(errors) < 0).all()


def test_below_the_smallest_time_it_is_finite_and_the_jitter_damps_it():
    path = PATHS["linear"]
    make = partial(
        events.given_linear, lambda x1: jnp.asarray(A) @ x1, jnp.asarray(Y),
        _gaussian(path, MEAN, COVARIANCE), path, noise_std=jnp.asarray(NOISE),
    )  # fmt: skip
    x = jnp.array([0.4, -0.2, 1.0, 0.3])
    for t in (0.0, 0.01, 0.5, 1.0):
        assert jnp.isfinite(make(jitter=0.0)(x, t)).all()
    # Near the noise the pull is the one of the prior: the mean moves as of the data without x.
    exact = _gaussian(path, *_given())(x, 0.0)
    np.testing.assert_allclose(make(jitter=0.0, smallest_t=1e-3)(x, 0.0), exact, atol=0.02)
    plain = _gaussian(path, MEAN, COVARIANCE)(x, 0.5)
    pulls = [jnp.linalg.norm(make(jitter=j)(x, 0.5) - plain) for j in (0.0, 1e-3)]
    assert pulls[1] == pytest.approx(float(pulls[0]), rel=0.05)
    assert pulls[1] != pulls[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"noise_std": 0.0}, "noise_std must be positive, got 0.0"),
        ({"noise_std": float("nan")}, "noise_std must be positive"),
        ({"jitter": -1.0}, "jitter must not be negative"),
        ({"smallest_t": 1.0}, r"smallest_t must lie in \[0, 1\)"),
        ({"num_iterations": 0}, "num_iterations"),
    ],
)
def test_wrong_options_get_one_clear_error(options, message):
    with pytest.raises(ValueError, match=message):
        events.given_linear(
            lambda x1: x1[:2], jnp.zeros(2), lambda x, t: x, PATHS["linear"],
            **{"noise_std": 1.0, **options},
        )  # fmt: skip


def test_a_measurement_of_another_shape_is_refused_on_the_call():
    field = events.given_linear(
        lambda x1: x1[:3], jnp.zeros(2), lambda x, t: x, PATHS["linear"], noise_std=1.0
    )
    with pytest.raises(ValueError, match="shapes must be equal"):
        field(jnp.ones(4), 0.5)
