"""The clock of the solvers: every step is taken, in low precision, near the end, and in no time.

The flow of the tests has the time in it: `dx/dt = 6 t (1 - t)` adds `F(t1) - F(t0)` to the state,
with `F(t) = 3 t^2 - 2 t^3`, whatever the state is.
"""

from functools import partial

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fmjax import path_error, paths, samplers

LOW = pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16], ids=["bfloat16", "float16"])
EULER = partial(samplers.fixed, solver=diffrax.Euler())


def _moving(x, t):
    return jnp.full_like(x, 6 * t * (1 - t))


def _moved(t0, t1):
    return (3 * t1**2 - 2 * t1**3) - (3 * t0**2 - 2 * t0**3)


def _gaussian(x, t):  # N(0, I) to N(0, I): the state grows as sqrt(t^2 + (1 - t)^2)
    return ((2 * t - 1) / (t**2 + (1 - t) ** 2)).astype(x.dtype) * x


@pytest.mark.slow
@LOW
def test_every_step_of_a_half_precision_state_is_taken(dtype):
    seen = []

    def field(x, t):
        jax.debug.callback(lambda t: seen.append(float(t)), t, ordered=True)
        assert (x.dtype, t.dtype) == (dtype, jnp.float32)  # the network's dtype, a clock's dtype
        return _moving(x, t)

    found = EULER(field, jnp.zeros((), dtype), num_steps=64)
    jax.effects_barrier()
    np.testing.assert_array_equal(seen, np.arange(64) / 64)
    by_hand = sum(6 * k / 64 * (1 - k / 64) for k in range(64)) / 64
    assert found.dtype == dtype
    assert float(found) == pytest.approx(by_hand, rel=float(jnp.finfo(dtype).eps))


@pytest.mark.slow
@LOW
def test_steps_shorter_than_the_precision_of_the_state_count(dtype):
    # 300 steps of bfloat16 were an error, and 100 stopped short: a step was rounded away.
    for solve in (partial(samplers.fixed, num_steps=300), samplers.adaptive):
        ours = solve(lambda x, t: x, jnp.ones((), dtype))
        assert float(ours) == pytest.approx(np.e, rel=float(jnp.finfo(dtype).eps))


@pytest.mark.slow
@LOW
def test_times_of_trajectories_and_pieces_and_jumps_are_not_rounded(dtype):
    times, x = np.array([0.0, 0.3, 0.611, 0.70, 0.999, 1.0]), jnp.zeros(2, dtype)
    close = partial(np.testing.assert_allclose, rtol=float(jnp.finfo(dtype).eps))
    states = samplers.trajectory(_moving, x, jnp.asarray(times, jnp.float32))
    close(states.astype(jnp.float32), np.stack([_moved(0, times)] * 2, axis=1))
    still = lambda x, t: jnp.zeros_like(x)
    pieces = samplers.hybrid([still, _moving, still], [0.0, 0.611, 0.701, 1.0], x)
    close(pieces.astype(jnp.float32), _moved(0.611, 0.701))
    average = lambda x, r, t: jnp.full_like(x, (_moved(t, r) / (r - t)))
    jumps = samplers.few_step(average, x, [0.611, 0.701])
    close(jumps.astype(jnp.float32), _moved(0.611, 0.701))
    assert states.dtype == pieces.dtype == jumps.dtype == dtype


@LOW
def test_draws_and_gaps_of_a_half_precision_state(dtype, key):
    # Data at one point: the draw is that point. With the clock of bfloat16 it was not reached.
    point = lambda x, t: ((2 - x) / (1 - t)).astype(x.dtype)
    draw = samplers.memoryless_sde(key, point, paths.linear(), jnp.zeros(3, dtype), 0.0)
    np.testing.assert_allclose(draw.astype(jnp.float32), 2.0, rtol=float(jnp.finfo(dtype).eps))
    # The two fields are 300 apart, the square of which float16 does not hold.
    far = lambda x, t: jnp.full_like(x, 300.0)
    gaps = path_error.gap_along_flow(
        lambda x, t: jnp.zeros_like(x), far, jnp.zeros(3, dtype), jnp.array([0.0, 0.7])
    )
    np.testing.assert_allclose(gaps, 9e4, rtol=1e-6)


def test_guidance_begins_and_ends_at_its_times_for_a_half_precision_state():
    one, two = lambda x, t: 0 * x + 1, lambda x, t: 0 * x + 2
    field = samplers.guided(two, one, scale=3.0, low=0.611, high=0.701)
    x = jnp.zeros((), jnp.bfloat16)
    values = [float(field(x, jnp.float32(t))) for t in (0.6105, 0.6115, 0.7005, 0.7015)]
    assert values == [2.0, 4.0, 4.0, 2.0]  # bfloat16 rounds 0.611 to 0.609 and 0.701 to 0.699
    assert field(x, jnp.float32(0.65)).dtype == jnp.bfloat16


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fixed", "adaptive"])
def test_a_short_interval_near_the_end_loses_no_step(name):
    # Growth by e in [0.99999, 1], a hundred rounding units of the time's last digit.
    start, end = np.float32(0.99999), np.float32(1.0)
    field = lambda x, t: x / (float(end) - float(start))
    solve = {"fixed": samplers.fixed, "adaptive": samplers.adaptive}[name]
    assert float(solve(field, jnp.array(1.0), start, end)) == pytest.approx(np.e, rel=1e-4)
    assert float(solve(field, jnp.array(1.0), end, start)) == pytest.approx(1 / np.e, rel=1e-4)


