"""Losses on the simplex: the cross-entropy of the classes, and the residual of the divergence.

A network is trained by cross-entropy, whose minimizer is the posterior of the classes, and so gives
the exact velocity. As on Gaussian paths (`fmjax.losses`), matching the divergence adds the square
of the conditional residual of one example,

    r = -[d_t log p_t(x | x1) + div v + v . grad log p_t(x | x1)]                 (1)

which vanishes on average at the exact velocity. No gradient passes through the v that multiplies
the score. With g_j the rate `d_t log p_t(x | e_j)`, u_j the velocity of class j and h_j = C(x_j)
d log p_t(x | e_j) / d x_j, all closed forms, continuity gives `div u_j = -g_j - h_j (1 - x_j)`, and
(1) at a position of class i is, without a derivative of C or a division by x,

    r = -g_i + sum_j p_j (g_j + h_j (1 - x_j)) - (p_i h_i - sum_j p_j h_j x_j)
        - sum_j u_j . grad p_j                                                    (2)

The last sum, over all positions at once, is the divergence at xi = 0 of `xi -> p(x + U xi)` with
`U xi = sum_j xi_j u_j`, so any estimator of `fmjax.divergence` computes it, with plain probes. On
the linear path (2) is `-div p / (1 - t)`. Losses have `w r`, with the scale w of the path, which is
finite at both ends, squared and divided by the number of tangent directions.

The code of arXiv 2602.00869 penalizes another quantity: for toy DNA the gradient of the sum of all
probabilities, which is zero; for promoters a finite difference of p, without C and the score.

References:
  Huang et al. (2025), Improving Flow Matching by Aligning Flow Divergence, arXiv 2602.00869.
  Stark et al. (2024), Dirichlet Flow Matching, arXiv 2402.05841 (training by cross-entropy).
"""

from __future__ import annotations

import numbers

import jax
import jax.numpy as jnp

from fmjax import _checks, _jacobian
from fmjax import divergence as divergences
from fmjax.simplex.paths import Path
from fmjax.types import Array, Divergence, Velocity

__all__ = ["cdm", "cross_entropy", "fdm", "residual"]


def cross_entropy(logits: Velocity, x: Array, x1: Array, t: Array) -> Array:
    """Computes the cross-entropy of the classes of one noisy example, in nats per position.

    Args:
      logits: the network, `(x[*positions, K], t[]) -> [*positions, K]`.
      x: `[*positions, K]`, a noisy state, from `path.sample(key, x1, t)`.
      x1: `[*positions]`, the classes, integers from 0 to K - 1.
      t: `[]`, in [0, 1].

    Returns:
      `[]`, the mean over positions.

    Raises:
      ValueError: if shapes do not fit, x1 is not of integers, or the network changes the shape.

    Example:
      >>> import fmjax
      >>> import jax.numpy as jnp
      >>> x, x1 = jnp.full((3, 4), 0.25), jnp.array([0, 3, 1])
      >>> loss = fmjax.simplex.cross_entropy(lambda x, t: x, x, x1, 0.5)
      >>> print(f"{loss:.4f}")  # log 4
      1.3863

    Reference:
      Stark et al. (2024), arXiv 2402.05841. [stark2024dirichlet]
    """
    _checks.functions(logits=logits)
    _checks.time(t)
    x = _checks.state(x)
    network, x = _jacobian.widened(_checks.at(logits, t, "logits"), x, "logits")
    value = network(x)
    return _entropy(value, _fitting(x, x1))


def residual(
    logits: Velocity,
    path: Path,
    x: Array,
    x1: Array,
    t: Array,
    *,
    divergence: Divergence = divergences.exact,
) -> Array:
    """Computes the scaled conditional residual of one example, eq. (2) times the path's scale.

    Args:
      logits: the network, `(x[*positions, K], t[]) -> [*positions, K]`.
      path: the path.
      x: `[*positions, K]`, a noisy state, from `path.sample(key, x1, t)`.
      x1: `[*positions]`, its classes, integers from 0 to K - 1.
      t: `[]`, in [0, 1].
      divergence: any estimator of `fmjax.divergence`, with its usual probes.

    Returns:
      `[]`, w r: times 1 - t on `linear`, per unit of concentration on `dirichlet`.

    Raises:
      ValueError: if shapes do not fit, x1 is not of integers, or the network changes the shape.

    Example:
      >>> import fmjax
      >>> import jax
      >>> import jax.numpy as jnp
      >>> path, x1 = fmjax.simplex.linear(4), jnp.array([0, 3, 1])
      >>> x = path.sample(jax.random.key(0), x1, 0.3)
      >>> blind = lambda x, t: jnp.zeros_like(x)  # its probabilities do not depend on x
      >>> abs(float(fmjax.simplex.residual(blind, path, x, x1, 0.3))) < 1e-5
      True

    Reference:
      Huang et al. (2025), arXiv 2602.00869, eq. (14), on the paths of Stark et al. (2024).
      [huang2025improving; stark2024dirichlet]
    """
    return _linearized(logits, path, x, x1, t, divergence)[1]


