"""The velocity, the flow map and the posterior of an average velocity.

Eq. (1) and the statements E1 and E2 of `fmjax.onestep`.

References:
  Geng et al. (2025), Mean Flows for One-step Generative Modeling, arXiv 2505.13447.
  Xing, Wang and Wang (2026), Divergence is Uncertainty, arXiv 2605.00941, section 4.5.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp

from fmjax import _checks, paths, posterior
from fmjax.paths import Path
from fmjax.types import Array, AverageVelocity, Velocity

__all__ = ["Prior", "instantaneous", "prior", "renoised", "reverse_time"]


class Prior(NamedTuple):
    """The mean and the variance of every entry over a data set.

    Attributes:
      mean: `[*dims]`.
      variance: `[*dims]`, not negative.
    """

    mean: Array
    variance: Array


def instantaneous(average_velocity: AverageVelocity) -> Velocity:
    """Extracts the velocity `u(x, t, t)` from an average velocity.

    Every function of `fmjax.posterior` and every solver takes it. MeanFlow trains it on the pairs
    with r = t.

    Args:
      average_velocity: the model, `(x[*dims], r[], t[]) -> [*dims]`.

    Returns:
      `(x[*dims], t[]) -> [*dims]`.

    Raises:
      ValueError: on a call, if `t` is batched or a static number outside [0, 1].

    Example:
      >>> import fmjax
      >>> import jax.numpy as jnp
      >>> velocity = fmjax.onestep.instantaneous(lambda x, r, t: (r + t) * x)
      >>> velocity(jnp.array([1.0, 2.0]), 0.25).tolist()
      [0.5, 1.0]

    Reference:
      Geng et al. (2025), arXiv 2505.13447, section 4.1. [geng2025mean]
    """
    _checks.functions(average_velocity=average_velocity)

    def velocity(x: Array, t: Array) -> Array:
        t, x = _checks.time(t), _checks.state(x)
        value = average_velocity(x, t, t)
        _checks.returned(x, average_velocity=value)
        return value

    return velocity


def reverse_time(model: AverageVelocity) -> AverageVelocity:
    """Converts an average velocity whose noise is at t = 1 to the time of fmjax.

    The MeanFlow papers count time in this way. If a network takes the length h of the interval
    instead of one end, first write `model = lambda z, r, t: network(z, t, t - r)`, in its own time.

    Args:
      model: `(z[*dims], r[], t[]) -> [*dims]`, r = 0 the data and t = 1 the noise.

    Returns:
      `(x[*dims], r[], t[]) -> [*dims]`, t = 0 the noise and r = 1 the data.

    Raises:
      ValueError: if the model is not a function; on a call, if its value is not shaped like `x`, or
        if a time is batched or a static number outside [0, 1].

    Example:
      >>> import fmjax
      >>> import jax.numpy as jnp
      >>> theirs = lambda z, r, t: z * (t - r)  # one step from the noise: z - theirs(z, 0, 1)
      >>> ours = fmjax.onestep.reverse_time(theirs)
      >>> float(fmjax.samplers.flow_map(ours, jnp.array(3.0), 1.0, 0.25))  # 3 - 0.75 * 3 * 0.75
      1.3125

    Reference:
      Geng et al. (2025), arXiv 2505.13447, for the convention. [geng2025mean]
    """
    _checks.function(
        model, "model", "(z, r, t) -> u", "pass, for example, functools.partial(apply, params)"
    )

    def average_velocity(x: Array, r: Array, t: Array) -> Array:
        value = model(x, 1.0 - _checks.time(r, "r"), 1.0 - _checks.time(t))
        _checks.returned(x, model=value)
        return -value

    return average_velocity


def renoised(
    average_velocity: AverageVelocity,
    path: Path,
    x0: Array,
    x1: Array,
    t: Array,
    *,
    quantity: Callable[..., Any] = posterior.diagonal,
) -> Any:
    """Computes a quantity of the posterior after a sample has been noised again, E1.

    It measures how ambiguous x1 is at noise level t, by the law of the data given
    `alpha x1 + sigma x0`. Take t between 0.3 and 0.7, where learned fields are informative, and
    average over a few x0.

    Args:
      average_velocity: the model, `(x[*dims], r[], t[]) -> [*dims]`, trained without guidance.
      path: the path that it was trained on.
      x0: `[*dims]`, fresh noise, not the noise from which x1 was made.
      x1: `[*dims]`, a sample of the model, or data.
      t: `[]`, in (0, 1].
      quantity: any function `(velocity, path, x, t)` of the posterior, options bound: `diagonal`,
        `trace`, `covariance`, `mean`.

    Returns:
      The value of `quantity`; by default the variances `[*dims]`.

    Raises:
      ValueError: if the shapes differ, if `t` is batched or a static number outside [0, 1], or
        whatever `quantity` refuses.

    Example:
      >>> import fmjax
      >>> import jax.numpy as jnp
      >>> average = lambda x, r, t: -x / (1 + r)  # its slice at r = t is -x / (1 + t)
      >>> x0, x1 = jnp.array([0.5, -1.0]), jnp.array([1.0, 2.0])
      >>> variances = fmjax.onestep.renoised(average, fmjax.paths.linear(), x0, x1, 0.5)
      >>> [round(float(variance), 3) for variance in variances]
      [0.333, 0.333]

    Reference:
      Xing et al. (2026), arXiv 2605.00941, sections 4.3 and 4.5. [xing2026divergence]
    """
    _checks.functions(average_velocity=average_velocity, path=path, quantity=quantity)
    x = paths.interpolate(path, x0, x1, t)
    return quantity(instantaneous(average_velocity), path, x, t)


def prior(bank: Array) -> Prior:
    """Computes the posterior at the noise end, the same for every noise: the law of the data, E2.

    It holds on a path that starts from pure noise (alpha(0) = 0). `posterior.prior_variance`
    carries the variance to later times.

    Args:
      bank: `[n, *dims]`, the data set, or its points of the class in question.

    Returns:
      Mean and variance of every entry. The variance divides by n, since the bank is the whole law.

    Raises:
      ValueError: if `bank` is empty or not of floating dtype.

    Example:
      >>> import fmjax
      >>> import jax.numpy as jnp
      >>> prior = fmjax.onestep.prior(jnp.array([[1.0, 5.0], [3.0, 5.0]]))
      >>> prior.mean.tolist(), prior.variance.tolist()
      ([2.0, 5.0], [1.0, 0.0])

    Reference:
      The limit E2, derived in `fmjax.onestep`; one-step models are section 4.5 of arXiv
      2605.00941. [xing2026divergence]
    """
    bank = _checks.array(bank, "the bank")
    _checks.bank(bank, jnp.zeros(bank.shape[1:]))
    return Prior(bank.mean(axis=0), bank.var(axis=0))
