"""How fast the Kullback-Leibler divergence from a learned law grows along the path.

The equations are numbered as in `fmjax.path_error`.

Reference:
  Su et al. (2025), On Flow Matching KL Divergence, arXiv 2511.05480.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from fmjax import _checks, divergence, likelihood, samplers
from fmjax.path_error._density import LogDensity, scalar
from fmjax.types import Array, Divergence, Solve, Velocity

__all__ = ["KLRate", "kl_rate"]


class KLRate(NamedTuple):
    """What one state adds to the growth of KL(p_t || q_t); average each over x ~ p_t.

    Attributes:
      rate: `[]`, `(u - v) . (grad log p - grad log q)`, nats per unit of time; of either sign.
      velocity_gap: `[]`, `|u - v|^2`, summed over the dimensions.
      score_gap: `[]`, `|grad log p - grad log q|^2`, summed over the dimensions.
    """

    rate: Array
    velocity_gap: Array
    score_gap: Array


def kl_rate(
    log_density: LogDensity,
    exact: Velocity,
    velocity: Velocity,
    x: Array,
    t: Array,
    *,
    log_prob0: Callable[[Array], Array] = likelihood.standard_normal,
    divergence: Divergence = divergence.exact,
    solve: Solve = samplers.adaptive,
) -> KLRate:
    """Computes at one state the integrand of d KL(p_t || q_t) / dt, eq. (5).

    The mean of the rate over x ~ p_t is the derivative; integrated over time it is KL(p_1 || q_1),
    which is also the mean of `log_density(x, 1) - likelihood.log_prob(velocity, x)` over data. The
    means of the two gaps bound it, eq. (6). The score of the learned law is the gradient of its
    log-density, so a state costs one solve of its likelihood and the reverse mode of that solve.

    Args:
      log_density: the log-density of the true law, `(x[*dims], t[]) -> []`, in nats.
      exact: the true field, which moves the true law, `(x[*dims], t[]) -> [*dims]`.
      velocity: the learned field, `(x[*dims], t[]) -> [*dims]`.
      x: `[*dims]`, a state drawn from the true law at time t.
      t: `[]`, in (0, 1].
      log_prob0: log-density of the noise that the learned flow starts from, `[*dims] -> []`.
      divergence: any exact divergence of `fmjax.divergence`; a random one makes the rate's mean
        right, since it enters it linearly, and the score gap too large.
      solve: `samplers.adaptive` or `samplers.fixed`, with options bound.

    Returns:
      `KLRate`, three numbers.

    Raises:
      ValueError: as `likelihood.log_prob`; if the log-density is not a scalar; if a velocity is not
        shaped like `x`.

    Example:
      >>> import fmjax
      >>> import jax.numpy as jnp
      >>> widening = lambda x, t: fmjax.likelihood.standard_normal(x, scale=1 + t)
      >>> exact, still = lambda x, t: x / (1 + t), lambda x, t: 0 * x
      >>> one = fmjax.path_error.kl_rate(widening, exact, still, jnp.array([2.0]), 1.0)
      >>> [round(float(value), 3) for value in one]  # (x / 2) (x - x / 4) and the squares
      [1.5, 1.0, 2.25]

    Reference:
      Su et al. (2025), arXiv 2511.05480, the KL evolution identity. [su2025flow]
    """
    _checks.functions(
        log_density=log_density,
        exact=exact,
        velocity=velocity,
        log_prob0=log_prob0,
        divergence=divergence,
        solve=solve,
    )
    x = _checks.state(x)
    options = {"log_prob0": log_prob0, "divergence": divergence, "solve": solve, "t1": t}
    t = _checks.time(t).astype(_checks.wide_dtype(x))
    true, learned = exact(x, t), velocity(x, t)
    _checks.returned(x, exact=true, velocity=learned)
    of_true = jax.grad(partial(scalar, log_density))(x, t)
    of_learned = jax.grad(partial(likelihood.log_prob, velocity, **options))(x)
    velocities = _checks.wide(true) - _checks.wide(learned)
    scores = _checks.wide(of_true) - _checks.wide(of_learned)
    return KLRate(jnp.sum(velocities * scores), jnp.sum(velocities**2), jnp.sum(scores**2))
