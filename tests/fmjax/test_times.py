"""Laws of the training time against SciPy's distributions and their stated ranges."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats

from fmjax import paths, times
from tests import slow

SAMPLERS = [times.uniform, times.stratified, times.logit_normal, times.intervals]
DRAWS = 20_000
# With fixed seeds a Kolmogorov-Smirnov level of 1e-4 says: not by chance.
LEVEL = 1e-4


@pytest.fixture(params=[jnp.float32, jnp.float64], ids=["float32", "float64"])
def dtype(request):
    """Runs a test in both float types."""
    with jax.enable_x64(request.param == jnp.float64):
        yield request.param


def logit_normal_cdf(t, mean, std):
    return scipy.stats.norm.cdf((scipy.special.logit(t) - mean) / std)


def smaller_of_two_cdf(t):
    return 1 - (1 - t) ** 2


def fits(t, cdf):
    return scipy.stats.kstest(np.asarray(t, np.float64).ravel(), cdf).pvalue > LEVEL


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("shape", [(), (3, 4), [0]], ids=str)
def test_shape_and_dtype(sampler, shape, dtype, key):
    for t in jax.tree.leaves(jax.eval_shape(lambda key: sampler(key, shape), key)):
        assert t.dtype == dtype
        assert not t.weak_type
        assert t.shape == tuple(shape)


@slow.but_the_first("sampler", SAMPLERS)
def test_jit_and_vmap_draw_the_same(sampler):
    keys = jax.random.split(jax.random.key(2), 3)
    mapped = jax.jit(jax.vmap(lambda key: sampler(key, (5,))))(keys)
    single = [sampler(key, (5,)) for key in keys]
    jax.tree.map(
        lambda a, *b: np.testing.assert_allclose(a, jnp.stack(b), rtol=1e-6), mapped, *single
    )


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (0.2, 0.7)])
def test_uniform_law(low, high, dtype, key):
    t = times.uniform(key, (DRAWS,), low=low, high=high)
    assert t.dtype == dtype
    assert fits(t, scipy.stats.uniform(low, high - low).cdf)
    error = (high - low) / math.sqrt(12 * DRAWS)
    assert abs(float(t.mean()) - (low + high) / 2) < 5 * error


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (0.999, 1.0), (0.3, 0.3001), (0.0, 1e-6)])
def test_uniform_never_leaves_its_range(low, high, key):
    # Without care some 30 of a million float32 draws in [0.999, 1) are rounded up to 1.
    t = times.uniform(key, (1_000_000,), low=low, high=high)
    assert jnp.all(t >= jnp.float32(low))
    assert jnp.all(t < jnp.float32(high))


@pytest.mark.slow
@pytest.mark.usefixtures("dtype")
def test_stratified_fills_every_stratum(key):
    t = times.stratified(key, (64,))
    assert sorted(np.floor(64 * np.asarray(t))) == list(range(64))
    np.testing.assert_allclose(np.diff(np.sort(t)), 1 / 64, rtol=1e-4)
    t = times.stratified(key, (4, 5, 6))
    np.testing.assert_allclose(np.diff(np.sort(t, axis=None)), 1 / 120, rtol=1e-4)


@pytest.fixture(scope="module")
def strata():
    """Many draws of three stratified times, `[DRAWS, 3]`."""
    keys = jax.random.split(jax.random.key(1), DRAWS)
    return np.asarray(jax.jit(jax.vmap(lambda key: times.stratified(key, (3,))))(keys))


@pytest.mark.slow
def test_stratified_marginals_are_uniform_at_every_place(strata):
    assert np.all((strata >= 0.0) & (strata < 1.0))
    for place in range(3):
        assert fits(strata[:, place], scipy.stats.uniform.cdf)


def test_stratified_order_is_random(strata):
    _, counts = np.unique(np.argsort(strata, axis=1), axis=0, return_counts=True)
    assert len(counts) == 6
    assert np.all(np.abs(counts - DRAWS / 6) < 5 * np.sqrt(DRAWS * (1 / 6) * (5 / 6)))


def test_stratified_mean_has_the_stated_variance(strata):
    # The mean over a batch of three is uniform on an interval of length 1/3 about 1/2.
    assert fits(strata.mean(1), scipy.stats.uniform(1 / 3, 1 / 3).cdf)
    # By the same token the sum has variance 1/12, so each covariance is (1/12 - 3/12) / 6.
    wanted = np.where(np.eye(3, dtype=bool), 1 / 12, -1 / 36)
    covariance = np.cov(strata.astype(np.float64).T)
    np.testing.assert_allclose(covariance, wanted, atol=5 * 0.1 / math.sqrt(DRAWS))


@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (-0.4, 1.0), (2.0, 0.3)])
def test_logit_normal_law(mean, std, dtype, key):
    t = times.logit_normal(key, (DRAWS,), mean=mean, std=std)
    assert t.dtype == dtype
    assert fits(t, partial(logit_normal_cdf, mean=mean, std=std))
    logits = scipy.special.logit(np.asarray(t, np.float64))
    assert abs(logits.mean() - mean) < 5 * std / math.sqrt(DRAWS)
    assert abs(logits.std() - std) < 5 * std / math.sqrt(2 * DRAWS)


@pytest.mark.parametrize("mean", [-1000.0, -90.0, 0.0, 20.0, 1000.0])
def test_logit_normal_stays_in_the_open_interval(mean, dtype, key):
    t = times.logit_normal(key, (10_000,), mean=mean, std=8.0)
    assert t.dtype == dtype
    assert jnp.all((t > 0.0) & (t < 1.0))


def test_logit_normal_of_opposite_mean_is_reversed_time(key):
    t = times.logit_normal(key, (DRAWS,), mean=0.7)
    assert fits(1 - t, partial(logit_normal_cdf, mean=-0.7, std=1.0))


@pytest.mark.slow
def test_intervals_are_ordered_and_t_is_the_smaller_draw(dtype, key):
    r, t = times.intervals(key, (DRAWS,))
    assert r.dtype == t.dtype == dtype
    assert jnp.all(t <= r)
    equal = np.asarray(r == t)
    assert equal.sum() == 0.75 * DRAWS
    # t has one law in both parts; r is the larger of two draws where it is not t.
    assert fits(t[equal], smaller_of_two_cdf)
    assert fits(t[~equal], smaller_of_two_cdf)
    assert fits(r[~equal], lambda r: r**2)
    # By hand: the gap of two uniform draws has density 2 (1 - h).
    assert fits((r - t)[~equal], smaller_of_two_cdf)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("n", "fraction", "wanted"),
    [(8, 0.75, {6}), (10, 0.33, {3, 4}), (1, 0.25, {0, 1})],
)
def test_intervals_share(n, fraction, wanted):
    keys = jax.random.split(jax.random.key(4), 4000)
    sampler = partial(times.intervals, shape=(n,), fraction_equal=fraction)
    r, t = jax.jit(jax.vmap(lambda key: sampler(key)))(keys)
    counts = np.asarray((r == t).sum(1))
    assert set(counts.tolist()) == wanted
    assert abs(counts.mean() - fraction * n) <= 5 * 0.5 / math.sqrt(4000) * (len(wanted) > 1)
    # Every place has the same share, so batches that come sorted are not split by it.
    error = math.sqrt(fraction * (1 - fraction) / 4000)
    assert np.all(np.abs(np.asarray((r == t).mean(0)) - fraction) <= 5 * error)


def test_intervals_share_at_its_ends(key):
    r, t = times.intervals(key, (8,), fraction_equal=0.0)
    assert jnp.all(t < r)
    r, t = times.intervals(key, (8,), fraction_equal=1.0)
    assert jnp.all(t == r)


@pytest.mark.slow
def test_intervals_take_any_sampler(key):
    sampler = partial(times.logit_normal, mean=0.4, std=0.5)
    r, t = times.intervals(key, (DRAWS,), sampler=sampler, fraction_equal=0.0)
    for draw, power in ((r, lambda c: c**2), (t, smaller_of_two_cdf)):
        assert fits(draw, lambda x, power=power: power(logit_normal_cdf(x, 0.4, 0.5)))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (partial(times.uniform, shape=(2,), low=-0.1), "0 <= low < high <= 1, got low -0.1"),
        (partial(times.uniform, shape=(2,), high=1.5), "got low 0.0 and high 1.5"),
        (partial(times.uniform, shape=(2,), low=0.5, high=0.5), "got low 0.5 and high 0.5"),
        (partial(times.uniform, shape=(2,), low=math.nan), "got low nan"),
        (partial(times.logit_normal, shape=(2,), std=0.0), "std > 0, got mean 0.0 and std 0.0"),
        (partial(times.logit_normal, shape=(2,), std=math.inf), "std inf"),
        (partial(times.logit_normal, shape=(2,), mean=math.nan), "mean nan"),
        (partial(times.intervals, shape=(2,), fraction_equal=1.5), r"\[0, 1\], got 1.5"),
        (partial(times.intervals, shape=(2,), fraction_equal=-0.1), r"\[0, 1\], got -0.1"),
        *((partial(sampler, shape=64), "tuple of ints, got 64") for sampler in SAMPLERS),
    ],
)
def test_bad_options_are_refused(call, message, key):
    with pytest.raises(ValueError, match=message):
        call(key)


LOG_NORMAL_PATHS = [paths.linear(), paths.cosine(), paths.Path(lambda t: t**2, lambda t: 1 - t)]


@pytest.mark.parametrize("path", LOG_NORMAL_PATHS, ids=["linear", "cosine", "mine"])
def test_the_noise_of_log_normal_times_is_log_normal(path, key, x64):
    t = times.log_normal(key, (DRAWS,), path, mean=0.7, std=1.5)
    ratio = np.asarray(path.sigma(t) / path.alpha(t))
    assert fits(np.log(ratio), scipy.stats.norm(0.7, 1.5).cdf)


def test_log_normal_times_of_the_linear_path_are_logit_normal(key):
    # sigma / alpha = (1 - t) / t, so that its logarithm is minus the logit of t.
    ours = times.log_normal(key, (DRAWS,), paths.linear(), mean=0.7, std=1.5)
    other = times.logit_normal(key, (DRAWS,), mean=0.7, std=1.5)
    np.testing.assert_allclose(ours, 1 - other, atol=2e-6)


@pytest.mark.slow
def test_log_normal_times_end_where_the_path_ends(key):
    path = paths.ve(0.1, 10.0)  # log(sigma / alpha) from -2.3 to 2.3
    t = times.log_normal(key, (DRAWS,), path, mean=2.3, std=1.0)
    assert float(t.min()) == 0.0
    assert abs(float((t == 0).mean()) - 0.5) < 0.02
    t = times.log_normal(key, (DRAWS,), path, mean=-9.0, std=1.0)
    assert float(t.min()) == float(t.max()) == 1.0 - np.finfo(np.float32).epsneg


@pytest.mark.parametrize("path", LOG_NORMAL_PATHS, ids=["linear", "cosine", "mine"])
def test_the_density_of_log_normal_times_is_the_derivative_of_their_law(path, x64):
    density = jax.vmap(lambda t: times.log_normal_density(t, path, mean=0.3, std=0.8))
    law = lambda t: scipy.stats.norm.sf(np.log(path.sigma(t) / path.alpha(t)), 0.3, 0.8)
    t = np.linspace(0.05, 0.95, 19)
    slope = (law(t + 1e-6) - law(t - 1e-6)) / 2e-6
    np.testing.assert_allclose(density(t), slope, rtol=1e-6)


@pytest.mark.parametrize(
    "wrong", [{"mean": math.nan}, {"std": 0.0}, {"std": math.inf}], ids=["mean", "zero", "inf"]
)
def test_a_log_normal_law_that_is_none(wrong, key):
    with pytest.raises(ValueError, match="needs a finite mean and std > 0"):
        times.log_normal(key, (3,), paths.linear(), **wrong)
    with pytest.raises(ValueError, match="needs a finite mean and std > 0"):
        times.log_normal_density(0.5, paths.linear(), **wrong)
