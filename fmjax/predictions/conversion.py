"""Conversion between predictions, eq. (1) of `fmjax.predictions`, and models as velocities.

References:
  Salimans and Ho (2022), Progressive Distillation, arXiv 2202.00512, appendix D (v).
  Lipman et al. (2023), Flow Matching for Generative Modeling, arXiv 2210.02747.
"""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp

from fmjax import _checks
from fmjax.paths import Path
from fmjax.predictions.rows import Prediction, velocity
from fmjax.types import Array, Velocity

__all__ = ["as_velocity", "convert", "from_timesteps", "reverse_time", "target"]


def target(kind: Prediction, path: Path, x0: Array, x1: Array, t: Array) -> Array:
    """Computes the regression target of a network of this kind for one pair.

    Args:
      kind: `velocity`, `x1`, `x0`, `score`, `v`, or your own row.
      path: the path.
      x0: `[*dims]`, noise.
      x1: `[*dims]`, data.
      t: `[]`, in [0, 1].

    Returns:
      `[*dims]`, `a x1 + b x0`.

    Raises:
      ValueError: if the shapes differ, or `t` is batched or a static number outside [0, 1].

    Example:
      >>> import fmjax
      >>> import jax.numpy as jnp
      >>> kind, path = fmjax.predictions.velocity, fmjax.paths.linear()
      >>> noise, data = jnp.array([1.0, 2.0]), jnp.array([3.0, 5.0])
      >>> fmjax.predictions.target(kind, path, noise, data, 0.4).tolist()
      [2.0, 3.0]

    Reference:
      Lipman et al. (2023), arXiv 2210.02747, eq. (14). [lipman2023flow]
    """
    _checks.functions(kind=kind, path=path)
    x0, x1 = _checks.state(x0, "x0"), _checks.state(x1, "x1")
    _checks.same_shape(x0=x0, x1=x1)
    a, b = kind(path, _checks.time(t))
    return a * x1 + b * x0


def convert(
    path: Path, value: Array, x: Array, t: Array, *, given: Prediction, wanted: Prediction
) -> Array:
    """Converts a prediction from one kind to another, by solving (1).

    Args:
      path: the path.
      value: `[*dims]`, the prediction to convert, of kind `given`.
      x: `[*dims]`, the state at which the network predicted `value`.
      t: `[]`, in [0, 1]. The result is not finite where `given` is singular (see
        `fmjax.predictions`).
      given: the kind of `value`.
      wanted: the kind to return.

    Returns:
      `[*dims]`, the prediction of kind `wanted`.

    Raises:
      ValueError: if the shapes differ, or `t` is batched or a static number outside [0, 1].

    Example:
      >>> import fmjax
      >>> import jax.numpy as jnp
      >>> path, x, denoised = fmjax.paths.linear(), jnp.array([1.0, -1.0]), jnp.array([2.0, 0.0])
      >>> kinds = {"given": fmjax.predictions.x1, "wanted": fmjax.predictions.velocity}
      >>> fmjax.predictions.convert(path, denoised, x, 0.5, **kinds).tolist()
      [2.0, 2.0]

    Reference:
      Lipman et al. (2023); Salimans and Ho (2022). [lipman2023flow; salimans2022progressive]
    """
    _checks.functions(path=path, given=given, wanted=wanted)
    value, x = _checks.floating(value, "value"), _checks.state(x)
    _checks.same_shape(value=value, x=x)
    p, q = _shares(path, _checks.time(t), given, wanted)
    return p * value + q * x


def as_velocity(
    model: Callable[[Array, Array], Array],
    path: Path,
    *,
    given: Prediction,
    margin: float = 1e-3,
) -> Velocity:
    """Turns a model that predicts another quantity into a velocity.

    Args:
      model: `(x[*dims], t[]) -> [*dims]`, predicts `given` at the state x and time t, where t = 0
        is noise.
      path: the path that the model was trained on.
      given: the kind of the model's prediction, a row of this module or your own.
      margin: at an end of the path where `given` is singular (the noise and the score at t = 0,
        the data at t = 1) the velocity of the same state at this distance from the end stands for
        the limit, which asks for 0 / 0. In (0, 1/2); elsewhere it changes nothing.

    Returns:
      `(x[*dims], t[]) -> [*dims]`, finite from t = 0 to t = 1.

    Raises:
      ValueError: if `margin` is outside (0, 1/2); on a call, if the model's value is not shaped
        like `x`, or `t` is batched or a static number outside [0, 1].

    Example:
      >>> import fmjax
      >>> import jax.numpy as jnp
      >>> denoiser, path = lambda x, t: 0.5 * x, fmjax.paths.linear()
      >>> field = fmjax.predictions.as_velocity(denoiser, path, given=fmjax.predictions.x1)
      >>> field(jnp.array([1.0, -2.0]), 0.5).tolist()
      [-1.0, 2.0]
    """
    _checks.functions(model=model, path=path, given=given)
    if not 0 < margin < 0.5:
        message = (
            f"margin must lie between 0 and 1/2, got {margin}: it is the distance in time from an "
            "end of the path at which the prediction is singular."
        )
        raise ValueError(message)

    def field(x: Array, t: Array) -> Array:
        x, t = _checks.state(x), _inside(path, _checks.wide(_checks.time(t)), given, margin)
        value = _checks.at(model, t, "model")(x)
        return convert(path, value, x, t, given=given, wanted=velocity)

    return field


