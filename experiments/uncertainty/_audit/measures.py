"""What is measured of a velocity: posterior, Jacobian, likelihood, and copies of training data.

The Jacobian J of an exact velocity is symmetric, and so is that of its posterior mean, which is the
covariance C but for a factor. Of a learned velocity

    a(J) = |J - J^T| / |J + J^T|,    a(C) = |C - C^T| / |C + C^T|                          (1)

(Frobenius norms) are shares of what cannot be right in what can. Both have the same antisymmetric
part; towards the noise C is a small difference of large numbers, so a(C) grows, and where it
passes 1/2 the covariance is mostly the error of the Jacobian. So it is where the posterior mean
errs more than the mean of all data, and where U differs from example to example more than the
errors allow (a best correlation above 1, `fmjax.metrics.calibration`). Of the eigenvalues l of the
symmetric part of C, none of which may be negative,

    share = #{l < -0.001 max l} / d,    mass = sum |min(l, 0)| / sum |l|                   (2)

are measured where C is computed whole, and -min l / max l in any case.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import fmjax
from experiments.images import data as images_data
from experiments.images.options import Likelihood
from experiments.run import batches, numbers
from experiments.uncertainty._audit.sources import Data
from experiments.uncertainty._audit.subjects import Field
from fmjax.paths import Path
from fmjax.types import Array, Key, Velocity

COPY = 1 / 3
"""Distance ratio below which a sample repeats a training example."""


def estimated(
    velocity: Velocity, path: Path, num_probes: int, key: Key, x0: Array, x1: Array, t: Array
) -> dict[str, Array]:
    """Returns the posterior mean of one noised example, its error, and U by random probes.

    Args:
      velocity: `(x, t) -> dx`.
      path: the path.
      num_probes: for U.
      key: for the probes.
      x0: `[*dims]`, noise.
      x1: `[*dims]`, data.
      t: `[]`, in (0, 1).
    """
    x = fmjax.paths.interpolate(path, x0, x1, t)
    estimator = functools.partial(fmjax.estimators.hutchinson, key, num_probes=num_probes)
    found = {
        "noised": x,
        "mean": fmjax.posterior.mean(velocity, path, x, t),
        "uncertainty": fmjax.posterior.estimate(velocity, path, x, t, estimator=estimator).mean,
    }
    return found | {"image": x1, "error": jnp.sum((x1 - found["mean"]) ** 2)}


def jacobian(
    velocity: Velocity, path: Path, num_probes: int, key: Key, x: Array, t: Array
) -> dict[str, Array]:
    """Returns (1) and (2) at one state.

    Args:
      velocity: `(x, t) -> dx`.
      path: the path.
      num_probes: for the norms and the extreme eigenvalues; 0 takes all columns.
      key: for the probes.
      x: `[*dims]`, the state.
      t: `[]`, in (0, 1).
    """
    key_j, key_c, key_e = jax.random.split(key, 3)
    mean = functools.partial(fmjax.posterior.mean, velocity, path)
    count = num_probes or x.size
    found = {
        "asymmetry": fmjax.posterior.asymmetry(key_j, velocity, x, t, num_probes=count),
        "asymmetry_covariance": fmjax.posterior.asymmetry(key_c, mean, x, t, num_probes=count),
    }
    if num_probes:
        steps = min(2 * num_probes, x.size)
        extremes = fmjax.posterior.extremes(key_e, velocity, path, x, t, num_matvecs=steps)
        return found | {"least": extremes[0], "greatest": extremes[1]}
    values = jnp.linalg.eigvalsh(fmjax.posterior.covariance(velocity, path, x, t))
    return found | {
        "least": values[0],
        "greatest": values[-1],
        "negative_share": jnp.mean(values < -1e-3 * jnp.abs(values).max()),
        "negative_mass": -jnp.sum(jnp.minimum(values, 0)) / jnp.sum(jnp.abs(values)),
    }


def spectra(t: float, found: dict[str, np.ndarray]) -> dict[str, float]:
    """Returns the row of one time of what `jacobian` found at several states."""
    negative = np.maximum(-found["least"], 0.0) / np.abs(found["greatest"])
    rows = {
        "asymmetry": found["asymmetry"],
        "asymmetry_covariance": found["asymmetry_covariance"],
        "negative_ratio": negative,
        **{name: found[name] for name in ("negative_share", "negative_mass") if name in found},
    }
    means = {name: numbers.mean(values) for name, values in rows.items()}
    return {"t": t, "num_states": len(negative)} | {
        key: value
        for name, one in means.items()
        for key, value in ((name, one["mean"]), (f"{name}_standard_error", one["standard_error"]))
    }


def near_noise(
    calibration: list[dict[str, float]], jacobian: list[dict[str, float]], x1: Array
) -> list[dict[str, float]]:
    """Returns for each time what tells that it is too near to the noise for the model.

    Args:
      calibration: the rows of the calibration.
      jacobian: the rows of `spectra` at the same times.
      x1: `[n, *dims]`, the examples; their total variance is what their mean errs by.
    """
    variance = float(np.var(np.asarray(x1, np.float64), axis=0, ddof=1).sum())
    return [
        {
            "t": one["t"],
            "mean_error": one["mean_error"],
            "data_variance": variance,
            "best_pearson": one["best_pearson"],
            "asymmetry_covariance": other["asymmetry_covariance"],
        }
        for one, other in zip(calibration, jacobian, strict=True)
    ]


def log_density(
    velocity: Velocity, scale: float, probes: int, tolerance: float, key: Key, x1: Array
) -> Array:
    """Returns the log-density of one example in nats; the noise has this standard deviation."""
    divergence = fmjax.divergence.chunked
    if probes:
        divergence = functools.partial(fmjax.divergence.hutchinson, key, num_probes=probes)
    solve = functools.partial(fmjax.samplers.adaptive, rtol=tolerance, atol=tolerance)
    noise = functools.partial(fmjax.likelihood.standard_normal, scale=scale)
    return fmjax.likelihood.log_prob(
        velocity, x1, log_prob0=noise, divergence=divergence, solve=solve
    )


def likelihood(
    field: Field, data: Data, asked: Likelihood, key: Key, *, size: int
) -> dict[str, Any]:
    """Returns the mean log-density of held-out examples, of images in bits per dimension, too.

    Args:
      field: the velocity; sigma(0) of its path is the deviation of the noise.
      data: the examples.
      asked: how many of them, and how exactly.
      key: for the probes.
      size: examples at a time.
    """
    x1 = data.held_out[: asked.num_likelihood]
    bound = (float(field.path.sigma(0.0)), asked.likelihood_probes, asked.tolerance)
    function = field.many(log_density, *bound)
    keys = jax.random.split(key, len(x1))
    nats = batches.in_batches(function, keys, x1, size=size, label="likelihood")
    found = {"num_examples": len(nats), "probes": asked.likelihood_probes}
    found |= {f"nats_{name}": value for name, value in numbers.mean(nats).items()}
    if data.levels is None:
        return found
    width = images_data.bin_width(data.levels)
    bits = np.asarray(fmjax.likelihood.bits_per_dim(nats, x1[0].size, bin_width=width))
    return found | {f"bits_{name}": value for name, value in numbers.mean(bits).items()}


def copies(drawn: np.ndarray, data: Data) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Returns how many samples repeat a training example, beside held-out examples.

    Args:
      drawn: `[n, *dims]`, samples.
      data: with its training part.

    Returns:
      Shares with standard errors, and the distance ratios of samples and of held-out examples.
    """
    ratio = jax.jit(fmjax.metrics.distance_ratio)
    train, others = jnp.asarray(data.train), data.held_out[: len(drawn)]
    ratios = {
        "samples": np.asarray(ratio(jnp.asarray(drawn), train)),
        "held_out": np.asarray(ratio(jnp.asarray(others), train)),
    }
    found = {name: numbers.share(values < COPY) for name, values in ratios.items()}
    medians = {f"median_{name}": float(np.median(values)) for name, values in ratios.items()}
    return {"num_samples": len(drawn), "num_train": len(train), **found, **medians}, ratios


def excess(found: dict[str, Any]) -> float:
    """Returns by how many standard errors more samples repeat a training example than others do.

    Args:
      found: what `copies` returns first.
    """
    samples, held_out = found["samples"], found["held_out"]
    least = 1.0 / found["num_samples"]  # a share of none or all is not known exactly
    spread = math.hypot(samples["standard_error"], held_out["standard_error"], least)
    return (samples["share"] - held_out["share"]) / spread
