"""Models that are called in another way: for a whole batch, or with the time in front.

fmjax calls a model as `(x, t) -> prediction` of one example. What a model predicts, and where its
time begins, is for the functions of `fmjax.predictions.conversion`; these two come before them:

    model                                 as fmjax calls it
    (x[n, *dims], t[n]) -> [n, *dims]     unbatched(model)
    (t, x) -> prediction                  time_first(model)
    (t[n], x[n, *dims]) -> [n, *dims]     unbatched(time_first(model))

Under `jax.vmap` the results are those of one call of the whole batch.

Reference: none; a convention of calls.
"""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp

from fmjax import _checks
from fmjax.types import Array

__all__ = ["time_first", "unbatched"]


def unbatched(model: Callable[[Array, Array], Array]) -> Callable[[Array, Array], Array]:
    """Turns a model of batches into a model of one example.

    The example is a batch of one. The model must treat the examples of a batch separately, as
    every network does in evaluation mode; batch normalization in training mode does not.

    Args:
      model: `(x[n, *dims], t[n]) -> [n, *dims]`. If it takes one time for the whole batch, or
        another shape of it, say so in a wrapper: `lambda x, t: model(x, t[0])`.

    Returns:
      `(x[*dims], t[]) -> [*dims]`, t in the model's own unit.

    Raises:
      ValueError: on a call, if the model's value is not shaped like the batch of one, or `t` is
        batched.

    Example:
      >>> import fmjax
      >>> import jax.numpy as jnp
      >>> batched = lambda x, t: x * t[:, None]
      >>> model = fmjax.predictions.unbatched(batched)
      >>> model(jnp.array([2.0, 4.0]), 0.5).tolist()
      [1.0, 2.0]
    """
    _checks.functions(model=model)

    def single(x: Array, t: Array) -> Array:
        _checks.moments(t=t)  # in any unit: it may be a timestep
        batch = _checks.state(x)[None]
        value = model(batch, jnp.asarray(t)[None])
        if getattr(value, "shape", batch.shape) != batch.shape:
            message = (
                f"model must return {batch.shape} for a batch of one, got {value.shape}: it is "
                "called with x[None] and t[None]; a model of one example needs no unbatched."
            )
            raise ValueError(message)
        _checks.returned(batch, model=value)
        return value[0]

    return single


def time_first(model: Callable[[Array, Array], Array]) -> Callable[[Array, Array], Array]:
    """Turns a model that takes the time first into one that takes it second.

    Args:
      model: `(t, x) -> prediction`, of one example or of a batch.

    Returns:
      `(x, t) -> prediction`, of the same.

    Raises:
      ValueError: if the model is no function of two arguments; on a call, if its value is not
        shaped like x.

    Example:
      >>> import fmjax
      >>> import jax.numpy as jnp
      >>> model = fmjax.predictions.time_first(lambda t, x: x - t)
      >>> model(jnp.array([2.0, 4.0]), 0.5).tolist()
      [1.5, 3.5]
    """
    _checks.function(model, "model", "(t, x) -> prediction", "a model of (x, t) needs no turning")

    def turned(x: Array, t: Array) -> Array:
        x = _checks.state(x)
        value = model(t, x)
        _checks.returned(x, model=value)
        return value

    return turned
