"""How well a stated variance of the velocity's target agrees with the error that is made.

At a state x of a pair the target is `u = alpha_dot x1 + sigma_dot x0`, the error of a mean m is
`(u - m)^2` in every entry. A variance s is scored by

* the ratio of the means of error and variance, summed over entries: 1 if s is right on average;
* the correlation of the two sums over states, at most `sqrt(Var sum s / Var error)` for the true s;
* the likelihood of u under N(m, diag s), in nats per entry, which no s passes on average that is
  not the true variance of u given x (a proper score): lower is better.

A variance from the Jacobian may be negative, and has no likelihood then: for this score alone every
s is raised to a floor, a share of the mean squared error at that t, and the entries are counted. A
floor near 0 shows what a wrong sign costs, a coarse one what is left when it is repaired.
"""

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import fmjax
from experiments.run import batches, numbers
from experiments.uncertainty import _calibration
from experiments.uncertainty._head.problems import Problem, path
from fmjax.types import Array, PyTree, Velocity

Heads = Callable[[PyTree, Array, Array], tuple[Array, Array]]
"""`(params, x, t) -> (velocity, log_variance)`."""
VARIANCE = partial(fmjax.posterior.diagonal, of=fmjax.predictions.velocity)


def stated(heads: Heads, params: PyTree, x0: Array, x1: Array, t: Array) -> dict[str, Array]:
    """Returns squared error and the head's variance, at the state of a pair.

    Args:
      heads: the two outputs.
      params: of one network.
      x0: `[*dims]`, noise.
      x1: `[*dims]`, data.
      t: `[]`, in (0, 1).
    """
    mean, log_variance = heads(params, fmjax.paths.interpolate(path, x0, x1, t), t)
    return {"error": (_target(x0, x1, t) - mean) ** 2, "variance": jnp.exp(log_variance)}


def of_velocity(velocity: Velocity, x0: Array, x1: Array, t: Array) -> dict[str, Array]:
    """Returns squared error and the variance by the Jacobian, at the state of a pair."""
    x = fmjax.paths.interpolate(path, x0, x1, t)
    error = (_target(x0, x1, t) - velocity(x, t)) ** 2
    return {"error": error, "variance": VARIANCE(velocity, path, x, t)}


def _target(x0: Array, x1: Array, t: Array) -> Array:
    return fmjax.predictions.target(fmjax.predictions.velocity, path, x0, x1, t)


def measure(
    heads: Heads,
    networks: dict[str, PyTree],
    problem: Problem,
    part: str,
    t: float,
    *,
    seed: int,
    size: int,
) -> dict[str, dict[str, np.ndarray]]:
    """Returns errors and variances at one time, by training, by "jacobian" and by "exact".

    Args:
      heads: the two outputs.
      networks: parameters of all seeds, by training.
      problem: the data.
      part: which of them are noised.
      t: the time.
      seed: of the noise, the same for all networks.
      size: states at a time.

    Returns:
      For each of them `error` and `variance`, `[seeds, m, *dims]`, with one seed of "exact".
    """
    x1 = problem.parts[part]
    rng = np.random.default_rng([seed, 3, round(1000 * t), part == "train"])
    x0 = rng.normal(size=x1.shape).astype(np.float32)
    pairs = (x0, x1, np.full(len(x1), t, np.float32))
    bank = jax.tree.map(lambda leaf: leaf[None], problem.bank)  # one for all seeds
    programs = {name: (_all_stated(heads), params) for name, params in networks.items()}
    programs |= {
        "jacobian": (_all_jacobian(heads), networks["beside"]),
        "exact": (_all_exact(problem.exact), bank),
    }
    label, found = f"{problem.title}, {part.replace('_', ' ')}, t = {t:g}", {}
    for name, (many, shared) in programs.items():
        bound = partial(many, shared)
        made = batches.in_batches(bound, *pairs, size=size, label=f"{label}, {name}")
        found[name] = {key: np.moveaxis(a, 1, 0) for key, a in made.items()}
    return found


