"""Metrics against SciPy, brute force and closed forms."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
import scipy.optimize
import scipy.spatial
import scipy.stats

from fmjax import metrics
from tests import slow

# Compiled once per shape, which is quicker here than one operation at a time.
wasserstein2, frechet, pearson, spearman = map(
    jax.jit, (metrics.wasserstein2, metrics.frechet, metrics.pearson, metrics.spearman)
)


def samples(n, m, dims=(2,), seed=0):
    """Two samples of different mean, scale and skewness."""
    key_x, key_y = jax.random.split(jax.random.key(seed))
    x = jax.random.normal(key_x, (n, *dims))
    return x, 0.5 + jnp.exp(0.7 * jax.random.normal(key_y, (m, *dims)))


def flat(x):
    return np.asarray(x, np.float64).reshape(len(x), -1)


# Total variation


def test_total_variation_is_the_largest_difference_over_events():
    p, q = np.random.default_rng(0).dirichlet(np.ones(6), 2)
    events = np.array(np.meshgrid(*6 * [[0, 1]])).reshape(6, -1)  # all 64 subsets
    wanted = np.max((p - q) @ events)
    tv = jax.jit(metrics.total_variation)(jnp.float32(p), jnp.float32(q))
    np.testing.assert_allclose(tv, wanted, rtol=1e-6)
    grids = jnp.float32(p).reshape(2, 3), jnp.float32(q).reshape(2, 3)
    np.testing.assert_allclose(metrics.total_variation(*grids), wanted, rtol=1e-6)


def test_total_variation_extremes():
    assert metrics.total_variation(jnp.array([1.0, 0.0]), jnp.array([0.0, 1.0])) == 1.0
    assert metrics.total_variation(jnp.array([0.3, 0.7]), jnp.array([0.3, 0.7])) == 0.0


# Wasserstein


@pytest.mark.slow
@pytest.mark.parametrize("dims", [(), (2, 3)], ids=str)
def test_wasserstein2_agrees_with_scipy(dims):
    x, y = samples(50, 50, dims)
    costs = scipy.spatial.distance.cdist(flat(x), flat(y), "sqeuclidean")
    wanted = math.sqrt(costs[scipy.optimize.linear_sum_assignment(costs)].mean())
    value = wasserstein2(x, y)
    assert value.dtype == jnp.float32
    np.testing.assert_allclose(value, wanted, rtol=1e-6)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_wasserstein2_closed_forms():
    # On the line the best pairing is that of the sorted samples.
    x, y = samples(12, 12, (1,))
    wanted = np.sqrt(np.mean((np.sort(x, 0) - np.sort(y, 0)) ** 2))
    np.testing.assert_allclose(wasserstein2(x, y), wanted, rtol=1e-12)
    # A translation by (3, -4) costs its length; order does not matter.
    x, _ = samples(12, 12)
    y = x[::-1] + jnp.array([[3.0, -4.0]])
    np.testing.assert_allclose(wasserstein2(x, y), 5.0, rtol=1e-12)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_wasserstein2_derivative_is_that_of_the_best_pairing():
    x, y = samples(12, 12)
    gradient = jax.jit(jax.grad(metrics.wasserstein2))(x, y)
    step = 1e-6 * jax.random.normal(jax.random.key(5), x.shape)
    difference = (wasserstein2(x + step, y) - wasserstein2(x - step, y)) / 2
    np.testing.assert_allclose(jnp.sum(gradient * step), difference, rtol=1e-6)


# Maximum mean discrepancy


def naive_mmd(x, y, kernel):
    """The U-statistic by explicit sums over pairs."""
    n, m = len(x), len(y)
    xx = sum(kernel(x[i], x[j]) for i in range(n) for j in range(n) if i != j)
    yy = sum(kernel(y[i], y[j]) for i in range(m) for j in range(m) if i != j)
    xy = sum(kernel(a, b) for a in x for b in y)
    return xx / (n * (n - 1)) + yy / (m * (m - 1)) - 2 * xy / (n * m)


@pytest.mark.slow
@pytest.mark.parametrize("dims", [(), (2, 3)], ids=str)
def test_mmd_agrees_with_explicit_sums(dims):
    x, y = samples(7, 11, dims)
    value = jax.jit(partial(metrics.mmd, kernel=metrics.gaussian_kernel(0.8)))(x, y)
    assert value.dtype == jnp.float32
    wanted = naive_mmd(flat(x), flat(y), lambda a, b: np.exp(-((a - b) ** 2).sum() / (2 * 0.64)))
    np.testing.assert_allclose(value, wanted, atol=1e-6)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_mmd_of_the_linear_kernel():
    # For k(a, b) = a.b an unbiased estimate of |mean_x - mean_y|^2, by algebra.
    x, y = samples(20, 30)
    value = jax.jit(partial(metrics.mmd, kernel=jnp.dot))(x, y)
    correction = np.trace(np.cov(flat(x).T)) / 20 + np.trace(np.cov(flat(y).T)) / 30
    wanted = np.sum((x.mean(0) - y.mean(0)) ** 2) - correction
    np.testing.assert_allclose(value, wanted, rtol=1e-12)


@pytest.mark.slow
def test_mmd_is_unbiased():
    # N(0, 1) and N(1, 1) with bandwidth h: E k = exp(-mean^2 / (2 (h^2 + 2))) h / sqrt(h^2 + 2).
    x, y = jax.random.normal(jax.random.key(0), (2, 2000, 5))
    estimate = jax.jit(jax.vmap(partial(metrics.mmd, kernel=metrics.gaussian_kernel(0.5))))
    scale = 0.5 / math.sqrt(2.25)
    for shift in (0.0, 1.0):
        values = np.asarray(estimate(x, y + shift), np.float64)
        wanted = 2 * scale * (1 - math.exp(-(shift**2) / 4.5))
        assert abs(values.mean() - wanted) < 5 * values.std() / math.sqrt(2000)


def test_mmd_keeps_small_kernels_beside_the_diagonal():
    # By hand: the only close pair contributes 2 exp(-18) / 2 = 1.523e-8; a diagonal of ones that
    # is added and taken away again would leave multiples of 6e-8.
    x, y = jnp.array([0.0, 6.0]), jnp.array([100.0, 200.0])
    value = metrics.mmd(x, y, kernel=metrics.gaussian_kernel(1.0))
    np.testing.assert_allclose(value, math.exp(-18), rtol=1e-5)


# Frechet


def scipy_frechet(x, y):
    """The textbook formula in float64, with SciPy's matrix square root."""
    x, y = flat(x), flat(y)
    cov_x, cov_y = np.cov(x.T), np.cov(y.T)
    root = scipy.linalg.sqrtm(cov_x @ cov_y)
    return np.sum((x.mean(0) - y.mean(0)) ** 2) + np.trace(cov_x + cov_y - 2 * np.real(root))


