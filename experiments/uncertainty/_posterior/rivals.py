"""Other measures of uncertainty on the same network and states, and what each of them costs.

| method | what varies | what its variance measures |
|---|---|---|
| U, exact or with probes | nothing: one field, its Jacobian | the data given x_t, under the model |
| memoryless SDE | the noise of a sampler whose law is p(x1 given x_t) | the same, by Monte Carlo |
| deep ensemble | the seed of the training | the weights given the data: the mean's own error |
| Monte-Carlo dropout | the features that are dropped | the same, crudely |

So only the first two estimate the error that is scored here, |x1 - E[x1 | x_t]|^2, whose
expectation is U; the other two say where the training left the network undecided.

Cost is counted in passes F of the network for one state: a forward pass is one, and so is a
tangent or a cotangent beside it; a training step costs 3 F for each image of the batch. What is
counted is also timed, as a ratio to a forward pass of the same batch in the same process.

References:
  Xing et al. (2026), Divergence is Uncertainty, arXiv 2605.00941, sections 5.3 and 5.4.
  Lakshminarayanan et al. (2017), Simple and Scalable Predictive Uncertainty Estimation using
  Deep Ensembles, arXiv 1612.01474.
  Gal and Ghahramani (2016), Dropout as a Bayesian Approximation, arXiv 1506.02142.
"""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import fmjax
from experiments.run import batches, clock
from experiments.uncertainty import _calibration
from fmjax.paths import Path
from fmjax.types import Array, Key, PyTree, Velocity

FORWARD = "forward pass"


class Method(NamedTuple):
    """One measure of uncertainty.

    Attributes:
      run: `(*velocities, key, x, t) -> variance` of one state, `[*dims]`, or `[]` for U alone.
      passes: F for one state, counted.
      networks: how many velocities it takes.
      training: F for training those beside the network at hand.
    """

    run: Callable[..., Array]
    passes: int
    networks: int = 1
    training: int = 0


def exact(path: Path, velocity: Velocity, key: Key, x: Array, t: Array) -> Array:
    """Returns the variance of every pixel by the exact diagonal."""
    del key
    return fmjax.posterior.diagonal(velocity, path, x, t)


def estimated(
    estimator: Callable, path: Path, velocity: Velocity, key: Key, x: Array, t: Array
) -> Array:
    """Returns an estimate of U, or of the variances, by an estimator of `fmjax.estimators`."""
    bound = functools.partial(estimator, key)
    return fmjax.posterior.estimate(velocity, path, x, t, estimator=bound).mean


def one_probe(path: Path, velocity: Velocity, key: Key, x: Array, t: Array) -> Array:
    """Returns U from a single Hutchinson probe, the cheapest of all."""
    divergence = functools.partial(fmjax.divergence.hutchinson, key)
    return fmjax.posterior.trace(velocity, path, x, t, divergence=divergence)


def seeds(
    num_seeds: int, num_steps: int, path: Path, velocity: Velocity, key: Key, x: Array, t: Array
) -> Array:
    """Returns the variance over samples of the memoryless SDE that start at the state."""
    sample = lambda key: fmjax.samplers.memoryless_sde(  # noqa: E731
        key, velocity, path, x, t, num_steps=num_steps
    )
    keys = jax.random.split(key, num_seeds)
    return jnp.var(jax.lax.map(sample, keys, batch_size=min(16, num_seeds)), axis=0, ddof=1)


def ensemble(path: Path, *arguments: Velocity | Array) -> Array:
    """Returns the variance of the posterior mean over independently trained networks."""
    *velocities, _, x, t = arguments
    means = [fmjax.posterior.mean(velocity, path, x, t) for velocity in velocities]
    return jnp.var(jnp.stack(means), axis=0, ddof=1)


def dropout(num_passes: int, path: Path, velocity: Velocity, key: Key, x: Array, t: Array) -> Array:
    """Returns the variance of the posterior mean over dropped features."""
    mean = lambda key: fmjax.posterior.mean(  # noqa: E731
        functools.partial(velocity, key=key), path, x, t
    )
    return jnp.var(jax.vmap(mean)(jax.random.split(key, num_passes)), axis=0, ddof=1)


def forward(path: Path, velocity: Velocity, key: Key, x: Array, t: Array) -> Array:
    """Returns the velocity: the unit of cost."""
    del path, key
    return velocity(x, t)


