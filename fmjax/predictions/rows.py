"""The kinds of prediction as rows `(a, b)`: the kind predicts `a x1 + b x0`.

References:
  Salimans and Ho (2022), Progressive Distillation, arXiv 2202.00512, appendix D (v).
  Lipman et al. (2023), Flow Matching for Generative Modeling, arXiv 2210.02747.
"""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp

from fmjax import _checks, paths
from fmjax.paths import Path
from fmjax.types import Array

__all__ = ["Prediction", "score", "v", "velocity", "x0", "x1"]

Prediction = Callable[[Path, Array], tuple[Array, Array]]
"""`(path, t) -> (a, b)`: the kind predicts `a x1 + b x0`."""


def velocity(path: Path, t: Array) -> tuple[Array, Array]:
    """Gives the row of the velocity, `(alpha_dot, sigma_dot)`.

    Args:
      path: the path.
      t: `[]`, in [0, 1].

    Returns:
      Two scalars `(a, b)`.

    Raises:
      ValueError: if `t` is batched or a static number outside [0, 1].

    Example:
      >>> import fmjax
      >>> [float(c) for c in fmjax.predictions.velocity(fmjax.paths.linear(), 0.3)]
      [1.0, -1.0]

    Reference:
      Lipman et al. (2023), arXiv 2210.02747, eq. (15). [lipman2023flow]
    """
    c = paths.coefficients(path, t)
    return c.alpha_dot, c.sigma_dot


def x1(path: Path, t: Array) -> tuple[Array, Array]:
    """Gives the row of the data, `(1, 0)`; cannot be converted where sigma = 0.

    Args:
      path: the path.
      t: `[]`, in [0, 1].

    Returns:
      Two scalars `(a, b)`.

    Raises:
      ValueError: if `t` is batched or a static number outside [0, 1].

    Example:
      >>> import fmjax
      >>> [float(c) for c in fmjax.predictions.x1(fmjax.paths.linear(), 0.3)]
      [1.0, 0.0]
    """
    _checks.path(path)
    t = _checks.time(t)
    return jnp.ones_like(t), jnp.zeros_like(t)


def x0(path: Path, t: Array) -> tuple[Array, Array]:
    """Gives the row of the noise, `(0, 1)`; cannot be converted where alpha = 0.

    Args:
      path: the path.
      t: `[]`, in [0, 1].

    Returns:
      Two scalars `(a, b)`.

    Raises:
      ValueError: if `t` is batched or a static number outside [0, 1].

    Example:
      >>> import fmjax
      >>> [float(c) for c in fmjax.predictions.x0(fmjax.paths.linear(), 0.3)]
      [0.0, 1.0]
    """
    _checks.path(path)
    t = _checks.time(t)
    return jnp.zeros_like(t), jnp.ones_like(t)


def score(path: Path, t: Array) -> tuple[Array, Array]:
    """Gives the row of the score, `(0, -1 / sigma)`; infinite where sigma = 0.

    For one pair it gives the conditional score `grad log p_t(x_t | x1) = -x0 / sigma`. The
    conditional mean of `-x0 / sigma` given x_t is the score of the marginal.

    Args:
      path: the path.
      t: `[]`, in [0, 1].

    Returns:
      Two scalars `(a, b)`; the score cannot be converted where alpha = 0.

    Raises:
      ValueError: if `t` is batched or a static number outside [0, 1].

    Example:
      >>> import fmjax
      >>> [float(c) for c in fmjax.predictions.score(fmjax.paths.linear(), 0.5)]
      [0.0, -2.0]

    Reference:
      Song et al. (2021), arXiv 2011.13456, eq. (7). [song2021score]
    """
    _checks.path(path)
    t = _checks.time(t)
    return jnp.zeros_like(t), -1.0 / path.sigma(t)


def v(path: Path, t: Array) -> tuple[Array, Array]:
    """Gives the row of Salimans and Ho's v, `(-sigma, alpha)`.

    Args:
      path: the path.
      t: `[]`, in [0, 1].

    Returns:
      Two scalars `(a, b)`.

    Raises:
      ValueError: if `t` is batched or a static number outside [0, 1].

    Example:
      >>> import fmjax
      >>> [float(c) for c in fmjax.predictions.v(fmjax.paths.linear(), 0.25)]
      [-0.75, 0.25]

    Reference:
      Salimans and Ho (2022), arXiv 2202.00512, appendix D. [salimans2022progressive]
    """
    _checks.path(path)
    t = _checks.time(t)
    return -path.sigma(t), path.alpha(t)
