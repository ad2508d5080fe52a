"""How far a learned velocity is from the exact one, at training states and at its own states.

The equations are numbered as in `fmjax.path_error`. Both functions take one example and all times;
average over examples yourself:

    exact = partial(empirical.velocity, path, bank)
    one = partial(path_error.gap_on_path, velocity, exact, path)
    curve = jax.vmap(one, (0, 0, None))(x0, x1, times).mean(axis=0)

References:
  Bertrand et al. (2025), On the Closed-Form of Flow Matching, arXiv 2506.03719.
  Song et al. (2025), Selective Underfitting in Diffusion Models, arXiv 2510.01378.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from fmjax import _checks, paths, samplers
from fmjax.paths import Path
from fmjax.types import Array, Solve, Velocity

__all__ = ["gap_along_flow", "gap_on_path"]


def gap_on_path(
    velocity: Velocity, exact: Velocity, path: Path, x0: Array, x1: Array, times: Array
) -> Array:
    """Computes the squared distance of two velocities at the states of a training pair, eq. (7).

    Flow matching minimizes its average over pairs: it is the loss `losses.cfm` of `velocity` minus
    the loss of the exact field.

    Args:
      velocity: the learned field, `(x[*dims], t[]) -> [*dims]`.
      exact: the true field, such as `partial(empirical.velocity, path, bank)`.
      path: the path.
      x0: `[*dims]`, noise.
      x1: `[*dims]`, data.
      times: `[n]`, n >= 1, in [0, 1], where both fields are finite: below 1 for a data set on a
        path that ends without noise. They are evaluated one after another, with the memory of one.

    Returns:
      `[n]`, mean over the dimensions of `(velocity - exact)^2` at `x_t`, for each time.

    Raises:
      ValueError: if shapes differ, or if `times` is not a vector of one or more real numbers or
        holds a static number outside [0, 1].

    Example:
      >>> import fmjax
      >>> import jax.numpy as jnp
      >>> exact, learned = lambda x, t: 2 * x, lambda x, t: 2 * x + t
      >>> path, x0, x1 = fmjax.paths.linear(), jnp.zeros(3), jnp.ones(3)
      >>> times = jnp.array([0.0, 0.5])
      >>> fmjax.path_error.gap_on_path(learned, exact, path, x0, x1, times).tolist()
      [0.0, 0.25]

    Reference:
      Bertrand et al. (2025), arXiv 2506.03719, section 3.2 and figure 2. [bertrand2025closed]
    """
    _checks.functions(velocity=velocity, exact=exact, path=path)
    x0, x1 = _checks.state(x0, "x0"), _checks.state(x1, "x1")
    times = _checks.times(times, _checks.wide_dtype(x0, x1), 1, "give where to compare the fields")

    def at(t: Array) -> Array:
        return _gap(velocity, exact, paths.interpolate(path, x0, x1, t), t)

    return jax.lax.map(at, times)


def gap_along_flow(
    velocity: Velocity, exact: Velocity, x: Array, times: Array, *, solve: Solve = samplers.fixed
) -> Array:
    """Computes the squared distance of two velocities along the learned flow itself, eq. (8).

    These are not the states of training. A network that is right on the path of its data may be far
    from the exact field here, and new samples come from this difference.

    Args:
      velocity: the learned field, `(x[*dims], t[]) -> [*dims]`, which makes the states.
      exact: the true field, such as `partial(empirical.velocity, path, bank)`.
      x: `[*dims]`, the state at `times[0]`; noise if `times[0]` is 0.
      times: `[n]`, n >= 2, in [0, 1], increasing, where both fields are finite.
      solve: `samplers.fixed` or `samplers.adaptive` with options bound; `num_steps` counts per
        interval between two times.

    Returns:
      `[n]`, mean over the dimensions of `(velocity - exact)^2`, for each time.

    Raises:
      ValueError: as `samplers.trajectory`, or if the two velocities differ in shape.

    Example:
      >>> import fmjax
      >>> import jax.numpy as jnp
      >>> exact, learned = lambda x, t: 0 * x, lambda x, t: x  # the state grows as exp(t)
      >>> times = jnp.array([0.0, 0.5, 1.0])
      >>> gaps = fmjax.path_error.gap_along_flow(learned, exact, jnp.ones(3), times)
      >>> [round(float(gap), 3) for gap in gaps]  # exp(2 t)
      [1.0, 2.718, 7.389]

    Reference:
      Song et al. (2025), arXiv 2510.01378, where such states are the extrapolation region.
      [song2025selective]
    """
    _checks.functions(velocity=velocity, exact=exact, solve=solve)
    states = samplers.trajectory(velocity, _checks.state(x), times, solve=solve)
    times = jnp.asarray(times, _checks.wide_dtype(states))
    return jax.lax.map(lambda state: _gap(velocity, exact, *state), (states, times))


def _gap(velocity: Velocity, exact: Velocity, x: Array, t: Array) -> Array:
    _checks.entries(x, "the gap is a mean over them")
    learned, true = velocity(x, t), exact(x, t)
    _checks.returned(x, velocity=learned, exact=true)
    return jnp.mean((_checks.wide(learned) - _checks.wide(true)) ** 2)
