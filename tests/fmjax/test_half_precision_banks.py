"""A data set stored in half precision is computed with in float32: right to its digits.

The truth is made by NumPy in float64, of exactly the numbers that are stored.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fmjax import empirical, losses, paths
from tests import slow

PATH = paths.linear()
DTYPES = [jnp.bfloat16, jnp.float16]
RANDOM = np.random.default_rng(0)
# Images with much in common: |b|^2 / 2 is about 250, rounded to 1 in bfloat16, and the weights are
# made of its differences, over sigma^2.
IMAGES = 0.8 + 0.03 * RANDOM.standard_normal((60, 768)) + 0.02 * RANDOM.gamma(1.0, size=(60, 1))
WEIGHTS = RANDOM.gamma(1.5, size=60)
NOISE = RANDOM.standard_normal(768)
HALVES = pytest.mark.parametrize("dtype", DTYPES, ids=["bfloat16", "float16"])
TIMES = pytest.mark.parametrize("t", [0.3, 0.7])


def _stored(dtype):
    """Returns the images in half precision, and the same numbers in float64."""
    bank = jnp.asarray(IMAGES, dtype)
    return bank, np.asarray(bank, np.float64)


def _truth(bank, x, t, weights=1.0):
    """Returns weights, mean, velocity, divergence and log-density of a bank at a state."""
    logits = np.log(weights) - 0.5 * ((x - t * bank) ** 2).sum(1) / (1 - t) ** 2
    w = np.exp(logits - logits.max())
    total = np.log(w.sum()) + logits.max() - np.log(np.sum(weights * np.ones(len(bank))))
    w /= w.sum()
    mean = w @ bank
    spread = w @ ((bank - mean) ** 2).sum(1)
    density = total - 0.5 * x.size * np.log(2 * np.pi * (1 - t) ** 2)
    divergence = (t * spread / (1 - t) ** 2 - x.size) / (1 - t)
    return w, mean, (mean - x) / (1 - t), divergence, density


def _check_law(found, weights, truth, scale=1.0):
    w, mean, velocity, divergence, density = truth
    assert 0.5 * np.abs(np.asarray(weights, np.float64) - w).sum() < 1e-3 * scale
    np.testing.assert_allclose(found.mean, mean, atol=1e-4 * scale)
    np.testing.assert_allclose(found.velocity, velocity, atol=5e-4 * scale)
    np.testing.assert_allclose(found.divergence, divergence, rtol=1e-4 * scale)
    np.testing.assert_allclose(found.log_density, density, rtol=1e-4 * scale)
    np.testing.assert_allclose(found.effective_number, 1 / (w**2).sum(), rtol=2e-3 * scale)
    assert {array.dtype for array in [*found, weights]} == {jnp.dtype("float32")}


@HALVES
@TIMES
@slow.but_the_first("chunk_size", [None, 7])
@slow.but_the_first("make", [lambda b: b, empirical.prepare], ids=["array", "bank"])
def test_a_float32_state_sees_the_stored_numbers(make, chunk_size, t, dtype):
    bank, exact = _stored(dtype)
    x = np.float32(t * exact[3] + (1 - t) * NOISE)
    chunked = {"chunk_size": chunk_size}
    found = empirical.law(PATH, make(bank), jnp.asarray(x), t, **chunked)
    w = empirical.weights(PATH, make(bank), jnp.asarray(x), t, **chunked)
    _check_law(found, w, _truth(exact, x.astype(np.float64), t))


@pytest.mark.slow
@HALVES
def test_weights_and_a_scale_of_half_precision(dtype):
    bank, exact = _stored(dtype)
    weights = jnp.asarray(WEIGHTS, dtype)
    x = np.float32(0.5 * (2.0 * exact[3] - 1.0) + 0.5 * NOISE)
    made = empirical.prepare(bank, scale=2.0, shift=-1.0, chunk_size=16)
    made = empirical.reweighted(made, weights)
    assert made.points.dtype == dtype  # stored as it came
    found = empirical.law(PATH, made, jnp.asarray(x), 0.5, chunk_size=16)
    w = empirical.weights(PATH, made, jnp.asarray(x), 0.5)
    exact_weights = np.asarray(weights, np.float64)
    _check_law(found, w, _truth(2.0 * exact - 1.0, x.astype(np.float64), 0.5, exact_weights))


@pytest.mark.slow
@HALVES
def test_a_state_of_half_precision_loses_the_digits_of_its_own_and_no_others(dtype):
    bank, exact = _stored(dtype)
    x, t = jnp.asarray(0.5 * exact[3] + 0.5 * NOISE, dtype), jnp.asarray(0.5, dtype)
    w, mean, velocity, divergence, density = _truth(exact, np.asarray(x, np.float64), 0.5)
    found = empirical.law(PATH, bank, x, t)
    assert found.velocity.dtype == found.mean.dtype == dtype
    digits = float(jnp.finfo(dtype).eps)
    np.testing.assert_allclose(np.asarray(found.velocity, np.float64), velocity, atol=4 * digits)
    np.testing.assert_allclose(np.asarray(found.mean, np.float64), mean, rtol=digits)
    np.testing.assert_allclose(found.divergence, divergence, rtol=1e-4)
    np.testing.assert_allclose(found.log_density, density, rtol=1e-4)
    np.testing.assert_allclose(empirical.weights(PATH, bank, x, t), w, atol=1e-3)
    # The dtype of what is shaped like the state: its own, unless the bank is of float32.
    for other, result in ((jnp.float32, jnp.float32), (dtype, dtype)):
        given = jnp.asarray(exact, other), x, t
        assert empirical.velocity(PATH, *given).dtype == result
        assert empirical.matvec(PATH, *given, x).dtype == result
        assert empirical.acceleration(PATH, *given).dtype == result
        assert empirical.truncated(PATH, *given, k=2).velocity.dtype == result


@pytest.mark.slow
@HALVES
def test_covariances_products_and_the_likeliest_points(dtype):
    bank, exact = _stored(dtype)
    x = np.float32(0.5 * exact[3] + 0.5 * NOISE)
    w, mean, velocity, divergence, _ = _truth(exact, x.astype(np.float64), 0.5)
    covariance = (w[:, None] * (exact - mean)).T @ (exact - mean)
    given = PATH, bank, jnp.asarray(x), 0.5
    scale = np.abs(covariance).max()
    np.testing.assert_allclose(empirical.covariance(*given), covariance, atol=2e-3 * scale)
    product = empirical.matvec(*given, jnp.asarray(x), chunk_size=16)
    wanted = covariance @ x
    np.testing.assert_allclose(product, wanted, atol=2e-3 * np.abs(wanted).max())
    largest = np.linalg.eigvalsh(covariance)[-1]
    found = empirical.lipschitz(jax.random.key(0), *given, chunk_size=16)
    np.testing.assert_allclose(found, max(abs(largest * 4 - 2), 2), rtol=1e-3)
    whole = empirical.truncated(*given, k=60, chunk_size=16)
    np.testing.assert_allclose(whole.velocity, velocity, atol=5e-4)
    np.testing.assert_allclose(whole.divergence, divergence, rtol=1e-4)


@pytest.mark.slow
@HALVES
@TIMES
def test_targets_of_training(dtype, t):
    bank, exact = _stored(dtype)
    x0, x1 = jnp.asarray(NOISE, jnp.float32), bank[3].astype(jnp.float32)
    x = t * exact[3] + (1 - t) * np.asarray(x0, np.float64)
    _, mean, velocity, divergence, _ = _truth(exact, x, t)
    rate = (1 - t) * divergence + velocity @ (t * mean - x) / (1 - t)
    for refined in (
        empirical.anchored_velocity,
        partial(empirical.refined_velocity, k=3, chunk_size=16),
    ):
        np.testing.assert_allclose(refined(PATH, bank, x0, x1, t), velocity, atol=5e-4)
    for make in (losses.of_bank, partial(losses.of_large_bank, k=3, chunk_size=16)):
        target = make(PATH, bank, x0, x1, t)
        np.testing.assert_allclose(target.velocity, velocity, atol=5e-4)
        np.testing.assert_allclose(target.noise, (x - t * mean) / (1 - t), atol=5e-4)
        np.testing.assert_allclose(target.rate, rate, rtol=1e-3, atol=0.05)


@pytest.mark.slow
@HALVES
def test_losses_of_half_precision_are_summed_in_float32(dtype):
    bank, exact = _stored(dtype)
    x0, x1 = jnp.asarray(300.0 * NOISE, dtype), bank[3]  # squares beyond the range of float16
    t = jnp.asarray(0.5, dtype)
    still = lambda x, t: jnp.zeros_like(x)
    noise = np.asarray(x0, np.float64)
    pair = np.mean((exact[3] - noise) ** 2)
    _, _, velocity, *_ = _truth(exact, 0.5 * exact[3] + 0.5 * noise, 0.5)
    marginal = np.mean(velocity**2)
    rate = noise.size * -1.0 - -1.0 * (noise @ noise) - exact[3] @ noise
    found = [
        (losses.cfm(still, PATH, x0, x1, t), pair),
        (losses.cdm(still, PATH, x0, x1, t), rate**2 / 768),
        (losses.efm(still, PATH, bank, x0, x1, t), marginal),
        (losses.dm(still, PATH, bank, x0, x1, t, weight=0), marginal),
        (losses.meanflow(lambda x, r, t: 0 * x, PATH, x0, x1, t, t), pair),
    ]
    for value, wanted in found:
        assert value.dtype == jnp.float32
        # `meanflow` takes its tangents in the dtype of the state.
        np.testing.assert_allclose(value, wanted, rtol=float(jnp.finfo(dtype).eps))


@pytest.mark.slow
def test_the_stream_of_a_half_bank_keeps_only_a_chunk_in_memory():
    # Not bfloat16: XLA on CPUs widens it before it slices it.
    bank = empirical.prepare(jnp.zeros((4096, 256), jnp.float16))

    def temporary(chunk_size):
        field = partial(empirical.velocity, PATH, chunk_size=chunk_size)
        batched = jax.jit(jax.vmap(lambda b, x: field(b, x, 0.5), in_axes=(None, 0)))
        compiled = batched.lower(bank, jnp.zeros((8, 256))).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert temporary(64) < bank.points.nbytes / 16


def test_a_constant_is_looked_at_inside_jit_too():
    bank = jnp.array([[-1.0], [1.0], [2.0]])
    index, weights = jnp.array([5]), jnp.array([1.0, -1.0, 0.0])
    with pytest.raises(ValueError, match="index must be from 0 to 2, got 5"):
        jax.jit(lambda b: empirical.take(b, index))(bank)
    with pytest.raises(ValueError, match="weights must be finite, not negative"):
        jax.jit(lambda b: empirical.reweighted(b, weights))(bank)
    taken = jax.jit(lambda b: empirical.take(b, jnp.array([2, 0])))(bank)
    np.testing.assert_array_equal(taken, [[2.0], [-1.0]])
