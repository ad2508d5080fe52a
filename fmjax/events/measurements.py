"""Conditioning a trained velocity on a noisy linear measurement, y = A x1 + noise.

Take the data given the state as Gaussian, with mean m and covariance C of `fmjax.posterior`. Then
the data given the state and the measurement have the mean

    m_y = m + C A^T (A C A^T + S)^-1 (y - A m),    S the variances of the noise          (1)

and their law along the path has the velocity `v_y = v + D / sigma (m_y - m)`, with
`D = alpha_dot sigma - alpha sigma_dot`. For Gaussian data (1) is exact. For other data it becomes
exact as sigma -> 0; what it does not see is that one measurement can choose between modes. For a
kernel density of 500 digits the squared error of the draws' mean is 0.3 to 1.1 times the variance
of the posterior, and a multiple of the identity in the place of the second C errs no more
(`experiments.uncertainty.measurements`).

No matrix is formed: products with C are those with the Jacobian of m, and the system is solved by
conjugate gradients. Its size is that of y.

References:
  Boys et al. (2023), Tweedie Moment Projected Diffusions for Inverse Problems, arXiv 2310.06721.
  Rozet et al. (2024), Learning Diffusion Priors from Observations by Expectation Maximization,
  arXiv 2405.13712 (conjugate gradients).
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from fmjax import _checks, _jacobian, posterior
from fmjax.events import _held
from fmjax.events.thresholds import JITTER
from fmjax.paths import Path
from fmjax.types import Array, Velocity

__all__ = ["given_linear"]


def given_linear(
    measure: Callable[[Array], Array],
    y: Array,
    velocity: Velocity,
    path: Path,
    *,
    noise_std: Array | float,
    smallest_t: float = posterior.SMALLEST_T,
    jitter: float = JITTER,
    num_iterations: int = 20,
) -> Velocity:
    """Conditions a velocity on a noisy linear measurement of the data, eq. (1).

    Args:
      measure: A, `x1[*dims] -> [*measured]`, linear: a mask, a blur, means over blocks. One that is
        not linear is linearized at the mean.
      y: `[*measured]`, what was measured.
      velocity: the field, `(x[*dims], t[]) -> [*dims]`.
      path: the path that it was trained on, with white noise.
      noise_std: standard deviation of the noise of y, positive; a number or `[*measured]`.
      smallest_t: the smallest time at which (1) is evaluated, in [0, 1), as for `conditioned`.
      jitter: expected error of `posterior.gain`, not negative, which is added to its eigenvalues;
        0 for an exact field. With negative eigenvalues beyond it the iteration may not converge.
      num_iterations: greatest number of conjugate gradient steps, each a product with the Jacobian
        and one with its transpose.

    Returns:
      `(x[*dims], t[]) -> [*dims]`, for every t at which the velocity is finite. It raises
      ValueError if `measure` does not return the shape of y.

    Raises:
      ValueError: if `smallest_t` is outside [0, 1), if `jitter` is negative, if `noise_std` is a
        number that is not positive, or if `num_iterations` is not positive.

    Example:
      >>> import fmjax
      >>> import jax.numpy as jnp
      >>> gaussian = lambda x, t: (2 * t - 1) / (t**2 + (1 - t) ** 2) * x  # N(0, I) to N(0, I)
      >>> path, first = fmjax.paths.linear(), lambda x1: x1[:1]
      >>> field = fmjax.events.given_linear(
      ...     first, jnp.array([3.0]), gaussian, path, noise_std=1.0, jitter=0.0
      ... )
      >>> right, up = field(jnp.zeros(2), 0.5)  # x1[0] | x is N(0, 1/2): m_y = 3 / 2 / (3 / 2)
      >>> print(f"{right:.2f}, {up:.2f}")
      2.00, 0.00

    Reference:
      Boys et al. (2023), arXiv 2310.06721; Rozet et al. (2024), arXiv 2405.13712.
      [boys2023tweedie; rozet2024learning]
    """
    _checks.functions(measure=measure, velocity=velocity, path=path)
    _held.check_smallest_t(smallest_t)
    _checks.count("it counts the steps of a solver", num_iterations=num_iterations)
    y = _checks.state(y, "y")
    _held.check_jitter(jitter)
    if isinstance(noise_std, int | float) and not noise_std > 0:
        message = (
            f"noise_std must be positive, got {noise_std}: without noise the system can be "
            "singular; give a small one, such as 1e-3 in the units of y."
        )
        raise ValueError(message)

    def shift(x: Array, t: Array) -> Array:
        """Returns m_y - m."""
        mean, tangents = jax.linearize(lambda z: posterior.mean(velocity, path, z, t), x)
        along = _jacobian.symmetric(tangents, x)  # alpha / sigma^2 C
        seen, project = jax.linearize(measure, mean)
        _checks.same_shape(y=y, measured=seen)
        back = jax.linear_transpose(project, mean)
        alpha, sigma = path.alpha(t), path.sigma(t)
        variance = jnp.broadcast_to(alpha / sigma**2 * jnp.square(noise_std), y.shape)

        def spread(w: Array) -> Array:
            return along(w) + jitter / alpha * w

        def system(u: Array) -> Array:
            return project(spread(back(u)[0])) + variance * u

        u, _ = jax.scipy.sparse.linalg.cg(system, y - seen, maxiter=num_iterations)
        return spread(back(u)[0])

    def pull(x: Array, t: Array) -> tuple[Array, Array]:
        return 1 / path.sigma(t), shift(x, t)

    return _held.pulled(velocity, path, smallest_t, pull)
