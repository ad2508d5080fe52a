"""What a network may predict along a path, and how one prediction becomes another.

Every kind of prediction is linear in the pair of a path, `a(t) x1 + b(t) x0`, so a kind is
nothing but its row `(a, b)`:

    velocity   (alpha_dot, sigma_dot)        d x_t / dt
    x1         (1, 0)                        the data ("denoiser", "x-prediction")
    x0         (0, 1)                        the noise ("epsilon-prediction")
    score      (0, -1 / sigma)               grad log p_t(x_t | x1)
    v          (-sigma, alpha)               Salimans and Ho's v

A prediction together with the state `x = alpha x1 + sigma x0` is a 2 x 2 system for the pair

    [ a     b     ] [x1]   [value]
    [ alpha sigma ] [x0] = [x    ]                                                (1)

so a single `convert` serves all pairs of kinds. It is affine in `value`, hence it holds for
conditional means too: from the exact velocity `E[dx_t/dt | x_t]` it makes the exact denoiser
`E[x1 | x_t]`, the exact score `grad log p_t(x_t)`, and so on. The system is singular where
the kind says nothing new beside x: x1 at sigma = 0, x0 and score at alpha = 0, velocity where
`alpha_dot sigma = alpha sigma_dot` or a derivative is infinite (vp at t = 1); v never is.

A kind of your own is a function `(path, t) -> (a, b)`. `as_velocity` makes a velocity of a model of
any kind, `reverse_time` of one whose t = 0 is the data.

References:
  Salimans and Ho (2022), Progressive Distillation, arXiv 2202.00512, appendix D (v).
  Lipman et al. (2023), Flow Matching for Generative Modeling, arXiv 2210.02747.
"""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp

from fmjax import _checks, paths
from fmjax.paths import Path
from fmjax.types import Array, Velocity

Prediction = Callable[[Path, Array], tuple[Array, Array]]
"""`(path, t) -> (a, b)`: the kind predicts `a x1 + b x0`."""


def velocity(path: Path, t: Array) -> tuple[Array, Array]:
    """Returns the row of the velocity, `(alpha_dot, sigma_dot)`.

    Args:
      path: the path.
      t: `[]`, in [0, 1].

    Returns:
      Two scalars `(a, b)`.

    Example:
      >>> [float(c) for c in velocity(paths.linear(), 0.3)]
      [1.0, -1.0]

    Reference:
      Lipman et al. (2023), arXiv 2210.02747, eq. (15). [lipman2023flow]
    """
    c = paths.coefficients(path, t)
    return c.alpha_dot, c.sigma_dot


def x1(path: Path, t: Array) -> tuple[Array, Array]:  # noqa: ARG001
    """Returns the row of the data, `(1, 0)`; no conversion from it where sigma = 0.

    Args:
      path: the path.
      t: `[]`, in [0, 1].

    Returns:
      Two scalars `(a, b)`.

    Example:
      >>> [float(c) for c in x1(paths.linear(), 0.3)]
      [1.0, 0.0]

    Reference:
      Lipman et al. (2023), arXiv 2210.02747; the module's table. [lipman2023flow]
    """
    t = _checks.time(t)
    return jnp.ones_like(t), jnp.zeros_like(t)


def x0(path: Path, t: Array) -> tuple[Array, Array]:  # noqa: ARG001
    """Returns the row of the noise, `(0, 1)`; no conversion from it where alpha = 0.

    Args:
      path: the path.
      t: `[]`, in [0, 1].

    Returns:
      Two scalars `(a, b)`.

    Example:
      >>> [float(c) for c in x0(paths.linear(), 0.3)]
      [0.0, 1.0]

    Reference:
      Lipman et al. (2023), arXiv 2210.02747; the module's table. [lipman2023flow]
    """
    t = _checks.time(t)
    return jnp.zeros_like(t), jnp.ones_like(t)


def score(path: Path, t: Array) -> tuple[Array, Array]:
    """Returns the row of the score, `(0, -1 / sigma)`; infinite where sigma = 0.

    On a drawn pair this is the conditional score `grad log p_t(x_t | x1) = -x0 / sigma`, whose
    conditional mean is the score of the marginal.

    Args:
      path: the path.
      t: `[]`, in [0, 1].

    Returns:
      Two scalars `(a, b)`; no conversion from it where alpha = 0.

    Example:
      >>> [float(c) for c in score(paths.linear(), 0.5)]
      [0.0, -2.0]

    Reference:
      Song et al. (2021), arXiv 2011.13456, eq. (7). [song2021score]
    """
    t = _checks.time(t)
    return jnp.zeros_like(t), -1.0 / path.sigma(t)


def v(path: Path, t: Array) -> tuple[Array, Array]:
    """Returns the row of Salimans and Ho's v, `(-sigma, alpha)`.

    Args:
      path: the path.
      t: `[]`, in [0, 1].

    Returns:
      Two scalars `(a, b)`.

    Example:
      >>> [float(c) for c in v(paths.linear(), 0.25)]
      [-0.75, 0.25]

    Reference:
      Salimans and Ho (2022), arXiv 2202.00512, appendix D. [salimans2022progressive]
    """
    t = _checks.time(t)
    return -path.sigma(t), path.alpha(t)


