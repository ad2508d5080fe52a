"""Assignments of least cost against SciPy, and the rounding of their potentials."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

from fmjax import _assignment

OPTIMIZED = True  # the last digits are what users see
best_rows = jax.jit(_assignment.best_rows)
N = 48


def squares(a, b):
    return ((a[:, None] - b[None]) ** 2).sum(-1)


def make_costs():
    """Costs by name, in float64; the data are skewed, repeated, or far from the noise."""
    rng = np.random.default_rng(0)
    noise, data = rng.normal(size=(2, N, 2))
    uniform, steps = rng.random((N, N)), np.arange(1.0, N + 1)
    few = data[rng.integers(0, 5, N)]
    lattice = rng.integers(0, 6, (2, N, 2)).astype(float)
    outlier = data + 1e5 * (np.arange(N) == 3)[:, None]
    labels = rng.integers(0, 2, N)
    others = labels[:, None] != rng.permutation(labels)[None]
    rare = rng.permutation(N)[:, None] % 8 != rng.permutation(N)[None] % 8
    return {
        "lognormal": squares(noise, np.exp(1.5 * data)),
        "Cauchy": squares(noise, rng.standard_cauchy((N, 2))),
        "outlier": squares(noise, outlier),
        "far": squares(noise, data + 300),
        "the same points": squares(noise, rng.permutation(noise)),
        "repeated data": squares(noise, few),
        "repeated both": squares(few, rng.permutation(few)),
        "lattice": squares(*lattice),
        "distances on the line": abs(noise[:, 0, None] - 2 * data[None, :, 0]),
        "concave": abs(noise[:, 0, None] - 2 * data[None, :, 0]) ** 0.5,
        "uniform": uniform,
        "normal": rng.normal(size=(N, N)),
        "negative": -squares(noise, data),
        "far below zero": uniform - 1000,
        "whole numbers": rng.integers(-50, 50, (N, N)).astype(float),
        "zeros and ones": (uniform < 0.1).astype(float),
        "all zero": np.zeros((N, N)),
        "all equal": np.full((N, N), 5.3),
        "products": np.outer(steps, steps),
        "rows of many scales": np.exp(5 * rng.normal(size=(N, 1))) * uniform,
        "many scales": np.exp(6 * rng.normal(size=(N, N))),
        "tiny": 1e-30 * squares(noise, np.exp(data)),
        "huge": 1e30 * squares(noise, np.exp(data)),
        "penalties": np.where(others, 1e30, uniform),
        "many penalties": np.where(rare, 1e30, uniform),
        "forbidden": np.where(others, np.inf, uniform),
        "many forbidden": np.where(rare, np.inf, uniform),
    }


COSTS = make_costs()
every_kind = pytest.mark.parametrize("name", COSTS)


def excess(rows, costs):
    """Cost of the pairs beyond SciPy's, in units of the sum of the absolute costs of its pairs."""
    costs = np.asarray(costs, np.float64)
    np.testing.assert_array_equal(np.sort(rows), np.arange(len(costs)))
    best = costs[scipy.optimize.linear_sum_assignment(costs)]
    ours = costs[rows, np.arange(len(costs))]
    return abs(ours.sum() - best.sum()) / max(abs(best).sum(), np.finfo(float).tiny)


@every_kind
def test_as_good_as_scipy_in_float32(name):
    costs = jnp.asarray(COSTS[name], jnp.float32)
    assert excess(best_rows(costs), costs) < 1e-6


@every_kind
def test_as_good_as_scipy_in_float64(name, x64):
    costs = jnp.asarray(COSTS[name])
    assert costs.dtype == jnp.float64
    assert excess(best_rows(costs), costs) < 1e-12


@pytest.mark.slow
@pytest.mark.parametrize("name", ["plane", "contrast"])
def test_as_good_as_scipy_for_a_large_batch(name):
    rng = np.random.default_rng(1)
    if name == "plane":
        costs = squares(rng.normal(size=(300, 2)), np.exp(rng.normal(size=(300, 2))))
    else:  # images of different contrast: half of the difference is what no pairing changes
        images = rng.normal(size=(300, 200)) * rng.random((300, 1))
        costs = squares(rng.normal(size=(300, 200)), images)
    costs = jnp.asarray(costs, jnp.float32)
    assert excess(best_rows(costs), costs) < 1e-7


