"""Measurements a few examples at a time: on all devices, in order, every example once."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from experiments.run import batches


def test_every_device_computes_its_examples_and_the_results_keep_their_order(key):
    shapes = []

    def function(weights, keys, x):
        shapes.append((weights["w"].shape, x.shape))
        return {"sum": x * weights["w"].sum() + jax.vmap(jax.random.uniform)(keys)}

    keys, x = jax.random.split(key, 21), np.arange(21, dtype=np.float32)
    bound = functools.partial(function, {"w": np.float32([1.0, 2.0, -0.5])})
    for _ in range(2):
        found = batches.in_batches(bound, keys, x, size=12, label=None)
    # 12 is no multiple of the eight devices, 16 is; traced once for both calls and batches.
    assert shapes == [((3,), (2,))]
    expected = 2.5 * x + np.asarray(jax.vmap(jax.random.uniform)(keys))
    np.testing.assert_allclose(found["sum"], expected, rtol=1e-6)


def test_no_device_waits_for_another_one():
    # A loop that ends with the slowest example of all would have a sum over devices in it.
    halved = jax.vmap(lambda x: jax.lax.while_loop(lambda y: y > 1.0, lambda y: 0.5 * y, x))
    batches.in_batches(halved, np.full(8, 3.0, np.float32), size=8, label=None)
    (program,) = [p for p in _programs(halved) if "while" in p]
    assert not {"all-reduce", "all-gather"} & set(program.replace("(", " ").split())


def _programs(function):
    mesh = batches.layout.make_mesh()
    x = batches.layout.spread(jnp.full(8, 3.0), mesh)
    yield batches._on_each(function, mesh).lower((), (x,)).compile().as_text()


def test_only_what_has_a_label_is_said(capsys):
    function = jax.vmap(lambda x: x + 1.0)
    batches.in_batches(function, np.zeros(3, np.float32), size=8, label=None)
    assert capsys.readouterr().err == ""
    batches.in_batches(function, np.zeros(3, np.float32), size=8, label="zeros")
    assert capsys.readouterr().err == "zeros: 3 examples\n"


def test_fresh_draws_go_on_from_any_step_and_are_shared_by_the_processes(monkeypatch):
    draw = lambda rng: {"x": rng.normal(size=(6, 2)), "y": rng.integers(9, size=(6, 3))}
    start = batches.drawn(draw, 6, seed=5)
    first, second = (next(start(step)) for step in (3, 4))
    rng = np.random.default_rng([5, 0, 3])
    np.testing.assert_array_equal(first["x"], rng.normal(size=(6, 2)))
    np.testing.assert_array_equal(first["y"], rng.integers(9, size=(6, 3)))
    both = start(3)
    next(both)
    np.testing.assert_array_equal(next(both)["x"], second["x"])
    monkeypatch.setattr(batches.layout, "rows", lambda size: np.arange(size)[4:])
    own = next(batches.drawn(draw, 6, seed=5)(3))
    np.testing.assert_array_equal(own["y"], first["y"][4:])
