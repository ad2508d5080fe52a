"""Which generated samples repeat a training sample: scikit-learn, by hand, and a known share."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.spatial
from sklearn.neighbors import NearestNeighbors

from fmjax import metrics
from tests import slow

OPTIMIZED = True  # copies are found by the last digits

distance_ratio = jax.jit(metrics.distance_ratio, static_argnames="chunk")


def samples(n, m, dims=(2,)):
    """Generated samples and a skewed training set; every third one lies near a row of it."""
    key_x, key_y = jax.random.split(jax.random.key(0))
    train = jnp.exp(0.7 * jax.random.normal(key_y, (m, *dims)))
    x = 1.0 + jax.random.normal(key_x, (n, *dims))
    return x.at[::3].set(train[: len(x[::3])] + 1e-3 * x[::3]), train


def flat(x):
    return np.asarray(x, np.float64).reshape(len(x), -1)


@pytest.mark.slow
@slow.but_the_first("dims", [(), (2, 3)], ids=str)
@slow.but_the_first("chunk", [7, 256])
def test_distance_ratio_agrees_with_all_distances(dims, chunk):
    x, train = samples(30, 80, dims)

    def both(threshold):
        share = metrics.memorization_ratio(x, train, threshold=threshold, chunk=chunk)
        return metrics.distance_ratio(x, train, chunk=chunk), share

    value, share = jax.jit(both)(0.8)  # a traced threshold
    assert value.dtype == share.dtype == jnp.float32
    distances = np.sort(scipy.spatial.distance.cdist(flat(x), flat(train)), axis=1)
    wanted = distances[:, 0] / distances[:, 1]
    np.testing.assert_allclose(value, wanted, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(share, np.mean(wanted < 0.8), rtol=1e-6)
    assert 0.3 < share < 0.9


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_distance_ratio_agrees_with_scikit_learn():
    x, train = (flat(z) for z in samples(60, 400, (5,)))
    distances, _ = NearestNeighbors(n_neighbors=2).fit(train).kneighbors(x)
    np.testing.assert_allclose(
        distance_ratio(x, train), distances[:, 0] / distances[:, 1], rtol=1e-12
    )


@pytest.mark.slow
def test_the_share_of_a_uniform_law_between_the_points_of_a_grid():
    # A sample at u < 1/2 from its nearest point has ratio u / (1 - u), below 1/3 for u < 1/4:
    # a half of them. Below s for u < s / (1 + s).
    x = jax.random.uniform(jax.random.key(0), (4000,), minval=5.0, maxval=95.0)
    ratios = distance_ratio(x, jnp.arange(101.0))
    for threshold in (1 / 3, 0.1):
        share = np.mean(ratios < threshold)
        wanted = 2 * threshold / (1 + threshold)
        assert abs(share - wanted) < 5 * np.sqrt(wanted * (1 - wanted) / 4000)


@pytest.mark.slow
def test_a_ratio_equal_to_the_threshold_is_not_memorized():
    # By hand: 1 over 4 against a threshold of a quarter, and a little more than it.
    x, train = jnp.array([[1.0, 0.0]]), jnp.array([[0.0, 0.0], [5.0, 0.0]])
    assert metrics.memorization_ratio(x, train, threshold=0.25) == 0.0
    assert metrics.memorization_ratio(x, train, threshold=0.251) == 1.0


@pytest.mark.parametrize("copies", [1, 2, 17])
def test_repeated_training_samples_count_once(copies):
    # By hand, far from the origin, where a matrix product is off by a unit. A copy has ratio 0;
    # one unit beside it the next row that differs is 63 away.
    points = 4000.0 + 64.0 * jnp.arange(40.0)[:, None]
    train = jnp.concatenate([points, jnp.repeat(points[3:4], copies - 1, 0)])
    x = points[3:4] + jnp.array([[0.0], [1.0], [32.0]])
    np.testing.assert_allclose(
        distance_ratio(x, train)[:, None], [[0.0], [1 / 63], [1.0]], rtol=1e-6
    )


def test_a_training_set_of_copies_has_no_second_sample():
    x, train = jnp.array([[1.0, 2.0], [1.0, 2.5]]), jnp.tile(jnp.array([[1.0, 2.0]]), (5, 1))
    assert distance_ratio(x, train).tolist() == [0.0, 1.0]


@pytest.mark.slow
def test_wrong_arguments_are_refused():
    x, train = samples(3, 4)
    for function in (metrics.distance_ratio, metrics.memorization_ratio):
        with pytest.raises(ValueError, match=r"must be \[n, \*dims\].*\(3, 2\) and \(4, 1\)"):
            function(x, train[:, :1])
        with pytest.raises(ValueError, match="must be floating, got uint8"):
            function(x, train.astype(jnp.uint8))
        with pytest.raises(ValueError, match=r"a second row, got \(1, 2\)"):
            function(x, train[:1])
        with pytest.raises(ValueError, match="chunk must be at least 1, got 0"):
            function(x, train, chunk=0)
    for threshold in (0.0, 1.5):
        with pytest.raises(ValueError, match=r"threshold must lie in \(0, 1\], got"):
            metrics.memorization_ratio(x, train, threshold=threshold)


@pytest.mark.slow
def test_a_nan_is_not_taken_for_something_new():
    train = jnp.array([[0.0], [4.0], [8.0]])
    for generated, data in (
        (jnp.array([[jnp.nan], [4.0]]), train),
        (jnp.array([[1.0], [4.0]]), train.at[2].set(jnp.nan)),
    ):
        assert np.isnan(float(metrics.memorization_ratio(generated, data)))
