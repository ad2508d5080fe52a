"""What holds for every function that takes a batch, over sizes, values and keys that are drawn.

1. Any number of rows, none and one among them, gives finite numbers, or a ValueError that says what
   is missing. `jit` gives the same.
2. A NaN in a row is seen in all numbers that another row in its place would change, and no other
   number is changed by it.
3. How many rows are taken at a time changes nothing, whether their number divides or not.

In float64, as in `tests.contract.test_properties`.
"""

import functools

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st
from scipy import optimize

from fmjax import couplings, empirical, losses, metrics, path_error, paths, times
from tests.contract.test_contract import BATCH, HEAVY, _log_density, _numbers
from tests.contract.test_contract import _field as field
from tests.contract.test_properties import SCALES, _quick

# Two programs round differently; a mean of n terms that cancel has the rounding of the terms.
RELATIVE, TERMS = 1e-10, 1e-12
# NaN, or infinite, by definition, as their docstrings say, where all numbers of a row are equal.
OF_CONSTANTS = {"metrics.pearson", "metrics.spearman", "metrics.calibration"}
# They read neither x nor y but as sizes.
WITHOUT_ROWS = {"losses.draw_bank", *(name for name in BATCH if name.startswith("times."))}
WITH_ROWS = [name for name in BATCH if name not in WITHOUT_ROWS]
LIGHT = [name for name in BATCH if not HEAVY.search(name) and not name.startswith("path_error.")]

# Few sizes, of which every one is compiled.
batches = st.tuples(
    st.integers(0, 2**32 - 1),
    st.sampled_from([0, 1, 2, 5, 8]),
    st.sampled_from([1, 3]),
    st.sampled_from(SCALES),
    st.sampled_from(SCALES),
)
seeds = st.integers(0, 2**32 - 1)


@functools.cache
def _program(name):
    return jax.jit(BATCH[name])


def _drawn(seed, rows, width, scale_x=1.0, scale_y=1.0):
    """Returns a key and two samples, of which the second is positive."""
    draw = np.random.default_rng(seed)
    x, y = draw.normal(size=(rows, width)), draw.gamma(1.5, size=(rows, width))
    return jax.random.key(seed), jnp.asarray(scale_x * x), jnp.asarray(scale_y * y)


def _unit(name, x, y):
    """Returns the size of the terms that a result is a difference of."""
    largest = lambda z: float(jnp.max(jnp.abs(z), initial=0.0))
    if name in {"metrics.frechet", "losses.probe_every"}:
        return largest(x) + (largest(x) + largest(y)) ** 2
    if name == "metrics.calibration":  # the error of a mean of U that is nearly zero
        mean = abs(float(jnp.mean(x[:, 0])))
        return (1 + largest(y) / mean) * (1 + largest(x) / mean) ** 2
    return 1.0


def _of(name, arguments, result):
    """Returns what two programs must agree on: of equally good couplings they may choose two."""
    if name != "couplings.minibatch_ot":
        return _numbers(result)
    x0, x1 = result
    return [np.sort(x0, axis=0), jnp.sum((x0 - x1) ** 2), x1]


def _holds(name, batch):
    """Asserts the first property of one batch."""
    arguments = _drawn(*batch)
    try:
        plain = BATCH[name](*arguments)
    except ValueError as error:
        assert len(str(error)) < 400  # noqa: PT017
        assert "got" in str(error)  # noqa: PT017
        return
    constant = name in OF_CONSTANTS and any(float(jnp.ptp(z[:, 0])) == 0.0 for z in arguments[1:])
    for a in _numbers(plain):
        assert constant or np.isfinite(a).all()
    if constant:
        return
    unit = _unit(name, *arguments[1:])
    jitted = _program(name)(*arguments)
    for a, b in zip(_of(name, arguments, plain), _of(name, arguments, jitted), strict=True):
        size = np.max(np.abs(b), initial=0.0)
        np.testing.assert_allclose(a, b, rtol=RELATIVE, atol=RELATIVE * size + TERMS * unit)


