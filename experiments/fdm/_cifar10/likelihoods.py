"""Likelihoods of held-out images by two noises within the bins, and without any Jacobian.

A network is measured with the noise that it was trained for (`experiments.images.likelihood`):

    uniform     trained on pixels with uniform noise, the flow goes to t = 1
    truncated   trained on the centers of the bins, the flow is stopped where it leaves N(0, s^2)

Images, noises and probes are the same for all methods, so that their differences are paired.

The check without a Jacobian. On the way to x + s e, e a standard normal, the flow that is stopped
has in the units of the data the path `alpha = t, sigma = 1 + s - t` and the velocity (1). The
relation of information and mean squared error gives, for the exact velocity of a law p_s that has
that noise, the mean of its log-density around a point from the errors of denoising alone,

    v_s(y, t) = v(y / (1 + s), t / (1 + s))                                                      (1)
    E_e log p_s(x + s e) = `fmjax.likelihood.from_errors`(v_s, path, x)                          (2)

For a learned velocity the right side is what its squared error says, the left side what its flow
does. They differ by its error, whose size the gap measures; the sign of the gap is not known
beforehand.
"""

from collections.abc import Callable
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import fmjax
from experiments.images import data, likelihood, training
from experiments.run import batches, numbers
from fmjax.paths import Path
from fmjax.types import Array, Key, PyTree, Velocity

_MOST = 0.05  # noise on the data, as `fmjax.likelihood.from_errors` asks for


class Noise(NamedTuple):
    """What a network is trained on, and how it is measured.

    Attributes:
      place: of a pixel in the training, from a key, pixels and levels to x.
      dequantization: of a held-out pixel.
      left: deviation of the noise that the flow leaves on the data where it is measured.
    """

    place: Callable[..., Array]
    dequantization: likelihood.Dequantization
    left: float


def scale(levels: int, deviations: float) -> float:
    """Returns the deviation of which half a bin holds so many."""
    return data.bin_width(levels) / 2 / deviations


def check(levels: int, deviations: float) -> None:
    """Raises ValueError if the flow would be stopped too far from the data for eq. (2).

    Args:
      levels: values that a pixel can take.
      deviations: as for `noise`.
    """
    least = data.bin_width(levels) / 2 / _MOST
    if deviations <= least:
        message = (
            f"deviations must be more than {least:.3g} for pixels of {levels} levels, got "
            f"{deviations}: the flow is stopped where so many fill half a bin, and the relation of "
            f"errors and likelihood needs less noise than {_MOST} there."
        )
        raise ValueError(message)


def noise(name: str, levels: int, deviations: float) -> Noise:
    """Returns one of `options.NOISES`.

    Args:
      name: of the noise.
      levels: values that a pixel can take.
      deviations: of the truncated normal in half a bin.
    """
    width = data.bin_width(levels)
    if name == "uniform":
        return Noise(data.dequantize, likelihood.uniform(width), 0.0)
    left = scale(levels, deviations)
    return Noise(training.at_centers, likelihood.truncated_normal(width, left), left)


def stopped(velocity: Velocity, left: float) -> tuple[Velocity, Path]:
    """Returns velocity (1) and its path, of the flow that leaves this noise on the data."""
    whole = 1.0 + left
    path = Path(alpha=lambda t: t, sigma=lambda t: whole - t)
    return lambda y, t: velocity(y / whole, t / whole), path


@cache  # compiled once for all networks
def _densities(apply: Callable[..., Array], probes: int, tolerance: float) -> Callable[..., Array]:
    """Returns `(params, keys, x1, noise) -> nats` of many points."""

    def many(params: PyTree, keys: Key, x1: Array, left: Array) -> Array:
        one = partial(likelihood.log_likelihood, partial(apply, params), probes, tolerance)
        return jax.vmap(one)(keys, x1, left)

    return many


@cache
def _errors(apply: Callable[..., Array], left: float, draws: int) -> Callable[..., PyTree]:
    """Returns `(params, keys, x1) -> estimates`, eq. (2), of many points."""

    def many(params: PyTree, keys: Key, x1: Array) -> PyTree:
        velocity, path = stopped(partial(apply, params), left)
        one = partial(fmjax.likelihood.from_errors, num_draws=draws)
        return jax.vmap(lambda key, x: one(key, velocity, path, x))(keys, x1)

    return many


def densities(
    network: tuple[Callable[..., Array], PyTree],
    keys: Key,
    x: Array,
    left: float,
    probes: int,
    asked: Any,
    *,
    label: str,
) -> np.ndarray:
    """Returns log-densities `[n, K]` of K points for each image, in nats.

    Args:
      network: `apply` and its parameters.
      keys: `[n]`, of the probes, which the points of an image share.
      x: `[n, K, h, w, c]`.
      left: deviation of the noise that the flow leaves on the data.
      probes: of the divergence; 0 is exact.
      asked: the tolerance and the number of points at a time.
      label: of the progress bar.
    """
    apply, params = network
    many = partial(_densities(apply, probes, asked.tolerance), params)
    n, count = x.shape[:2]
    flat = x.reshape(n * count, *x.shape[2:])
    lefts = np.full(len(flat), left, np.float32)
    keys = jnp.repeat(keys, count, axis=0)
    size = asked.likelihood_batch_size
    return batches.in_batches(many, keys, flat, lefts, size=size, label=label).reshape(n, count)


