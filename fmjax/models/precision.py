"""Networks that compute in another dtype than they are stored and trained in.

bfloat16 has the range of float32 and 8 binary digits. Products of it are several times faster on
accelerators, and what a network computes seldom needs more digits. The sums that training makes
do: at a learning rate of 1e-3 an update moves a parameter by less than half of its last digit and
is lost. So parameters, their average and the optimizer stay float32, and each call of the network
converts a copy of the parameters and the state:

    apply, params = functional(MLP(2, rngs=nnx.Rngs(0)))     # float32
    apply = in_dtype(apply, jnp.bfloat16)                    # the same params, products in bfloat16

Reference:
  Micikevicius et al. (2018), Mixed Precision Training, arXiv 1710.03740, section 3.1.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from fmjax import _checks
from fmjax.types import Array, PyTree

__all__ = ["in_dtype"]


def in_dtype(apply: Callable[..., Array], dtype: Any) -> Callable[..., Array]:
    """Makes a network compute in another dtype, while its parameters and states keep theirs.

    Parameters and state are converted at the start of each call, the velocity at its end. Gradients
    arrive in the dtype of the parameters. Times and further inputs are not converted: a time of
    bfloat16 would be wrong by up to 0.002.

    In bfloat16 trained perceptrons of moons and of digits (64 numbers) had velocities that were
    wrong by 0.4 % to 0.9 % of their size; exact and Hutchinson divergences by about 1 % of the root
    of the sum of the squares of the diagonal of the Jacobian; log-densities by 0.003 nats for
    each dimension; posterior traces by 0.3 %, but by 2 % at t = 0.1 on moons, near the noise, where
    the identity multiplies errors. Do not ask an adaptive solver for less than 1e-3: it would
    follow the rounding.

    Args:
      apply: `(params, x, *times, **inputs) -> dx` of one example, such as `functional` or
        `perceptron` returns.
      dtype: floating dtype in which to compute, such as `jnp.bfloat16`.

    Returns:
      A function like `apply`. Its result has the dtype of `x`.

    Raises:
      ValueError: if `apply` is no function or `dtype` is no floating dtype; on a call, if `x` is no
        array of real numbers.

    Example:
      >>> import fmjax
      >>> import jax
      >>> import jax.numpy as jnp
      >>> apply, params = fmjax.models.perceptron(jax.random.key(0), 2, width=8, depth=2)
      >>> half = fmjax.models.in_dtype(apply, jnp.bfloat16)
      >>> dx, gradient = jax.value_and_grad(lambda p: half(p, jnp.ones(2), 0.5).sum())(params)
      >>> dx.dtype.name, gradient["layer_0"]["kernel"].dtype.name
      ('float32', 'float32')
      >>> exact = apply(params, jnp.ones(2), 0.5).sum()
      >>> bool(0.0 < abs(dx - exact) < 0.01)
      True

    Reference:
      Micikevicius et al. (2018), arXiv 1710.03740, section 3.1. [micikevicius2018mixed]
    """
    wanted = "(params, x, t) -> dx"
    _checks.function(apply, "apply", wanted, "pass apply, of apply, params = functional(model)")
    try:
        low = jnp.dtype(dtype)
    except TypeError:
        low = None
    if low is None or not jnp.issubdtype(low, jnp.floating):
        message = f"dtype must be a floating dtype, got {_checks.described(dtype)}: jnp.bfloat16."
        raise ValueError(message)

    def convert(leaf: Any) -> Any:
        floats = jnp.issubdtype(jnp.result_type(leaf), jnp.floating)
        return jnp.asarray(leaf, low) if floats else leaf

    def converted(params: PyTree, x: Array, *times: Array, **inputs: Any) -> Array:
        x = _checks.floating(x)
        velocity = apply(jax.tree.map(convert, params), x.astype(low), *times, **inputs)
        return velocity.astype(x.dtype)

    return converted
