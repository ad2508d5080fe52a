"""The divergence in the loss: exact, or by how many probes? Its noise, and a short training.

The penalty of a pair is the square of its residual over d (`fmjax.losses.matching`). With the mean
of K probes in the place of the divergence the square is too large by the variance of this mean, and
the penalty is noisy for a given pair; the product of two independent probes is noisy alone. At a
fixed network and on the same pairs, over draws of the probes alone,

    penalty    its mean, and its variance over the square of the exact one
    gradient   E |g - E g|^2 / |g_exact|^2, its variance, and |E g - g_exact|^2 / |g_exact|^2, its
               bias, from which the part that is due to the finite number of draws is taken

and then the same start is trained by each of them for a few steps.
"""

import dataclasses
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

import fmjax
from experiments.images import data, objectives, training
from experiments.run import batches, numbers
from fmjax import losses
from fmjax.losses import Matching
from fmjax.types import Array, Key, PyTree

path = training.path
EXACT, NONE = "exact", "no penalty"
COUNTS = (1, 2, 4, 16)


def exact(_: Key) -> Matching:
    """Returns the square of the exact residual, as if it needed a key.

    With all tangents at once: in a loop the gradient of convolutions is slow on CPUs.
    """
    return partial(losses.match_trace, divergence=fmjax.divergence.exact)


def probes(key: Key, *, count: int) -> Matching:
    """Returns the square of the residual by the mean of some probes."""
    estimate = partial(fmjax.divergence.hutchinson, key, num_probes=count)
    return partial(losses.match_trace, divergence=estimate)


def product(key: Key) -> Matching:
    """Returns the product of the residuals of two probes."""
    return partial(losses.match_product, key)


VARIANTS: dict[str, Callable[[Key], Matching]] = {
    EXACT: exact,
    **{f"{k} probe{'s' * (k > 1)}": partial(probes, count=k) for k in COUNTS},
    "product of 2": product,
}


def noise(
    apply: Callable[..., Array],
    params: PyTree,
    pairs: tuple[Array, Array, Array],
    key: Key,
    draws: int,
) -> dict[str, dict[str, float]]:
    """Returns mean and variances of the penalty and of its gradient, for each of VARIANTS.

    Args:
      apply: `(params, x, t) -> dx` of one example.
      params: of the fixed network.
      pairs: noise, data and times, `[n, ...]` each.
      key: of the probes.
      draws: of the probes.
    """
    found, truth = {}, None
    for name, matching in VARIANTS.items():
        one = jax.value_and_grad(_penalty(apply, matching))
        one = jax.jit(one, compiler_options=fmjax.train.compiler_options())
        keys = jax.random.split(key, 1 if name == EXACT else draws)
        made = (one(params, k, *pairs) for k in keys)
        values, gradients = zip(*((float(v), ravel_pytree(g)[0]) for v, g in made), strict=True)
        if truth is None:
            truth = values[0], np.asarray(gradients[0], np.float64)
        found[name] = _spread(np.array(values), np.asarray(gradients, np.float64), *truth)
    return found


def _penalty(apply: Callable[..., Array], matching: Callable[[Key], Matching]) -> Callable:
    """Returns `(params, key, x0, x1, t) -> []`, the mean penalty of pairs."""

    def mean(params: PyTree, key: Key, *pairs: Array) -> Array:
        def one(key: Key, x0: Array, x1: Array, t: Array) -> Array:
            target = losses.of_pair(path, x0, x1, t)
            return matching(key)(lambda x: apply(params, x, t), target)[1]

        return jax.vmap(one)(jax.random.split(key, len(pairs[0])), *pairs).mean()

    return mean


def _spread(
    values: np.ndarray, gradients: np.ndarray, exact_value: float, exact_gradient: np.ndarray
) -> dict[str, float]:
    """Returns the numbers of one variant, from its draws along the first axis."""
    square = np.sum(exact_gradient**2)
    middle, draws = gradients.mean(axis=0), len(values)
    variance = np.sum(gradients.var(axis=0, ddof=1)) if draws > 1 else 0.0
    bias = np.sum((middle - exact_gradient) ** 2) - variance / draws
    return {
        "penalty": float(values.mean()),
        "penalty_variance": float(values.var(ddof=1)) / exact_value**2 if draws > 1 else 0.0,
        "gradient_variance": float(variance / square),
        "gradient_bias": float(bias / square),
    }


def pairs(images: data.Images, place: Callable, key: Key, count: int) -> tuple:
    """Returns noise, data and times of held-out images, the first of them."""
    pixels = jnp.asarray(images.held_out[:count])
    x0, x1, key_time, _ = objectives.pairs(key, pixels, images.levels, place=place)
    return x0, x1, fmjax.times.stratified(key_time, x1.shape[:1])


@cache
def _held_out(apply: Callable[..., Array]) -> Callable[..., PyTree]:
    """Returns `(params, x0, x1, t) -> losses and exact penalties` of many pairs."""

    def one(params: PyTree, x0: Array, x1: Array, t: Array) -> dict[str, Array]:
        target = losses.of_pair(path, x0, x1, t)
        value, penalty = exact(None)(lambda x: apply(params, x, t), target)
        return {"flow": jnp.mean((value - target.velocity) ** 2), "penalty": penalty}

    return lambda params, *given: jax.vmap(partial(one, params))(*given)


def trained(
    asked: Any,
    images: data.Images,
    place: Callable[..., Array],
    folder: Any,
    key: Key,
    *,
    seed: int,
    num_images: int = 64,
) -> dict[str, dict[str, Any]]:
    """Trains the same start for a few steps by each of VARIANTS, and by flow matching alone.

    Args:
      asked: the options of the run: `training` and `ablation`.
      images: the data set.
      place: of pixels.
      folder: in which each training has its own.
      key: of the held-out noise.
      seed: of the start, the order and all noise of the trainings.
      num_images: held out, on which the networks are measured.

    Returns:
      Of each its held-out loss and exact penalty, with standard errors; of the penalties also the
      paired difference to that of the training with the exact divergence.
    """
    few = asked.ablation
    short = dataclasses.replace(
        asked.training,
        num_steps=few.ablation_steps,
        batch_size=few.ablation_batch,
        save_every=few.ablation_steps,
        ema_decay=0.0,
    )
    make_loss = partial(objectives.flow_loss, place=place)
    given, found = pairs(images, place, key, num_images), {}
    for name, matching in {NONE: None, **VARIANTS}.items():
        penalty = None if matching is None else objectives.Penalty(few.ablation_weight, matching)
        place_of = folder / "ablation" / name.replace(" ", "_")
        apply, params = training.fit(
            short, images, place_of, key, make_loss=make_loss, seed=seed, place=place,
            penalty=penalty,
        )  # fmt: skip
        many = partial(_held_out(apply), params)
        found[name] = batches.in_batches(many, *given, size=32, label=None)
    return {
        name: {part: numbers.mean(values) for part, values in parts.items()}
        | {"penalty_above": numbers.mean(parts["penalty"] - found[EXACT]["penalty"])}
        for name, parts in found.items()
    }
