"""Couplings: which noise is paired with which data inside one batch.

Flow matching regresses on pairs `(x0, x1)` whose marginals are the noise and the data law;
their joint law, the coupling, is free. A coupling here takes a batch of each and returns the
same rows in new company:

    (x0_i, x1_i)  ->  (x0_pi(i), x1_i),     pi a permutation of the n rows           (1)

so both marginals are untouched, and `x1` keeps its order: labels stay beside their images.
The independent coupling draws `pi` uniformly; the minibatch optimal coupling takes

    pi = argmin over permutations of  sum_i cost(x0_pi(i), x1_i)                     (2)

which straightens the paths and lowers the variance of the regression target. These functions
see a batch axis; rows are examples of any shape `[*dims]`.

`drop_context` is for training with labels: it replaces some of a batch by the null label.

References:
  Tong et al. (2024), Improving and Generalizing Flow-Based Generative Models with Minibatch
  Optimal Transport, arXiv 2302.00482.
  Pooladian et al. (2023), Multisample Flow Matching, arXiv 2304.14772.
  Ho and Salimans (2022), Classifier-Free Diffusion Guidance, arXiv 2207.12598.
"""

from __future__ import annotations

import numbers
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax

from fmjax import _checks
from fmjax.types import Array, Key


def squared_euclidean(a: Array, b: Array) -> Array:
    """Returns the squared Euclidean distance of two examples, a cost for `minibatch_ot`.

    Args:
      a: `[*dims]`.
      b: `[*dims]`.

    Returns:
      `[]`, the sum of squared differences over all entries.

    Example:
      >>> float(squared_euclidean(jnp.array([0.0, 3.0]), jnp.array([4.0, 0.0])))
      25.0
    """
    a, b = _checks.floating(a), _checks.floating(b)  # uint8 differences would wrap around
    _checks.same_shape(a=a, b=b)
    return jnp.sum((a - b) ** 2)


def independent(key: Key, x0: Array, x1: Array) -> tuple[Array, Array]:
    """Returns the batch with the rows of x0 in random order, eq. (1) with a uniform `pi`.

    The pairs are independent whatever order, or earlier pairing, the rows came in.

    Args:
      key: PRNG key.
      x0: `[n, *dims]`, noise.
      x1: `[n, *dims]`, data.

    Returns:
      `(x0, x1)`, both `[n, *dims]`: x0 permuted, x1 as it came.

    Raises:
      ValueError: if the shapes differ or have no batch axis.

    Example:
      >>> x0, x1 = independent(jax.random.key(0), jnp.arange(4.0), jnp.arange(4.0))
      >>> sorted(x0.tolist()), x1.tolist()
      ([0.0, 1.0, 2.0, 3.0], [0.0, 1.0, 2.0, 3.0])

    Reference:
      Tong et al. (2024), arXiv 2302.00482, section 3.2.2. [tong2024improving]
    """
    _check_batches(x0, x1)
    return jax.random.permutation(key, x0), x1


def minibatch_ot(
    key: Key, x0: Array, x1: Array, *, cost: Callable[[Array, Array], Array] = squared_euclidean
) -> tuple[Array, Array]:
    """Returns the batch with the rows of x0 paired optimally with those of x1, eq. (2).

    The assignment is exact, by the Hungarian algorithm: cubic in n and sequential, so the time
    goes to n rather than to the size of an example. Rows of x0 are shuffled by the key first,
    so that of several optimal assignments a random one is taken. Costs are computed one row at
    a time and hold `n * n` numbers, never `n * n` examples. No derivative flows through the
    choice of the permutation, only through the rows.

    Warning: under this coupling x0 given x1 is no longer N(0, I). The field that is learned
    still moves noise to data, but identities that rest on `x_t | x1 ~ N(alpha x1, sigma^2 I)`
    do not hold for it: velocity and score or posterior mean are no longer affine in each other,
    and the posterior covariance cannot be read from the Jacobian of the velocity. Use
    `independent` wherever `fmjax.predictions` or `fmjax.posterior` is to be applied.

    Args:
      key: PRNG key, for the order among ties.
      x0: `[n, *dims]`, noise.
      x1: `[n, *dims]`, data.
      cost: `(a[*dims], b[*dims]) -> []`, finite, of one noise and one data example.

    Returns:
      `(x0, x1)`, both `[n, *dims]`: x0 permuted, x1 as it came.

    Raises:
      ValueError: if the shapes differ or have no batch axis, or a cost is not a scalar.

    Example:
      >>> x0, x1 = jnp.array([0.0, 1.0, 2.0]), jnp.array([2.1, 0.1, 1.1])
      >>> minibatch_ot(jax.random.key(0), x0, x1)[0].tolist()
      [2.0, 0.0, 1.0]

    Reference:
      Tong et al. (2024), arXiv 2302.00482, section 3.2.3; Pooladian et al. (2023), arXiv
      2304.14772. [tong2024improving; pooladian2023multisample]
    """
    _check_batches(x0, x1)
    x0 = jax.random.permutation(key, x0)
    costs = jax.lax.map(lambda a: jax.vmap(partial(cost, a))(x1), x0)
    if costs.shape != 2 * x1.shape[:1]:
        message = (
            f"cost must return a scalar for one pair of examples, got shape {costs.shape[2:]}: "
            "it takes two arrays without the batch axis; sum over all of theirs."
        )
        raise ValueError(message)
    # The permutation is constant almost everywhere: its search need not carry derivatives.
    rows, columns = optax.assignment.hungarian_algorithm(jax.lax.stop_gradient(costs))
    order = jnp.zeros_like(rows).at[columns].set(rows)
    return x0[order], x1


