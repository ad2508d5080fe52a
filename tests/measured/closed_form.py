"""Numbers of the closed form of a finite data set and of EFM, as rows of the measured table."""

import itertools
from collections.abc import Iterator
from functools import partial

import diffrax
import jax
import jax.numpy as jnp
import numpy as np

from fmjax import divergence, empirical, likelihood, paths, posterior, predictions, samplers
from tests.measured.identities import Row

PATHS = {
    "linear": paths.linear(),
    "linear, sigma_min 0.1": paths.linear(0.1),
    "cosine": paths.cosine(),
    "alpha = t^2, sigma = exp(-1.3 t)": paths.Path(lambda t: t**2, lambda t: jnp.exp(-1.3 * t)),
}
TIMES = (0.1, 0.35, 0.6, 0.85)


def _bank(n: int = 9, d: int = 6) -> np.ndarray:
    """Returns a skewed data set `[n, d]`."""
    return np.random.default_rng(3).gamma(0.7, size=(n, d)) - 0.4


def _points(path: paths.Path, bank: jax.Array, t: float) -> jax.Array:
    """Returns five states at one time."""
    noise = jnp.asarray(np.random.default_rng(4).normal(size=(5, bank.shape[1])))
    return path.alpha(t) * bank[:5] + path.sigma(t) * noise


def _by_hand(path: paths.Path, bank: jax.Array, x: jax.Array, t: jax.Array) -> dict:
    """Returns every quantity at one state by explicit differences and sums over the points."""
    c = paths.coefficients(path, t)
    gaps = x[None] - c.alpha * bank
    logits = -0.5 * jnp.sum(gaps**2, axis=1) / c.sigma**2
    weights = jnp.exp(logits - logits.max())
    weights = weights / weights.sum()
    mean = weights @ bank
    covariance = (weights[:, None] * (bank - mean[None])).T @ (bank - mean[None])
    gain = c.wronskian * c.alpha / c.sigma**3
    # The time derivative of the logits, by which the weights change.
    rates = c.alpha_dot * jnp.sum(bank * gaps, axis=1) / c.sigma**2
    rates = rates + c.sigma_dot / c.sigma**3 * jnp.sum(gaps**2, axis=1)
    mean_rate = (weights * rates) @ (bank - mean[None])
    # Of u = alpha_dot m + (sigma_dot / sigma) (x - alpha m), term by term.
    second = jax.jacfwd(partial(paths.coefficients, path))(t)
    ratio, rest = c.sigma_dot / c.sigma, x - c.alpha * mean
    rate = second.alpha_dot * mean + c.alpha_dot * mean_rate
    rate = rate + (second.sigma_dot / c.sigma - ratio**2) * rest
    rate = rate - ratio * (c.alpha_dot * mean + c.alpha * mean_rate)
    jacobian = ratio * jnp.eye(x.size) + gain * covariance
    return {
        "rate": rate,
        "acceleration": rate + jacobian @ (c.alpha_dot * mean + ratio * rest),
        "velocity": c.alpha_dot * mean + c.sigma_dot / c.sigma * (x - c.alpha * mean),
        "jacobian": jacobian,
        "covariance": covariance,
        "mean_rate": mean_rate,
        "entropy": -jnp.sum(weights * jnp.log(weights)),
        "number": 1.0 / jnp.sum(weights**2),
        "score": (c.alpha * mean - x) / c.sigma**2,
        "hessian": -jnp.eye(x.size) / c.sigma**2 + (c.alpha / c.sigma**2) ** 2 * covariance,
    }