def methods(
    path: Path,
    size: int,
    *,
    dropout_passes: int,
    sde_seeds: int,
    sde_steps: int,
    networks: int,
    training_passes: int,
) -> dict[str, Method]:
    """Returns the methods that are compared.

    Args:
      path: the path.
      size: number of entries of one image.
      dropout_passes: forward passes of Monte-Carlo dropout; fewer than two leave it out.
      sde_seeds: samples of the memoryless SDE.
      sde_steps: its steps, of three evaluations each.
      networks: networks of the ensemble; fewer than two leave it out.
      training_passes: F of training one network.
    """
    bound = lambda function, *options: functools.partial(function, *options, path)  # noqa: E731
    probes = functools.partial(fmjax.estimators.hutchinson, num_probes=16)
    nystrom = functools.partial(fmjax.estimators.xnysdiag, num_probes=16)
    products = 35 if size > 32 else 1 + size  # it is exact where that is cheaper
    chosen = {
        FORWARD: Method(bound(forward), 1),
        "U, 1 Hutchinson probe": Method(bound(one_probe), 2),
        "U, 16 Hutchinson probes": Method(bound(estimated, probes), 17),
        "U, XNysDiag with 16 probes": Method(bound(estimated, nystrom), products),
        "U, exact": Method(bound(exact), 1 + size),
        f"memoryless SDE, {sde_seeds} seeds": Method(
            bound(seeds, sde_seeds, sde_steps), 3 * sde_seeds * sde_steps
        ),
    }
    if dropout_passes > 1:
        varied = Method(bound(dropout, dropout_passes), dropout_passes)
        chosen[f"dropout, {dropout_passes} passes"] = varied
    if networks > 1:
        extra = (networks - 1) * training_passes
        chosen[f"ensemble of {networks}"] = Method(bound(ensemble), networks, networks, extra)
    return chosen


def compare(
    compiled: dict[str, Callable[..., Array]],
    by_time: dict[float, dict[str, np.ndarray]],
    key: Key,
    *,
    size: int,
) -> tuple[list[dict], dict[str, dict[float, np.ndarray]]]:
    """Returns how the methods' scores go with the error, and their variances.

    Args:
      compiled: the methods, from `compile_all`.
      by_time: from each time to `noised` `[n, *dims]` and `error` `[n]`.
      key: for probes, seeds and dropped features.
      size: states at a time.

    Returns:
      For each method and time a row, and the arrays `[n, ...]` by method and time.
    """
    rows, arrays = [], {}
    for number, (name, run) in enumerate(compiled.items()):
        arrays[name], key_method = {}, jax.random.fold_in(key, number)
        for index, (t, measured) in enumerate(by_time.items()):
            x, error = measured["noised"], measured["error"]
            keys = jax.random.split(jax.random.fold_in(key_method, index), len(x))
            times = np.full(len(x), t, np.float32)
            values = batches.in_batches(run, keys, x, times, size=size, label=f"{name}, t = {t}")
            arrays[name][t] = values
            rows.append({"method": name} | _agreement(t, values, error))
    return rows, arrays


def _agreement(t: float, values: np.ndarray, error: np.ndarray) -> dict[str, float]:
    score = _calibration.totals(values)
    return {
        "t": t,
        "num_images": len(score),
        "mean_score": float(score.mean()),
        "ratio": float(error.mean() / score.mean()),
        "pearson": float(fmjax.metrics.pearson(score, error)),
        "spearman": float(fmjax.metrics.spearman(score, error)),
    }


def compile_all(
    apply: Callable[..., Array], networks: Sequence[PyTree], chosen: dict[str, Method]
) -> dict[str, Callable[..., Array]]:
    """Returns every method as a function of batches, `(keys, x, t) -> variances`.

    Args:
      apply: `(params, x, t, key=None) -> dx` of one example.
      networks: parameters; the first are those whose error is scored, all are the ensemble.
      chosen: the methods.
    """
    return {name: _batched(apply, networks, method) for name, method in chosen.items()}


def _batched(
    apply: Callable[..., Array], networks: Sequence[PyTree], method: Method
) -> Callable[..., Array]:
    """Returns the method compiled for batches; the parameters stay arguments of the program."""

    def one(params: Sequence[PyTree], *rest: Array) -> Array:
        return method.run(*(functools.partial(apply, p) for p in params), *rest)

    many = jax.jit(jax.vmap(one, in_axes=(None, 0, 0, 0)))
    return functools.partial(many, tuple(networks[: method.networks]))


def costs(
    compiled: dict[str, Callable[..., Array]], chosen: dict[str, Method], x: np.ndarray
) -> list[dict]:
    """Returns for each method its passes and its time as a ratio to a forward pass.

    Args:
      compiled: the methods, `FORWARD` among them.
      chosen: the same methods.
      x: `[n, *dims]`, the batch that is timed, at t = 1/2.
    """
    keys, times = jax.random.split(jax.random.key(0), len(x)), jnp.full(len(x), 0.5)
    calls = {name: functools.partial(run, keys, x, times) for name, run in compiled.items()}
    seconds = clock.seconds(calls)
    return [
        {
            "method": name,
            "passes": method.passes,
            "training_passes": method.training,
            "milliseconds": 1e3 * seconds[name] / len(x),
            "time_ratio": seconds[name] / seconds[FORWARD],
        }
        for name, method in chosen.items()
    ]
