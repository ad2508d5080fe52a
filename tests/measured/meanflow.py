"""Numbers of the MeanFlow losses and of one-step uncertainty, as rows of the measured table."""

from collections.abc import Callable, Iterator
from functools import partial

import diffrax
import jax
import jax.numpy as jnp
import numpy as np

from fmjax import losses, onestep, paths, posterior, samplers, times
from tests.measured.identities import Row
from tests.oracles import flows
from tests.oracles import mixture as oracles

PATH = paths.linear()
TIMES = (0.05, 0.3, 0.6, 0.9)
FLOWS = {
    "Gaussian data": (flows.gaussian, flows.gaussian_velocity),
    "mixture": (flows.mixture, flows.mixture_velocity),
}
LOSSES = {
    "meanflow": losses.meanflow,
    "improved_meanflow": lambda u, *rest: losses.improved_meanflow(
        u, onestep.instantaneous(u), *rest
    ),
}


def _largest(a: jax.Array, b: jax.Array) -> float:
    return float(np.max(np.abs(np.asarray(a) - np.asarray(b))))


def _triples() -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns states and pairs of times in both orders, equal ones too."""
    r = jnp.array([0.9, 1.0, 0.4, 0.1, 0.5, 1.0])
    t = jnp.array([0.2, 0.05, 0.4, 0.7, 0.45, 0.9])
    return oracles.sample(jax.random.key(3), r.size), r, t


def identity() -> Iterator[Row]:
    """Measures u - v + (t - r) du/dt on exact average velocities."""

    def residual(average, velocity, x, r, t):
        v = velocity(x, t)
        u, du = jax.jvp(average, (x, r, t), (v, jnp.zeros_like(r), jnp.ones_like(t)))
        return u - v + (t - r) * du

    with jax.enable_x64(True):
        for name, (average, velocity) in FLOWS.items():
            found = jax.jit(jax.vmap(partial(residual, average, velocity)))(*_triples())
            yield Row(
                f"u = v - (t - r) du/dt, {name}, r above and below t",
                "losses.meanflow",
                "MF (6)",
                float(jnp.max(jnp.abs(found))),
                1e-9,
            )


def flow_maps() -> Iterator[Row]:
    """Compares one step of the average velocity with an adaptive solve of its slice."""
    solve = partial(samplers.adaptive, rtol=1e-12, atol=1e-12, solver=diffrax.Dopri8())
    with jax.enable_x64(True):
        x, _, t = _triples()
        for name, (average, velocity) in FLOWS.items():
            ours = jax.vmap(lambda x, t, u=average: samplers.flow_map(u, x, 1.0, t))
            solved = jax.vmap(lambda x, t, v=velocity: solve(v, x, t, 1.0))
            yield Row(
                f"one step to the data against an ODE, {name}",
                "samplers.flow_map",
                "MF (12)",
                _largest(jax.jit(ours)(x, t), jax.jit(solved)(x, t)),
                1e-9,
            )


def renoised() -> Iterator[Row]:
    """Compares the posterior of the h = 0 slice with the closed form of the mixture."""
    ask = partial(onestep.renoised, flows.mixture, PATH, quantity=posterior.covariance)
    law = lambda x, t: oracles.law(paths.coefficients(PATH, t), x).covariance
    with jax.enable_x64(True):
        x1, t = oracles.sample(jax.random.key(0), len(TIMES)), jnp.array(TIMES)
        x0 = jax.random.normal(jax.random.key(1), x1.shape)
        x = jax.vmap(partial(paths.interpolate, PATH))(x0, x1, t)
        error = _largest(jax.jit(jax.vmap(ask))(x0, x1, t), jax.vmap(law)(x, t))
        yield Row("covariance at a renoised state, mixture", "onestep.renoised", "E1", error, 1e-9)


def sensitivities() -> Iterator[Row]:
    """Compares sigma^2 J J^T with the posterior covariance of Gaussian data."""

    def closed(t: float) -> np.ndarray:
        total = t**2 * flows.SIGMA + (1 - t) ** 2 * np.eye(3)
        return flows.SIGMA - t**2 * flows.SIGMA @ np.linalg.solve(total, flows.SIGMA)

    with jax.enable_x64(True):
        x, whole, rows = jnp.array([0.3, -1.1, 0.8]), 0.0, 0.0
        for t in (0.0, *TIMES):
            ours = onestep.sensitivity(flows.gaussian, PATH, x, t)
            diagonal = onestep.sensitivity_diagonal(flows.gaussian, PATH, x, t, chunk_size=2)
            whole = max(whole, _largest(ours, closed(t)))
            rows = max(rows, _largest(diagonal, np.diag(closed(t))))
        label = "the posterior covariance of Gaussian data, t from 0 to 0.9"
        yield Row(label, "onestep.sensitivity", "E6", whole, 1e-9)
        yield Row(f"{label}, diagonal", "onestep.sensitivity_diagonal", "E6", rows, 1e-9)


def sensitivity_probes() -> Iterator[Row]:
    """Compares the mean of many estimates with the exact diagonal, in standard errors."""
    with jax.enable_x64(True):
        x, t, n = jnp.array([0.3, -1.1, 0.8]), 0.3, 20_000
        draw = lambda key: onestep.sensitivity_estimate(
            key, flows.gaussian, PATH, x, t, num_probes=4
        )
        draws = jax.jit(jax.vmap(draw))(jax.random.split(jax.random.key(0), n))
        exact = onestep.sensitivity_diagonal(flows.gaussian, PATH, x, t)
        gaps = jnp.abs(draws.mean.mean(axis=0) - exact) / (draws.mean.std(axis=0) / n**0.5)
        yield Row(
            "squared row norms by 4 probes, standard errors",
            "onestep.sensitivity_estimate",
            "E6",
            float(gaps.max()),
            5.0,
        )


def _shifted(theta: jax.Array, x: jax.Array, r: jax.Array, t: jax.Array) -> jax.Array:
    shift = theta[0] + theta[1] * jnp.tanh(x) + theta[2] * (r - t) * jnp.roll(x, 1)
    return flows.gaussian(x, r, t) + shift


def _gradients(loss: Callable, n: int) -> jax.Array:
    """Returns gradients at the exact average velocity, one for each of n pairs."""
    x1 = flows.CENTER[None] + jax.random.normal(jax.random.key(0), (n, 3)) @ flows.FACTOR.T
    x0 = jax.random.normal(jax.random.key(1), (n, 3))
    r, t = times.intervals(jax.random.key(2), (n,), fraction_equal=0.5)
    one = lambda theta, *example: loss(partial(_shifted, theta), PATH, *example)
    zero = jnp.zeros((3, 3))
    return jax.jit(jax.vmap(jax.grad(one), (None, 0, 0, 0, 0)))(zero, x0, x1, r, t)


def stationarity() -> Iterator[Row]:
    """Measures the mean gradient of both losses at the exact u, and their variances' ratio."""
    n, variances = 40_000, {}
    with jax.enable_x64(True):
        for name, loss in LOSSES.items():
            gradients = _gradients(loss, n)
            z = jnp.abs(gradients.mean(axis=0)) / (gradients.std(axis=0) / n**0.5)
            variances[name] = float(gradients.var(axis=0).sum())
            what = "mean gradient at the exact u, standard errors"
            yield Row(what, f"losses.{name}", "MF (9)", float(z.max()), 5.0)
    yield Row(
        "gradient variance at the exact u, improved over original, half of the times equal",
        "losses.improved_meanflow",
        "iMF",
        variances["improved_meanflow"] / variances["meanflow"],
        1.0,
    )


GROUPS = (identity, flow_maps, renoised, sensitivities, sensitivity_probes, stationarity)