def target(kind: Prediction, path: Path, x0: Array, x1: Array, t: Array) -> Array:
    """Returns what a network of this kind should predict for one drawn pair.

    Args:
      kind: `velocity`, `x1`, `x0`, `score`, `v`, or a row of your own.
      path: the path.
      x0: `[*dims]`, noise.
      x1: `[*dims]`, data.
      t: `[]`, in [0, 1].

    Returns:
      `[*dims]`, `a x1 + b x0`.

    Raises:
      ValueError: if the shapes differ, or `t` is batched or a static number outside [0, 1].

    Example:
      >>> noise, data = jnp.array([1.0, 2.0]), jnp.array([3.0, 5.0])
      >>> target(velocity, paths.linear(), noise, data, 0.4).tolist()
      [2.0, 3.0]

    Reference:
      Lipman et al. (2023), arXiv 2210.02747, eq. (14). [lipman2023flow]
    """
    _checks.same_shape(x0=x0, x1=x1)
    a, b = kind(path, _checks.time(t))
    return a * x1 + b * x0


def convert(
    path: Path, value: Array, x: Array, t: Array, *, given: Prediction, wanted: Prediction
) -> Array:
    """Returns one kind of prediction made from another, by solving (1).

    Args:
      path: the path.
      value: `[*dims]`, the prediction at hand, of kind `given`.
      x: `[*dims]`, the state it was made for.
      t: `[]`, in [0, 1]; where `given` is singular (module docstring) the result is not finite.
      given: the kind of `value`.
      wanted: the kind to return.

    Returns:
      `[*dims]`, the prediction of kind `wanted`.

    Raises:
      ValueError: if the shapes differ, or `t` is batched or a static number outside [0, 1].

    Example:
      >>> x, denoised = jnp.array([1.0, -1.0]), jnp.array([2.0, 0.0])
      >>> convert(paths.linear(), denoised, x, 0.5, given=x1, wanted=velocity).tolist()
      [2.0, 2.0]

    Reference:
      The 2 x 2 system (1) of the module; pairs as in Lipman et al. (2023), arXiv 2210.02747,
      and Salimans and Ho (2022), arXiv 2202.00512. [lipman2023flow; salimans2022progressive]
    """
    _checks.same_shape(value=value, x=x)
    t = _checks.time(t)
    a, b = given(path, t)
    c, d = wanted(path, t)
    alpha, sigma = path.alpha(t), path.sigma(t)
    # wanted = p * value + q * x, matched on x1 and on x0.
    determinant = a * sigma - b * alpha
    p = (c * sigma - d * alpha) / determinant
    q = (a * d - b * c) / determinant
    return p * value + q * x


def as_velocity(
    model: Callable[[Array, Array], Array], path: Path, *, given: Prediction
) -> Velocity:
    """Returns the velocity of a model that predicts something else.

    Args:
      model: `(x[*dims], t[]) -> [*dims]`, predicts `given` at the state x and our time t.
      path: the path that it was trained on.
      given: the kind of its prediction, a row of this module or your own.

    Returns:
      `(x[*dims], t[]) -> [*dims]`; not finite where `given` is singular (module docstring): begin
      to solve at t0 = 1e-3 for the noise and the score, stop at t1 = 1 - 1e-3 for the data.

    Example:
      >>> denoiser = lambda x, t: 0.5 * x
      >>> field = as_velocity(denoiser, paths.linear(), given=x1)
      >>> field(jnp.array([1.0, -2.0]), 0.5).tolist()
      [-1.0, 2.0]

    Reference:
      The 2 x 2 system (1) of the module. [salimans2022progressive]
    """
    return lambda x, t: convert(path, model(x, t), x, t, given=given, wanted=velocity)


def reverse_time(
    model: Callable[[Array, Array], Array], path: Path, *, given: Prediction = velocity
) -> Velocity:
    """Returns the velocity, in our time, of a model whose time runs from data at 0 to noise at 1.

    As MeanFlow, SiT, Stable Diffusion 3 and diffusion models count. What the model predicts is
    read in its own time s = 1 - t: its velocity is dx/ds, so the sign turns; its x1, x0, score
    and v do not.

    Args:
      model: `(x[*dims], s[]) -> [*dims]`, s = 0 at the data.
      path: its path in our time, so `linear()` for `(1 - s) x1 + s x0`.
      given: the kind of its prediction, a row of this module or your own.

    Returns:
      `(x[*dims], t[]) -> [*dims]`, t = 0 at the noise; singular where `as_velocity` is.

    Example:
      >>> theirs = lambda x, s: -3.0 * x * s
      >>> reverse_time(theirs, paths.linear())(jnp.array([2.0]), 0.75).tolist()
      [1.5]

    Reference:
      Geng et al. (2025), arXiv 2505.13447, for the convention. [geng2025mean]
    """
    theirs = Path(alpha=lambda s: path.alpha(1.0 - s), sigma=lambda s: path.sigma(1.0 - s))

    def field(x: Array, t: Array) -> Array:
        t = _checks.time(t)
        row = lambda path, t: given(theirs, 1.0 - t)  # noqa: ARG005, E731
        return convert(path, model(x, 1.0 - t), x, t, given=row, wanted=velocity)

    return field