@pytest.mark.slow
@pytest.mark.parametrize("dims", [(6,), (2, 3)], ids=str)
def test_frechet_agrees_with_scipy(dims):
    x, y = samples(300, 200, dims)
    value = frechet(x, y)
    assert value.dtype == jnp.float32
    np.testing.assert_allclose(value, scipy_frechet(x, y), rtol=1e-5)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_frechet_agrees_with_scipy_in_float64():
    x, y = samples(300, 200, (6,))
    np.testing.assert_allclose(frechet(x, y), scipy_frechet(x, y), rtol=1e-12)


@slow.but_the_first("dtype", [jnp.float32, jnp.float64], ids=["float32", "float64"])
def test_frechet_with_fewer_samples_than_features(dtype):
    # By hand: for n = 2 the covariances are u u^T / 2 and v v^T / 2, so the trace of the root
    # of their product is |u.v| / 2.
    with jax.enable_x64(dtype == jnp.float64):
        u, v = jax.random.normal(jax.random.key(0), (2, 200), dtype)
        value = frechet(jnp.stack([0 * u, u]), jnp.stack([v, 0 * v]))
        u, v = np.float64(u), np.float64(v)
        wanted = ((u - v) ** 2).sum() / 4 + (u @ u + v @ v) / 2 - abs(u @ v)
        np.testing.assert_allclose(value, wanted, rtol=1e-5 if dtype == jnp.float32 else 1e-13)


