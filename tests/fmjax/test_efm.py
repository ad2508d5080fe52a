"""Empirical flow matching: its loss by its value, and the draw that leaves it unbiased."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fmjax import empirical, losses, paths

PATH = paths.linear()
POINTS = jnp.asarray(np.random.default_rng(5).gamma(0.6, size=(7, 2)) - 0.4, jnp.float32)


def _field(x, t):
    return jnp.sin(x) * (1 - t) + 0.1


@pytest.mark.slow
def test_one_point_is_flow_matching_and_all_points_the_exact_field():
    x0, x1, t = jnp.array([0.4, -1.3]), POINTS[2], 0.4
    alone = losses.efm(_field, PATH, x1[None], x0, x1, t)
    assert float(alone) == pytest.approx(float(losses.cfm(_field, PATH, x0, x1, t)), rel=1e-6)
    x = paths.interpolate(PATH, x0, x1, t)
    exact = np.mean((_field(x, t) - empirical.velocity(PATH, POINTS, x, t)) ** 2)
    targets = (
        empirical.anchored_velocity,
        partial(empirical.refined_velocity, k=2, chunk_size=3),
    )
    for target in targets:
        whole = losses.efm(_field, PATH, POINTS, x0, x1, t, target=target)
        assert float(whole) == pytest.approx(float(exact), rel=1e-5)
    prepared = losses.efm(
        _field, PATH, empirical.prepare(POINTS), x0, x1, t, target=empirical.refined_velocity
    )
    assert float(prepared) == pytest.approx(float(exact), rel=1e-5)


@pytest.mark.slow
def test_no_gradient_goes_through_the_target():
    x0, x1, t = jnp.array([0.4, -1.3]), POINTS[2], 0.4
    target = lambda bank: jnp.sum(empirical.anchored_velocity(PATH, bank, x0, x1, t))
    assert float(jnp.max(jnp.abs(jax.grad(target)(POINTS)))) > 0.01
    slope = jax.grad(lambda bank: losses.efm(_field, PATH, bank, x0, x1, t))(POINTS)
    np.testing.assert_array_equal(slope, 0.0)


@pytest.mark.slow
def test_the_bank_of_a_batch_holds_it_and_distinct_others():
    n, size = 11, 6
    batch = jnp.array([7, 2, 9])
    draws = jax.jit(jax.vmap(lambda key: losses.draw_bank(key, batch, n, size=size)))(
        jax.random.split(jax.random.key(0), 4000)
    )
    draws = np.asarray(draws)
    assert (draws[:, :3] == np.asarray(batch)).all()
    assert all(len(set(row)) == size for row in draws.tolist())
    # Every other index is in the bank with probability 3 / 8.
    others = [i for i in range(n) if i not in batch.tolist()]
    share = np.array([(draws == i).any(axis=1).mean() for i in others])
    assert (np.abs(share - 3 / 8) < 5 * (3 / 8 * 5 / 8 / 4000) ** 0.5).all()
    assert set(np.asarray(losses.draw_bank(jax.random.key(1), batch, n, size=n))) == set(range(n))
    np.testing.assert_array_equal(losses.draw_bank(jax.random.key(1), batch, n, size=3), batch)


@pytest.mark.slow
def test_the_mean_target_of_drawn_banks_is_the_exact_velocity():
    # x1 as a batch of two out of seven, one bank of four for both; given the state of the first.
    count, t = 40_000, 0.45
    key_batch, key_bank, key_noise = jax.random.split(jax.random.key(3), 3)

    def one(key_batch, key_bank, noise):
        batch = jax.random.permutation(key_batch, 7)[:2]
        bank = POINTS[losses.draw_bank(key_bank, batch, 7, size=4)]
        x1 = POINTS[batch[0]]
        x = paths.interpolate(PATH, noise, x1, t)
        target = empirical.anchored_velocity(PATH, bank, noise, x1, t)
        exact = empirical.velocity(PATH, POINTS, x, t)
        conditional = x1 - noise
        # Tested against functions of the state, as a regression does.
        tests = jnp.stack([jnp.ones(2), jnp.sin(2 * x), jnp.cos(3 * x)])
        return tests * (target - exact)[None], tests * (conditional - exact)[None]

    keys = (jax.random.split(key_batch, count), jax.random.split(key_bank, count))
    efm, cfm = jax.jit(jax.vmap(one))(*keys, jax.random.normal(key_noise, (count, 2)))
    for gaps in (efm, cfm):
        error = gaps.std(axis=0) / count**0.5
        assert (jnp.abs(gaps.mean(axis=0)) < 5 * error).all()
    assert float(jnp.mean(efm[:, 0] ** 2)) < 0.6 * float(jnp.mean(cfm[:, 0] ** 2))


@pytest.mark.parametrize(
    ("batch", "size", "words"),
    [
        (jnp.zeros((2, 2), int), 3, r"\[b\] integers, got int.* of shape \(2, 2\)"),
        (jnp.zeros(2), 3, r"\[b\] integers, got float32"),
        (jnp.arange(4), 3, "from the 4 points of the batch to the 9 of the data set, got 3"),
        (jnp.arange(4), 10, "got 10"),
    ],
)
def test_wrong_draws_are_named(batch, size, words):
    with pytest.raises(ValueError, match=words):
        losses.draw_bank(jax.random.key(0), batch, 9, size=size)


@pytest.mark.slow
def test_wrong_banks_and_velocities_are_named():
    x = jnp.zeros(2)
    with pytest.raises(ValueError, match="the bank must have shape"):
        losses.efm(_field, PATH, jnp.zeros((0, 2)), x, x, 0.5)
    with pytest.raises(ValueError, match="sigma must be positive, got 0.0 at t = 1.0"):
        losses.efm(_field, PATH, POINTS, x, x, 1.0)
    with pytest.raises(ValueError, match="shapes must be equal"):
        losses.efm(lambda x, t: x[:1], PATH, POINTS, x, x, 0.5)
    with pytest.raises(ValueError, match=r"shapes must be equal.*target \(1,\)"):
        losses.efm(_field, PATH, POINTS, x, x, 0.5, target=lambda *_: x[:1])
    bank = empirical.prepare(POINTS)
    for call in (
        lambda: empirical.anchored_velocity(PATH, bank, x, x, 0.5),
        lambda: losses.efm(_field, PATH, bank, x, x, 0.5),
        lambda: losses.dm(_field, PATH, bank, x, x, 0.5, weight=1.0),
        lambda: losses.of_bank(PATH, bank, x, x, 0.5),
    ):
        with pytest.raises(ValueError, match=r"got a Bank.*refined_velocity or.*of_large_bank"):
            call()


@pytest.mark.parametrize(
    ("batch", "words"),
    [
        ([9, 1], "batch must be from 0 to 5, got 1 to 9"),
        ([-1, 1], "batch must be from 0 to 5, got -1 to 1"),
        ([3, 3, 1], "3 indices of the batch must be distinct, got 2 different ones"),
    ],
)
def test_a_batch_that_is_none_of_the_data_set_is_refused(batch, words):
    draw = lambda batch: losses.draw_bank(jax.random.key(0), batch, 6, size=4)
    constant = jnp.array(batch)
    with pytest.raises(ValueError, match=words):
        draw(jnp.array(batch))
    with pytest.raises(ValueError, match=words):
        jax.jit(lambda: draw(constant))()
    # A traced batch is not looked at.
    assert jax.jit(draw)(jnp.array(batch)).shape == (4,)
