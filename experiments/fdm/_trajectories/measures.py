"""How good sampled trajectories are: the law of a statistic, an event, densities and forecasts.

A trajectory is too large for a distance between laws, so the law of one statistic C is compared,
by histograms over the range of the data,

    TV = 1/2 sum_k |p_k - q_k| + 1/2 (share of q outside),    KL = sum_k p_k log(p_k / q_k),   (1)

p of the data and q of the samples. Both are biased upwards by the finite numbers, so the same is
done for as many training trajectories, which is what a perfect sampler would get. Half a count is
added to every bin of q for KL, where the paper adds 1e-12 to frequencies: with few samples that
constant would be most of the number. The distance of Kolmogorov and Smirnov needs no bins.

A forecast y of a trajectory x has at each step the relative error of Finzi et al.,

    |x - y|_1 / (|x|_1 + |y|_1), between 0 and 1.                                          (2)

References:
  Finzi et al. (2023), arXiv 2306.07526, section 6; Huang et al. (2025), arXiv 2602.00869.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import scipy.stats

import fmjax
from experiments.fdm._trajectories.training import Task
from experiments.run import batches, numbers
from fmjax.paths import Path
from fmjax.types import Array, Key, PyTree, Velocity

Event = Callable[[Array], Array]

# Sampling.


def given(event: Event, jitter: float, velocity: Velocity, path: Path) -> Velocity:
    """Returns the velocity given the event.

    Args:
      event: C; the law is conditioned on C > 0.
      jitter: error to expect of the gain, as in `fmjax.events`.
      velocity: the trained one.
      path: the path that it was trained on.
    """
    return fmjax.events.conditioned(event, velocity, path, jitter=jitter, log_cdf=bounded_log_cdf)


FARTHEST = 5.0  # standard deviations by which a mean may lie outside an event


def bounded_log_cdf(z: Array) -> Array:
    """Returns log Phi(z), continued by its tangent below -FARTHEST.

    Its slope stays bounded where a badly known mean is far outside the event, so that no draw is
    pulled away. The paper's code takes log_sigmoid(1.6 z), whose slope is bounded too, but at most
    1.6: half of what the normal law asks for at z = -3.
    """
    slope = float(scipy.stats.norm.pdf(-FARTHEST) / scipy.stats.norm.cdf(-FARTHEST))
    inside = jax.scipy.special.log_ndtr(jax.numpy.maximum(z, -FARTHEST))
    return inside + slope * jax.numpy.minimum(z + FARTHEST, 0.0)


def sample(
    task: Task,
    condition: Callable[[Velocity, Path], Velocity] | None,
    num_steps: int,
    params: PyTree,
    key: Key,
    x0: Array,
) -> Array:
    """Returns one trajectory, under a condition if there is one.

    Args:
      task: what was learned, without context.
      condition: such as `partial(given, event, jitter)`.
      num_steps: how many steps the sampler takes.
      params: the parameters of the network.
      key: for the sampler.
      x0: `[length, d]`, standard normal.
    """
    velocity = functools.partial(task.field, params)
    if condition is not None:
        velocity = condition(velocity, task.setting.path)
    return task.setting.sample(key, velocity, x0, num_steps)


def forecast(task: Task, num_steps: int, params: PyTree, key: Key, x0: Array, x1: Array) -> Array:
    """Returns a trajectory drawn given what the task knows of `x1`.

    Args:
      task: what was learned.
      num_steps: how many steps the sampler takes.
      params: the parameters of the network.
      key: for the sampler.
      x0: `[length, d]`, standard normal.
      x1: `[length, d]`, the true trajectory.
    """
    velocity = functools.partial(task.field, params, **task.known(x1))
    return task.setting.sample(key, velocity, x0, num_steps)


def nats_per_dim(task: Task, tolerance: float, params: PyTree, key: Key, x1: Array) -> Array:
    """Returns the negative log-density of one trajectory per dimension, in nats.

    One Hutchinson probe, the normalizer of the noise counted once for each dimension. The path's
    last noise, before which it is singular, counts as part of the data.

    Args:
      task: what was learned, without context.
      tolerance: relative and absolute, of a step of the adaptive solver.
      params: the parameters of the network.
      key: for the probe.
      x1: `[length, d]`.
    """
    key_noise, key_probe = jax.random.split(key)
    setting = task.setting
    x0 = jax.random.normal(key_noise, x1.shape)
    x = fmjax.paths.interpolate(setting.path, x0, x1, setting.end)
    log_p = fmjax.likelihood.log_prob(
        functools.partial(task.field, params),
        x,
        log_prob0=functools.partial(fmjax.likelihood.standard_normal, scale=setting.prior),
        divergence=functools.partial(fmjax.divergence.hutchinson, key_probe),
        solve=functools.partial(fmjax.samplers.adaptive, rtol=tolerance, atol=tolerance),
        t1=setting.end,
    )
    return -log_p / x1.size


Runner = Callable[..., np.ndarray]


def compiled(function: Callable[..., Array]) -> Runner:
    """Returns `(params, key, *arrays, label, size) -> [n, ...]`, one program for all parameters.

    Args:
      function: `(params, key, *example) -> array` of one example.
    """
    program = jax.jit(lambda params, *rest: jax.vmap(functools.partial(function, params))(*rest))

    def run(params: PyTree, key: Key, *arrays: Array, label: str, size: int) -> np.ndarray:
        keys = jax.random.split(key, len(arrays[0]))
        many = functools.partial(program, params)
        return batches.in_batches(many, keys, *arrays, size=size, label=label)

    return run


# Comparing.


def statistic(event: Event, x: np.ndarray) -> np.ndarray:
    """Returns C of every trajectory, `[n]`."""
    return np.asarray(jax.vmap(event)(jax.numpy.asarray(x)))


def distances(samples: np.ndarray, data: np.ndarray, *, num_bins: int) -> dict[str, float]:
    """Returns the distances (1) between two laws of one number, and Kolmogorov and Smirnov's.

    Args:
      samples: `[n]`, not empty.
      data: `[m]`, not constant.
      num_bins: equal bins over the range of the data.

    Returns:
      `total_variation`, `kl` in nats, `kolmogorov_smirnov`.
    """
    edges = np.histogram_bin_edges(data, num_bins)
    p = np.histogram(data, edges)[0] / len(data)
    counts = np.histogram(samples, edges)[0]
    q = counts / len(samples)
    smooth = (counts + 0.5) / (len(samples) + 0.5 * num_bins)
    occupied = p > 0
    return {
        "total_variation": 0.5 * float(np.abs(p - q).sum() + 1.0 - q.sum()),
        "kl": float((p[occupied] * np.log(p[occupied] / smooth[occupied])).sum()),
        "kolmogorov_smirnov": float(scipy.stats.ks_2samp(samples, data).statistic),
    }


def compare(
    samples: dict[str, np.ndarray], data: np.ndarray, *, num_bins: int, happened: str
) -> dict[str, dict[str, Any]]:
    """Returns for every method how the law of its statistic differs from the data's.

    Args:
      samples: from the method to C of its samples.
      data: C of the held-out trajectories to compare with.
      num_bins: number of bins of the histograms.
      happened: the name under which the share with C > 0 is given.
    """
    return {
        method: {
            "num_samples": len(values),
            **distances(values, data, num_bins=num_bins),
            happened: numbers.share(values > 0),
        }
        for method, values in samples.items()
    }


def relative_error(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Returns eq. (2) at each step, `[n, length]`.

    Args:
      x: `[n, length, d]`.
      y: `[n, length, d]`, the forecasts.
    """
    size = lambda z: np.abs(z).sum(axis=-1)  # noqa: E731
    return size(x - y) / (size(x) + size(y))
