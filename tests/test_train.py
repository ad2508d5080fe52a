"""fmjax.train: one step against gradient descent by hand, and what a loop relies on."""

import doctest

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fmjax import train

# The bias is weakly typed, which init must cure: see the test of the trace count.
PARAMS = {"weight": jnp.array([1.0, -2.0]), "bias": jnp.array(0.5)}


def loss(params, key, batch):
    """A least-squares loss on inputs that the key disturbs."""
    x, y = batch
    noise = jax.random.normal(key, x.shape)
    residual = (x + noise) @ params["weight"] + params["bias"] - y
    return jnp.mean(residual**2)


@pytest.fixture
def batch():
    x = np.random.default_rng(0).normal(size=(16, 2)).astype(np.float32)
    return jnp.asarray(x), jnp.asarray(3.0 * x[:, 0] - x[:, 1] + 0.3)


def gradient_by_hand(params, key, batch):
    """The gradient of `loss`, differentiated on paper, in NumPy float64."""
    x, y = (np.asarray(array, np.float64) for array in batch)
    x = x + np.asarray(jax.random.normal(key, x.shape), np.float64)
    residual = x @ params["weight"] + params["bias"] - y
    return (
        {"weight": 2.0 * residual @ x / len(y), "bias": 2.0 * residual.mean()},
        np.mean(residual**2),
    )


def test_step_equals_gradient_descent_by_hand(key, batch):
    rate, num_steps, decay_max = 0.05, 15, 0.5
    optimizer = optax.sgd(rate)
    step = jax.jit(train.make_step(loss, optimizer, ema_decay=decay_max))
    state = train.init(PARAMS, optimizer)
    params = {name: np.asarray(value, np.float64) for name, value in PARAMS.items()}
    ema = dict(params)
    for k in range(num_steps):
        state, info = step(state, key, batch)
        gradient, value = gradient_by_hand(params, jax.random.fold_in(key, k), batch)
        norm = np.sqrt(sum((g**2).sum() for g in gradient.values()))
        np.testing.assert_allclose(info.loss, value, rtol=1e-4)
        np.testing.assert_allclose(info.grad_norm, norm, rtol=1e-4)
        params = {name: params[name] - rate * gradient[name] for name in params}
        decay = min(decay_max, (1 + k) / (10 + k))
        ema = {name: decay * ema[name] + (1 - decay) * params[name] for name in params}
    assert min(decay_max, num_steps / (9 + num_steps)) == decay_max  # both branches were met
    assert int(state.step) == num_steps
    for name in params:
        np.testing.assert_allclose(state.params[name], params[name], rtol=1e-4)
        np.testing.assert_allclose(state.ema_params[name], ema[name], rtol=1e-4)
        assert abs(ema[name] - params[name]).max() > 1e-2  # the two differ, so a mix-up shows


def test_zero_decay_keeps_the_last_parameters(key, batch):
    optimizer = optax.adam(0.1)
    step = train.make_step(loss, optimizer, ema_decay=0.0)
    state, _ = step(train.init(PARAMS, optimizer), key, batch)
    chex.assert_trees_all_close(state.ema_params, state.params, rtol=1e-6)


def test_the_optimizer_sees_parameters_and_its_own_state(key, batch):
    """AdamW needs the parameters and its moments; the reference is optax called by hand."""
    optimizer = optax.adamw(0.1, weight_decay=0.3)
    step = train.make_step(loss, optimizer)
    state = train.init(PARAMS, optimizer)
    params, opt_state = PARAMS, optimizer.init(PARAMS)
    for k in range(3):
        state, _ = step(state, key, batch)
        gradient = jax.grad(loss)(params, jax.random.fold_in(key, k), batch)
        updates, opt_state = optimizer.update(gradient, opt_state, params)
        params = optax.apply_updates(params, updates)
    chex.assert_trees_all_close(state.params, params, rtol=1e-5)
    chex.assert_trees_all_close(state.opt_state, opt_state, rtol=1e-5)


def test_grad_norm_is_taken_before_clipping(key, batch):
    optimizer = optax.chain(optax.clip_by_global_norm(1e-3), optax.sgd(1.0))
    state, info = train.make_step(loss, optimizer)(train.init(PARAMS, optimizer), key, batch)
    assert info.grad_norm > 0.1
    moved = optax.tree.norm(optax.tree.sub(state.params, PARAMS))
    np.testing.assert_allclose(moved, 1e-3, rtol=1e-3)


