"""Velocities on the simplex, their divergence, and the exact field of a data set."""

from __future__ import annotations

import numbers
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from fmjax import _checks, _jacobian
from fmjax.simplex.paths import Path
from fmjax.types import Array, Key, Velocity

__all__ = [
    "as_velocity",
    "divergence",
    "posterior",
    "tangent_probe",
    "velocity",
]


def velocity(path: Path, probs: Array, x: Array, t: Array) -> Array:
    """Computes the velocity that predicted probabilities make, eq. (2) of `fmjax.simplex`.

    It is linear in the probabilities, so a mixture of two velocities, as in classifier-free
    guidance by `fmjax.samplers.guided`, is the velocity of the mixed probabilities.

    Args:
      path: the path.
      probs: `[*positions, K]`, the predicted probability of every class.
      x: `[*positions, K]`, a point of the simplex.
      t: `[]`, in [0, 1]; below 1 on `linear`.

    Returns:
      `[*positions, K]`, with sum zero over the last axis.

    Raises:
      ValueError: if shapes differ or do not end in K, or if `t` is batched, or a static number
        outside [0, 1] or where the velocity is not finite.

    Example:
      >>> import fmjax
      >>> import jax.numpy as jnp
      >>> path, x = fmjax.simplex.linear(2), jnp.array([0.6, 0.4])
      >>> dx = fmjax.simplex.velocity(path, jnp.array([1.0, 0.0]), x, 0.5)
      >>> print(", ".join(f"{entry:.2f}" for entry in dx))
      0.80, -0.80

    Reference:
      Stark et al. (2024), arXiv 2402.05841. [stark2024dirichlet]
    """
    x = _checks.letters(path, x)
    _checks.same_shape(x=x, probs=probs)
    t = _below_one(path, t)
    flow = probs * path.coefficient(x, t)
    return (flow - x * flow.sum(-1, keepdims=True)) / path.scale(t)


def as_velocity(logits: Velocity, path: Path) -> Velocity:
    """Makes the velocity of a network that predicts classes.

    Args:
      logits: the network, `(x[*positions, K], t[]) -> [*positions, K]`, unnormalized logs of
        probabilities.
      path: the path.

    Returns:
      `(x[*positions, K], t[]) -> dx[*positions, K]`, which samplers, `fmjax.simplex.divergence` and
      `fmjax.samplers.guided` take.

    Raises:
      ValueError: if `path` is none of the simplex; on a call, if the network changes the shape, or
        as `velocity`.

    Example:
      >>> import fmjax
      >>> import jax.numpy as jnp
      >>> path = fmjax.simplex.dirichlet(4)
      >>> velocity = fmjax.simplex.as_velocity(lambda x, t: 3.0 * x, path)
      >>> x = jnp.full((5, 4), 0.25)
      >>> float(jnp.abs(velocity(x, 0.5)).max()) < 1e-6  # by symmetry
      True

    Reference:
      Stark et al. (2024), arXiv 2402.05841. [stark2024dirichlet]
    """
    _checks.functions(logits=logits)
    _checks.alphabet(path)

    def field(x: Array, t: Array) -> Array:
        return velocity(path, jax.nn.softmax(_checks.at(logits, t, "logits")(x)), x, t)

    return field


def posterior(path: Path, bank: Array, x: Array, t: Array) -> Array:
    """Computes the exact probabilities of the classes given a noisy state, for a finite data set.

    They are what a network trained by `cross_entropy` on the data set would predict without error;
    `velocity` makes the exact field of them.

    Args:
      path: the path.
      bank: `[n, *positions]`, the data set, integers from 0 to K - 1.
      x: `[*positions, K]`, a point that the path reaches from at least one of the data.
      t: `[]`, in [0, 1); on `dirichlet` also 1.

    Returns:
      `[*positions, K]`, with sum one over the last axis; NaN at a point that no datum reaches.

    Raises:
      ValueError: if the bank is empty or does not hold classes, or if shapes do not fit.

    Example:
      >>> import fmjax
      >>> import jax.numpy as jnp
      >>> path, bank = fmjax.simplex.dirichlet(2, limit=2.0), jnp.array([[0], [0], [1]])
      >>> probs = fmjax.simplex.posterior(path, bank, jnp.array([[0.5, 0.5]]), 0.5)
      >>> print(", ".join(f"{p:.4f}" for p in probs[0]))
      0.6667, 0.3333

    Reference:
      Bayes' rule on the laws of `path`; in the sense of Bertrand et al. (2025), arXiv 2506.03719.
      [bertrand2025closed]
    """
    x, bank = _checks.letters(path, x), _checks.classes(bank, path.num_classes, "bank")
    if bank.shape[1:] != x.shape[:-1] or bank.ndim != x.ndim or bank.shape[0] == 0:
        message = (
            f"bank must hold sequences like x, [n, *{x.shape[:-1]}] with n at least 1, got shape "
            f"{bank.shape}."
        )
        raise ValueError(message)
    t = _checks.time(t)
    corners = jax.nn.one_hot(bank, path.num_classes, dtype=x.dtype)
    # A class that the state excludes has the log-density -inf, which times zero would be NaN.
    chosen = jnp.where(corners > 0, path.log_density(x, t)[None], 0)
    weights = jax.nn.softmax(chosen.reshape(len(bank), -1).sum(-1))
    return jnp.tensordot(weights, corners, 1)


