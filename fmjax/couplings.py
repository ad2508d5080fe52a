"""Couplings: how noise and data are paired within one batch.

Flow matching regresses on pairs `(x0, x1)` whose marginals are the law of the noise and the law
of the data. Their joint law, the coupling, is free. A coupling here takes a batch of noise and a
batch of data and returns the same rows, paired differently:

    (x0_i, x1_i)  ->  (x0_pi(i), x1_i),     pi a permutation of the n rows           (1)

Both marginals stay the same, and `x1` keeps its order, so labels still match their images.
The independent coupling draws `pi` uniformly; the minibatch optimal coupling takes

    pi = argmin over permutations of  sum_i cost(x0_pi(i), x1_i)                     (2)

which straightens the paths and lowers the variance of the regression target. These functions
take a batch axis; rows are examples of any shape `[*dims]`.

`drop_context` serves training with labels: it replaces some labels of a batch by the null label.

References:
  Tong et al. (2024), Improving and Generalizing Flow-Based Generative Models with Minibatch
  Optimal Transport, arXiv 2302.00482.
  Pooladian et al. (2023), Multisample Flow Matching, arXiv 2304.14772.
  Ho and Salimans (2022), Classifier-Free Diffusion Guidance, arXiv 2207.12598.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from fmjax import _assignment, _checks
from fmjax.types import Array, Key

__all__ = ["drop_context", "independent", "minibatch_ot", "squared_euclidean"]


def squared_euclidean(a: Array, b: Array) -> Array:
    """Computes the squared Euclidean distance of two examples, a cost for `minibatch_ot`.

    Args:
      a: `[*dims]`.
      b: `[*dims]`.

    Returns:
      `[]`, the sum of squared differences over all entries.

    Raises:
      ValueError: if the shapes differ.

    Example:
      >>> import fmjax
      >>> import jax.numpy as jnp
      >>> a, b = jnp.array([0.0, 3.0]), jnp.array([4.0, 0.0])
      >>> float(fmjax.couplings.squared_euclidean(a, b))
      25.0
    """
    a, b = _checks.wide(a), _checks.wide(b)  # uint8 differences would wrap around
    _checks.same_shape(a=a, b=b)
    return jnp.sum((a - b) ** 2)


def independent(key: Key, x0: Array, x1: Array) -> tuple[Array, Array]:
    """Pairs noise and data at random: permutes x0, eq. (1) with a uniform `pi`.

    The pairs are independent, whatever the order or pairing of the given rows.

    Args:
      key: PRNG key.
      x0: `[n, *dims]`, noise.
      x1: `[n, *dims]`, data.

    Returns:
      `(x0, x1)`, both `[n, *dims]`: x0 permuted, x1 unchanged.

    Raises:
      ValueError: if the shapes differ or have no batch axis.

    Example:
      >>> import fmjax
      >>> import jax
      >>> import jax.numpy as jnp
      >>> key, rows = jax.random.key(0), jnp.arange(4.0)
      >>> x0, x1 = fmjax.couplings.independent(key, rows, rows)
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
    """Pairs noise and data at the least total cost within the batch, eq. (2).

    The assignment is exact up to rounding: shortest augmenting paths, the Hungarian algorithm,
    from potentials of a few iterations of Sinkhorn's. The search is cubic in n at worst and
    sequential; from good potentials few steps of it are left. The key first shuffles the rows of
    both batches, which chooses at random among equally good assignments. Costs take `n * n`
    numbers, never `n * n` examples: the default is one product of matrices, another cost is
    computed one row at a time. Derivatives flow through the rows, but not through the choice of the
    permutation.

    Warning: under this coupling x0 given x1 is no longer N(0, I). A learned field still moves
    noise to data, but identities that rest on `x_t | x1 ~ N(alpha x1, sigma^2 I)` fail. Score and
    posterior mean are no longer affine functions of the velocity, and the Jacobian of the velocity
    no longer gives the posterior covariance. Use `independent` if you plan to apply
    `fmjax.predictions` or `fmjax.posterior`.

    Args:
      key: PRNG key, for the choice among ties.
      x0: `[n, *dims]`, noise.
      x1: `[n, *dims]`, data.
      cost: `(a[*dims], b[*dims]) -> []`, the cost of pairing one noise and one data example, of
        any sign; inf forbids the pair.

    Returns:
      `(x0, x1)`, both `[n, *dims]`: x0 permuted, x1 unchanged.

    Raises:
      ValueError: if the shapes differ or have no batch axis, or a cost is not a scalar.

    Example:
      >>> import fmjax
      >>> import jax
      >>> import jax.numpy as jnp
      >>> x0, x1 = jnp.array([0.0, 1.0, 2.0]), jnp.array([2.1, 0.1, 1.1])
      >>> x0, x1 = fmjax.couplings.minibatch_ot(jax.random.key(0), x0, x1)
      >>> x0.tolist()
      [2.0, 0.0, 1.0]

    Reference:
      Tong et al. (2024), arXiv 2302.00482, section 3.2.3; Pooladian et al. (2023), arXiv
      2304.14772. [tong2024improving; pooladian2023multisample]
    """
    _checks.functions(cost=cost)
    _check_batches(x0, x1)
    key_noise, key_data = jax.random.split(key)
    x0 = jax.random.permutation(key_noise, x0)
    places = jax.random.permutation(key_data, len(x1))
    data = jnp.asarray(x1)[places]
    costs = _costs(cost, x0, data)
    if costs.shape != 2 * x1.shape[:1]:
        message = (
            f"cost must return a scalar for one pair of examples, got shape {costs.shape[2:]}: "
            "it takes two arrays without the batch axis; sum over all of theirs."
        )
        raise ValueError(message)
    # The permutation is constant almost everywhere: its search need not carry derivatives.
    rows = _assignment.best_rows(jax.lax.stop_gradient(costs))
    return x0[jnp.zeros_like(rows).at[places].set(rows)], x1


