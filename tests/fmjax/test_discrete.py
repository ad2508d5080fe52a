"""Paths from tables of noise rates, and models with numbered timesteps as velocities."""

import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fmjax import paths, posterior, predictions, samplers
from tests import slow

TABLES = {
    "linear": np.linspace(1e-4, 0.02, 1000),
    "scaled linear": np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2,
    "cosine": np.minimum(
        1
        - (lambda f: f[1:] / f[:-1])(np.cos((np.arange(51) / 50 + 0.008) / 1.008 * np.pi / 2) ** 2),
        0.999,
    ),
    "uneven": np.array([0.3, 0.01, 0.2, 0.05, 0.4]),
}
POINTS = np.array([[1.0, -0.5], [-0.7, 1.3], [0.2, 0.1], [2.0, 0.4]])
WEIGHTS = np.array([0.4, 0.3, 0.2, 0.1])


def _abar(betas):
    return np.array([np.prod(1 - betas[: i + 1]) for i in range(len(betas))])


def _by_enumeration(alpha, sigma, x):
    """Mean and covariance of the data given a state, over the four points."""
    logits = np.log(WEIGHTS) - ((x - alpha * POINTS) ** 2).sum(1) / (2 * sigma**2)
    weights = np.exp(logits - logits.max())
    weights /= weights.sum()
    mean = weights @ POINTS
    return mean, (weights[:, None] * POINTS).T @ POINTS - np.outer(mean, mean)


def _noise(alpha, sigma, x):
    """The exact prediction of the noise for data at the four points."""
    squares = ((x[None] - alpha * POINTS) ** 2).sum(1)
    weights = jax.nn.softmax(jnp.log(WEIGHTS) - squares / (2 * sigma**2))
    return (x - alpha * (weights @ POINTS)) / sigma


def _epsilon(betas):
    """The same as a network that takes integers has it: by a table of its levels."""
    abar = jnp.asarray(_abar(betas))

    def model(x, i):
        here = abar[jnp.round(i).astype(int)]
        return _noise(jnp.sqrt(here), jnp.sqrt(1 - here), x)

    return model


@slow.but_the_first("name", TABLES)
def test_the_levels_of_the_model_are_on_the_path(name):
    betas, abar = TABLES[name], _abar(TABLES[name])
    with jax.enable_x64(True):
        path = paths.from_betas(betas)
        t = 1 - np.arange(1, len(betas) + 1) / len(betas)
        np.testing.assert_allclose(path.alpha(t), np.sqrt(abar), rtol=1e-10)
        np.testing.assert_allclose(path.sigma(t), np.sqrt(1 - abar), rtol=1e-10)
        assert (float(path.alpha(1.0)), float(path.sigma(1.0))) == (1.0, 0.0)
        fine = path.alpha(np.linspace(0, 1, 10 * len(betas) + 3))
        assert bool((jnp.diff(fine) > 0).all())  # a monotone cubic between any two levels
    single = paths.from_betas(betas)
    assert single.alpha(jnp.float32(0.25)).dtype == jnp.float32
    np.testing.assert_allclose(single.alpha(np.float32(t)), np.sqrt(abar), rtol=2e-4)
    np.testing.assert_allclose(single.sigma(np.float32(t[1:])), np.sqrt(1 - abar[1:]), rtol=2e-4)


@pytest.mark.parametrize("name", ["linear", "uneven"])
def test_derivatives_are_those_of_differences_and_continuous(name):
    betas, h = TABLES[name], 1e-6
    with jax.enable_x64(True):
        path = paths.from_betas(betas)
        knot = 1 - 2 / len(betas)
        for t in (0.13, 0.5001, knot, 0.77):
            found = paths.coefficients(path, t)
            for function, slope in ((path.alpha, found.alpha_dot), (path.sigma, found.sigma_dot)):
                np.testing.assert_allclose(
                    slope, (function(t + h) - function(t - h)) / (2 * h), rtol=1e-4
                )


def test_many_small_rates_are_the_path_of_their_limit():
    # 0.1 and 20 per unit of time, over N levels: the variance-preserving SDE, for N to infinity.
    count = 20_000
    s = (np.arange(count) + 0.5) / count
    with jax.enable_x64(True):
        path, limit = paths.from_betas((0.1 + 19.9 * s) / count), paths.vp()
        t = np.linspace(0.02, 0.98, 25)
        np.testing.assert_allclose(path.alpha(t), limit.alpha(t), rtol=4e-3)
        np.testing.assert_allclose(path.sigma(t), limit.sigma(t), rtol=4e-3)


