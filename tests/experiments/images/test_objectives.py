"""The losses of the image experiments: their value by hand, their noise, where dropout is on."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fmjax
from experiments.images import data, objectives, training, unet
from experiments.images.options import FlowTraining
from experiments.uncertainty import meanflow
from fmjax import losses

PIXELS = np.random.default_rng(0).integers(0, 17, (8, 4, 3, 1), dtype=np.uint8)
IMAGES = data.Images(PIXELS, PIXELS[::-1], 17)
BATCH = {"x": jnp.asarray(PIXELS)}


def _draws(key):
    """What both losses draw first: the dequantized images and the noise."""
    key_bins, key_noise, key_time, _ = jax.random.split(key, 4)
    x1 = data.dequantize(key_bins, BATCH["x"], 17)
    return np.asarray(x1), np.asarray(jax.random.normal(key_noise, x1.shape)), key_time


def _each(values):
    return np.asarray(values).reshape(-1, 1, 1, 1)


@pytest.mark.slow
def test_the_flow_loss_by_hand():
    x1, x0, key_time = _draws(jax.random.key(3))
    t = _each(fmjax.times.stratified(key_time, (8,)))
    v = 1.5 * (t * x1 + (1 - t) * x0) + t**2
    loss = objectives.flow_loss(lambda params, x, t, key=None: params * x + t**2, 17)
    ours = loss(1.5, jax.random.key(3), BATCH)
    assert float(ours) == pytest.approx(np.mean((v - (x1 - x0)) ** 2), rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("moments", [None, unet.Moments(0.3, 0.5)], ids=["plain", "conditioned"])
@pytest.mark.parametrize("name", ["divergence_weight", "jacobian_weight"])
def test_the_penalty_by_hand(name, moments):
    x1, x0, key_time = _draws(jax.random.key(3))
    times = fmjax.times.stratified(key_time, (8,))
    keys = jax.random.split(jax.random.split(jax.random.key(3), 4)[3], 8)

    def field(params, x, t, key=None):
        return params * x + t**2

    expected = []
    for key, a, b, t in zip(keys, x0, x1, times, strict=True):
        target = losses.of_pair(unet.path, a, b, t)
        # Of the matrix 1.5 I every probe of signs tells the divergence, 1.5 d.
        matching = functools.partial(losses.match_trace, divergence=fmjax.divergence.exact)
        if name == "jacobian_weight":
            matching = functools.partial(losses.match_jacobian, jax.random.fold_in(key, 1))
        value, penalty = matching(lambda x, t=t: field(1.5, x, t), target)
        # One over the variance of what no linear function of the state explains.
        weight = 1.0 if moments is None else (t**2 * 0.25 + (1 - t) ** 2) / 0.25
        expected.append(weight * (np.mean((value - (b - a)) ** 2) + 0.7 * penalty))
    loss = functools.partial(objectives.flow_loss, field, 17, moments=moments)
    penalized = loss(penalty=objectives.penalty_for(FlowTraining(**{name: 0.7})))
    found = float(penalized(1.5, jax.random.key(3), BATCH))
    assert found == pytest.approx(float(np.mean(expected)), rel=1e-4)
    assert found > 1.05 * float(loss()(1.5, jax.random.key(3), BATCH))


def test_one_penalty_at_a_time():
    assert objectives.penalty_for(FlowTraining()) is None
    # The same options compile the same loss once.
    assert objectives.penalty_for(FlowTraining(jacobian_weight=2.0)) == objectives.penalty_for(
        FlowTraining(jacobian_weight=2.0)
    )
    with pytest.raises(ValueError, match="one of divergence_weight 1.0 and jacobian_weight 2.0"):
        FlowTraining(divergence_weight=1.0, jacobian_weight=2.0).check()
    with pytest.raises(ValueError, match="divergence_weight"):
        FlowTraining(divergence_weight=-1.0).check()


@pytest.mark.slow
def test_the_loss_uses_dropout_and_the_evaluation_does_not():
    seen = []

    def apply(params, x, t, key=None):
        seen.append(key is not None)
        return params * x

    objectives.flow_loss(apply, 17)(1.0, jax.random.key(0), BATCH)
    assert seen == [True]
    evaluate = objectives.held_out_loss(apply, IMAGES, jax.random.key(7))
    first = evaluate(1.0, jax.random.key(0))
    assert seen[1:] == [False]
    assert first == evaluate(1.0, jax.random.key(1))  # the same noise every time
    assert first != evaluate(2.0, jax.random.key(0))


@pytest.mark.slow
def test_every_image_of_a_batch_drops_its_own_features():
    rows = []

    def apply(params, x, t, key=None):
        rows.append(key)
        return params * x * jax.random.bernoulli(key, 0.5, x.shape)

    loss = objectives.flow_loss(apply, 17)
    first, again, other = (float(loss(1.0, jax.random.key(i), BATCH)) for i in (0, 0, 1))
    assert first == again != other
    assert rows[0].shape == ()  # one key for one example, under vmap


def test_the_average_velocity_shows_the_network_the_time_and_the_length():
    seen = lambda params, x, t, h, key=None: jnp.stack([t, h])
    u = meanflow.average(seen, None)
    np.testing.assert_allclose(u(jnp.zeros(2), 0.75, 0.25), [0.25, 0.5])
    np.testing.assert_allclose(
        meanflow.slice_of(seen, None, jnp.zeros(2), jnp.float32(0.25)), [0.25, 0.0]
    )


def _meanflow_network(params, x, t, h, key=None):
    """Smooth, and of t and h each in its own way."""
    return params * x * t + h * x + t**2 - 3 * h


def _meanflow_loss(fraction_equal, power=0.0):
    pairs = meanflow.Pairs(fraction_equal=fraction_equal, power=power, time_mean=0.4, time_std=0.8)
    return meanflow.make_loss(_meanflow_network, 17, pairs)


def _meanflow_by_hand(key, fraction_equal):
    """Every example's loss, with the derivative along the flow written out."""
    x1, x0, key_time = _draws(key)
    sampler = functools.partial(fmjax.times.logit_normal, mean=0.4, std=0.8)
    r, t = fmjax.times.intervals(key_time, (8,), sampler=sampler, fraction_equal=fraction_equal)
    r, t = _each(r), _each(t)
    x, v, h = t * x1 + (1 - t) * x0, x1 - x0, r - t
    u = 1.5 * x * t + h * x + t**2 - 3 * h
    # Along the flow x moves with v, t with 1 and h with -1.
    along = (1.5 * t + h) * v + 1.5 * x + 2 * t - (x - 3)
    return np.mean((u - (v + h * along)) ** 2, axis=(1, 2, 3)), h


