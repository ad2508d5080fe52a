"""A velocity as its best linear prediction and a network for the rest, of unit variance.

Let each entry of the data have mean m and standard deviation s, and `x = alpha x1 + sigma x0`.
Then x has the mean `alpha m` and the variance `V = alpha^2 s^2 + sigma^2`, and

    y = (x - alpha m) / sqrt(V)                                                      (1)
    n = (sigma (x1 - m) / s - alpha s x0) / sqrt(V)                                  (2)

have mean zero, variance one and no correlation. Solved for x1 and x0, with
`D = alpha_dot sigma - alpha sigma_dot`, they give the velocity of the pair as

    alpha_dot x1 + sigma_dot x0
        = alpha_dot m + (alpha_dot alpha s^2 + sigma_dot sigma) / V (x - alpha m) + D s / sqrt(V) n.

The first two terms are the best prediction of the velocity that is linear in x. The last one is
what they leave, with the standard deviation `D s / sqrt(V)`. A network that reads y and predicts n
has an input and a target of unit variance at every time, on every path. For Gaussian data whose
entries are independent E[n | x] = 0, and the linear terms are the exact velocity.

EDM's preconditioning (Karras et al., 2022) is the case alpha = 1, m = 0.

References:
  Karras et al. (2022), Elucidating the Design Space of Diffusion-Based Generative Models,
  arXiv 2206.00364, section 5.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from fmjax import _checks, paths
from fmjax.paths import Path
from fmjax.types import Array, Velocity

__all__ = ["conditioned", "residual_std"]


def conditioned(
    network: Callable[[Array, Array], Array],
    path: Path,
    std: Array | float,
    mean: Array | float = 0.0,
) -> Velocity:
    """Makes a velocity of its best linear prediction and a network for the rest.

    The network reads the state scaled to unit variance, eq. (1) of this module, and predicts a
    quantity of unit variance, eq. (2). A network that returns zeros is the exact velocity of
    Gaussian data with this mean and standard deviation.

    Args:
      network: `(y[*dims], t[]) -> [*dims]`. Its last layer is best started at zero.
      path: the path.
      std: the standard deviation of the data, positive, of a shape that broadcasts to `[*dims]`: a
        number, one for each channel, or one for each entry. An entry that is the same in all data
        needs a small positive number in the place of 0.
      mean: the mean of the data, of a shape that broadcasts to `[*dims]`.

    Returns:
      `(x[*dims], t[]) -> [*dims]`, finite wherever the derivatives of the path are.

    Raises:
      ValueError: if `std` is a static number or array that is not positive and finite, or `mean`
        one that is not finite; on a call, if they do not broadcast to the shape of x, if the
        network's value is not shaped like x, or if `t` is batched or a static number outside
        [0, 1].

    Example:
      >>> import fmjax
      >>> import jax.numpy as jnp
      >>> path = fmjax.paths.linear()
      >>> field = fmjax.predictions.conditioned(lambda y, t: 0.0 * y, path, 2.0, mean=1.0)
      >>> [round(float(u), 4) for u in field(jnp.array([0.5, 3.5]), 0.5)]
      [1.0, 4.6]

    Reference:
      Karras et al. (2022), arXiv 2206.00364, eq. (7), for alpha = 1.
      [karras2022elucidating]
    """
    _checks.functions(network=network, path=path)
    _check_moments(std, mean)

    def velocity(x: Array, t: Array) -> Array:
        x, t = _checks.state(x), _checks.time(t)
        s, m = _checks.fitting(x, std=std, mean=mean)
        c = paths.coefficients(path, _checks.wide(t))
        variance = _variance(c, s)
        y = (x - c.alpha * m) / jnp.sqrt(variance)
        rest = _checks.at(network, t, "network")(y.astype(x.dtype))
        slope = (c.alpha_dot * c.alpha * s**2 + c.sigma_dot * c.sigma) / jnp.sqrt(variance)
        value = c.alpha_dot * m + slope * y + c.wronskian * s / jnp.sqrt(variance) * rest
        return value.astype(jnp.result_type(x, rest))

    return velocity


def residual_std(path: Path, std: Array | float, t: Array) -> Array:
    """Computes the standard deviation that the best linear prediction of the velocity leaves.

    It is `D s / sqrt(V)`, the factor of the network in `conditioned`. A loss of the velocity with
    the weight `1 / residual_std(...)**2` is the mean squared error of the network's own target, so
    that every time counts alike.

    Args:
      path: the path.
      std: the standard deviation of the data, positive: a number or an array.
      t: `[]`, in [0, 1].

    Returns:
      An array shaped like `std`, per unit of time, in float32 at least.

    Raises:
      ValueError: if `std` is a static number or array that is not positive and finite, or `t` is
        batched or a static number outside [0, 1].

    Example:
      >>> import fmjax
      >>> import jax.numpy as jnp
      >>> path, t = fmjax.paths.linear(), 0.5
      >>> scale = fmjax.predictions.residual_std(path, 2.0, t)
      >>> print(f"{scale:.4f}")
      1.7889
      >>> field = fmjax.predictions.conditioned(lambda y, t: 0.0 * y, path, 2.0)
      >>> loss = fmjax.losses.cfm(field, path, jnp.ones(3), jnp.ones(3), t, weight=scale**-2)
      >>> print(f"{loss:.4f}")  # the network has to predict -0.6708
      0.4500
    """
    _checks.path(path)
    _check_moments(std)
    c = paths.coefficients(path, _checks.wide(_checks.time(t)))
    s = _checks.wide(std, "std")
    return c.wronskian * s / jnp.sqrt(_variance(c, s))


def _variance(c: paths.Coefficients, s: Array) -> Array:
    return (c.alpha * s) ** 2 + c.sigma**2


def _check_moments(std: Array | float, mean: Array | float = 0.0) -> None:
    """Raises ValueError for moments, known before tracing, that no data have."""
    for name, value in {"std": std, "mean": mean}.items():
        value = _checks.floating(value, name)
        if isinstance(value, jax.core.Tracer):
            continue
        numbers, positive = np.asarray(value, float), name == "std"
        if not (np.isfinite(numbers) & ((numbers > 0) | (not positive))).all():
            wanted = "positive and finite" if positive else "finite"
            message = (
                f"{name} must be {wanted}, got numbers from {numbers.min()} to {numbers.max()}: "
                "give the data's own; an entry that is the same in all data needs a small std, "
                "such as 1e-3."
            )
            raise ValueError(message)
