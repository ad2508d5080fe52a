"""The two paths on the simplex, each a tuple of pure functions of a point and a time.

Given the class i of a position its law p_t(. | e_i) and velocity C(x_i, t) (e_i - x) satisfy the
continuity equation within the simplex, in the K - 1 tangent directions,

    d_t log p_t + div u_t + u_t . grad log p_t = 0                                (1)

**Linear**: `x = t e_i + (1 - t) x0` with x0 uniform; `C = 1 / (1 - t)`. The law is uniform on the
points with `x_i >= t`, so its score vanishes there and `d_t log p_t = (K - 1) / (1 - t)`.

**Dirichlet**: `x ~ Dir(1 + s e_i)` with `s = limit t`. Its density grows as x_i^s. The coefficient
is the rate at which mass must flow towards the corner. With a = 1 + s, c = K - 1, I_b(a, c) the
regularized incomplete beta function and B(a, c) the beta function,

    C(b) = -d_a I_b(a, c) B(a, c) / (b^s (1 - b)^c)       per unit of s           (2)

JAX has no derivative of I in a. Write the derivative as an integral over z = -log of the argument,
and let Delta = digamma(a + c) - digamma(a) and L = -log b. The integrand of

    C(b) / b = (b^-a / (1 - b)^c) int_0^L  e^(-a z) (1 - e^-z)^(c - 1) (Delta - z) dz
             = (b^-a / (1 - b)^c) int_L^oo e^(-a z) (1 - e^-z)^(c - 1) (z - Delta) dz   (3)

is analytic, and for L <= Delta the first, for L >= Delta the second, has one sign: no cancellation.
Gauss-Jacobi and Gauss-Laguerre rules of 24 + K / 5 nodes give eq. (3) to 1e-12 for up to 500
classes, in float32 to 1e-5 for up to 40 and 1e-4 beyond, with derivatives in b and s by jax.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.special
from jax.scipy.special import digamma, gammaln

from fmjax import _checks
from fmjax.simplex._noise import exponentials
from fmjax.types import Array, Key

__all__ = ["Path", "coefficient", "dirichlet", "linear"]

_MAX_CLASSES = 500


class Path(NamedTuple):
    """A path of densities from uniform noise to the corners of the simplex.

    Every function but `sample` and `scale` gives one number for each class j that the position
    could have, from its coordinate x_j. The last three are multiplied by `scale(t)`, which keeps
    them finite where the velocity is not, at t = 1 of `linear`.

    Attributes:
      num_classes: K.
      sample: `(key, x1[*positions], t[]) -> x[*positions, K]`, a noisy state given the classes.
      log_density: `(x, t) -> [*positions, K]`, `log p_t(x | e_j)` in nats, with respect to the
        volume of the first K - 1 coordinates.
      scale: `t -> []`, w, positive for t < 1.
      coefficient: `(x, t) -> [*positions, K]`, `w C(x_j, t)`.
      rate: `(x, t) -> [*positions, K]`, `w d_t log p_t(x | e_j)`.
      pull: `(x, t) -> [*positions, K]`, `w C(x_j, t)` times the derivative of log p_t(x | e_j) in
        x_j.
    """

    num_classes: int
    sample: Callable[[Key, Array, Array], Array]
    log_density: Callable[[Array, Array], Array]
    scale: Callable[[Array], Array]
    coefficient: Callable[[Array, Array], Array]
    rate: Callable[[Array, Array], Array]
    pull: Callable[[Array, Array], Array]


def linear(num_classes: int) -> Path:
    """Makes the straight path from a uniform point of the simplex to the corner of the class.

    Args:
      num_classes: K, at least 2.

    Returns:
      The path; its velocity is not finite at t = 1, where every state is a corner.

    Raises:
      ValueError: if `num_classes` is less than 2.

    Example:
      >>> import fmjax
      >>> import jax
      >>> import jax.numpy as jnp
      >>> path = fmjax.simplex.linear(4)
      >>> x = path.sample(jax.random.key(0), jnp.array([2, 0]), 0.5)
      >>> x.shape, bool(x[0, 2] >= 0.5)
      ((2, 4), True)

    Reference:
      Stark et al. (2024), arXiv 2402.05841. [stark2024dirichlet]
    """
    _count(num_classes)
    dims = num_classes - 1

    def sample(key: Key, x1: Array, t: Array) -> Array:
        corner, t = _corner(x1, num_classes), _checks.time(t)
        x0 = exponentials(key, corner.shape, corner.dtype)
        return t * corner + (1 - t) * x0 / x0.sum(-1, keepdims=True)

    def log_density(x: Array, t: Array) -> Array:
        inside = gammaln(1.0 * num_classes) - dims * jnp.log1p(-_checks.time(t))
        return jnp.where(x >= t, inside, -jnp.inf).astype(x.dtype)

    return Path(
        num_classes,
        sample,
        log_density,
        scale=lambda t: 1 - _checks.time(t),
        coefficient=lambda x, _: jnp.ones_like(x),
        rate=lambda x, _: jnp.full_like(x, dims),
        pull=lambda x, _: jnp.zeros_like(x),
    )


def dirichlet(num_classes: int, *, limit: float = 7.0) -> Path:
    """Makes the path of Dirichlet laws whose concentration on the class grows with t.

    Args:
      num_classes: K, from 2 to 500.
      limit: the concentration at t = 1 is `1 + limit` on the class of the data and 1 on the others.
        The state there is near the corner, not at it; what a network predicts from it is the data.

    Returns:
      The path, with the law Dir(1 + limit t e_i) given the class i.

    Raises:
      ValueError: if `num_classes` is not from 2 to 500, or `limit` is not a positive number.

    Example:
      >>> import fmjax
      >>> import jax
      >>> import jax.numpy as jnp
      >>> path = fmjax.simplex.dirichlet(4)
      >>> x = path.sample(jax.random.key(0), jnp.array([2, 0]), 0.5)
      >>> x.shape, f"{float(x.sum()):.4f}"
      ((2, 4), '2.0000')

    Reference:
      Stark et al. (2024), arXiv 2402.05841. [stark2024dirichlet]
    """
    _count(num_classes, at_most=_MAX_CLASSES)
    if not (isinstance(limit, int | float | np.number) and 0 < limit < float("inf")):
        message = (
            f"limit must be a positive number, got {_checks.described(limit)}: it is the "
            "concentration that the class of the data gains from t = 0 to t = 1, for example 7.0."
        )
        raise ValueError(message)
    limit = float(limit)

    def sample(key: Key, x1: Array, t: Array) -> Array:
        corner, s = _corner(x1, num_classes), limit * _checks.time(t)
        key_class, key_others = jax.random.split(key)
        # Gamma numbers over their sum; those of concentration 1 are exponential, and cheap.
        own = jax.random.gamma(key_class, 1 + s, (*corner.shape[:-1], 1), corner.dtype)
        others = exponentials(key_others, corner.shape, corner.dtype)
        drawn = jnp.where(corner > 0, own, others)
        return drawn / drawn.sum(-1, keepdims=True)

    def log_density(x: Array, t: Array) -> Array:
        s = limit * _checks.time(t)
        return gammaln(num_classes + s) - gammaln(1 + s) + s * _log(x)

    def ratio(x: Array, t: Array) -> Array:
        return _ratio(x, limit * _checks.time(t), num_classes)

    def rate(x: Array, t: Array) -> Array:
        s = limit * _checks.time(t)
        return _log(x) + digamma(num_classes + s) - digamma(1 + s)

    return Path(
        num_classes,
        sample,
        log_density,
        scale=lambda t: 1 / limit + 0 * _checks.time(t),
        coefficient=lambda x, t: x * ratio(x, t),
        rate=rate,
        pull=lambda x, t: limit * _checks.time(t) * ratio(x, t),
    )


def coefficient(b: Array, s: Array, *, num_classes: int) -> Array:
    """Computes the coefficient of the Dirichlet velocity, eq. (2), by quadrature.

    It is exact to 1e-12 in float64, relative, in float32 to 1e-5 for up to 40 classes and to 1e-4
    beyond, and differentiable in b and s.

    Args:
      b: `[*dims]`, coordinates of the class, in [0, 1].
      s: `[]`, the concentration above one, not negative.
      num_classes: K, from 2 to 500.

    Returns:
      `[*dims]`, C, per unit of s; zero at b = 0, and at b = 1
      `(digamma(s + K) - digamma(s + 1)) / (K - 1)`.

    Raises:
      ValueError: if `num_classes` is not from 2 to 500, or s is not a scalar.

    Example:
      >>> import fmjax
      >>> import jax.numpy as jnp
      >>> corner = fmjax.simplex.coefficient(jnp.array(1.0), 0.0, num_classes=3)
      >>> print(f"{corner:.4f}")  # (1 + 1/2) / 2
      0.7500

    Reference:
      Stark et al. (2024), arXiv 2402.05841. [stark2024dirichlet]
    """
    _count(num_classes, at_most=_MAX_CLASSES)
    _checks.moments(s=s)
    b = _checks.floating(b, "b")
    return b * _ratio(b, s, num_classes)


def _ratio(b: Array, s: Array, num_classes: int) -> Array:
    """Returns C(b) / b, eq. (3), at every entry of b."""
    a, c = 1 + s, num_classes - 1
    delta = digamma(a + c) - digamma(a)
    nodes, log_weights, decays, decay_weights = (
        jnp.asarray(rule, b.dtype) for rule in _rules(num_classes)
    )

    def inner(level: Array) -> Array:
        beside = -jnp.expm1(-level)
        # At the corner both ratios are 0 / 0; their first order is exact there to the last digit.
        flat = beside < jnp.finfo(b.dtype).eps
        beside = jnp.where(flat, 1.0, beside)
        steep = -jnp.expm1(-level * nodes) / (beside * nodes)
        steep = jnp.where(flat, 1 + level * (1 - nodes) / 2, steep)
        width = jnp.where(flat, 1 + level / 2, level / beside)
        # One exponential: in float32 the power of many classes overflows where its weight is tiny.
        grown = jnp.exp(log_weights + a * level * (1 - nodes) + (c - 1) * jnp.log(steep))
        return width * jnp.sum(grown * (delta - level * nodes))

    def outer(level: Array) -> Array:
        kept = -jnp.expm1(-level)
        rest = (-jnp.expm1(-level - decays / a) / kept) ** (c - 1)
        return jnp.dot(decay_weights, rest * (level + decays / a - delta)) / (a * kept)

    def entry(b: Array) -> Array:
        level = -_log(b)
        near = level <= delta
        # The other integral is taken at a harmless point, for the sake of its derivative.
        first, second = jnp.where(near, level, delta / 2), jnp.where(near, 2 * delta + 1, level)
        return jnp.where(near, inner(first), outer(second))

    return jnp.vectorize(entry)(b)


@lru_cache
def _rules(num_classes: int) -> tuple[np.ndarray, ...]:
    """Returns nodes and log-weights on [0, 1] for w^(K - 2); also nodes and weights for exp(-z)."""
    count = 24 + num_classes // 5
    nodes, weights = scipy.special.roots_jacobi(count, 0, num_classes - 2)
    decays, decay_weights = scipy.special.roots_laguerre(count)
    with np.errstate(divide="ignore"):  # a weight that underflows counts for nothing
        log_weights = np.log(weights / weights.sum() / (num_classes - 1))
    return (nodes + 1) / 2, log_weights, decays, decay_weights


def _log(x: Array) -> Array:
    """Returns log x, of a coordinate that has underflowed the log of the least positive number."""
    return jnp.log(jnp.maximum(x, jnp.finfo(x.dtype).tiny))


def _corner(x1: Array, num_classes: int) -> Array:
    return jax.nn.one_hot(_checks.classes(x1, num_classes, "x1"), num_classes)


def _count(num_classes: int, *, at_most: int | None = None) -> None:
    """Raises ValueError unless there are two classes or more."""
    _checks.count("it counts the classes of a position", at_least=2, num_classes=num_classes)
    if at_most is not None and num_classes > at_most:
        message = (
            f"num_classes must be at most {at_most}, got {num_classes}: the quadrature of the "
            "Dirichlet coefficient was tried up to there; fmjax.simplex.linear takes any number."
        )
        raise ValueError(message)
