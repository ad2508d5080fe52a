"""A second output of the network: the variance of the velocity's target.

Given the state x the target of flow matching is not one number. With `D = alpha_dot sigma - alpha
sigma_dot`, noise that is Gaussian and independent of the data, and J the Jacobian of v,

    u = alpha_dot x1 + sigma_dot x0 = (D x1 + sigma_dot x) / sigma                          (1)
    E[u | x_t = x]   = v(x, t)
    Cov[u | x_t = x] = (D / sigma)^2 Cov[x1 | x_t = x] = (D / alpha) (sigma J - sigma_dot I)   (2)

The last step is (2) of `fmjax.posterior`. A network that also returns the logarithm l of a variance
for every entry is trained by the likelihood of u under N(m, diag exp(l)),

    nll = mean over entries of (log 2 pi + l + (u - m)^2 exp(-l)) / 2.                      (3)

Its mean over pairs is smallest at m = v and exp(l) = the diagonal of (2), whatever the law of u,
which is far from Gaussian. Beside another mean m the best variance is that diagonal plus
`(m - v)^2`, the mean squared error of m. So the head learns what any velocity already holds,
`posterior.diagonal(velocity, path, x, t, of=predictions.velocity)`: without a Jacobian, as well as
the head is trained, and of the diagonal alone.

References:
  Han, Lao Beyer and Karaman (2026), Flow Matching with Uncertainty Quantification and Guidance,
  arXiv 2602.10326 (abstract read only).
  Xing, Wang and Wang (2026), Divergence is Uncertainty, arXiv 2605.00941.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import jax.numpy as jnp

from fmjax import _checks, paths, predictions
from fmjax.paths import Path
from fmjax.types import Array

__all__ = ["gaussian_nll"]


def gaussian_nll(
    heads: Callable[[Array, Array], tuple[Array, Array]],
    path: Path,
    x0: Array,
    x1: Array,
    t: Array,
) -> Array:
    """Computes the negative log-likelihood of a pair's velocity under two outputs of a network.

    It is (3) of this module. The gradient for the mean is that of `cfm` with every squared error
    divided by twice the predicted variance, so that a bad variance spoils the mean. To train the
    variance beside a velocity that keeps its own loss, pass
    `lambda x, t: (jax.lax.stop_gradient(velocity(x, t)), log_variance(x, t))`.

    Args:
      heads: `(x[*dims], t[]) -> (velocity[*dims], log_variance[*dims])`; the second is the natural
        logarithm of the variance of every entry of d x_t / dt given x_t = x.
      path: the path.
      x0: `[*dims]`, noise, N(0, I) and independent of x1.
      x1: `[*dims]`, data.
      t: `[]`, in [0, 1]. The variance is smallest where alpha_dot x1 + sigma_dot x0 is almost known
        from the state; where it is zero, as of one data point, the loss has no minimum.

    Returns:
      `[]`, in nats per dimension, of a density: it may be negative. In float32 at least, where
      log-variances down to -170 do not overflow by themselves.

    Raises:
      ValueError: if `heads` does not return two real arrays shaped like the state, if shapes
        differ, if the pair is complex, or if `t` is batched or a static number outside [0, 1].

    Example:
      >>> import fmjax
      >>> import jax.numpy as jnp
      >>> path, x0, x1 = fmjax.paths.linear(), jnp.zeros(2), jnp.array([1.0, 3.0])
      >>> for variance in (1.0, 5.0, 25.0):  # the squared errors are 1 and 9
      ...     heads = lambda x, t: (0.0 * x, jnp.full(2, jnp.log(variance)))
      ...     print(f"{fmjax.losses.gaussian_nll(heads, path, x0, x1, 0.5):.3f}")
      3.419
      2.224
      2.628

    Reference:
      Han et al. (2026), arXiv 2602.10326, for a velocity and its variance from one network; Xing et
      al. (2026), arXiv 2605.00941, section 4.3, for the minimizer.
      [han2026flow; xing2026divergence]
    """
    _checks.functions(heads=heads, path=path)
    x0, x1 = _checks.state(x0, "x0"), _checks.state(x1, "x1")
    x = paths.interpolate(path, x0, x1, t)
    _checks.entries(x, "a loss is a mean over them")
    x0, x1, t = _checks.wide(x0), _checks.wide(x1), _checks.time(t)
    target = predictions.target(predictions.velocity, path, x0, x1, _checks.wide(t))
    mean, log_variance = _two(x, heads(x, t))
    # The root first: exp(-l) alone overflows in float32 below l = -88.
    scaled = (target - mean) * jnp.exp(-0.5 * log_variance)
    return 0.5 * jnp.mean(math.log(2.0 * math.pi) + log_variance + jnp.square(scaled))


def _two(x: Array, result: tuple[Array, Array]) -> tuple[Array, Array]:
    """Returns a velocity and its log-variance in float32 at least, or says what is wrong."""
    if not isinstance(result, tuple | list) or len(result) != 2:
        message = (
            f"heads must return (velocity, log_variance), got {_checks.described(result)}: return "
            "both, each shaped like x."
        )
        raise ValueError(message)
    mean, log_variance = result
    _checks.returned(x, velocity=mean, log_variance=log_variance)
    return _checks.wide(mean), _checks.wide(log_variance)