def drop_context(
    key: Key, context: Array, null: Array | int, *, probability: Array | float = 0.1
) -> Array:
    """Replaces some labels or vectors of a batch by their null, to train for guidance.

    A network that has seen the null in a share of its examples knows the field without a class
    beside the fields of the classes. Each example is dropped by itself, and a vector as a whole.

    Args:
      key: PRNG key.
      context: `[n, *rest]`, labels or vectors; without the batch axis it is one example.
      null: `[*rest]`, what stands for no context: the number of classes for labels of
        `fmjax.models`, and `jnp.zeros(k)` for its vectors.
      probability: `[]`, of dropping one, in [0, 1].

    Returns:
      `[n, *rest]`, of the dtype of `context`.

    Raises:
      ValueError: if `null` has not the shape of an example, or no place in the dtype of the
        context, or a static probability is outside [0, 1].

    Example:
      >>> import fmjax
      >>> import jax
      >>> import jax.numpy as jnp
      >>> labels = jnp.array([3, 1, 4, 1, 5, 9, 2, 6])
      >>> fmjax.couplings.drop_context(jax.random.key(1), labels, 10, probability=0.5).tolist()
      [10, 1, 10, 10, 5, 9, 2, 6]

    Reference:
      Ho and Salimans (2022), arXiv 2207.12598, algorithm 1. [ho2022classifier]
    """
    context = jnp.asarray(context)
    null = null if isinstance(null, jax.Array) else np.asarray(null)
    leading = context.ndim - null.ndim
    if leading < 0 or context.shape[leading:] != null.shape:
        message = (
            f"null must have the shape of one example, got null {null.shape} and context "
            f"{context.shape}: a label has shape (), a vector of k numbers (k,)."
        )
        raise ValueError(message)
    _check_null(null, context.dtype)
    if isinstance(probability, numbers.Real) and not 0.0 <= probability <= 1.0:
        message = f"probability must lie in [0, 1], got {probability}: it is the share to drop."
        raise ValueError(message)
    dropped = jax.random.bernoulli(key, probability * 1.0, context.shape[:leading])
    dropped = jnp.expand_dims(dropped, range(leading, context.ndim))
    return jnp.where(dropped, jnp.asarray(null, context.dtype)[(None,) * leading], context)


def _check_null(null: Array | np.ndarray, dtype: jnp.dtype) -> None:
    """Raises ValueError unless contexts of this dtype have a place for the null."""
    if jnp.issubdtype(dtype, jnp.floating):
        fits = jnp.issubdtype(null.dtype, jnp.number)
    elif isinstance(null, jax.Array):  # its value is not read
        fits = jnp.can_cast(null.dtype, dtype)
    else:
        fits = jnp.issubdtype(null.dtype, jnp.integer) and jnp.issubdtype(dtype, jnp.integer)
        limits = jnp.iinfo(dtype) if fits else None
        fits = fits and bool(((limits.min <= null) & (null <= limits.max)).all())
    if not fits:
        message = (
            f"null has no place among contexts of {dtype}, got {null} of {null.dtype}: a label and "
            "its null are integers of one type that holds both, such as labels.astype(jnp.int32)."
        )
        raise ValueError(message)


def _check_batches(x0: Array, x1: Array) -> None:
    """Raises ValueError unless x0 and x1 are batches of one shape."""
    if jnp.ndim(x0) == 0 or jnp.shape(x0) != jnp.shape(x1):
        message = (
            f"x0 and x1 must have one shape [n, *dims], got x0 {jnp.shape(x0)} and x1 "
            f"{jnp.shape(x1)}: a coupling pairs the rows of two batches, so pass as many noise "
            "as data examples, with the batch axis first and without vmap over it."
        )
        raise ValueError(message)