def cdm(
    logits: Velocity,
    path: Path,
    x: Array,
    x1: Array,
    t: Array,
    *,
    divergence: Divergence = divergences.exact,
) -> Array:
    """Computes the conditional divergence matching loss of one example, the squared residual.

    Args:
      logits: as for `residual`.
      path: the path.
      x: `[*positions, K]`, a noisy state.
      x1: `[*positions]`, its classes.
      t: `[]`, in [0, 1].
      divergence: as for `residual`.

    Returns:
      `[]`, `(w r)^2`, divided by the number of tangent directions, positions times K - 1.

    Raises:
      ValueError: as `residual`.

    Example:
      >>> import fmjax
      >>> import jax.numpy as jnp
      >>> path, x = fmjax.simplex.linear(2), jnp.array([[0.6, 0.4]])
      >>> loss = fmjax.simplex.cdm(lambda x, t: 4.0 * x, path, x, jnp.array([0]), 0.5)
      >>> print(f"{loss:.3f}")  # (8 p_0 p_1)^2
      2.928

    Reference:
      Huang et al. (2025), arXiv 2602.00869, section 4.1. [huang2025improving]
    """
    return _penalty(_linearized(logits, path, x, x1, t, divergence)[1], path, x1)


def fdm(
    logits: Velocity,
    path: Path,
    x: Array,
    x1: Array,
    t: Array,
    *,
    weight: Array | float,
    divergence: Divergence = divergences.exact,
) -> Array:
    """Computes the cross-entropy plus the weighted divergence matching loss of one example.

    Args:
      logits: as for `residual`.
      path: the path.
      x: `[*positions, K]`, a noisy state.
      x1: `[*positions]`, its classes.
      t: `[]`, in [0, 1].
      weight: not negative; the number 0 is `cross_entropy` exactly, and costs no derivative.
      divergence: as for `residual`.

    Returns:
      `[]`, nats per position plus the weighted penalty.

    Raises:
      ValueError: as `residual`, and if `weight` is a negative number.

    Example:
      >>> import fmjax
      >>> import jax.numpy as jnp
      >>> path, x = fmjax.simplex.linear(2), jnp.array([[0.6, 0.4]])
      >>> loss = fmjax.simplex.fdm(lambda x, t: 4 * x, path, x, jnp.array([0]), 0.5, weight=0.1)
      >>> print(f"{loss:.3f}")  # 0.371 + 0.1 * 2.928
      0.664

    Reference:
      Huang et al. (2025), arXiv 2602.00869, eq. (17). [huang2025improving]
    """
    weight = _checks.penalty(weight, "the cross-entropy")
    x = _checks.letters(path, x)
    if isinstance(weight, numbers.Number) and weight == 0:
        return cross_entropy(logits, x, x1, t)
    value, found = _linearized(logits, path, x, x1, t, divergence)
    return _entropy(value, _fitting(x, x1)) + weight * _penalty(found, path, x1)


def _linearized(
    logits: Velocity, path: Path, x: Array, x1: Array, t: Array, divergence: Divergence
) -> tuple[Array, Array]:
    """Returns the logits and the scaled residual, by one linearization of the network."""
    _checks.functions(logits=logits, divergence=divergence)
    _checks.time(t)
    network, x = _jacobian.widened(
        _checks.at(logits, t, "logits"), _checks.letters(path, x), "logits"
    )
    corner = jax.nn.one_hot(_fitting(x, x1), path.num_classes, dtype=x.dtype)
    value, tangent_map = jax.linearize(network, x)
    probs, into_probs = jax.linearize(jax.nn.softmax, value)
    flow = path.coefficient(x, t).astype(x.dtype)

    def moved(xi: Array) -> Array:
        along = flow * xi
        return into_probs(tangent_map(along - x * along.sum(-1, keepdims=True)))

    _, turning = _checks.divergence_of(divergence, moved, jnp.zeros_like(x))
    rate, pull = path.rate(x, t), path.pull(x, t)
    still = jax.lax.stop_gradient(probs)
    spread = jnp.sum((probs - corner) * rate + probs * pull * (1 - x))
    return value, spread - jnp.sum(still * pull * (corner - x)) - turning


def _penalty(scaled: Array, path: Path, x1: Array) -> Array:
    return jnp.square(scaled) / (jnp.size(x1) * (path.num_classes - 1))


def _entropy(value: Array, x1: Array) -> Array:
    chosen = jnp.take_along_axis(jax.nn.log_softmax(value), x1[..., None], -1)
    return -chosen.mean()


def _fitting(x: Array, x1: Array) -> Array:
    """Returns the classes of a state, or raises ValueError."""
    _checks.entries(x, "a loss is a mean over them")
    x1 = _checks.classes(x1, x.shape[-1], "x1")
    if x1.shape != x.shape[:-1]:
        message = (
            f"x1 must hold a class for each position of x, shape {x.shape[:-1]}, got shape "
            f"{x1.shape}."
        )
        raise ValueError(message)
    return x1