@pytest.mark.parametrize("name", LIGHT[::4])
@_quick(2)
@hypothesis.given(batch=batches)
def test_a_batch_of_any_size_is_computed_or_refused(name, batch):
    with jax.enable_x64(True):
        _holds(name, batch)


@pytest.mark.slow
@pytest.mark.parametrize("name", BATCH)
@_quick(12)
@hypothesis.given(batch=batches)
def test_every_batch_of_any_size_is_computed_or_refused(name, batch):
    with jax.enable_x64(True):
        _holds(name, batch)


def _row(array, i, change):
    return array.at[i].set(change(array[i]))


@pytest.mark.slow
@pytest.mark.parametrize("which", ["x", "y"])
# A coupling at the least cost is another one where a cost is another; a test of its own is below.
@pytest.mark.parametrize("name", [name for name in WITH_ROWS if name != "couplings.minibatch_ot"])
@_quick(4)
@hypothesis.given(seed=seeds, i=st.integers(0, 5))
def test_a_nan_is_seen_in_what_its_row_decides_and_nowhere_else(name, which, seed, i):
    with jax.enable_x64(True):
        key, *samples = _drawn(seed, 6, 3)
        place = "xy".index(which)

        def ask(change):
            changed = [_row(z, i, change) if k == place else z for k, z in enumerate(samples)]
            return [np.asarray(a) for a in _numbers(_program(name)(key, *changed))]

        clean, other, broken = ask(lambda z: z), ask(lambda z: 2 * z + 1), ask(lambda z: z * np.nan)
        for one, two, three in zip(clean, other, broken, strict=True):
            lost = np.isnan(three)
            assert lost[~np.isclose(one, two, rtol=1e-12, atol=1e-12)].all()
            np.testing.assert_allclose(three[~lost], one[~lost], rtol=RELATIVE, atol=TERMS)


@pytest.mark.slow
@_quick(6)
@hypothesis.given(seed=seeds, rows=st.sampled_from([1, 2, 5]), broken=st.booleans())
@hypothesis.example(seed=0, rows=5, broken=False)
@hypothesis.example(seed=0, rows=5, broken=True)
def test_a_coupling_at_the_least_cost_keeps_every_row(seed, rows, broken):
    with jax.enable_x64(True):
        key, x, y = _drawn(seed, rows, 3)
        costs = np.sum((np.asarray(x)[:, None] - np.asarray(y)[None]) ** 2, axis=-1)
        if broken:
            x = _row(x, -1, lambda z: z * np.nan)
        paired, same = jax.jit(couplings.minibatch_ot)(key, x, y)
        np.testing.assert_array_equal(same, y)
        np.testing.assert_array_equal(np.sort(paired, axis=0), np.sort(x, axis=0))
        if not broken:
            least = costs[optimize.linear_sum_assignment(costs)].sum()
            np.testing.assert_allclose(np.sum((paired - y) ** 2), least, rtol=RELATIVE)


