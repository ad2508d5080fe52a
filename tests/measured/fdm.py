"""Numbers of flow and divergence matching and of its theory, as rows of the measured table."""

from collections.abc import Iterator
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from fmjax import divergence, empirical, likelihood, losses, path_error, paths, samplers
from tests.measured.identities import Row
from tests.oracles import round as mixtures

PATHS = {
    "linear": paths.linear(),
    "linear, sigma_min 0.1": paths.linear(0.1),
    "cosine": paths.cosine(),
    "vp": paths.vp(),
    "ve": paths.ve(0.1, 3.0),
    "ve to zero": paths.ve_to_zero(0.1, 3.0),
}
BANK = np.array([[0.4, -1.1, 0.3], [1.6, 0.2, -0.7], [-0.9, 0.8, 1.2], [2.1, 1.3, 0.1]])
NOISE = np.array([0.7, -1.2, 0.4])
TIMES = np.array([0.05, 0.3, 0.6, 0.9])
SOLVE = partial(samplers.adaptive, rtol=1e-11, atol=1e-11)


def _largest(a: jax.Array, b: jax.Array) -> float:
    a, b = np.asarray(a), np.asarray(b)
    return float(np.max(np.abs(a - b)) / np.max(np.abs(b)))


def _field(x: jax.Array) -> jax.Array:
    """A velocity whose Jacobian is neither symmetric nor diagonal."""
    return jnp.sin(x) * jnp.roll(x, 1) + 0.3 * jnp.roll(x, -1) ** 2 - 0.5


def targets() -> Iterator[Row]:
    """Yields the residuals of one pair and of a data set against derivatives of the density."""

    def both(path: paths.Path, points: int, t: jax.Array) -> tuple[jax.Array, jax.Array]:
        bank, x0 = jnp.asarray(BANK[:points]), jnp.asarray(NOISE)
        single = losses.of_pair(path, x0, bank[0], t)
        target = single if points == 1 else losses.of_bank(path, bank, x0, bank[0], t)
        value, div = divergence.unrolled(_field, target.x)
        log_density = partial(empirical.log_density, path, bank)
        exact = path_error.residual(log_density, lambda x, _: _field(x), target.x, t)
        return losses.scaled_residual(value, div, target), path.sigma(t) * exact

    with jax.enable_x64(True):
        for name, path in PATHS.items():
            for points, what in ((1, "one pair"), (4, "a data set")):
                found, exact = jax.jit(jax.vmap(partial(both, path, points)))(jnp.asarray(TIMES))
                yield Row(
                    f"sigma r of {what}, {name} path, relative",
                    "losses.of_pair, scaled_residual"
                    if points == 1
                    else "losses.of_bank, scaled_residual",
                    "FDM eq. 14" if points == 1 else "FDM thm. 3.3",
                    _largest(found, exact),
                    1e-10,
                )


def bounds() -> Iterator[Row]:
    """Yields Duhamel's identity and the bounds of a perturbed mixture of four peaks."""
    log_density = partial(mixtures.log_density, mixtures.LINE)

    def velocity(x: jax.Array, t: jax.Array) -> jax.Array:
        return mixtures.velocity(mixtures.LINE, x, t) + 0.2 * jnp.sin(2 * x)

    def duhamel(x0: jax.Array) -> tuple[jax.Array, jax.Array]:
        x, error = path_error.duhamel(log_density, velocity, x0, 0.75, solve=SOLVE)
        learned = likelihood.log_prob(velocity, x, t1=0.75, solve=SOLVE)
        return error, jnp.exp(log_density(x, 0.75)) - jnp.exp(learned)

    with jax.enable_x64(True):
        error, exact = jax.jit(jax.vmap(duhamel))(jnp.linspace(-2.0, 2.0, 9))
        yield Row(
            "error of a density along the flow, mixture of four peaks, t = 0.75, relative",
            "path_error.duhamel", "FDM cor. 3.2", _largest(error, exact), 1e-8,
        )  # fmt: skip
        grid = jnp.linspace(-8.0, 8.0, 2001)
        cell = float(grid[1] - grid[0])
        times = np.array([0.0, 0.25, 0.5, 0.75, 1.0])
        bound = jax.jit(lambda grid: path_error.bound(log_density, velocity, grid, cell, times))(
            grid
        )
        variation = jax.jit(
            partial(path_error.total_variation, log_density, velocity, cell=cell, solve=SOLVE)
        )
        tv = [float(variation(grid, t=jnp.asarray(t))) for t in times[1:]]
        # By NumPy: 20,001 points carried by RK4, summed by the trapezoid rule where they started.
        known = {"TV": (tv, [0.03545, 0.06821, 0.09275, 0.12203])}
        known["bound on TV"] = (bound[1:], [0.03580, 0.07137, 0.11510, 0.17681])
        for what, (found, values) in known.items():
            yield Row(
                f"{what} of v = u + sin(2x) / 5, t = 0.25 to 1, against quadrature (5 digits)",
                "path_error.total_variation" if what == "TV" else "path_error.bound",
                "FDM thm. 3.3", float(np.max(np.abs(np.asarray(found) - values))), 1e-5,
            )  # fmt: skip
        yield Row(
            "largest TV over its bound, t = 0.25 to 1", "path_error.bound", "FDM thm. 3.3",
            float(np.max(np.asarray(tv) / np.asarray(bound[1:]))), 1.0,
        )  # fmt: skip


GROUPS = (targets, bounds)
