"""A path, its time derivatives, and the interpolation between noise and data.

References:
  Lipman et al. (2023), Flow Matching for Generative Modeling, arXiv 2210.02747, section 4.1.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from fmjax import _checks
from fmjax.types import Array

__all__ = ["Coefficients", "Path", "coefficients", "interpolate"]


class Path(NamedTuple):
    """The two coefficient functions of `x_t = alpha(t) x1 + sigma(t) x0`.

    Attributes:
      alpha: `t[] -> []`, the share of the data, increasing from about 0 to 1 (1 for ve).
      sigma: `t[] -> []`, the standard deviation of the noise, decreasing.
    """

    alpha: Callable[[Array], Array]
    sigma: Callable[[Array], Array]


class Coefficients(NamedTuple):
    """Values and time derivatives of a path's coefficients at one time.

    Attributes:
      alpha: `[]`, the share of the data.
      sigma: `[]`, the standard deviation of the noise.
      alpha_dot: `[]`, the time derivative of alpha.
      sigma_dot: `[]`, the time derivative of sigma.
    """

    alpha: Array
    sigma: Array
    alpha_dot: Array
    sigma_dot: Array

    @property
    def wronskian(self) -> Array:
        """`alpha_dot sigma - alpha sigma_dot`, positive; 1 on the linear path."""
        return self.alpha_dot * self.sigma - self.alpha * self.sigma_dot


def coefficients(path: Path, t: Array) -> Coefficients:
    """Evaluates alpha, sigma and their time derivatives at one time.

    Args:
      path: the path.
      t: `[]`, in [0, 1].

    Returns:
      Four scalars. `jax.jvp` computes the derivatives, so they are exact for any path.

    Raises:
      ValueError: if `t` is batched, or a static number outside [0, 1].

    Example:
      >>> import fmjax
      >>> path = fmjax.paths.cosine()
      >>> [round(float(c), 3) for c in fmjax.paths.coefficients(path, 0.5)]
      [0.707, 0.707, 1.111, -1.111]
    """
    _checks.path(path)
    t = _checks.time(t)
    one = jnp.ones_like(t)
    alpha, alpha_dot = jax.jvp(path.alpha, (t,), (one,))
    sigma, sigma_dot = jax.jvp(path.sigma, (t,), (one,))
    return Coefficients(alpha, sigma, alpha_dot, sigma_dot)


def interpolate(path: Path, x0: Array, x1: Array, t: Array) -> Array:
    """Interpolates between one noise and one data example along the path, eq. (1).

    Args:
      path: the path.
      x0: `[*dims]`, noise.
      x1: `[*dims]`, data.
      t: `[]`, in [0, 1].

    Returns:
      `[*dims]`, `alpha(t) x1 + sigma(t) x0`.

    Raises:
      ValueError: if the shapes differ, or `t` is batched or a static number outside [0, 1].

    Example:
      >>> import fmjax
      >>> import jax.numpy as jnp
      >>> x0, x1 = jnp.array([0.0, 4.0]), jnp.array([2.0, 0.0])
      >>> fmjax.paths.interpolate(fmjax.paths.linear(), x0, x1, 0.25).tolist()
      [0.5, 3.0]

    Reference:
      Lipman et al. (2023), arXiv 2210.02747, eq. (11). [lipman2023flow]
    """
    _checks.path(path)
    x0, x1 = _checks.state(x0, "x0"), _checks.state(x1, "x1")
    _checks.same_shape(x0=x0, x1=x1)
    t = _checks.time(t)
    return path.alpha(t) * x1 + path.sigma(t) * x0
