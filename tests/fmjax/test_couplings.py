"""Couplings against brute force, SciPy's assignment and the law of a random permutation."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

from fmjax import couplings
from tests import slow

SHAPES = [(), (2,), (4, 4, 3)]
# The search is compiled once per shape here, rather than at every call.
minibatch_ot = jax.jit(couplings.minibatch_ot, static_argnames="cost")
COUPLINGS = {"independent": couplings.independent, "minibatch_ot": minibatch_ot}
both = pytest.mark.parametrize("coupling", COUPLINGS.values(), ids=COUPLINGS.keys())


def batches(n, dims=(2,), seed=0):
    """Noise, and data that are neither centered nor isotropic, with distinct rows."""
    key_noise, key_data = jax.random.split(jax.random.key(seed))
    x0 = jax.random.normal(key_noise, (n, *dims))
    return x0, 1.5 + jnp.exp(jax.random.normal(key_data, (n, *dims)))


def cost_matrix(x0, x1):
    """Squared distances by NumPy, in float64, of every row of x0 with every row of x1."""
    x0, x1 = (np.asarray(x, np.float64).reshape(len(x), -1) for x in (x0, x1))
    return ((x0[:, None] - x1[None]) ** 2).sum(-1)


def total_cost(x0, x1):
    return np.trace(cost_matrix(x0, x1))


def rows(x):
    """The rows as a sorted list, to compare them whatever their order."""
    return sorted(np.asarray(x).reshape(len(x), -1).tolist())


@both
@slow.but_the_first("dims", SHAPES, ids=str)
def test_x0_is_permuted_and_x1_untouched(coupling, dims, key):
    x0, x1 = batches(5, dims)
    y0, y1 = coupling(key, x0, x1)
    assert y0.dtype == y1.dtype == jnp.float32
    np.testing.assert_array_equal(y1, x1)
    assert rows(y0) == rows(x0)
    assert not np.array_equal(y0, x0)


@pytest.mark.slow
def test_independent_draws_every_permutation_equally_often():
    x = jnp.arange(3.0)
    keys = jax.random.split(jax.random.key(0), 6000)
    x0, _ = jax.vmap(lambda key: couplings.independent(key, x, x))(keys)
    _, counts = np.unique(np.asarray(x0), axis=0, return_counts=True)
    assert len(counts) == 6
    assert np.all(np.abs(counts - 1000) < 5 * np.sqrt(6000 * (1 / 6) * (5 / 6)))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("dims", SHAPES, ids=str)
def test_ot_is_the_best_of_all_permutations(dims, seed):
    x0, x1 = batches(5, dims, seed)
    costs = cost_matrix(x0, x1)
    best = min(costs[list(p), range(5)].sum() for p in itertools.permutations(range(5)))
    y0, y1 = minibatch_ot(jax.random.key(seed), x0, x1)
    np.testing.assert_allclose(total_cost(y0, y1), best, rtol=1e-6)


@pytest.mark.slow
def test_ot_agrees_with_scipy(key):
    x0, x1 = batches(60)
    costs = cost_matrix(x0, x1)
    best = costs[scipy.optimize.linear_sum_assignment(costs)].sum()
    y0, y1 = minibatch_ot(key, x0, x1)
    np.testing.assert_allclose(total_cost(y0, y1), best, rtol=1e-6)
    assert total_cost(y0, y1) < total_cost(*couplings.independent(key, x0, x1))


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_ot_pairs_row_by_row_with_scipy_in_float64(key):
    # Costs without ties have one optimal pairing.
    x0, x1 = batches(60, ())
    costs = cost_matrix(x0, x1)
    noise, data = scipy.optimize.linear_sum_assignment(costs)
    wanted = np.empty(60)
    wanted[data] = np.asarray(x0)[noise]
    y0, _ = minibatch_ot(key, x0, x1)
    assert y0.dtype == jnp.float64
    np.testing.assert_array_equal(y0, wanted)


@pytest.mark.slow
def test_ot_with_another_cost(key):
    def wrapped(a, b):  # distance on a circle of length one: the order on the line is not optimal
        distance = jnp.abs(a - b) % 1.0
        return jnp.minimum(distance, 1.0 - distance)

    x0, x1 = jax.random.uniform(key, (2, 20))
    gap = np.abs(np.asarray(x0)[:, None] - np.asarray(x1)[None]) % 1
    costs = np.minimum(gap, 1 - gap)
    best = costs[scipy.optimize.linear_sum_assignment(costs)].sum()
    y0, y1 = minibatch_ot(key, x0, x1, cost=wrapped)
    np.testing.assert_allclose(jax.vmap(wrapped)(y0, y1).sum(), best, rtol=1e-5)
    assert np.abs(np.sort(x0) - np.sort(x1)).sum() > 1.1 * best


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_ot_on_the_line_sorts(key):
    # For a convex cost of the difference the optimal pairing on the line is the monotone one.
    # (In float32 two data points 1e-4 apart are a tie up to rounding.)
    x0, x1 = batches(60, ())
    y0, y1 = minibatch_ot(key, x0, x1)
    order = jnp.argsort(y1)
    np.testing.assert_array_equal(y0[order], jnp.sort(x0))


@pytest.mark.slow
def test_ties_are_broken_at_random():
    # All data rows are equal, so every permutation is optimal and each must be as likely.
    x0, x1 = jnp.arange(3.0), jnp.ones(3)
    keys = jax.random.split(jax.random.key(0), 6000)
    y0, _ = jax.vmap(lambda key: couplings.minibatch_ot(key, x0, x1))(keys)
    _, counts = np.unique(np.asarray(y0), axis=0, return_counts=True)
    assert len(counts) == 6
    assert np.all(np.abs(counts - 1000) < 5 * np.sqrt(6000 * (1 / 6) * (5 / 6)))


@pytest.mark.slow
@pytest.mark.parametrize("repeats", [1, 2])
def test_either_of_two_good_pairings_is_as_likely(repeats):
    # Each corner of the square is as far from both of its neighbors, so that the pairs turn left or
    # right. Data far away, or the corners again, leave no other choice.
    x0, x1 = jnp.array([[1.0, 0], [0, 1], [-1, 0], [0, -1]]), jnp.array([[1.0, 1], [-1, 1]])
    x1 = jnp.concatenate([x1, -x1])
    other = jnp.array([[9.0, 9], [9, 8], [7, 9]]) if repeats == 1 else x0 + 50
    x0, x1 = jnp.concatenate([x0, other]), jnp.concatenate([x1, other + 0.25])
    keys = jax.random.split(jax.random.key(0), 2000)
    y0, _ = jax.jit(jax.vmap(lambda key: couplings.minibatch_ot(key, x0, x1)))(keys)
    pairings, counts = np.unique(np.asarray(y0), axis=0, return_counts=True)
    assert len(counts) == 2
    assert total_cost(pairings[0], x1) == total_cost(pairings[1], x1)
    assert abs(counts[0] - 1000) < 5 * np.sqrt(2000 / 4)


@pytest.mark.parametrize("kind", [np.asarray, np.int32])
def test_rows_of_numpy_and_whole_numbers(kind, key):
    # By brute force.
    x0, x1 = (kind(20 * np.asarray(x)) for x in batches(5))
    y0, y1 = couplings.minibatch_ot(key, x0, x1)
    costs = cost_matrix(x0, x1)
    best = min(costs[list(p), range(5)].sum() for p in itertools.permutations(range(5)))
    np.testing.assert_allclose(total_cost(y0, y1), best, rtol=1e-6)


@pytest.mark.slow
def test_noise_depends_on_data_only_under_ot(key):
    # The docstring's warning: x0 given x1 is no longer standard normal.
    x0, x1 = batches(60, ())
    pairings = couplings.independent(key, x0, x1), minibatch_ot(key, x0, x1)
    correlation = [np.corrcoef(*pairing)[0, 1] for pairing in pairings]
    assert abs(correlation[0]) < 5 / np.sqrt(60) < correlation[1]


@both
def test_jit_and_a_stack_of_minibatches(coupling):
    x0, x1 = (x.reshape(3, 5, 2) for x in batches(15))
    keys = jax.random.split(jax.random.key(1), 3)
    y0, y1 = jax.jit(jax.vmap(coupling))(keys, x0, x1)
    for i in range(3):
        np.testing.assert_array_equal(y0[i], coupling(keys[i], x0[i], x1[i])[0])
    np.testing.assert_array_equal(y1, x1)


@pytest.mark.slow
def test_derivative_follows_the_rows(key):
    # d/dx0 sum(y0 * weights) is the weight of the place that each row was moved to.
    x0, x1 = batches(5, ())
    weights = jnp.arange(5.0)
    y0, _ = minibatch_ot(key, x0, x1)
    place = jnp.argsort(y0)[jnp.argsort(jnp.argsort(x0))]
    gradient = jax.grad(lambda x: (minibatch_ot(key, x, x1)[0] * weights).sum())(x0)
    np.testing.assert_array_equal(gradient, weights[place])


@both
@pytest.mark.parametrize(
    ("shape0", "shape1"), [((4, 2), (5, 2)), ((4, 2), (4, 3)), ((4,), (4, 1)), ((), ())]
)
def test_unequal_batches_are_refused(coupling, shape0, shape1, key):
    with pytest.raises(ValueError, match="must have one shape") as error:
        coupling(key, jnp.zeros(shape0), jnp.zeros(shape1))
    assert str(shape0) in str(error.value)
    assert str(shape1) in str(error.value)


def test_cost_must_be_a_scalar(key):
    with pytest.raises(ValueError, match=r"scalar for one pair of examples, got shape \(2,\)"):
        couplings.minibatch_ot(key, *batches(3), cost=jnp.subtract)


@pytest.mark.slow
def test_squared_euclidean_sums_all_entries():
    a, b = jax.random.normal(jax.random.key(0), (2, 4, 4, 3))
    wanted = np.linalg.norm(np.ravel(np.subtract(a, b))) ** 2
    np.testing.assert_allclose(couplings.squared_euclidean(a, b), wanted, rtol=1e-6)
    twice = partial(couplings.squared_euclidean, jnp.float32(3.0))
    assert jax.grad(twice)(1.0) == -4.0  # by hand: 2 (1 - 3)


# Labels for guidance.


@pytest.mark.parametrize("probability", [0.1, 0.7])
def test_labels_are_dropped_as_often_as_asked_and_independently(probability):
    n = 20_000
    labels = jnp.arange(n) % 10
    drop = jax.jit(lambda key, p: couplings.drop_context(key, labels, 10, probability=p))
    kept = np.asarray(drop(jax.random.key(3), probability))
    dropped = kept == 10
    np.testing.assert_array_equal(kept[~dropped], np.asarray(labels)[~dropped])
    error = np.sqrt(probability * (1 - probability) / n)
    assert abs(dropped.mean() - probability) < 5 * error
    for label in range(10):  # no class is dropped more often than another
        share = dropped[np.asarray(labels) == label].mean()
        assert abs(share - probability) < 5 * error * np.sqrt(10)
    neighbors = np.corrcoef(dropped[:-1], dropped[1:])[0, 1]
    assert abs(neighbors) < 5 / np.sqrt(n)
    again = drop(jax.random.key(4), probability)
    assert (np.asarray(again) != kept).any()


@pytest.mark.slow
def test_a_vector_is_dropped_as_a_whole(x64):
    context = jnp.asarray(batches(400, (2, 3))[1], jnp.float32)
    null = np.array([[0.0, -1.0, 2.0], [3.0, 0.5, 0.0]])
    kept = couplings.drop_context(jax.random.key(0), context, null, probability=0.5)
    assert kept.dtype == jnp.float32
    changed = np.asarray(kept != context)
    dropped = changed.all((1, 2))
    np.testing.assert_array_equal(changed.any((1, 2)), dropped)
    assert 100 < dropped.sum() < 300
    np.testing.assert_array_equal(kept[dropped], np.broadcast_to(null, (dropped.sum(), 2, 3)))


@pytest.mark.slow
def test_all_none_and_one_example():
    labels = jnp.array([3, 1, 4], jnp.uint8)
    for probability, expected in ((0, [3, 1, 4]), (1.0, [10, 10, 10])):
        kept = couplings.drop_context(jax.random.key(0), labels, 10, probability=probability)
        assert kept.dtype == jnp.uint8
        np.testing.assert_array_equal(kept, expected)
    keys = jax.random.split(jax.random.key(0), 5000)
    one = jax.vmap(lambda key: couplings.drop_context(key, 2, 10, probability=0.3))(keys)
    assert abs(float((one == 10).mean()) - 0.3) < 5 * np.sqrt(0.21 / 5000)


@pytest.mark.parametrize(
    ("context", "null", "options", "message"),
    [
        (jnp.zeros((4, 3)), 10, {"probability": 1.5}, r"lie in \[0, 1\], got 1.5"),
        (jnp.zeros((4, 3)), 10, {"probability": np.nan}, r"lie in \[0, 1\], got nan"),
        (jnp.zeros((4, 3)), jnp.zeros(2), {}, r"got null \(2,\) and context \(4, 3\)"),
        (jnp.array(1), jnp.zeros(2, int), {}, r"got null \(2,\) and context \(\)"),
        (jnp.zeros(4, int), 10.0, {}, "among contexts of int32, got 10.0"),
        (jnp.zeros(4, int), None, {}, "among contexts of int32, got None"),
        (jnp.zeros(4), "cat", {}, "among contexts of float32, got cat"),
        (jnp.zeros(4, jnp.uint8), 256, {}, "among contexts of uint8, got 256"),
        (jnp.zeros(4, jnp.uint8), jnp.array(3), {}, "among contexts of uint8, got 3 of int32"),
    ],
)
def test_a_null_without_a_place_is_named(context, null, options, message):
    with pytest.raises(ValueError, match=message):
        couplings.drop_context(jax.random.key(0), context, null, **options)


@pytest.mark.slow
def test_pairs_of_rows_far_from_the_origin_are_as_good(key):
    # Columns with offsets of their own, in float32; the best pairing does not depend on them.
    rng = np.random.default_rng(4)
    offset = np.array([1e5, 0.0, -3e4, 7.0])
    x0, x1 = rng.normal(size=(40, 4)) + offset, rng.gamma(2.0, size=(40, 4)) + offset[::-1]
    x0, x1 = np.float32(x0), np.float32(x1)
    y0, y1 = couplings.minibatch_ot(key, x0, x1)
    centered = [np.float64(x) - np.float64(x).mean(0) for x in (x0, x1, y0, y1)]
    rows, columns = scipy.optimize.linear_sum_assignment(-centered[0] @ centered[1].T)
    best = np.sum(centered[0][rows] * centered[1][columns])
    assert np.sum(centered[2] * centered[3]) > best * (1 - 1e-5)
