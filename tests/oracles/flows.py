"""Exact average velocities: of Gaussian data in closed form, of any velocity by one ODE."""

import jax
import jax.numpy as jnp
import numpy as np

from fmjax import paths
from tests.oracles import mixture as oracles

# Skewed: one direction wider than the noise and two narrower, no axis or center in common.
CENTER = np.array([1.0, -0.7, 0.4])
FACTOR = np.array([[1.3, 0.0, 0.0], [0.5, 0.6, 0.0], [-0.3, 0.2, 0.45]])
SIGMA = FACTOR @ FACTOR.T


def gaussian(x, r, t):
    """Returns the average velocity to N(CENTER, SIGMA) on the linear path.

    In the eigenvectors of SIGMA the flow scales `x - t CENTER` by `f(r) / f(t)`, with
    `f(t)^2 = t^2 lambda + (1 - t)^2`. The difference quotient of f is written out as
    `(f(r)^2 - f(t)^2) / ((r - t) (f(r) + f(t)))`, so that r = t needs no limit.
    """
    values, vectors = np.linalg.eigh(SIGMA)
    vectors = jnp.asarray(vectors, x.dtype)
    f = lambda s: jnp.sqrt(s**2 * values + (1 - s) ** 2).astype(x.dtype)
    slope = ((values + 1) * (r + t) - 2.0) / ((f(r) + f(t)) * f(t))
    center = jnp.asarray(CENTER, x.dtype)
    return center + vectors @ (slope.astype(x.dtype) * (vectors.T @ (x - t * center)))


def gaussian_velocity(x, t):
    """Returns the marginal velocity of the same, by linear algebra without eigenvectors."""
    pull = jnp.linalg.solve(t**2 * SIGMA + (1 - t) ** 2 * jnp.eye(3), x - t * CENTER)
    return CENTER + t * SIGMA @ pull - (1 - t) * pull


def averaged(velocity, num_steps=300):
    """Returns the average velocity of any velocity, by one ODE and without a division.

    `a(s) = int_0^s v(x + (r - t) a, t + s' (r - t)) ds'` ends at u(x, r, t), for r = t too. By
    the classical Runge-Kutta scheme, one stage at a time so that it compiles quickly.
    """
    before, weights = np.array([0.0, 0.5, 0.5, 1.0]), np.array([1.0, 2.0, 2.0, 1.0]) / 6.0

    def average(x, r, t):
        step = 1.0 / num_steps
        field = lambda a, s: velocity(x + (r - t) * a, t + s * (r - t))

        def stage(carry, coefficients):
            a, s, slope, total = carry
            ahead, weight = (c.astype(x.dtype) for c in coefficients)
            slope = field(a + ahead * step * slope, s + ahead * step)
            return (a, s, slope, total + weight * slope), None

        def advance(a, s):
            start = (a, s, jnp.zeros_like(a), jnp.zeros_like(a))
            return a + step * jax.lax.scan(stage, start, (before, weights))[0][3], None

        return jax.lax.scan(advance, jnp.zeros_like(x), step * jnp.arange(num_steps))[0]

    return average


def mixture_velocity(x, t):
    """Returns the marginal velocity to the mixture of mixture.py on the linear path."""
    return oracles.law(paths.coefficients(paths.linear(), t), x).velocity


mixture = averaged(mixture_velocity)
