"""The step of a training, and several steps in one call; equation (1) stands in `fmjax.train`.

Starting a compiled function takes the host some tenths of a millisecond. A step of a small network
computes for less, so most of a training would be starts. `repeat` puts a loop around the step, and
all steps of a call cost one start.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from fmjax import _checks
from fmjax.train import _optimizers
from fmjax.train.states import Info, TrainState
from fmjax.types import Array, Key, PyTree

__all__ = ["make_step", "repeat", "skip_nonfinite"]


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
    _optimizers.check(optimizer)
    if not 0.0 <= ema_decay < 1.0:
        message = f"ema_decay must lie in [0, 1), got {ema_decay}: 0 keeps the last parameters."
        raise ValueError(message)

    optimizer = _optimizers.extended(optimizer)

    def step(state: TrainState, key: Key, batch: PyTree) -> tuple[TrainState, Info]:
        key = jax.random.fold_in(key, state.step)
        value_fn = lambda params: _scalar(loss(params, key, batch))  # noqa: E731
        value, gradient = jax.value_and_grad(value_fn)(state.params)
        told = _optimizers.told(value, gradient, value_fn)
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


def repeat(
    step: Callable[[TrainState, Key, PyTree], tuple[TrainState, Info]],
    *,
    num_steps: int | None = None,
) -> Callable[[TrainState, Key, PyTree], tuple[TrainState, Info]]:
    """Makes the pure function that takes several training steps in one call; jit it yourself.

    The function makes the steps that as many calls of `step` would make, with the same keys, so a
    training may take any steps in one call and others one by one. Compile and donate it like the
    step. Another number of batches compiles it anew.

    Args:
      step: `(state, key, batch) -> (state, info)`, as `make_step` makes it.
      num_steps: steps of a call, for batches without arrays, such as None where the loss draws its
        data from the key; otherwise the first axis of the batches tells.

    Returns:
      `steps(state, key, batches) -> (state, infos)`. The arrays of `batches` are the arrays of one
      batch each, stacked along a new first axis: `jax.tree.map(lambda *x: jnp.stack(x), *list)`.
      The arrays of `infos` have the same first axis, one entry for every step. State and infos
      equal those of single steps: bit for bit on a CPU, up to rounding where the loss has a
      convolution. XLA's CPU compiler makes the convolutions of a gradient fast outside of loops
      only, so a convolution network trains better by single steps there.

    Raises:
      ValueError: if `step` is no function; on a call, if the batches hold no array and `num_steps`
        is None, if their first axes differ from each other or from `num_steps`, or are empty.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> import optax
      >>> import fmjax
      >>> loss = lambda params, key, batch: ((params - batch) ** 2).mean()
      >>> optimizer = optax.sgd(0.25)
      >>> steps = jax.jit(fmjax.train.repeat(fmjax.train.make_step(loss, optimizer)))
      >>> state = fmjax.train.init(jnp.array(2.0), optimizer)
      >>> state, infos = steps(state, jax.random.key(0), jnp.zeros((3, 5)))  # 3 batches of 5
      >>> int(state.step), float(state.params), infos.loss.tolist()
      (3, 0.25, [4.0, 1.0, 0.25])

    Reference:
      Polyak and Juditsky (1992), Acceleration of Stochastic Approximation by Averaging.
      [polyak1992acceleration]
    """
    _check_step(step)
    if num_steps is not None:
        _checks.count("steps of a call", num_steps=num_steps)

    def steps(state: TrainState, key: Key, batches: PyTree) -> tuple[TrainState, Info]:
        length = _length(batches, num_steps)
        return jax.lax.scan(lambda state, batch: step(state, key, batch), state, batches, length)

    return steps


def skip_nonfinite(
    step: Callable[[TrainState, Key, PyTree], tuple[TrainState, Info]],
) -> Callable[[TrainState, Key, PyTree], tuple[TrainState, Info]]:
    """Makes a step that leaves everything as it is where the loss or the gradient is not finite.

    One bad batch then costs one step: parameters, their average and the state of the optimizer
    stay, and only the number of the step grows, so that the next step has a key of its own. The
    info shows which steps were skipped. Count them: parameters that are not finite skip every step.

    `optax.apply_if_finite` looks at the gradient and not at the loss, lets the average go on, and
    keeps counters in the state of the optimizer, which a saved state without them does not fit.

    Args:
      step: `(state, key, batch) -> (state, info)`, as `make_step` makes it.

    Returns:
      `step(state, key, batch) -> (state, info)`. Where loss and gradient are finite, the result is
      that of the given step.

    Raises:
      ValueError: if `step` is no function.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> import optax
      >>> import fmjax
      >>> loss = lambda params, key, batch: ((params - batch) ** 2).mean()
      >>> optimizer = optax.sgd(0.25)
      >>> step = fmjax.train.skip_nonfinite(fmjax.train.make_step(loss, optimizer))
      >>> state, key = fmjax.train.init(jnp.array(2.0), optimizer), jax.random.key(0)
      >>> state, info = step(state, key, jnp.array([0.0, jnp.nan]))
      >>> int(state.step), float(state.params), float(info.loss)
      (1, 2.0, nan)

    Reference:
      Micikevicius et al. (2018), Mixed Precision Training, arXiv:1710.03740, section 3.2, where
      updates are skipped after an overflow. [micikevicius2018mixed]
    """
    _check_step(step)

    def skipping(state: TrainState, key: Key, batch: PyTree) -> tuple[TrainState, Info]:
        after, info = step(state, key, batch)
        skipped = state._replace(step=state.step + 1)
        keep = lambda new, old: jnp.where(info.finite, new, old)  # noqa: E731
        return jax.tree.map(keep, after, skipped), info

    return skipping


def _check_step(step: Callable) -> None:
    """Raises ValueError unless the step can be called as one."""
    example = "pass fmjax.train.make_step(loss, optimizer)"
    _checks.function(step, "step", "(state, key, batch) -> (state, info)", example)


def _length(batches: PyTree, num_steps: int | None) -> int:
    """Returns how many batches are stacked, or says what does not fit."""
    shapes = {
        jax.tree_util.keystr(path): jnp.shape(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(batches)
    }
    firsts = {shape[0] if shape else None for shape in shapes.values()}
    firsts |= set() if num_steps is None else {num_steps}
    if len(firsts) == 1 and (length := firsts.pop()):
        return length
    found = ", ".join(f"{shape} at batches{name}" for name, shape in shapes.items()) or "no array"
    wanted = "one first axis" if num_steps is None else f"the first axis num_steps {num_steps}"
    message = (
        f"the arrays of batches must have {wanted}, got {found}: stack whole batches, with "
        "jax.tree.map(lambda *x: jnp.stack(x), *batches); for batches without arrays give "
        "num_steps."
    )
    raise ValueError(message)


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
