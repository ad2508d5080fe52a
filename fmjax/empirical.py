"""The exact law of a finite data set along a Gaussian path: the closed form of flow matching.

Let the data be n points `b_i` with equal weight, the bank. Along `x_t = alpha x1 + sigma x0`
everything is a softmax over the bank:

    w_i(x)   = softmax_i( q_i / sigma^2 ),  q_i = alpha <x, b_i> - alpha^2 |b_i|^2 / 2    (1)
    m(x)     = E[x1 | x_t = x] = sum_i w_i b_i                                            (2)
    C(x)     = Cov[x1 | x_t = x] = sum_i w_i (b_i - m)(b_i - m)^T                         (3)
    u(x)     = alpha_dot m + sigma_dot (x - alpha m) / sigma                              (4)
    grad u   = (sigma_dot / sigma) I + (D alpha / sigma^3) C                              (5)
    div u    = d sigma_dot / sigma + (D alpha / sigma^3) tr C                             (6)
    log p(x) = log sum_i N(x; alpha b_i, sigma^2 I) - log n                               (7)

with `D = alpha_dot sigma - alpha sigma_dot`. This is the field that conditional flow matching
regresses on, so it is the ground truth for a network trained on the bank: for its velocity,
its divergence and its posterior covariance. All of it is singular where sigma = 0.

`chunk_size` streams the bank: the result is the same, the memory is that of one chunk.

Products run at the highest matrix precision, since this is the reference for everything else.
Still, the logits (1) come from inner products: in float32 they cannot tell points of the bank
whose relative distance is below about 1e-3 from each other as t -> 1. Where the pair (x0, x1)
that made x_t is known, as in training, `anchored_velocity` has no such cancellation.

References:
  Bertrand, Gagneux, Massias and Emonet (2025), On the Closed-Form of Flow Matching:
  Generalization Does Not Arise from Target Stochasticity, arXiv 2506.03719.
"""

import jax.numpy as jnp

from fmjax import _bank, _checks, paths, predictions
from fmjax.paths import Path
from fmjax.types import Array


def weights(path: Path, bank: Array, x: Array, t: Array) -> Array:
    """Returns the posterior probability of every point of the bank, eq. (1).

    Args:
      path: the path.
      bank: `[n, *dims]`, the data set.
      x: `[*dims]`, the state.
      t: `[]`, in [0, 1], with `sigma(t) > 0`.

    Returns:
      `[n]`, non-negative, summing to one.

    Raises:
      ValueError: if the bank is empty or its points are not shaped like `x`, or if `t` is
        batched or a static number outside [0, 1].

    Example:
      >>> bank = jnp.array([[-1.0], [1.0]])
      >>> weights(paths.linear(), bank, jnp.array([0.0]), 0.5).tolist()
      [0.5, 0.5]

    Reference:
      Bertrand et al. (2025), arXiv 2506.03719, eq. (6). [bertrand2025closed]
    """
    _checks.bank(bank, x)
    t = _checks.time(t)
    _, masses = _bank.masses(path, bank, x, t)
    return masses / masses.sum()


def mean(path: Path, bank: Array, x: Array, t: Array, *, chunk_size: int | None = None) -> Array:
    """Returns the mean of the data given the state, the optimal denoiser, eq. (2).

    Args:
      path: the path.
      bank: `[n, *dims]`, the data set.
      x: `[*dims]`, the state.
      t: `[]`, in [0, 1], with `sigma(t) > 0`.
      chunk_size: points of the bank in memory at a time; None takes the bank whole.

    Returns:
      `[*dims]`, in the convex hull of the bank.

    Raises:
      ValueError: if the bank is empty or its points are not shaped like `x`, if `chunk_size` is
        not positive, or if `t` is batched or a static number outside [0, 1].

    Example:
      >>> bank = jnp.array([[-1.0], [1.0]])
      >>> round(float(mean(paths.linear(), bank, jnp.array([0.25]), 0.5)[0]), 4)
      0.4621

    Reference:
      Bertrand et al. (2025), arXiv 2506.03719, eq. (6). [bertrand2025closed]
    """
    return _bank.summarise(path, bank, x, t, chunk_size).mean


