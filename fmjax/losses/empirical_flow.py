"""Empirical flow matching: the exact velocity of a data set, or of a draw from it, as the target.

The target of flow matching, `alpha_dot x1 + sigma_dot x0`, is one draw whose mean given x_t is the
exact velocity. Of M points b_1 = x1, b_2, ..., b_M of the data set, the closed form of these M

    u_M(x_t) = sum_j w_j u(x_t | b_j),    w_j proportional to p(x_t | b_j)                 (1)

is E[u(x_t | x1) | x_t, the unordered points]: the points are given, but not which of them made x_t.
So its mean given x_t is the exact velocity too, for every M, and its variance is at most the
variance of the flow matching target. M = 1 is `cfm`; all n points give the exact field. The
argument needs x1 among the points and, given the points, equally likely to be any of them. So the M
points of `draw_bank` serve a whole batch.

References:
  Bertrand et al. (2025), On the Closed-Form of Flow Matching, arXiv 2506.03719.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from fmjax import _bank, _checks, empirical, paths
from fmjax.empirical import Bank
from fmjax.paths import Path
from fmjax.types import Array, Key, Velocity

__all__ = ["draw_bank", "efm"]


def efm(
    velocity: Velocity,
    path: Path,
    bank: Array | Bank,
    x0: Array,
    x1: Array,
    t: Array,
    *,
    target: Callable[..., Array] = empirical.anchored_velocity,
) -> Array:
    """Computes the empirical flow matching loss of one example.

    It is the mean over dimensions of `(velocity(x_t, t) - u_M(x_t))^2`, eq. (1). No gradient goes
    through the target.

    Args:
      velocity: the field that is trained, `(x[*dims], t[]) -> [*dims]`.
      path: the path.
      bank: `[M, *dims]`, points of the data set with x1 among them, drawn independently of x0, as
        by `draw_bank`. Or the whole data set, also as a `Bank` if the target takes one.
      x0: `[*dims]`, noise, N(0, I) and independent of the bank.
      x1: `[*dims]`, data, one of the points of the bank.
      t: `[]`, in [0, 1], with `sigma(t) > 0`.
      target: `(path, bank, x0, x1, t) -> [*dims]`. The default takes differences from every point,
        so that under `vmap` the memory is batch times M times d. For images and large banks take
        `partial(empirical.refined_velocity, chunk_size=1000)`, with memory batch times M.

    Returns:
      `[]`, the squared error per dimension, in float32 at least.

    Raises:
      ValueError: if the bank is empty or of integers, if shapes differ, if the pair is complex, if
        `t` is batched or a static number outside [0, 1], or if sigma is not positive at a static t.

    Example:
      >>> import fmjax
      >>> import jax.numpy as jnp
      >>> path, still = fmjax.paths.linear(), lambda x, t: 0.0 * x
      >>> x0, x1 = jnp.zeros(2), jnp.array([1.0, 3.0])
      >>> bank = jnp.stack([x1, 0.8 * x1])
      >>> print(f"{fmjax.losses.efm(still, path, bank, x0, x1, 0.5):.3f}")
      3.361

    Reference:
      Bertrand et al. (2025), arXiv 2506.03719, section 4.1 and appendix B.1. [bertrand2025closed]
    """
    _checks.functions(velocity=velocity, path=path)
    example = "pass, for example, empirical.anchored_velocity"
    _checks.function(target, "target", "(path, bank, x0, x1, t) -> dx", example)
    x0, x1 = _checks.state(x0, "x0"), _checks.state(x1, "x1")
    x = paths.interpolate(path, x0, x1, t)
    _checks.entries(x, "a loss is a mean over them")
    value = velocity(x, t)
    exact = target(path, bank, _checks.wide(x0), _checks.wide(x1), t)
    _checks.returned(x, velocity=value, target=exact)
    return jnp.mean(jnp.square(value - jax.lax.stop_gradient(exact)))


def draw_bank(key: Key, batch: Array, n: int, *, size: int) -> Array:
    """Draws the indices of a bank for one batch: the batch itself, and others at random.

    It takes a whole batch. All indices are distinct. Given the bank, each of its points is then
    equally likely to be a given x1 of the batch, so the target is unbiased for every size. (Points
    drawn apart from the batch, which may repeat it, bias the target slightly.)

    Args:
      key: a typed PRNG key.
      batch: `[b]`, integers, the distinct indices of the batch, itself drawn without replacement.
      n: number of points of the data set.
      size: M, number of points of the bank, from b to n.

    Returns:
      `[M]`, distinct integers in 0 ... n - 1; the first b are the indices of the batch.

    Raises:
      ValueError: if the batch is not `[b]` integers, if `size` is not from b to n, or, outside of
        `jit`, if an index of the batch is not from 0 to n - 1 or occurs twice.

    Example:
      >>> import fmjax
      >>> import jax
      >>> import jax.numpy as jnp
      >>> index = fmjax.losses.draw_bank(jax.random.key(0), jnp.array([3, 1]), 5, size=4)
      >>> index[:2].tolist(), len(set(index.tolist()))
      ([3, 1], 4)

    Reference:
      Bertrand et al. (2025), arXiv 2506.03719, algorithm 2. [bertrand2025closed]
    """
    batch = jnp.asarray(batch)
    if batch.ndim != 1 or not jnp.issubdtype(batch.dtype, jnp.integer):
        message = (
            f"batch must hold the indices of the batch, [b] integers, got {batch.dtype} of shape "
            f"{batch.shape}."
        )
        raise ValueError(message)
    if not batch.shape[0] <= size <= n:
        message = (
            f"size must be from the {batch.shape[0]} points of the batch to the {n} of the data "
            f"set, got {size}."
        )
        raise ValueError(message)
    _bank.check_index(batch, n, "batch")
    _bank.check_distinct(batch)
    # The largest of independent numbers are a draw without replacement; the batch has none.
    order = jax.random.uniform(key, (n,)).at[batch].set(-1.0)
    _, others = jax.lax.top_k(order, size - batch.shape[0])
    return jnp.concatenate([batch, others.astype(batch.dtype)])
