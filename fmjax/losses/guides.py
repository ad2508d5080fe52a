"""What an average velocity is trained on in the place of the velocity of a pair, v_c.

`marginal` replaces v_c by the marginal velocity v where that is known, such as the exact field of a
data set. The losses (3) and (4) of `average_velocity` are then one loss. It has their mean gradient
and no noise of the pair, as EFM (`efm`) has for flow matching.

`guidance` replaces v_c by a combination with the network's own velocities. A network trained with
it has guidance built in. Its slice `u(x, t, t)` is then not the marginal velocity of any data, and
the identities of `fmjax.posterior` do not hold for it.

References:
  Geng et al. (2025), Mean Flows for One-step Generative Modeling, arXiv 2505.13447.
  Bertrand et al. (2025), On the Closed-Form of Flow Matching, arXiv 2506.03719.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from fmjax import _checks
from fmjax.types import Array, AverageVelocity, Velocity

__all__ = ["Guide", "guidance", "marginal"]

Guide = Callable[[Array, Array, Array], Array]
"""`(v[*dims], x[*dims], t[]) -> [*dims]`: what the velocity v of a pair is replaced by."""


def marginal(velocity: Velocity) -> Guide:
    """Makes a guide that trains on a known marginal velocity in the place of the pair's.

    The pair then only draws the state x_t. Given x_t, the mean gradient of `meanflow` stays the
    same, and its variance is gone. In `improved_meanflow` target and tangent are replaced one by
    one: the target by this guide, the tangent by its argument `velocity`.

    Args:
      velocity: `(x[*dims], t[]) -> [*dims]`, such as `partial(empirical.velocity, path, bank)`.

    Returns:
      `(v, x, t) -> [*dims]`, for the argument `guide` of the MeanFlow losses.

    Raises:
      ValueError: if `velocity` is not a function; on a call, if its value is not shaped like `v`.

    Example:
      >>> import fmjax
      >>> import jax.numpy as jnp
      >>> path, bank = fmjax.paths.linear(), jnp.array([[1.0], [3.0]])
      >>> exact = lambda x, t: fmjax.empirical.velocity(path, bank, x, t)
      >>> guide, still = fmjax.losses.marginal(exact), lambda x, r, t: 0.0 * x
      >>> x0, x1 = jnp.array([0.5]), jnp.array([1.0])
      >>> for options in ({}, {"guide": guide}):
      ...     loss = fmjax.losses.meanflow(still, path, x0, x1, 0.75, 0.5, **options)
      ...     print(f"{loss:.3f}")  # x1 - x0 squared, and the square of its mean
      0.250
      2.483

    Reference:
      Geng et al. (2025), arXiv 2505.13447, eq. (6); Bertrand et al. (2025), arXiv 2506.03719, for
      the exact field of a data set. [geng2025mean; bertrand2025closed]
    """
    _checks.functions(velocity=velocity)

    def guide(v: Array, x: Array, t: Array) -> Array:
        found = velocity(x, t)
        _checks.returned(v, velocity=found)
        return found

    return guide


def guidance(
    conditional: AverageVelocity,
    unconditional: AverageVelocity,
    *,
    scale: Array | float,
    mix: Array | float = 0.0,
    low: Array | float = 0.0,
    high: Array | float = 1.0,
) -> Guide:
    """Makes a guide that trains classifier-free guidance into an average velocity.

    The velocity v of a pair of class c becomes, where `low <= t <= high`,

        scale v + (1 - scale - mix) u(x, t, t | no class) + mix u(x, t, t | c)

    without gradient through the slices. In the paper's letters scale is omega and mix is kappa; the
    network learns guidance of strength `omega / (1 - kappa)`. `scale=1, mix=1 - 1 / omega` is the
    form of improved MeanFlow. For examples whose class was dropped use `scale=1, mix=0`, which is v
    itself. With any other values the learned field is not the velocity of a posterior.

    Args:
      conditional: the network at the class of the example, `(x, r, t) -> [*dims]`; for a second
        head that gives velocities pass `lambda x, r, t: head(x, t)`.
      unconditional: the network at no class, likewise.
      scale: omega, the weight of v. Like the other three options it may be traced, per example.
      mix: kappa, the weight of the conditional slice, below 1.
      low: where guidance begins, in [0, 1]; 1 - t_end of a paper whose t = 1 is noise.
      high: where guidance ends, in [low, 1]; 1 - t_start of such a paper.

    Returns:
      `(v, x, t) -> [*dims]`, for the argument `guide` of the MeanFlow losses.

    Raises:
      ValueError: if static ends are not `0 <= low <= high <= 1`; on a call, if a network's value
        is not shaped like `v`, or `t` is batched or a static number outside [0, 1].

    Example:
      >>> import fmjax
      >>> import jax.numpy as jnp
      >>> two, one = lambda x, r, t: x + 2.0, lambda x, r, t: x + 1.0
      >>> guide = fmjax.losses.guidance(two, one, scale=1.5, mix=0.25, low=0.1)
      >>> guide(jnp.array([2.0]), jnp.zeros(1), 0.5).tolist()  # 1.5 * 2 - 0.75 * 1 + 0.25 * 2
      [2.75]
      >>> guide(jnp.array([2.0]), jnp.zeros(1), 0.05).tolist()  # t < low
      [2.0]

    Reference:
      Geng et al. (2025), arXiv 2505.13447, section 4.2 and appendix; Geng et al. (2025), arXiv
      2512.02012. [geng2025mean; geng2025improved]
    """
    _checks.functions(conditional=conditional, unconditional=unconditional)
    _checks.moments(low=low, high=high)
    ends = [0.0, *(end for end in (low, high) if not isinstance(end, jax.Array)), 1.0]
    if not all(before <= after for before, after in itertools.pairwise(ends)):
        message = f"guidance needs 0 <= low <= high <= 1, got low {low} and high {high}."
        raise ValueError(message)

    def guide(v: Array, x: Array, t: Array) -> Array:
        t = _checks.time(t)
        without = jax.lax.stop_gradient(unconditional(x, t, t))
        _checks.returned(v, unconditional=without)
        guided = scale * v + (1.0 - scale - mix) * without
        if isinstance(mix, jax.Array) or mix != 0.0:  # else the network need not be asked
            with_class = jax.lax.stop_gradient(conditional(x, t, t))
            _checks.returned(v, conditional=with_class)
            guided = guided + mix * with_class
        return jnp.where((low <= t) & (t <= high), guided, v)

    return guide