@pytest.mark.slow
def test_a_float32_state_beside_float64_times_and_networks(x64):
    x, knots = jnp.ones(2, jnp.float32), jnp.array([0.0, 0.25, 1.0])
    wide = lambda x, t: x.astype(jnp.float64)
    for out in (
        samplers.fixed(wide, x, knots[0], knots[2]),
        samplers.adaptive(wide, x),
        samplers.hybrid([wide, wide], knots, x),
        samplers.trajectory(wide, x, knots)[-1],
    ):
        np.testing.assert_allclose(out, np.e, rtol=1e-4)
        assert out.dtype == jnp.float32


SOLVES = {
    "fixed": partial(samplers.fixed, _gaussian),
    "adaptive": partial(samplers.adaptive, _gaussian),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SOLVES)
def test_an_example_that_has_nothing_to_do_stops_nobody(name):
    x, t0 = jnp.ones((3, 2)), jnp.array([0.2, 0.5, 1.0])
    ours = jax.vmap(lambda x, t: SOLVES[name](x, t, 1.0))(x, t0)
    exact = x / jnp.sqrt(t0**2 + (1 - t0) ** 2)[:, None]
    np.testing.assert_allclose(ours, exact, rtol=5e-5)
    np.testing.assert_array_equal(ours[2], x[2])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fixed", "adaptive"])
def test_no_time_passes_where_the_velocity_is_infinite(name):
    solve = {"fixed": samplers.fixed, "adaptive": samplers.adaptive}[name]
    to_a_point = lambda x, t: (2 - x) / (1 - t)
    end = jax.jit(lambda x, t: solve(to_a_point, x, t, t))
    assert float(end(jnp.array(0.3), 1.0)) == np.float32(0.3)
    assert float(solve(to_a_point, jnp.array(0.3), jnp.array(1.0), jnp.array(1.0))) == np.float32(
        0.3
    )


@pytest.mark.slow
def test_the_derivative_in_the_end_is_the_velocity_in_no_time_too():
    end = lambda t1, t0: samplers.fixed(_moving, jnp.array(0.0), t0, t1, num_steps=4)
    for t0, t1 in ((0.3, 0.3), (0.2, 0.7)):
        slope = jax.grad(end)(jnp.float32(t1), jnp.float32(t0))
        # Heun's rule of four steps, differentiated: exact at t0 = t1.
        h = 1e-3
        wanted = (float(end(t1 + h, t0)) - float(end(t1 - h, t0))) / (2 * h)
        assert float(slope) == pytest.approx(wanted, rel=2e-3)
    assert float(jax.grad(end)(jnp.float32(0.3), jnp.float32(0.3))) == pytest.approx(1.26)


@pytest.mark.slow
def test_repeated_times_repeat_the_state():
    x, times = jnp.array([1.0, -2.0]), jnp.array([0.0, 0.5, 0.5, 1.0])
    for solve in (samplers.fixed, samplers.adaptive):
        states = samplers.trajectory(_gaussian, x, times, solve=solve)
        np.testing.assert_array_equal(states[1], states[2])
        np.testing.assert_allclose(states[1:], np.array([0.5**0.5, 0.5**0.5, 1])[:, None] * x[None],
                                   rtol=1e-4)  # fmt: skip
    ends = samplers.hybrid([_gaussian, _gaussian], jnp.array([0.0, 1.0, 1.0]), x)
    np.testing.assert_allclose(ends, x, rtol=1e-4)


@pytest.mark.slow
def test_integers_of_numpy_count(key):
    x = jnp.array([1.0, -2.0])
    for count in (np.int64(5), np.arange(6)[5], np.array(5)):
        np.testing.assert_array_equal(
            samplers.fixed(_gaussian, x, num_steps=count),
            samplers.fixed(_gaussian, x, num_steps=5),
        )
    ours = samplers.adaptive(_gaussian, x, max_steps=np.int32(100))
    np.testing.assert_array_equal(ours, samplers.adaptive(_gaussian, x, max_steps=100))
    draw = partial(samplers.memoryless_sde, key, _gaussian, paths.linear(), x, 0.5)
    np.testing.assert_array_equal(draw(num_steps=np.int64(5)), draw(num_steps=5))
    grid = partial(
        path_error.bound, lambda x, t: -(x**2), lambda x, t: 0 * x, jnp.linspace(-3, 3, 9)
    )
    np.testing.assert_array_equal(
        grid(0.75, [0.0, 1.0], num_nodes=np.int64(2), batch_size=np.int64(4)),
        grid(0.75, [0.0, 1.0], num_nodes=2, batch_size=4),
    )