def divergence(f: Callable[[Array], Array], x: Array) -> tuple[Array, Array]:
    """Computes a tangent field's value and its exact divergence within the simplex.

    It is the trace over an orthonormal basis of the K - 1 tangent directions of every position. For
    many positions take `partial(fmjax.divergence.hutchinson, key, probe=tangent_probe)`.

    Args:
      f: the field, `[*positions, K] -> [*positions, K]`; only its values on the simplex count.
      x: `[*positions, K]`, the point.

    Returns:
      `f(x)`, `[*positions, K]`, and its divergence, `[]`.

    Raises:
      ValueError: if `f(x)` and `x` have different shapes, or x has fewer than two classes.

    Example:
      >>> import fmjax
      >>> import jax.numpy as jnp
      >>> to_the_center = lambda x: 0.25 - x
      >>> value, div = fmjax.simplex.divergence(to_the_center, jnp.eye(4)[:2])
      >>> print(f"{div:.3f}")  # -(K - 1) at each of two positions
      -6.000

    Reference:
      Huang et al. (2025), arXiv 2602.00869, section 5.3; the trace of the projected Jacobian.
      [huang2025improving]
    """
    _checks.functions(f=f)
    f, x = _jacobian.widened(f, _checks.positions(_checks.floating(x)))
    value, tangent_map = jax.linearize(f, x)
    if x.size == 0:
        return value, jnp.zeros_like(x, shape=())
    basis = jnp.asarray(_tangents(x.shape[-1]), x.dtype)
    count = x.size // x.shape[-1]
    units = jnp.einsum("np,rk->nrpk", jnp.eye(count, dtype=x.dtype), basis)
    units = units.reshape(-1, *x.shape)
    return value, jnp.sum(units * jax.vmap(tangent_map)(units))


def tangent_probe(key: Key, shape: tuple[int, ...], dtype: jnp.dtype = jnp.float32) -> Array:
    """Draws a random tangent vector z of the simplex, with E[z z^T] the projection on tangents.

    Pass it as `probe=` of `fmjax.divergence.hutchinson`: the estimate is then of the divergence
    within the simplex.

    Args:
      key: a typed PRNG key.
      shape: `(*positions, K)`, of the result.
      dtype: of the result.

    Returns:
      `[*positions, K]`, random signs less their mean over the last axis.

    Raises:
      ValueError: if the shape has no axis of two classes or more.

    Example:
      >>> import fmjax
      >>> import jax
      >>> z = fmjax.simplex.tangent_probe(jax.random.key(0), (5, 4))
      >>> float(abs(z.sum(-1)).max())
      0.0

    Reference:
      Hutchinson (1989), Communications in Statistics 18(3), on a subspace.
      [hutchinson1989stochastic]
    """
    _checks.positions(jax.ShapeDtypeStruct(tuple(shape), dtype))
    signs = jax.random.rademacher(key, shape, dtype)
    return signs - signs.mean(-1, keepdims=True)


def _tangents(num_classes: int) -> np.ndarray:
    """Returns an orthonormal basis of the vectors with sum zero, `[K - 1, K]` (Helmert)."""
    rows = np.tril(np.ones((num_classes - 1, num_classes)))
    for k in range(num_classes - 1):
        rows[k, k + 1] = -(k + 1)
        rows[k] /= np.sqrt((k + 1) * (k + 2))
    return rows


def _below_one(path: Path, t: Array | float) -> Array:
    """Returns the time, or raises ValueError where it is static and the velocity not finite."""
    made = _checks.time(t)
    if isinstance(t, numbers.Number) and not float(path.scale(t)) > 0:
        message = (
            f"t must be below one: the velocity of this path is not finite at t = {float(t)}, "
            "where every state is a corner; stop, for example, at 0.999."
        )
        raise ValueError(message)
    return made
