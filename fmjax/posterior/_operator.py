"""The posterior covariance as the Jacobian of one field.

For noise `x0 ~ N(0, Gamma)` and a prediction of kind `a x1 + b x0`, given x_t both are affine in
x1, so that `Cov[a x1 + b x0 | x_t = x]` is the Jacobian at `z = x` of

    F(z) = (a sigma - b alpha)^2 / alpha  m(x + Gamma (z - x))                            (1)

with `m = E[x1 | x_t] = (sigma v - sigma_dot x) / D`, whose own Jacobian is
`alpha / sigma^2 Cov[x1 | x_t] Gamma^-1`: Gamma multiplies from the right, so it is applied to the
tangents. So every tool for Jacobians (products, diagonals, divergences and their estimators,
Lanczos) gives the covariance. `a = 1, b = 0` is the data: `F = sigma^2 / alpha m` for white noise.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from fmjax import _checks, _jacobian, predictions
from fmjax.paths import Path
from fmjax.predictions import Prediction
from fmjax.types import Array, Velocity

__all__ = ["Linear", "check_dense", "dense", "field", "symmetric", "white"]

Linear = Callable[[Array], Array]
"""`w[*dims] -> [*dims]`, linear."""


def white(vector: Array) -> Array:
    """Returns the vector: the covariance of white noise is the identity."""
    return vector


def field(
    velocity: Velocity, path: Path, x: Array, t: Array | float, of: Prediction, noise: Linear
) -> Linear:
    """Returns F of eq. (1) for one state and time, to be differentiated at that state."""
    scale = _scale(path, t, of)
    t = _checks.time(t)

    def scaled_mean(z: Array) -> Array:
        step = noise(z - x)
        _checks.returned(x, noise=step)
        state = x + step
        value = velocity(state.astype(x.dtype), t)
        _checks.returned(state, velocity=value)
        mean = predictions.convert(
            path, value, state, t, given=predictions.velocity, wanted=predictions.x1
        )
        return scale * mean

    return scaled_mean


def symmetric(function: Linear, x: Array) -> Linear:
    """Returns products with the symmetric part of a field's Jacobian, from one linearization."""
    x = _checks.wide(x)  # of the vectors; the field of eq. (1) sees a state in its own dtype
    _, tangent_map = jax.linearize(function, x)
    return _jacobian.symmetric(tangent_map, x)


def dense(function: Linear, x: Array) -> Array:
    """Returns the symmetric part of a field's Jacobian as a `[d, d]` matrix, or refuses."""
    check_dense(x)
    flat = lambda z: function(z.reshape(x.shape)).ravel()  # noqa: E731
    jacobian = jax.jacfwd(flat)(x.ravel())
    return 0.5 * (jacobian + jacobian.T)


def check_dense(x: Array) -> None:
    """Raises ValueError if a `[d, d]` matrix of the state's size would be too large."""
    instead = "posterior.matvec, diagonal, estimate and principal_components need no matrix"
    _checks.dense(x, instead)


def _scale(path: Path, t: Array | float, of: Prediction) -> Array:
    """Returns `(a sigma - b alpha)^2 / alpha`, or refuses a static time at which it is infinite."""
    static = not isinstance(t, jax.Array) and np.ndim(t) == 0
    informed = static and _vanishes(lambda t: of(path, t)[0], t)  # no share of the data
    if static and _vanishes(path.alpha, t) and not informed:
        message = (
            f"the covariance is 0 times infinity at t = {t}, where the state says nothing about "
            "the data and the answer is the prior, the covariance of the data set; ask for "
            "t >= 0.05, bind that limit with posterior.near_noise, or take posterior.gain or "
            "of=predictions.x0, which are finite there."
        )
        raise ValueError(message)
    t = _checks.time(t)
    a, b = of(path, t)
    alpha, sigma = path.alpha(t), path.sigma(t)
    # Written out, so that b^2 alpha is all that is left where a = 0, at alpha = 0 too.
    shared = a * sigma / jnp.where(a == 0, 1, alpha)
    return a * sigma * shared - 2 * a * b * sigma + b**2 * alpha


def _vanishes(coefficient: Callable[[Array], Array], t: float) -> bool:
    """Returns whether a coefficient is zero at a static time; False if it is being traced."""
    with jax.ensure_compile_time_eval():
        value = coefficient(_checks.time(t))
    try:
        return float(value) == 0.0
    except jax.errors.ConcretizationTypeError:  # a path with a traced parameter
        return False
