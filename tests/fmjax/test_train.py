"""fmjax.train: one step against gradient descent by hand, and what a loop relies on."""

import importlib.metadata
from functools import partial

import chex
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fmjax import train
from fmjax.train import _compilation

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


@pytest.mark.slow
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


@pytest.mark.slow
def test_zero_decay_keeps_the_last_parameters(key, batch):
    optimizer = optax.adam(0.1)
    step = train.make_step(loss, optimizer, ema_decay=0.0)
    state, _ = step(train.init(PARAMS, optimizer), key, batch)
    chex.assert_trees_all_close(state.ema_params, state.params, rtol=1e-6)


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, jnp.float32, jnp.float64])
def test_the_average_follows_parameters_of_any_precision(key, x64, dtype):
    # sgd(1) puts the parameter on the batch: 3000 steps at 1, then 3000 at 1.25. The average by
    # hand in float64; half precision rounds 0.001 * 0.25 beside 1 away.
    optimizer = optax.sgd(1.0)
    batches = jnp.repeat(jnp.array([1.0, 1.25]), 3000)
    step = train.make_step(lambda p, k, b: 0.5 * jnp.sum((p - b.astype(dtype)) ** 2), optimizer)
    expected = 1.0
    for k, batch in enumerate(np.asarray(batches)):
        expected += (1 - min(0.999, (1 + k) / (10 + k))) * (batch - expected)
    state, _ = jax.lax.scan(
        lambda state, batch: (step(state, key, batch)[0], None),
        train.init(jnp.ones(2, dtype), optimizer),
        batches,
    )
    assert state.params.dtype == dtype
    assert state.ema_params.dtype == jnp.promote_types(dtype, jnp.float32)
    np.testing.assert_allclose(state.ema_params, expected, rtol=1e-5)
    assert 1.2 < expected < 1.25


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_the_gradient_norm_of_half_precision_is_summed_in_float32(key, dtype):
    # 4096 entries of 300: their squares are beyond float16, whose largest number is 65504.
    optimizer = optax.sgd(0.0)
    step = train.make_step(lambda p, *_: jnp.sum(300.0 * p.astype(jnp.float32)), optimizer)
    _, info = step(train.init(jnp.ones(4096, dtype), optimizer), key, None)
    assert info.grad_norm.dtype == jnp.float32
    np.testing.assert_allclose(info.grad_norm, 300.0 * 64.0, rtol=1e-2)


def nested(optimizer):
    return optax.chain(optax.clip(1e3), optimizer.gradient_transformation())


@pytest.mark.slow
@pytest.mark.parametrize("wrap", [lambda optimizer: optimizer, nested], ids=["plain", "nested"])
def test_accumulated_gradients_average_as_one_large_batch_does(key, wrap):
    quadratic = lambda p, k, b: 0.5 * jnp.mean((p - b) ** 2)
    batches = jax.random.gamma(jax.random.key(3), 2.0, (12, 3, 5))  # 12 updates of 3 micro batches
    whole, parts = optax.sgd(0.3), wrap(optax.MultiSteps(optax.sgd(0.3), every_k_schedule=3))
    large = train.make_step(quadratic, whole, ema_decay=0.7)
    small = jax.jit(train.make_step(quadratic, parts, ema_decay=0.7))
    one, many = train.init(jnp.array(4.0), whole), train.init(jnp.array(4.0), parts)
    for update in batches:
        before = many
        for batch in update[:-1]:
            many, _ = small(many, key, batch)
            assert many.ema_params == before.ema_params  # it stands still in between
        many, _ = small(many, key, update[-1])
        one, _ = large(one, key, update)
        np.testing.assert_allclose(many.params, one.params, rtol=1e-5)
        np.testing.assert_allclose(many.ema_params, one.ema_params, rtol=1e-5)
    assert abs(one.ema_params - one.params) > 1e-3
    assert int(many.step) == 36


@pytest.mark.slow
def test_a_lazy_optimizer_gets_the_loss_it_asks_for(key):
    # Polyak's step (f - 0) / |g|^2 g of p^2 is p / 2, by hand.
    polyak = optax.polyak_sgd(max_learning_rate=10.0)
    step = train.make_step(lambda p, *_: jnp.sum(p**2), polyak)
    state, _ = step(train.init(jnp.array([3.0, -1.0]), polyak), key, None)
    np.testing.assert_allclose(state.params, [1.5, -0.5], rtol=1e-5)
    # A skewed quadratic has its minimum at A^-1 b; lbfgs with its line search finds it.
    matrix, b = jnp.array([[3.0, 1.0], [1.0, 9.0]]), jnp.array([1.0, -2.0])
    lbfgs = optax.lbfgs()
    step = jax.jit(train.make_step(lambda p, *_: 0.5 * p @ matrix @ p - b @ p, lbfgs))
    state = train.init(jnp.array([5.0, 5.0]), lbfgs)
    for _ in range(12):
        state, _ = step(state, key, None)
    np.testing.assert_allclose(state.params, np.linalg.solve(matrix, b), atol=1e-4)
    # The plateau: a loss that never falls halves the rate, so the second step is half the first.
    plateau = optax.chain(
        optax.sgd(1.0), optax.contrib.reduce_on_plateau(factor=0.5, patience=1, cooldown=0)
    )
    step = train.make_step(lambda p, *_: jnp.sum(p) - jax.lax.stop_gradient(jnp.sum(p)), plateau)
    state, moved = train.init(jnp.array([0.0]), plateau), []
    for _ in range(4):
        after, _ = step(state, key, None)
        moved.append(float(state.params[0] - after.params[0]))
        state = after
    assert moved[0] == 1.0
    assert moved[-1] <= 0.5


