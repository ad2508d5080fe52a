"""Flow and divergence matching: losses that fit a velocity and its divergence together.

On a path that starts from pure noise, the total variation between p_t and the law that a velocity
v makes of the same noise is at most

    TV(p_t, p_hat_t) <= 1/2 int_0^t E |r_s| ds <= 1/2 int_0^t E |r_s(. | x1)| ds      (1)

with the residual r of `fmjax.losses.matching`, marginal or conditional (`fmjax.path_error` has the
theory; on vp and ve add the distance at t = 0). Flow matching alone makes `|u - v|` small, but not
its derivatives. Flow and divergence matching adds the divergence,

    fdm = cfm + weight * penalty,                                                     (2)

where the penalty is the square of sigma times the conditional residual, over d (`cdm`, or another
matching). Both terms are of order one for an untrained network, in every dimension d, so a weight
means the same everywhere. The square of the residual per dimension, `(sigma r / d)^2`, is the
penalty with `weight / d`. No gradient passes through the v that multiplies the score, so the
gradient of a penalty is not the derivative of its value. The conditional form is an upper bound; it
is used because the marginal field is unknown. For a finite data set the marginal field is known in
closed form, so `dm` regresses on it directly. With a minibatch in place of the data set the
expected gradient of `dm` is still the gradient of the marginal loss. A minibatch of x1 alone gives
`fdm` again.

References:
  Huang et al. (2025), Improving Flow Matching by Aligning Flow Divergence, arXiv 2602.00869.
  Bertrand et al. (2025), On the Closed-Form of Flow Matching, arXiv 2506.03719 (the marginal
  field of a finite data set).
"""

from __future__ import annotations

import numbers
from collections.abc import Callable

import jax.numpy as jnp

from fmjax import _checks, divergence
from fmjax._bank import Bank
from fmjax.losses import target as targets
from fmjax.losses.matching import Matching, match_trace
from fmjax.losses.target import Target
from fmjax.paths import Path
from fmjax.types import Array, Divergence, Velocity

__all__ = ["cdm", "cdm_absolute", "dm", "fdm"]

_TARGET = "pass, for example, losses.of_bank"


def cdm(
    velocity: Velocity,
    path: Path,
    x0: Array,
    x1: Array,
    t: Array,
    *,
    divergence: Divergence = divergence.exact,
) -> Array:
    """Computes the conditional divergence matching loss of one example, to train on.

    It is `(sigma r)^2 / d`, with the residual r of the pair. It is finite wherever
    sigma_dot is, so also at t = 1 of linear and cosine; on vp and ve_to_zero stop at 1 - eps. Alone
    it does not determine a velocity, since rotations do not change it: use `fdm`.

    Args:
      velocity: the field that is trained, `(x[*dims], t[]) -> [*dims]`.
      path: the path.
      x0: `[*dims]`, noise, N(0, I) and independent of x1: a coupling changes p_t given x1.
      x1: `[*dims]`, data.
      t: `[]`, in [0, 1].
      divergence: any estimator of `fmjax.divergence`; see `match_trace`.

    Returns:
      `[]`, squared, per dimension.

    Raises:
      ValueError: if shapes differ, or `t` is batched or a static number outside [0, 1].

    Example:
      >>> import fmjax
      >>> import jax.numpy as jnp
      >>> path, still = fmjax.paths.linear(), lambda x, t: 0.0 * x
      >>> x0, x1 = jnp.array([1.0, -1.0]), jnp.array([2.0, 0.0])
      >>> float(fmjax.losses.cdm(still, path, x0, x1, 0.5))
      2.0

    Reference:
      Huang et al. (2025), arXiv 2602.00869, section 4.1. [huang2025improving]
    """
    _checks.functions(velocity=velocity, path=path, divergence=divergence)
    target = targets.of_pair(path, x0, x1, t)
    return match_trace(_checks.at(velocity, t), target, divergence=divergence)[1]


def cdm_absolute(
    velocity: Velocity,
    path: Path,
    x0: Array,
    x1: Array,
    t: Array,
    *,
    divergence: Divergence = divergence.exact,
) -> Array:
    """Computes the absolute conditional residual of one example, to report the bound (1).

    Half its mean over pairs and times in [0, t], times t, bounds TV(p_t, p_hat_t), eq. (1). On a
    path whose sigma vanishes at t = 1 it grows as sigma_dot / sigma even at the exact velocity. The
    bound then grows as log(1 / sigma(t)): report it up to some t < 1, or on a path with sigma > 0.
    Do not train on it: its minimizer is a conditional median, not a mean, and no gradient passes
    through the v that multiplies the score.

    Args:
      velocity: the field, `(x[*dims], t[]) -> [*dims]`.
      path: the path.
      x0: `[*dims]`, noise, N(0, I) and independent of x1.
      x1: `[*dims]`, data.
      t: `[]`, in [0, 1], with `sigma(t) > 0`.
      divergence: an exact divergence; the absolute value of an estimate is too large on average.

    Returns:
      `[]`, |r|, per unit of time.

    Raises:
      ValueError: if shapes differ, `t` is batched or a static number outside [0, 1], or if sigma
        is not positive at a static t.

    Example:
      >>> import fmjax
      >>> import jax.numpy as jnp
      >>> path, still = fmjax.paths.linear(), lambda x, t: 0.0 * x
      >>> x0, x1 = jnp.array([1.0, -1.0]), jnp.array([2.0, 0.0])
      >>> float(fmjax.losses.cdm_absolute(still, path, x0, x1, 0.5))
      4.0

    Reference:
      Huang et al. (2025), arXiv 2602.00869, eq. (14). [huang2025improving]
    """
    _checks.functions(velocity=velocity, path=path, divergence=divergence)
    _checks.positive_sigma(path, t)
    target = targets.of_pair(path, x0, x1, t)
    value, div = _checks.divergence_of(divergence, _checks.at(velocity, t), target.x)
    return jnp.abs(targets.scaled_residual(value, div, target)) / target.sigma


