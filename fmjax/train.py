"""One training step as a pure function; the training loop belongs to the experiment.

    state = fmjax.train.init(params, optimizer)
    step = jax.jit(fmjax.train.make_step(loss, optimizer), donate_argnums=0)
    for batch in batches:
        state, info = step(state, key, batch)                # the same key every time

Step k draws from `fold_in(key, k)`, so the state holds no key, and a resumed run gives the same
results as an uninterrupted run. A step also updates the exponential moving average (ema) of the
parameters theta, which gives better samples than the last iterate:

    ema <- ema + (1 - d_k) (theta - ema),     d_k = min(ema_decay, (1 + k) / (10 + k)),   (1)

The warm-up of d_k lets the average forget the initial parameters early: with a constant decay of
0.999 they would still have a weight of one third after 1000 steps. The average is kept in float32
or wider, whatever the dtype of the parameters, because bfloat16 rounds away a change by a
thousandth. Here k counts updates of the parameters. It equals the step, unless `optax.MultiSteps`
accumulates gradients; the average does not change between two updates.

Reference:
  Polyak and Juditsky (1992), Acceleration of Stochastic Approximation by Averaging.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from fmjax import _checks
from fmjax.types import Array, Key, PyTree

__all__ = ["Info", "TrainState", "init", "make_step"]


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
    _check_optimizer(optimizer)
    _check_parameters(params)
    ema_params = jax.tree.map(_checks.wide, params)
    opt_state = _settled(params, optimizer)
    state = TrainState(jnp.zeros((), jnp.int32), params, ema_params, opt_state)
    return jax.tree.map(_own, state)


def _own(leaf: Array) -> Array:
    """Returns a copy in a buffer of its own, of the same dtype and never weakly typed."""
    return jnp.array(leaf, dtype=jnp.asarray(leaf).dtype, copy=True)


def _check_optimizer(optimizer: optax.GradientTransformation) -> None:
    """Raises ValueError unless the optimizer has the two functions of one of optax."""
    both = (getattr(optimizer, name, None) for name in ("init", "update"))
    if isinstance(optimizer, type) or not all(callable(one) for one in both):
        message = (
            f"optimizer must be a gradient transformation of optax, got "
            f"{_checks.described(optimizer)}: write one such as optax.adam(1e-3), after the "
            "parameters or the loss."
        )
        raise ValueError(message)


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
    optimizer = _with_extra_args(optimizer)
    state = jax.tree.map(jnp.asarray, optimizer.init(params))
    params = jax.tree.map(jnp.asarray, params)
    value = jnp.zeros((), _checks.wide_dtype(*jax.tree.leaves(params)))

    def update(state: PyTree) -> PyTree:
        return optimizer.update(params, state, params, **_told(value, params, lambda _: value))[1]

    for _ in range(2):  # widened entries may widen others once
        after = jax.eval_shape(update, state)
        state = jax.tree.map(_widened, state, after)
    return state


def _widened(leaf: Array, after: jax.ShapeDtypeStruct) -> Array:
    if not jnp.issubdtype(leaf.dtype, jnp.floating):
        return leaf  # a count or a key
    return leaf.astype(jnp.promote_types(leaf.dtype, after.dtype))


def _told(value: Array, gradient: PyTree, value_fn: Callable[[PyTree], Array]) -> dict[str, Any]:
    """Returns what an optimizer may take in addition to the gradient, under the names of optax."""
    return {"value": value, "grad": gradient, "value_fn": value_fn}


def _with_extra_args(
    optimizer: optax.GradientTransformation,
) -> optax.GradientTransformationExtraArgs:
    """Returns an optimizer whose update takes gradient and loss, and may ignore the loss."""
    if isinstance(optimizer, optax.MultiSteps):  # its wrapper would not hand them on
        optimizer = optimizer.gradient_transformation()
    return optax.with_extra_args_support(optimizer)


def make_step(
    loss: Callable[[PyTree, Key, PyTree], Array],
    optimizer: optax.GradientTransformation,
    *,
    ema_decay: float = 0.999,
) -> Callable[[TrainState, Key, PyTree], tuple[TrainState, Info]]:
    """Makes the pure function that takes one training step; jit and donate it yourself.

    Args:
      loss: `(params, key, batch) -> []`, the mean loss of a batch.
      optimizer: the gradient transformation that `init` received. It also receives the loss, as
        `value`, `grad` and `value_fn`, so `optax.lbfgs`, `optax.polyak_sgd` and
        `optax.contrib.reduce_on_plateau` work. For large batches use
        `optax.MultiSteps(optimizer, every_k_schedule=k)`, which updates every k steps.
      ema_decay: largest decay of the moving average, in [0, 1). At update k = 0, 1, ... the decay
        is `min(ema_decay, (1 + k) / (10 + k))`, which starts at 0.1, eq. (1).

    Returns:
      `step(state, key, batch) -> (state, info)`. The loss receives `fold_in(key, state.step)`,
      so pass the same key at every step.

    Raises:
      ValueError: if `ema_decay` is outside [0, 1); on a call, if the loss is not a scalar.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> import optax
      >>> import fmjax
      >>> loss = lambda params, key, batch: ((params - batch) ** 2).mean()
      >>> optimizer = optax.sgd(0.25)
      >>> step = fmjax.train.make_step(loss, optimizer)
      >>> state = fmjax.train.init(jnp.array(2.0), optimizer)
      >>> state, info = step(state, jax.random.key(0), jnp.zeros(3))
      >>> float(info.loss), float(info.grad_norm), float(state.params)
      (4.0, 4.0, 1.0)
      >>> round(float(state.ema_params), 3)  # 0.1 * 2 + 0.9 * 1
      1.1

    Reference:
      Polyak and Juditsky (1992), Acceleration of Stochastic Approximation by Averaging.
      [polyak1992acceleration]
    """
    example = "pass, for example, lambda params, key, batch: jnp.mean(...)"
    _checks.function(loss, "loss", "(params, key, batch) -> mean loss", example)
    _check_optimizer(optimizer)
    if not 0.0 <= ema_decay < 1.0:
        message = f"ema_decay must lie in [0, 1), got {ema_decay}: 0 keeps the last parameters."
        raise ValueError(message)

    optimizer = _with_extra_args(optimizer)

    def step(state: TrainState, key: Key, batch: PyTree) -> tuple[TrainState, Info]:
        key = jax.random.fold_in(key, state.step)
        value_fn = lambda params: _scalar(loss(params, key, batch))  # noqa: E731
        value, gradient = jax.value_and_grad(value_fn)(state.params)
        told = _told(value, gradient, value_fn)
        updates, opt_state = optimizer.update(gradient, state.opt_state, state.params, **told)
        params = optax.apply_updates(state.params, updates)
        share = _share(state.step, state.opt_state, opt_state, ema_decay)
        ema_params = jax.tree.map(
            lambda ema, new: ema + share.astype(ema.dtype) * (new.astype(ema.dtype) - ema),
            state.ema_params,
            params,
        )
        state = TrainState(state.step + 1, params, ema_params, opt_state)
        return state, Info(value, optax.tree.norm(jax.tree.map(_checks.wide, gradient)))

    return step


def _share(step: Array, before: PyTree, after: PyTree, ema_decay: float) -> Array:
    """Returns the share of the new parameters in the average: 0 where no update was made."""
    updates, updated = step, True
    if counts := _gradient_steps(before):
        updates = jnp.max(jnp.stack(counts))  # several, where parts accumulate apart
        updated = jnp.max(jnp.stack(_gradient_steps(after))) > updates
    decay = jnp.minimum(ema_decay, (1 + updates) / (10 + updates))
    return jnp.where(updated, 1.0 - decay, 0.0)


def _gradient_steps(opt_state: PyTree) -> list[Array]:
    """Returns the number of updates that each `optax.MultiSteps` in an optimizer has made."""
    accumulates = lambda node: isinstance(node, optax.MultiStepsState)  # noqa: E731
    nodes = jax.tree.leaves(opt_state, is_leaf=accumulates)
    return [node.gradient_step for node in nodes if accumulates(node)]


def _scalar(value: Array) -> Array:
    """Returns the value of a loss, or says that it is not one number."""
    if not jax.tree_util.all_leaves([value]):  # a tuple, a dict, None
        message = (
            f"the loss of a batch must be a scalar, got a {type(value).__name__}: return the loss "
            "alone, and compute other quantities outside the step."
        )
        raise ValueError(message)
    if jnp.shape(value) != ():
        message = (
            f"the loss of a batch must be a scalar, got shape {jnp.shape(value)}: the losses "
            "of fmjax are per example; take their mean."
        )
        raise ValueError(message)
    return value
