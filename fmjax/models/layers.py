"""The layers of the networks, each for one example without a batch axis.

Time enters as sines and cosines of geometrically spaced frequencies,

    embed(t) = [sin(w_1 t), ..., sin(w_n t), cos(w_1 t), ..., cos(w_n t)],           (1)

w_1 = 1 to w_n = 100 radians per unit of time. They resolve a hundredth of the path, and are smooth
enough for MeanFlow's time derivative. Normalization is over groups of channels of one example,
never over a batch.

References:
  Vaswani et al. (2017), Attention Is All You Need, arXiv 1706.03762 (embedding).
  Wu and He (2018), Group Normalization, arXiv 1803.08494.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from fmjax import _checks
from fmjax.types import Array

__all__ = [
    "GroupNorm",
    "List",
    "TimeEmbedding",
    "divisible",
    "dropout",
    "example",
    "positive",
    "sinusoidal",
]

_FREQUENCIES = 32  # sines and as many cosines per time
List = getattr(nnx, "List", list)  # of modules in a module: flax 0.11 takes a plain list


def example(x: Array, times: tuple[Array, ...], *, shape: tuple[int, ...], num_times: int) -> None:
    """Raises ValueError unless one example and its times fit the network.

    Args:
      x: the example.
      times: the scalar times.
      shape: the shape the network was built for.
      num_times: the number of times the network was built for.

    Raises:
      ValueError: if `x` has another shape, or there are more or fewer times.

    Example:
      >>> import fmjax
      >>> import jax.numpy as jnp
      >>> fmjax.models.layers.example(jnp.zeros((64, 2)), (0.5,), shape=(2,), num_times=1)
      Traceback (most recent call last):
      ...
      ValueError: x must have shape (2,), the shape this network was built for, got (64, 2): \
