"""Precision, recall, density and coverage: explicit pairs, scikit-learn and known answers."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors

from fmjax import metrics
from tests import slow

OPTIMIZED = True  # ties are decided by the last digits

prdc = jax.jit(metrics.prdc, static_argnames=("neighbors", "chunk"))


def samples(n, m, dims=(2,), seed=0):
    """Real samples with a long tail, and generated ones that are shifted and narrower."""
    key_x, key_y = jax.random.split(jax.random.key(seed))
    real = jnp.exp(0.7 * jax.random.normal(key_x, (n, *dims)))
    return real, 1.0 + 0.5 * jax.random.normal(key_y, (m, *dims))


def flat(x, dtype=np.float64):
    return np.asarray(x, dtype).reshape(len(x), -1)


def by_pairs(real, generated, k, dtype=np.float64):
    """The definitions, one pair at a time, with squared distances."""
    real, generated = flat(real, dtype), flat(generated, dtype)
    square = lambda a, b: ((a - b) ** 2).sum()
    reach = lambda x: [
        sorted(square(a, b) for j, b in enumerate(x) if j != i)[k - 1] for i, a in enumerate(x)
    ]
    holds_real = np.array(
        [[square(a, g) <= r for g in generated] for a, r in zip(real, reach(real), strict=True)]
    )
    holds_generated = np.array(
        [
            [square(g, a) <= r for a in real]
            for g, r in zip(generated, reach(generated), strict=True)
        ]
    )
    return metrics.PRDC(
        precision=holds_real.any(0).mean(),
        recall=holds_generated.any(0).mean(),
        density=holds_real.sum() / (k * len(generated)),
        coverage=holds_real.any(1).mean(),
    )


@slow.but_the_first("dims", [(), (2, 3)], ids=str)
@slow.but_the_first("k", [1, 3])
def test_prdc_agrees_with_explicit_pairs(dims, k):
    real, generated = samples(60, 45, dims)
    value = prdc(real, generated, neighbors=k)
    assert all(v.dtype == jnp.float32 for v in value)
    wanted = by_pairs(real, generated, k)
    assert 0.1 < min(wanted)
    np.testing.assert_allclose(value, wanted, rtol=1e-6)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_prdc_agrees_with_scikit_learn():
    real, generated = (np.asarray(z, np.float64) for z in samples(300, 200, (4,)))
    trees = [NearestNeighbors(n_neighbors=5).fit(z) for z in (real, generated)]
    radii = [tree.kneighbors()[0][:, -1] for tree in trees]  # of the others: it leaves out itself
    order = trees[0].kneighbors(generated, n_neighbors=300)
    balls = (order[0] <= radii[0][order[1]]).sum(1)
    order = trees[1].kneighbors(real, n_neighbors=200)
    wanted = (
        (balls > 0).mean(),
        (order[0] <= radii[1][order[1]]).any(1).mean(),
        balls.mean() / 5,
        (order[0][:, 0] <= radii[0]).mean(),
    )
    np.testing.assert_allclose(prdc(real, generated), wanted, rtol=1e-12)


@pytest.mark.slow
def test_prdc_is_the_same_for_every_chunk():
    real, generated = samples(60, 45, (2, 3))
    whole = prdc(real, generated, neighbors=3)
    assert prdc(real, generated, neighbors=3, chunk=7) == whole


@pytest.mark.slow
def test_prdc_of_equal_sets():
    # Closed balls hold their center and k others, all of which are copied: (k + 1) / k.
    real, _ = samples(200, 1, (50,))
    value = prdc(real, real[::-1])
    np.testing.assert_allclose(value, (1.0, 1.0, 6 / 5, 1.0), rtol=1e-6)


@pytest.mark.slow
def test_prdc_of_sets_far_apart():
    real, generated = samples(30, 20)
    assert prdc(real, generated + 100.0) == (0.0, 0.0, 0.0, 0.0)


@pytest.mark.slow
def test_a_dropped_mode_lowers_recall_and_coverage_only():
    real, generated = jax.random.normal(jax.random.key(0), (2, 400, 2))
    both = real.at[:100].add(50.0)
    dropped = prdc(both, generated)
    # By hand: the 100 real samples of the other mode are out of reach, nearly all others within.
    assert dropped.precision > 0.95
    assert 0.9 < dropped.density < 1.1
    assert 0.7 < dropped.recall <= 0.75
    assert 0.7 < dropped.coverage <= 0.75
    invented = prdc(generated, both)
    assert invented.recall > 0.95
    assert invented.coverage > 0.9
    assert 0.7 < invented.precision <= 0.75
    assert 0.65 < invented.density < 0.85


@pytest.mark.slow
def test_a_copy_of_a_repeated_sample_is_in_its_ball():
    # By hand. Every real sample is there six times, so that its ball with k = 5 is a point, and
    # far from the origin, where a matrix product is off by a unit. Of the generated samples 24 are
    # copies of four of the eight, and six miss the fifth by a little.
    points, _ = samples(8, 1)
    points = 3000.0 + 10.0 * points
    generated = jnp.concatenate(
        [jnp.repeat(points[:4], 6, 0), jnp.repeat(points[4:5] + 0.01, 6, 0)]
    )
    value = prdc(jnp.repeat(points, 6, 0), generated)
    np.testing.assert_allclose(value, (24 / 30, 1 / 2, 24 * 6 / (5 * 30), 1 / 2), rtol=1e-6)


@pytest.mark.slow
def test_ties_of_integer_features_are_inside():
    # Binary images have few different distances; in integers no tie is lost to rounding.
    real, generated = (np.asarray(z > 1.0, np.float32) for z in samples(80, 60, (4, 4)))
    wanted = by_pairs(real, generated, 3, np.int64)
    np.testing.assert_allclose(prdc(real, generated, neighbors=3), wanted, rtol=1e-6)


@pytest.mark.slow
def test_surfaces_far_from_the_origin_are_decided_by_differences():
    # In float32 the squares near 500^2 are rounded by 0.03; many squared radii are no larger.
    real, generated = (z + 500.0 for z in samples(40, 40))
    wanted = by_pairs(real, generated, 3)
    np.testing.assert_allclose(prdc(real, generated, neighbors=3), wanted, rtol=1e-6)


@pytest.mark.slow
def test_density_and_coverage_of_equal_laws_have_known_means():
    # By the symmetry of the distances from a real sample to all others, real or generated.
    n, m, k = 20, 30, 3
    real, generated = (
        jnp.exp(z)
        for z in (jax.random.normal(jax.random.key(i), (1500, s, 2)) for i, s in ((0, n), (1, m)))
    )
    value = jax.jit(jax.vmap(partial(metrics.prdc, neighbors=k)))(real, generated)
    missed = math.prod((n - 1 - j) / (n + m - 1 - j) for j in range(k))
    for values, wanted in ((value.density, 1.0), (value.coverage, 1.0 - missed)):
        values = np.asarray(values, np.float64)
        assert abs(values.mean() - wanted) < 5 * values.std() / math.sqrt(1500)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_float32_stays_float32_where_float64_is_on():
    real, generated = (np.asarray(z, np.float32) for z in samples(9, 8))
    assert all(v.dtype == jnp.float32 for v in jax.eval_shape(metrics.prdc, real, generated))


@pytest.mark.parametrize(("n", "m"), [(5, 9), (9, 5)])
def test_a_set_without_enough_neighbors_is_refused(n, m):
    with pytest.raises(ValueError, match=rf"6 rows or more, got \({n}, 2\) and \({m}, 2\)"):
        metrics.prdc(jnp.ones((n, 2)), jnp.ones((m, 2)))


def test_wrong_arguments_are_refused():
    real, generated = samples(9, 8)
    with pytest.raises(ValueError, match=r"must be \[n, \*dims\].*\(9, 2\) and \(8, 1\)"):
        metrics.prdc(real, generated[:, :1])
    with pytest.raises(ValueError, match="must be floating, got uint8"):
        metrics.prdc(real, generated.astype(jnp.uint8))
    with pytest.raises(ValueError, match="neighbors must be at least 1, got 0"):
        metrics.prdc(real, generated, neighbors=0)
    with pytest.raises(ValueError, match="chunk must be at least 1, got 0"):
        metrics.prdc(real, generated, chunk=0)


@pytest.mark.slow
@pytest.mark.parametrize("place", [0, 1])
def test_a_sample_that_is_not_finite_is_not_counted(place):
    both = list(jax.random.normal(jax.random.key(0), (2, 12, 2)))
    both[place] = both[place].at[3, 1].set(jnp.nan)
    assert all(jnp.isnan(value) for value in metrics.prdc(*both, neighbors=3))