def velocity(
    path: Path, bank: Array, x: Array, t: Array, *, chunk_size: int | None = None
) -> Array:
    """Returns the exact marginal velocity of the bank, eq. (4).

    Args:
      path: the path.
      bank: `[n, *dims]`, the data set.
      x: `[*dims]`, the state.
      t: `[]`, in [0, 1], with `sigma(t) > 0`.
      chunk_size: points of the bank in memory at a time; None takes the bank whole.

    Returns:
      `[*dims]`, the minimiser of the conditional flow matching loss on the bank.

    Raises:
      ValueError: if the bank is empty or its points are not shaped like `x`, if `chunk_size` is
        not positive, or if `t` is batched or a static number outside [0, 1].

    Example:
      >>> bank = jnp.array([[-1.0], [1.0]])
      >>> round(float(velocity(paths.linear(), bank, jnp.array([0.25]), 0.5)[0]), 4)
      0.4242

    Reference:
      Bertrand et al. (2025), arXiv 2506.03719, eq. (6). [bertrand2025closed]
    """
    t = _checks.time(t)
    m = mean(path, bank, x, t, chunk_size=chunk_size)
    return predictions.convert(path, m, x, t, given=predictions.x1, wanted=predictions.velocity)


def anchored_velocity(path: Path, bank: Array, x0: Array, x1: Array, t: Array) -> Array:
    """Returns the exact velocity at the state made from a known pair, accurate as t -> 1.

    With `x = alpha x1 + sigma x0` and x1 in the bank, the logits relative to that of x1 are

        -rho^2 |x1 - b_j|^2 / 2 - rho <x0, x1 - b_j>,    rho = alpha / sigma,

    in which nothing large cancels as t -> 1: in float32 the error stays below 1e-5 |x1 - x0| at
    every t up to 0.99999, and below 1e-6 of the velocity itself for images; the form (4) has lost
    half its digits there.

    Args:
      path: the path.
      bank: `[n, *dims]`, the data set or a minibatch of it. It must contain x1: a bank without
        it gives the law of another data set, and a biased target.
      x0: `[*dims]`, noise.
      x1: `[*dims]`, data, one of the points of the bank.
      t: `[]`, in [0, 1], with `sigma(t) > 0`.

    Returns:
      `[*dims]`, the velocity (4) at `alpha x1 + sigma x0`.

    Raises:
      ValueError: if the bank is empty or shapes differ, if `t` is batched or a static number
        outside [0, 1], or if sigma is not positive at a static t.

    Example:
      >>> bank = jnp.array([[-1.0], [1.0]])
      >>> noise = jnp.array([-0.5])
      >>> round(float(anchored_velocity(paths.linear(), bank, noise, bank[1], 0.5)[0]), 4)
      0.4242

    Reference:
      Bertrand et al. (2025), arXiv 2506.03719, eq. (8) of appendix B.1, where the bank is a
      minibatch; the anchored form is this library's. [bertrand2025closed]
    """
    weights, gaps, c = _bank.anchored(path, bank, x0, x1, t)
    pull = _bank.average(weights, gaps)
    return c.alpha_dot * x1 + c.sigma_dot * x0 + c.wronskian / c.sigma * pull


def covariance(path: Path, bank: Array, x: Array, t: Array) -> Array:
    """Returns the covariance of the data given the state, eq. (3).

    Args:
      path: the path.
      bank: `[n, *dims]`, the data set.
      x: `[*dims]`, the state; d is its size.
      t: `[]`, in [0, 1], with `sigma(t) > 0`.

    Returns:
      `[d, d]`, symmetric and positive semidefinite, of rank below n.

    Raises:
      ValueError: if the bank is empty or its points are not shaped like `x`, or if `t` is
        batched or a static number outside [0, 1].

    Example:
      >>> bank = jnp.array([[-1.0], [1.0]])
      >>> round(float(covariance(paths.linear(), bank, jnp.array([0.25]), 0.5)[0, 0]), 4)
      0.7864

    Reference:
      The law of x1 given x_t on a finite set; Bertrand et al. (2025), arXiv 2506.03719,
      section 2. [bertrand2025closed]
    """
    w = weights(path, bank, x, t)
    flat = bank.reshape(bank.shape[0], -1)
    centred = flat - _bank.average(w, flat)[None]
    return jnp.matmul((w[:, None] * centred).T, centred, precision=_bank.HIGHEST)


