"""Uncertainty maps along a generation, and whether they lie on the edges of what is drawn.

A sample is followed from noise to data; at each of several times come the state, the mean of
the data given it, and the variance of every pixel. Edges are those of the posterior mean: with
the central differences of neighboring pixels,

    g = |grad m|,     edge: g >= max(g) / 2                                                (1)

and two numbers say how far a map C lies on them: the mean of max(C, 0) on edge pixels over its mean
elsewhere (a learned C is often negative where nothing varies, and a ratio of such means says
nothing), and the correlation of C with g over pixels. Strokes lie in the middle of an image and
vary there, so a map that knows nothing of the image at hand is not at 1 and 0, as a constant one
is: beside each number stands its null, the same of the map of another image. A mean without edges,
such as a flat one, says nothing and is left out.

References:
  Xing et al. (2026), Divergence is Uncertainty, arXiv 2605.00941, section 5.2.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import fmjax
from experiments.images import data
from experiments.run import batches
from fmjax.paths import Path
from fmjax.types import Array, AverageVelocity, Key, PyTree, Velocity

_solve = functools.partial(fmjax.samplers.adaptive, rtol=1e-3, atol=1e-3)


def measure(velocity: Velocity, path: Path, x0: Array, x1: Array, t: Array) -> dict[str, Array]:
    """Returns the posterior of one noised image, and the error its mean makes."""
    found = state(velocity, path, fmjax.paths.interpolate(path, x0, x1, t), t)
    error = jnp.sum((x1 - found["mean"]) ** 2)
    return found | {"image": x1, "uncertainty": found["variance"].sum(), "error": error}


def state(velocity: Velocity, path: Path, x: Array, t: Array) -> dict[str, Array]:
    """Returns the posterior at one state of a generation, where there is no error to be had."""
    return {
        "noised": x,
        "mean": fmjax.posterior.mean(velocity, path, x, t),  # section 4.1
        "variance": fmjax.posterior.diagonal(velocity, path, x, t),  # section 4.3, d jvps
    }


def of_one_step(
    average_velocity: AverageVelocity,
    path: Path,
    times: tuple[float, ...],
    x0: Array,
    noises: Array,
) -> dict[str, Array]:
    """Returns the one-step sample of a noise, and its maps under their honest names.

    Args:
      average_velocity: `(x, r, t) -> u`.
      path: the path.
      times: at which images are noised.
      x0: `[*dims]`, the noise.
      noises: `[k, *dims]`, with which the sample is noised again; their maps are averaged.

    Returns:
      `sample` and `sensitivity`, `[*dims]`, and `renoised`, `[len(times), *dims]`.
    """
    x1 = fmjax.samplers.one_step(average_velocity, x0)

    def renoised(t: Array) -> Array:
        one = functools.partial(fmjax.onestep.renoised, average_velocity, path)
        return jax.lax.map(lambda noise: one(noise, x1, t), noises).mean(axis=0)

    return {
        "sample": x1,
        "renoised": jax.lax.map(renoised, jnp.array(times)),
        "sensitivity": fmjax.onestep.sensitivity_diagonal(average_velocity, path, x0),
    }


def samples(apply: Callable[..., Array], params: PyTree, noise: Array, *, size: int) -> np.ndarray:
    """Returns samples of a flow, by an adaptive solver.

    Args:
      apply: `(params, x, t) -> dx` of one example.
      params: the parameters.
      noise: `[n, *dims]`.
      size: samples at a time.
    """
    function = batches.batched(apply, params, _solve)
    return batches.in_batches(function, noise, size=size, label="samples")


def _generation(velocity: Velocity, times: tuple[float, ...], noise: Array) -> tuple[Array, Array]:
    """Returns the states of one generation at the times, and its sample."""
    knots = jnp.array([0.0, *times, 1.0])
    states = fmjax.samplers.trajectory(velocity, noise, knots, solve=_solve)
    return states[1:-1], states[-1]


def follow(
    apply: Callable[..., Array],
    params: PyTree,
    path: Path,
    noise: Array,
    times: tuple[float, ...],
    *,
    size: int,
) -> tuple[list[dict[str, float]], dict[str, Any]]:
    """Returns the statistic of edges along generations, and their maps.

    Args:
      apply: `(params, x, t) -> dx` of one example.
      params: the parameters.
      path: the path.
      noise: `[n, h, w, c]`, where the generations start.
      times: increasing, in (0, 1).
      size: images at a time.

    Returns:
      For each time a row, and the arrays: `by_time`, the output of `state`, and the `samples`.
    """
    every = functools.partial(batches.in_batches, size=size)
    batched = functools.partial(batches.batched, apply, params)
    states, drawn = every(batched(_generation, times), noise, label="generations")
    by_time, measured = {}, batched(state, path)
    for index, t in enumerate(times):
        x, ts = states[:, index], np.full(len(noise), t, np.float32)
        by_time[t] = every(measured, x, ts, label=f"maps of generations, t = {t}")
    rows = [edge_statistic(t, m["mean"], m["variance"]) for t, m in by_time.items()]
    return rows, {"by_time": by_time, "samples": drawn}


def calibrate(
    apply: Callable[..., Array],
    params: PyTree,
    path: Path,
    key: Key,
    pixels: np.ndarray,
    levels: int,
    *,
    times: tuple[float, ...],
    size: int,
    label: str,
) -> dict[float, dict[str, np.ndarray]]:
    """Returns the posteriors of noised images at each time, with the errors of their means.

    Args:
      apply: `(params, x, t) -> dx` of one example.
      params: the parameters.
      path: the path.
      key: for the dequantization and the noise, which is the same at all times.
      pixels: uint8 `[n, h, w, c]`.
      levels: values that a pixel can take.
      times: in (0, 1).
      size: images at a time.
      label: what the progress bar says.

    Returns:
      From each time to the stacked output of `measure`.
    """
    key_bins, key_noise = jax.random.split(key)
    x1 = data.dequantize(key_bins, jnp.asarray(pixels), levels)
    x0 = jax.random.normal(key_noise, x1.shape)
    function, by_time = batches.batched(apply, params, measure, path), {}
    for t in times:
        ts = np.full(len(x1), t, np.float32)
        by_time[t] = batches.in_batches(function, x0, x1, ts, size=size, label=f"{label}, t = {t}")
    return by_time


def gradient(mean: np.ndarray) -> np.ndarray:
    """Returns the gradient magnitude of images, root mean square over channels.

    Args:
      mean: `[n, h, w, c]`, h and w at least 2.

    Returns:
      `[n, h, w]`.
    """
    rows, columns = np.gradient(np.asarray(mean, np.float64), axis=(1, 2))
    return np.sqrt((rows**2 + columns**2).mean(axis=-1))


def edge_statistic(t: float, mean: np.ndarray, variance: np.ndarray) -> dict[str, float]:
    """Returns how far variance maps lie on the edges (1) of their means.

    Args:
      t: the time, for the row.
      mean: `[n, h, w, c]`.
      variance: `[n, h, w, c]`.

    Returns:
      Over the `num_images` images with pixels on both sides: the share of edge pixels, the ratio
      of mean variance on and off the edges (of the sums over all images), and the mean over
      images of the correlation of the map with the gradient, each with its standard error and,
      as `null_ratio` and `null_correlation`, with every map replaced by the map of the next image.
      What too few images do not tell is NaN: all of them without one, a standard error with one.
    """
    g, c = gradient(mean), np.asarray(variance, np.float64).mean(axis=-1)
    edge = g >= 0.5 * g.max(axis=(1, 2), keepdims=True)
    told = np.flatnonzero(~edge.all(axis=(1, 2)))
    g, c, edge = g[told], c[told], edge[told]
    (on, off), correlations = _on_edges(c, g, edge)
    (null_on, null_off), null_correlations = _on_edges(np.roll(c, 1, axis=0), g, edge)
    ratio = _mean(on) / _mean(off)
    return {
        "t": t,
        "num_images": len(told),
        "edge_share": _mean(edge),
        "ratio": ratio,
        "ratio_standard_error": _standard_error(on - ratio * off) / abs(_mean(off)),
        "null_ratio": _mean(null_on) / _mean(null_off),
        "correlation": _mean(correlations),
        "correlation_standard_error": _standard_error(correlations),
        "null_correlation": _mean(null_correlations),
    }


def _on_edges(
    c: np.ndarray, g: np.ndarray, edge: np.ndarray
) -> tuple[list[np.ndarray], list[float]]:
    """Returns the mean of each map on and off the edges, and its correlation with the gradient."""
    positive = np.maximum(c, 0.0)
    sides = [(positive * side).sum(axis=(1, 2)) / side.sum(axis=(1, 2)) for side in (edge, ~edge)]
    return sides, [_correlation(a, b) for a, b in zip(c, g, strict=True)]


def _correlation(variance: np.ndarray, g: np.ndarray) -> float:
    """Returns the correlation over pixels; a map that is constant goes with nothing."""
    if np.ptp(variance) == 0.0:
        return 0.0
    return float(np.corrcoef(variance.ravel(), g.ravel())[0, 1])


def _mean(values: Sequence[float] | np.ndarray) -> float:
    return float(np.mean(values)) if np.size(values) else math.nan


def _standard_error(values: Sequence[float] | np.ndarray) -> float:
    return float(np.std(values, ddof=1) / len(values) ** 0.5) if len(values) > 1 else math.nan
