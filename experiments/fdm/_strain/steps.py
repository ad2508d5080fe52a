"""Times for the steps of a solver chosen by what bounds its errors, against a solver that adapts.

All solve by Heun's method, so that they differ in their times alone.
"""

import functools
from collections.abc import Callable, Sequence

import diffrax
import jax
import jax.numpy as jnp
import numpy as np

import fmjax
from experiments.fdm._strain.measures import Trajectory
from fmjax.types import Array, PyTree, Velocity

ORDER = 2  # of Heun's method, with two evaluations of the field in a step
PER_STEP = 2
FINE = 4  # steps of the reference for one of the finest solution


def densities(velocity: Velocity, pilots: Trajectory, times: Array) -> dict[str, Array]:
    """Returns densities of steps by name, `[n]` each, means over pilots.

    Args:
      velocity: of the network.
      pilots: trajectories, with an axis in front.
      times: `[n]`, of the pilots.

    Returns:
      "rate", the extreme rate of stretching or shrinking; "error", the density with the least sum
      of local errors, each with its growth until the end by the bound; "local", the same without
      the growth.
    """
    rates = jax.vmap(jax.vmap(functools.partial(_rate, velocity)), (0, None))(pilots.states, times)
    c = jax.vmap(functools.partial(_local, velocity), (0, None))(pilots.states, times)
    grown = jnp.exp(pilots.greatest[:, -1:] - pilots.greatest)
    return {
        "rate": rates.mean(axis=0),
        "local": jnp.mean(c ** (1 / (ORDER + 1)), axis=0),
        "error": jnp.mean((c * grown) ** (1 / (ORDER + 1)), axis=0),
    }


def _rate(velocity: Velocity, x: Array, t: Array) -> Array:
    found = fmjax.strain.extremes(jax.random.key(0), velocity, x, t, num_matvecs=x.size)
    return jnp.max(jnp.abs(jnp.stack(found)))


def _local(velocity: Velocity, states: Array, times: Array) -> Array:
    """Returns the error of a step over the third power of its length, `[n]`, by halving steps."""
    half, whole = (functools.partial(fmjax.samplers.fixed, velocity, num_steps=k) for k in (2, 1))

    def one(x: Array, t0: Array, t1: Array) -> Array:
        off = jnp.linalg.norm(half(x, t0, t1) - whole(x, t0, t1))
        return off / (t1 - t0) ** (ORDER + 1)

    found = jax.vmap(one)(states[:-1], times[:-1], times[1:])
    return jnp.concatenate([found, found[-1:]])


def along(velocity: Velocity, x0: Array, times: Array) -> Array:
    """Returns the state at the last time after one step of Heun's method for each interval."""
    one = functools.partial(fmjax.samplers.fixed, num_steps=1)
    return fmjax.samplers.trajectory(velocity, x0, times, solve=one)[-1]


def adaptive(velocity: Velocity, tolerance: float, x0: Array) -> tuple[Array, Array]:
    """Solves by the same method with steps that adapt, and counts evaluations of the field.

    `fmjax.samplers.adaptive` computes the same, and does not count.
    """
    found = diffrax.diffeqsolve(
        diffrax.ODETerm(lambda t, x, _: velocity(x, t)),
        diffrax.Heun(),
        0.0,
        1.0,
        None,
        x0,
        stepsize_controller=diffrax.PIDController(rtol=tolerance, atol=tolerance),
        max_steps=4096,
    )
    return found.ys[-1], PER_STEP * found.stats["num_steps"]


def padded(times: Array, size: int) -> Array:
    """Returns times with the last one repeated, so that one program serves all their numbers."""
    return jnp.pad(times, (0, size - len(times)), mode="edge")


def curves(
    apply: Callable[..., Array],
    params: PyTree,
    x0: Array,
    densities: dict[str, Array],
    times: Array,
    counts: Sequence[int],
    tolerances: Sequence[float],
) -> dict[str, dict[str, np.ndarray]]:
    """Returns the error of the ends against the evaluations of the field, by the choice of times.

    Args:
      apply: the network, `(params, x, t) -> dx`.
      params: of all networks, which are in front.
      x0: `[m, d]`, noises.
      densities: by name, `[networks, n]`.
      times: `[n]`, of the densities.
      counts: numbers of steps.
      tolerances: of the solver that adapts.

    Returns:
      By name `evaluations`, a mean over the noises, and `error`, the median distance from the end
      of very fine steps, over the root of d; `[networks, counts]`. The mean is that of the few
      noises whose trajectory leads to another peak after any small error.
    """
    size = FINE * max(counts) + 1
    many = lambda one: jax.vmap(one, (0, None))  # noqa: E731
    ends = lambda p, x0, ts: many(functools.partial(along, functools.partial(apply, p)))(x0, ts)  # noqa: E731
    solve = functools.partial(jax.jit(jax.vmap(ends, (0, None, 0))), params, x0)
    adapted = lambda p, x0, tolerance: many(_adaptive(apply, p))(x0, tolerance)  # noqa: E731
    adapt = functools.partial(jax.jit(jax.vmap(adapted, (0, None, None))), params, x0)
    fine = jnp.linspace(0.0, 1.0, size)
    truth = solve(jnp.broadcast_to(fine, (len(densities["rate"]), size)))

    def off(ends: Array) -> np.ndarray:
        return np.median(np.sqrt(np.mean(np.square(ends - truth), axis=2)), axis=1)

    found = {}
    for name, density in ({"equal": jnp.ones_like(densities["rate"])} | densities).items():
        grids = [
            jax.vmap(lambda d, n=n: fmjax.samplers.graded(times, d, n))(density) for n in counts
        ]
        ends = [solve(jax.vmap(lambda ts: padded(ts, size))(grid)) for grid in grids]
        used = np.broadcast_to(PER_STEP * np.array(counts), (len(density), len(counts)))
        found[name] = {"evaluations": used, "error": np.stack([off(x) for x in ends], axis=1)}
    made = [adapt(tolerance) for tolerance in tolerances]
    found["adaptive"] = {
        "evaluations": np.stack([np.mean(used, axis=1) for _, used in made], axis=1),
        "error": np.stack([off(ends) for ends, _ in made], axis=1),
    }
    return found


def _adaptive(apply: Callable[..., Array], params: PyTree) -> Callable[..., tuple[Array, Array]]:
    velocity = functools.partial(apply, params)
    return lambda x0, tolerance: adaptive(velocity, tolerance, x0)