def test_every_step_draws_other_noise_and_a_resumed_run_repeats_it(key, batch):
    optimizer = optax.sgd(0.0)  # the parameters stand still, so only the key changes the loss
    step = jax.jit(train.make_step(loss, optimizer))
    state = train.init(PARAMS, optimizer)
    losses, states = [], []
    for _ in range(4):
        states.append(state)
        state, info = step(state, key, batch)
        losses.append(float(info.loss))
    assert len(set(losses)) == 4
    _, again = step(states[2], key, batch)
    assert float(again.loss) == losses[2]
    _, other = step(states[2], jax.random.key(1), batch)
    assert float(other.loss) != losses[2]


def keep_parameters() -> optax.GradientTransformation:
    """Plain descent whose state holds the parameters themselves, as schedule-free ones do."""
    sgd = optax.sgd(0.1)

    def update(gradient, state, params):
        updates, inner = sgd.update(gradient, state[0], params)
        return updates, (inner, state[1])

    return optax.GradientTransformation(lambda params: (sgd.init(params), params), update)


@pytest.mark.parametrize(
    "optimizer", [optax.adam(0.1), keep_parameters()], ids=["adam", "aliasing"]
)
def test_state_can_be_donated_and_the_callers_parameters_live(key, batch, optimizer):
    params = jax.tree.map(jnp.copy, PARAMS)
    state = train.init(params, optimizer)
    step = jax.jit(train.make_step(loss, optimizer), donate_argnums=0)
    first = state
    for _ in range(2):
        state, info = step(state, key, batch)
    assert first.params["weight"].is_deleted()  # donation took place
    assert params["weight"].tolist() == [1.0, -2.0]
    assert jnp.isfinite(info.loss)


def test_jitted_step_is_traced_once(key, batch):
    traces = []

    def counted(*arguments):
        traces.append(1)
        return loss(*arguments)

    optimizer = optax.adam(0.1)
    step = jax.jit(train.make_step(counted, optimizer))
    state = train.init(PARAMS, optimizer)
    for _ in range(4):
        state, _ = step(state, key, batch)
    assert int(state.step) == 4
    assert len(traces) == 1


def test_state_and_info_are_plain_trees_of_stable_dtype(key, batch):
    optimizer = optax.adam(0.1)
    state = train.init(PARAMS, optimizer)
    assert state._fields == ("step", "params", "ema_params", "opt_state")
    after, info = jax.jit(train.make_step(loss, optimizer))(state, key, batch)
    assert info._fields == ("loss", "grad_norm")
    chex.assert_trees_all_equal_shapes_and_dtypes(state, after)
    assert state.step.dtype == jnp.int32
    for value in info:
        assert value.shape == ()
        assert value.dtype == jnp.float32


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float64], ids=["bfloat16", "float64"])
def test_average_keeps_the_dtype_of_the_parameters(key, x64, dtype):
    optimizer = optax.sgd(0.1)
    step = train.make_step(lambda params, *_: (params**2).sum(), optimizer)
    state, _ = step(train.init(jnp.ones(2, dtype), optimizer), key, None)
    assert state.params.dtype == dtype
    assert state.ema_params.dtype == dtype
    np.testing.assert_allclose(state.ema_params.astype(float), 0.1 + 0.9 * 0.8, rtol=1e-2)


@pytest.mark.parametrize("decay", [-0.1, 1.0, 1.5, float("nan")])
def test_decay_outside_its_range_is_refused(decay):
    with pytest.raises(ValueError, match=r"ema_decay must lie in \[0, 1\)"):
        train.make_step(loss, optax.sgd(0.1), ema_decay=decay)


def test_a_loss_per_example_is_refused(key):
    optimizer = optax.sgd(0.1)
    step = train.make_step(lambda params, _, batch: params * batch, optimizer)
    with pytest.raises(ValueError, match=r"must be a scalar, got shape \(3,\)"):
        step(train.init(jnp.array(1.0), optimizer), key, jnp.ones(3))


def test_examples_in_the_documentation_run():
    result = doctest.testmod(train)
    assert result.failed == 0
    assert result.attempted > 5