def measure(
    network: tuple[Callable[..., Array], PyTree],
    images: data.Images,
    kind: Noise,
    asked: Any,
    key: Key,
    *,
    name: str,
) -> dict[str, np.ndarray]:
    """Returns the logarithms of the weights and both sides of eq. (2), in nats.

    Args:
      network: `apply` and its parameters.
      images: the data set.
      kind: the noise that the network was trained for.
      asked: how many images, draws and probes, and how exactly.
      key: the same for all networks.
      name: of the network.
    """
    key_bins, key_probe, key_normal, key_errors = jax.random.split(key, 4)
    pixels = images.held_out[: asked.num_likelihood]
    centers = jnp.asarray(data.centers(pixels, images.levels))
    shape = (len(centers), asked.draws, *centers.shape[1:])
    u = kind.dequantization.draw(key_bins, shape)
    log_q = np.asarray(jax.vmap(jax.vmap(kind.dequantization.log_prob))(u))
    x, keys = centers[:, None] + u, jax.random.split(key_probe, len(centers))
    solve, found = partial(densities, network, asked=asked), {}
    for way, probes, count in (
        ("hutchinson", asked.likelihood_probes, len(x)),
        ("exact", 0, asked.num_exact),
    ):
        if count:
            nats = solve(
                keys[:count], x[:count], kind.left, probes, label=f"likelihood, {name}, {way}"
            )
            found[way] = nats - log_q[:count]
    # Without a Jacobian, around a point that the network was trained on.
    left = scale(images.levels, asked.deviations)
    x1 = centers if kind.left else x[:, 0]
    near = x1 + left * jax.random.normal(key_normal, x1.shape)
    probes, label = asked.likelihood_probes, f"check without a Jacobian, {name}"
    found["flow"] = solve(keys, near[:, None], left, probes, label=label)[:, 0]
    many = partial(_errors(network[0], left, asked.error_draws), network[1])
    keys = jax.random.split(key_errors, len(x1))
    size = asked.likelihood_batch_size
    found["errors"] = batches.in_batches(many, keys, x1, size=size, label=None).mean
    return found


def counts(draws: int) -> list[int]:
    """Returns the powers of two up to a number of draws."""
    return [2**k for k in range(draws.bit_length())]


def bits(log_weights: np.ndarray, count: int, num_dims: int) -> np.ndarray:
    """Returns the bound by so many draws of each image, `[n]`, in bits per dimension.

    The mean over groups of draws: all of them are used, whatever their number.
    """
    n, draws = log_weights.shape
    groups = log_weights[:, : draws // count * count].reshape(n, -1, count)
    values = np.asarray(likelihood.bound(np.asarray(groups, np.float64)))
    return -values.mean(axis=1) / (num_dims * np.log(2))


def summarize(found: dict[str, np.ndarray], num_dims: int) -> dict[str, Any]:
    """Returns the numbers of one network, means over images with standard errors.

    Args:
      found: from `measure`.
      num_dims: of an image.
    """
    ways = [way for way in ("hutchinson", "exact") if way in found]
    rows = [
        {"divergence": way, "draws": k, "num_images": len(found[way])}
        | numbers.mean(bits(found[way], k, num_dims))
        for way in ways
        for k in counts(found[way].shape[1])
    ]
    summary = {"bits_per_dim": rows}
    if "exact" in found:
        both = [bits(found[way][: len(found["exact"])], 1, num_dims) for way in ways]
        summary["hutchinson_minus_exact"] = numbers.mean(both[0] - both[1])
    per_dim = lambda nats: -np.float64(nats) / (num_dims * np.log(2))  # noqa: E731
    flow, errors = per_dim(found["flow"]), per_dim(found["errors"])
    names = {"flow": flow, "errors": errors, "gap": errors - flow}
    summary["without_jacobian"] = {name: numbers.mean(values) for name, values in names.items()}
    return summary


def paired(
    first: dict[str, np.ndarray], second: dict[str, np.ndarray], num_dims: int
) -> dict[str, Any]:
    """Returns by how much the second network needs more bits than the first, on the same images."""
    way = "exact" if "exact" in first else "hutchinson"
    draws = counts(first[way].shape[1])[-1]
    gap = bits(second[way], draws, num_dims) - bits(first[way], draws, num_dims)
    return {"divergence": way, "draws": draws, "num_images": len(gap)} | numbers.mean(gap)
