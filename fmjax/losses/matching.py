"""Matching the divergence of a velocity to a target: the residual and its penalties.

Let p_t be the law of `x_t = alpha x1 + sigma x0` with marginal velocity u and score
`s = grad log p_t`, and v a learned velocity. The density that v transports differs from p_t by
an error whose source is the residual

    r = div(u - v) + (u - v) . s = -[d_t log p_t + div v + v . s]                 (1)

(`fmjax.path_error`). It contains the marginal field, which is unknown. Given one x1 all is known:
with `u = alpha_dot x1 + sigma_dot x0` and `s = -x0 / sigma` the conditional residual is

    sigma r = sigma_dot (d - |x0|^2) - (alpha_dot x1 - v) . x0 - sigma div v      (2)

without a division by sigma. It is finite wherever sigma_dot is, so also at t = 1 of linear and
cosine, but not at t = 1 of vp and ve_to_zero. A `Target` (`fmjax.losses.target`) holds what (1)
needs, of one pair or of a whole data set:

    sigma r = rate + v . n - sigma div v,    n = -sigma s,  rate = sigma (div u + u . s)   (3)

A matching is a function `(field, target) -> (value, penalty)` of the field at the time of the
target. Value and derivative come from one linearization. Four facts make (3) trainable:

* The factor sigma: at v = u the conditional r grows as sigma_dot / sigma. So its mean over all
  times is infinite if sigma vanishes, and the bound says nothing. Where sigma_dot is infinite too,
  stop at 1 - eps and divide the whole loss by sigma_dot^2.
* Division by d: where v = 0 on standard data, `sigma r` of a pair is a sum of d terms of mean zero.
  So the mean of `(sigma r)^2 / d` is of order one in every dimension, and a weight means the same.
* The square: under a pair's noise the minimizer of a mean square is a mean, here the marginal
  residual. The minimizer of a mean absolute value is a median.
* No gradient through the v that multiplies n: given x_t the noise of n is correlated with the noise
  of the rate, and by moving v the network could trade one against the other. With `stop_gradient`
  the expected gradient over pairs equals the gradient of the marginal loss, as for conditional flow
  matching: the conditional mean of (3) given x_t is (1) times sigma. Without it v = u is not
  stationary.

References:
  Huang et al. (2025), Improving Flow Matching by Aligning Flow Divergence, arXiv 2602.00869.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from fmjax import _checks, _jacobian, divergence
from fmjax.losses.target import Target, scaled_residual
from fmjax.types import Array, Divergence, Key

__all__ = ["Matching", "match_jacobian", "match_product", "match_trace"]

Matching = Callable[[Callable[[Array], Array], Target], tuple[Array, Array]]
"""`(field, target) -> (field(target.x)[*dims], penalty[])`, by one linearization."""


def match_trace(
    field: Callable[[Array], Array],
    target: Target,
    *,
    divergence: Divergence = divergence.exact,
) -> tuple[Array, Array]:
    """Computes the value of the field and its squared residual per dimension, eq. (3).

    With an exact divergence the penalty is `(sigma r)^2 / d`. An estimate with K probes adds
    `sigma^2 / d` times its variance. Training then also shrinks the source of this variance, the
    symmetric part of the Jacobian (for Rademacher probes off its diagonal). `match_product` has no
    such bias.

    Args:
      field: the velocity at the time of the target, `[*dims] -> [*dims]`.
      target: the target of a pair or of a data set.
      divergence: `(f, x) -> (f(x), div f(x))`. For two or three dimensions and a gradient through
        it `divergence.unrolled`; for images `partial(divergence.hutchinson, key)`.

    Returns:
      `field(target.x)`, `[*dims]`, and the penalty, `[]`.

    Raises:
      ValueError: if the field is not shaped like the state.

    Example:
      >>> import fmjax
      >>> import jax.numpy as jnp
      >>> x0, x1 = jnp.array([1.0, -1.0]), jnp.array([2.0, 0.0])
      >>> target = fmjax.losses.of_pair(fmjax.paths.linear(), x0, x1, 0.5)
      >>> value, penalty = fmjax.losses.match_trace(lambda x: 0.0 * x, target)
      >>> float(penalty)  # sigma r = -(2 - 2) - 2, squared, over d = 2
      2.0

    Reference:
      Huang et al. (2025), arXiv 2602.00869, section 4.1 and appendix D. [huang2025improving]
    """
    _checks.functions(field=field, divergence=divergence)
    _checks.entries(target.x, "a loss is a mean over them")
    value, div = _checks.divergence_of(divergence, field, target.x)
    return value, jnp.square(scaled_residual(value, div, target)) / target.x.size


def match_product(
    key: Key,
    field: Callable[[Array], Array],
    target: Target,
    *,
    probe: Callable[..., Array] = jax.random.rademacher,
) -> tuple[Array, Array]:
    """Computes the value of the field and an unbiased estimate of its squared residual.

    The estimate is the product of the residuals of two independent probes. Its mean is the exact
    square, while the square of one residual is too large by the variance. It may be negative.

    Args:
      key: a typed PRNG key, one per example.
      field: the velocity at the time of the target, `[*dims] -> [*dims]`.
      target: the target of a pair or of a data set.
      probe: `(key, shape, dtype) -> z` with `E[z z^T] = I`.

    Returns:
      `field(target.x)`, `[*dims]`, and the estimate, `[]`.

    Raises:
      ValueError: if the field is not shaped like the state.

    Example:
      >>> import fmjax
      >>> import jax
      >>> import jax.numpy as jnp
      >>> x0, x1 = jnp.array([1.0, -1.0]), jnp.array([2.0, 0.0])
      >>> target = fmjax.losses.of_pair(fmjax.paths.linear(), x0, x1, 0.5)
      >>> key, still = jax.random.key(0), lambda x: 0.0 * x
      >>> float(fmjax.losses.match_product(key, still, target)[1])
      2.0

    Reference:
      The paper's efficient loss, Huang et al. (2025), arXiv 2602.00869, appendix D.1, without
      the bias of its single probe. [huang2025improving]
    """
    _checks.functions(field=field, probe=probe)
    _checks.entries(target.x, "a loss is a mean over them")
    value, tangents, probes = _tangents(key, field, target.x, 2, probe)
    first, second = (
        scaled_residual(value, jnp.sum(z * tangent), target)
        for z, tangent in zip(probes, tangents, strict=True)
    )
    return value, first * second / target.x.size


def match_jacobian(
    key: Key,
    field: Callable[[Array], Array],
    target: Target,
    *,
    num_probes: int = 1,
    probe: Callable[..., Array] = jax.random.rademacher,
) -> tuple[Array, Array]:
    """Computes the value of the field and the mean square of its residual as a matrix.

    The residual (1) is the trace of `M = grad(u - v) + (u - v) s^T`. Like the trace, M vanishes at
    v = u, also in the conditional mean. The penalty estimates the mean square of the entries of
    sigma M, `sigma^2 |M|_F^2 / d^2`. It is a stronger condition, on all derivatives of the
    velocity: the penalty of `match_trace` is at most d^2 times this one.

    Args:
      key: a typed PRNG key, one per example.
      field: the velocity at the time of the target, `[*dims] -> [*dims]`.
      target: the target of a pair or of a data set.
      num_probes: number of random directions z of `M z`; one is enough for an unbiased estimate.
      probe: `(key, shape, dtype) -> z` with `E[z z^T] = I`.

    Returns:
      `field(target.x)`, `[*dims]`, and the penalty, `[]`.

    Raises:
      ValueError: if the field is not shaped like the state, or `num_probes` is not positive.

    Example:
      >>> import fmjax
      >>> import jax
      >>> import jax.numpy as jnp
      >>> x0, x1 = jnp.array([1.0, -1.0]), jnp.array([2.0, 0.0])
      >>> target = fmjax.losses.of_pair(fmjax.paths.linear(), x0, x1, 0.5)
      >>> key, still = jax.random.key(0), lambda x: 0.0 * x
      >>> float(fmjax.losses.match_jacobian(key, still, target)[1])
      2.5

    Reference:
      The variant called "derivative" in the code of Huang et al. (2025), arXiv 2602.00869, where no
      recorded run uses it. [huang2025improving]
    """
    _checks.functions(field=field, probe=probe)
    _checks.entries(target.x, "a loss is a mean over them")
    value, tangents, probes = _tangents(key, field, target.x, num_probes, probe)
    gap = target.velocity - jax.lax.stop_gradient(value)
    penalties = []
    for z, tangent in zip(probes, tangents, strict=True):
        # sigma (grad u - grad v) z + (u - v) (sigma s . z)
        row = target.slope(z) - target.sigma * tangent - gap * jnp.sum(target.noise * z)
        penalties.append(jnp.mean(jnp.square(row)))
    return value, sum(penalties) / (num_probes * target.x.size)


def _tangents(
    key: Key,
    field: Callable[[Array], Array],
    x: Array,
    num_probes: int,
    probe: Callable[..., Array],
) -> tuple[Array, list[Array], list[Array]]:
    """Returns the value of a field and its derivatives along random probes, and the probes."""
    _checks.count("it counts random probes", num_probes=num_probes)
    field, x = _jacobian.widened(field, x, "velocity")
    value, tangent_map = jax.linearize(field, x)
    _checks.returned(x, velocity=value)
    probes = [probe(k, x.shape, x.dtype) for k in jax.random.split(key, num_probes)]
    return value, [tangent_map(z) for z in probes], probes
