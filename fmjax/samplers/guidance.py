"""Classifier-free guidance: the velocities with and without a class, mixed.

    guided(x, t) = unconditional(x, t) + scale (conditional(x, t) - unconditional(x, t))    (1)

A scale of 0 gives the field without the class, a scale of 1 the field with the class, and a larger
scale extrapolates. Guidance is often limited to an interval of times; outside it the conditional
field is used alone. Papers that write `(1 + w) conditional - w unconditional` mean `scale = 1 + w`.

The fields may be predictions of any kind (`fmjax.predictions`): conversions are affine, and the two
weights of (1) sum to one, so mixing and converting can be done in either order.

References:
  Ho and Salimans (2022), Classifier-Free Diffusion Guidance, arXiv 2207.12598.
  Zheng et al. (2023), Guided Flows for Generative Modeling, arXiv 2311.13443.
  Kynkaanniemi et al. (2024), Applying Guidance in a Limited Interval, arXiv 2404.07724.
"""

from __future__ import annotations

import itertools
import math
import numbers

import jax.numpy as jnp
import numpy as np

from fmjax import _checks
from fmjax.types import Array, Velocity

__all__ = ["guided"]


def guided(
    conditional: Velocity,
    unconditional: Velocity,
    *,
    scale: Array | float,
    low: Array | float = 0.0,
    high: Array | float = 1.0,
) -> Velocity:
    """Mixes the velocities with and without a class into a guided one, eq. (1).

    Do not compute a posterior from a guided velocity: `posterior.covariance` then mixes two
    covariances with weights that may be negative. Use the conditional velocity, or all classes
    together by `posterior.total_covariance`.

    A call evaluates both fields, outside the interval too. With constant `low` and `high` call
    `samplers.hybrid([conditional, guided, conditional], [0, low, high, 1], x)`. It evaluates one
    field outside the interval, and no step of an adaptive solver crosses a jump.

    Args:
      conditional: `(x[*dims], t[]) -> [*dims]`, the velocity given the class.
      unconditional: the velocity at the null label, likewise.
      scale: `[]`, 1 for the conditional velocity, 0 for the unconditional one, both exactly; it
        and the ends of the interval may be traced, and differ between examples under `jax.vmap`.
      low: time in [0, 1] at which guidance begins, inclusive; t = 0 is noise.
      high: time in [low, 1] at which guidance ends, inclusive.

    Returns:
      `(x[*dims], t[]) -> [*dims]`, in the promoted dtype of both fields.

    Raises:
      ValueError: if `scale`, `low` or `high` is not a scalar, a static scale is not finite, or
        static ends are not `0 <= low <= high <= 1`; on a call, if the two fields differ in shape,
        or `t` is batched or a static number outside [0, 1].

    Example:
      >>> import fmjax
      >>> import jax.numpy as jnp
      >>> two, one = lambda x, t: 2 + 0 * x, lambda x, t: 1 + 0 * x
      >>> field = fmjax.samplers.guided(two, one, scale=3.0, low=0.25)
      >>> [float(field(jnp.array(0.0), t)) for t in (0.1, 0.25, 1.0)]
      [2.0, 4.0, 4.0]

    Reference:
      Ho and Salimans (2022), arXiv 2207.12598, eq. (6), with scale = 1 + w; for the interval
      Kynkaanniemi et al. (2024), arXiv 2404.07724, section 3. [ho2022classifier;
      kynkaanniemi2024applying; zheng2023guided]
    """
    for name, one in (("conditional", conditional), ("unconditional", unconditional)):
        example = "pass, for example, functools.partial(apply, params, context=label)"
        _checks.function(one, name, "(x, t) -> dx", example)
    scale, low, high = _scalar(scale=scale), _scalar(low=low), _scalar(high=high)
    _checks.moments(low=low, high=high)
    _check_numbers(scale, low, high)

    def field(x: Array, t: Array) -> Array:
        t = _checks.wide(_checks.time(t))  # to be compared with low and high
        given, free = conditional(x, t), unconditional(x, t)
        _checks.returned(x, conditional=given, unconditional=free)
        # Not free + scale (given - free), which at scale 1 is given up to rounding only.
        mixed = (1.0 - scale) * _checks.wide(free) + scale * _checks.wide(given)
        mixed = mixed.astype(jnp.result_type(free, given))
        return jnp.where((low <= t) & (t <= high), mixed, given)

    return field


def _scalar(**named: Array | float) -> Array | float:
    """Returns a scalar; one of NumPy becomes a Python number, which never widens the fields."""
    ((name, value),) = named.items()
    is_number = isinstance(value, numbers.Real)
    if not is_number and getattr(value, "shape", None) != ():
        message = (
            f"{name} must be a scalar, got {_checks.described(value)}: for one value per example "
            "wrap the whole call in jax.vmap."
        )
        raise ValueError(message)
    return float(value) if is_number or isinstance(value, np.ndarray) else value


def _check_numbers(scale: Array | float, low: Array | float, high: Array | float) -> None:
    """Raises ValueError if what is static is no finite scale, or no interval within [0, 1]."""
    if isinstance(scale, float) and not math.isfinite(scale):
        message = f"scale must be finite, got {scale}: 1 is the conditional velocity."
        raise ValueError(message)
    ends = [0.0, *(end for end in (low, high) if isinstance(end, float)), 1.0]
    if not all(before <= after for before, after in itertools.pairwise(ends)):
        message = (
            f"guidance acts where low <= t <= high, two times in [0, 1], got low={low} and "
            f"high={high}: t = 0 is noise, so a paper whose noise is at 1 has 1 - t here."
        )
        raise ValueError(message)
