"""What the experiments measure, against closed forms, SciPy and loops: maps, densities, tables."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import fmjax
from experiments.images import data, likelihood
from experiments.images.options import Likelihood
from experiments.run import batches
from experiments.uncertainty import _calibration
from experiments.uncertainty._posterior import measures
from tests.oracles import flows
from tests.oracles import mixture as oracles

PATH = fmjax.paths.linear()


def _mixture(x, t):
    return oracles.law(fmjax.paths.coefficients(PATH, t), x).velocity


def _wide(params, x, t):
    """The velocity to N(0, params^2 I)."""
    squared = params**2
    return (squared * t - (1 - t)) / (squared * t**2 + (1 - t) ** 2) * x


# Maps


@pytest.mark.slow
def test_measure_against_the_closed_form_of_a_mixture(x64):
    x0, x1 = jnp.array([0.3, -1.0, 0.8]), jnp.array([1.0, 0.2, -0.4])
    ours = measures.measure(_mixture, PATH, x0, x1, 0.4)
    x = 0.4 * x1 + 0.6 * x0
    law = oracles.law(fmjax.paths.coefficients(PATH, 0.4), x)
    np.testing.assert_allclose(ours["image"], x1)
    np.testing.assert_allclose(ours["noised"], x, atol=1e-14)
    np.testing.assert_allclose(ours["mean"], law.mean, atol=1e-12)
    np.testing.assert_allclose(ours["variance"], jnp.diag(law.covariance), atol=1e-12)
    np.testing.assert_allclose(ours["uncertainty"], jnp.trace(law.covariance), atol=1e-12)
    np.testing.assert_allclose(ours["error"], jnp.sum((x1 - law.mean) ** 2), atol=1e-12)
    there = measures.state(_mixture, PATH, x, 0.4)
    assert set(there) == {"noised", "mean", "variance"}
    for name, values in there.items():
        np.testing.assert_allclose(values, ours[name], atol=1e-14)


@pytest.mark.slow
def test_the_maps_of_a_one_step_sample_against_those_of_a_gaussian(x64):
    x0, times = jnp.array([0.4, -0.2, 1.1]), (0.3, 0.6)
    noises = jax.random.normal(jax.random.key(0), (2, 3))
    ours = measures.of_one_step(flows.gaussian, PATH, times, x0, noises)
    values, vectors = np.linalg.eigh(flows.SIGMA)
    root = vectors * np.sqrt(values) @ vectors.T
    np.testing.assert_allclose(ours["sample"], flows.CENTER + root @ np.asarray(x0), atol=1e-12)
    np.testing.assert_allclose(ours["sensitivity"], np.diag(flows.SIGMA), atol=1e-12)
    for t, renoised in zip(times, ours["renoised"], strict=True):
        precision = np.linalg.inv(flows.SIGMA) + (t / (1 - t)) ** 2 * np.eye(3)
        np.testing.assert_allclose(renoised, np.diag(np.linalg.inv(precision)), atol=1e-12)


@pytest.mark.slow
def test_renoised_maps_are_means_over_the_noises(x64):
    x0, noises = jnp.array([0.4, -0.2, 1.1]), jax.random.normal(jax.random.key(1), (3, 3))
    average = lambda x, r, t: _mixture(x, jnp.maximum(t, 0.1))
    ours = measures.of_one_step(average, PATH, (0.3, 0.6), x0, noises)
    for t, renoised in zip((0.3, 0.6), ours["renoised"], strict=True):
        states = [t * ours["sample"] + (1 - t) * noise for noise in noises]
        laws = [oracles.law(fmjax.paths.coefficients(PATH, t), x) for x in states]
        by_hand = np.mean([np.diag(law.covariance) for law in laws], axis=0)
        np.testing.assert_allclose(renoised, by_hand, atol=1e-12)


@pytest.mark.slow
def test_generations_follow_the_flow_of_a_gaussian():
    noise = jax.random.normal(jax.random.key(0), (5, 3, 2, 1))
    rows, made = measures.follow(_wide, jnp.float32(2.0), PATH, noise, (0.25, 0.6), size=2)
    np.testing.assert_allclose(made["samples"], 2 * noise, rtol=0.01, atol=0.01)
    for t, state in made["by_time"].items():
        spread = 4 * t**2 + (1 - t) ** 2
        np.testing.assert_allclose(state["noised"], noise * spread**0.5, rtol=0.01, atol=0.01)
        np.testing.assert_allclose(state["variance"], 4 * (1 - t) ** 2 / spread, rtol=1e-4)
        np.testing.assert_allclose(state["mean"], 4 * t / spread * state["noised"], rtol=1e-4)
    assert [row["t"] for row in rows] == [0.25, 0.6]
    drawn = measures.samples(_wide, jnp.float32(2.0), noise, size=4)
    np.testing.assert_allclose(drawn, made["samples"], rtol=0.01, atol=0.01)


@pytest.mark.slow
def test_calibrate_noises_the_same_pixels_with_the_same_noise_at_every_time():
    pixels = np.random.default_rng(0).integers(0, 17, (5, 3, 2, 1), dtype=np.uint8)
    ours = measures.calibrate(
        _wide, jnp.float32(1.0), PATH, jax.random.key(3), pixels, 17, times=(0.25, 0.5), size=2,
        label="test",
    )  # fmt: skip
    early, late = ours[0.25], ours[0.5]
    np.testing.assert_array_equal(early["image"], late["image"])
    bins = np.floor((np.asarray(early["image"], np.float64) + 1) * 17 / 2)
    np.testing.assert_array_equal(bins, pixels)
    noise = [(m["noised"] - t * m["image"]) / (1 - t) for t, m in ours.items()]
    np.testing.assert_allclose(noise[0], noise[1], atol=1e-5)
    np.testing.assert_allclose(late["variance"], 0.5, rtol=1e-5)


@pytest.mark.slow
def test_a_field_that_is_not_finite_is_named_with_its_time_and_how_many():
    pixels = np.full((6, 2, 2, 1), 8, np.uint8)  # around x = 0
    broken = lambda params, x, t: jnp.where((t > 0.5) & (x.sum() > 0), jnp.nan, 1.0) * x
    run = functools.partial(
        measures.calibrate,
        broken,
        None,
        PATH,
        jax.random.key(0),
        pixels,
        17,
        size=4,
        label="held-out",
    )
    early = run(times=(0.5,))[0.5]
    noise = 2 * early["noised"] - early["image"]
    count = int(((0.7 * early["image"] + 0.3 * noise).sum(axis=(1, 2, 3)) > 0).sum())
    assert 0 < count < 6
    with pytest.raises(ArithmeticError, match=f"held-out, t = 0.7: {count} of 6 .*--workdir"):
        run(times=(0.5, 0.7))


# Edges


def _slope(image, i, j, axis):
    """The difference of the neighbors along an axis, one-sided on the border."""
    low, high = [i, j], [i, j]
    low[axis], high[axis] = max(low[axis] - 1, 0), min(high[axis] + 1, image.shape[axis] - 1)
    return (image[tuple(high)] - image[tuple(low)]) / (high[axis] - low[axis])


def test_the_gradient_against_a_loop():
    mean = np.random.default_rng(0).normal(size=(2, 5, 6, 3))
    ours = measures.gradient(mean)
    assert ours.shape == (2, 5, 6)
    for n, i, j in np.ndindex(ours.shape):
        squares = [_slope(mean[n, ..., c], i, j, axis) ** 2 for c in range(3) for axis in (0, 1)]
        assert ours[n, i, j] == pytest.approx((sum(squares) / 3) ** 0.5, rel=1e-12)


def _steps(inside):
    """A vertical step, g = 0, 1/2, 1/2, 0, and a map that is 1 off the edge, `inside` on it."""
    mean = np.tile(np.array([0.0, 0.0, 1.0, 1.0]), (4, 1))[..., None]
    variance = np.tile(np.array([1.0, inside, inside, 1.0]), (4, 1))[..., None]
    return mean, variance


def test_the_edge_statistic_by_hand():
    pairs = [_steps(3.0), _steps(5.0)]
    mean, variance = (np.stack(part) for part in zip(*pairs, strict=True))
    row = measures.edge_statistic(0.3, mean, variance)
    assert (row["t"], row["num_images"], row["edge_share"]) == (0.3, 2, 0.5)
    assert row["ratio"] == pytest.approx(4.0)
    assert row["ratio_standard_error"] == pytest.approx(1.0)  # of 3 and 5: their deviation / root 2
    assert row["correlation"] == pytest.approx(1.0)
    assert row["correlation_standard_error"] == pytest.approx(0.0, abs=1e-12)


def test_the_null_of_the_edge_statistic_is_the_map_of_another_image():
    rng = np.random.default_rng(3)
    mean = rng.gamma(1.0, size=(40, 5, 6, 1))
    variance = measures.gradient(mean)[..., None] + 0.5
    row = measures.edge_statistic(0.5, mean, variance)
    other = measures.edge_statistic(0.5, mean, np.roll(variance, 1, axis=0))
    assert row["null_ratio"] == pytest.approx(other["ratio"], rel=1e-12)
    assert row["null_correlation"] == pytest.approx(other["correlation"], rel=1e-12)
    assert row["correlation"] == pytest.approx(1.0)
    assert abs(row["null_correlation"]) < 0.2  # the images have nothing in common


def test_the_edge_statistic_against_a_loop_and_a_bootstrap():
    rng = np.random.default_rng(1)
    mean = rng.gamma(1.0, size=(300, 5, 6, 2))
    variance = rng.normal(0.5, 1.0, size=(300, 5, 6, 2)) + measures.gradient(mean)[..., None]
    row = measures.edge_statistic(0.5, mean, variance)
    on, off, correlations, share = [], [], [], []
    for g, c in zip(measures.gradient(mean), variance.mean(axis=-1), strict=True):
        edge = g >= g.max() / 2
        on.append(np.clip(c[edge], 0, None).mean())
        off.append(np.clip(c[~edge], 0, None).mean())
        correlations.append(stats.pearsonr(c.ravel(), g.ravel())[0])
        share.append(edge.mean())
    on, off = np.array(on), np.array(off)
    assert row["ratio"] == pytest.approx(on.mean() / off.mean(), rel=1e-12)
    assert row["ratio"] > 1.2
    assert row["correlation"] == pytest.approx(np.mean(correlations), rel=1e-12)
    assert row["edge_share"] == pytest.approx(np.mean(share), rel=1e-12)
    picks = rng.integers(0, 300, (2000, 300))
    ratios = on[picks].mean(axis=1) / off[picks].mean(axis=1)
    assert row["ratio_standard_error"] == pytest.approx(ratios.std(), rel=0.1)
    means = np.array(correlations)[picks].mean(axis=1)
    assert row["correlation_standard_error"] == pytest.approx(means.std(), rel=0.1)
    turned = measures.edge_statistic(0.5, -2 * mean.swapaxes(1, 2) + 1, 3 * variance.swapaxes(1, 2))
    assert turned == pytest.approx(row, rel=1e-12)


def test_maps_and_means_that_are_flat():
    rng = np.random.default_rng(2)
    mean, variance = rng.normal(size=(3, 5, 6, 1)), rng.gamma(2.0, size=(3, 5, 6, 1))
    row = measures.edge_statistic(0.5, mean, np.full_like(variance, 0.7))
    assert (row["ratio"], row["correlation"]) == pytest.approx((1.0, 0.0))
    assert all(math.isfinite(value) for value in row.values())
    # A flat mean has no edges: the others alone are told.
    with_flat = measures.edge_statistic(
        0.5, np.concatenate([mean, np.ones((1, 5, 6, 1))]), np.concatenate([variance, variance[:1]])
    )
    assert with_flat == measures.edge_statistic(0.5, mean, variance)
    one = measures.edge_statistic(0.5, mean[:1], variance[:1])
    assert one["num_images"] == 1
    assert math.isfinite(one["ratio"] + one["correlation"])
    assert math.isnan(one["ratio_standard_error"])
    none = measures.edge_statistic(0.5, np.zeros_like(mean), variance)
    assert none["num_images"] == 0
    assert math.isnan(none["ratio"])
    assert math.isnan(none["correlation"])


# Density and tables


@pytest.mark.slow
def test_the_likelihood_of_a_known_law():
    x1 = jax.random.normal(jax.random.key(0), (3, 3, 1))
    velocity = functools.partial(_wide, 2.0)
    truth = stats.norm(scale=2.0).logpdf(np.asarray(x1)).sum()
    # Of a multiple of the identity one Rademacher probe has no variance.
    for probes in (0, 1):
        ours = likelihood.log_likelihood(velocity, probes, 1e-6, jax.random.key(0), x1)
        assert float(ours) == pytest.approx(truth, abs=1e-3)


@pytest.mark.slow
def test_the_solver_of_the_likelihood_is_adaptive_per_image():
    log_p = functools.partial(likelihood.log_likelihood, lambda x, t: -x, 0, 1e-3)
    x1 = jnp.stack([jnp.ones((2, 2, 1)), 50 * jnp.ones((2, 2, 1))])
    keys = jax.random.split(jax.random.key(0), 2)
    np.testing.assert_allclose(
        jax.vmap(log_p)(keys, x1)[0], jax.vmap(log_p)(keys[:1], x1[:1])[0], rtol=1e-6
    )


@pytest.mark.slow
def test_bits_per_dim_against_scipy():
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 17, (7, 3, 2, 1), dtype=np.uint8)
    images, key = data.Images(pixels, pixels, 17), jax.random.key(5)
    row = likelihood.bits_per_dim(
        _wide, jnp.float32(0.8), images, Likelihood(5, 0, tolerance=1e-5), key, size=2
    )
    key_bins, _ = jax.random.split(key)
    x1 = np.asarray(data.dequantize(key_bins, jnp.asarray(pixels[:5]), 17), np.float64)
    nats = stats.norm(scale=0.8).logpdf(x1).sum(axis=(1, 2, 3))
    bits = -(nats / 6 + math.log(2 / 17)) / math.log(2)  # a bin is 2 / 17 wide
    assert row["bits_per_dim"] == pytest.approx(bits.mean(), abs=1e-3)
    assert row["standard_error"] == pytest.approx(stats.sem(bits), rel=1e-3)
    assert "5 images, exact divergence" in row["how"]


@pytest.mark.slow
def test_the_rows_of_the_table_against_numpy_and_scipy():
    rng = np.random.default_rng(0)
    by_time = {}
    for t in (0.3, 0.7):
        u = rng.gamma(3.0, 1.0, 400).astype(np.float32)
        error = (u * rng.chisquare(5, 400) / 5).astype(np.float32)
        by_time[t] = {"uncertainty": u, "error": error, "variance": u[:, None] - np.float32([1, 2])}
    for row, (t, result) in zip(_calibration.rows(by_time), by_time.items(), strict=True):
        u, error = (np.float64(result[name]) for name in ("uncertainty", "error"))
        ratio = error.mean() / u.mean()
        assert row == {
            "t": t,
            "num_images": 400,
            "mean_error": pytest.approx(error.mean(), rel=1e-6),
            "mean_uncertainty": pytest.approx(u.mean(), rel=1e-6),
            "ratio": pytest.approx(ratio, rel=1e-6),
            "ratio_standard_error": pytest.approx(
                np.std(error - ratio * u, ddof=1) / u.mean() / 20, rel=1e-5
            ),
            "pearson": pytest.approx(stats.pearsonr(u, error)[0], rel=1e-5),
            "spearman": pytest.approx(stats.spearmanr(u, error)[0], rel=1e-5),
            "best_pearson": pytest.approx(u.std() / error.std(), rel=1e-5),
            "negative_variances": pytest.approx((result["variance"] < 0).mean(), rel=1e-6),
        }


@pytest.mark.slow
def test_pooling_over_times_shows_a_correlation_that_no_time_has():
    rng = np.random.default_rng(0)
    by_time = {
        t: {name: scale * rng.gamma(20.0, size=300) for name in ("uncertainty", "error")}
        for t, scale in ((0.1, 10.0), (0.5, 3.0), (0.9, 0.2))
    }
    ours = _calibration.pooled(by_time)
    u, error = (
        np.concatenate([m[name] for m in by_time.values()]) for name in ("uncertainty", "error")
    )
    assert ours["pearson"] == pytest.approx(stats.pearsonr(u, error)[0], rel=1e-4)
    assert ours["spearman"] == pytest.approx(stats.spearmanr(u, error)[0], rel=1e-4)
    assert ours["pearson"] > 0.9
    apart = [stats.pearsonr(m["uncertainty"], m["error"])[0] for m in by_time.values()]
    assert max(map(abs, apart)) < 0.2


@pytest.mark.slow
def test_batches_with_a_rest_give_every_example_once():
    x = jnp.arange(7.0)
    square = jax.jit(jax.vmap(lambda x: x**2))
    for size in (1, 3, 7, 10):
        ours = batches.in_batches(square, x, size=size, label="test")
        np.testing.assert_array_equal(ours, np.arange(7.0) ** 2)


@pytest.mark.slow
def test_a_solver_that_gives_up_is_one_line():
    velocity = lambda params, x, t: 1e5 * x**3
    sample = functools.partial(fmjax.samplers.adaptive, max_steps=16)
    function = batches.batched(velocity, None, sample)
    with pytest.raises(ArithmeticError, match="samples: the adaptive solver used up its steps"):
        batches.in_batches(function, jnp.ones((2, 3)), size=2, label="samples")
