"""Conditional flow matching, and adaptive weights for any loss.

Flow matching regresses a velocity on `d x_t / dt = alpha_dot x1 + sigma_dot x0` of drawn pairs,
whose conditional mean given x_t is the marginal velocity.

References:
  Lipman et al. (2023), Flow Matching for Generative Modeling, arXiv 2210.02747.
  Geng et al. (2025), Mean Flows for One-step Generative Modeling, arXiv 2505.13447 (`adaptive`).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from fmjax import _checks, paths, predictions
from fmjax.paths import Path
from fmjax.types import Array, Velocity

__all__ = ["adaptive", "cfm"]


def cfm(
    velocity: Velocity,
    path: Path,
    x0: Array,
    x1: Array,
    t: Array,
    *,
    weight: Array | float = 1.0,
) -> Array:
    """Computes the conditional flow matching loss of one example.

    It is the mean over dimensions of `(velocity(x_t, t) - d x_t / dt)^2`. Its minimizer over pairs
    and times is the marginal velocity `E[d x_t / dt | x_t]`.

    Args:
      velocity: the field that is trained, `(x[*dims], t[]) -> [*dims]`.
      path: the path.
      x0: `[*dims]`, noise.
      x1: `[*dims]`, data.
      t: `[]`, in [0, 1].
      weight: of the squared error, not negative: a number, such as
        `predictions.residual_std(path, std, t)**-2`, or an array that broadcasts to `[*dims]`. A
        function of t alone leaves the minimizer as it is.

    Returns:
      `[]`, the weighted squared error per dimension, in float32 at least.

    Raises:
      ValueError: if shapes differ, if the pair is complex, or if `t` is batched or a static number
        outside [0, 1].

    Example:
      >>> import fmjax
      >>> import jax.numpy as jnp
      >>> path, still = fmjax.paths.linear(), lambda x, t: 0.0 * x
      >>> x0, x1 = jnp.zeros(2), jnp.array([1.0, 3.0])
      >>> float(fmjax.losses.cfm(still, path, x0, x1, 0.5))
      5.0

    Reference:
      Lipman et al. (2023), arXiv 2210.02747, eq. (14). [lipman2023flow]
    """
    _checks.functions(velocity=velocity, path=path)
    x0, x1 = _checks.state(x0, "x0"), _checks.state(x1, "x1")
    x = paths.interpolate(path, x0, x1, t)
    _checks.entries(x, "a loss is a mean over them")
    x0, x1, t = _checks.wide(x0), _checks.wide(x1), _checks.time(t)
    # A square of half precision overflows at 256.
    target = predictions.target(predictions.velocity, path, x0, x1, _checks.wide(t))
    value = velocity(x, t)
    _checks.returned(x, velocity=value)
    (weight,) = _checks.fitting(x, weight=weight)
    return jnp.mean(weight * jnp.square(value - target))


def adaptive(loss: Array, *, power: Array | float = 1.0, eps: Array | float = 1e-3) -> Array:
    """Divides a loss by a power of its own value, `loss / sg[loss + eps]^power`.

    Examples with a large error no longer dominate the gradient: for power = 1 it is the gradient of
    log(loss + eps). Report the plain loss, since this value no longer shows how well the network
    does.

    MeanFlow adds its constant c to a sum over the d entries, while losses here are means over the
    entries. So `eps = c / d` gives the same gradient up to a factor `d^(1 - power)`. For images of
    32 x 32 x 3, c = 1e-3 becomes eps = 3.3e-7.

    Args:
      loss: `[]`, of one example, not negative; under `vmap` before the mean of the batch.
      power: 0 for the plain loss, 1 for full normalization.
      eps: positive; it bounds the weight where the loss is 0.

    Returns:
      `[]`.

    Example:
      >>> import fmjax
      >>> import jax.numpy as jnp
      >>> loss = fmjax.losses.adaptive(jnp.array(4.0), power=0.5, eps=5.0)
      >>> print(f"{loss:.4f}")  # 4 / sqrt(4 + 5)
      1.3333

    Reference:
      Geng et al. (2025), arXiv 2505.13447, section 4.3. [geng2025mean]
    """
    return loss / jax.lax.stop_gradient(loss + eps) ** power
