"""Solving the flow equation: from noise to data and back, by diffrax.

    dx/dt = velocity(x, t)                                                        (1)

Every solver is a function `(velocity, x, t0, t1) -> x at t1` of one example, so it maps under
`jax.vmap` with its own steps for every example, and runs backwards when `t1 < t0`. Bind
options with `functools.partial`:

    solve = partial(samplers.adaptive, rtol=1e-6)
    sample = jax.jit(jax.vmap(partial(solve, velocity)))

Wrap the call in `jax.jit` where you can. Outside of it a solve is compiled once for the same
velocity and options; `fmjax.samplers._program` says what is the same. `x` may be any pytree, with a
velocity of the same tree. Gradients flow through the solution in reverse mode; for forward mode
(the Jacobian of the flow map, second derivatives) pass `adjoint=diffrax.DirectAdjoint()`.

References:
  Kidger (2021), On Neural Differential Equations, arXiv 2202.02435 (diffrax).
  Lipman et al. (2023), Flow Matching for Generative Modeling, arXiv 2210.02747.
"""

from __future__ import annotations

import operator

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from fmjax import _checks
from fmjax.samplers import _program
from fmjax.types import Array, PyTree, Solve, Velocity

__all__ = ["adaptive", "fixed", "trajectory"]


def _solve(
    velocity: Velocity, x: PyTree, t0: Array, t1: Array, num_ticks: int, **options: object
) -> PyTree:
    """Returns the solution at t1; diffrax's argument order lives here and nowhere else.

    diffrax counts ticks, from -num_ticks to 0. It takes every number within 100 rounding units of
    the last for the last, so on the clock of the flow it would skip the last steps.
    """
    dtypes = tuple(leaf.dtype for leaf in jax.tree.leaves(x))
    # A pytree of what is known again, so that diffrax compiles the same solve once.
    field = Partial(_rate, _program.known(velocity), dtypes, num_ticks)
    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(field),
        t0=jnp.full_like(t0, -num_ticks),
        t1=jnp.zeros_like(t1),
        y0=x,
        args=(t0, t1),
        **options,
    )
    return jax.tree.map(lambda ended, start: ended[-1].astype(start.dtype), solution.ys, x)


def _rate(
    velocity: Velocity,
    dtypes: tuple[jnp.dtype, ...],
    num_ticks: int,
    ticks: Array,
    y: PyTree,
    times: tuple[Array, Array],
) -> PyTree:
    """Returns the change of a state in a tick; the velocity sees the state in its own dtypes."""
    (t0, t1), left = times, -ticks / num_ticks
    leaves, structure = jax.tree.flatten(y)
    x = [leaf.astype(dtype) for leaf, dtype in zip(leaves, dtypes, strict=True)]
    value = velocity(structure.unflatten(x), left * t0 + (1 - left) * t1)
    _checks.returned_tree(y, velocity=value)
    return jax.tree.map(lambda now, change: _change(now, change, (t1 - t0) / num_ticks), y, value)


def _change(now: Array, change: Array, tick: Array) -> Array:
    """Returns the change of an entry in one tick, in the dtype that the solver computes in."""
    change, tick = jnp.asarray(change, now.dtype), tick.astype(now.dtype)
    # In no time an infinite velocity moves nothing: an example may begin at its end.
    return tick * jnp.where((tick == 0) & ~jnp.isfinite(change), 0, change)


def _interval(x: PyTree, t0: Array | float, t1: Array | float) -> tuple[PyTree, Array, Array, bool]:
    """Returns the state, floating, both times, and whether they are numbers that are equal.

    The times are of float32 or wider: a bfloat16 between 1/2 and 1 knows 1/256 of time.
    """
    nowhere = not isinstance(t0, jax.Array) and not isinstance(t1, jax.Array) and t0 == t1
    x = jax.tree.map(_checks.floating, x)
    dtype = _checks.wide_dtype(*jax.tree.leaves(x))
    t0, t1 = _checks.time(t0, "t0"), _checks.time(t1, "t1")
    return x, t0.astype(dtype), t1.astype(dtype), nowhere