def _pairs(path: paths.Path, bank: jax.Array, x: jax.Array, t: jax.Array) -> dict:
    """Returns ours and what it must equal, at one state."""
    hand = _by_hand(path, bank, x, t)
    field = partial(empirical.velocity, path, bank, chunk_size=4)
    log_p = partial(empirical.log_density, path, bank)
    u, vector = field(x, t), jnp.cos(jnp.arange(x.size))
    mean = lambda t: empirical.mean(path, bank, x, t)
    log_rate = jax.grad(log_p, argnums=1)(x, t)
    streamed = {"chunk_size": 4}
    return {
        "velocity": ("velocity", u, hand["velocity"]),
        "Jacobian": ("jacobian", empirical.jacobian(path, bank, x, t), hand["jacobian"]),
        "divergence, streamed": (
            "divergence",
            empirical.divergence(path, bank, x, t, **streamed),
            jnp.trace(hand["jacobian"]),
        ),
        "covariance times a vector": (
            "matvec",
            empirical.matvec(path, bank, x, t, vector, **streamed),
            hand["covariance"] @ vector,
        ),
        "score": ("log_density", jax.grad(log_p)(x, t), hand["score"]),
        "Hessian of the log-density": ("log_density", jax.hessian(log_p)(x, t), hand["hessian"]),
        "time derivative of the mean": ("mean", jax.jacfwd(mean)(t), hand["mean_rate"]),
        "continuity of the log-density": (
            "log_density",
            log_rate,
            -empirical.divergence(path, bank, x, t) - u @ hand["score"],
        ),
        "time derivative": (
            "time_derivative",
            empirical.time_derivative(path, bank, x, t, **streamed),
            hand["rate"],
        ),
        "acceleration": (
            "acceleration",
            empirical.acceleration(path, bank, x, t),
            hand["acceleration"],
        ),
        "entropy, streamed": (
            "entropy",
            empirical.entropy(path, bank, x, t, **streamed),
            hand["entropy"],
        ),
        "effective number of points, streamed": (
            "effective_number",
            empirical.effective_number(path, bank, x, t, **streamed),
            hand["number"],
        ),
        "Lipschitz constant": (
            "lipschitz",
            empirical.lipschitz(jax.random.key(0), path, bank, x, t),
            jnp.max(jnp.abs(jnp.linalg.eigvalsh(hand["jacobian"]))),
        ),
        "all points kept": (
            "truncated",
            empirical.truncated(path, bank, x, t, k=len(bank), **streamed).velocity,
            hand["velocity"],
        ),
        "divergence, all points kept": (
            "truncated",
            empirical.truncated(path, bank, x, t, k=len(bank), **streamed).divergence,
            jnp.trace(hand["jacobian"]),
        ),
    }


def field_float64() -> Iterator[Row]:
    """Compares the law of a data set and all its derivatives with sums written out."""
    with jax.enable_x64(True):
        bank = jnp.asarray(_bank())
        for name, path in PATHS.items():
            both = jax.jit(jax.vmap(partial(_values, path, bank)))
            times = jnp.repeat(jnp.asarray(TIMES), 5)
            x = jnp.concatenate([_points(path, bank, t) for t in TIMES])
            for what, (ours, truth) in both(x, times).items():
                scale = float(jnp.max(jnp.abs(truth)))
                error = float(jnp.max(jnp.abs(ours - truth))) / scale
                yield Row(f"{what}, {name} path, relative", _FUNCTION[what], "CF (6)", error, 1e-9)


def _values(path: paths.Path, bank: jax.Array, x: jax.Array, t: jax.Array) -> dict:
    pairs = _pairs(path, bank, x, t)
    _FUNCTION.update({what: f"empirical.{name}" for what, (name, *_) in pairs.items()})
    return {what: (ours, truth) for what, (_, ours, truth) in pairs.items()}


_FUNCTION: dict[str, str] = {}


