"""How a velocity field stretches and turns: the two parts of its Jacobian, and what they bound.

Let J be the Jacobian of the velocity v at one state and time. It is the sum of a strain and of a
rotation,

    J = S + R,    S = (J + J^T) / 2,    R = (J - J^T) / 2                          (1)

S stretches and shrinks a small ball of states along orthogonal directions, at the rates of its
eigenvalues; R turns it. The distance e of two close trajectories changes as `e' = J e`, and
`e . R e = 0`, so that only S changes its length:

    least(S) |e|  <=  d|e| / dt  <=  greatest(S) |e|                               (2)

Integrated along the trajectory that starts at x, with F the Jacobian of the flow from time s to
time t, whose singular values are the factors by which the flow stretches,

    exp(int_s^t least)  <=  singular values of F  <=  exp(int_s^t greatest)        (3)

The integrals need no F, which would take a tangent for each entry of x. For a field v with error
`v - u` along a trajectory of the true field u, all distances small, the error of the end is at most

    |x_1 - y_1|  <=  int_0^1 exp(int_s^1 greatest) |v - u|(s) ds                   (4)

A field that flow matching regresses on, on a path with Gaussian noise independent of the data, is a
gradient: its R is 0. What a network has of R is therefore error, seen without the true field
(`fmjax.posterior.asymmetry` is R in units of S).

References:
  Soderlind (2006), The logarithmic norm: history and modern theory, BIT 46(3), for (2) to (4).
  Batchelor (1967), An Introduction to Fluid Dynamics, section 2.3, for the names.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from fmjax import _checks, _jacobian, _krylov, samplers
from fmjax.types import Array, Key, PyTree, Solve, Velocity

__all__ = ["Growth", "Norms", "extremes", "growth", "norms"]

_TOGETHER = 64  # tangents at a time


class Norms(NamedTuple):
    """The sizes of both parts of a Jacobian, as Frobenius norms per unit of time.

    Attributes:
      strain: `[]`, of the symmetric part S.
      rotation: `[]`, of the antisymmetric part R.
    """

    strain: Array
    rotation: Array


class Growth(NamedTuple):
    """A trajectory, and what bounds the stretching of the flow along it, eq. (3).

    Attributes:
      states: `[n, *dims]`, at the times that were asked for.
      least: `[n]`, the integral of the least rate from the first time, in nats.
      greatest: `[n]`, the integral of the greatest rate.
    """

    states: Array
    least: Array
    greatest: Array


def norms(key: Key, velocity: Velocity, x: Array, t: Array, *, num_probes: int = 16) -> Norms:
    """Measures the strain and the rotation of a velocity at one state.

    Args:
      key: for the random probes.
      velocity: the field, `(x[*dims], t[]) -> [*dims]`.
      x: `[*dims]`, the state; d is its size.
      t: `[]`, in [0, 1].
      num_probes: number of random sign vectors, from which the squares of both norms are estimated
        without bias by `E|M z|^2 = |M|_F^2`. From d on all unit vectors are taken, and the result
        is exact.

    Returns:
      Both norms, not negative.

    Raises:
      ValueError: if `num_probes` is not positive, if `t` is batched or a static number outside
        [0, 1], or if the velocity is not shaped like `x`.

    Example:
      >>> import fmjax
      >>> import jax
      >>> import jax.numpy as jnp
      >>> key, matrix = jax.random.key(0), jnp.array([[3.0, -4.0], [4.0, 4.0]])
      >>> found = fmjax.strain.norms(key, lambda x, t: matrix @ x, jnp.ones(2), 0.5)
      >>> print(f"{found.strain:.3f}, {found.rotation:.3f}")
      5.000, 5.657

    Reference:
      Hutchinson (1989), Communications in Statistics 18(3), for the estimate.
      [hutchinson1989stochastic]
    """
    _checks.functions(velocity=velocity)
    t = _checks.time(t)
    even, odd = _jacobian.parts(
        key, lambda z: velocity(z, t), _checks.state(x), num_probes, "velocity"
    )
    return Norms(0.5 * _jacobian.root(even), 0.5 * _jacobian.root(odd))


def extremes(
    key: Key, velocity: Velocity, x: Array, t: Array, *, num_matvecs: int = 32
) -> tuple[Array, Array]:
    """Estimates the least and the greatest rate at which a velocity stretches, eq. (2).

    They are eigenvalues of the strain S. On a path with Gaussian noise the eigenvalue of S and the
    eigenvalue of the posterior's covariance in one direction are `s` and
    `sigma^2 / (alpha D) (sigma s - sigma_dot)`.

    Args:
      key: for the first vector of the Krylov space.
      velocity: the field, `(x[*dims], t[]) -> [*dims]`.
      x: `[*dims]`, the state; d is its size.
      t: `[]`, in [0, 1].
      num_matvecs: dimension of the Krylov space, positive. It takes twice as many products with S,
        each a tangent and a cotangent. From d on the matrix itself is taken, by d tangents, and the
        result is exact.

    Returns:
      Two scalars `(least, greatest)`, per unit of time. With fewer than d vectors both lie inside
      the spectrum, so the true extremes are at least as far out.

    Raises:
      ValueError: if `num_matvecs` is not positive, if x has no entries, if `t` is batched or a
        static number outside [0, 1], or if the velocity is not shaped like `x`.

    Example:
      >>> import fmjax
      >>> import jax
      >>> import jax.numpy as jnp
      >>> key, matrix = jax.random.key(0), jnp.array([[2.0, -4.0], [2.0, 2.0]])
      >>> least, greatest = fmjax.strain.extremes(key, lambda x, t: matrix @ x, jnp.ones(2), 0.5)
      >>> print(f"{least:.3f}, {greatest:.3f}")
      1.000, 3.000

    Reference:
      Kraemer et al. (2024), arXiv 2405.17277. [kraemer2024gradients]
    """
    _checks.functions(velocity=velocity)
    t = _checks.time(t)
    _checks.count("it counts products", num_matvecs=num_matvecs)
    field, x = _jacobian.widened(lambda z: velocity(z, t), _checks.state(x), "velocity")
    _, tangent = jax.linearize(field, x)
    if num_matvecs >= x.size > 0:
        return _of_matrix(tangent, x)
    values, *_ = _krylov.ritz(key, _jacobian.symmetric(tangent, x), x, num_matvecs)
    return values[0], values[-1]


def _of_matrix(tangent: Callable[[Array], Array], x: Array) -> tuple[Array, Array]:
    """Returns the extreme eigenvalues of the strain from its whole matrix, by d tangents."""
    units = jnp.eye(x.size, dtype=x.dtype)
    columns = lambda unit: tangent(unit.reshape(x.shape)).ravel()  # noqa: E731
    matrix = jax.lax.map(columns, units, batch_size=_TOGETHER).astype(x.dtype)
    matrix = 0.5 * (matrix + matrix.T)
    # With the vectors fixed, derivatives stay finite where eigenvalues meet.
    vectors = jax.lax.stop_gradient(jnp.linalg.eigh(matrix)[1])
    least, greatest = (vector @ matrix @ vector for vector in (vectors[:, 0], vectors[:, -1]))
    return least, greatest


def growth(
    key: Key,
    velocity: Velocity,
    x: Array,
    times: Array,
    *,
    solve: Solve = samplers.fixed,
    num_matvecs: int = 32,
) -> Growth:
    """Bounds how a flow stretches along the trajectory from one state, eq. (3).

    The solver integrates the rates beside the state, with the same error. With `num_matvecs` below
    d the rates are estimates from inside the spectrum, and the integrals are no longer bounds.

    Args:
      key: for the Krylov spaces, the same for all states.
      velocity: the field, `(x[*dims], t[]) -> [*dims]`, differentiable along the trajectory.
      x: `[*dims]`, the state at `times[0]`; d is its size.
      times: `[n]`, n >= 2, in [0, 1], increasing.
      solve: `samplers.fixed` or `samplers.adaptive` with options bound; `num_steps` counts per
        interval between two times.
      num_matvecs: as for `extremes`; from d on the bounds are exact.

    Returns:
      The states and both integrals at all times; the first integrals are 0. Between `times[i]` and
      `times[j]` the logarithms of all factors lie in
      `[least[j] - least[i], greatest[j] - greatest[i]]`.

    Raises:
      ValueError: as `samplers.trajectory` and `extremes`.

    Example:
      >>> import fmjax
      >>> import jax
      >>> import jax.numpy as jnp
      >>> key, matrix = jax.random.key(0), jnp.array([[1.0, -4.0], [2.0, 1.0]])
      >>> field, times = lambda x, t: matrix @ x, jnp.array([0.0, 0.5, 1.0])
      >>> found = fmjax.strain.growth(key, field, jnp.ones(2), times)
      >>> flow = jax.scipy.linalg.expm(matrix)  # of the linear field, from time 0 to time 1
      >>> factors = jnp.log(jnp.linalg.svd(flow, compute_uv=False))
      >>> print(f"{found.greatest[-1]:.2f} > {factors[0]:.2f}, {factors[1]:.2f} > 0")
      2.00 > 1.11, 0.89 > 0

    Reference:
      Soderlind (2006), BIT Numerical Mathematics 46(3). [soderlind2006logarithmic]
    """
    _checks.functions(velocity=velocity, solve=solve)
    _checks.count("it counts products", num_matvecs=num_matvecs)
    x = _checks.state(x)
    zero = jnp.zeros((), _checks.wide_dtype(x))
    rates = functools.partial(_rates, key, velocity, num_matvecs)
    return Growth(*samplers.trajectory(rates, (x, zero, zero), times, solve=solve))


def _rates(key: Key, velocity: Velocity, num_matvecs: int, state: PyTree, t: Array) -> PyTree:
    """Returns the velocity and both rates: the change of a state and of its two integrals."""
    x, *_ = state
    return velocity(x, t), *extremes(key, velocity, x, t, num_matvecs=num_matvecs)
