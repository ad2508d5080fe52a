"""How certain a flow-matching model is: the law of the data given a noisy state.

Let `v(x, t) = E[d x_t / dt | x_t = x]` be the velocity of a path with Gaussian noise drawn
independently of the data, and J its Jacobian in x. With `D = alpha_dot sigma - alpha sigma_dot`
the first two moments of the posterior are closed forms of v and J:

    E[x1 | x_t = x]   = (sigma v - sigma_dot x) / D                                       (1)
    Cov[x1 | x_t = x] = sigma^2 / (alpha D) (sigma J - sigma_dot I)                       (2)
    U = tr Cov        = sigma^2 / (alpha D) (sigma div v - sigma_dot d)                   (3)

On the linear path (2) is `(1 - t)^2 / t (I + (1 - t) J)`. Nothing is retrained: any velocity
that was trained by conditional flow matching will do, and what comes out is the uncertainty of
the law that the model has learned. On that law `E |x1 - E[x1 | x_t]|^2 = E[U]` at every t,
which is the test to run on a trained model.

Why (2): differentiating (1) gives `grad m`, and by Bayes' rule `grad m = alpha / sigma^2 Cov`.

What to know before use
* At the noise end alpha -> 0 and (2) is 0 times infinity: a small error of the model's J is
  multiplied by `sigma^2 / alpha`. The exact limit is the covariance of the data. `gain` is

      P = alpha grad m = (alpha^2 / sigma^2) Cov = alpha / D (sigma J - sigma_dot I)      (4)

  which is finite wherever D is (everywhere but at t = 1 of vp) and ranks states and pixels at
  one t as the covariance does.
* The exact J is symmetric, a network's is not: `matvec`, `covariance` and `gain` take its
  symmetric part, which is the nearest symmetric matrix; diagonal and trace do not see the rest.
* A learned covariance may have negative eigenvalues; they are not clipped.
* A guided velocity (classifier-free guidance) and a coupling of noise and data (minibatch OT,
  reflow) break the identities: use the unguided field, trained on independent pairs.
* Run in float32 at the highest matrix precision; TF32 noise is multiplied as well.

References:
  Xing, Wang and Wang (2026), Divergence is Uncertainty: A Closed-Form Posterior Covariance for
  Flow Matching, arXiv 2605.00941.
  Manor and Michaeli (2024), On the Posterior Distribution in Denoising, arXiv 2309.13598.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from fmjax import _checks, divergence, paths, predictions
from fmjax.paths import Path
from fmjax.types import Array, Divergence, Velocity


def _slice(velocity: Velocity, t: Array) -> Callable[[Array], Array]:
    """Returns the field at one time, as a function of the state alone."""
    return lambda x: velocity(x, t)


def _vanishes(coefficient: Callable[[Array], Array], t: float) -> bool:
    """Returns whether a coefficient is zero at a static time; False if it is being traced."""
    with jax.ensure_compile_time_eval():
        value = coefficient(_checks.time(t))
    try:
        return float(value) == 0.0
    except jax.errors.ConcretizationTypeError:  # a path with a traced parameter
        return False


def _covariance_scale(path: Path, t: Array | float) -> Array:
    """Returns `sigma^2 / alpha^2`, the factor from the gain to the covariance."""
    if not isinstance(t, jax.Array) and np.ndim(t) == 0 and _vanishes(path.alpha, t):
        message = (
            f"the covariance is 0 times infinity at t = {t}, where the state says nothing about "
            "the data and the answer is the covariance of the data set; ask for t >= 0.05, or "
            "for posterior.gain, which is finite there."
        )
        raise ValueError(message)
    t = _checks.time(t)
    return (path.sigma(t) / path.alpha(t)) ** 2


def _gain_of(path: Path, jacobian: Array, identity: Array, t: Array) -> Array:
    """Returns (4) for a linear functional of J and the same functional of the identity."""
    c = paths.coefficients(path, t)
    return c.alpha / c.wronskian * (c.sigma * jacobian - c.sigma_dot * identity)


def mean(velocity: Velocity, path: Path, x: Array, t: Array) -> Array:
    """Returns the mean of the data given the state, eq. (1).

    Args:
      velocity: the field, `(x[*dims], t[]) -> [*dims]`.
      path: the path that it was trained on.
      x: `[*dims]`, the state.
      t: `[]`, in [0, 1]; every t at which D is finite and positive, so all but t = 1 of vp.

    Returns:
      `[*dims]`, the denoised state.

    Raises:
      ValueError: if `t` is batched or a static number outside [0, 1], or if the velocity is not
        shaped like `x`.

    Example:
      >>> gaussian = lambda x, t: (2 * t - 1) / (t**2 + (1 - t) ** 2) * x  # N(0, I) to N(0, I)
      >>> mean(gaussian, paths.linear(), jnp.array([1.0, -2.0]), 0.5).tolist()
      [1.0, -2.0]

    Reference:
      Xing et al. (2026), arXiv 2605.00941, section 4.1; Robbins (1956). [xing2026divergence]
    """
    t, x = _checks.time(t), _checks.floating(x)
    return predictions.convert(
        path, velocity(x, t), x, t, given=predictions.velocity, wanted=predictions.x1
    )


def matvec(velocity: Velocity, path: Path, x: Array, t: Array, vector: Array) -> Array:
    """Returns the posterior covariance (2) times a vector, without making the matrix.

    The Jacobian is symmetrised, so this is one tangent and one cotangent.

    Args:
      velocity: the field, `(x[*dims], t[]) -> [*dims]`.
      path: the path that it was trained on.
      x: `[*dims]`, the state.
      t: `[]`, in (0, 1]; see the module docstring for small t.
      vector: `[*dims]`.

    Returns:
      `[*dims]`.

    Raises:
      ValueError: if shapes differ, or if `t` is batched, or a static number outside (0, 1].

    Example:
      >>> gaussian = lambda x, t: (2 * t - 1) / (t**2 + (1 - t) ** 2) * x  # N(0, I) to N(0, I)
      >>> x, w = jnp.array([1.0, -2.0]), jnp.array([1.0, 0.0])
      >>> matvec(gaussian, paths.linear(), x, 0.5, w).tolist()
      [0.5, 0.0]

    Reference:
      Xing et al. (2026), arXiv 2605.00941, section 4.4. [xing2026divergence]
    """
    x, vector = _checks.floating(x), _checks.floating(vector)
    _checks.same_shape(x=x, vector=vector)
    scale = _covariance_scale(path, t)
    t = _checks.time(t)
    value, tangent_map = jax.linearize(_slice(velocity, t), x)
    _checks.same_shape(x=x, velocity=value)
    (cotangent,) = jax.linear_transpose(tangent_map, x)(vector)
    symmetric = 0.5 * (tangent_map(vector) + cotangent)
    return scale * _gain_of(path, symmetric, vector, t)


def gain(velocity: Velocity, path: Path, x: Array, t: Array) -> Array:
    """Returns `alpha grad m`, the covariance in units of `sigma^2 / alpha^2`, eq. (4).

    The share of a change of the state that the denoiser keeps, `t (I + (1 - t) J)` on the
    linear path: zero at the noise end, a projector onto the data's tangent space at the data
    end, and finite in between, where the covariance itself may be out of reach of a network.

    Args:
      velocity: the field, `(x[*dims], t[]) -> [*dims]`.
      path: the path that it was trained on.
      x: `[*dims]`, the state; d is its size.
      t: `[]`, in [0, 1].

    Returns:
      `[d, d]`, symmetrised.

    Raises:
      ValueError: if `t` is batched or a static number outside [0, 1], or if the velocity is not
        shaped like `x`.

    Example:
      >>> gaussian = lambda x, t: (2 * t - 1) / (t**2 + (1 - t) ** 2) * x  # N(0, I) to N(0, I)
      >>> gain(gaussian, paths.linear(), jnp.array([1.0, -2.0]), 0.5).tolist()
      [[0.5, 0.0], [0.0, 0.5]]

    Reference:
      The Wiener gain of the denoiser; Xing et al. (2026), arXiv 2605.00941, section 4.2.
      [xing2026divergence]
    """
    t, x = _checks.time(t), _checks.floating(x)

    def flat(z: Array) -> Array:
        value = velocity(z.reshape(x.shape), t)
        _checks.same_shape(x=x, velocity=value)
        return value.ravel()

    jacobian = jax.jacfwd(flat)(x.ravel())
    symmetric = 0.5 * (jacobian + jacobian.T)
    return _gain_of(path, symmetric, jnp.eye(x.size, dtype=jacobian.dtype), t)


def covariance(velocity: Velocity, path: Path, x: Array, t: Array) -> Array:
    """Returns the covariance of the data given the state, eq. (2).

    Args:
      velocity: the field, `(x[*dims], t[]) -> [*dims]`.
      path: the path that it was trained on.
      x: `[*dims]`, the state; d is its size.
      t: `[]`, in (0, 1]; see the module docstring for small t.

    Returns:
      `[d, d]`, symmetrised; in the squared unit of the data that the model was trained on.

    Raises:
      ValueError: if `t` is batched, or a static number outside (0, 1], or if the velocity is
        not shaped like `x`.

    Example:
      >>> gaussian = lambda x, t: (2 * t - 1) / (t**2 + (1 - t) ** 2) * x  # N(0, I) to N(0, I)
      >>> covariance(gaussian, paths.linear(), jnp.array([1.0, -2.0]), 0.5).tolist()
      [[0.5, 0.0], [0.0, 0.5]]

    Reference:
      Xing et al. (2026), arXiv 2605.00941, section 4.3. [xing2026divergence]
    """
    return _covariance_scale(path, t) * gain(velocity, path, x, t)


def diagonal(velocity: Velocity, path: Path, x: Array, t: Array, *, chunk_size: int = 16) -> Array:
    """Returns the variance of every entry of the data given the state, exactly.

    The diagonal of (2) by one tangent per entry, in memory set by `chunk_size`; its square root
    is a per-pixel map in the unit of the data.

    Args:
      velocity: the field, `(x[*dims], t[]) -> [*dims]`.
      path: the path that it was trained on.
      x: `[*dims]`, the state.
      t: `[]`, in (0, 1]; see the module docstring for small t.
      chunk_size: tangents in flight.

    Returns:
      `[*dims]`; a learned field may make entries negative.

    Raises:
      ValueError: if `t` is batched, or a static number outside (0, 1], if the velocity is not
        shaped like `x`, or if `chunk_size` is not positive.

    Example:
      >>> gaussian = lambda x, t: (2 * t - 1) / (t**2 + (1 - t) ** 2) * x  # N(0, I) to N(0, I)
      >>> diagonal(gaussian, paths.linear(), jnp.array([1.0, -2.0]), 0.5).tolist()
      [0.5, 0.5]

    Reference:
      Xing et al. (2026), arXiv 2605.00941, section 4.4. [xing2026divergence]
    """
    scale = _covariance_scale(path, t)
    t, x = _checks.time(t), _checks.floating(x)
    _, entries = divergence.diagonal(_slice(velocity, t), x, chunk_size=chunk_size)
    return scale * _gain_of(path, entries, jnp.ones_like(entries), t)


def trace(
    velocity: Velocity,
    path: Path,
    x: Array,
    t: Array,
    *,
    divergence: Divergence = divergence.exact,
) -> Array:
    """Returns the scalar uncertainty U, the trace of the posterior covariance, eq. (3).

    Args:
      velocity: the field, `(x[*dims], t[]) -> [*dims]`.
      path: the path that it was trained on.
      x: `[*dims]`, the state.
      t: `[]`, in (0, 1]; see the module docstring for small t.
      divergence: any estimator of `fmjax.divergence`; an unbiased one makes U unbiased.

    Returns:
      `[]`, the expected squared error of `mean`, summed over entries.

    Raises:
      ValueError: if `t` is batched, or a static number outside (0, 1], or if the velocity is
        not shaped like `x`.

    Example:
      >>> gaussian = lambda x, t: (2 * t - 1) / (t**2 + (1 - t) ** 2) * x  # N(0, I) to N(0, I)
      >>> float(trace(gaussian, paths.linear(), jnp.array([1.0, -2.0]), 0.5))
      1.0

    Reference:
      Xing et al. (2026), arXiv 2605.00941, section 4.3. [xing2026divergence]
    """
    scale = _covariance_scale(path, t)
    t, x = _checks.time(t), _checks.floating(x)
    _, div = divergence(_slice(velocity, t), x)
    return scale * _gain_of(path, div, jnp.full_like(div, x.size), t)
