"""Samples of unequal size and with weights, against a linear program; skewed, so order matters."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
import scipy.spatial

from fmjax import metrics
from tests import slow

wasserstein2 = jax.jit(metrics.wasserstein2)
SIZES = [(1, 4), (4, 1), (3, 5), (7, 6), (9, 12), (8, 8)]


def samples(n, m, seed=0):
    """Two skewed samples in the plane, and weights of which some are 0."""
    random = np.random.default_rng(seed)
    x, y = random.gamma(1.0, size=(n, 2)), 0.5 + random.gamma(2.0, size=(m, 2))
    a, b = random.gamma(0.5, size=n), random.gamma(0.5, size=m)
    a[1 : n // 3], b[2 : m // 2] = 0.0, 0.0
    return x, y, a, b


def by_linear_program(x, y, a, b):
    """The least cost over all plans with these sums, by SciPy."""
    n, m = len(a), len(b)
    sums = np.zeros((n + m, n, m))
    for i in range(n):
        sums[i, i] = 1.0
    for j in range(m):
        sums[n + j, :, j] = 1.0
    costs = scipy.spatial.distance.cdist(x, y, "sqeuclidean")
    wanted = np.concatenate([a / a.sum(), b / b.sum()])
    found = scipy.optimize.linprog(costs.ravel(), A_eq=sums.reshape(n + m, -1), b_eq=wanted)
    assert found.success
    return math.sqrt(found.fun)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("n", "m"), SIZES)
def test_weighted_samples_agree_with_a_linear_program(n, m, dtype, x64):
    x, y, a, b = (array.astype(dtype) for array in samples(n, m))
    rtol = 1e-5 if dtype == np.float32 else 1e-12
    value = wasserstein2(x, y, weights_x=a, weights_y=b)
    assert value.dtype == dtype
    np.testing.assert_allclose(value, by_linear_program(x, y, a, b), rtol=rtol)
    one_sided = wasserstein2(x, y, weights_y=b)
    np.testing.assert_allclose(one_sided, by_linear_program(x, y, np.ones(n), b), rtol=rtol)


@slow.but_the_first(("n", "m"), SIZES)
def test_unequal_sizes_agree_with_a_linear_program(n, m):
    x, y, *_ = samples(n, m, seed=1)
    wanted = by_linear_program(x, y, np.ones(n), np.ones(m))
    np.testing.assert_allclose(wasserstein2(x, y), wanted, rtol=1e-5)


@pytest.mark.slow
def test_larger_samples_of_coprime_sizes():
    x, y, *_ = samples(60, 91, seed=2)
    wanted = by_linear_program(x, y, np.ones(60), np.ones(91))
    np.testing.assert_allclose(wasserstein2(x, y), wanted, rtol=1e-5)


@pytest.mark.slow
def test_weights_are_repeated_points(x64):
    x, y, *_ = samples(4, 7)
    counts = np.array([1, 3, 2, 1])
    repeated = wasserstein2(np.repeat(x, counts, axis=0), y)
    np.testing.assert_allclose(wasserstein2(x, y, weights_x=counts), repeated, rtol=1e-12)
    equal = wasserstein2(x, y[:4], weights_x=np.full(4, 0.3), weights_y=np.ones(4))
    np.testing.assert_allclose(equal, wasserstein2(x, y[:4]), rtol=1e-12)


@pytest.mark.slow
def test_by_hand():
    # Half of the mass at 0, half at 1, to a third at each of 0, 1 and 2: 1/6 and 1/3 move by 1.
    x, y = jnp.array([[0.0], [1.0]]), jnp.array([[0.0], [1.0], [2.0]])
    np.testing.assert_allclose(wasserstein2(x, y), math.sqrt(1 / 2), rtol=1e-6)
    np.testing.assert_allclose(wasserstein2(y, x), math.sqrt(1 / 2), rtol=1e-6)


@pytest.mark.slow
def test_derivatives_are_those_of_the_best_plan(x64):
    x, y, a, b = samples(5, 7)
    given = {"weights_x": a + 0.1, "weights_y": b + 0.1}

    def value(x, weights):
        return metrics.wasserstein2(x, y, **weights)

    slopes = jax.jit(jax.grad(value, argnums=(0, 1)))(x, given)
    random, h = np.random.default_rng(3), 1e-6
    steps = jax.tree.map(lambda z: random.standard_normal(z.shape), (x, given))
    moved = [jax.tree.map(lambda z, d, s=s: z + s * h * d, (x, given), steps) for s in (1, -1)]
    difference = (value(*moved[0]) - value(*moved[1])) / (2 * h)
    along = sum(jax.tree.leaves(jax.tree.map(lambda g, d: jnp.sum(g * d), slopes, steps)))
    np.testing.assert_allclose(along, difference, rtol=1e-6)


@pytest.mark.slow
def test_under_vmap(x64):
    pairs = [samples(4, 6, seed) for seed in range(3)]
    batch = [jnp.stack(arrays) for arrays in zip(*pairs, strict=True)]
    found = jax.vmap(lambda x, y, a, b: wasserstein2(x, y, weights_x=a, weights_y=b))(*batch)
    np.testing.assert_allclose(found, [by_linear_program(*pair) for pair in pairs], rtol=1e-10)


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -1.0])
def test_what_is_no_number_or_no_weight_gives_nan(wrong):
    x, y, a, b = samples(3, 5)
    a[0] = wrong
    assert jnp.isnan(wasserstein2(x, y, weights_x=a, weights_y=b))
    if not np.isfinite(wrong):
        x[1, 0] = wrong
        assert jnp.isnan(wasserstein2(x, y))
    assert jnp.isnan(wasserstein2(x, y, weights_x=np.zeros(3)))


def test_weights_of_another_shape_are_refused():
    x, y, *_ = samples(3, 5)
    with pytest.raises(ValueError, match=r"weights_y must be one number .* 5 examples .*\(3,\)"):
        metrics.wasserstein2(x, y, weights_y=np.ones(3))