def jacobian(path: Path, bank: Array, x: Array, t: Array) -> Array:
    """Returns the Jacobian of the exact velocity in closed form, eq. (5).

    Args:
      path: the path.
      bank: `[n, *dims]`, the data set.
      x: `[*dims]`, the state; d is its size.
      t: `[]`, in [0, 1], with `sigma(t) > 0`.

    Returns:
      `[d, d]`, symmetric: the exact velocity is a gradient field.

    Raises:
      ValueError: as `covariance`.

    Example:
      >>> bank = jnp.array([[-1.0], [1.0]])
      >>> round(float(jacobian(paths.linear(), bank, jnp.array([0.25]), 0.5)[0, 0]), 4)
      1.1458

    Reference:
      Differentiating eq. (6) of Bertrand et al. (2025), arXiv 2506.03719. [bertrand2025closed]
    """
    c = paths.coefficients(path, t)
    cov = covariance(path, bank, x, t)
    identity = jnp.eye(x.size, dtype=cov.dtype)
    return c.sigma_dot / c.sigma * identity + c.wronskian * c.alpha / c.sigma**3 * cov


def divergence(
    path: Path, bank: Array, x: Array, t: Array, *, chunk_size: int | None = None
) -> Array:
    """Returns the divergence of the exact velocity in closed form, eq. (6).

    Args:
      path: the path.
      bank: `[n, *dims]`, the data set.
      x: `[*dims]`, the state.
      t: `[]`, in [0, 1], with `sigma(t) > 0`.
      chunk_size: points of the bank in memory at a time; None takes the bank whole.

    Returns:
      `[]`, exact: no Jacobian is made and no probe is drawn.

    Raises:
      ValueError: if the bank is empty or its points are not shaped like `x`, if `chunk_size` is
        not positive, or if `t` is batched or a static number outside [0, 1].

    Example:
      >>> bank = jnp.array([[-1.0], [1.0]])
      >>> round(float(divergence(paths.linear(), bank, jnp.array([0.25]), 0.5)), 4)
      1.1458

    Reference:
      The trace of eq. (5); compare arXiv 2506.03719, eq. (6). [bertrand2025closed]
    """
    c = paths.coefficients(path, t)
    spread = _bank.summarise(path, bank, x, t, chunk_size).spread
    return x.size * c.sigma_dot / c.sigma + c.wronskian * c.alpha / c.sigma**3 * spread


def log_density(
    path: Path, bank: Array, x: Array, t: Array, *, chunk_size: int | None = None
) -> Array:
    """Returns the log-density of the state at time t, eq. (7).

    Args:
      path: the path.
      bank: `[n, *dims]`, the data set.
      x: `[*dims]`, the state.
      t: `[]`, in [0, 1], with `sigma(t) > 0`.
      chunk_size: points of the bank in memory at a time; None takes the bank whole.

    Returns:
      `[]`, in nats.

    Raises:
      ValueError: if the bank is empty or its points are not shaped like `x`, if `chunk_size` is
        not positive, or if `t` is batched or a static number outside [0, 1].

    Example:
      >>> bank = jnp.array([[-1.0], [1.0]])
      >>> round(float(log_density(paths.linear(), bank, jnp.array([0.25]), 0.5)), 4)
      -0.7307

    Reference:
      The mixture of n Gaussians behind eq. (6) of arXiv 2506.03719. [bertrand2025closed]
    """
    t = _checks.time(t)
    sigma = path.sigma(t)
    s = _bank.summarise(path, bank, x, t, chunk_size)
    quadratic = (s.peak - 0.5 * jnp.sum(x**2)) / sigma**2
    log_normaliser = jnp.log(bank.shape[0]) + 0.5 * x.size * jnp.log(2.0 * jnp.pi * sigma**2)
    return jnp.log(s.mass) + quadratic - log_normaliser
