"""Networks and states of bfloat16: sums over many entries keep the digits of float32.

`tests/contract` runs every function with such a network; here are the values. The fields are exact
in bfloat16, so that a result may differ from the truth by float32's rounding alone.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fmjax import (
    divergence,
    estimators,
    events,
    likelihood,
    losses,
    onestep,
    path_error,
    paths,
    posterior,
    samplers,
)

PATH = paths.linear()
BFLOAT16, FLOAT32 = jnp.bfloat16, jnp.float32
STATES = pytest.mark.parametrize("dtype", [FLOAT32, BFLOAT16], ids=["float32", "bfloat16"])
# 1001 entries: bfloat16 knows 1000 and 1004, not 1001.
MANY = 1001


def _low(function):
    return lambda *inputs: function(*inputs).astype(BFLOAT16)


@pytest.mark.slow
@STATES
def test_divergences_are_sums_in_float32(dtype, key):
    x, same = jnp.ones(MANY, dtype), _low(lambda x: x)
    for estimate in (
        divergence.exact,
        partial(divergence.chunked, chunk_size=128),
        partial(divergence.hutchinson, key),
        estimators.as_divergence(partial(estimators.hutchinson, key, num_probes=2)),
    ):
        value, div = estimate(same, x)
        assert float(div) == MANY
        np.testing.assert_array_equal(value.astype(FLOAT32), 1.0)
    assert float(divergence.unrolled(_low(lambda x: 5.0625 * x), x[:50])[1]) == 50 * 5.0625


@pytest.mark.slow
@STATES
def test_a_log_density_is_a_sum_in_float32(dtype):
    # dx/dt = x / 2: log p1(x1) = log p0(x1 exp(-1/2)) - d / 2; x1 = 0 is exact.
    x1 = jnp.zeros(MANY, dtype)
    log_p = likelihood.log_prob(_low(lambda x, t: 0.5 * x), x1)
    assert log_p.dtype == FLOAT32
    assert float(log_p) == pytest.approx(-MANY / 2 * (np.log(2 * np.pi) + 1), rel=1e-6)


TURN = np.array([[1.0, -0.5], [0.5, 1.0]])


@STATES
def test_asymmetry_and_covariances(dtype, key):
    # The velocity of N(0, 4 I) at t = 1/2 is (4 t - (1 - t)) / (4 t^2 + (1 - t)^2) x = 1.2 x, and
    # 1.25 x has the covariance (sigma^2 / alpha) (1 + (1 - t) 1.25) = 0.8125.
    x, field = jnp.ones(2, dtype), _low(lambda x, t: 1.25 * x)
    turn = _low(lambda x, t: jnp.asarray(TURN, BFLOAT16) @ x.astype(BFLOAT16))
    assert float(posterior.asymmetry(key, turn, x, 0.5)) == 0.5
    vector = jnp.array([1.0, -2.0], dtype)
    found = posterior.matvec(field, PATH, x, jnp.float32(0.5), vector)
    np.testing.assert_allclose(found, 0.8125 * np.array([1.0, -2.0]), rtol=1e-6)
    # The network rounds its products with directions of more digits.
    least, greatest = posterior.extremes(key, field, PATH, x, jnp.float32(0.5), num_matvecs=4)
    np.testing.assert_allclose([least, greatest], 0.8125, rtol=2e-3)
    top = posterior.principal_components(key, field, PATH, x, jnp.float32(0.5), num_components=1)
    np.testing.assert_allclose(top.variances, 0.8125, rtol=2e-3)
    # C(x1) = x1[0] has the mean 1 + 1.25 / 2 and the variance 0.8125.
    log_p = events.log_probability(lambda x1: x1[0], field, PATH, x, jnp.float32(0.5), jitter=0.0)
    wanted = jax.scipy.special.log_ndtr(1.625 / np.sqrt(0.8125))
    assert float(log_p) == pytest.approx(float(wanted), rel=1e-4)


@STATES
def test_sensitivities(dtype, key):
    # x at 0 goes to 2.25 x, in every entry: the squares are 5.0625.
    x, model = jnp.ones(MANY, dtype), _low(lambda x, r, t: 1.25 * x)
    trace = onestep.sensitivity_trace(model, PATH, x, jnp.float32(0.0), chunk_size=128)
    assert float(trace) == pytest.approx(5.0625 * MANY, rel=1e-6)
    estimate = onestep.sensitivity_estimate(key, model, PATH, x, jnp.float32(0.0), num_probes=2)
    np.testing.assert_allclose(estimate.mean, 5.0625, rtol=1e-6)


@pytest.mark.slow
def test_improved_meanflow_and_matching(key):
    x0, x1 = jnp.array([0.5, -1.0, 2.0]), jnp.array([1.0, -2.0, 4.0])
    average, velocity = lambda x, r, t: 0.5 * x, lambda x, t: 0.25 * x
    ours, truth = (
        losses.improved_meanflow(kind(average), kind(velocity), PATH, x0, x1, 0.75, 0.5)
        for kind in (_low, lambda function: function)
    )
    assert ours.dtype == FLOAT32
    assert float(ours) == pytest.approx(float(truth), rel=0.02)
    target = losses.of_pair(PATH, jnp.ones(MANY), jnp.zeros(MANY), 0.5)
    # sigma r = -(d - d) + (0 . x0) - sigma d = -d / 2, squared, over d.
    for match in (losses.match_trace, partial(losses.match_product, key)):
        _, penalty = match(_low(lambda x: x - jax.lax.stop_gradient(x)), target)
        assert float(penalty) == pytest.approx(MANY / 4, rel=1e-6)


@pytest.mark.slow
def test_two_velocities_of_different_dtypes():
    low, same = _low(lambda x, t: 0.5 * x), lambda x, t: 0.5 * x.astype(FLOAT32)
    ends = samplers.hybrid([low, same], [0.0, 0.25, 1.0], jnp.ones(2))
    assert ends.dtype == FLOAT32
    np.testing.assert_allclose(ends, np.exp(0.5), rtol=5e-3)
    x, times = jnp.ones(2, BFLOAT16), jnp.array([0.0, 0.5, 1.0])
    along = path_error.gap_along_flow(low, same, x, times)
    on_path = path_error.gap_on_path(same, low, PATH, x, 2 * x, times)
    assert along.dtype == on_path.dtype == FLOAT32
    assert float(jnp.max(along)) < 2e-5  # the square of what bfloat16 rounds 0.5 exp(0.5) by
    assert float(jnp.max(on_path)) < 2e-5