one example per call is expected; wrap a batch in jax.vmap.
    """
    if jnp.shape(x) != shape:
        message = (
            f"x must have shape {shape}, the shape this network was built for, got {jnp.shape(x)}: "
            "one example per call is expected; wrap a batch in jax.vmap."
        )
        raise ValueError(message)
    if len(times) != num_times:
        message = (
            f"the network was built for {num_times} time(s), got {len(times)}: call it as "
            "model(x, t), or as model(x, r, t) when built with num_times=2."
        )
        raise ValueError(message)


def positive(**sizes: int) -> None:
    """Raises ValueError unless every size, given under its name, is an integer of at least one."""
    for name, size in sizes.items():
        if isinstance(size, bool) or not isinstance(size, int | np.integer) or size < 1:
            message = f"{name} must be an integer of at least 1, got {size!r}."
            raise ValueError(message)


def divisible(channels: int, **parts: int) -> None:
    """Raises ValueError unless every count, given under its name, divides `channels`."""
    positive(channels=channels, **parts)
    for name, count in parts.items():
        if channels % count:
            message = (
                f"the number of channels must be divisible by {name}, got {channels} channels and "
                f"{name}={count}: choose another of the two."
            )
            raise ValueError(message)


def dropout(rate: float, *, rngs: nnx.Rngs) -> nnx.Dropout:
    """Returns a layer that drops at `rate` in [0, 1), else ValueError, and keeps the mean."""
    if not 0.0 <= rate < 1.0:
        message = f"dropout must lie in [0, 1), got {rate}: it is the probability of dropping."
        raise ValueError(message)
    return nnx.Dropout(rate, rngs=rngs)


def sinusoidal(
    t: Array, *, num_frequencies: int = _FREQUENCIES, max_frequency: float = 100.0
) -> Array:
    """Computes sines and cosines of one time, eq. (1).

    Args:
      t: `[]`, in [0, 1].
      num_frequencies: number of frequencies, at least 1.
      max_frequency: the largest frequency in radians per unit of time; the smallest is 1.

    Returns:
      `[2 * num_frequencies]`, all sines, then all cosines, in the dtype of `t`.

    Raises:
      ValueError: if `t` is batched, or a static number outside [0, 1].

    Example:
      >>> import fmjax
      >>> fmjax.models.layers.sinusoidal(0.0, num_frequencies=2).tolist()
      [0.0, 0.0, 1.0, 1.0]

    Reference:
      Vaswani et al. (2017), arXiv 1706.03762, section 3.5. [vaswani2017attention]
    """
    t = _checks.time(t)
    exponents = jnp.linspace(0.0, math.log(max_frequency), num_frequencies, dtype=t.dtype)
    angles = jnp.exp(exponents) * t
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)])


class TimeEmbedding(nnx.Module):
    """Embeds one or several times as one vector: eq. (1), then a dense layer and a silu.

    Args:
      num_times: number of times that a call receives.
      features: length of the vector.
      param_dtype: dtype of the parameters, and of the result.
      rngs: random streams of flax.

    Example:
      >>> import fmjax
      >>> from flax import nnx
      >>> embed = fmjax.models.layers.TimeEmbedding(num_times=2, features=16, rngs=nnx.Rngs(0))
      >>> embed(0.2, 0.9).shape
      (16,)
    """

    def __init__(self, *, num_times, features, param_dtype=jnp.float32, rngs):
        _checks.instance(rngs, nnx.Rngs, "rngs", "write rngs=nnx.Rngs(0)")
        positive(num_times=num_times)
        self.dense = nnx.Linear(
            2 * _FREQUENCIES * num_times, features, param_dtype=param_dtype, rngs=rngs
        )

    def __call__(self, *times: Array, shift: Array | float = 0.0) -> Array:
        """Returns the vector `[features]` of the scalar times, moved by `shift` before the silu."""
        dtype = self.dense.kernel.dtype
        wide = jnp.promote_types(dtype, jnp.float32)
        embedded = [sinusoidal(_checks.time(t).astype(wide)) for t in times]
        return jax.nn.silu(self.dense(jnp.concatenate(embedded).astype(dtype)) + shift)


class GroupNorm(nnx.Module):
    """Normalizes one example over its positions and groups of channels, then scales and shifts.

    `nnx.GroupNorm` takes the first axis of its input for the batch, so on one example it would
    silently normalize every row of an image by itself. This layer has no batch axis. It averages
    over positions before groups, which is faster on CPU.

    Args:
      channels: size of the last axis.
      num_groups: number of groups, a divisor of `channels`.
      epsilon: added to the variance, so that a constant group gives zero and not 0 / 0.
      param_dtype: dtype of the parameters.
      rngs: random streams of flax; nothing is drawn.

    Example:
      >>> import fmjax
      >>> import jax.numpy as jnp
      >>> from flax import nnx
      >>> image = jnp.arange(32.0).reshape(4, 4, 2)
      >>> normal = fmjax.models.layers.GroupNorm(2, num_groups=1, rngs=nnx.Rngs(0))(image)
      >>> round(abs(float(normal.mean())), 3), round(float(normal.std()), 3)
      (0.0, 1.0)

    Reference:
      Wu and He (2018), arXiv 1803.08494, eq. (1). [wu2018group]
    """

    def __init__(self, channels, *, num_groups, epsilon=1e-6, param_dtype=jnp.float32, rngs):
        divisible(channels, num_groups=num_groups)
        del rngs  # taken so that every layer is built alike
        self.num_groups = num_groups
        self.epsilon = epsilon
        self.scale = nnx.Param(jnp.ones(channels, param_dtype))
        self.bias = nnx.Param(jnp.zeros(channels, param_dtype))

    def _mean(self, rows: Array) -> Array:
        """Returns `[1, channels]`, for every channel the mean of its group over all rows."""
        groups = rows.mean(0).reshape(self.num_groups, -1)
        return jnp.broadcast_to(groups.mean(1, keepdims=True), groups.shape).reshape(1, -1)

    def __call__(self, x: Array) -> Array:
        """Returns the normalized `[*dims, channels]` of one example; sums in float32 at least."""
        dtype = jnp.result_type(x, self.scale[...])
        rows = x.reshape(-1, x.shape[-1]).astype(jnp.promote_types(dtype, jnp.float32))
        # In two passes: E[x^2] - E[x]^2 cancels when the mean is large.
        centered = rows - self._mean(rows)
        inverse = jax.lax.rsqrt(self._mean(centered**2) + self.epsilon)
        normal = centered * (inverse * self.scale[...][None])
        return (normal + self.bias[...][None]).reshape(x.shape).astype(dtype)