@pytest.mark.slow
@pytest.mark.parametrize("name", TABLES)
def test_the_posterior_of_a_noise_prediction_is_exact_at_every_timestep(name):
    betas, abar = TABLES[name], _abar(TABLES[name])
    count, x = len(betas), np.array([0.6, -0.2])
    with jax.enable_x64(True):
        path = paths.from_betas(betas)
        field = predictions.from_timesteps(_epsilon(betas), path, count, given=predictions.x0)
        for i in {0, 1, count // 3, count - 1}:
            t = 1 - (i + 1) / count
            alpha, sigma = np.sqrt(abar[i]), np.sqrt(1 - abar[i])
            mean, covariance = _by_enumeration(alpha, sigma, x)
            scale = (
                sigma / alpha if i < 2 else 1.0
            )  # near the data the covariance is next to nothing
            np.testing.assert_allclose(posterior.mean(field, path, x, t), mean, atol=1e-9 * scale)
            found = posterior.covariance(field, path, x, t)
            np.testing.assert_allclose(found, covariance, atol=1e-8)


def test_the_continuous_path_in_its_place_has_other_variances():
    # What a user of `paths.vp` gets from a model of a table: nothing fails, and it is wrong.
    betas, i, x = TABLES["linear"], 50, np.array([0.6, -0.2])
    abar = _abar(betas)[i]
    wanted = np.trace(_by_enumeration(np.sqrt(abar), np.sqrt(1 - abar), x)[1])

    def error(path):
        kind = predictions.x0
        field = predictions.from_timesteps(_epsilon(betas), path, len(betas), given=kind)
        return abs(float(posterior.trace(field, path, x, 1 - (i + 1) / len(betas))) / wanted - 1)

    with jax.enable_x64(True):
        assert error(paths.from_betas(betas)) < 1e-9
        assert error(paths.vp()) > 0.02


def test_samples_of_a_noise_prediction_reach_the_data_with_their_weights():
    betas = np.linspace(1e-3, 0.12, 200)  # alpha(0) = 0.002
    with jax.enable_x64(True):
        path = paths.from_betas(betas)
        level = lambda i: 1 - (i + 1) / 200  # between timesteps too
        smooth = lambda x, i: _noise(path.alpha(level(i)), path.sigma(level(i)), x)
        field = predictions.from_timesteps(smooth, path, 200, given=predictions.x0)
        noise = jax.random.normal(jax.random.key(0), (2000, 2))
        solve = lambda x: samplers.fixed(field, x, num_steps=200, t1=1 - 1 / 200)
        ends = jax.jit(jax.vmap(solve))(noise)
    distance = np.linalg.norm(np.asarray(ends)[:, None] - POINTS, axis=-1)
    assert np.quantile(distance.min(1), 0.95) < 0.12
    shares = np.bincount(distance.argmin(1), minlength=4) / 2000
    assert (np.abs(shares - WEIGHTS) < 5 * np.sqrt(WEIGHTS * (1 - WEIGHTS) / 2000)).all()


def test_the_model_is_asked_for_its_own_timesteps_and_never_for_others():
    asked = []
    model = lambda x, i: asked.append(float(i)) or x
    with jax.enable_x64(True):
        path = paths.from_betas(TABLES["uneven"])
        field = predictions.from_timesteps(model, path, 5, given=predictions.v)
        for t in (0.0, 0.2, 0.5, 0.8, 0.9):
            field(jnp.ones(2), t)
    np.testing.assert_allclose(asked, [4.0, 3.0, 1.5, 0.0, 0.0], atol=1e-12)


def test_the_velocity_is_finite_from_end_to_end_and_the_path_can_be_pickled():
    path = pickle.loads(pickle.dumps(paths.from_betas(TABLES["linear"])))
    for kind in (predictions.x0, predictions.x1, predictions.v, predictions.score):
        field = predictions.from_timesteps(lambda x, i: x * i, path, 1000, given=kind)
        for t in (0.0, 0.5, 1.0):
            assert bool(jnp.isfinite(field(jnp.array([0.3, -2.0]), t)).all()), (kind, t)


@pytest.mark.parametrize(
    ("betas", "words"),
    [
        ([0.1], r"one row of at least two rates, got shape \(1,\)"),
        ([[0.1, 0.2]], r"got shape \(1, 2\)"),
        ([0.1, 1.0], r"must lie between 0 and 1, got 0.1 to 1: a rate of 1 leaves no signal"),
        ([0.0, 0.1], "got 0 to 0.1"),
        ([0.1, np.nan], "must lie between 0 and 1, got nan"),
    ],
)
def test_rates_that_make_no_path_are_refused(betas, words):
    with pytest.raises(ValueError, match=words):
        paths.from_betas(betas)


@pytest.mark.parametrize("count", [1, 10.0, True])
def test_a_number_of_timesteps_that_is_no_count_is_refused(count):
    path = paths.from_betas(TABLES["uneven"])
    with pytest.raises(ValueError, match="num_timesteps must be"):
        predictions.from_timesteps(lambda x, i: x, path, count, given=predictions.x0)
