"""Eigenvalues of large symmetric operators from products alone, by Lanczos' method.

References:
  Lanczos (1950), Journal of Research of the National Bureau of Standards 45(4).
  Kraemer et al. (2024), Gradients of Functions of Large Matrices, arXiv 2405.17277 (matfree).
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from matfree import decomp

from fmjax import _checks
from fmjax.types import Array, Key

__all__ = ["ritz"]


def ritz(
    key: Key, product: Callable[[Array], Array], x: Array, num_matvecs: int
) -> tuple[Array, Array, Array]:
    """Finds the best eigenpairs in a Krylov space of a symmetric operator, ascending.

    Derivatives take the space as fixed: `d lambda = v . dA v`, right for a value that is distinct
    from the others and has a small residual, and finite where values meet. Through Lanczos'
    recurrence they would not be. Vectors and residuals carry none.

    Args:
      key: for the first vector of the space.
      product: `w[*dims] -> [*dims]`, linear and symmetric.
      x: `[*dims]`, float32 at least, whose shape and dtype the vectors have.
      num_matvecs: dimension of the space, positive, cut to d. It takes twice as many products.

    Returns:
      Values `[k]`, orthonormal vectors `[k, *dims]` and residuals `[k]`, `|A v - lambda v|`.

    Raises:
      ValueError: if `num_matvecs` is not positive, or if x has no entries.
    """
    _checks.entries(x, "without one there is no eigenvalue")
    _checks.count("it counts products", num_matvecs=num_matvecs)
    key_start, key_tilt = jax.random.split(key)
    start = jax.random.normal(key_start, (x.size,), x.dtype)
    reach = jnp.max(jnp.abs(product(start.reshape(x.shape)))).astype(x.dtype)
    # In units of its own size the operator's squares neither overflow nor underflow.
    unit = jax.lax.stop_gradient(jnp.where(reach == 0, 1, reach))

    def flat(vector: Array) -> Array:
        return product(vector.reshape(x.shape)).ravel().astype(x.dtype) / unit

    basis = _basis(key_tilt, flat, start, min(num_matvecs, x.size))
    images = jax.lax.map(flat, basis)
    values, mix = jnp.linalg.eigh(basis @ images.T)  # eigh symmetrizes
    mix, images, fixed = jax.lax.stop_gradient((mix, images, values))
    vectors = mix.T @ basis
    residuals = jnp.linalg.norm(mix.T @ images - fixed[:, None] * vectors, axis=1)
    return unit * values, vectors.reshape(len(basis), *x.shape), unit * residuals


def _basis(key: Key, flat: Callable[[Array], Array], start: Array, count: int) -> Array:
    """Returns an orthonormal basis of a Krylov space, `[count, d]`, a constant to a derivative."""
    # Where the space is exhausted (an identity, few distinct eigenvalues) Lanczos divides by zero.
    # A diagonal far below the operator keeps it going; the eigenpairs do not see it.
    tilt = jax.random.uniform(key, start.shape, start.dtype, minval=-1)
    tilt = tilt * jnp.finfo(start.dtype).eps ** 0.8

    def held(vector: Array) -> Array:
        return jax.lax.stop_gradient(flat(vector) + tilt * vector)

    # custom_vjp would stop forward-mode differentiation.
    basis, *_ = decomp.tridiag_sym(count, custom_vjp=False)(held, start)
    return jnp.linalg.qr(basis.T)[0].T