def fdm(
    velocity: Velocity,
    path: Path,
    x0: Array,
    x1: Array,
    t: Array,
    *,
    weight: Array | float,
    matching: Matching = match_trace,
) -> Array:
    """Computes the flow and divergence matching loss of one example, eq. (2).

    Args:
      velocity: the field that is trained, `(x[*dims], t[]) -> [*dims]`.
      path: the path.
      x0: `[*dims]`, noise, N(0, I) and independent of x1: a coupling changes p_t given x1.
      x1: `[*dims]`, data.
      t: `[]`, in [0, 1].
      weight: lambda_2, not negative; the number 0 is `cfm` exactly, and costs no derivative.
      matching: `(field, target) -> (value, penalty)`: `match_trace` with any divergence,
        `partial(match_product, key)` or `partial(match_jacobian, key)`, or your own.

    Returns:
      `[]`, the squared error per dimension plus the weighted penalty.

    Raises:
      ValueError: if shapes differ, `t` is batched or a static number outside [0, 1], or if
        `weight` is a negative number.

    Example:
      >>> import fmjax
      >>> import jax.numpy as jnp
      >>> path, still = fmjax.paths.linear(), lambda x, t: 0.0 * x
      >>> x0, x1 = jnp.array([1.0, -1.0]), jnp.array([2.0, 0.0])
      >>> float(fmjax.losses.fdm(still, path, x0, x1, 0.5, weight=0.5))  # 1 + 0.5 * 2
      2.0

    Reference:
      Huang et al. (2025), arXiv 2602.00869, eq. (17). [huang2025improving]
    """
    _checks.functions(velocity=velocity, path=path, matching=matching)
    return _fit(velocity, targets.of_pair(path, x0, x1, t), t, weight, matching)


def dm(
    velocity: Velocity,
    path: Path,
    bank: Array | Bank,
    x0: Array,
    x1: Array,
    t: Array,
    *,
    weight: Array | float,
    matching: Matching = match_trace,
    target: Callable[..., Target] = targets.of_bank,
) -> Array:
    """Computes the marginal flow and divergence matching loss of one example on a data set.

    It is `fdm` with velocity, score and divergence of the whole bank as the target, in closed form.
    The target then has no noise from the pair, and the residual is the marginal residual. Its mean
    absolute value is the paper's intractable loss, in place of the upper bound. For a large data
    set pass a minibatch as the bank, or the whole data set with another `target`.

    Args:
      velocity: the field that is trained, `(x[*dims], t[]) -> [*dims]`.
      path: the path.
      bank: `[n, *dims]`, the data set, also as a `Bank` if the target takes one. Or a minibatch
        drawn independently of x0, which leaves the expected gradient unchanged. It must contain x1.
      x0: `[*dims]`, noise, N(0, I) and independent of the bank.
      x1: `[*dims]`, data, one of the points of the bank.
      t: `[]`, in [0, 1], with `sigma(t) > 0`.
      weight: weight of the penalty, not negative; the number 0 costs no derivative.
      matching: as for `fdm`.
      target: `(path, bank, x0, x1, t) -> Target`. The default takes the differences of all points,
        so that under `vmap` the memory is batch times n times d. For a whole data set take
        `partial(of_large_bank, chunk_size=1000)`, with memory batch times n.

    Returns:
      `[]`, the squared error per dimension plus the weighted penalty.

    Raises:
      ValueError: as `fdm`; if the bank is empty or its points are not shaped like x1, or if sigma
        is not positive at a static t.

    Example:
      >>> import fmjax
      >>> import jax.numpy as jnp
      >>> path, still = fmjax.paths.linear(), lambda x, t: 0.0 * x
      >>> x0, x1 = jnp.array([1.0, -1.0]), jnp.array([2.0, 0.0])
      >>> bank = jnp.stack([x1, -x1])
      >>> print(f"{fmjax.losses.dm(still, path, bank, x0, x1, 0.5, weight=0.5):.4f}")
      1.9997

    Reference:
      The marginal loss of Huang et al. (2025), arXiv 2602.00869, theorem 3.3, on the closed form
      of Bertrand et al. (2025), arXiv 2506.03719. [huang2025improving; bertrand2025closed]
    """
    _checks.functions(velocity=velocity, path=path, matching=matching)
    _checks.function(target, "target", "(path, bank, x0, x1, t) -> Target", _TARGET)
    return _fit(velocity, target(path, bank, x0, x1, t), t, weight, matching)


def _fit(
    velocity: Velocity, target: Target, t: Array, weight: Array | float, matching: Matching
) -> Array:
    """Returns eq. (2) for a target, the penalty only if it has a weight."""
    _checks.entries(target.x, "a loss is a mean over them")
    weight = _checks.penalty(weight, "flow matching")
    if isinstance(weight, numbers.Number) and weight == 0:
        value, penalty = _checks.at(velocity, t)(target.x), 0.0
    else:
        found = matching(_checks.at(velocity, t), target)
        value, penalty = _checks.pair(target.x, found, "matching", "(value, penalty)")
    return jnp.mean(jnp.square(value - target.velocity)) + weight * penalty
