"""A solver outside `jax.jit` is compiled once, and never with what was true at an earlier call."""

import types
from functools import partial

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from fmjax import models, paths, samplers

# The library looks at everything that a velocity refers to, but not into modules.
TRACES = types.ModuleType("traces")
EULER = partial(samplers.fixed, num_steps=2, solver=diffrax.Euler())  # dx/dt = a x: (1 + a / 2)^2 x
SCALE = 1.0


def _apply(params, x, t):
    TRACES.count += 1
    return params["a"] * x + 0 * t


def _scaled(x, t):
    return SCALE * x + 0 * t


@pytest.fixture(autouse=True)
def no_traces():
    TRACES.count = 0


def _ended(a):
    return (1 + a / 2) ** 2


@pytest.mark.parametrize("name", ["one", "batch"])
def test_a_network_with_other_parameters_is_not_compiled_again(name):
    x = jnp.array([1.0, -2.0])
    solve = {"one": lambda f: EULER(f, x), "batch": lambda f: jax.vmap(partial(EULER, f))(x)}[name]
    counts = []
    for a in (1.0, 1.0, -0.5):
        ours = solve(partial(_apply, {"a": jnp.array(a)}))
        np.testing.assert_allclose(ours, _ended(a) * x, rtol=1e-6)
        counts.append(TRACES.count)
    assert counts[0] > 0
    assert counts == counts[:1] * 3


@pytest.mark.slow
def test_another_option_is_another_program():
    x, field = jnp.ones(3), partial(_apply, {"a": jnp.array(1.0)})
    for num_steps in (1, 2):
        solve = partial(samplers.fixed, num_steps=num_steps, solver=diffrax.Euler())
        np.testing.assert_allclose(solve(field, x), (1 + 1 / num_steps) ** num_steps * x)


@pytest.mark.slow
def test_trajectories_draws_and_jumps_are_compiled_once(key):
    x, times, path = jnp.array([1.0, -2.0]), jnp.array([0.0, 0.5, 1.0]), paths.vp()
    field = lambda a: partial(_apply, {"a": jnp.array(a)})
    average = lambda a: lambda x, r, t: _apply({"a": a}, x, t)
    for call, wanted in (
        (
            lambda a: samplers.trajectory(field(a), x, times, solve=EULER)[-1],
            lambda a: (1 + a / 4) ** 4 * x,
        ),
        (lambda a: samplers.few_step(average(a), x, times), lambda a: _ended(a) * x),
        (lambda a: samplers.memoryless_sde(key, field(a), path, x, 0.5, num_steps=2), None),
    ):
        counts = []
        for _ in range(2):
            ends = call(0.5)
            counts.append(TRACES.count)
        assert counts[0] == counts[1]
        if wanted is not None:
            np.testing.assert_allclose(ends, wanted(0.5), rtol=1e-6)


@pytest.mark.slow
def test_an_adaptive_solve_of_a_function_and_of_its_like_is_compiled_once():
    params, counts = {"a": jnp.array(0.5)}, []
    for _ in range(2):
        field = lambda x, t: _apply(params, x, t)  # a new function that says the same
        ours = samplers.adaptive(field, jnp.array(1.0))
        assert float(ours) == pytest.approx(np.exp(0.5), rel=1e-4)
        counts.append(TRACES.count)
    assert counts == [counts[0], counts[0]]


@pytest.mark.slow
def test_a_global_name_that_stands_for_another_value_is_seen(monkeypatch):
    x = jnp.array(3.0)
    assert float(EULER(_scaled, x)) == pytest.approx(3 * _ended(1.0))
    monkeypatch.setitem(globals(), "SCALE", 2.0)
    assert float(EULER(_scaled, x)) == pytest.approx(3 * _ended(2.0))
    inner = partial(lambda f, x, t: f(x, t), _scaled)  # through a function that is bound
    assert float(EULER(inner, x)) == pytest.approx(3 * _ended(2.0))
    monkeypatch.setitem(globals(), "SCALE", -1.0)
    assert float(EULER(inner, x)) == pytest.approx(3 * _ended(-1.0))


class _Network:
    """An object whose attributes may be written to, as those of a module of nnx."""

    a = 1.0

    def __call__(self, x, t):
        return self.a * x + 0 * t


@pytest.mark.slow  # a program for every field
def test_what_is_written_to_in_place_is_seen():
    network = _Network()
    params, listed = {"a": jnp.array(1.0)}, [1.0]
    for a in (1.0, 2.0):
        params["a"] = listed[0] = network.a = a
        for field in (
            lambda x, t: params["a"] * x + 0 * t,
            lambda x, t: listed[0] * x + 0 * t,
            lambda x, t: network(x, t),
            network,
            network.__call__,
            samplers.guided(network, network, scale=2.0),
        ):
            assert float(EULER(field, jnp.array(3.0))) == pytest.approx(3 * _ended(a), rel=1e-6)


@pytest.mark.slow
def test_a_network_of_the_library_is_compiled_once_and_may_be_trained_on(key):
    apply, params = models.functional(models.MLP(2, width=4, depth=1, rngs=nnx.Rngs(0)))
    counted = lambda *inputs: (setattr(TRACES, "count", TRACES.count + 1), apply(*inputs))[1]
    counts, ends = [], []
    for scale in (1.0, 1.0, 2.0):
        trained = jax.tree.map(lambda p, scale=scale: p + scale * 0.1, params)
        ends.append(EULER(partial(counted, trained), jnp.ones(2)))
        straight = jnp.ones(2)
        for t in (0.0, 0.5):
            straight = straight + 0.5 * apply(trained, straight, jnp.float32(t))
        np.testing.assert_allclose(ends[-1], straight, rtol=1e-5)
        counts.append(TRACES.count)
    assert counts == counts[:1] * 3
    assert float(jnp.abs(ends[2] - ends[0]).max()) > 1e-3


@pytest.mark.slow
def test_integers_and_floats_are_different_constants():
    power = lambda n: lambda x, t: x * jnp.asarray(n).astype(float) * (2 if type(n) is int else 1)
    assert float(EULER(power(1), jnp.array(1.0))) == pytest.approx(_ended(2.0))
    assert float(EULER(power(1.0), jnp.array(1.0))) == pytest.approx(_ended(1.0))


@pytest.mark.slow
def test_gradients_reach_what_is_bound_and_what_is_enclosed():
    bound = lambda a: EULER(partial(_apply, {"a": a}), jnp.array(3.0))
    enclosed = lambda a: EULER(lambda x, t: a * x + 0 * t, jnp.array(3.0))
    for end in (bound, enclosed):
        for differentiate in (jax.grad, lambda f: jax.jit(jax.grad(f))):
            slope = differentiate(end)(jnp.array(0.5))
            assert float(slope) == pytest.approx(3 * (1 + 0.5 / 2), rel=1e-6)