@pytest.mark.parametrize("n", [0, 1, 2, 3])
def test_few_rows(n):
    costs = jax.random.normal(jax.random.key(n), (n, n))
    assert excess(_assignment.best_rows(costs), costs) < 1e-6


@every_kind
def test_reduced_costs_are_rounded_once_and_small(name):
    # The reason for exactness, eq. (1) and the text below it, in float64.
    costs = jnp.asarray(COSTS[name], jnp.float32)
    f, g = map(np.asarray, jax.jit(_assignment.potentials)(costs))
    assert np.isfinite(f).all()
    assert np.isfinite(g).all()
    sums = f[:, None].astype(np.float64) + g[None]
    np.testing.assert_array_equal(f[:, None] + g[None], sums)
    allowed = np.isfinite(costs)
    exact = (np.asarray(costs, np.float64) - sums)[allowed]
    given = (np.asarray(costs) - (f[:, None] + g[None]))[allowed]
    assert np.all(abs(given - exact) <= 2**-24 * abs(exact))
    # Over the best pairs R is no more than the costs above the least of their row, so that its
    # rounding is not, either; without potentials nothing is rounded.
    pairs = scipy.optimize.linear_sum_assignment(np.asarray(costs, np.float64))
    cost, least = np.asarray(costs, np.float64)[pairs], np.min(costs, axis=1)
    reduced = abs(cost - sums[pairs]).sum()
    assert not np.any(sums) or reduced <= (cost - least).sum() + 1e-3 * abs(cost).sum()


@pytest.mark.parametrize("name", ["lattice", "whole numbers", "products"])
def test_whole_numbers_keep_their_ties(name):
    costs = jnp.asarray(COSTS[name], jnp.float32)
    f, g = map(np.asarray, jax.jit(_assignment.potentials)(costs))
    assert np.any(f)  # or nothing is tested
    exact = np.asarray(costs, np.float64) - f[:, None] - g[None]
    np.testing.assert_array_equal(np.asarray(costs) - (f[:, None] + g[None]), exact)


def test_potentials_leave_few_rows_to_search_for():
    # Without potentials most rows share their nearest column with others.
    costs = jnp.asarray(COSTS["lognormal"], jnp.float32)
    f, g = jax.jit(_assignment.potentials)(costs)
    taken = [
        len(set(np.argmin(c, axis=1).tolist())) for c in (costs, costs - (f[:, None] + g[None]))
    ]
    assert taken[0] < N / 2
    assert taken[1] > 2 * N / 3


@pytest.mark.parametrize("place", ["everywhere", "row", "column", "half", "one"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3e38, -3e38, 1e-45])
def test_costs_out_of_range_give_some_permutation(value, place):
    i, j = np.indices((9, 9))
    chosen = {"everywhere": i >= 0, "row": i == 4, "column": j == 4, "half": (i * j) % 3 > 0}
    costs = np.asarray(COSTS["uniform"][:9, :9], np.float32)
    costs = np.where(chosen.get(place, (i == 0) & (j == 7)), np.float32(value), costs)
    np.testing.assert_array_equal(np.sort(best_rows(costs)), np.arange(9))


def test_nan_forbids_a_pair_as_inf_does():
    costs = np.asarray(COSTS["many forbidden"], np.float32)
    hidden = np.where(np.isinf(costs), np.nan, costs)
    np.testing.assert_array_equal(best_rows(hidden), best_rows(costs))


@pytest.mark.slow
def test_a_stack_in_which_some_are_done_earlier():
    names = ["the same points", "lognormal", "all zero", "forbidden", "many scales"]
    stack = jnp.stack([jnp.asarray(COSTS[name], jnp.float32) for name in names])
    stack = stack.at[2, 0, 0].set(jnp.nan)
    together = jax.jit(jax.vmap(_assignment.best_rows))(stack)
    for rows, costs in zip(together, stack, strict=True):
        costs = jnp.nan_to_num(costs, nan=jnp.inf, posinf=jnp.inf)
        assert excess(rows, costs) < 1e-6