def paths_of_the_law() -> Iterator[Row]:
    """Follows the exact flow: density by its divergence, Euler's last step, straightness."""
    path = paths.linear()
    with jax.enable_x64(True):
        bank = jnp.asarray(_bank())
        field = partial(empirical.velocity, path, bank)
        x = _points(path, bank, 0.9)
        solve = partial(samplers.adaptive, rtol=1e-13, atol=1e-13, solver=diffrax.Dopri8())

        def by_flow(x: jax.Array) -> jax.Array:
            exact = lambda f, z: (f(z), jnp.trace(jax.jacfwd(f)(z)))
            return likelihood.log_prob(field, x, divergence=exact, solve=solve, t1=0.9)

        ours = jax.jit(jax.vmap(by_flow))(x)
        truth = jax.vmap(lambda x: empirical.log_density(path, bank, x, 0.9))(x)
        yield Row(
            "log-density at t = 0.9 by the divergence along the exact flow",
            "likelihood.log_prob", "CF, derived", float(jnp.max(jnp.abs(ours - truth))), 1e-9,
        )  # fmt: skip
        # Euler's last step from t = 1 - h lands on the posterior mean there.
        euler = partial(samplers.fixed, num_steps=1, solver=diffrax.Euler())
        last = jax.jit(jax.vmap(lambda x: euler(field, x, 0.9, 1.0)))(x)
        mean = jax.vmap(lambda x: empirical.mean(path, bank, x, 0.9))(x)
        yield Row(
            "Euler's last step against the posterior mean",
            "empirical.mean", "CF, derived", float(jnp.max(jnp.abs(last - mean))), 1e-12,
        )  # fmt: skip

        # E[|u_cond - u|^2 | x] = tr C / (1 - t)^2 = (1 - t) / t (div u + d / (1 - t)).
        def gap(x: jax.Array, t: float) -> jax.Array:
            w = empirical.weights(path, bank, x, t)
            cond = (bank - x[None]) / (1 - t)
            spread = jnp.sum(w * jnp.sum((cond - field(x, t)[None]) ** 2, axis=1))
            div = empirical.divergence(path, bank, x, t)
            return spread - (1 - t) / t * (div + x.size / (1 - t))

        gaps = [jax.vmap(partial(gap, t=t))(_points(path, bank, t)) for t in TIMES]
        worst = float(jnp.max(jnp.abs(jnp.concatenate(gaps))))
        yield Row(
            "variance of the conditional velocity from the divergence",
            "empirical.divergence", "CF, derived", worst, 1e-9,
        )  # fmt: skip


def efm_by_enumeration() -> Iterator[Row]:
    """Averages EFM's target over every bank that could have been drawn, of a set of five."""
    path, n, t = paths.linear(), 5, 0.4
    with jax.enable_x64(True):
        bank = jnp.asarray(_bank(n, 2))
        x = jnp.asarray([0.35, -0.1])
        w = empirical.weights(path, bank, x, t)
        exact = empirical.velocity(path, bank, x, t)
        # The noise with which the first of the points has made x.
        pair = lambda x1: ((x - t * x1) / (1 - t), x1)
        target = lambda some: empirical.anchored_velocity(path, some, *pair(some[0]), t)
        of_indices = jax.jit(lambda index: target(bank[index]))
        conditional = jax.vmap(lambda b: (b - x) / (1 - t))(bank)
        cfm = float(jnp.sum(w * jnp.sum((conditional - exact[None]) ** 2, axis=1)))
        before = cfm
        for size in range(1, n + 1):
            mean, variance = _over_banks(of_indices, np.asarray(w), np.asarray(exact), n, size)
            label = f"M = {size} of 5, without replacement"
            yield Row(
                f"mean of the target against the exact velocity, {label}",
                "empirical.anchored_velocity", "CF (10)",
                float(np.max(np.abs(mean - exact))), 1e-12,
            )  # fmt: skip
            yield Row(
                f"variance of the target over that of {'CFM' if size == 1 else f'M = {size - 1}'},"
                f" {label}", "empirical.anchored_velocity", "CF (11)", variance / before,
                1.0 + 1e-12,
            )  # fmt: skip
            before = max(variance, 1e-30)