def _costs(cost: Callable[[Array, Array], Array], x0: Array, x1: Array) -> Array:
    """Returns the costs of all pairs, `[n, n]`, up to a part that every permutation has alike."""
    if cost is not squared_euclidean:
        return _checks.wide(jax.lax.map(lambda a: jax.vmap(partial(cost, a))(x1), x0))
    # The sums of squares of either batch, and of its center, are the same for every permutation.
    a, b = (_centered(_checks.wide(x).reshape(len(x), math.prod(x.shape[1:]))) for x in (x0, x1))
    return -2.0 * jnp.matmul(a, b.T, precision="highest")


def _centered(rows: Array) -> Array:
    """Moves rows to the origin, so that products keep the digits of rows that are far from it.

    The center is rounded to a power of two near their spread. So rows of few digits, such as whole
    numbers, keep their digits, and equally good assignments stay equal.
    """
    spread = jnp.sqrt(jnp.var(rows, axis=0).mean())
    unit = jnp.where(spread > 0, jnp.exp2(jnp.ceil(jnp.log2(spread))), 1)
    return rows - unit * jnp.round(rows.mean(0, keepdims=True) / unit)


def drop_context(
    key: Key, context: Array, null: Array | int, *, probability: Array | float = 0.1
) -> Array:
    """Replaces some labels or vectors of a batch by the null, to train for guidance.

    A network that sees the null in some of its examples learns the unconditional field and the
    fields of the classes. Examples are dropped independently; a vector is dropped as a whole.

    Args:
      key: PRNG key.
      context: `[n, *rest]`, labels or vectors; without the batch axis it is one example.
      null: `[*rest]`, the value that means no context. The networks of `fmjax.models` take the
        number of classes as the null label, and `jnp.zeros(k)` as the null vector.
      probability: `[]`, the probability of dropping an example's context, in [0, 1].

    Returns:
      `[n, *rest]`, of the dtype of `context`.

    Raises:
      ValueError: if `null` does not have the shape of an example, does not fit into the dtype of
        the context, or if a static probability is outside [0, 1].

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
