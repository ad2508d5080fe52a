"""Noise on the simplex, and samples by Euler's method."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from optax import projections

from fmjax import _checks
from fmjax.simplex._noise import exponentials
from fmjax.types import Array, Key, Velocity

__all__ = ["sample", "uniform"]


def uniform(key: Key, shape: tuple[int, ...], dtype: jnp.dtype = jnp.float32) -> Array:
    """Draws uniform points of the simplex, the noise at t = 0.

    Args:
      key: a typed PRNG key.
      shape: `(*positions, K)`, of the result.
      dtype: of the result.

    Returns:
      `[*positions, K]`, not negative, with sum one over the last axis.

    Raises:
      ValueError: if the shape has no axis of two classes or more.

    Example:
      >>> import fmjax
      >>> import jax
      >>> x = fmjax.simplex.uniform(jax.random.key(0), (300, 4))
      >>> x.shape, bool((x >= 0).all())
      ((300, 4), True)

    Reference:
      Stark et al. (2024), arXiv 2402.05841. [stark2024dirichlet]
    """
    _checks.positions(jax.ShapeDtypeStruct(tuple(shape), dtype))
    drawn = exponentials(key, tuple(shape), dtype)
    return drawn / drawn.sum(-1, keepdims=True)


def sample(velocity: Velocity, x0: Array, *, num_steps: int = 100, t1: float = 1.0) -> Array:
    """Samples by Euler's method from t = 0, every state projected on the simplex.

    Args:
      velocity: `(x[*positions, K], t[]) -> dx[*positions, K]`, of `as_velocity`.
      x0: `[*positions, K]`, noise, from `uniform`.
      num_steps: number of equal steps; the velocity is asked at their beginnings, so never at t1.
      t1: the end, in (0, 1].

    Returns:
      `[*positions, K]`, the state at t1; its classes are `argmax(-1)`, or of a last prediction of
      the network.

    Raises:
      ValueError: if `num_steps` is not positive, t1 is a static number outside [0, 1], or the
        velocity changes the shape.

    Example:
      >>> import fmjax
      >>> import jax
      >>> path = fmjax.simplex.linear(4)
      >>> logits = lambda x, t: 50.0 * jax.nn.one_hot(jax.numpy.full(3, 2), 4)
      >>> x0 = fmjax.simplex.uniform(jax.random.key(0), (3, 4))
      >>> fmjax.simplex.sample(fmjax.simplex.as_velocity(logits, path), x0).argmax(-1).tolist()
      [2, 2, 2]

    Reference:
      Stark et al. (2024), arXiv 2402.05841. [stark2024dirichlet]
    """
    _checks.functions(velocity=velocity)
    _checks.count("it counts the steps of Euler's method", num_steps=num_steps)
    x0 = _checks.positions(_checks.state(x0, "x0"))
    length = _checks.time(t1, "t1") / num_steps

    def step(x: Array, index: Array) -> tuple[Array, None]:
        moved = x + length * _checks.at(velocity, index * length)(x)
        flat = jax.vmap(projections.projection_simplex)(moved.reshape(-1, x.shape[-1]))
        return flat.reshape(x.shape).astype(x.dtype), None

    return jax.lax.scan(step, x0, jnp.arange(num_steps))[0]
