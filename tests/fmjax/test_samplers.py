"""Solvers against flows with a known solution."""

from functools import partial

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fmjax import samplers
from tests import slow

MATRIX = np.array([[0.3, -1.2], [1.2, -0.4]])
SOLVERS = {
    "fixed": samplers.fixed,
    "adaptive": partial(samplers.adaptive, rtol=1e-6, atol=1e-6),
}


def _linear(x, t):
    """dx/dt = 2 t A x, so x(t) = exp((t^2 - s^2) A) x(s)."""
    return 2 * t * (jnp.asarray(MATRIX, x.dtype) @ x)


def _exact(x, t0, t1):
    return jax.scipy.linalg.expm((t1**2 - t0**2) * jnp.asarray(MATRIX, x.dtype)) @ x


@pytest.mark.slow
@pytest.mark.parametrize("interval", [(0.0, 1.0), (1.0, 0.0), (0.2, 0.7), (0.9, 0.1)])
@pytest.mark.parametrize("name", SOLVERS)
def test_forwards_and_backwards_against_the_matrix_exponential(name, interval):
    x = jnp.array([1.0, -2.0])
    ours = SOLVERS[name](_linear, x, *interval)
    np.testing.assert_allclose(ours, _exact(x, *interval), atol=2e-4 if name == "fixed" else 1e-5)


@pytest.mark.slow
@slow.but_the_first(
    ("solver", "order"),
    [(diffrax.Euler(), 1), (diffrax.Heun(), 2), (diffrax.Ralston(), 2)],
)
def test_fixed_steps_converge_with_the_order_of_the_solver(solver, order, x64):
    x = jnp.array([1.0, -2.0])
    errors = [
        jnp.linalg.norm(
            samplers.fixed(_linear, x, num_steps=n, solver=solver) - _exact(x, 0.0, 1.0)
        )
        for n in (20, 40)
    ]
    assert float(jnp.log2(errors[0] / errors[1])) == pytest.approx(order, abs=0.15)


@pytest.mark.slow
def test_fixed_takes_exactly_the_steps_it_was_told():
    # One Euler step of dx/dt = x doubles x; no step may be added by rounding.
    for n in (1, 3, 7, 10, 100):
        ours = samplers.fixed(lambda x, t: x, jnp.array(1.0), num_steps=n, solver=diffrax.Euler())
        assert float(ours) == pytest.approx((1 + 1 / n) ** n, rel=1e-5)


@pytest.mark.slow
def test_tighter_tolerances_err_less(x64):
    x, truth = jnp.array([1.0, -2.0]), _exact(jnp.array([1.0, -2.0]), 0.0, 1.0)
    errors = [
        float(jnp.linalg.norm(samplers.adaptive(_linear, x, rtol=tol, atol=tol) - truth))
        for tol in (1e-3, 1e-6, 1e-9)
    ]
    assert errors[0] > 30 * errors[1]
    assert errors[1] > 30 * errors[2]


@pytest.mark.slow
@slow.but_the_first("name", SOLVERS)
def test_one_example_never_depends_on_the_others(name):
    # A stiff neighbor must not change anybody's steps.
    stiff = lambda x, t: -x * (1 + x**2)
    alone = jax.vmap(partial(SOLVERS[name], stiff))(jnp.array([0.3]))
    beside = jax.vmap(partial(SOLVERS[name], stiff))(jnp.array([0.3, 9.0]))
    np.testing.assert_allclose(beside[0], alone[0], rtol=1e-6)


@pytest.mark.slow
def test_any_pytree_moves():
    field = lambda state, t: {"a": state["a"], "b": (2 * t * jnp.ones(2),)}
    out = samplers.adaptive(field, {"a": jnp.array(1.0), "b": (jnp.zeros(2),)})
    assert float(out["a"]) == pytest.approx(np.e, rel=1e-4)
    np.testing.assert_allclose(out["b"][0], 1.0, rtol=1e-5)


@pytest.mark.slow
def test_trajectories_pass_through_the_solution_at_every_time():
    x, times = jnp.array([1.0, -2.0]), jnp.array([0.0, 0.3, 0.4, 1.0])
    for solve in SOLVERS.values():
        states = samplers.trajectory(_linear, x, times, solve=solve)
        truth = jnp.stack([_exact(x, 0.0, t) for t in times])
        np.testing.assert_allclose(states, truth, atol=1e-4)
        back = samplers.trajectory(_linear, states[-1], times[::-1], solve=solve)
        np.testing.assert_allclose(back[-1], x, atol=5e-4)