@pytest.mark.slow
def test_the_dtypes_of_the_state_are_settled_before_the_first_step(key):
    # Hyperparameters in the state are float32 and widen the moments of a bfloat16 array.
    optimizer = optax.inject_hyperparams(optax.adamw)(learning_rate=1e-2)
    params = {"w": jnp.ones((2, 2)), "b": jnp.zeros(3, jnp.bfloat16)}
    loss = lambda p, *_: sum(jnp.sum((leaf - 1.0) ** 2) for leaf in jax.tree.leaves(p))
    state = train.init(params, optimizer)
    after, _ = jax.jit(train.make_step(loss, optimizer))(state, key, None)
    chex.assert_trees_all_equal_shapes_and_dtypes(state, after)


@pytest.mark.parametrize(
    ("params", "words"),
    [
        (eqx.nn.MLP(2, 2, 8, 1, key=jax.random.key(0)), r"custom_jvp at params\.activation.*eqx"),
        ({"w": jnp.ones(2), "n": jnp.arange(2)}, r"got int32 at params\['n'\]"),
        ({"w": 3}, "got int"),
        (optax.sgd(0.1), "got function at params"),
    ],
    ids=["module", "integers", "number", "optimizer"],
)
def test_parameters_that_are_no_floating_arrays_are_named(params, words):
    with pytest.raises(ValueError, match=words):
        train.init(params, optax.sgd(0.1))


@pytest.mark.parametrize("decay", [-0.1, 1.0, 1.5, float("nan")])
def test_decay_outside_its_range_is_refused(decay):
    with pytest.raises(ValueError, match=r"ema_decay must lie in \[0, 1\)"):
        train.make_step(loss, optax.sgd(0.1), ema_decay=decay)


def test_a_loss_per_example_is_refused(key):
    optimizer = optax.sgd(0.1)
    step = train.make_step(lambda params, _, batch: params * batch, optimizer)
    with pytest.raises(ValueError, match=r"must be a scalar, got shape \(3,\)"):
        step(train.init(jnp.array(1.0), optimizer), key, jnp.ones(3))


def test_a_loss_with_auxiliary_outputs_is_refused(key):
    optimizer = optax.sgd(0.1)
    step = train.make_step(lambda params, *_: (params**2, {"norm": params}), optimizer)
    with pytest.raises(ValueError, match="must be a scalar, got a tuple"):
        step(train.init(jnp.array(1.0), optimizer), key, None)


def test_the_compiler_options_change_products_not_at_all_and_convolutions_by_rounding():
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.gamma(1.0, size=(8, 9, 9, 5)), jnp.float32)
    w, m = jnp.asarray(rng.normal(size=(3, 3, 5, 7))), jnp.asarray(rng.normal(size=(7, 7)))

    def gradient(w, m):
        conv = partial(jax.lax.conv_general_dilated, window_strides=(1, 1), padding="SAME")
        layout = ("NHWC", "HWIO", "NHWC")
        return jax.grad(lambda w: (jnp.sin(conv(x, w, dimension_numbers=layout)) @ m).sum())(w)

    def product(w, m):
        return jnp.sin(w @ m) @ m

    with_options = partial(jax.jit, compiler_options=train.compiler_options())
    assert (with_options(product)(w, m) == jax.jit(product)(w, m)).all()
    with jax.enable_x64(True):
        exact = np.asarray(gradient(w, m))
    chex.assert_trees_all_close(with_options(gradient)(w, m), exact, atol=2e-4, rtol=2e-5)


def test_there_are_compiler_options_for_a_cpu_whose_compiler_knows_them(monkeypatch):
    version = tuple(map(int, importlib.metadata.version("jaxlib").split(".")[:2]))
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    if not (0, 8) < version < (0, 10):  # not tried in between
        assert bool(train.compiler_options()) == (version >= (0, 10))
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_experimental_ynn_fusion_type=reduce")
    assert train.compiler_options() == {}  # the user's own choice stands


def test_there_are_no_compiler_options_for_others(monkeypatch):
    monkeypatch.setattr(_compilation, "_OPTIONS", {"no_such_option": "1"})
    monkeypatch.setattr(_compilation, "_NAME", "no_such_option")
    _compilation._is_known.cache_clear()
    try:
        assert train.compiler_options() == {}
    finally:
        _compilation._is_known.cache_clear()
    monkeypatch.undo()
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert train.compiler_options() == {}
