"""fmjax.train.repeat: several steps in one call are the single steps, bit for bit."""

from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from fmjax import losses, models, paths, times, train

OPTIMIZED = True  # what users run: bits depend on what XLA makes of a program

PARAMS = {"weight": jnp.array([[0.7, -0.2, 1.1], [-0.4, 0.5, 0.3]]), "bias": jnp.full(3, 0.1)}


def loss(params, key, batch):
    """A regression on inputs that the key disturbs, through a bend."""
    x, y = batch
    hidden = jnp.tanh((x + jax.random.normal(key, x.shape)) @ params["weight"])
    return jnp.mean((hidden.sum(-1) + params["bias"].sum() - y) ** 2)


def batches(count, dtype=np.float32):
    random = np.random.default_rng(0)
    x = random.gamma(2.0, size=(count, 16, 2)).astype(dtype)
    return x, (3.0 * x[..., 0] - x[..., 1]).astype(dtype)


def one_by_one(step, state, key, stacked):
    """The states' end and all infos of single calls, with the number of the batches."""
    step, infos = jax.jit(step), []
    for k in range(len(jax.tree.leaves(stacked)[0])):
        state, info = step(state, key, jax.tree.map(lambda x, k=k: x[k], stacked))
        infos.append(info)
    return state, jax.tree.map(lambda *x: jnp.stack(x), *infos)


def assert_same_bits(ours, theirs):
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for x, y in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert x.dtype == y.dtype
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            x, y = jax.random.key_data(x), jax.random.key_data(y)
        np.testing.assert_array_equal(x, y)


@pytest.mark.slow
def test_several_steps_in_any_parts_are_single_steps(key):
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(0.1))
    step, stacked = train.make_step(loss, optimizer), batches(6)
    wanted, infos = one_by_one(step, train.init(PARAMS, optimizer), key, stacked)
    steps, state, found = jax.jit(train.repeat(step)), train.init(PARAMS, optimizer), []
    for part in (slice(0, 2), slice(2, 6)):
        state, info = steps(state, key, jax.tree.map(lambda x, part=part: x[part], stacked))
        found.append(info)
    assert_same_bits(state, wanted)
    assert_same_bits(jax.tree.map(lambda *x: jnp.concatenate(x), *found), infos)
    assert len(set(infos.loss.tolist())) == 6


OPTIMIZERS = {
    "accumulation": optax.MultiSteps(optax.adam(0.1), every_k_schedule=2),
    "lbfgs": optax.lbfgs(),
    "plateau": optax.chain(optax.adam(0.1), optax.contrib.reduce_on_plateau()),
    "key": optax.chain(optax.add_noise(0.1, 0.55, key=0), optax.adam(0.1)),
    "schedule": optax.inject_hyperparams(optax.sgd)(optax.cosine_decay_schedule(0.1, 20)),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize(
    "dtype", [jnp.float32, jnp.bfloat16, pytest.param(jnp.float64, marks=pytest.mark.long)]
)
def test_every_state_of_an_optimizer_is_carried_whole(key, x64, name, dtype):
    optimizer = OPTIMIZERS[name]
    step, stacked = train.make_step(loss, optimizer), batches(5, dtype)
    params = jax.tree.map(lambda x: x.astype(dtype), PARAMS)
    ours = jax.jit(train.repeat(step))(train.init(params, optimizer), key, stacked)
    assert_same_bits(ours, one_by_one(step, train.init(params, optimizer), key, stacked))


NETWORKS = {
    "perceptron": lambda: models.perceptron(jax.random.key(0), 2, width=64, depth=3),
    "MLP": lambda: models.functional(models.MLP(2, width=48, rngs=nnx.Rngs(0))),
}


def flow_step(apply, optimizer):
    def flow(params, key, x1):
        key_noise, key_time = jax.random.split(key)
        x0, t = jax.random.normal(key_noise, x1.shape), times.stratified(key_time, x1.shape[:1])
        cfm = partial(losses.cfm, partial(apply, params), paths.linear())
        return jax.vmap(cfm)(x0, x1, t).mean()

    return train.make_step(flow, optimizer)


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [7, pytest.param(256, marks=pytest.mark.long)])
@pytest.mark.parametrize("name", NETWORKS)
def test_networks_take_the_same_steps_alone_and_in_one_call(key, name, batch_size):
    apply, params = NETWORKS[name]()
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-2))
    step = flow_step(apply, optimizer)
    stacked = jax.random.gamma(jax.random.key(3), 2.0, (5, batch_size, 2))
    ours = jax.jit(train.repeat(step))(train.init(params, optimizer), key, stacked)
    assert_same_bits(ours, one_by_one(step, train.init(params, optimizer), key, stacked))
    assert np.ptp(ours[1].loss) > 0


