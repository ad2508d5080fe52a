"""Held-out likelihood of a flow on images, in bits per dimension."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

import fmjax
from experiments.images import data
from experiments.images.options import Likelihood
from experiments.run import batches
from fmjax.types import Array, Key, PyTree, Velocity


def log_likelihood(velocity: Velocity, probes: int, tolerance: float, key: Key, x1: Array) -> Array:
    """Returns the log-density of one image in nats, by an adaptive solver.

    Args:
      velocity: the field, `(x, t) -> dx`.
      probes: Hutchinson probes of the divergence; 0 is the exact divergence.
      tolerance: relative and absolute tolerance of a step.
      key: for the probes.
      x1: `[h, w, c]`.
    """
    divergence = fmjax.divergence.chunked
    if probes:
        divergence = functools.partial(fmjax.divergence.hutchinson, key, num_probes=probes)
    solve = functools.partial(fmjax.samplers.adaptive, rtol=tolerance, atol=tolerance)
    return fmjax.likelihood.log_prob(velocity, x1, divergence=divergence, solve=solve)


def bits_per_dim(
    apply: Callable[..., Array],
    params: PyTree,
    images: data.Images,
    options: Likelihood,
    key: Key,
    *,
    size: int,
) -> dict[str, Any]:
    """Returns the mean negative log-likelihood of held-out images, pixels dequantized.

    Args:
      apply: `(params, x, t) -> dx` of one example.
      params: the parameters.
      images: the data set.
      options: how many images are measured, and how exactly.
      key: for the dequantization and the probes.
      size: images at a time.

    Returns:
      The mean, its standard error, and how it was measured.
    """
    key_bins, key_probe = jax.random.split(key)
    pixels, probes = images.held_out[: options.num_likelihood], options.likelihood_probes
    x1 = data.dequantize(key_bins, jnp.asarray(pixels), images.levels)
    function = batches.batched(apply, params, log_likelihood, probes, options.tolerance)
    keys = jax.random.split(key_probe, len(x1))
    nats = batches.in_batches(function, keys, x1, size=size, label="likelihood")
    width = data.bin_width(images.levels)
    bits = fmjax.likelihood.bits_per_dim(nats, x1[0].size, bin_width=width)
    divergence = f"{probes} Hutchinson probes for the" if probes else "exact"
    return {
        "bits_per_dim": float(bits.mean()),
        "standard_error": float(bits.std(ddof=1) / len(bits) ** 0.5),
        "how": f"{len(bits)} images, {divergence} divergence, pixels of {images.levels} levels "
        "dequantized by uniform noise",
    }