@pytest.mark.slow
def test_the_meanflow_loss_by_hand():
    key = jax.random.key(3)
    losses, h = _meanflow_by_hand(key, 0.0)
    assert (h > 0).all()
    assert float(_meanflow_loss(0.0)(1.5, key, BATCH)) == pytest.approx(losses.mean(), rel=1e-5)
    # The paper's weight 1 / (sum of squares + 1e-3), up to the number of entries.
    weighed = np.mean(losses / (losses + 1e-3 / 12))
    assert float(_meanflow_loss(0.0, 1.0)(1.5, key, BATCH)) == pytest.approx(weighed, rel=1e-5)


@pytest.mark.slow
def test_with_equal_times_the_meanflow_loss_is_that_of_its_slice():
    key = jax.random.key(4)
    x1, x0, key_time = _draws(key)
    sampler = functools.partial(fmjax.times.logit_normal, mean=0.4, std=0.8)
    _, t = fmjax.times.intervals(key_time, (8,), sampler=sampler, fraction_equal=1.0)
    velocity = functools.partial(meanflow.slice_of, _meanflow_network, 1.5)
    cfm = functools.partial(fmjax.losses.cfm, velocity, training.path)
    ours = _meanflow_loss(1.0)(1.5, key, BATCH)
    np.testing.assert_allclose(ours, jax.vmap(cfm)(x0, x1, t).mean(), rtol=1e-5)
    assert float(ours) == pytest.approx(_meanflow_by_hand(key, 1.0)[0].mean(), rel=1e-5)


