"""MeanFlow: learning the average velocity, which samples in one step.

Flow matching (`cfm`) learns the marginal velocity v, the conditional mean of `d x_t / dt` given
x_t. MeanFlow learns the average of v along the flow through x at time t,

    u(x, r, t) = 1 / (r - t) int_t^r v(x_s, s) ds,    u(x, t, t) = v(x, t)            (1)

which samples in one step, `x_r = x + (r - t) u`. Here t is the time of x, and r >= t, nearer to the
data, is the time to which u leads. (The paper counts time from the data, so there r <= t.)
Differentiating `(r - t) u` along the flow gives, for either order of r and t,

    u = v - (t - r) du/dt,    du/dt = (grad_x u) v + d_t u                            (2)

and `du/dt` is one `jax.jvp` with the tangent (v, 0, 1). The two losses put the velocity of the
drawn pair, v_c = d x_t / dt, into (2) at different places. With sg for `stop_gradient` the errors
are

    meanflow           u - sg[v_c - (t - r) du/dt],  du/dt along v_c                  (3)
    improved_meanflow  u + (t - r) sg[du/dt] - v_c,  du/dt along the network's v      (4)

At r = t both are `cfm` of the slice u(x, t, t). At the exact u both errors have conditional
mean zero given x_t, and by (2) they differ by the Jacobian of the flow map from t to r,

    error of (3) = (I + (r - t) grad_x u) (error of (4)) = -J (v_c - v)               (5)

So (4) has the smaller variance in directions in which the flow expands, and the larger variance
where it contracts. Its advantage in training is a target that does not move with the network.

What v_c is replaced by is a function, a guide: see `guides`.

References:
  Geng et al. (2025), Mean Flows for One-step Generative Modeling, arXiv 2505.13447.
  Geng et al. (2025), Improved Mean Flows, arXiv 2512.02012.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from fmjax import _checks, paths, predictions
from fmjax.losses.guides import Guide
from fmjax.paths import Path
from fmjax.types import Array, AverageVelocity, Velocity

__all__ = ["improved_meanflow", "meanflow"]


def _unguided(v: Array, x: Array, t: Array) -> Array:  # noqa: ARG001
    return v


def meanflow(
    average_velocity: AverageVelocity,
    path: Path,
    x0: Array,
    x1: Array,
    r: Array,
    t: Array,
    *,
    guide: Guide = _unguided,
) -> Array:
    """Computes the MeanFlow loss of one example, the mean square of eq. (3).

    Draw the times with `times.intervals`, weight the loss with `adaptive`, and jit the step.

    Args:
      average_velocity: the network that is trained, `(x[*dims], r[], t[]) -> [*dims]`.
      path: the path.
      x0: `[*dims]`, noise.
      x1: `[*dims]`, data.
      r: `[]`, in [t, 1], the time to which u leads. If they are arrays, r < t is not noticed and
        trains the way back.
      t: `[]`, in [0, 1], the time of x.
      guide: replaces the velocity of the pair, in target and tangent; see `marginal`, `guidance`.

    Returns:
      `[]`, the squared error per dimension; the gradient passes through u alone.

    Raises:
      ValueError: if shapes differ, if a time is batched or a static number outside [0, 1], or
        if both times are static and r < t.

    Example:
      >>> import fmjax
      >>> import jax.numpy as jnp
      >>> path, growing = fmjax.paths.linear(), lambda x, r, t: r * x
      >>> x0, x1 = jnp.array([1.0, 0.0]), jnp.array([1.0, 3.0])
      >>> print(f"{fmjax.losses.meanflow(growing, path, x0, x1, 0.75, 0.5):.3f}")
      3.252

    Reference:
      Geng et al. (2025), arXiv 2505.13447, eqs. (9) to (11). [geng2025mean]
    """
    _checks.functions(average_velocity=average_velocity, path=path, guide=guide)
    r, t = _interval(r, t)
    x, v = _pair(path, x0, x1, t, guide)
    u, du = _along_the_flow(average_velocity, x, r, t, v)
    target = jax.lax.stop_gradient(v - (t - r) * du)  # eq. (2) with v for its mean
    return jnp.mean(jnp.square(_checks.wide(u - target)))


def improved_meanflow(
    average_velocity: AverageVelocity,
    velocity: Velocity,
    path: Path,
    x0: Array,
    x1: Array,
    r: Array,
    t: Array,
    *,
    guide: Guide = _unguided,
) -> Array:
    """Computes the improved MeanFlow loss of one example, the mean square of eq. (4).

    Without a guide the target does not depend on the network. Train a second head for the velocity
    on the same target: `meanflow(lambda x, r, t: head(x, t), path, x0, x1, t, t, guide=guide)`.

    Args:
      average_velocity: the network that is trained, `(x[*dims], r[], t[]) -> [*dims]`.
      velocity: the network's marginal velocity `(x[*dims], t[]) -> [*dims]`, the tangent of du/dt.
        Pass `onestep.instantaneous(average_velocity)` or a second head; no gradient passes through
        it.
      path: the path.
      x0: `[*dims]`, noise.
      x1: `[*dims]`, data.
      r: `[]`, in [t, 1], the time to which u leads; see `meanflow`.
      t: `[]`, in [0, 1], the time of x.
      guide: replaces the velocity of the pair in the target. Then pass as `velocity` the network's
        own velocity at the same class, which learns the guided field.

    Returns:
      `[]`, the squared error per dimension.

    Raises:
      ValueError: as `meanflow`.

    Example:
      >>> import fmjax
      >>> import jax.numpy as jnp
      >>> path, growing, head = fmjax.paths.linear(), lambda x, r, t: r * x, lambda x, t: t * x
      >>> x0, x1 = jnp.array([1.0, 0.0]), jnp.array([1.0, 3.0])
      >>> print(f"{fmjax.losses.improved_meanflow(growing, head, path, x0, x1, 0.75, 0.5):.3f}")
      2.247

    Reference:
      Geng et al. (2025), Improved Mean Flows, arXiv 2512.02012. [geng2025improved]
    """
    _checks.functions(average_velocity=average_velocity, velocity=velocity, path=path, guide=guide)
    r, t = _interval(r, t)
    x, target = _pair(path, x0, x1, t, guide)
    tangent = velocity(x, t)
    _checks.returned(x, velocity=tangent)
    u, du = _along_the_flow(average_velocity, x, r, t, tangent)
    compound = u + (t - r) * jax.lax.stop_gradient(du)  # so no gradient through velocity either
    return jnp.mean(jnp.square(_checks.wide(compound - target)))


def _interval(r: Array | float, t: Array | float) -> tuple[Array, Array]:
    """Returns both times, or refuses those that are known to be swapped."""
    checked = _checks.time(r, "r"), _checks.time(t)
    if not isinstance(r, jax.Array) and not isinstance(t, jax.Array) and r < t:
        message = (
            f"meanflow needs r >= t, got r = {r} and t = {t}: x lives at t and the average "
            "velocity leads to r, nearer to the data; times.intervals draws them in this order."
        )
        raise ValueError(message)
    return checked


def _pair(path: Path, x0: Array, x1: Array, t: Array, guide: Guide) -> tuple[Array, Array]:
    """Returns the state of a pair and its velocity as guided, through which no gradient goes."""
    _checks.real(x0=x0, x1=x1)
    x = paths.interpolate(path, x0, x1, t)
    _checks.entries(x, "a loss is a mean over them")
    v = guide(predictions.target(predictions.velocity, path, x0, x1, t), x, t)
    _checks.returned(x, guided=v)
    return x, jax.lax.stop_gradient(v)


def _along_the_flow(
    average_velocity: AverageVelocity, x: Array, r: Array, t: Array, v: Array
) -> tuple[Array, Array]:
    """Returns u and its derivative along the flow, eq. (2), from one evaluation."""
    tangents = (v.astype(x.dtype), jnp.zeros_like(r), jnp.ones_like(t))
    u, du = jax.jvp(average_velocity, (x, r, t), tangents)
    _checks.returned(x, average_velocity=u)
    return u, du