def _all(one: Callable[..., dict[str, Array]]) -> Callable[..., dict[str, Array]]:
    """Returns a function of all seeds and pairs, `(shared, x0[m], x1[m], t[m]) -> [m, seeds]`."""
    of_seeds = jax.vmap(one, (0, None, None, None))
    return jax.jit(jax.vmap(of_seeds, (None, 0, 0, 0)))


@cache  # so that it is compiled once for all times and trainings
def _all_stated(heads: Heads) -> Callable[..., dict[str, Array]]:
    return _all(partial(stated, heads))


@cache
def _all_jacobian(heads: Heads) -> Callable[..., dict[str, Array]]:
    velocity = lambda params, x, t: heads(params, x, t)[0]  # noqa: E731
    return _all(lambda params, *pair: of_velocity(partial(velocity, params), *pair))


@cache
def _all_exact(exact: Callable[..., Array]) -> Callable[..., dict[str, Array]]:
    return _all(lambda bank, *pair: of_velocity(partial(exact, bank), *pair))


def methods(
    found: dict[str, dict[str, np.ndarray]], train: dict[str, dict[str, np.ndarray]]
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Returns error and variance by method, `[seeds, m, *dims]` each.

    Args:
      found: from `measure`, at the states that are scored.
      train: the same at states of training data, whose mean squared errors are two of the methods.
    """
    error = found["beside"]["error"]
    squares = train["beside"]["error"].mean(axis=1, keepdims=True)
    number = squares.mean(axis=tuple(range(2, squares.ndim)), keepdims=True)
    names = {"head": "beside", "jacobian": "jacobian", "joint": "joint", "exact": "exact"}
    stated = {name: (found[key]["error"], found[key]["variance"]) for name, key in names.items()}
    return stated | {
        "map": (error, np.broadcast_to(squares, error.shape)),
        "constant": (error, np.broadcast_to(number, error.shape)),
    }


def scores(
    error: np.ndarray, variance: np.ndarray, exact: np.ndarray, floors: tuple[float, float]
) -> dict[str, float]:
    """Returns how a stated variance agrees with the errors, of one network at one time.

    Args:
      error: `[m, *dims]`, squared errors of the mean.
      variance: `[m, *dims]`.
      exact: `[m, *dims]`, the exact variances.
      floors: two shares of the mean of `error`, the least variance with a likelihood.

    Returns:
      `error`, its mean; `ratio`; `pearson` and `best_pearson` where the sums differ; `nll` and
      `nll_coarse`, by floor; `negative`, the share of negative entries; `raised`, of those below
      the first floor; `off`, the median of `|variance / exact - 1|`.
    """
    error, variance = np.float64(error), np.float64(variance)
    sums = (_calibration.totals(variance), _calibration.totals(error))
    told = fmjax.metrics.calibration(*sums, variance=variance)
    least = [floor * error.mean() for floor in floors]
    named = {"error": error.mean(), "ratio": float(told.ratio)}
    if np.ptp(sums[0]) > 0:
        named |= {"pearson": float(told.pearson), "best_pearson": float(told.best_pearson)}
    return named | {
        "nll": _nll(error, np.maximum(variance, least[0])),
        "nll_coarse": _nll(error, np.maximum(variance, least[1])),
        "negative": float(told.negative_variances),
        "raised": (variance < least[0]).mean(),
        "off": np.median(np.abs(variance / exact - 1.0)),
    }


def _nll(error: np.ndarray, s: np.ndarray) -> float:
    return 0.5 * (np.log(2 * np.pi * s) + error / s).mean()


def summaries(
    by_method: dict[str, tuple[np.ndarray, np.ndarray]], floors: tuple[float, float]
) -> dict[str, dict[str, Any]]:
    """Returns the scores of every method over the seeds.

    Args:
      by_method: from `methods`.
      floors: as for `scores`.
    """
    exact, found = by_method["exact"][1][0], {}
    for name, (error, variance) in by_method.items():
        rows = [scores(*of_seed, exact, floors) for of_seed in zip(error, variance, strict=True)]
        values = {key: np.array([row[key] for row in rows]) for key in rows[0]}
        spread = name != "exact"  # which is one for all seeds
        found[name] = {
            k: numbers.summary(v) if spread else {"mean": v[0]} for k, v in values.items()
        }
    return found
