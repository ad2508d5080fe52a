"""How a run lies on its devices: the rule, the compiled step, and the same losses in any layout."""

import collections
import functools
import json
import math
import re
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments.run import batches, calls, layout, loop
from fmjax import train

WIDTH = 128  # so that a matrix is as large as the smallest array that is split
ROWS = np.random.default_rng(0).normal(size=(40, WIDTH)).astype(np.float32) + 0.5
OPTIMIZER = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-2))


def loss(params, key, batch):
    """A noisy regression whose examples differ, so that a batch in another order shows."""
    noise = jax.random.normal(key, batch["x"].shape)
    hidden = jnp.tanh((batch["x"] + noise) @ params["first"])
    return jnp.mean((hidden @ params["second"] + params["bias"] - batch["x"] ** 2) ** 2)


def make_params(width=WIDTH):
    random = np.random.default_rng(1)
    draw = lambda: np.float32(random.normal(size=(width, width)) / width**0.5)
    return {"first": draw(), "second": draw(), "bias": np.zeros((1, width), np.float32)}


def fit(workdir, num_steps, model):
    with layout.split(model):
        return loop.fit(
            loss,
            make_params(),
            batches.batches(ROWS, 16, seed=0),
            OPTIMIZER,
            lambda params, _: {"average": float(np.sum(params["first"]))},
            workdir=workdir,
            num_steps=num_steps,
            seed=3,
            ema_decay=0.9,
            log_every=1,
            eval_every=2,
            save_every=2,
        )


def single_device(num_steps):
    """The losses and the averaged parameters of one device, by the step alone."""
    key, _ = jax.random.split(jax.random.key(3))
    step = jax.jit(train.make_step(loss, OPTIMIZER, ema_decay=0.9))
    state, losses = train.init(make_params(), OPTIMIZER), []
    for _, batch in zip(range(num_steps), batches.batches(ROWS, 16, seed=0)(0), strict=False):
        state, info = step(state, key, batch)
        losses.append(float(info.loss))
    return losses, state.ema_params


# The rule.


@pytest.mark.parametrize(
    ("shape", "count", "axis"),
    [
        ((256, 512), 8, 1),  # the largest
        ((512, 256), 8, 0),
        ((256, 256), 8, 1),  # the last of equals
        ((3, 3, 64, 128), 4, 3),
        ((3, 3, 128, 100), 8, 2),  # the largest that divides
        ((1001, 256), 4, 1),
        ((99, 999), 2, None),  # none divides
        ((127, 128), 4, None),  # too small
        ((), 4, None),
        ((512, 512), 1, None),  # one part
    ],
)
def test_the_largest_axis_that_divides_is_split(shape, count, axis):
    wanted = jax.P() if axis is None else jax.P(*[None] * axis, "model")
    assert layout.rule(shape, count) == wanted


@pytest.mark.parametrize("model", [0, 3, 16])
def test_devices_that_cannot_be_split_are_refused(model):
    message = f"model_devices must divide the 8 devices, got {model}: give one of 1, 2, 4, 8"
    with layout.split(model), pytest.raises(ValueError, match=message):
        layout.make_mesh()


def test_outside_its_context_a_split_ends():
    with layout.split(2), layout.split(4):
        assert dict(layout.make_mesh().shape) == {"data": 2, "model": 4}
    assert dict(layout.make_mesh().shape) == {"data": 8, "model": 1}


