"""The context of a network: a class label or a vector of numbers.

Every block receives the embedding e of the times. The context is added to it before its silu,

    e = silu(W embed(t) + E[label])       or       e = silu(W embed(t) + U vector),      (1)

with one row of E for each class, and a last row for the null label, which means that no class is
known. The null of a vector is the vector of zeros, which leaves e as it is without context. Where
zeros mean something else, append a one to every vector.

A network that was trained with some contexts replaced by their null (`couplings.drop_context`)
knows both fields that classifier-free guidance mixes (`samplers.guided`).

References:
  Dhariwal and Nichol (2021), Diffusion Models Beat GANs, arXiv 2105.05233 (labels added to times).
  Ho and Salimans (2022), Classifier-Free Diffusion Guidance, arXiv 2207.12598 (the null label).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from fmjax import _checks
from fmjax.models import layers
from fmjax.types import Array

__all__ = ["Context", "beside", "check_array", "either"]


class Context(nnx.Module):
    """Embeds the label or the vector of one call, eq. (1); zero for a network without context.

    Args:
      num_classes: number of classes; 0 for a network without labels.
      size: entries of a vector; 0 for a network without vectors.
      features: length of the result, the length of the time embedding.
      param_dtype: dtype of the parameters, and of the result.
      rngs: random streams of flax.

    Raises:
      ValueError: if both numbers are given or one is not a positive integer; on a call, if the
        context is not what the network was built for.

    Example:
      >>> import fmjax
      >>> import jax.numpy as jnp
      >>> from flax import nnx
      >>> network = fmjax.models.MLP(2, num_classes=10, rngs=nnx.Rngs(0))
      >>> apply, params = fmjax.models.functional(network)
      >>> apply(params, jnp.ones(2), 0.5, context=3).tolist()  # starts at zero, for class 3 too
      [0.0, 0.0]
      >>> params["condition"]["rows"].shape  # ten classes, and the null label 10
      (11, 128)

    Reference:
      Ho and Salimans (2022), arXiv 2207.12598, section 3.2. [ho2022classifier]
    """

    def __init__(self, *, num_classes, size, features, param_dtype=jnp.float32, rngs):
        either(num_classes=num_classes, context=size)
        self.num_classes, self.size = num_classes, size
        if num_classes:
            rows = jax.random.normal(rngs.params(), (num_classes + 1, features), param_dtype)
            self.rows = nnx.Param(rows)
        if size:
            options = {"param_dtype": param_dtype, "rngs": rngs}
            self.linear = nnx.Linear(size, features, use_bias=False, **options)

    def __call__(self, context: Array | int | None) -> Array | float:
        """Returns `[features]` for a label `[]` or a vector `[size]`, zero for a network without.

        A traced label outside the classes gives NaN: neighboring rows would be wrong silently.
        """
        if self.num_classes:
            _check_label(context, self.num_classes)
            label = jnp.asarray(context).astype(jnp.int32)
            known = (label >= 0) & (label <= self.num_classes)
            return jnp.where(known, self.rows[...][label], jnp.nan)
        check_array(context, (self.size,) if self.size else None)
        if not self.size:
            return 0.0
        return self.linear(jnp.asarray(context).astype(self.linear.kernel.dtype))


def either(*, num_classes: int, context: int) -> None:
    """Raises ValueError if a network is built for both labels and a context of numbers."""
    for name, count in {"num_classes": num_classes, "context": context}.items():
        if count != 0:
            layers.positive(**{name: count})
    if num_classes and context:
        message = (
            f"a network takes labels or numbers, got num_classes={num_classes} and "
            f"context={context}: for both write the label into the numbers, by jax.nn.one_hot."
        )
        raise ValueError(message)


_ARRAYS = (int, float, np.number, np.ndarray, jax.Array)


def _check_label(label: Array | int | None, num_classes: int) -> None:
    """Raises ValueError unless a label is an integer scalar and, if static, names a class."""
    fits = (
        isinstance(label, _ARRAYS)
        and jnp.shape(label) == ()
        and jnp.issubdtype(jnp.result_type(label), jnp.integer)
    )
    if fits and not isinstance(label, jax.Array):
        fits = 0 <= int(label) <= num_classes
    if not fits:
        message = (
            f"context must be an integer label from 0 to {num_classes} for this network, where "
            f"{num_classes} is the null label, got {_described(label)}: call it as "
            "model(x, t, context=label), one example per call; wrap a batch in jax.vmap."
        )
        raise ValueError(message)


def beside(x: Array, context: Array | None, size: int) -> Array:
    """Returns a sequence `[n, features]` with the context `[n, size]` of its positions beside it.

    Raises:
      ValueError: if the context has another shape or is missing.
    """
    check_array(context, (x.shape[0], size))
    x = _checks.floating(x)
    return jnp.concatenate([x, jnp.asarray(context, x.dtype)], axis=-1)


def check_array(context: Array | None, shape: tuple[int, ...] | None) -> None:
    """Raises ValueError unless a context has this shape, or is missing if the shape is None."""
    known = context is None or isinstance(context, _ARRAYS)
    if known and (None if context is None else jnp.shape(context)) == shape:
        return
    wanted = "left out" if shape is None else f"an array of shape {shape}"
    remedy = (
        "build it with num_classes=n for a class label, or with context=k for numbers"
        if shape is None
        else "call it as model(x, t, context=c), one example per call; zeros are the null context"
    )
    message = f"context must be {wanted} for this network, got {_described(context)}: {remedy}."
    raise ValueError(message)


def _described(context: object) -> str:
    if isinstance(context, np.ndarray | jax.Array):
        return f"an array of shape {context.shape} and dtype {context.dtype}"
    return "none" if context is None else f"{context!r:.60}"