@pytest.mark.slow
def test_the_meanflow_loss_uses_dropout():
    seen = []

    def apply(params, x, t, h, key=None):
        seen.append(key)
        return params * x

    meanflow.make_loss(apply, 17, meanflow.Pairs())(1.0, jax.random.key(0), BATCH)
    assert seen
    assert all(key is not None and key.shape == () for key in seen)


@pytest.mark.slow
def test_the_steps_of_a_sample_are_those_of_the_library():
    noise = jax.random.normal(jax.random.key(0), (4, 3, 1))
    u = meanflow.average(_meanflow_network, 1.5)
    for steps in (1, 4):
        ours = meanflow._few(_meanflow_network, steps, 1.5, noise)
        knots = [i / steps for i in range(steps + 1)]
        np.testing.assert_allclose(
            ours, fmjax.samplers.few_step(u, noise, knots), rtol=1e-5, atol=1e-6
        )
    # Euler by hand.
    ours = meanflow._euler(lambda params, x, t: params * t * x, 2, 3.0, noise)
    np.testing.assert_allclose(ours, noise * (1 + 0.5 * 3.0 * 0.5), rtol=1e-5)


@pytest.mark.slow
def test_the_rate_warms_up_and_ends_at_a_fiftieth():
    optimizer = training.adamw(0.5, 0.0, 1000)
    state, sizes = optimizer.init(jnp.zeros(1)), []
    step = jax.jit(optimizer.update)
    for _ in range(1001):
        update, state = step(jnp.ones(1), state, jnp.zeros(1))
        sizes.append(abs(float(update[0])))
    # Of a constant gradient Adam's step is the learning rate.
    assert sizes[0] == 0.0
    assert sizes[50] == pytest.approx(0.25, rel=1e-3)
    assert max(sizes) == pytest.approx(0.5, rel=1e-3)
    assert sizes[1000] == pytest.approx(0.01, rel=1e-2)


@pytest.mark.slow
def test_a_conditioned_network_starts_at_the_best_linear_velocity():
    # The U-Net starts at zero, so that its velocity is a straight line of each pixel.
    moments = unet.moments_for(FlowTraining(conditioned=True), IMAGES)
    x1 = np.asarray(data.dequantize(jax.random.key(1), jnp.asarray(IMAGES.train), IMAGES.levels))
    np.testing.assert_allclose(moments, (x1.mean(), x1.std()), rtol=0.02, atol=0.02)
    apply, init = unet.network(IMAGES.train.shape[1:], (8,), 1, 0.0, moments)
    x, (mean, std) = jnp.asarray(x1[0]), moments
    slope = (0.25 * std**2 - 0.75) / ((0.25 * std) ** 2 + 0.75**2)
    wanted = mean + slope * (x - 0.25 * mean)
    np.testing.assert_allclose(apply(init(0), x, 0.25), wanted, rtol=1e-4, atol=1e-5)


def test_the_loss_of_a_conditioned_network_weights_all_times_alike():
    moments = unet.Moments(0.3, 0.5)
    x1, x0, key_time = _draws(jax.random.key(3))
    t = _each(fmjax.times.stratified(key_time, (8,)))
    weight = ((t * 0.5) ** 2 + (1 - t) ** 2) / 0.5**2
    v = 1.5 * (t * x1 + (1 - t) * x0)
    loss = objectives.flow_loss(lambda params, x, t, key=None: params * x, 17, moments=moments)
    ours = loss(1.5, jax.random.key(3), BATCH)
    assert float(ours) == pytest.approx(np.mean(weight * (v - (x1 - x0)) ** 2), rel=1e-5)
    assert unet.moments_for(FlowTraining(), IMAGES) is None