@pytest.mark.slow
def test_frechet_with_singular_covariances_in_float32():
    # A root of rounding errors, sqrt(1e-7) for each null direction, would show here: n < d.
    x, y = samples(40, 60, (150,))
    value = frechet(*(np.asarray(z, np.float32) for z in (x, y)))
    x, y = flat(x), flat(y)
    rows_x, rows_y = (x - x.mean(0)) / math.sqrt(39), (y - y.mean(0)) / math.sqrt(59)
    nuclear = np.linalg.svd(rows_x @ rows_y.T, compute_uv=False).sum()
    spread = (rows_x**2).sum() + (rows_y**2).sum() - 2 * nuclear
    np.testing.assert_allclose(value, ((x.mean(0) - y.mean(0)) ** 2).sum() + spread, rtol=2e-6)
    # By hand: two constants, at distance sqrt(150 / 4).
    assert frechet(jnp.ones((40, 150)), jnp.full((60, 150), 0.5)) == 150 / 4


@pytest.mark.slow
def test_frechet_of_a_set_with_itself_is_zero():
    x, _ = samples(50, 2, (100,))
    assert 0.0 <= frechet(x, x[::-1]) < 1e-6 * jnp.sum(x**2)


# Nearest neighbors


@pytest.mark.parametrize("dims", [(), (2, 3)], ids=str)
@pytest.mark.parametrize("chunk", [7, 256])
def test_nearest_neighbor_agrees_with_a_tree(dims, chunk):
    x, data = samples(20, 60, dims)
    index, distance = jax.jit(partial(metrics.nearest_neighbor, chunk=chunk))(x, data)
    wanted, places = scipy.spatial.KDTree(flat(data)).query(flat(x))
    np.testing.assert_array_equal(index, places)
    assert distance.dtype == jnp.float32
    np.testing.assert_allclose(distance, wanted, rtol=1e-6)


@pytest.mark.slow
def test_nearest_neighbor_distance_is_accurate_far_from_the_origin():
    # By hand; |x|^2 - 2 x.b + |b|^2 would lose all digits of 1 beside 1e8 in float32.
    data = 1e4 + 64.0 * jnp.arange(10.0)[:, None]
    index, distance = metrics.nearest_neighbor(data[3:5] + jnp.array([[1.0], [0.0]]), data)
    assert index.tolist() == [3, 4]
    assert distance.tolist() == [1.0, 0.0]


@pytest.mark.slow
def test_nearest_neighbor_takes_numpy_data_under_jit():
    x, data = (np.asarray(z) for z in samples(5, 9))
    index, _ = jax.jit(lambda x: metrics.nearest_neighbor(x, data))(x)
    np.testing.assert_array_equal(index, scipy.spatial.KDTree(data).query(x)[1])


# Correlations


both = pytest.mark.parametrize(
    ("ours", "scipys"),
    [(pearson, scipy.stats.pearsonr), (spearman, scipy.stats.spearmanr)],
    ids=["pearson", "spearman"],
)


@both
def test_correlation_of_continuous_numbers(ours, scipys):
    x, y = samples(60, 60, ())
    y = y + x**3
    value = ours(x, y)
    assert value.dtype == jnp.float32
    np.testing.assert_allclose(value, scipys(x, y).statistic, rtol=2e-6)
    np.testing.assert_allclose(ours(x.reshape(4, 15), y.reshape(4, 15)), value, rtol=1e-6)


@pytest.mark.usefixtures("x64")
@both
def test_correlation_with_ties(ours, scipys):
    x, y = samples(60, 60, ())
    x, y = jnp.round(2 * x), jnp.round(y + x)
    assert len(np.unique(x)) < 15
    np.testing.assert_allclose(ours(x, y), scipys(x, y).statistic, rtol=1e-12)


@both
def test_correlation_of_integers(ours, scipys):
    x = np.array([250, 3, 3, 7, 90], np.uint8)
    y = np.array([4, 9, 9, 8, 3], np.int32)
    wanted = scipys(x.astype(float), y.astype(float)).statistic
    np.testing.assert_allclose(ours(x, y), wanted, rtol=1e-6)


