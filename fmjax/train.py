"""One training step as a pure function; the loop around it belongs to the experiment.

    state = init(params, optimizer)
    step = jax.jit(make_step(loss, optimizer), donate_argnums=0)
    for batch in batches:
        state, info = step(state, key, batch)                # the same key every time

Step k draws from `fold_in(key, k)`, so the state holds no key and a run that was stopped and
resumed repeats the straight run. Beside the parameters theta a step keeps their exponential
moving average, which samples better than the last iterate,

    ema <- ema + (1 - d_k) (theta - ema),     d_k = min(ema_decay, (1 + k) / (10 + k)),   (1)

whose warm-up forgets the initial parameters at first: without it an average with decay 0.999
would still hold a third of them after 1000 steps.

Reference:
  Polyak and Juditsky (1992), Acceleration of Stochastic Approximation by Averaging.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from fmjax.types import Array, Key, PyTree


class TrainState(NamedTuple):
    """Everything the next step needs and a checkpoint holds; no key.

    Attributes:
      step: `[]`, integer, the number of steps taken.
      params: the parameters, any pytree of floating arrays.
      ema_params: their exponential moving average, of the same structure.
      opt_state: the state of the optimizer.
    """

    step: Array
    params: PyTree
    ema_params: PyTree
    opt_state: PyTree


class Info(NamedTuple):
    """What one step has to tell, both scalars, taken before the update.

    Attributes:
      loss: `[]`, the loss of the batch.
      grad_norm: `[]`, the Euclidean norm of its gradient, before any clipping.
    """

    loss: Array
    grad_norm: Array


def init(params: PyTree, optimizer: optax.GradientTransformation) -> TrainState:
    """Returns the state before the first step.

    Every array is copied: a jitted step that donates its state needs distinct buffers, and
    must not delete the caller's parameters. Weakly typed ones, such as `jnp.array(1.0)`, get
    their dtype for good: they would lose the mark on the way, and the step be traced again.

    Args:
      params: the parameters, any pytree of floating arrays.
      optimizer: any gradient transformation of optax.

    Returns:
      The state at step 0, with `ema_params` equal to `params`.

    Example:
      >>> state = init({"w": jnp.array([1.0, 2.0])}, optax.adam(1e-3))
      >>> int(state.step), state.ema_params["w"].tolist()
      (0, [1.0, 2.0])
    """
    state = TrainState(jnp.zeros((), jnp.int32), params, params, optimizer.init(params))
    return jax.tree.map(_own, state)


def _own(leaf: Array) -> Array:
    """Returns a copy in a buffer of its own, of the same dtype and never weakly typed."""
    return jnp.array(leaf, dtype=jnp.asarray(leaf).dtype, copy=True)


def make_step(
    loss: Callable[[PyTree, Key, PyTree], Array],
    optimizer: optax.GradientTransformation,
    *,
    ema_decay: float = 0.999,
) -> Callable[[TrainState, Key, PyTree], tuple[TrainState, Info]]:
    """Returns the pure function that takes one training step; jit and donate it yourself.

    Args:
      loss: `(params, key, batch) -> []`, the mean loss of a batch.
      optimizer: the gradient transformation that `init` was given.
      ema_decay: largest decay of the moving average, in [0, 1); at step k = 0, 1, ... the decay
        is `min(ema_decay, (1 + k) / (10 + k))`, so 0.1 at first, eq. (1).

    Returns:
      `step(state, key, batch) -> (state, info)`. The loss receives `fold_in(key, state.step)`,
      so pass the same key at every step.

    Raises:
      ValueError: if `ema_decay` is outside [0, 1); on a call, if the loss is not a scalar.

    Example:
      >>> loss = lambda params, key, batch: ((params - batch) ** 2).mean()
      >>> optimizer = optax.sgd(0.25)
      >>> step = make_step(loss, optimizer)
      >>> state, info = step(init(jnp.array(2.0), optimizer), jax.random.key(0), jnp.zeros(3))
      >>> float(info.loss), float(info.grad_norm), float(state.params)
      (4.0, 4.0, 1.0)
      >>> round(float(state.ema_params), 3)  # 0.1 * 2 + 0.9 * 1
      1.1

    Reference:
      Polyak and Juditsky (1992), Acceleration of Stochastic Approximation by Averaging.
      [polyak1992acceleration]
    """
    if not 0.0 <= ema_decay < 1.0:
        message = f"ema_decay must lie in [0, 1), got {ema_decay}: 0 keeps the last parameters."
        raise ValueError(message)

    def step(state: TrainState, key: Key, batch: PyTree) -> tuple[TrainState, Info]:
        key = jax.random.fold_in(key, state.step)
        value, gradient = jax.value_and_grad(_scalar(loss))(state.params, key, batch)
        updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        decay = jnp.minimum(ema_decay, (1 + state.step) / (10 + state.step))
        ema_params = jax.tree.map(
            lambda ema, new: ema + (1.0 - decay).astype(ema.dtype) * (new - ema),
            state.ema_params,
            params,
        )
        state = TrainState(state.step + 1, params, ema_params, opt_state)
        return state, Info(value, optax.tree.norm(gradient))

    return step


def _scalar(loss: Callable[[PyTree, Key, PyTree], Array]) -> Callable[..., Array]:
    """Returns the loss with a check that its value is one number."""

    def checked(params: PyTree, key: Key, batch: PyTree) -> Array:
        value = loss(params, key, batch)
        if jnp.shape(value) != ():
            message = (
                f"the loss of a batch must be a scalar, got shape {jnp.shape(value)}: the losses "
                "of fmjax are per example; take their mean."
            )
            raise ValueError(message)
        return value

    return checked