def _check(velocity: Velocity, solver: object, adjoint: object) -> None:
    """Raises ValueError unless these are a velocity and instances of diffrax's classes."""
    _checks.functions(velocity=velocity)
    kinds = diffrax.AbstractSolver, diffrax.AbstractAdjoint
    _checks.instance(solver, kinds[0], "solver", "write one such as diffrax.Heun()")
    _checks.instance(adjoint, kinds[1], "adjoint", "write one such as diffrax.DirectAdjoint()")


def fixed(
    velocity: Velocity,
    x: PyTree,
    t0: Array | float = 0.0,
    t1: Array | float = 1.0,
    *,
    num_steps: int = 100,
    solver: diffrax.AbstractSolver = diffrax.Heun(),  # noqa: B008 - a frozen dataclass
    adjoint: diffrax.AbstractAdjoint = diffrax.RecursiveCheckpointAdjoint(),  # noqa: B008
) -> PyTree:
    """Integrates the flow from t0 to t1 by equal steps.

    Args:
      velocity: the field, `(x[*dims], t[]) -> [*dims]`.
      x: `[*dims]`, the state at t0, or a pytree of such.
      t0: `[]`, in [0, 1], where to start; 0 is noise.
      t1: `[]`, in [0, 1], where to stop; below t0 the flow runs backwards.
      num_steps: number of equal steps.
      solver: any explicit diffrax solver; Euler costs one evaluation a step, Heun two. Heun's
        last evaluation is at t1: use `diffrax.Euler()` for a field that is singular there.
      adjoint: how diffrax differentiates the solution.

    Returns:
      `[*dims]`, the state at t1.

    Raises:
      ValueError: if `num_steps` is not positive, or if a time is batched or a static number
        outside [0, 1].

    Example:
      >>> import fmjax
      >>> import jax.numpy as jnp
      >>> gaussian = lambda x, t: (2 * t - 1) / (t**2 + (1 - t) ** 2) * x  # N(0, I) to N(0, I)
      >>> round(float(fmjax.samplers.fixed(gaussian, jnp.array(1.5))), 3)
      1.5

    Reference:
      Kidger (2021), arXiv 2202.02435, section 5.1. [kidger2021neural]
    """
    _check(velocity, solver, adjoint)
    _checks.count("it counts steps of the solver", num_steps=num_steps)
    num_steps = operator.index(num_steps)  # diffrax takes no integer of NumPy
    x, t0, t1, nowhere = _interval(x, t0, t1)
    if nowhere:
        return x
    return _solve(
        velocity,
        x,
        t0,
        t1,
        num_ticks=num_steps,
        solver=solver,
        dt0=None,
        stepsize_controller=diffrax.StepTo(ts=np.arange(-num_steps, 1, dtype=t0.dtype)),
        max_steps=num_steps,
        adjoint=adjoint,
    )


