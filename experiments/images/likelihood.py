"""Held-out likelihood of a flow on images: noise within the bins of pixels, bits per dimension.

A flow has a density p of real numbers, a pixel is an integer. Its probability is that of its bin:
with noise u of density q, which is 0 outside of the bin and nowhere 0 in it,

    P(x) = int_bin p(x + u) du = E_q w,   w = p(x + u) / q(u),   x the center of the bin         (1)

The logarithm is concave, so the mean of K draws gives a lower bound on average,

    L_K = E log (1/K sum_k w_k) <= L_(K+1) <= log P(x),   L_K -> log P(x)                        (2)

(a mean over K + 1 draws is the mean of the means over K of them, which gives the order; and the law
of large numbers the limit, where w has a mean of its logarithm). For K = 1

    log P(x) - L_1 = KL(q || p within the bin)                                                   (3)

so the best noise is the one that the model has within a bin itself. A flow trained on pixels with
uniform noise is nearly flat there: `uniform`. A flow trained on the bare centers of the bins is
stopped where its path leaves the noise N(0, s^2) on the data, and within a bin it is nearly that
Gaussian: `truncated_normal` with the same s, small enough that hardly any of it is cut off (i-DODE
takes half a bin for three deviations). Training and evaluation then see the same states.

The weights in (2) need exact densities: an error of their logarithms, as from random probes, comes
into the mean as a convex function of itself and raises the bound. Draws of one image that share the
probes have nearly the same error, which leaves the weights against each other as they are.

References:
  Theis et al. (2016), A note on the evaluation of generative models, arXiv 1511.01844.
  Burda et al. (2016), Importance Weighted Autoencoders, arXiv 1509.00519, theorem 1 (2).
  Zheng et al. (2023), Improved Techniques for Maximum Likelihood Estimation for Diffusion ODEs
  (i-DODE), arXiv 2305.03935, the sections on truncated-normal dequantization and its importance
  weights.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

import fmjax
from experiments.images import data
from experiments.images.options import Likelihood
from experiments.run import batches
from fmjax.types import Array, Key, PyTree, Velocity


class Dequantization(NamedTuple):
    """Noise within a bin.

    Attributes:
      draw: `(key, shape, dtype) -> u`, from the center of the bin.
      log_prob: `u[*dims] -> []`, the log-density of all entries together in nats.
    """

    draw: Callable[..., Array]
    log_prob: Callable[[Array], Array]


def uniform(width: float) -> Dequantization:
    """Returns noise that fills a bin evenly."""
    half = width / 2
    return Dequantization(
        draw=lambda key, shape, dtype=float: jax.random.uniform(
            key, shape, dtype, minval=-half, maxval=half
        ),
        log_prob=lambda u: jnp.where(jnp.abs(u) <= half, -math.log(width), -jnp.inf).sum(),
    )


def truncated_normal(width: float, scale: float) -> Dequantization:
    """Returns N(0, scale^2) within a bin of this width."""
    edge = width / (2 * scale)

    def draw(key: Key, shape: tuple[int, ...], dtype: Any = float) -> Array:
        return scale * jax.random.truncated_normal(key, -edge, edge, shape, dtype)

    def log_prob(u: Array) -> Array:
        # A draw on the very edge may pass it by a rounding.
        z = jnp.clip(u / scale, -edge, edge)
        each = jax.scipy.stats.truncnorm.logpdf(z, -edge, edge) - math.log(scale)
        return jnp.where(jnp.abs(u) <= width / 2 * (1 + 1e-6), each, -jnp.inf).sum()

    return Dequantization(draw, log_prob)


def bound(log_weights: Array) -> Array:
    """Returns the logarithm of the mean weight, eq. (2).

    Args:
      log_weights: `[..., K]`, `log p(x + u) - log q(u)` of each draw.
    """
    return jax.nn.logsumexp(log_weights, axis=-1) - math.log(log_weights.shape[-1])


def log_likelihood(
    velocity: Velocity,
    probes: int,
    tolerance: float,
    key: Key,
    x1: Array,
    noise: Array | float = 0.0,
) -> Array:
    """Returns the log-density of one image in nats, by an adaptive solver.

    Args:
      velocity: the field, `(x, t) -> dx`, of the linear path.
      probes: Hutchinson probes of the divergence; 0 is the exact divergence.
      tolerance: relative and absolute tolerance of a step.
      key: for the probes.
      x1: `[h, w, c]`.
      noise: deviation of the noise on the data whose density is meant. The flow is stopped at the
        time t with (1 - t) / t = noise, and its state divided by t.
    """
    divergence = fmjax.divergence.chunked
    if probes:
        divergence = functools.partial(fmjax.divergence.hutchinson, key, num_probes=probes)
    solve = functools.partial(fmjax.samplers.adaptive, rtol=tolerance, atol=tolerance)
    end = 1.0 / (1.0 + noise)
    given = {"divergence": divergence, "solve": solve, "t1": end}
    return fmjax.likelihood.log_prob(velocity, end * x1, **given) + x1.size * jnp.log(end)


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
