"""Estimators that leave each probe out in turn, eq. (3) of `fmjax.estimators`.

References:
  Epperly, Tropp and Webber (2024), XTrace: Making the Most of Every Sample in Stochastic Trace
  Estimation, arXiv 2301.07825.
  Epperly (2025), Make the Most of What You Have, arXiv 2512.15929.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from matfree import stochtrace

from fmjax import _checks, _jacobian
from fmjax._jacobian import Estimate, Field
from fmjax.types import Array, Key

__all__ = ["xdiag", "xnysdiag", "xnystrace", "xtrace"]


class _Algorithm(NamedTuple):
    """A leave-one-out estimator: terms (3), probes, operator, exact value from the diagonal."""

    terms: Callable[..., Array]
    sampler: Callable[..., Callable[[Key], Array]]
    operator: Callable[[Field, Array], Field]
    exact: Callable[[Array], Array]


def _unchanged(tangent_map: Field, x: Array) -> Field:  # noqa: ARG001
    """Returns the products with the Jacobian itself."""
    return tangent_map


def _diagonal(entries: Array) -> Array:
    """Returns the diagonal as it is."""
    return entries


def _triangle(probes: Array) -> Array:
    """Returns the R of a QR of well-conditioned probes, for less than a QR of d rows."""
    return jnp.linalg.cholesky(probes.T @ probes, upper=True)


# The rescaling of the trace's residual wants probes that no rotation changes; signs leave the
# diagonal of a residual without noise, as (2) says.
_SPHERE, _SIGNS = stochtrace.sampler_sphere, stochtrace.sampler_signs
_XTRACE = _Algorithm(stochtrace.leave_one_out_xtrace(), _SPHERE, _unchanged, jnp.sum)
_XDIAG = _Algorithm(stochtrace.leave_one_out_xdiag(), _SIGNS, _unchanged, _diagonal)
_XNYSTRACE = _Algorithm(
    stochtrace.leave_one_out_xnystrace(qr_r=_triangle), _SPHERE, _jacobian.symmetric, jnp.sum
)
_XNYSDIAG = _Algorithm(stochtrace.leave_one_out_xnysdiag(), _SIGNS, _jacobian.symmetric, _diagonal)


def _leave_one_out(
    algorithm: _Algorithm, key: Key, f: Field, x: Array, num_probes: int
) -> tuple[Array, Estimate]:
    """Computes the value and the mean of the terms (3), or the exact number if d is small."""
    x, value, tangent_map = _jacobian.linearized(f, x, num_probes)
    if x.size <= 2 * num_probes:
        units = jnp.eye(x.size, dtype=x.dtype).reshape(x.size, *x.shape)
        entries = jax.vmap(lambda unit: jnp.vdot(unit, tangent_map(unit)))(units)
        exact = algorithm.exact(entries.reshape(x.shape))
        return value, Estimate(exact, jnp.zeros_like(exact))
    probes = algorithm.sampler(x, num=num_probes)(key)
    matvec, scale = _unit_scale(algorithm.operator(tangent_map, x), probes[0])
    with jax.numpy_rank_promotion("allow"):  # matfree promotes; its caller may forbid it
        terms = algorithm.terms(matvec, probes)
    return value, _jacobian.summary(scale * terms)


def _unit_scale(matvec: Field, probe: Array) -> tuple[Field, Array]:
    """Divides the operator by its size, which takes one more product; gives both.

    matfree compares with absolute thresholds, so it would treat a small operator as one of low
    rank. It also masks eigenvalues, so a NaN would become a number; here the size keeps the NaN.
    The zero operator, for which matfree gives NaN, is replaced by the identity times zero.
    """
    size = jax.lax.stop_gradient(jnp.abs(matvec(probe)).max())
    zero = size == 0
    return lambda w: jnp.where(zero, w, matvec(w) / jnp.where(zero, 1.0, size)), size


def xtrace(key: Key, f: Field, x: Array, *, num_probes: int = 16) -> tuple[Array, Estimate]:
    """Estimates the trace of any Jacobian without bias, eq. (3); also returns the value.

    On a CPU use `jax.lax.map` over many large cases: `vmap` of the QR may hang there, see
    `fmjax.estimators`.

    Args:
      key: a typed PRNG key.
      f: the field, `[*dims] -> [*dims]`.
      x: `[*dims]`, the point; any shape, a scalar too.
      num_probes: K, at least 2. A call takes `2 K + 1` tangents, or d tangents where
        `d <= 2 K`; the result is then exact.

    Returns:
      `f(x)`, `[*dims]`, and the estimate, both fields `[]`.

    Raises:
      ValueError: if `f(x)` and `x` have different shapes, or `num_probes` is below 2.

    Example:
      >>> import fmjax
      >>> import jax
      >>> import jax.numpy as jnp
      >>> key, x = jax.random.key(0), jnp.ones(50)
      >>> low_rank = lambda x: jnp.outer(jnp.arange(50.0), jnp.ones(50)) @ x / 50
      >>> _, trace = fmjax.estimators.xtrace(key, low_rank, x, num_probes=4)
      >>> round(float(trace.mean), 3)  # 49 / 2: exact for a rank below the number of probes
      24.5

    Reference:
      Epperly, Tropp and Webber (2024), arXiv 2301.07825, section 2. [epperly2024xtrace]
    """
    _checks.functions(f=f)
    return _leave_one_out(_XTRACE, key, f, x, num_probes)


def xnystrace(key: Key, f: Field, x: Array, *, num_probes: int = 16) -> tuple[Array, Estimate]:
    """Estimates the trace of a positive semi-definite Jacobian; also returns the value.

    For such Jacobians the error is smaller than with `xtrace` at the same number of products,
    which allows twice the probes. The Jacobian is symmetrized and directions of negative curvature
    are dropped. On an indefinite Jacobian the estimate is therefore biased, by several times the
    trace, and the standard error does not show it. For a negative definite Jacobian, which a
    velocity may have, the result is zero plus or minus zero. Use `xtrace` for velocities and for
    a learned covariance near the noise end.

    Args:
      key: a typed PRNG key.
      f: the field, `[*dims] -> [*dims]`, with a symmetric positive semi-definite Jacobian.
      x: `[*dims]`, the point; any shape, a scalar too.
      num_probes: K, at least 2. A call takes `K + 1` tangents and cotangents, or d tangents where
        `d <= 2 K`; the result is then exact.

    Returns:
      `f(x)`, `[*dims]`, and the estimate, both fields `[]`.

    Raises:
      ValueError: if `f(x)` and `x` have different shapes, or `num_probes` is below 2.

    Example:
      >>> import fmjax
      >>> import jax
      >>> import jax.numpy as jnp
      >>> key, x = jax.random.key(0), jnp.ones(50)
      >>> low_rank = lambda x: jnp.ones((50, 50)) @ x
      >>> _, trace = fmjax.estimators.xnystrace(key, low_rank, x, num_probes=4)
      >>> round(float(trace.mean), 2)
      50.0

    Reference:
      Epperly, Tropp and Webber (2024), arXiv 2301.07825, section 2.3. [epperly2024xtrace]
    """
    _checks.functions(f=f)
    return _leave_one_out(_XNYSTRACE, key, f, x, num_probes)


def xdiag(key: Key, f: Field, x: Array, *, num_probes: int = 16) -> tuple[Array, Estimate]:
    """Estimates the diagonal of any Jacobian without bias, eq. (3); also returns the value.

    On a CPU use `jax.lax.map` over many large cases: `vmap` of the QR may hang there, see
    `fmjax.estimators`.

    Args:
      key: a typed PRNG key.
      f: the field, `[*dims] -> [*dims]`.
      x: `[*dims]`, the point; any shape, a scalar too.
      num_probes: K, at least 2. A call takes `K + 1` tangents and K cotangents, or d tangents
        where `d <= 2 K`; the result is then exact.

    Returns:
      `f(x)`, `[*dims]`, and the estimate, both fields `[*dims]`.

    Raises:
      ValueError: if `f(x)` and `x` have different shapes, or `num_probes` is below 2.

    Example:
      >>> import fmjax
      >>> import jax
      >>> import jax.numpy as jnp
      >>> key, x = jax.random.key(0), jnp.ones(50)
      >>> low_rank = lambda x: jnp.outer(jnp.arange(1.0, 51.0), jnp.ones(50)) @ x
      >>> _, diagonal = fmjax.estimators.xdiag(key, low_rank, x, num_probes=4)
      >>> [round(float(entry), 1) for entry in diagonal.mean[:3]]
      [1.0, 2.0, 3.0]

    Reference:
      Epperly, Tropp and Webber (2024), arXiv 2301.07825, section 4. [epperly2024xtrace]
    """
    _checks.functions(f=f)
    return _leave_one_out(_XDIAG, key, f, x, num_probes)


def xnysdiag(key: Key, f: Field, x: Array, *, num_probes: int = 16) -> tuple[Array, Estimate]:
    """Estimates the diagonal of a positive semi-definite Jacobian; also returns the value.

    Where the eigenvalues decay this gives the best map for its cost: use 4 to 6 probes for each
    unit of effective rank. The bias of `xnystrace` applies here too; use `xdiag` in those cases.

    Args:
      key: a typed PRNG key.
      f: the field, `[*dims] -> [*dims]`, with a symmetric positive semi-definite Jacobian.
      x: `[*dims]`, the point; any shape, a scalar too.
      num_probes: as for `xnystrace`.

    Returns:
      `f(x)`, `[*dims]`, and the estimate, both fields `[*dims]`.

    Raises:
      ValueError: if `f(x)` and `x` have different shapes, or `num_probes` is below 2.

    Example:
      >>> import fmjax
      >>> import jax
      >>> import jax.numpy as jnp
      >>> key, x = jax.random.key(0), jnp.ones(50)
      >>> low_rank = lambda x: jnp.ones((50, 50)) @ x
      >>> _, diagonal = fmjax.estimators.xnysdiag(key, low_rank, x, num_probes=4)
      >>> [round(float(entry), 2) for entry in diagonal.mean[:3]]
      [1.0, 1.0, 1.0]

    Reference:
      Epperly (2025), arXiv 2512.15929. [epperly2025make]
    """
    _checks.functions(f=f)
    return _leave_one_out(_XNYSDIAG, key, f, x, num_probes)