@both
def test_correlation_at_extreme_scales(ours, scipys):
    # Squares of these overflow and underflow in float32.
    x, y = samples(60, 60, ())
    wanted = scipys(x, y).statistic
    np.testing.assert_allclose(ours(1e30 * x, 1e-30 * y), wanted, rtol=1e-4)


@pytest.mark.parametrize("ours", [pearson, spearman], ids=["pearson", "spearman"])
def test_perfect_and_undefined_correlation(ours):
    x, _ = samples(60, 2, ())
    assert 1.0 - 1e-6 < ours(x, x) <= 1.0
    assert -1.0 <= ours(x, -x) < -1.0 + 1e-6
    # The mean of sixty times 0.1 is not 0.1 in float32.
    assert jnp.isnan(ours(x, jnp.full(60, 0.1)))
    assert jnp.isnan(ours(x.at[3].set(jnp.nan), x))


@pytest.mark.parametrize("ours", [pearson, spearman], ids=["pearson", "spearman"])
def test_correlation_under_vmap(ours):
    x, y = (z.reshape(2, 30) for z in samples(60, 60, ()))
    single = jnp.stack([ours(a, b) for a, b in zip(x, y, strict=True)])
    np.testing.assert_allclose(jax.vmap(ours)(x, y), single, rtol=1e-5)


def test_spearman_sees_only_the_order():
    x, y = samples(60, 60, ())
    assert spearman(x, jnp.exp(x)) > 1.0 - 1e-6
    assert spearman(x, y) == spearman(x**3, jnp.log(y))


# Errors


@pytest.mark.parametrize(
    ("metric", "shape_x", "shape_y"),
    [
        (metrics.total_variation, (3,), (4,)),
        (metrics.total_variation, (3,), (3, 1)),
        (metrics.wasserstein2, (3, 2), (3, 1)),
        (metrics.wasserstein2, (), ()),
        (metrics.wasserstein2, (0, 2), (0, 2)),
        (partial(metrics.mmd, kernel=metrics.gaussian_kernel(1.0)), (3, 2), (3,)),
        (partial(metrics.mmd, kernel=metrics.gaussian_kernel(1.0)), (3, 2), (1, 2)),
        (metrics.frechet, (3, 2), (4, 3)),
        (metrics.frechet, (1, 2), (4, 2)),
        (metrics.nearest_neighbor, (3, 2), (4, 3)),
        (metrics.nearest_neighbor, (3, 2), (0, 2)),
        (metrics.pearson, (3,), (4,)),
        (metrics.pearson, (3,), (3, 1)),
        (metrics.spearman, (3,), (4,)),
        (metrics.spearman, (1,), (1,)),
    ],
)
def test_mismatched_shapes_are_refused(metric, shape_x, shape_y):
    with pytest.raises(ValueError, match=r"must (be|have) .* got") as error:
        metric(jnp.ones(shape_x), jnp.ones(shape_y))
    assert str(shape_x) in str(error.value)
    assert str(shape_y) in str(error.value)


@pytest.mark.parametrize(
    "metric",
    [
        metrics.total_variation,
        metrics.wasserstein2,
        partial(metrics.mmd, kernel=metrics.gaussian_kernel(1.0)),
        metrics.frechet,
        metrics.nearest_neighbor,
    ],
)
def test_integers_are_refused_where_differences_would_wrap(metric):
    with pytest.raises(ValueError, match="must be floating, got uint8"):
        metric(jnp.ones((3, 2)), jnp.ones((3, 2), jnp.uint8))


def test_bad_options_are_refused():
    with pytest.raises(ValueError, match=r"positive, got 0\.0"):
        metrics.gaussian_kernel(0.0)
    with pytest.raises(ValueError, match="chunk must be at least 1, got 0"):
        metrics.nearest_neighbor(*samples(3, 3), chunk=0)


def test_bandwidth_may_be_traced():
    value = jax.jit(lambda h: metrics.gaussian_kernel(h)(jnp.zeros(2), jnp.ones(2)))(2.0)
    np.testing.assert_allclose(value, math.exp(-2 / 8), rtol=1e-6)