@pytest.mark.parametrize("order", [[0, 0, 1, 1, 2, 2, 3, 3], [2, 0, 1, 3, 3, 1, 0, 2]])
def test_the_processes_share_every_batch_without_overlap(monkeypatch, order):
    # A mesh of a TPU need not have the devices of a host side by side.
    owners = np.array([types.SimpleNamespace(process_index=index) for index in order])
    mesh = types.SimpleNamespace(devices=owners.reshape(4, 2), size=8)
    monkeypatch.setattr(layout, "make_mesh", lambda: mesh)
    monkeypatch.setattr(jax, "process_count", lambda: 4)
    shares = []
    for process in range(4):
        monkeypatch.setattr(jax, "process_index", lambda process=process: process)
        rows = layout.rows(16)
        shares.append(rows)
        assert [order[row // 2] for row in rows] == [process] * 4
        mine = next(batches.batches(ROWS, 16, seed=0)(3))["x"]
        monkeypatch.setattr(jax, "process_count", lambda: 1)
        np.testing.assert_array_equal(mine, next(batches.batches(ROWS, 16, seed=0)(3))["x"][rows])
        monkeypatch.setattr(jax, "process_count", lambda: 4)
    assert sorted(np.concatenate(shares)) == list(range(16))


# The compiled step.


def compiled(model, width):
    """The step for a network of this width, compiled without making an array of it."""
    with layout.split(model):
        mesh = layout.make_mesh()
    params = jax.eval_shape(lambda: {k: jnp.asarray(v) for k, v in make_params(8).items()})
    wide = lambda x: tuple(width if n == 8 else n for n in x.shape)
    params = jax.tree.map(lambda x: jax.ShapeDtypeStruct(wide(x), x.dtype), params)
    state = jax.eval_shape(lambda params: train.init(params, OPTIMIZER), params)
    placed = lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)
    state = jax.tree.map(placed, state, layout.of_state(mesh, state))
    batch = jax.NamedSharding(mesh, jax.P(("data", "model")))
    batch = {"x": jax.ShapeDtypeStruct((16, width), jnp.float32, sharding=batch)}
    step = calls.programs(loss, OPTIMIZER, 0.9, mesh).one
    return step.lower(state, jax.random.key(0), batch, None)


def collectives(program):
    names = re.findall(r" (all-gather|all-reduce|reduce-scatter|all-to-all)\(", program.as_text())
    return collections.Counter(names)


@pytest.mark.parametrize("model", [8, *(pytest.param(n, marks=pytest.mark.slow) for n in (2, 4))])
def test_a_device_holds_one_part_of_the_state(model):
    width = 4096  # 64 MiB for each matrix, 512 MiB with its average and the moments of Adam
    program = compiled(model, width).compile()
    matrices, rest = 2 * 4 * 4 * width**2, 4 * 4 * width
    held = program.memory_analysis().argument_size_in_bytes
    assert matrices / model < held < matrices / model + 2 * rest + 16 * width * 4
    # Every matrix is gathered for the loss, and nothing else moves but sums.
    found = collectives(program)
    assert found["all-gather"] == 2
    assert found["all-reduce"] + found["reduce-scatter"] > 0
    assert found["all-to-all"] == 0
    for leaf in jax.tree.leaves(program.output_shardings[0]):
        assert leaf.mesh.shape["model"] == model


@pytest.mark.slow
def test_whole_parameters_are_gathered_by_nobody():
    program = compiled(1, 4096).compile()
    assert set(collectives(program)) == {"all-reduce"}
    held = program.memory_analysis().argument_size_in_bytes
    assert held > 2 * 4 * 4 * 4096**2


# The same training in any layout.


def test_split_parameters_take_the_steps_of_numpy():
    optimizer = optax.sgd(4.0)
    linear = lambda w, _, batch: jnp.mean((batch["x"] @ w - 2.0 * batch["x"]) ** 2)
    with layout.split(4):
        mesh = layout.make_mesh()
    w, batch = np.float64(make_params()["first"]), {"x": ROWS[:16]}
    state = layout.made(mesh, functools.partial(train.init, optimizer=optimizer), np.float32(w))
    assert state.params.sharding.shard_shape(w.shape) == (WIDTH, WIDTH // 4)
    step, x = calls.programs(linear, optimizer, 0.0, mesh).one, np.float64(batch["x"])
    for _ in range(2):
        state, info = step(state, jax.random.key(0), layout.shard(mesh, batch), None)
        error = x @ w - 2.0 * x
        assert float(info.loss) == pytest.approx(np.mean(error**2), rel=1e-5)
        w = w - 4.0 * 2.0 * x.T @ error / error.size
    np.testing.assert_allclose(layout.on_host(state.params), w, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_a_run_is_split_and_another_layout_goes_on(tmp_path):
    losses, averaged = single_device(4)
    state = fit(tmp_path, 2, model=8)
    parts = state.ema_params["first"].sharding
    assert parts.spec == jax.P(None, "model")
    assert parts.shard_shape((WIDTH, WIDTH)) == (WIDTH, WIDTH // 8)
    assert state.ema_params["bias"].sharding.is_fully_replicated
    moments = [x for x in jax.tree.leaves(state.opt_state) if x.shape == (WIDTH, WIDTH)]
    assert len(moments) == 4
    assert all(x.sharding == parts for x in moments)
    state = fit(tmp_path, 4, model=1)  # from the checkpoint of the other layout
    assert state.ema_params["first"].sharding.is_fully_replicated
    lines = loop.run_folder.read_metrics(tmp_path)
    np.testing.assert_allclose([line["loss"] for line in lines], losses, rtol=1e-5)
    for name, array in averaged.items():
        np.testing.assert_allclose(state.ema_params[name], array, rtol=1e-4, atol=1e-6)
    assert math.isclose(lines[-1]["average"], float(np.sum(averaged["first"])), rel_tol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(("before", "after"), [(1, 8), (2, 4), (8, 2), (4, 4)])
def test_a_checkpoint_of_one_layout_restores_on_another(tmp_path, before, after):
    losses, _ = single_device(4)
    first = layout.on_host(fit(tmp_path, 2, model=before))
    again = layout.on_host(fit(tmp_path, 2, model=after))  # restored, not trained
    jax.tree.map(np.testing.assert_array_equal, first, again)
    fit(tmp_path, 4, model=after)
    lines = loop.run_folder.read_metrics(tmp_path)
    np.testing.assert_allclose([line["loss"] for line in lines], losses, rtol=1e-5)


def test_what_process_0_says_is_heard_by_all(monkeypatch):
    said = {"step": 7, "names": ["a", "b"]}
    own = np.frombuffer(json.dumps(said).encode(), np.uint8)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    # A broadcast gives every process what process 0 put in, and all put in arrays of one shape.
    sent = iter([np.int32(len(own)), own])

    def broadcast(given):
        first = next(sent)
        assert np.shape(given) == np.shape(first)
        return first

    monkeypatch.setattr(layout.multihost_utils, "broadcast_one_to_all", broadcast)
    assert layout.said_by_first({"step": 3}) == said