# With the number of rows that are taken at a time.
PARTS = {
    "empirical.prepare": lambda x, y, size: empirical.prepare(x, chunk_size=size),
    "metrics.nearest_neighbor": lambda x, y, size: metrics.nearest_neighbor(x, y, chunk=size),
    "metrics.distance_ratio": lambda x, y, size: metrics.distance_ratio(x, y, chunk=size),
    "metrics.memorization_ratio": lambda x, y, size: metrics.memorization_ratio(x, y, chunk=size),
    "metrics.prdc": lambda x, y, size: metrics.prdc(x, y, neighbors=2, chunk=size),
    "path_error.bound": lambda x, y, size: path_error.bound(
        _log_density, field, x, 0.1, jnp.array([0.2, 0.8]), num_nodes=2, batch_size=size
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", PARTS)
@_quick(3)
@hypothesis.given(seed=seeds, size=st.integers(1, 8))
@hypothesis.example(seed=0, size=3)
def test_parts_that_do_not_divide_the_batch_change_nothing(name, seed, size):
    with jax.enable_x64(True):
        _, x, y = _drawn(seed, 7, 3)
        whole, parts = PARTS[name](x, y, 7), PARTS[name](x, y, size)
        for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(parts), strict=True):
            np.testing.assert_allclose(a, b, rtol=RELATIVE, atol=TERMS)


@_quick(4)
@hypothesis.given(seed=seeds, rows=st.sampled_from([1, 5, 8]), every=st.integers(1, 8))
@hypothesis.example(seed=0, rows=5, every=3)
def test_every_kth_row_of_any_batch_is_probed(seed, rows, every):
    with jax.enable_x64(True):
        _, x, y = (np.asarray(z) if k else z for k, z in enumerate(_drawn(seed, rows, 3)))
        loss = lambda weight, x, y: jnp.sum(y**2) + weight * jnp.sum(x)
        if every > rows:
            with pytest.raises(ValueError, match="1 <= every <= n"):
                losses.probe_every(every, loss, 0.5, x, y)
            return
        found = losses.probe_every(every, loss, 0.5, x, y)
        chosen = x[::every].sum(axis=1)  # of n rows, which stand for all of them
        wanted = np.mean(np.sum(y**2, axis=1)) + 0.5 * np.mean(chosen)
        np.testing.assert_allclose(found, wanted, rtol=RELATIVE, atol=TERMS)


@pytest.mark.slow
@_quick(4)
@hypothesis.given(seed=seeds, rows=st.sampled_from([1, 5, 8]), multiple=st.sampled_from([1, 3, 8]))
@hypothesis.example(seed=0, rows=5, multiple=3)
def test_rows_of_no_weight_and_mirror_images_make_the_law_they_should(seed, rows, multiple):
    with jax.enable_x64(True):
        _, x, y = _drawn(seed, rows, 3)
        law = functools.partial(empirical.law, paths.linear(), x=y[0], t=0.6)
        more = empirical.padded(x, multiple)
        assert more.points.shape[0] == -(-rows // multiple) * multiple
        both = empirical.mirrored(x, axis=-1), jnp.concatenate([x, x[:, ::-1]])
        for ours, theirs in ((more, x), both):
            for a, b in zip(law(bank=ours), law(bank=theirs), strict=True):
                np.testing.assert_allclose(a, b, rtol=RELATIVE, atol=TERMS)


@_quick(4)
@hypothesis.given(seed=seeds, shape=st.sampled_from([(), (0,), (1,), (7,), (2, 0), (2, 3)]))
def test_times_of_any_shape_lie_in_their_strata(seed, shape):
    key, n = jax.random.key(seed), int(np.prod(shape))
    for sampler in (times.uniform, times.stratified, times.logit_normal):
        t = sampler(key, shape)
        assert t.shape == shape
        assert ((t >= 0) & (t < 1)).all()
    strata = {*np.floor(n * np.ravel(times.stratified(key, shape))).tolist()}
    assert len(strata) >= n - 1  # one in each, but for a rounding at their ends
    r, t = times.intervals(key, shape, fraction_equal=0.4)
    assert r.shape == t.shape == shape
    assert (t <= r).all()
    assert abs(int(np.sum(r == t)) - 0.4 * n) < 1


@_quick(6)
@hypothesis.given(seed=seeds, n=st.integers(0, 9), size=st.integers(0, 9), own=st.integers(0, 9))
def test_a_drawn_bank_holds_its_batch_and_no_point_twice(seed, n, size, own):
    batch = np.random.default_rng(seed).permutation(n)[:own]
    if not len(batch) <= size <= n:
        with pytest.raises(ValueError, match="size must be from"):
            losses.draw_bank(jax.random.key(seed), batch, n, size=size)
        return
    index = np.asarray(losses.draw_bank(jax.random.key(seed), batch, n, size=size))
    np.testing.assert_array_equal(index[: len(batch)], batch)
    assert len(set(index.tolist())) == len(index) == size
    assert ((index >= 0) & (index < n)).all()
