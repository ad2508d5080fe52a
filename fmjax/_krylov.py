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

from fmjax.types import Array, Key

__all__ = ["ritz"]


def ritz(
    key: Key, product: Callable[[Array], Array], x: Array, num_matvecs: int
) -> tuple[Array, Array, Array]:
    """Finds the best eigenpairs in a Krylov space of a symmetric operator, ascending.

    Args:
      key: for the first vector of the space.
      product: `w[*dims] -> [*dims]`, linear and symmetric.
      x: `[*dims]`, floating, whose shape and dtype the vectors have.
      num_matvecs: dimension of the space, positive, cut to d. It takes twice as many products.

    Returns:
      Values `[k]`, orthonormal vectors `[k, *dims]` and residuals `[k]`, `|A v - lambda v|`.

    Raises:
      ValueError: if `num_matvecs` is not positive.
    """
    if num_matvecs < 1:
        message = f"num_matvecs must be at least 1, got {num_matvecs}: it counts products."
        raise ValueError(message)
    key_start, key_tilt = jax.random.split(key)
    size, count = x.size, min(num_matvecs, x.size)
    start = jax.random.normal(key_start, (size,), x.dtype)
    reach = jnp.max(jnp.abs(product(start.reshape(x.shape))))
    # In units of its own size the operator's squares neither overflow nor underflow.
    unit = jax.lax.stop_gradient(jnp.where(reach > 0, reach, 1))
    flat = lambda vector: product(vector.reshape(x.shape)).ravel() / unit  # noqa: E731
    # Where the space is exhausted (an identity, few distinct eigenvalues) Lanczos divides by zero.
    # A diagonal far below the operator keeps it going; the eigenpairs below do not see it.
    tilt = jax.random.uniform(key_tilt, (size,), x.dtype, minval=-1)
    tilt = tilt * jnp.finfo(x.dtype).eps ** 0.8
    # custom_vjp would stop forward-mode differentiation.
    decompose = decomp.tridiag_sym(count, custom_vjp=False)
    basis, *_ = decompose(lambda vector: flat(vector) + tilt * vector, start)
    basis = jnp.linalg.qr(basis.T)[0].T
    images = jax.lax.map(flat, basis)
    values, mix = jnp.linalg.eigh(basis @ images.T)  # eigh symmetrizes
    vectors = mix.T @ basis
    residuals = jnp.linalg.norm(mix.T @ images - values[:, None] * vectors, axis=1)
    return unit * values, vectors.reshape(count, *x.shape), unit * residuals
