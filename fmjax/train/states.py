"""The state of a training: what it holds, and what it is before the first step.

Reference:
  Polyak and Juditsky (1992), Acceleration of Stochastic Approximation by Averaging.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from fmjax import _checks
from fmjax.train import _optimizers
from fmjax.types import Array, PyTree

__all__ = ["Info", "TrainState", "init"]


class TrainState(NamedTuple):
    """The state of training: what the next step needs and a checkpoint holds.

    Attributes:
      step: `[]`, integer, the number of steps taken.
      params: the parameters, any pytree of floating arrays.
      ema_params: the exponential moving average of the parameters, in float32 or wider.
      opt_state: the state of the optimizer.
    """

    step: Array
    params: PyTree
    ema_params: PyTree
    opt_state: PyTree


class Info(NamedTuple):
    """Diagnostics of one step, two scalars computed before the update.

    Attributes:
      loss: `[]`, the loss of the batch.
      grad_norm: `[]`, the Euclidean norm of the gradient, before any clipping, in float32 or
        wider.
    """

    loss: Array
    grad_norm: Array

    @property
    def finite(self) -> Array:
        """Whether both are finite: `[]`, boolean."""
        return jnp.isfinite(self.loss) & jnp.isfinite(self.grad_norm)


def init(params: PyTree, optimizer: optax.GradientTransformation) -> TrainState:
    """Makes the state before the first step.

    Every array is copied: a jitted step that donates its state needs distinct buffers, and must
    not delete the caller's parameters. Every array gets its final dtype here, so jax traces a
    step once and a saved state fits a new one. Weakly typed arrays, such as `jnp.array(1.0)`, lose
    the weak type; arrays that the optimizer widens at its first update are widened.

    Args:
      params: the parameters, any pytree of floating arrays.
      optimizer: any gradient transformation of optax, or `optax.MultiSteps`.

    Returns:
      The state at step 0. `ema_params` equals `params`, in float32 or wider.

    Raises:
      ValueError: if a leaf of `params` is not a floating array or number.

    Example:
      >>> import jax.numpy as jnp
      >>> import optax
      >>> import fmjax
      >>> state = fmjax.train.init({"w": jnp.array([1.0, 2.0])}, optax.adam(1e-3))
      >>> int(state.step), state.ema_params["w"].tolist()
      (0, [1.0, 2.0])
    """
    _optimizers.check(optimizer)
    _check_parameters(params)
    ema_params = jax.tree.map(_checks.wide, params)
    opt_state = _settled(params, optimizer)
    state = TrainState(jnp.zeros((), jnp.int32), params, ema_params, opt_state)
    return jax.tree.map(_own, state)


def _own(leaf: Array) -> Array:
    """Returns a copy in a buffer of its own, of the same dtype and never weakly typed."""
    return jnp.array(leaf, dtype=jnp.asarray(leaf).dtype, copy=True)


def _check_parameters(params: PyTree) -> None:
    """Raises ValueError unless every leaf is a floating array or number."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        if isinstance(leaf, float) or jnp.issubdtype(getattr(leaf, "dtype", bool), jnp.floating):
            continue
        what = getattr(leaf, "dtype", type(leaf).__name__)
        message = (
            f"parameters must be floating arrays, got {what} at params"
            f"{jax.tree_util.keystr(path)}: of a module pass the arrays alone, with equinox "
            "params, static = eqx.partition(module, eqx.is_inexact_array), with flax nnx "
            "apply, params = fmjax.models.functional(module)."
        )
        raise ValueError(message)


def _settled(params: PyTree, optimizer: optax.GradientTransformation) -> PyTree:
    """Returns the optimizer's first state in the dtypes that its updates keep."""
    optimizer = _optimizers.extended(optimizer)
    state = jax.tree.map(jnp.asarray, optimizer.init(params))
    params = jax.tree.map(jnp.asarray, params)
    value = jnp.zeros((), _checks.wide_dtype(*jax.tree.leaves(params)))

    def update(state: PyTree) -> PyTree:
        return optimizer.update(
            params, state, params, **_optimizers.told(value, params, lambda _: value)
        )[1]

    for _ in range(2):  # widened entries may widen others once
        after = jax.eval_shape(update, state)
        state = jax.tree.map(_widened, state, after)
    return state


def _widened(leaf: Array, after: jax.ShapeDtypeStruct) -> Array:
    if not jnp.issubdtype(leaf.dtype, jnp.floating):
        return leaf  # a count or a key
    return leaf.astype(jnp.promote_types(leaf.dtype, after.dtype))
