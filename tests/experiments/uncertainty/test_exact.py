"""The exact posterior of a blurred data set, against mixtures of Gaussians written out in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats

import fmjax
from experiments.images import data
from experiments.uncertainty._posterior import exact

PATH = fmjax.paths.linear()


def _bank(n=9, shape=(2, 3, 1)):
    """Skewed points in [-1, 1], two of them close together."""
    bank = 2 * np.random.default_rng(0).beta(0.7, 1.6, (n, *shape)) - 1
    bank[1] = bank[0] + 0.05
    return bank


def _by_hand(bank, width, x, t):
    """The posterior of sum_i N(b_i, width^2 I) / n given the state, in float64."""
    bank, x, rest = bank.reshape(len(bank), -1), x.ravel(), 1 - t
    total = rest**2 + (t * width) ** 2  # variance of the state within a component
    log_weights = stats.norm.logpdf(x, t * bank, total**0.5).sum(axis=1)
    weights = special.softmax(log_weights)
    means = bank + t * width**2 / total * (x - t * bank)
    mean = weights @ means
    variance = weights @ (means - mean) ** 2 + (width * rest) ** 2 / total
    return mean, variance


@pytest.mark.parametrize("width", [0.0, 0.07, 0.5])
@pytest.mark.parametrize("t", [0.0, 0.05, 0.4, 0.9])
def test_the_posterior_against_a_mixture_of_gaussians(x64, width, t):
    bank, rng = _bank(), np.random.default_rng(1)
    x = t * (bank[1] + width * rng.normal(size=bank[1].shape)) + (1 - t) * rng.normal(
        size=(2, 3, 1)
    )
    mean, variance = exact.posterior(PATH, jnp.asarray(bank), width, jnp.asarray(x), t)
    truth = _by_hand(bank, width, x, t)
    np.testing.assert_allclose(np.ravel(mean), truth[0], rtol=1e-10, atol=1e-13)
    np.testing.assert_allclose(np.ravel(variance), truth[1], rtol=1e-10, atol=1e-13)
    if width == 0.0:
        covariance = fmjax.empirical.covariance(PATH, jnp.asarray(bank), jnp.asarray(x), t)
        np.testing.assert_allclose(np.ravel(variance), np.diag(covariance), atol=1e-13)


@pytest.mark.slow
def test_the_posterior_in_float32():
    bank, rng = _bank(), np.random.default_rng(2)
    for t in (0.1, 0.5, 0.9):
        x = t * bank[2] + (1 - t) * rng.normal(size=bank[2].shape)
        single = (jnp.asarray(a, jnp.float32) for a in (bank, x))
        mean, variance = exact.posterior(PATH, next(single), 0.034, next(single), t)
        truth = _by_hand(bank, 0.034, x, t)
        np.testing.assert_allclose(np.ravel(mean), truth[0], atol=2e-5)
        np.testing.assert_allclose(np.ravel(variance), truth[1], atol=2e-5)


@pytest.mark.parametrize("t", [0.2, 0.6])
def test_its_uncertainty_is_the_mean_error_of_its_mean(t):
    bank, width = jnp.asarray(_bank(), jnp.float32), 0.3
    keys = jax.random.split(jax.random.key(4), 3)
    count, dims = 20_000, bank.shape[1:]
    x1 = bank[jax.random.randint(keys[0], (count,), 0, len(bank))]
    x1 = x1 + width * jax.random.normal(keys[1], (count, *dims))
    x = t * x1 + (1 - t) * jax.random.normal(keys[2], (count, *dims))
    one = lambda x: exact.posterior(PATH, bank, width, x, t)
    mean, variance = jax.jit(jax.vmap(one))(x)
    error = np.asarray((x1 - mean) ** 2, np.float64).reshape(count, -1).sum(axis=1)
    u = np.asarray(variance, np.float64).reshape(count, -1).sum(axis=1)
    assert abs(np.mean(error - u)) < 5 * stats.sem(error - u)
    # Without the blur U would be too small by far more than that.
    sharp = jax.jit(jax.vmap(lambda x: exact.posterior(PATH, bank, 0.0, x, t)[1]))(x)
    assert np.mean(error) - float(sharp.sum() / count) > 20 * stats.sem(error)


@pytest.mark.slow
def test_the_best_width_against_scipy():
    rng = np.random.default_rng(3)
    bank = 2 * rng.beta(0.7, 1.6, (30, 2, 2, 1)) - 1
    held_out = bank[rng.integers(0, 30, 25)] + 0.2 * rng.normal(size=(25, 2, 2, 1))
    ours = exact.best_width(PATH, jnp.asarray(bank, jnp.float32), np.float32(held_out), size=8)
    widths = 0.02 * 50 ** (np.arange(24) / 23)
    likelihoods = []
    for width in widths:
        log_p = stats.norm.logpdf(held_out[:, None], bank[None], width).sum(axis=(2, 3, 4))
        likelihoods.append(special.logsumexp(log_p, axis=1).mean())
    best = int(np.argmax(likelihoods))
    assert 0 < best < 23  # inside, or any rule would find it
    assert ours == pytest.approx(widths[best], rel=1e-12)


@pytest.mark.slow
def test_a_network_that_has_memorized_agrees_with_the_training_data():
    rng = np.random.default_rng(5)
    pixels = rng.integers(0, 17, (12, 2, 3, 1), dtype=np.uint8)
    images = data.Images(pixels, rng.integers(0, 17, (6, 2, 3, 1), dtype=np.uint8), 17)
    bank, width = (2.0 * pixels + 1) / 17 - 1, 2 / 17 / 12**0.5
    arrays = {"train": {}, "held_out": {}}
    for t in (0.3, 0.7):
        for part, values in arrays.items():
            image = bank[:6] + 0.3 * rng.uniform(-1, 1, (6, 2, 3, 1)) * (part == "held_out")
            noised = t * image + (1 - t) * rng.normal(size=image.shape)
            moments = [_by_hand(bank, width, x, t) for x in noised]
            mean, variance = (
                np.float32(np.reshape(m, image.shape)) for m in zip(*moments, strict=True)
            )
            values[t] = {"image": image, "noised": np.float32(noised), "mean": mean}
            values[t]["variance"] = 2 * variance  # twice as uncertain as it should be
    results, exactly = exact.compare(PATH, images, arrays, size=4)
    assert results["widths"]["train"] == pytest.approx(width)
    for row in results["train"]:
        learned, truth = arrays["train"][row["t"]], exactly["train"][row["t"]]
        np.testing.assert_allclose(truth["mean"], learned["mean"], atol=2e-5)
        np.testing.assert_allclose(2 * truth["variance"], learned["variance"], atol=4e-5)
        assert row["num_images"] == 6
        assert row["median_relative_error"] == pytest.approx(1.0, abs=0.01)
        assert row["mean_u"] == pytest.approx(2 * row["mean_exact_u"], rel=1e-3)
        assert min(row["pearson_u"], row["map_correlation"]) > 0.999
        assert row["rms_mean_difference"] < 2e-5
        error = ((learned["image"] - learned["mean"]) ** 2).sum(axis=(1, 2, 3)).mean()
        assert row["exact_error"] == pytest.approx(error, rel=1e-3)
    for row in results["held_out"]:  # another width, so another law
        assert row["rms_mean_difference"] > 1e-3
