"""Sampling piece by piece (`hybrid`) and by jumps of an average velocity (`few_step`, `one_step`).

`hybrid` solves one field after another. A one-step model predicts the mean velocity between
two times of the path through x,

    u(x, r, t) = 1 / (r - t)  int_t^r velocity(x_s, s) ds,    x_t = x               (1)

so that a jump needs no solver:

    x_r = x_t + (r - t) u(x_t, r, t)                                              (2)

`few_step` makes such jumps along given times, `one_step` a single one from noise to data.

References:
  Bertrand et al. (2025), On the Closed-Form of Flow Matching, arXiv 2506.03719.
  Geng et al. (2025), Mean Flows for One-step Generative Modeling, arXiv 2505.13447.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax

from fmjax import _checks
from fmjax.samplers import _program
from fmjax.samplers.ode import fixed
from fmjax.types import Array, AverageVelocity, Solve, Velocity

__all__ = ["few_step", "flow_map", "hybrid", "one_step"]


def hybrid(
    velocities: Sequence[Velocity], knots: Sequence[float], x: Array, *, solve: Solve = fixed
) -> Array:
    """Integrates a flow that changes its velocity at given times.

    Each piece is solved separately, so no step crosses a jump. Take the exact field up to `tau` and
    a learned field after it, to see where a model stops copying its data.

    Args:
      velocities: k fields, in order.
      knots: k + 1 times in [0, 1]: the start, the changes, the end.
      x: `[*dims]`, the state at `knots[0]`.
      solve: `fixed` or `adaptive` with options bound; `num_steps` counts per piece.

    Returns:
      `[*dims]`, the state at `knots[-1]`.

    Raises:
      ValueError: if there is not one more knot than velocities, if a knot is complex or a static
        number outside [0, 1], or if a velocity is not shaped like `x`.

    Example:
      >>> import fmjax
      >>> import jax.numpy as jnp
      >>> grow, rest = lambda x, t: x, lambda x, t: 0 * x
      >>> round(float(fmjax.samplers.hybrid([grow, rest], [0.0, 0.5, 1.0], jnp.array(1.0))), 3)
      1.649

    Reference:
      Bertrand et al. (2025), arXiv 2506.03719, section 3.3. [bertrand2025closed]
    """
    _checks.functions(solve=solve)
    for velocity in velocities:
        _checks.functions(velocity=velocity)
    shape = _checks.every(knots, "knots").shape
    if shape != (len(velocities) + 1,):
        message = (
            f"hybrid needs one more knot than velocities, got knots of shape {shape} for "
            f"{len(velocities)} velocities: name the start, every change, and the end."
        )
        raise ValueError(message)
    for velocity, start, stop in zip(velocities, knots[:-1], knots[1:], strict=True):
        x = solve(velocity, x, start, stop)
    return x


def flow_map(average_velocity: AverageVelocity, x: Array, r: Array, t: Array) -> Array:
    """Moves the state x from time t to time r in one jump, eq. (2).

    Args:
      average_velocity: the model, `(x[*dims], r[], t[]) -> [*dims]`.
      x: `[*dims]`, the state at time t.
      r: `[]`, in [0, 1]; a network is usually trained on r >= t only.
      t: `[]`, in [0, 1].

    Returns:
      `[*dims]`, the state at time r, in the dtype of x.

    Raises:
      ValueError: if a time is batched or a static number outside [0, 1], or if the average
        velocity is not shaped like `x`.

    Example:
      >>> import fmjax
      >>> import jax.numpy as jnp
      >>> constant = lambda x, r, t: 2.0 * jnp.ones_like(x)
      >>> fmjax.samplers.flow_map(constant, jnp.zeros(2), 0.75, 0.25).tolist()
      [1.0, 1.0]

    Reference:
      Geng et al. (2025), arXiv 2505.13447, eq. (12). [geng2025mean]
    """
    _checks.functions(average_velocity=average_velocity)
    x = _checks.state(x)
    r, t = (_checks.time(s, name).astype(_checks.wide_dtype(x)) for s, name in ((r, "r"), (t, "t")))
    step = average_velocity(x, r, t)
    _checks.returned(x, average_velocity=step)
    return (x + (r - t) * step).astype(x.dtype)


def few_step(average_velocity: AverageVelocity, x0: Array, times: Sequence[float]) -> Array:
    """Samples from an average velocity, with one evaluation per interval.

    Args:
      average_velocity: `(x at t, r, t) -> u`, the mean velocity from t to r.
      x0: `[*dims]`, noise.
      times: two or more times in [0, 1], from 0 to 1.

    Returns:
      `[*dims]`, eq. (2) applied along the intervals `[t, r]`.

    Raises:
      ValueError: if `times` is not a vector of two or more real numbers, or one is a static number
        outside [0, 1].

    Example:
      >>> import fmjax
      >>> import jax.numpy as jnp
      >>> constant = lambda x, r, t: jnp.full_like(x, 2.0)
      >>> fmjax.samplers.few_step(constant, jnp.zeros(2), [0.0, 0.3, 1.0]).tolist()
      [2.0, 2.0]

    Reference:
      Geng et al. (2025), Mean Flows for One-step Generative Modeling, arXiv 2505.13447, eq.
      (12). [geng2025mean]
    """
    _checks.functions(average_velocity=average_velocity)
    x = _checks.floating(x0, "x0")
    knots = _checks.times(times, _checks.wide_dtype(x), 2, "give both ends, [0, 1]")

    return _program.run(_jumps, _program.known(average_velocity), x, knots)


def _jumps(average_velocity: AverageVelocity, x: Array, knots: Array) -> Array:
    """Returns the state at the last knot."""

    def jump(x: Array, interval: tuple[Array, Array]) -> tuple[Array, None]:
        t, r = interval
        return flow_map(average_velocity, x, r, t), None

    # Not one jump after the other: fifty networks in a row would compile for minutes.
    return jax.lax.scan(jump, x, (knots[:-1], knots[1:]))[0]


def one_step(average_velocity: AverageVelocity, x0: Array) -> Array:
    """Samples from an average velocity in one evaluation, `x0 + u(x0, 1, 0)`.

    Args:
      average_velocity: `(x at t, r, t) -> u`, the mean velocity from t to r.
      x0: `[*dims]`, noise.

    Returns:
      `[*dims]`, the state at t = 1.

    Raises:
      ValueError: if the average velocity is not shaped like `x0`.

    Example:
      >>> import fmjax
      >>> import jax.numpy as jnp
      >>> constant = lambda x, r, t: jnp.full_like(x, 2.0)
      >>> fmjax.samplers.one_step(constant, jnp.zeros(2)).tolist()
      [2.0, 2.0]

    Reference:
      Geng et al. (2025), arXiv 2505.13447, algorithm 2. [geng2025mean]
    """
    return flow_map(average_velocity, x0, 1.0, 0.0)
