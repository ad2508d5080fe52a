"""How many points matter, the likeliest k of them, and targets of large banks."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fmjax import empirical, paths, toy
from tests import slow

PATH = paths.linear()
OPTIMIZED = True
POINTS = np.random.default_rng(2).gamma(0.6, size=(40, 3)) - 0.4


@pytest.mark.slow
def test_both_counts_run_from_all_points_to_one(x64):
    bank, x = jnp.asarray(POINTS), jnp.asarray(POINTS[3])
    early = (
        partial(empirical.entropy, PATH, bank, x),
        partial(empirical.effective_number, PATH, bank, x),
    )
    entropy, number = (f(0.0) for f in early)
    assert float(entropy) == pytest.approx(np.log(40), rel=1e-12)
    assert float(number) == pytest.approx(40, rel=1e-12)
    entropy, number = (f(0.9999) for f in early)
    assert float(entropy) == pytest.approx(0.0, abs=1e-12)
    assert float(number) == pytest.approx(1.0, rel=1e-12)


@pytest.mark.slow
def test_the_entropy_of_far_parts_of_a_stream_stays_finite():
    # In one part all logits lie 1e8 below those of the other: its share of the sum is 0, not NaN.
    bank = jnp.array([[0.0], [1.0], [100.0], [101.0]])
    for chunk_size in (1, 2):
        for f in (empirical.entropy, empirical.effective_number, empirical.divergence):
            value, slope = jax.value_and_grad(
                lambda x, f=f, chunk_size=chunk_size: f(PATH, bank, x, 0.99, chunk_size=chunk_size),
            )(jnp.array([0.99 * 100.0]))
            assert np.isfinite(float(value))
            assert np.isfinite(np.asarray(slope)).all()


@pytest.mark.slow
@slow.but_the_first("k", [1, 3, 10, 39, 40])
def test_the_bound_of_what_is_left_out_holds(k, x64):
    bank = jnp.asarray(POINTS)
    noise = np.random.default_rng(3).normal(size=(30, 3))
    t = jnp.asarray(np.tile([0.05, 0.4, 0.9], 10))
    x = t[:, None] * bank[:30] + (1 - t[:, None]) * noise
    part = jax.jit(jax.vmap(partial(empirical.truncated, PATH, bank, k=k, chunk_size=7)))(x, t)
    exact = jax.vmap(partial(empirical.velocity, PATH, bank))(x, t)
    w = np.sort(jax.vmap(partial(empirical.weights, PATH, bank))(x, t), axis=1)
    gap = np.linalg.norm(exact - part.velocity, axis=1)
    assert (gap <= np.asarray(part.bound) + 1e-12).all()
    np.testing.assert_allclose(part.left_out, w[:, : 40 - k].sum(axis=1), rtol=1e-9, atol=1e-15)
    divergence = jax.vmap(partial(empirical.divergence, PATH, bank))(x, t)
    apart = np.abs(divergence - part.divergence)
    assert (apart <= np.asarray(part.divergence_bound) + 1e-9).all()
    # And they are no idle bounds, wherever something is left out.
    some = np.asarray(part.left_out) > 1e-6
    for bound, error in ((part.bound, gap), (part.divergence_bound, apart)):
        assert not some.any() or np.median(np.asarray(bound)[some] / error[some]) < 100


@pytest.mark.slow
def test_the_kept_points_are_told_apart_where_inner_products_fail():
    # Twins nearer than the noise: in float32 their logits (1) differ by rounding alone.
    with jax.enable_x64(True):
        points = 10.0 + jax.random.normal(jax.random.key(0), (16, 50))
        twins = points + 2e-4 * jax.random.normal(jax.random.key(1), points.shape)
        bank = jnp.concatenate([points, twins]).astype(jnp.float32)
        x = (0.999 * bank[5] + 0.001 * jax.random.normal(jax.random.key(2), (50,))).astype(
            jnp.float32
        )
        t = jnp.float32(0.999)
        truth = empirical.truncated(PATH, *(a.astype(jnp.float64) for a in (bank, x, t)), k=4).mean
        kept = empirical.truncated(PATH, bank, x, t, k=4).mean
        plain = empirical.mean(PATH, bank, x, t)
    error = lambda m: float(np.max(np.abs(np.asarray(m, np.float64) - np.asarray(truth))))
    assert error(kept) < 3e-6
    assert error(plain) > 3e-5


@pytest.mark.slow
def test_the_divergence_near_points_of_the_plane_keeps_its_digits():
    # Of 5,000 moons some dozen share the weight, at distances of which float32 squares lose half.
    keys = jax.random.split(jax.random.key(0), 5000)
    bank = 3.0 * jax.jit(jax.vmap(toy.moons(0.2).sample))(keys) - 1.0
    noise = jax.random.normal(jax.random.key(1), (64, 2))
    kept = jax.jit(jax.vmap(partial(empirical.truncated, PATH, k=256), (None, 0, None)))
    plain = jax.jit(jax.vmap(partial(empirical.divergence, PATH), (None, 0, None)))
    worst = 0.0
    for t in (0.95, 0.99, 0.995):
        x = t * bank[:64] + (1 - t) * noise
        found, other = kept(bank, x, t).divergence, plain(bank, x, t)
        with jax.enable_x64(True):
            wide = (jnp.asarray(np.asarray(a), jnp.float64) for a in (bank, x))
            truth = np.asarray(plain(*wide, np.float64(np.float32(t))))
        error = lambda value, t=t, truth=truth: np.abs(np.asarray(value) - truth).max() * (1 - t)
        assert error(found) < 1e-4
        worst = max(worst, error(other))
    assert worst > 1e-3


@pytest.mark.slow
def test_refined_targets_equal_anchored_ones(x64):
    bank, x0 = jnp.asarray(POINTS), jnp.asarray([0.3, -1.0, 0.8])
    weighted = empirical.reweighted(bank, jnp.arange(40.0) + 1.0)
    by_state = jax.jit(partial(empirical.velocity, PATH, weighted))
    for t in (0.0, 0.2, 0.7, 0.95):
        plain = empirical.anchored_velocity(PATH, bank, x0, bank[7], t)
        for k, chunk_size in ((1, None), (8, 9), (100, 40)):
            found = empirical.refined_velocity(
                PATH, bank, x0, bank[7], t, k=k, chunk_size=chunk_size
            )
            np.testing.assert_allclose(found, plain, rtol=1e-10)
        found = empirical.refined_velocity(PATH, weighted, x0, bank[7], t)
        x = paths.interpolate(PATH, x0, bank[7], t)
        np.testing.assert_allclose(found, by_state(x, t), rtol=1e-8)


def test_the_memory_of_a_large_bank_is_that_of_its_weights():
    n, d, batch = 4096, 256, 32

    def temporary(target, bank, **options):
        f = jax.vmap(partial(target, PATH, **options), in_axes=(None, 0, 0, None))
        x = jnp.zeros((batch, d))
        shapes = (bank, x, x, jnp.float32(0.5))
        return jax.jit(f).lower(*shapes).compile().memory_analysis().temp_size_in_bytes

    plain = jnp.zeros((n, d))
    # Prepared: for the norms of a plain bank XLA of jax 0.7 copies it, on the CPU.
    large = temporary(empirical.refined_velocity, empirical.prepare(plain), chunk_size=256)
    assert large < 8 * batch * n * 4
    assert large < temporary(empirical.anchored_velocity, plain) / 10


@pytest.mark.parametrize("k", [0, 41, 2.0])
def test_wrong_numbers_of_points_are_named(k):
    bank = jnp.asarray(POINTS, jnp.float32)
    with pytest.raises(ValueError, match=f"between 1 and the 40 points of the bank, got {k}"):
        empirical.truncated(PATH, bank, bank[0], 0.5, k=k)
    if k == 0:
        with pytest.raises(ValueError, match="got 0"):
            empirical.refined_velocity(PATH, bank, bank[0], bank[0], 0.5, k=0)
