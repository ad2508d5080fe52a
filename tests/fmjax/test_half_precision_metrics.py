"""Metrics of half precision data, and of data away from the origin, against NumPy in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.spatial
import scipy.stats

from fmjax import metrics

DTYPES = [jnp.bfloat16, jnp.float16]
HALVES = pytest.mark.parametrize("dtype", DTYPES, ids=["bfloat16", "float16"])
KERNEL = metrics.gaussian_kernel(20.0)
# Each takes two samples [n, d]; of the same numbers float32 is right to 1e-4.
METRICS = {
    "total_variation": lambda x, y: metrics.total_variation(x[:40], y[:40]),
    "wasserstein2": lambda x, y: metrics.wasserstein2(x[:40], y[:40]),
    "wasserstein2, unequal": lambda x, y: metrics.wasserstein2(x[:20], y[:30]),
    "mmd": lambda x, y: metrics.mmd(x, y, kernel=KERNEL),
    "frechet": metrics.frechet,
    "prdc": lambda x, y: jnp.stack(metrics.prdc(x, y, neighbors=3)),
    "nearest_neighbor": lambda x, y: metrics.nearest_neighbor(x, y)[1],
    "distance_ratio": metrics.distance_ratio,
    "memorization_ratio": lambda x, y: metrics.memorization_ratio(x, y, threshold=0.9),
    "pearson": lambda x, y: metrics.pearson(x[:40], y[:40]),
    "spearman": lambda x, y: metrics.spearman(x[:40], y[:40]),
}


def samples(n, m, d=64, seed=0):
    """Two skewed samples whose squares do not fit in float16, with much in common."""
    random = np.random.default_rng(seed)
    common = 40.0 + random.gamma(2.0, size=d)
    return common + random.gamma(1.0, size=(n, d)), common + random.gamma(1.5, size=(m, d))


@pytest.mark.slow
@HALVES
@pytest.mark.parametrize("name", METRICS)
def test_half_precision_is_as_good_as_float32_of_the_same_numbers(name, dtype):
    stored = [jnp.asarray(sample, dtype) for sample in samples(60, 80)]
    wide = [sample.astype(jnp.float32) for sample in stored]
    metric = jax.jit(METRICS[name])
    found, wanted = metric(*stored), metric(*wide)
    assert found.dtype == jnp.float32
    assert jnp.isfinite(wanted).all()
    np.testing.assert_allclose(found, wanted, rtol=1e-6)


@pytest.mark.slow
@HALVES
def test_copies_in_half_precision_are_found(dtype):
    _, data = samples(1, 300)
    data = jnp.asarray(data, dtype)
    index, distance = metrics.nearest_neighbor(data, data)
    np.testing.assert_array_equal(distance, 0.0)
    np.testing.assert_array_equal(data[index], data)
    assert metrics.memorization_ratio(data, data) == 1.0
    fresh = jnp.asarray(samples(100, 1)[0], dtype)
    exact = np.asarray(fresh, np.float64), np.asarray(data, np.float64)
    right = scipy.spatial.distance.cdist(*exact).min(1)
    np.testing.assert_allclose(metrics.nearest_neighbor(fresh, data)[1], right, rtol=1e-6)


@HALVES
def test_values_by_numpy(dtype):
    x, y = (jnp.asarray(sample, dtype) for sample in samples(60, 60))
    a, b = np.asarray(x, np.float64), np.asarray(y, np.float64)
    pearson = scipy.stats.pearsonr(a.ravel(), b.ravel()).statistic
    np.testing.assert_allclose(metrics.pearson(x, y), pearson, rtol=1e-5)
    variation = 0.5 * np.abs(a - b).sum()
    np.testing.assert_allclose(metrics.total_variation(x, y), variation, rtol=1e-6)
    kernel = np.exp(-((a[0] - b[0]) ** 2).sum() / 800)
    np.testing.assert_allclose(KERNEL(x[0], y[0]), kernel, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("offset", [0.0, 25.0, 300.0, 1e4])
def test_neighbors_away_from_the_origin(offset):
    random = np.random.default_rng(0)
    data = np.float32(offset + random.standard_normal((2000, 2)))
    fresh = np.float32(offset + random.standard_normal((300, 2)))
    exact = np.asarray(data, np.float64), np.asarray(fresh, np.float64)
    index, distance = metrics.nearest_neighbor(data, data)
    np.testing.assert_array_equal(distance, 0.0)
    np.testing.assert_array_equal(data[index], data)
    two, _ = scipy.spatial.cKDTree(exact[0]).query(exact[1], 2)
    np.testing.assert_allclose(metrics.nearest_neighbor(fresh, data)[1], two[:, 0], rtol=1e-5)
    if offset < 1e4:  # beyond, rounding makes copies of neighbors
        ratio = metrics.distance_ratio(fresh, data)
        np.testing.assert_allclose(ratio, two[:, 0] / two[:, 1], rtol=1e-5)


@pytest.mark.slow
def test_two_modes_far_from_their_mean():
    random = np.random.default_rng(1)
    data = random.standard_normal((2000, 2)) + np.where(random.random((2000, 1)) < 0.3, 100, -50)
    data = np.float32(data)
    _, distance = metrics.nearest_neighbor(data, data)
    np.testing.assert_array_equal(distance, 0.0)


@pytest.mark.slow
def test_the_first_of_equal_rows_is_the_nearest():
    data = np.float32([[3.0, 1.0], [0.1, 0.7], [0.1, 0.7], [5.0, 5.0], [0.1, 0.7]])
    index, _ = metrics.nearest_neighbor(np.float32([[0.1, 0.7], [0.0, 0.9]]), data)
    assert index.tolist() == [1, 1]


@pytest.mark.slow
def test_prdc_away_from_the_origin():
    random = np.random.default_rng(2)
    real, generated = random.integers(0, 64, (2, 200, 3)) / 8.0  # exact at any of these offsets
    near = metrics.prdc(np.float32(real), np.float32(generated))
    far = metrics.prdc(np.float32(4096.0 + real), np.float32(4096.0 + generated))
    np.testing.assert_allclose(far, near, rtol=1e-6)


@pytest.mark.slow
def test_a_nan_stays_a_nan():
    x, y = (np.float32(sample) for sample in samples(5, 8))
    y[3, 2] = np.nan
    assert jnp.isnan(metrics.nearest_neighbor(x, y)[1]).all()
    distance = metrics.nearest_neighbor(y, x)[1]
    np.testing.assert_array_equal(jnp.isnan(distance), np.arange(8) == 3)
