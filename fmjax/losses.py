"""Training losses: one scalar per example, nothing random inside.

Noise, times and couplings are drawn before and passed in, so a loss is tested by its value;
the caller takes the mean over the batch.

References:
  Lipman et al. (2023), Flow Matching for Generative Modeling, arXiv 2210.02747.
"""

import jax.numpy as jnp

from fmjax import _checks, paths, predictions
from fmjax.paths import Path
from fmjax.types import Array, Velocity


def cfm(velocity: Velocity, path: Path, x0: Array, x1: Array, t: Array) -> Array:
    """Returns the conditional flow matching loss of one example.

    The mean over dimensions of `(velocity(x_t, t) - d x_t / dt)^2`. Over pairs and times its
    minimiser is the marginal velocity `E[d x_t / dt | x_t]`.

    Args:
      velocity: the field that is trained, `(x[*dims], t[]) -> [*dims]`.
      path: the path.
      x0: `[*dims]`, noise.
      x1: `[*dims]`, data.
      t: `[]`, in [0, 1].

    Returns:
      `[]`, the squared error per dimension.

    Raises:
      ValueError: if the shapes differ, or `t` is batched or a static number outside [0, 1].

    Example:
      >>> still = lambda x, t: jnp.zeros_like(x)
      >>> float(cfm(still, paths.linear(), jnp.zeros(2), jnp.array([1.0, 3.0]), 0.5))
      5.0

    Reference:
      Lipman et al. (2023), arXiv 2210.02747, eq. (14). [lipman2023flow]
    """
    x = paths.interpolate(path, x0, x1, t)
    target = predictions.target(predictions.velocity, path, x0, x1, t)
    value = velocity(x, t)
    _checks.same_shape(x=x, velocity=value)
    return jnp.mean(jnp.square(value - target))
