"""What a network's strain and rotation say of its error, at states and along trajectories."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

import fmjax
from experiments.fdm import _laws
from experiments.fdm._laws import Mixture
from fmjax.types import Array, Key, Velocity

path = _laws.path
# What may point to the error of a state: the first three are known without the true field.
SIGNS = ("rotation", "uncertainty", "speed", "jacobian")


def states(key: Key, mixture: Mixture, t: float, count: int) -> Array:
    """Returns states of the path at one time, of fresh data, `[count, d]`."""
    key_noise, key_data = jax.random.split(key)
    x1 = jax.vmap(functools.partial(_laws.sample, mixture=mixture))(
        jax.random.split(key_data, count)
    )
    x0 = jax.random.normal(key_noise, x1.shape, x1.dtype)
    return jax.vmap(functools.partial(fmjax.paths.interpolate, path, t=t))(x0, x1)


def local(velocity: Velocity, exact: Velocity, x: Array, t: Array) -> dict[str, Array]:
    """Computes the errors of a network at one state, and what it shows without the true field.

    Args:
      velocity: of the network.
      exact: the true field, whose Jacobian is symmetric.
      x: `[d]`.
      t: `[]`, in (0, 1).

    Returns:
      `error` |v - u|^2, `jacobian` the squared Frobenius norm of the error of its Jacobian,
      `rotation` the part of it that is antisymmetric, all of it the network's; `uncertainty` the
      trace of the covariance, and `speed` |v|^2.
    """
    v, jacobian = velocity(x, t), jax.jacfwd(velocity)(x, t)
    off = jacobian - jax.jacfwd(exact)(x, t)
    _, rotation = fmjax.strain.norms(jax.random.key(0), velocity, x, t, num_probes=x.size)
    return {
        "error": jnp.sum((v - exact(x, t)) ** 2),
        "jacobian": jnp.sum(off**2),
        "rotation": rotation**2,
        "uncertainty": fmjax.posterior.trace(velocity, path, x, t),
        "speed": jnp.sum(v**2),
    }


def at_time(velocity: Velocity, exact: Velocity, x: Array, t: Array) -> dict[str, Array]:
    """Returns what states of one time say together.

    Args:
      velocity: of the network.
      exact: the true field.
      x: `[n, d]`, states.
      t: `[]`.

    Returns:
      The means of `error`, `jacobian` and `rotation` per dimension, and of every sign its rank
      correlation with the error over the states.
    """
    found = jax.vmap(functools.partial(local, velocity, exact), (0, None))(x, t)
    means = {name: found[name].mean() / x.shape[1] for name in ("error", "jacobian", "rotation")}
    ranks = {f"rank_{name}": fmjax.metrics.spearman(found[name], found["error"]) for name in SIGNS}
    return means | ranks


class Trajectory(NamedTuple):
    """A trajectory of a network and its bounds; integrals and distances from the first time on.

    Attributes:
      states: `[n, d]`.
      least, greatest: `[n]`, the integrals of the extreme rates, in nats.
      stretch: `[n, 2]`, logarithms of the least and the greatest factor of the flow itself.
      apart: `[n]`, distance from the true trajectory of the same noise.
      bound: `[n]`, of this distance, for small ones.
    """

    states: Array
    least: Array
    greatest: Array
    stretch: Array
    apart: Array
    bound: Array


def follow(velocity: Velocity, exact: Velocity, x0: Array, times: Array) -> Trajectory:
    """Follows one noise by a network and by the true field, with all that bounds the stretching.

    Args:
      velocity: of the network.
      exact: the true field.
      x0: `[d]`, noise, at the first time.
      times: `[n]`, increasing.
    """
    solve = functools.partial(fmjax.samplers.fixed, num_steps=2)
    grown = fmjax.strain.growth(
        jax.random.key(0), velocity, x0, times, solve=solve, num_matvecs=x0.size
    )
    tangents = (x0, jnp.eye(x0.size, dtype=x0.dtype))
    _, flow = fmjax.samplers.trajectory(
        functools.partial(_with_tangents, velocity), tangents, times, solve=solve
    )
    factors = jnp.linalg.svd(flow, compute_uv=False)
    truth = fmjax.samplers.trajectory(exact, x0, times, solve=solve)
    gap = jax.vmap(lambda x, t: jnp.linalg.norm(velocity(x, t) - exact(x, t)))(truth, times)
    return Trajectory(
        *grown,
        stretch=jnp.log(factors[:, jnp.array([-1, 0])]),
        apart=jnp.linalg.norm(grown.states - truth, axis=1),
        bound=bound(grown.greatest, gap, times),
    )


def _with_tangents(velocity: Velocity, state: tuple[Array, Array], t: Array) -> tuple:
    """Returns the velocity, and the change of a matrix whose rows are tangents."""
    x, rows = state
    value, product = jax.linearize(lambda x: velocity(x, t), x)
    return value, jax.vmap(product)(rows)


def bound(greatest: Array, gap: Array, times: Array) -> Array:
    """Integrates errors that grow at most at the greatest rate, up to every time, eq. (4).

    Args:
      greatest: `[n]`, the integral of the greatest rate.
      gap: `[n]`, the distance of the two velocities.
      times: `[n]`.
    """
    parts = gap * jnp.exp(-greatest)
    steps = 0.5 * (parts[1:] + parts[:-1]) * jnp.diff(times)
    return jnp.exp(greatest) * jnp.concatenate([jnp.zeros_like(steps[:1]), jnp.cumsum(steps)])