def reverse_time(
    model: Callable[[Array, Array], Array],
    path: Path,
    *,
    given: Prediction = velocity,
    margin: float = 1e-3,
) -> Velocity:
    """Turns a model whose time runs from data at 0 to noise at 1 into a velocity of fmjax.

    MeanFlow, SiT, Stable Diffusion 3 and diffusion models use this time s = 1 - t. A velocity
    dx/ds changes its sign; predictions of x1, x0, the score and v keep theirs.

    Args:
      model: `(x[*dims], s[]) -> [*dims]`, s = 0 at the data.
      path: the model's path in the time t of fmjax: `linear()` for `(1 - s) x1 + s x0`.
      given: the kind of the model's prediction, a row of this module or your own.
      margin: as in `as_velocity`, from an end of the path where `given` is singular.

    Returns:
      `(x[*dims], t[]) -> [*dims]`, t = 0 at the noise.

    Raises:
      ValueError: if `margin` is outside (0, 1/2); on a call, if the model's value is not shaped
        like `x`, or `t` is batched or a static number outside [0, 1].

    Example:
      >>> import fmjax
      >>> import jax.numpy as jnp
      >>> theirs = lambda x, s: -3.0 * x * s
      >>> field = fmjax.predictions.reverse_time(theirs, fmjax.paths.linear())
      >>> field(jnp.array([2.0]), 0.75).tolist()
      [1.5]

    Reference:
      Geng et al. (2025), arXiv 2505.13447, for the convention. [geng2025mean]
    """
    _checks.functions(model=model, path=path, given=given)
    if given is velocity:
        ours = lambda x, t: -_checks.at(model, 1.0 - t, "model")(x)  # noqa: E731
        return as_velocity(ours, path, given=velocity, margin=margin)
    theirs = Path(alpha=lambda s: path.alpha(1.0 - s), sigma=lambda s: path.sigma(1.0 - s))
    row = lambda path, t: given(theirs, 1.0 - t)  # noqa: ARG005, E731
    return as_velocity(lambda x, t: model(x, 1.0 - t), path, given=row, margin=margin)


def from_timesteps(
    model: Callable[[Array, Array], Array],
    path: Path,
    num_timesteps: int,
    *,
    given: Prediction,
    margin: float = 1e-3,
) -> Velocity:
    """Turns a diffusion model with numbered timesteps into a velocity of fmjax.

    Timestep 0 has the least noise and timestep N - 1 the most, as in the models whose path is
    `paths.from_betas`; timestep i is the time `1 - (i + 1) / N`. Between two timesteps the model is
    given a fraction, which an embedding by sines accepts. If your model takes integers only, round
    in a wrapper (`jnp.round(i).astype(int)`) and ask for times of timesteps alone. Nearer to the
    data than timestep 0, where no model was trained, timestep 0 is asked.

    Args:
      model: `(x[*dims], i[]) -> [*dims]`, i a float from 0 to N - 1.
      path: the path that the model was trained on, `paths.from_betas(betas)`.
      num_timesteps: N, at least 2.
      given: the kind of the model's prediction, most often the noise, `x0`, or `v`.
      margin: as in `as_velocity`, from an end of the path where `given` is singular.

    Returns:
      `(x[*dims], t[]) -> [*dims]`, t = 0 at the noise.

    Raises:
      ValueError: if `num_timesteps` is no integer of at least 2, or `margin` is outside (0, 1/2);
        on a call, if the model's value is not shaped like `x`, or `t` is batched or a static
        number outside [0, 1].

    Example:
      >>> import fmjax
      >>> import jax.numpy as jnp
      >>> import numpy as np
      >>> path = fmjax.paths.from_betas(np.linspace(1e-4, 0.02, 1000))
      >>> theirs = lambda x, i: x * i / 1000
      >>> kind = fmjax.predictions.x0
      >>> field = fmjax.predictions.from_timesteps(theirs, path, 1000, given=kind)
      >>> [round(value, 3) for value in field(jnp.array([1.0, -2.0]), 0.5).tolist()]
      [2.425, -4.85]

    Reference:
      Ho et al. (2020), arXiv 2006.11239, for the convention. [ho2020denoising]
    """
    _checks.functions(model=model, path=path, given=given)
    _checks.count("as betas has rates", at_least=2, num_timesteps=num_timesteps)

    def ours(x: Array, t: Array) -> Array:
        return model(x, jnp.maximum(num_timesteps * (1.0 - t) - 1.0, 0.0))

    return as_velocity(ours, path, given=given, margin=margin)


def _shares(path: Path, t: Array, given: Prediction, wanted: Prediction) -> tuple[Array, Array]:
    """Solves (1) for p and q in `wanted = p given + q x`."""
    if given is wanted:  # where the row is infinite, too
        return jnp.ones_like(t), jnp.zeros_like(t)
    a, b = given(path, t)
    c, d = wanted(path, t)
    alpha, sigma = path.alpha(t), path.sigma(t)
    determinant = a * sigma - b * alpha
    return (c * sigma - d * alpha) / determinant, (a * d - b * c) / determinant


_SINGULAR = 1e6
"""A share of (1) as large as this comes from a sigma or alpha that is zero but for rounding."""


def _inside(path: Path, t: Array, given: Prediction, margin: float) -> Array:
    """Keeps t away from the ends of the path at which the velocity is singular in `given`."""

    def singular(end: Array) -> Array:
        found = jnp.stack(_shares(path, end, given, velocity))
        return ~jnp.all(jnp.abs(found) < _SINGULAR)  # a NaN is not below it

    near_noise = (t < margin) & singular(jnp.zeros_like(t))
    near_data = (t > 1 - margin) & singular(jnp.ones_like(t))
    # Not by `clip`, which halves the derivative in t at the ends.
    return jnp.where(near_noise, margin, jnp.where(near_data, 1 - margin, t))