@pytest.mark.slow
def test_hybrid_is_one_solve_after_the_other():
    x = jnp.array([1.0, -2.0])
    still = lambda x, t: jnp.zeros_like(x)
    ours = samplers.hybrid([_linear, still, _linear], [0.0, 0.4, 0.6, 1.0], x)
    np.testing.assert_allclose(ours, _exact(_exact(x, 0.0, 0.4), 0.6, 1.0), atol=1e-4)


@pytest.mark.slow
def test_average_velocities_jump_exactly():
    # The flow above has the average velocity (exp((r^2 - t^2) A) - I) x / (r - t).
    average = lambda x, r, t: (_exact(x, t, r) - x) / (r - t)
    x = jnp.array([1.0, -2.0])
    np.testing.assert_allclose(samplers.one_step(average, x), _exact(x, 0.0, 1.0), rtol=1e-5)
    ours = samplers.few_step(average, x, [0.0, 0.25, 0.5, 1.0])
    np.testing.assert_allclose(ours, _exact(x, 0.0, 1.0), rtol=1e-5)


@pytest.mark.slow
def test_hybrid_reaches_both_ends_of_the_switch():
    x = jnp.array([1.0, -2.0])
    still = lambda x, t: jnp.zeros_like(x)
    for tau, truth in ((0.0, _exact(x, 0.0, 1.0)), (1.0, x)):
        ours = samplers.hybrid([still, _linear], [0.0, tau, 1.0], x)
        np.testing.assert_allclose(ours, truth, atol=2e-4)


@pytest.mark.slow
def test_integers_are_states_too():
    ours = samplers.fixed(lambda x, t: x, jnp.array([1, 2]), num_steps=50)
    np.testing.assert_allclose(ours, np.e * np.array([1, 2]), rtol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("name", SOLVERS)
def test_reverse_and_forward_mode_agree_with_the_exact_jacobian(name):
    truth = _exact(jnp.eye(2), 0.0, 1.0)
    reverse = jax.jacrev(partial(SOLVERS[name], _linear))(jnp.array([1.0, -2.0]))
    forward = jax.jacfwd(partial(SOLVERS[name], _linear, adjoint=diffrax.DirectAdjoint()))(
        jnp.array([1.0, -2.0])
    )
    np.testing.assert_allclose(reverse, truth, atol=3e-4)
    np.testing.assert_allclose(forward, truth, atol=3e-4)


@pytest.mark.slow
def test_a_velocity_that_explodes_is_an_error_and_not_a_number():
    with pytest.raises(Exception, match="maximum number of solver steps"):
        samplers.adaptive(lambda x, t: 1e4 * x**3, jnp.array(5.0), max_steps=64)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda x: samplers.fixed(_linear, x, num_steps=0), "num_steps must be at least 1"),
        (lambda x: samplers.adaptive(_linear, x, rtol=0.0), "must be positive"),
        (lambda x: samplers.adaptive(_linear, x, 0.0, 2.0), "t1 must lie in"),
        (lambda x: samplers.fixed(_linear, x, jnp.zeros(3)), r"t0 must be a scalar, got shape"),
        (lambda x: samplers.trajectory(_linear, x, jnp.array([0.0])), "vector of two or more"),
        (lambda x: samplers.hybrid([_linear], [0.0, 0.5, 1.0], x), "one more knot"),
        (lambda x: samplers.few_step(lambda x, r, t: x, x, [0.0]), "two or more times"),
        (lambda x: samplers.trajectory(_linear, x, [0.0, 2.0]), "times must lie in"),
        (lambda x: samplers.fixed(lambda x, t: jnp.sum(x), x), r"x \(2,\), velocity \(\)"),
        (lambda x: samplers.few_step(lambda x, r, t: x[:, None], x, [0, 1]), "shapes must be"),
        (
            lambda x: samplers.few_step(lambda x, r, t: x, x, [0.0, 1.5]),
            "every entry of times must lie in",
        ),
    ],
)
def test_wrong_arguments_are_named(call, words):
    with pytest.raises(ValueError, match=words):
        call(jnp.array([1.0, -2.0]))