@pytest.mark.slow
def test_convolutions_differ_by_rounding(key):
    # XLA's CPU compiler turns the convolutions of a gradient into the form of its fast routine,
    # but not in loops. With sgd a rounding stays a rounding; Adam would divide it by its size.
    network = models.Conv1D((6, 2), channels=(8,), rngs=nnx.Rngs(0))
    (apply, params), optimizer = models.functional(network), optax.sgd(0.1)
    step = flow_step(apply, optimizer)
    stacked = jax.random.gamma(jax.random.key(3), 2.0, (3, 16, 6, 2))
    ours = jax.jit(train.repeat(step))(train.init(params, optimizer), key, stacked)
    wanted = one_by_one(step, train.init(params, optimizer), key, stacked)
    chex.assert_trees_all_close(ours, wanted, rtol=1e-4, atol=1e-5)
    if jax.default_backend() == "cpu":  # so that the docstring is corrected when it is no more so
        with pytest.raises(AssertionError, match="not equal"):
            assert_same_bits(ours, wanted)


def test_batches_without_arrays_need_a_number(key):
    # sgd(0.5) on the square of a difference puts the parameter on what the key draws.
    optimizer = optax.sgd(0.5)
    step = train.make_step(lambda p, key, _: (p - jax.random.uniform(key)) ** 2, optimizer)
    state, infos = train.repeat(step, num_steps=3)(train.init(jnp.ones(()), optimizer), key, None)
    drawn = [float(jax.random.uniform(jax.random.fold_in(key, k))) for k in range(3)]
    assert float(state.params) == pytest.approx(drawn[-1])
    befores = np.array([1.0, *drawn[:2]])
    np.testing.assert_allclose(infos.loss, (befores - drawn) ** 2, rtol=1e-4)


@pytest.mark.parametrize(
    ("stacked", "num_steps", "words"),
    [
        (None, None, "got no array: .* give num_steps"),
        (
            (np.zeros((3, 4)), np.zeros((2, 4))),
            None,
            r"one first axis, got \(3, 4\) at batches\[0\]",
        ),
        (np.zeros((3, 4)), 2, r"the first axis num_steps 2, got \(3, 4\)"),
        ({"x": np.zeros((0, 4))}, None, r"got \(0, 4\) at batches\['x'\]: stack"),
        ({"x": np.float32(1.0)}, None, r"got \(\) at batches\['x'\]"),
    ],
    ids=["none", "two lengths", "another number", "empty", "a number"],
)
def test_batches_that_are_not_stacked_are_refused(key, stacked, num_steps, words):
    steps = train.repeat(lambda state, key, batch: (state, None), num_steps=num_steps)
    with pytest.raises(ValueError, match=words):
        steps(train.init(PARAMS, optax.sgd(0.1)), key, stacked)


def test_what_is_no_step_is_refused():
    with pytest.raises(ValueError, match=r"step must be a function \(state, key, batch\) ->"):
        train.repeat(train.init(PARAMS, optax.sgd(0.1)))
    with pytest.raises(ValueError, match="num_steps must be at least 1, got 0: steps of a call"):
        train.repeat(lambda state, key, batch: (state, None), num_steps=0)
