"""Uncertainty about the class and within the class: the law of total covariance.

A conditional model has a velocity for every class c. Given the state, with the probabilities
`p_c = p(c | x_t)`, the conditional means m_c and covariances C_c,

    m = sum_c p_c m_c
    Cov[x1 | x_t] = sum_c p_c C_c  +  sum_c p_c (m_c - m)(m_c - m)^T                       (9)
                    within classes    between classes

The first part is the uncertainty that remains if the class is known; the second is due to the
unknown class. The probabilities come from a classifier of noisy states, or from the model itself:
by Bayes' rule p_c is the softmax of `likelihood.log_prob(velocity_c, x, t1=t) + log prior_c`.

Guided velocities must not be used here: (2) holds for the conditional velocities alone.

References:
  Xing et al. (2026), Divergence is Uncertainty, arXiv 2605.00941.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from fmjax import _checks
from fmjax.paths import Path
from fmjax.posterior import _operator, moments
from fmjax.types import Array

__all__ = ["Conditional", "Parts", "total_covariance", "total_diagonal"]

Conditional = Callable[[Array, Array, Array], Array]
"""`(x[*dims], t[], c[]) -> dx[*dims]`, the velocity of one class."""


class Parts(NamedTuple):
    """The posterior of a conditional model, its covariance as a sum of two parts.

    Attributes:
      mean: `[*dims]`, over all classes.
      within: the mean of the classes' own covariances.
      between: the covariance of the classes' means.
    """

    mean: Array
    within: Array
    between: Array

    @property
    def total(self) -> Array:
        """The covariance, or its diagonal, given the state alone."""
        return self.within + self.between


def total_covariance(
    velocity: Conditional, path: Path, x: Array, t: Array, classes: Array, probabilities: Array
) -> Parts:
    """Computes the covariance within and between classes, eq. (9), as matrices.

    Args:
      velocity: the conditional field, `(x[*dims], t[], c) -> [*dims]`, not guided.
      path: the path that it was trained on.
      x: `[*dims]`, the state; d is its size, at most 4,096.
      t: `[]`, in (0, 1]; see `fmjax.posterior` for small t.
      classes: `[k, ...]`, the third argument of the velocity for each class.
      probabilities: `[k]`, probabilities of the classes given the state; they sum to one.

    Returns:
      Mean `[*dims]`, and two parts `[d, d]`.

    Raises:
      ValueError: if `classes` and `probabilities` differ in length, if d is above 4,096, or if
        `t` is batched or a static number outside (0, 1].

    Example:
      >>> import fmjax
      >>> import jax.numpy as jnp
      >>> path = fmjax.paths.linear()
      >>> point = lambda x, t, c: (c - x) / (1 - t)  # each class is a single point
      >>> classes, probs = jnp.array([-1.0, 1.0]), jnp.array([0.5, 0.5])
      >>> parts = fmjax.posterior.total_covariance(point, path, jnp.zeros(1), 0.5, classes, probs)
      >>> parts.within.tolist(), parts.between.tolist()
      ([[0.0]], [[1.0]])

    Reference:
      The law of total covariance; for the parts Xing et al. (2026), arXiv 2605.00941.
      [xing2026divergence]
    """
    _check(velocity, path)
    x = _checks.state(x)
    _operator.check_dense(x)  # before the velocity is traced
    outer = lambda gap: jnp.outer(gap, gap)  # noqa: E731
    return _parts(moments.covariance, outer, velocity, path, x, t, classes, probabilities)


def total_diagonal(
    velocity: Conditional, path: Path, x: Array, t: Array, classes: Array, probabilities: Array
) -> Parts:
    """Computes the variance of every entry within and between classes, the diagonals of (9).

    Args:
      velocity: the conditional field, `(x[*dims], t[], c) -> [*dims]`, not guided.
      path: the path that it was trained on.
      x: `[*dims]`, the state.
      t: `[]`, in (0, 1]; see `fmjax.posterior` for small t.
      classes: `[k, ...]`, the third argument of the velocity for each class.
      probabilities: `[k]`, probabilities of the classes given the state; they sum to one.

    Returns:
      Three arrays `[*dims]`; the sums over entries are the parts of U.

    Raises:
      ValueError: if `classes` and `probabilities` differ in length, or if `t` is batched or a
        static number outside (0, 1].

    Example:
      >>> import fmjax
      >>> import jax.numpy as jnp
      >>> path = fmjax.paths.linear()
      >>> point = lambda x, t, c: (c - x) / (1 - t)  # each class is a single point
      >>> classes, probs = jnp.array([-1.0, 1.0]), jnp.array([0.25, 0.75])
      >>> parts = fmjax.posterior.total_diagonal(point, path, jnp.zeros(2), 0.5, classes, probs)
      >>> parts.within.tolist(), parts.between.tolist()
      ([0.0, 0.0], [0.75, 0.75])

    Reference:
      The law of total covariance; for the parts Xing et al. (2026), arXiv 2605.00941.
      [xing2026divergence]
    """
    _check(velocity, path)
    x = _checks.state(x)
    square = lambda gap: (gap**2).reshape(x.shape)  # noqa: E731
    return _parts(moments.diagonal, square, velocity, path, x, t, classes, probabilities)


def _check(velocity: Conditional, path: Path) -> None:
    """Raises ValueError unless these are the velocity of a class and a path."""
    _checks.path(path)
    example = "pass, for example, lambda x, t, c: apply(params, x, t, label=c)"
    _checks.function(velocity, "velocity", "(x, t, c) -> dx", example)


def _parts(
    quantity: Callable[..., Array],
    spread: Callable[[Array], Array],
    velocity: Conditional,
    path: Path,
    x: Array,
    t: Array,
    classes: Array,
    probabilities: Array,
) -> Parts:
    """Returns (9) for a linear part of the covariance and the same part of an outer product."""
    classes, probabilities = jnp.asarray(classes), _checks.floating(probabilities)
    if probabilities.ndim != 1 or classes.shape[:1] != probabilities.shape:
        message = (
            f"classes and probabilities must have one entry per class, got shapes {classes.shape} "
            f"and {probabilities.shape}: one state per call; wrap the call in jax.vmap for a batch."
        )
        raise ValueError(message)

    def of_class(c: Array) -> tuple[Array, Array]:
        given = partial(_given, velocity, c)
        return moments.mean(given, path, x, t), quantity(given, path, x, t)

    # One class at a time: the memory of one covariance, however many classes there are.
    means, own = jax.lax.map(of_class, classes)
    average = jnp.tensordot(probabilities, means, axes=1)
    gaps = jax.vmap(spread)((means - average[None]).reshape(len(classes), -1))
    weighted = lambda values: jnp.tensordot(probabilities, values, axes=1)  # noqa: E731
    return Parts(average, weighted(own), weighted(gaps))


def _given(velocity: Conditional, c: Array, x: Array, t: Array) -> Array:
    """Returns the velocity of one class."""
    return velocity(x, t, c)