def _over_banks(target, w, exact, n: int, size: int) -> tuple[np.ndarray, float]:
    """Returns mean and total variance of the target given x, over x1 given x and all the rest."""
    mean, square = np.zeros_like(exact), 0.0
    for first in range(n):
        others = [i for i in range(n) if i != first]
        banks = list(itertools.combinations(others, size - 1))
        for rest in banks:
            value = np.asarray(target(jnp.asarray([first, *rest])))
            mean += w[first] / len(banks) * value
            square += w[first] / len(banks) * np.sum((value - exact) ** 2)
    return mean, float(square)


def refined_float32() -> Iterator[Row]:
    """Measures the target of large banks in float32, twins in the bank, up to t = 0.99999."""
    path, errors = paths.linear(), {}
    with jax.enable_x64(True):
        key = jax.random.key(0)
        images = jax.random.uniform(key, (64, 3072), minval=-1.0, maxval=1.0).astype(jnp.float32)
        twins = images + 1e-3 * jax.random.normal(key, images.shape).astype(jnp.float32)
        x0 = jax.random.normal(jax.random.key(1), (3072,)).astype(jnp.float32)
        banks = {"images": images, "twins at a distance of 1e-3": jnp.concatenate([images, twins])}
        form = jax.jit(partial(empirical.refined_velocity, path, chunk_size=20))
        exact = jax.jit(partial(empirical.anchored_velocity, path))
        for name, bank in banks.items():
            for t in (0.01, 0.1, 0.15, 0.2, 0.5, 0.9, 0.99, 0.999, 0.9999, 0.99999):
                t32 = jnp.float32(t)
                ours = form(bank, x0, bank[7], t32)
                truth = exact(*(a.astype(jnp.float64) for a in (bank, x0, bank[7], t32)))
                error = float(jnp.linalg.norm(ours - truth) / jnp.linalg.norm(truth))
                errors.setdefault(name, []).append(error)
    for name, found in errors.items():
        error = float(np.max(found))  # NaN if one is
        yield Row(
            f"target of large banks in float32, 3,072 dimensions, {name}, t up to 0.99999",
            "empirical.refined_velocity", "CF, derived", error, 1e-6,
        )  # fmt: skip


def smoothed() -> Iterator[Row]:
    """Compares a bank on the path of blurred points with the kernel density it stands for."""
    path, h, t = paths.cosine(), 0.3, 0.6
    with jax.enable_x64(True):
        bank = jnp.asarray(_bank())
        blurred = paths.smoothed(path, h)
        x = _points(path, bank, t)[0]
        c, s = paths.coefficients(path, t), float(blurred.sigma(t))
        w = empirical.weights(blurred, bank, x, t)
        # Given b all is Gaussian: E[x1 | x, b] and its variance, by the rule of conditioning.
        means = bank + c.alpha * h**2 / s**2 * (x[None] - c.alpha * bank)
        mean = w @ means
        inner = (h * float(c.sigma) / s) ** 2 * jnp.eye(x.size)
        covariance = inner + (w[:, None] * (means - mean[None])).T @ (means - mean[None])
        field = partial(empirical.velocity, blurred, bank)
        noise = (x - c.alpha * mean) / c.sigma
        given = {"given": predictions.velocity, "wanted": predictions.x1}
        pairs = {
            "velocity": (field(x, t), c.alpha_dot * mean + c.sigma_dot * noise),
            "mean of the blurred data": (
                predictions.convert(path, field(x, t), x, t, **given), mean
            ),
            "covariance of the blurred data": (
                posterior.covariance(field, path, x, t), covariance
            ),
            "divergence": (
                empirical.divergence(blurred, bank, x, t),
                divergence.exact(lambda z: field(z, t), x)[1],
            ),
        }  # fmt: skip
        for what, (ours, truth) in pairs.items():
            error = float(jnp.max(jnp.abs(ours - truth)))
            yield Row(
                f"{what} of a smoothed data set", "paths.smoothed", "CF, derived", error, 1e-9
            )


GROUPS = (field_float64, paths_of_the_law, efm_by_enumeration, refined_float32, smoothed)
