"""Empirical flow matching as a training: every method's loss against NumPy, from the same draws."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

import fmjax
from experiments.closed_form._efm import training
from experiments.images import data
from experiments.run import layout
from fmjax.models.perceptron import apply as perceptron

PIXELS = np.random.default_rng(3).integers(0, 17, (24, 3, 2, 1), dtype=np.uint8)
PIXELS[:, 0] //= 3  # skewed
DATA = jnp.asarray(data.centers(PIXELS, 17)).reshape(24, 6)
BANK = fmjax.empirical.prepare(
    jnp.asarray(PIXELS).reshape(24, 6), scale=2 / 17, shift=1 / 17 - 1
)  # fmt: skip
INDEX = jnp.array([5, 0, 17, 9])
PARAMS = fmjax.models.perceptron(jax.random.key(1), 6, width=5, depth=1)[1]
METHODS = training.methods(("OT-CFM", "EFM-n", "CFM"), (12, 6))
target = fmjax.empirical.anchored_velocity


def loss(method, data, target=target):
    """The loss of one batch and its key."""
    made = training.make_loss(perceptron, METHODS[method], target=target)
    return float(jax.jit(made)(PARAMS, jax.random.key(4), {"x": INDEX, "data": data}))


def draws(method):
    """What the loss draws from its key, before anything is made of it."""
    key_noise, key_couple, key_time, key_bank = jax.random.split(jax.random.key(4), 4)
    x0 = jax.random.normal(key_noise, (4, 6))
    x0, _ = METHODS[method].couple(key_couple, x0, DATA[INDEX])
    return np.float64(x0), np.float64(fmjax.times.stratified(key_time, (4,))), key_bank


def by_hand(method, bank_of):
    """The loss by a softmax over a bank `bank_of(i)` for each example, in float64."""
    x0, t, _ = draws(method)
    total = []
    for i, (noise, time) in enumerate(zip(x0, t, strict=True)):
        x = time * np.float64(DATA[INDEX[i]]) + (1 - time) * noise
        bank = np.float64(bank_of(i))
        logits = -((x - time * bank) ** 2).sum(axis=1) / (2 * (1 - time) ** 2)
        weights = np.exp(logits - logits.max())
        wanted = (weights / weights.sum()) @ (bank - x) / (1 - time)
        velocity = np.asarray(perceptron(PARAMS, jnp.float32(x), jnp.float32(time)))
        total.append(np.mean((velocity - wanted) ** 2))
    return np.mean(total)


def test_methods_are_those_that_were_asked_for_in_the_order_of_the_table():
    assert list(METHODS) == ["CFM", "OT-CFM", "EFM-6", "EFM-12", "EFM-n"]
    assert list(training.methods((), (7,))) == ["EFM-7"]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["CFM", "OT-CFM"])
def test_without_a_bank_the_target_is_that_of_the_pair(method):
    wanted = by_hand(method, lambda i: DATA[INDEX[i]][None])
    assert loss(method, DATA) == pytest.approx(wanted, rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("size", [6, 12])
def test_a_bank_is_the_batch_and_others(size):
    key = draws(f"EFM-{size}")[2]
    chosen = np.asarray(fmjax.losses.draw_bank(key, INDEX, 24, size=size))
    assert set(INDEX.tolist()) < set(chosen.tolist())
    wanted = by_hand(f"EFM-{size}", lambda _: DATA[chosen])
    assert loss(f"EFM-{size}", DATA) == pytest.approx(wanted, rel=1e-5)


@pytest.mark.slow
def test_the_whole_data_set_gives_the_exact_velocity_also_as_bytes():
    wanted = by_hand("EFM-n", lambda _: DATA)
    assert loss("EFM-n", DATA) == pytest.approx(wanted, rel=1e-5)
    refined = partial(fmjax.empirical.refined_velocity, chunk_size=10)
    assert loss("EFM-n", BANK, refined) == pytest.approx(wanted, rel=1e-5)
    assert training.count(BANK) == training.count(DATA) == 24


@pytest.mark.slow
def test_all_methods_see_the_same_noise_and_times_but_for_the_coupling():
    independent, optimal = draws("CFM"), draws("OT-CFM")
    for other in ("EFM-6", "EFM-n"):
        np.testing.assert_array_equal(draws(other)[0], independent[0])
    np.testing.assert_array_equal(optimal[1], independent[1])
    rows = lambda x0: sorted(map(tuple, x0))
    assert rows(optimal[0]) == rows(independent[0])
    costs = ((independent[0][:, None] - np.asarray(DATA[INDEX])[None]) ** 2).sum(axis=-1)
    least = costs[linear_sum_assignment(costs)].sum()
    assert ((optimal[0] - np.asarray(DATA[INDEX])) ** 2).sum() == pytest.approx(least, rel=1e-5)


@pytest.mark.slow
@pytest.mark.usefixtures("all_devices")
def test_a_bank_that_lies_over_the_devices_gives_the_losses_and_moves_no_points():
    pixels = np.random.default_rng(5).integers(0, 17, (512, 64), dtype=np.uint8) ** 2
    bank = fmjax.empirical.prepare(jnp.asarray(pixels), scale=2 / 256, shift=-1.0)
    params = fmjax.models.perceptron(jax.random.key(1), 64, width=8, depth=1)[1]
    target = partial(fmjax.empirical.refined_velocity, chunk_size=64)
    networks = training.Networks(methods=("CFM", "EFM-n"), banks=(32,))
    found = {}
    for model in (1, 4):
        with layout.split(model):
            mesh = layout.make_mesh()
            made = training.losses(perceptron, networks, target=target)
        data = layout.shared(mesh, bank)
        held = {shard.data.shape for shard in data.points.addressable_shards}
        assert held == {(512 // model, 64)}
        index = layout.shard(mesh, np.arange(3, 19, dtype=np.int32))
        arguments = (params, jax.random.key(4), {"x": index, "data": data})
        for name, loss in made.items():
            program = jax.jit(jax.value_and_grad(loss)).lower(*arguments).compile()
            found[name, model] = program(*arguments)
            moved = [line for line in program.as_text().splitlines() if " all-gather(" in line]
            assert not [line for line in moved if "u8[512,64]" in line or "f32[512" in line]
    for name in made:
        jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6), *(
            found[name, model] for model in (1, 4)
        ))  # fmt: skip
