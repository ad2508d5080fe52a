"""fmjax.samplers.guided: Gaussian classes in closed form, intervals, kinds, dtypes, errors."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fmjax import paths, posterior, predictions, samplers

PATH = paths.linear()
SOLVE = partial(samplers.adaptive, rtol=1e-9, atol=1e-9)


def gaussian(mean, std):
    """The velocity of N(mean, diag(std^2)) on the linear path, as regression gives it."""

    def velocity(x, t):
        slope = (t * std**2 - (1.0 - t)) / (t**2 * std**2 + (1.0 - t) ** 2)
        return mean + slope * (x - t * mean)

    return velocity


def bend(x, t):
    return jnp.sin(3.0 * x + t)


def fold(x, t):
    return x**2 - jnp.cos(5.0 * t)


@pytest.mark.slow
def test_classes_of_one_covariance_move_their_mean(x64):
    """Guidance of two such fields is the exact field of the extrapolated mean."""
    std, (with_class, without) = jnp.array([0.5, 2.0]), jnp.array([[1.5, -0.5], [-1.0, 0.25]])
    noise = jnp.array([0.7, -1.3])
    scales = jnp.array([-0.5, 0.0, 1.0, 4.0])

    def sample(scale):
        field = samplers.guided(gaussian(with_class, std), gaussian(without, std), scale=scale)
        return SOLVE(field, noise)

    for scale, found in zip(scales, jax.jit(jax.vmap(sample))(scales), strict=True):
        mean = without + scale * (with_class - without)
        np.testing.assert_allclose(found, mean + std * noise, atol=1e-7)


@pytest.mark.slow
def test_classes_of_two_covariances_mix_their_growth_within_the_interval(x64):
    """Each field alone grows x by sqrt(t^2 std^2 + (1 - t)^2), so the mixture by its powers."""
    noise, (std, wide) = jnp.array([0.7, -1.3]), (jnp.array([0.5, 2.0]), jnp.array([1.5, 0.8]))
    with_class, without = gaussian(0.0, std), gaussian(0.0, wide)
    low, high, scale = 0.2, 0.7, 3.0
    grown = lambda s, a, b: np.sqrt((b**2 * s**2 + (1 - b) ** 2) / (a**2 * s**2 + (1 - a) ** 2))
    expected = noise * grown(std, 0.0, low) * grown(std, high, 1.0)
    expected *= grown(wide, low, high) ** (1 - scale) * grown(std, low, high) ** scale
    field = samplers.guided(with_class, without, scale=scale, low=low, high=high)
    pieces = samplers.hybrid([with_class, field, with_class], [0, low, high, 1], noise, solve=SOLVE)
    np.testing.assert_allclose(pieces, expected, rtol=1e-7)
    np.testing.assert_allclose(SOLVE(field, noise), expected, rtol=1e-6)  # steps over the jumps
    everywhere = SOLVE(samplers.guided(with_class, without, scale=scale), noise)
    np.testing.assert_allclose(everywhere, noise * std**scale * wide ** (1 - scale), rtol=1e-7)
    assert abs(everywhere - expected).max() > 0.1


@pytest.mark.parametrize("traced", [False, True])
def test_one_and_zero_are_the_two_fields_to_the_last_bit(traced):
    x = jax.random.normal(jax.random.key(0), (100,)) * 30.0
    bent, folded = bend(x, 0.3), fold(x, 0.3)  # in two programs they may be rounded differently
    run = lambda scale: samplers.guided(lambda x, t: bent, lambda x, t: folded, scale=scale)(x, 0.3)
    run = jax.jit(run) if traced else run
    np.testing.assert_array_equal(run(1.0), bent)
    np.testing.assert_array_equal(run(0.0), folded)
    assert abs(run(0.5) - bent).max() > 0.1


@pytest.mark.parametrize("traced", [False, True])
def test_it_acts_from_low_to_high_inclusive(traced):
    run = lambda t, low, high: samplers.guided(bend, fold, scale=2.5, low=low, high=high)(0.4, t)
    run = jax.jit(run) if traced else run
    inside = lambda t: fold(0.4, t) + 2.5 * (bend(0.4, t) - fold(0.4, t))
    for t in (0.0, 0.25, 0.5, 0.75, 1.0):
        expected = inside(t) if 0.25 <= t <= 0.75 else bend(0.4, t)
        np.testing.assert_allclose(run(t, 0.25, 0.75), expected, rtol=1e-5)
        np.testing.assert_allclose(run(t, 0.0, 1.0), inside(t), rtol=1e-5)


@pytest.mark.slow
def test_every_kind_of_prediction_may_be_mixed(x64):
    x, path = jnp.array([0.4, -1.1]), paths.cosine()
    for kind in (predictions.x1, predictions.x0, predictions.score, predictions.v):
        mixed = samplers.guided(bend, fold, scale=3.0)
        ours = predictions.as_velocity(mixed, path, given=kind)(x, 0.4)
        fields = [predictions.as_velocity(f, path, given=kind) for f in (bend, fold)]
        np.testing.assert_allclose(ours, samplers.guided(*fields, scale=3.0)(x, 0.4), rtol=1e-12)


@pytest.mark.slow
def test_derivatives_are_the_mixed_derivatives(x64):
    x, t, scale = jnp.array([0.4, -1.1]), jnp.float64(0.3), jnp.float64(2.5)
    field = lambda x, t, scale: samplers.guided(bend, fold, scale=scale)(x, t)
    by_x, by_t, by_scale = jax.jit(jax.jacfwd(field, argnums=(0, 1, 2)))(x, t, scale)
    expected = -1.5 * np.diag(2 * x) + 2.5 * np.diag(3 * np.cos(3 * x + t))
    np.testing.assert_allclose(by_x, expected, rtol=1e-12)
    expected = -1.5 * 5 * np.sin(5 * t) + 2.5 * np.cos(3 * x + t)
    np.testing.assert_allclose(by_t, expected, rtol=1e-12)
    np.testing.assert_allclose(by_scale, bend(x, t) - fold(x, t), rtol=1e-12)
    backwards = jax.grad(lambda scale: field(x, t, scale).sum())(scale)
    np.testing.assert_allclose(backwards, by_scale.sum(), rtol=1e-12)


@pytest.mark.slow
def test_its_posterior_mixes_covariances_and_is_no_posterior(x64):
    narrow, wide = gaussian(1.0, jnp.array([0.5])), gaussian(0.0, jnp.array([2.0]))
    mixed = samplers.guided(narrow, wide, scale=3.0)
    ours = [posterior.trace(f, PATH, jnp.ones(1), 0.4) for f in (narrow, wide, mixed)]
    for found, std in zip(ours[:2], (0.5, 2.0), strict=True):
        kept = std**2 * 0.6**2 / (0.4**2 * std**2 + 0.6**2)
        np.testing.assert_allclose(found, kept, rtol=1e-12)
    np.testing.assert_allclose(ours[2], 3 * ours[0] - 2 * ours[1], rtol=1e-12)
    assert ours[2] < 0


@pytest.mark.slow
def test_the_dtype_is_that_of_the_fields(x64):
    half = lambda f: lambda x, t: f(x, t).astype(jnp.bfloat16)
    x, t = jnp.ones(2, jnp.float32), jnp.float32(0.3)
    for scale in (2.0, 3, np.float64(2.0), np.array(2.0), np.int64(2)):
        for fields, dtype in (
            ((bend, fold), jnp.float32),
            ((half(bend), half(fold)), jnp.bfloat16),
            ((half(bend), fold), jnp.float32),
        ):
            field = samplers.guided(*fields, scale=scale, low=np.float64(0.1), high=np.array(0.9))
            assert field(x, t).dtype == dtype
        wide = samplers.guided(bend, fold, scale=scale)(x.astype(jnp.float64), t)
        assert wide.dtype == jnp.float64


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"scale": jnp.ones(3)},
            r"scale must be a scalar, got an array of float32.*jax\.vmap",
        ),
        ({"scale": [1.0]}, r"scale must be a scalar, got the list \[1.0\]"),
        ({"scale": "2"}, "scale must be a scalar, got the string '2'"),
        ({"scale": 2.0, "low": None}, "low must be a scalar, got None"),
        ({"scale": np.nan}, "scale must be finite, got nan"),
        ({"scale": np.float32(np.inf)}, "scale must be finite, got inf"),
        ({"scale": 2.0, "low": 0.6, "high": 0.4}, "got low=0.6 and high=0.4"),
        ({"scale": 2.0, "low": -0.1}, "two times in .*low=-0.1"),
        ({"scale": 2.0, "high": 1.5}, r"two times in \[0, 1\].*high=1.5"),
        ({"scale": 2.0, "low": np.nan}, "low=nan"),
    ],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        samplers.guided(bend, fold, **options)


def test_wrong_calls_are_named():
    field = samplers.guided(bend, lambda x, t: x[:1], scale=2.0)
    with pytest.raises(ValueError, match=r"conditional \(2,\), unconditional \(1,\)"):
        field(jnp.ones(2), 0.3)
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\], got 1.5"):
        samplers.guided(bend, fold, scale=2.0)(jnp.ones(2), 1.5)
