"""A skewed Gaussian mixture along any path, with every quantity in closed form.

The data are `sum_k w_k N(mu_k, Sigma_k)`: shifted, anisotropic, with unequal weights, so that a
flipped sign, a reversed time or a transposed matrix shows. Along `x_t = alpha x1 + sigma x0`
with noise `x0 ~ N(0, Gamma)` component k of the state is `N(alpha mu_k, S_k)`,
`S_k = alpha^2 Sigma_k + sigma^2 Gamma`, and within it `(x1, x0, x_t)` is jointly Gaussian.
Everything below is written out from that, with no derivative by autodiff and no function of fmjax
but the path's coefficients.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

WEIGHTS = np.array([0.5, 0.3, 0.2])
MEANS = np.array([[1.0, -0.5, 0.3], [-1.2, 0.8, 1.1], [0.4, 1.5, -1.6]])
FACTORS = np.array(
    [
        [[0.6, 0.0, 0.0], [0.3, 0.4, 0.0], [-0.2, 0.1, 0.5]],
        [[0.9, 0.0, 0.0], [-0.4, 0.3, 0.0], [0.1, 0.2, 0.25]],
        [[0.35, 0.0, 0.0], [0.2, 0.7, 0.0], [0.3, -0.4, 0.45]],
    ]
)
COVARIANCES = FACTORS @ FACTORS.transpose(0, 2, 1)


class Mixture(NamedTuple):
    """The law of the data, and Gamma, the covariance of the noise."""

    weights: np.ndarray
    means: np.ndarray
    covariances: np.ndarray
    noise: np.ndarray


MIXTURE = Mixture(WEIGHTS, MEANS, COVARIANCES, np.eye(3))


def component(k):
    """Returns the mixture's component k alone; k may be traced."""
    means, covariances = jnp.asarray(MEANS), jnp.asarray(COVARIANCES)
    return Mixture(np.ones(1), means[k][None], covariances[k][None], np.eye(3))


def affine(mixture, scale, shift):
    """Returns the law of `scale * x1 + shift` with noise `scale * x0`, entry by entry."""
    outer = np.outer(scale, scale)
    return Mixture(
        mixture.weights,
        mixture.means * np.reshape(scale, (1, 3)) + np.reshape(shift, (1, 3)),
        mixture.covariances * outer[None],
        mixture.noise * outer,
    )


class Law(NamedTuple):
    """The exact law at one state and time; `velocity` and the rest as in `fmjax.posterior`."""

    mean: jax.Array
    noise_mean: jax.Array
    covariance: jax.Array
    score: jax.Array
    velocity: jax.Array
    divergence: jax.Array
    log_density: jax.Array
    responsibilities: jax.Array


def law(coefficients, x, mixture=MIXTURE):
    """Returns the law of the mixture at state x, given alpha, sigma and their derivatives."""
    alpha, sigma, alpha_dot, sigma_dot = coefficients
    w, mu, cov, gamma = (jnp.asarray(a, x.dtype) for a in mixture)
    inverse = jnp.linalg.inv(alpha**2 * cov + sigma**2 * gamma[None])
    gap = x[None] - alpha * mu
    pull = jnp.einsum("kij,kj->ki", inverse, gap)  # S_k^-1 (x - alpha mu_k)
    log_joint = (
        jnp.log(w)
        - 0.5 * jnp.sum(gap * pull, axis=1)
        + 0.5 * jnp.linalg.slogdet(inverse)[1]
        - 1.5 * jnp.log(2 * jnp.pi)
    )
    log_density = jax.nn.logsumexp(log_joint)
    r = jnp.exp(log_joint - log_density)
    # Within component k: E[x1] = mu_k + alpha Sigma_k S_k^-1 (x - alpha mu_k), E[x0] likewise.
    x1 = mu + alpha * jnp.einsum("kij,kj->ki", cov, pull)
    x0 = sigma * pull @ gamma
    mean = r @ x1
    within = cov - alpha**2 * cov @ inverse @ cov
    offset = x1 - mean[None]
    covariance = jnp.einsum("k,kij->ij", r, within) + jnp.einsum("k,ki,kj->ij", r, offset, offset)
    v = alpha_dot * x1 + sigma_dot * x0
    velocity, score = r @ v, -(r @ pull)
    # div(sum r_k v_k) = sum r_k tr(grad v_k) + sum grad r_k . v_k, grad r_k = r_k (s_k - s).
    slope = (alpha_dot * alpha * cov + sigma_dot * sigma * gamma[None]) @ inverse
    divergence = r @ jnp.trace(slope, axis1=1, axis2=2) + jnp.einsum(
        "k,ki,ki->", r, -pull - score[None], v
    )
    return Law(mean, r @ x0, covariance, score, velocity, divergence, log_density, r)


def covariance_of(a, b, coefficients, x, mixture=MIXTURE):
    """Returns `Cov[a x1 + b x0 | x_t = x]` without that of x1: each component conditions anew.

    Of the joint Gaussian of `y = a x1 + b x0` and x_t: `Cov[y] = a^2 Sigma + b^2 Gamma`, and
    `Cov[y, x_t] = K = a alpha Sigma + b sigma Gamma`.
    """
    alpha, sigma, *_ = coefficients
    r = law(coefficients, x, mixture).responsibilities
    _, mu, cov, gamma = (jnp.asarray(part, x.dtype) for part in mixture)
    inverse = jnp.linalg.inv(alpha**2 * cov + sigma**2 * gamma[None])
    cross = a * alpha * cov + b * sigma * gamma[None]
    y = a * mu + jnp.einsum("kij,kjl,kl->ki", cross, inverse, x[None] - alpha * mu)
    within = a**2 * cov + b**2 * gamma[None] - cross @ inverse @ cross
    offset = y - (r @ y)[None]
    return jnp.einsum("k,kij->ij", r, within) + jnp.einsum("k,ki,kj->ij", r, offset, offset)


def sample(key, n):
    """Returns n points of the mixture, `[n, 3]`."""
    key_class, key_noise = jax.random.split(key)
    noise = jax.random.normal(key_noise, (n, 3))
    # Of the dtype by name: a process that has had float64 on and off confuses the two otherwise.
    weights, means, factors = (jnp.asarray(a, noise.dtype) for a in (WEIGHTS, MEANS, FACTORS))
    k = jax.random.choice(key_class, 3, (n,), p=weights)
    return means[k] + jnp.einsum("nij,nj->ni", factors[k], noise)
