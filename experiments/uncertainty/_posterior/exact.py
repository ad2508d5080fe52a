"""The exact posterior of the training data, the ground truth of a learned one.

Let the data be the training images b_i, each blurred by independent Gaussian noise of standard
deviation h, `x1 = b_i + h e`. Then `x_t = alpha b_i + s n` with `s^2 = sigma^2 + alpha^2 h^2`
and n ~ N(0, I), so that b given x_t has the law of a finite data set on the path (alpha, s), in
closed form (`fmjax.empirical`), and given b_i everything is Gaussian:

    E[x1 | x_t]   = (sigma^2 / s^2) E[b | x_t] + (alpha h^2 / s^2) x_t                     (1)
    Cov[x1 | x_t] = (sigma^2 / s^2)^2 Cov[b | x_t] + (h sigma / s)^2 I                     (2)

Two widths are of use. The uniform noise that dequantizes a pixel has the standard deviation of
its bin over sqrt(12): with this h the law is the one that the network was trained on (but for the
shape of that noise), and its posterior is what a network that had memorized would return. The h
that gives held-out images the largest likelihood makes the best kernel density of the training
images: a stand-in for the law that they were drawn from.

References:
  Bertrand et al. (2025), On the Closed-Form of Flow Matching, arXiv 2506.03719.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import fmjax
from experiments.images import data
from experiments.run import batches
from experiments.uncertainty import _calibration
from fmjax.paths import Path
from fmjax.types import Array

HIGHEST = jax.lax.Precision.HIGHEST


def posterior(path: Path, bank: Array, width: float, x: Array, t: Array) -> tuple[Array, Array]:
    """Returns mean (1) and variances, the diagonal of (2), of the smoothed data set.

    Args:
      path: the path.
      bank: `[n, *dims]`, the data set.
      width: h, the standard deviation of the smoothing noise, not negative.
      x: `[*dims]`, the state.
      t: `[]`, in [0, 1), with `sigma(t) > 0`.

    Returns:
      Two arrays `[*dims]`.
    """
    blurred = fmjax.paths.smoothed(path, width)
    weights = fmjax.empirical.weights(blurred, bank, x, t)
    average = functools.partial(jnp.tensordot, weights, axes=1, precision=HIGHEST)
    mean = average(bank)
    spread = jnp.maximum(average(bank**2) - mean**2, 0.0)
    alpha, sigma, s = path.alpha(t), path.sigma(t), blurred.sigma(t)
    shrink = (sigma / s) ** 2
    return (
        shrink * mean + alpha * (width / s) ** 2 * x,
        shrink**2 * spread + (width * sigma / s) ** 2,
    )


def best_width(path: Path, bank: Array, held_out: Array, *, size: int) -> float:
    """Returns the smoothing width under which held-out images are likeliest.

    Args:
      path: the path.
      bank: `[n, *dims]`, the training images.
      held_out: `[m, *dims]`.
      size: images at a time.

    Returns:
      The best of 24 widths from 0.02 to 1, equal in ratio.
    """
    widths = np.geomspace(0.02, 1.0, 24)

    def log_densities(bank: Array, x: Array) -> Array:
        def one(width: Array) -> Array:
            blurred = fmjax.paths.smoothed(path, width)
            return fmjax.empirical.log_density(blurred, bank, x, 1.0)

        return jax.lax.map(one, jnp.asarray(widths, x.dtype))

    function = functools.partial(jax.jit(jax.vmap(log_densities, in_axes=(None, 0))), bank)
    values = batches.in_batches(function, held_out, size=size, label="width of the kernel")
    return float(widths[values.mean(axis=0).argmax()])


def compare(
    path: Path, images: data.Images, arrays: dict[str, dict], *, size: int
) -> tuple[dict[str, Any], dict[str, dict]]:
    """Returns how a learned posterior differs from the exact one of the training data.

    On states of training images the exact law is that of the dequantized training data, on those
    of held-out images the best kernel density.

    Args:
      path: the path.
      images: the data set.
      arrays: as "train" and "held_out", from each time to what was measured there (`image`,
        `noised`, `variance`, `mean`).
      size: states at a time.

    Returns:
      The widths and for each part and time a row, and for each part and time the exact `mean` and
      `variance`.
    """
    # The centers of the pixels' bins; the width stands for what lies around them.
    bank = jnp.asarray(data.centers(images.train, images.levels))
    held_out = next(iter(arrays["held_out"].values()))["image"]
    widths = {
        "train": data.bin_width(images.levels) / 12**0.5,
        "held_out": best_width(path, bank, held_out, size=size),
    }
    results, exactly = {"widths": widths}, {}
    for part, width in widths.items():
        exactly[part] = _of_states(path, bank, width, arrays[part], size=size)
        results[part] = [_row(t, arrays[part][t], *exactly[part][t].values()) for t in arrays[part]]
    return results, exactly


def _of_states(
    path: Path, bank: Array, width: float, by_time: dict[float, dict], *, size: int
) -> dict[float, dict[str, np.ndarray]]:
    """Returns the exact posterior of the states at each time."""
    one = lambda bank, x, t: posterior(path, bank, width, x, t)  # noqa: E731
    many, found = functools.partial(jax.jit(jax.vmap(one, in_axes=(None, 0, 0))), bank), {}
    for t, learned in by_time.items():
        x = learned["noised"]
        mean, variance = batches.in_batches(
            many,
            x,
            np.full(len(x), t, np.float32),
            size=size,
            label=f"exact posterior, width {width:.3f}, t = {t}",
        )
        found[t] = {"mean": mean, "variance": variance}
    return found


def _row(t: float, learned: dict, mean: np.ndarray, variance: np.ndarray) -> dict[str, float]:
    """Returns the line of the table for one time; `exact_error` is the error of the exact mean."""
    u, exact = _calibration.totals(learned["variance"]), _calibration.totals(variance)
    maps = _calibration.map_correlations(learned["variance"], variance)
    told = maps[np.isfinite(maps)]  # an exact map that is constant correlates with nothing
    return {
        "t": t,
        "num_images": len(u),
        "mean_u": float(u.mean()),
        "mean_exact_u": float(exact.mean()),
        "exact_error": float(_calibration.totals((learned["image"] - mean) ** 2).mean()),
        "median_relative_error": float(np.median(np.abs(u - exact) / exact)),
        "pearson_u": float(fmjax.metrics.pearson(u, exact)),
        "map_correlation": float(told.mean()) if len(told) else math.nan,
        "rms_mean_difference": float(np.sqrt(np.mean((learned["mean"] - mean) ** 2))),
    }
