"""How far a learned law is from a mixture: by exact densities, forwards and backwards.

Forwards, KL(data, model) and the total variation, by the density of the flow at fresh data points:

    KL = E_p[log p - log q],        TV = E_p[max(0, 1 - q / p)].                              (1)

Backwards, KL(model, data) of what a sampler of few steps makes. A step of Euler's method
`x + h v(x, t)` has the derivative `I + h grad v`, so where it is one-to-one the density of its
samples is known, without an error of the solver:

    log q(x_n) = log N(x_0; 0, I) - sum_i log |det(I + h grad v(x_i, t_i))|.                  (2)
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

import fmjax
from experiments.fdm import _laws
from experiments.fdm._errors import RUN_AWAY, bounded, errors
from experiments.fdm._laws import Mixture
from fmjax.types import Array, Velocity

EULER = (4, 16, 64)
"""Steps of Euler's method of which KL(model, data) is measured."""

_SOLVE = partial(fmjax.samplers.fixed, num_steps=64)


def euler(velocity: Velocity, x: Array, num_steps: int) -> tuple[Array, Array]:
    """Takes steps of Euler's method from noise, and returns the sample and its log-density, (2).

    Args:
      velocity: the field.
      x: `[d]`, noise.
      num_steps: equal steps from 0 to 1.
    """
    h = 1.0 / num_steps

    def step(carry: tuple[Array, Array], t: Array) -> tuple[tuple[Array, Array], None]:
        x, log_q = carry
        jacobian = jax.jacfwd(velocity)(x, t)
        log_det = jnp.linalg.slogdet(jnp.eye(x.size) + h * jacobian)[1]
        return (x + h * velocity(x, t), log_q - log_det), None

    first = (x, fmjax.likelihood.standard_normal(x))
    return jax.lax.scan(step, first, jnp.arange(num_steps) * h)[0]


def distances(mixture: Mixture, velocity: Velocity, keys: Array) -> dict[str, Any]:
    """Returns the errors of the field, KL and TV forwards, (1), and KL backwards, (2).

    Args:
      mixture: the law of the data.
      velocity: the learned field.
      keys: one for each data point and each sample; the same for every method.

    Returns:
      `[]` each, no more than `experiments.fdm._errors.RUN_AWAY`.
    """
    x1 = jax.vmap(lambda key: _laws.sample(key, mixture))(keys)
    true = jax.vmap(partial(_laws.log_density, mixture), (0, None))(x1, jnp.ones(()))
    log_prob = partial(fmjax.likelihood.log_prob, velocity, solve=_SOLVE)
    gap = true - jax.lax.map(log_prob, x1, batch_size=256)
    found = errors(mixture, velocity, keys)
    found |= {"kl": gap.mean(), "tv": jnp.maximum(0.0, -jnp.expm1(-gap)).mean()}
    fresh = jax.vmap(lambda key: jax.random.fold_in(key, 1))(keys)
    noise = jax.vmap(lambda key: jax.random.normal(key, x1.shape[1:]))(fresh)
    for num_steps in EULER:
        sample, log_q = jax.lax.map(
            lambda x, n=num_steps: euler(velocity, x, n), noise, batch_size=256
        )
        log_p = jax.vmap(partial(_laws.log_density, mixture), (0, None))(sample, jnp.ones(()))
        found[f"kl_euler_{num_steps}"] = jnp.mean(log_q - log_p)
    return {
        name: bounded(value, 1.0 if name == "tv" else RUN_AWAY) for name, value in found.items()
    }
