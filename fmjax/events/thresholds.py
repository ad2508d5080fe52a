"""Conditioning a trained velocity on an event that the user defines after training.

An event is a set of data, `E = {x1 : C(x1) > 0}`, given by a differentiable function C of one
example, such as the excursion of a trajectory or the brightness of an image. Nothing is retrained.
Given the state, the velocity v gives the mean m of the data and, by its Jacobian, their covariance
(`fmjax.posterior`, eq. (1) and (2)). Take the data given the state as Gaussian and C as linear
around m. Then C(x1) is Gaussian and

    P(E | x_t = x) = Phi(C(m) / std),    std^2 = grad C(m) . Cov[x1 | x_t = x] grad C(m)  (1)

which is exact for Gaussian data and affine C. By Bayes' rule the score of the conditioned law is
`grad log p_t(x) + grad log P(E | x_t = x)`, and the velocity is affine in the score, so with
`D = alpha_dot sigma - alpha sigma_dot` the law of the data given E has the velocity

    v_E(x, t) = v(x, t) + sigma D / alpha grad_x log P(E | x_t = x)                       (2)

It is a velocity like any other: every sampler and every function of `posterior` takes it, and it
may be conditioned again on another event.

What to know before use
* For other data or other C, (1) is an approximation. It becomes exact as sigma -> 0, wherever the
  data have a density and C has a gradient. It is worst if the data given the state have two distant
  modes, one of them in E. For two such peaks on a line the mean error of P(E | x_t) is 0.08 up to t
  = 0.4 and below 0.001 from t = 0.8. Draws given E by `memoryless_sde` are then closer to the law
  than draws by the flow equation, 0.04 against 0.06 in total variation. Almost all draws lie in E.
* A learned Jacobian has an error, which the covariance multiplies by `sigma^2 / alpha`. So fmjax
  computes

      std^2 = |grad C . Cov grad C| + jitter |grad C|^2 sigma^2 / alpha^2                 (3)

  Here `jitter` is the expected error of `posterior.gain`, a matrix between 0 and I, so the unit of
  C does not matter. The absolute value handles a negative variance: its size shows how wrong the
  Jacobian is, and a too cautious probability is better than a too sharp one. For an exact field
  take jitter 0. Where its variance is 0, as next to a point of a finite data set, E is certain or
  impossible and the state is not changed.
* At the noise end alpha -> 0 the product in (2) is infinity times zero. There (1) needs the
  covariance of the data, which the velocity does not contain. The limit is finite:
  `sigma^2 / alpha grad_x log P` becomes independent of x and almost independent of t. So below a
  smallest t `conditioned` uses its value at that t, for the same noise x0.
* At the data end the second term grows for a state outside E and vanishes for a state inside. Where
  sigma = 0 it is left out.
* One evaluation of (2) costs about five evaluations of v: v, m with one tangent, and reverse mode
  through both.

References:
  Finzi et al. (2023), User-defined Event Sampling and Uncertainty Quantification in Diffusion
  Models for Physical Dynamical Systems, arXiv 2306.07526.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from fmjax import _checks, posterior
from fmjax.events import _held
from fmjax.paths import Path
from fmjax.types import Array, Velocity

__all__ = ["JITTER", "Event", "conditioned", "log_probability"]

Event = Callable[[Array], Array]
"""`x1[*dims] -> []`, positive where the event happens."""

JITTER = 1e-3
"""The error of the gain to expect of a trained network, a thousandth of its largest value."""


def log_probability(
    event: Event,
    velocity: Velocity,
    path: Path,
    x: Array,
    t: Array,
    *,
    jitter: float = JITTER,
    log_cdf: Callable[[Array], Array] = jax.scipy.special.log_ndtr,
) -> Array:
    """Computes the log-probability of the event given the state, eq. (1) and (3).

    Args:
      event: C, `x1[*dims] -> []`, positive where the event happens; differentiable.
      velocity: the field, `(x[*dims], t[]) -> [*dims]`.
      path: the path that it was trained on, with white noise.
      x: `[*dims]`, the state.
      t: `[]`, in [0, 1], with `alpha(t) > 0` and `sigma(t) > 0`; see `fmjax.posterior` for small t.
      jitter: expected error of the gain, eq. (3), not negative; 0 for an exact field.
      log_cdf: `[] -> []`, logarithm of the distribution function of the standard normal law, or a
        substitute; the paper takes `lambda z: jax.nn.log_sigmoid(1.6 * z)`.

    Returns:
      `[]`, in nats, at most 0, in float32 at least; NaN if the velocity, its Jacobian or the event
      is.

    Raises:
      ValueError: if the event does not return one floating number, if `jitter` is not 0 or more, if
        the velocity is not shaped like `x`, if `t` is batched or a static number outside [0, 1], or
        if alpha or sigma is not positive at a static t.

    Example:
      >>> import fmjax
      >>> import jax.numpy as jnp
      >>> gaussian = lambda x, t: (2 * t - 1) / (t**2 + (1 - t) ** 2) * x  # N(0, I) to N(0, I)
      >>> positive = lambda x1: x1[0]
      >>> path, x = fmjax.paths.linear(), jnp.array([0.5, -2.0])  # x1[0] | x is N(1/2, 1/2)
      >>> log_p = fmjax.events.log_probability(positive, gaussian, path, x, 0.5, jitter=0.0)
      >>> print(f"{jnp.exp(log_p):.4f}")  # Phi(0.7071)
      0.7602

    Reference:
      Finzi et al. (2023), arXiv 2306.07526, user-defined events. [finzi2023user]
    """
    _checks.functions(event=event, velocity=velocity, path=path, log_cdf=log_cdf)
    _held.check_jitter(jitter)
    instead = "events.conditioned keeps the event's pull of smallest_t below it"
    _checks.positive_alpha(path, t, instead)
    _checks.positive_sigma(path, t)
    x, t = _checks.wide(_checks.state(x)), _checks.wide(_checks.time(t))
    alpha, sigma = path.alpha(t), path.sigma(t)
    # The quadratic form of the Jacobian equals the one of its symmetric part, so one tangent is
    # enough where `posterior.matvec` takes a cotangent too.
    mean, tangent_map = jax.linearize(lambda z: posterior.mean(velocity, path, z, t), x)
    _check(event, mean)
    value, slope = jax.value_and_grad(event)(mean)
    along = tangent_map(slope.astype(x.dtype))  # a network may be wider than the state
    form = jnp.abs(jnp.sum(slope * along)) + jitter / alpha * jnp.sum(slope**2)
    # Below this the gradient would overflow: the event is decided by the state. A NaN is not below.
    decided = form <= jnp.finfo(form.dtype).tiny ** (2 / 3)
    std = sigma * jnp.sqrt(jnp.where(decided, 1, form) / alpha)  # eq. (3)
    certain = jnp.where(value > 0, 0.0, jnp.where(jnp.isnan(value), jnp.nan, -jnp.inf))
    return jnp.where(decided, certain, log_cdf(value / std))


def conditioned(
    event: Event,
    velocity: Velocity,
    path: Path,
    *,
    smallest_t: float = posterior.SMALLEST_T,
    jitter: float = JITTER,
    log_cdf: Callable[[Array], Array] = jax.scipy.special.log_ndtr,
) -> Velocity:
    """Conditions a velocity on an event, eq. (2).

    Args:
      event: C, `x1[*dims] -> []`, positive where the event happens; differentiable.
      velocity: the field, `(x[*dims], t[]) -> [*dims]`.
      path: the path that it was trained on, with white noise.
      smallest_t: the smallest time at which the event is evaluated, in [0, 1). Take 0 on a path
        with alpha(0) > 0, or if the event must act from the start.
      jitter: expected error of the gain, eq. (3), not negative; 0 for an exact field.
      log_cdf: `[] -> []`, as in `log_probability`.

    Returns:
      `(x[*dims], t[]) -> [*dims]`, for every t at which the velocity is finite. It raises
      ValueError if the event does not return one floating number.

    Raises:
      ValueError: if `smallest_t` is outside [0, 1).

    Example:
      >>> import fmjax
      >>> import jax.numpy as jnp
      >>> gaussian = lambda x, t: (2 * t - 1) / (t**2 + (1 - t) ** 2) * x  # N(0, I) to N(0, I)
      >>> field = fmjax.events.conditioned(lambda x1: x1[0], gaussian, fmjax.paths.linear())
      >>> right, up = field(jnp.zeros(2), 0.5)
      >>> print(f"{right:.2f}, {up:.2f}")
      1.13, 0.00

    Reference:
      Finzi et al. (2023), arXiv 2306.07526, user-defined events. [finzi2023user]
    """
    _checks.functions(event=event, velocity=velocity, path=path, log_cdf=log_cdf)
    _held.check_smallest_t(smallest_t)

    def log_p(x: Array, t: Array) -> Array:
        return log_probability(event, velocity, path, x, t, jitter=jitter, log_cdf=log_cdf)

    def pull(x: Array, t: Array) -> tuple[Array, Array]:
        return path.sigma(t) / path.alpha(t), jax.grad(log_p)(x, t)  # eq. (2)

    return _held.pulled(velocity, path, smallest_t, pull)


def _check(event: Event, x: Array) -> None:
    """Raises ValueError unless the event of one example is one floating number."""
    leaves = jax.tree.leaves(jax.eval_shape(event, x))
    shapes = [leaf.shape for leaf in leaves]
    if shapes != [()] or not jnp.issubdtype(leaves[0].dtype, jnp.floating):
        message = (
            f"the event must return one number, shape (), got {shapes} of "
            f"{[str(leaf.dtype) for leaf in leaves]} for an example of shape {x.shape}: return how "
            "far inside the event the example is, such as x.max() - 2.5, not x.max() > 2.5."
        )
        raise ValueError(message)