def adaptive(
    velocity: Velocity,
    x: PyTree,
    t0: Array | float = 0.0,
    t1: Array | float = 1.0,
    *,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    max_steps: int = 4096,
    solver: diffrax.AbstractSolver = diffrax.Tsit5(),  # noqa: B008 - a frozen dataclass
    adjoint: diffrax.AbstractAdjoint = diffrax.RecursiveCheckpointAdjoint(),  # noqa: B008
) -> PyTree:
    """Integrates the flow from t0 to t1 by steps chosen to meet a tolerance.

    Under `vmap` every example chooses its own steps, so its result does not depend on the
    others. Use a smooth velocity: kinks (ReLU, SELU) cost tens of times more steps.

    Args:
      velocity: the field, `(x[*dims], t[]) -> [*dims]`.
      x: `[*dims]`, the state at t0, or a pytree of such.
      t0: `[]`, in [0, 1], where to start; 0 is noise.
      t1: `[]`, in [0, 1], where to stop; below t0 the flow runs backwards.
      rtol: relative tolerance of one step.
      atol: absolute tolerance of one step, in the unit of x. Below about 1e-6 needs float64.
      max_steps: the solve fails with an error when it needs more.
      solver: any diffrax solver with an error estimate.
      adjoint: how diffrax differentiates the solution.

    Returns:
      `[*dims]`, the state at t1.

    Raises:
      ValueError: if a tolerance or `max_steps` is not positive, or if a time is batched or a
        static number outside [0, 1].
      RuntimeError: while running, if `max_steps` is reached: the field is stiff or not finite.
        Under `vmap` one such example stops the whole batch.

    Example:
      >>> import fmjax
      >>> import jax.numpy as jnp
      >>> gaussian = lambda x, t: (2 * t - 1) / (t**2 + (1 - t) ** 2) * x  # N(0, I) to N(0, I)
      >>> round(float(fmjax.samplers.adaptive(gaussian, jnp.array(1.5))), 3)
      1.5

    Reference:
      Tsitouras (2011), Computers and Mathematics with Applications 62(2); Kidger (2021), arXiv
      2202.02435, section 5.2. [tsitouras2011runge; kidger2021neural]
    """
    _check(velocity, solver, adjoint)
    _checks.count("the solve fails when it needs more", max_steps=max_steps)
    if not (rtol > 0 and atol > 0):
        message = (
            f"the tolerances rtol, atol must be positive, got {rtol}, {atol}: they bound the error "
            "of a step; try rtol=1e-5, atol=1e-5."
        )
        raise ValueError(message)
    x, t0, t1, nowhere = _interval(x, t0, t1)
    if nowhere:
        return x
    return _solve(
        velocity,
        x,
        t0,
        t1,
        num_ticks=1,
        solver=solver,
        dt0=None,
        stepsize_controller=diffrax.PIDController(rtol=rtol, atol=atol),
        max_steps=operator.index(max_steps),
        adjoint=adjoint,
    )


def trajectory(velocity: Velocity, x: PyTree, times: Array, *, solve: Solve = fixed) -> PyTree:
    """Integrates the flow through several times and returns the states at all of them.

    Args:
      velocity: the field, `(x[*dims], t[]) -> [*dims]`.
      x: `[*dims]`, the state at `times[0]`, or a pytree of such.
      times: `[n]`, n >= 2, in [0, 1], increasing or decreasing.
      solve: `fixed` or `adaptive` with options bound; `num_steps` counts per interval.

    Returns:
      `[n, *dims]`, the states at `times`; the first is `x`.

    Raises:
      ValueError: if `times` is not a vector of two or more real numbers, if one is a static number
        outside [0, 1], or if the velocity is not shaped like the state.

    Example:
      >>> import fmjax
      >>> import jax.numpy as jnp
      >>> grow, times = lambda x, t: x, jnp.array([0.0, 0.5, 1.0])
      >>> states = fmjax.samplers.trajectory(grow, jnp.array(1.0), times)
      >>> [round(float(s), 3) for s in states]
      [1.0, 1.649, 2.718]

    Reference:
      Kidger (2021), arXiv 2202.02435, section 5.1. [kidger2021neural]
    """
    _checks.functions(velocity=velocity, solve=solve)
    x = jax.tree.map(_checks.floating, x)
    dtype = _checks.wide_dtype(*jax.tree.leaves(x))
    times = _checks.times(times, dtype, 2, "give the time of the first state too")

    return _program.run(_states, _program.known(velocity), _program.known(solve), x, times)


def _states(velocity: Velocity, solve: Solve, x: PyTree, times: Array) -> PyTree:
    """Returns the states at all times, the first of which is x."""

    def advance(state: PyTree, interval: tuple[Array, Array]) -> tuple[PyTree, PyTree]:
        state = solve(velocity, state, *interval)
        return state, state

    _, states = jax.lax.scan(advance, x, (times[:-1], times[1:]))
    return jax.tree.map(lambda a, b: jnp.concatenate([a[None], b]), x, states)
