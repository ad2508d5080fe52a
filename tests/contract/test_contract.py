"""One table of every public function, and what all of them must do.

Per-example functions: run under `jit` and `vmap`; the vmapped result equals a Python loop, so
no example depends on another; float32 in, float32 out; shapes (), (2,), (2, 3) and (4, 4, 3);
traced once for equal shapes; finite gradients; a batched t raises the documented error. Batch
functions run under `jit` and keep float32. A public function without a line here fails.
"""

import importlib
import inspect
import re
import sys
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fmjax
from fmjax import (
    collapse,
    couplings,
    divergence,
    empirical,
    estimators,
    events,
    likelihood,
    losses,
    metrics,
    onestep,
    path_error,
    paths,
    posterior,
    predictions,
    samplers,
    simplex,
    strain,
    times,
    toy,
    train,
)
from tests import slow

PATH = paths.cosine()
# One shape in every run of the tests; scalars and images in the slow ones, vectors in the long.
SHAPES = [
    (2, 3),
    *(pytest.param(shape, marks=pytest.mark.slow) for shape in [(), (4, 4, 3)]),
    pytest.param((2,), marks=pytest.mark.long),
]


def _computed(value):
    """What the networks of the table return; one test makes them return half precision."""
    return value


def _field(x, t):
    """A smooth velocity that mixes all entries of the state."""
    return _computed(jnp.tanh(x) * (1 - t) + 0.1 * jnp.sum(x) * t)


def _conditional(x, t, c):
    return _field(x, t) + c * x


def _components(x, y):
    """Two components of which one has no variance; sample and traverse ask no more of them."""
    return posterior.Components(jnp.array([2.0, -1.0], x.dtype), jnp.stack([x, y]), None)


def _log_density(x, t):
    return -jnp.sum((1 + t) * jnp.cosh(x - t))


def _event(x):
    return jnp.sum(x) - 0.3


LETTERS = simplex.dirichlet(3)


def _letters(x):
    """A point of the simplex, of three classes at every entry of the state."""
    return jax.nn.softmax(jnp.stack([x, 0.3 - x, 0.1 * x], -1))


def _classes(x):
    return jnp.ones(x.shape, int)


def _average(x, r, t):
    return _field(x, 0.5 * (r + t))


class Case(NamedTuple):
    """One per-example function: its arguments are made for a shape and a number of examples."""

    call: Callable
    arguments: str  # one letter each: x state, y another state, t time, b bank, k key
    shared: str = ""  # letters that the batch has in common


STATE, PAIR = ("xt", "xyt")
PER_EXAMPLE = {
    "paths.coefficients": Case(partial(paths.coefficients, PATH), "t"),
    "paths.interpolate": Case(partial(paths.interpolate, PATH), PAIR),
    **{
        f"predictions.{kind.__name__}": Case(partial(kind, PATH), "t")
        for kind in (
            predictions.velocity, predictions.x1, predictions.x0, predictions.score, predictions.v
        )
    },
    "times.log_normal_density": Case(
        lambda t: times.log_normal_density(t, PATH, mean=0.3, std=0.7), "t"
    ),
    "predictions.residual_std": Case(partial(predictions.residual_std, PATH, 1.5), "t"),
    "predictions.target": Case(partial(predictions.target, predictions.velocity, PATH), PAIR),
    "predictions.convert": Case(
        partial(
            predictions.convert, PATH, given=predictions.velocity, wanted=predictions.score
        ),
        PAIR,
    ),
    "divergence.exact": Case(lambda x, t: divergence.exact(lambda z: _field(z, t), x), STATE),
    "divergence.chunked": Case(
        lambda x, t: divergence.chunked(lambda z: _field(z, t), x, chunk_size=3), STATE
    ),
    "divergence.diagonal": Case(
        lambda x, t: divergence.diagonal(lambda z: _field(z, t), x, chunk_size=3), STATE
    ),
    "divergence.unrolled": Case(
        lambda x, t: divergence.unrolled(lambda z: _field(z, t), x), STATE
    ),
    "divergence.hutchinson": Case(
        lambda k, x, t: divergence.hutchinson(k, lambda z: _field(z, t), x, num_probes=2), "kxt"
    ),
    **{
        f"estimators.{estimator.__name__}": Case(
            lambda k, x, t, estimator=estimator: estimator(
                k, lambda z: _field(z, t), x, num_probes=2
            ),
            "kxt",
        )
        for estimator in (
            estimators.hutchinson, estimators.bekas, estimators.xtrace, estimators.xnystrace,
            estimators.xdiag, estimators.xnysdiag,
        )
    },
    "empirical.weights": Case(partial(empirical.weights, PATH), "bxt", "b"),
    "empirical.law": Case(partial(empirical.law, PATH, chunk_size=4), "bxt", "b"),
    "empirical.mean": Case(partial(empirical.mean, PATH, chunk_size=4), "bxt", "b"),
    "empirical.velocity": Case(partial(empirical.velocity, PATH, chunk_size=4), "bxt", "b"),
    "empirical.anchored_velocity": Case(
        partial(empirical.anchored_velocity, PATH), "bxyt", "b"
    ),
    "empirical.covariance": Case(partial(empirical.covariance, PATH), "bxt", "b"),
    "empirical.jacobian": Case(partial(empirical.jacobian, PATH), "bxt", "b"),
    "empirical.divergence": Case(partial(empirical.divergence, PATH), "bxt", "b"),
    "empirical.log_density": Case(partial(empirical.log_density, PATH), "bxt", "b"),
    "empirical.matvec": Case(
        # The weights are exponentials of inner products of up to 48 numbers: whatever the program,
        # float32 is 2e-5 from float64 here.
        lambda b, x, t, y: 0.05 * empirical.matvec(PATH, b, x, t, y, chunk_size=4), "bxty", "b"
    ),
    "empirical.lipschitz": Case(
        lambda k, b, x, t: empirical.lipschitz(k, PATH, b, x, t, num_matvecs=48), "kbxt", "b"
    ),
    # In units of their largest entries, by which float32 rounds them.
    "empirical.time_derivative": Case(
        lambda b, x, t: 0.1 * empirical.time_derivative(PATH, b, x, t, chunk_size=4), "bxt", "b"
    ),
    "empirical.acceleration": Case(
        # Its terms cancel; XLA of jax 0.7 rounds them differently in a batch.
        lambda b, x, t: 0.03 * empirical.acceleration(PATH, b, x, t), "bxt", "b"
    ),
    "empirical.effective_number": Case(
        partial(empirical.effective_number, PATH, chunk_size=4), "bxt", "b"
    ),
    "empirical.entropy": Case(partial(empirical.entropy, PATH, chunk_size=4), "bxt", "b"),
    "empirical.truncated": Case(
        partial(empirical.truncated, PATH, k=3, chunk_size=4), "bxt", "b"
    ),
    "empirical.refined_velocity": Case(
        partial(empirical.refined_velocity, PATH, k=3, chunk_size=4), "bxyt", "b"
    ),
    "collapse.information": Case(lambda x, t: collapse.information(PATH, x**2, t), STATE),
    "collapse.collapse_time": Case(lambda x: collapse.collapse_time(PATH, x**2 + 0.1, 9), "x"),
    "posterior.mean": Case(partial(posterior.mean, _field, PATH), STATE),
    "posterior.matvec": Case(
        lambda x, y, t: posterior.matvec(_field, PATH, x, t, y), PAIR
    ),
    "posterior.gain": Case(partial(posterior.gain, _field, PATH), STATE),
    "posterior.covariance": Case(partial(posterior.covariance, _field, PATH), STATE),
    "posterior.diagonal": Case(partial(posterior.diagonal, _field, PATH), STATE),
    "posterior.dimension": Case(partial(posterior.dimension, _field, PATH), STATE),
    "posterior.trace": Case(partial(posterior.trace, _field, PATH), STATE),
    "posterior.estimate": Case(
        lambda k, x, t: posterior.estimate(
            _field, PATH, x, t, estimator=partial(estimators.bekas, k, num_probes=2)
        ),
        "kxt",
    ),
    "posterior.principal_components": Case(
        lambda k, x, t: posterior.principal_components(
            k, _field, PATH, x, t, num_components=1, num_matvecs=8
        ).variances,
        "kxt",
    ),
    "posterior.extremes": Case(
        lambda k, x, t: posterior.extremes(k, _field, PATH, x, t, num_matvecs=48), "kxt"
    ),
    "posterior.traverse": Case(
        lambda x, y, t: posterior.traverse(x, _components(x, y), t), PAIR
    ),
    "posterior.sample": Case(lambda k, x, y: posterior.sample(k, x, _components(x, y)), "kxy"),
    "posterior.asymmetry": Case(
        lambda k, x, t: posterior.asymmetry(
            k, lambda x, t: _field(x, t) * (1 + x), x, t, num_probes=3
        ),
        "kxt",
    ),
    "posterior.total_covariance": Case(
        lambda x, t: posterior.total_covariance(
            _conditional, PATH, x, t, jnp.arange(2), jnp.full(2, 0.5, x.dtype)
        ),
        STATE,
    ),
    "posterior.total_diagonal": Case(
        lambda x, t: posterior.total_diagonal(
            _conditional, PATH, x, t, jnp.arange(2), jnp.full(2, 0.5, x.dtype)
        ),
        STATE,
    ),
    "posterior.prior_variance": Case(
        lambda x, t: posterior.prior_variance(x**2, PATH, t), STATE
    ),
    "posterior.prior_covariance": Case(
        lambda x, t: posterior.prior_covariance(jnp.outer(x, x), PATH, t), STATE
    ),
    "losses.cfm": Case(partial(losses.cfm, _field, PATH), PAIR),
    "losses.gaussian_nll": Case(
        partial(losses.gaussian_nll, lambda x, t: (_field(x, t), jnp.sin(x) - t), PATH), PAIR
    ),
    "losses.cdm": Case(partial(losses.cdm, _field, PATH), PAIR),
    "losses.cdm_absolute": Case(partial(losses.cdm_absolute, _field, PATH), PAIR),
    "losses.fdm": Case(partial(losses.fdm, _field, PATH, weight=0.3), PAIR),
    "losses.efm": Case(partial(losses.efm, _field, PATH), "bxyt", "b"),
    "losses.dm": Case(partial(losses.dm, _field, PATH, weight=0.3), "bxyt", "b"),
    "losses.of_pair": Case(partial(losses.of_pair, PATH), PAIR),
    "losses.of_bank": Case(partial(losses.of_bank, PATH), "bxyt", "b"),
    "losses.of_large_bank": Case(
        lambda b, x, y, t: losses.of_large_bank(PATH, b, x, y, t, k=3, chunk_size=4)[:5],
        "bxyt",
        "b",
    ),
    "losses.scaled_residual": Case(
        lambda x, y, t: losses.scaled_residual(x, jnp.sum(y), losses.of_pair(PATH, x, y, t)), PAIR
    ),
    "losses.match_trace": Case(
        lambda x, y, t: losses.match_trace(
            lambda z: _field(z, t), losses.of_pair(PATH, x, y, t)
        ),
        PAIR,
    ),
    "losses.match_product": Case(
        lambda k, x, y, t: losses.match_product(
            k, lambda z: _field(z, t), losses.of_pair(PATH, x, y, t)
        ),
        "kxyt",
    ),
    "losses.match_jacobian": Case(
        lambda k, x, y, t: losses.match_jacobian(
            k, lambda z: _field(z, t), losses.of_pair(PATH, x, y, t), num_probes=2
        ),
        "kxyt",
    ),
    "losses.meanflow": Case(
        lambda x, y, t: losses.meanflow(_average, PATH, x, y, 0.5 * (1 + t), t), PAIR
    ),
    "losses.improved_meanflow": Case(
        lambda x, y, t: losses.improved_meanflow(
            _average, _field, PATH, x, y, 0.5 * (1 + t), t
        ),
        PAIR,
    ),
    "losses.adaptive": Case(lambda x: losses.adaptive(jnp.mean(x**2)), "x"),
    "path_error.residual": Case(partial(path_error.residual, _log_density, _field), STATE),
    "path_error.forcing": Case(partial(path_error.forcing, _log_density, _field), STATE),
    "path_error.duhamel": Case(
        partial(
            path_error.duhamel, _log_density, _field, solve=partial(samplers.fixed, num_steps=3)
        ),
        STATE,
    ),
    "path_error.kl_rate": Case(
        partial(
            path_error.kl_rate, _log_density, _field, lambda x, t: 0.5 * x + t,
            solve=partial(samplers.fixed, num_steps=3, adjoint=diffrax.DirectAdjoint()),
        ),
        STATE,
    ),
    "path_error.gap_on_path": Case(
        lambda x, y: path_error.gap_on_path(
            _field, lambda x, t: 0.5 * x, PATH, x, y, jnp.array([0.2, 0.9])
        ),
        "xy",
    ),
    "path_error.gap_along_flow": Case(
        lambda x: path_error.gap_along_flow(
            _field, lambda x, t: 0.5 * x, x, jnp.array([0.0, 0.6, 1.0]),
            solve=partial(samplers.fixed, num_steps=2),
        ),
        "x",
    ),
    "events.log_probability": Case(
        partial(events.log_probability, _event, _field, PATH), STATE
    ),
    "samplers.flow_map": Case(lambda x, t: samplers.flow_map(_average, x, 1.0, t), STATE),
    "onestep.renoised": Case(partial(onestep.renoised, _average, PATH), PAIR),
    "onestep.sensitivity": Case(partial(onestep.sensitivity, _average, PATH), STATE),
    "onestep.sensitivity_diagonal": Case(
        partial(onestep.sensitivity_diagonal, _average, PATH, chunk_size=3), STATE
    ),
    "onestep.sensitivity_trace": Case(
        partial(onestep.sensitivity_trace, _average, PATH, chunk_size=3), STATE
    ),
    "onestep.sensitivity_estimate": Case(
        lambda k, x, t: onestep.sensitivity_estimate(k, _average, PATH, x, t, num_probes=2),
        "kxt",
    ),
    "samplers.fixed": Case(
        lambda x, t: samplers.fixed(_field, x, t, 1.0, num_steps=3), STATE
    ),
    "samplers.adaptive": Case(lambda x, t: samplers.adaptive(_field, x, t, 1.0), STATE),
    "samplers.trajectory": Case(
        lambda x: samplers.trajectory(
            _field, x, jnp.array([0.0, 0.3, 1.0]), solve=partial(samplers.fixed, num_steps=2)
        ),
        "x",
    ),
    "samplers.hybrid": Case(
        lambda x: samplers.hybrid(
            [_field, _field], [0.0, 0.5, 1.0], x, solve=partial(samplers.fixed, num_steps=2)
        ),
        "x",
    ),
    "samplers.graded": Case(
        lambda x: samplers.graded(jnp.linspace(0, 1, 3), jnp.sum(x**2) + jnp.arange(3), 4), "x"
    ),
    "strain.norms": Case(
        lambda k, x, t: strain.norms(k, lambda x, t: _field(x, t) * (1 + x), x, t, num_probes=3),
        "kxt",
    ),
    "strain.extremes": Case(
        lambda k, x, t: strain.extremes(k, _field, x, t, num_matvecs=48), "kxt"
    ),
    "strain.growth": Case(
        lambda k, x: strain.growth(
            k, _field, x, jnp.array([0.0, 0.5, 1.0]), num_matvecs=48,
            solve=partial(samplers.fixed, num_steps=1),
        ),
        "kx",
    ),
    "samplers.few_step": Case(
        lambda x, t: samplers.few_step(_average, x, [0.0, t, 1.0]), STATE
    ),
    "samplers.one_step": Case(partial(samplers.one_step, _average), "x"),
    "samplers.memoryless_sde": Case(
        lambda k, x, t: samplers.memoryless_sde(k, _field, PATH, x, t, num_steps=3), "kxt"
    ),
    "simplex.velocity": Case(
        lambda x, t: simplex.velocity(LETTERS, _letters(x), _letters(-x), t), STATE
    ),
    "simplex.coefficient": Case(
        lambda x, t: simplex.coefficient(jax.nn.sigmoid(x), t, num_classes=3), STATE
    ),
    "simplex.posterior": Case(
        lambda x, t: simplex.posterior(
            LETTERS, jnp.stack([_classes(x), 0 * _classes(x)]), _letters(x), t
        ),
        STATE,
    ),
    "simplex.divergence": Case(
        lambda x, t: simplex.divergence(lambda z: _field(z, t), _letters(x)), STATE
    ),
    "simplex.cross_entropy": Case(
        lambda x, t: simplex.cross_entropy(_field, _letters(x), _classes(x), t), STATE
    ),
    **{
        f"simplex.{name}": Case(
            lambda x, t, loss=loss: loss(_field, LETTERS, _letters(x), _classes(x), t), STATE
        )
        for name, loss in (
            ("residual", simplex.residual), ("cdm", simplex.cdm),
            ("fdm", partial(simplex.fdm, weight=0.5)),
        )
    },
    "simplex.sample": Case(
        lambda x: simplex.sample(simplex.as_velocity(_field, LETTERS), _letters(x), num_steps=3),
        "x",
    ),
    "likelihood.standard_normal": Case(partial(likelihood.standard_normal, scale=2.0), "x"),
    "likelihood.log_prob": Case(
        partial(
            likelihood.log_prob, _field, solve=partial(samplers.fixed, num_steps=3)
        ),
        "x",
    ),
    "likelihood.from_errors": Case(
        lambda k, x: likelihood.from_errors(k, _field, PATH, x, num_draws=3), "kx"
    ),
    "likelihood.bits_per_dim": Case(
        lambda x: likelihood.bits_per_dim(x, 3, bin_width=0.5), "x"
    ),
    "couplings.squared_euclidean": Case(couplings.squared_euclidean, "xy"),
    "metrics.gaussian_kernel": Case(metrics.gaussian_kernel(0.7), "xy"),
}  # fmt: skip

BATCH = {
    "couplings.independent": lambda k, x, y: couplings.independent(k, x, y),
    "couplings.minibatch_ot": lambda k, x, y: couplings.minibatch_ot(k, x, y),
    "couplings.drop_context": lambda k, x, y: couplings.drop_context(k, x, jnp.zeros(x.shape[1:])),
    "times.uniform": lambda k, x, y: times.uniform(k, (5,)),
    "times.stratified": lambda k, x, y: times.stratified(k, (5,)),
    "times.logit_normal": lambda k, x, y: times.logit_normal(k, (5,)),
    "times.log_normal": lambda k, x, y: times.log_normal(k, (5,), PATH),
    "times.intervals": lambda k, x, y: times.intervals(k, (5,)),
    "onestep.prior": lambda k, x, y: onestep.prior(y),
    "simplex.uniform": lambda k, x, y: simplex.uniform(k, (5, 3)),
    "simplex.tangent_probe": lambda k, x, y: simplex.tangent_probe(k, (5, 3)),
    "losses.probe_every": lambda k, x, y: losses.probe_every(
        2, lambda weight, x, y: jnp.sum(y**2) + weight * jnp.sum(x), 0.5, x, y
    ),
    "losses.draw_bank": lambda k, x, y: losses.draw_bank(k, jnp.arange(2), len(x), size=3),
    "empirical.prepare": lambda k, x, y: empirical.prepare(x, chunk_size=2),
    "empirical.take": lambda k, x, y: empirical.take(x, jnp.array([2, 0])),
    "empirical.reweighted": lambda k, x, y: empirical.reweighted(x, y[:, 0]),
    "empirical.mirrored": lambda k, x, y: empirical.mirrored(x, axis=-1),
    "empirical.padded": lambda k, x, y: empirical.padded(x, 4),
    "path_error.bound": lambda k, x, y: path_error.bound(
        _log_density, _field, x, 0.1, jnp.array([0.0, 0.5, 1.0], x.dtype), num_nodes=2
    ),
    "path_error.total_variation": lambda k, x, y: path_error.total_variation(
        _log_density, _field, x, 0.1, 0.5, solve=partial(samplers.fixed, num_steps=3)
    ),
    "metrics.total_variation": lambda k, x, y: metrics.total_variation(x, y),
    "metrics.wasserstein2": lambda k, x, y: metrics.wasserstein2(x, y),
    "metrics.mmd": lambda k, x, y: metrics.mmd(x, y, kernel=metrics.gaussian_kernel(1.0)),
    "metrics.frechet": lambda k, x, y: metrics.frechet(x, y),
    "metrics.nearest_neighbor": lambda k, x, y: metrics.nearest_neighbor(x, y),
    "metrics.distance_ratio": lambda k, x, y: metrics.distance_ratio(x, y),
    "metrics.memorization_ratio": lambda k, x, y: metrics.memorization_ratio(x, y, threshold=0.9),
    "metrics.prdc": lambda k, x, y: metrics.prdc(x, y, neighbors=2),
    "metrics.pearson": lambda k, x, y: metrics.pearson(x[:, 0], y[:, 0]),
    "metrics.spearman": lambda k, x, y: metrics.spearman(x[:, 0], y[:, 0]),
    "metrics.calibration": lambda k, x, y: metrics.calibration(x[:, 0], y[:, 0], variance=x),
}

# These return paths, densities, functions or networks; their own tests take what they return
# through jit, vmap and grad.
MAKERS = {
    "empirical.partition",
    "estimators.as_divergence",
    "events.conditioned",
    "events.given_linear",
    "paths.linear",
    "paths.cosine",
    "paths.from_betas",
    "paths.vp",
    "paths.ve",
    "paths.ve_to_zero",
    "paths.smoothed",
    "toy.gaussian_mixture",
    "toy.isotropic_mixture",
    "toy.eight_gaussians",
    "toy.checkerboard",
    "toy.moons",
    "losses.guidance",
    "losses.marginal",
    "onestep.instantaneous",
    "onestep.reverse_time",
    "posterior.in_data_units",
    "posterior.near_noise",
    "samplers.guided",
    "predictions.as_velocity",
    "predictions.conditioned",
    "predictions.from_timesteps",
    "predictions.reverse_time",
    "predictions.time_first",
    "predictions.unbatched",
    "simplex.as_velocity",
    "simplex.dirichlet",
    "simplex.linear",
    "train.compiler_options",
    "train.init",
    "train.make_step",
    "train.repeat",
    "train.skip_nonfinite",
    "models.functional",
    "models.in_dtype",
    "models.perceptron",
}


def _arguments(case, shape, n=3):
    """Returns n examples of every argument, stacked, but one of those that are shared."""
    keys = dict(zip("xybk", jax.random.split(jax.random.key(1), 4), strict=True))
    made = {
        "x": jax.random.normal(keys["x"], (n, *shape)),
        "y": jax.random.normal(keys["y"], (n, *shape)) + 0.5,
        "t": jnp.linspace(0.2, 0.8, n),
        "b": jax.random.gamma(keys["b"], 1.5, (7, *shape)),
        "k": jax.random.split(keys["k"], n),
    }
    return [made[letter] for letter in case.arguments]


def _axes(case):
    return tuple(None if letter in case.shared else 0 for letter in case.arguments)


def _one(case, arguments, i):
    return [
        a if letter in case.shared else a[i]
        for letter, a in zip(case.arguments, arguments, strict=True)
    ]


def _numbers(tree):
    return [a for a in jax.tree.leaves(tree) if jnp.issubdtype(a.dtype, jnp.floating)]


# Of whole data sets, computed by NumPy outside jit.
HOST = ["collapse.entropy", "collapse.groups", "collapse.variances"]


def test_the_table_is_complete():
    public = set()
    for name in fmjax._MODULES:
        module = importlib.import_module(f"fmjax.{name}")
        public |= {
            f"{name}.{function}"
            for function, value in vars(module).items()
            if inspect.isfunction(value)
            and f"{value.__module__}.".startswith(f"{module.__name__}.")
            and not function.startswith("_")
        }
    assert public == {*PER_EXAMPLE, *BATCH, *MAKERS, *HOST}


# A solver, or the derivative of what differentiates already, takes a second or more to compile.
HEAVY = re.compile(
    r"samplers\.|likelihood\.|path_error\.(duhamel|gap|kl)|sensitivity_|extremes|principal|total_|strain.growth|"
    r"empirical\.(acceleration|time_derivative|truncated|refined|law|lipschitz)|large_bank|"
    r"path_error.bound|prdc|wasserstein2"
)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", slow.those(PER_EXAMPLE, HEAVY.search))
def test_jit_vmap_loop_dtype_and_trace_count(name, shape):
    case = PER_EXAMPLE[name]
    arguments = _arguments(case, shape)
    traces = []

    def counted(*arguments):
        traces.append(1)
        return case.call(*arguments)

    batched = jax.jit(jax.vmap(counted, in_axes=_axes(case)))
    together = batched(*arguments)
    batched(*arguments)
    assert len(traces) == 1, "traced again for equal shapes"
    one = jax.jit(case.call)
    for i in range(3):
        alone = one(*_one(case, arguments, i))
        for a, b in zip(_numbers(alone), _numbers(together), strict=True):
            assert a.dtype == jnp.float32
            np.testing.assert_allclose(a, b[i], rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("name", slow.those(PER_EXAMPLE, HEAVY.search))
def test_float32_stays_float32_where_float64_is_on(name, x64):
    case = PER_EXAMPLE[name]
    arguments = _one(case, _arguments(case, (2,)), 0)
    narrow = lambda a: a.astype(jnp.float32) if jnp.issubdtype(a.dtype, jnp.floating) else a
    arguments = jax.tree.map(narrow, arguments)
    for t in (
        arguments,
        [0.5 if letter == "t" else a for letter, a in zip(case.arguments, arguments, strict=True)],
    ):
        out = jax.eval_shape(lambda *rest, t=t: case.call(*rest), *t)
        wide = [a for a in _numbers(out) if a.dtype == jnp.float64 and not a.weak_type]
        assert not wide


@pytest.mark.parametrize("name", slow.those(PER_EXAMPLE, HEAVY.search))
def test_networks_and_states_of_half_precision_run(name, monkeypatch):
    case = PER_EXAMPLE[name]
    arguments = _one(case, _arguments(case, (2,)), 1)
    half = lambda value: value.astype(jnp.bfloat16)
    halves = [
        half(a) if letter in "xyb" else a
        for letter, a in zip(case.arguments, arguments, strict=True)
    ]
    jax.eval_shape(lambda *rest: case.call(*rest), *halves)
    monkeypatch.setattr(sys.modules[__name__], "_computed", half)
    jax.eval_shape(lambda *rest: case.call(*rest), *halves)
    out = jax.eval_shape(lambda *rest: case.call(*rest), *arguments)
    if name.startswith("estimators."):
        out = out[1]  # the first is what the network returned, as it is
    assert {a.dtype for a in _numbers(out)} == {jnp.dtype(jnp.float32)}


@pytest.mark.parametrize("name", slow.those(PER_EXAMPLE, HEAVY.search))
def test_a_network_wider_than_the_state_runs(name, monkeypatch, x64):
    case = PER_EXAMPLE[name]
    arguments = _one(case, _arguments(case, (2,)), 1)
    narrow = [
        a.astype(jnp.float32) if letter in "xyb" else a
        for letter, a in zip(case.arguments, arguments, strict=True)
    ]
    monkeypatch.setattr(sys.modules[__name__], "_computed", lambda value: value.astype(float))
    jax.eval_shape(lambda *rest: case.call(*rest), *narrow)


TIMED = [
    name
    for name, case in PER_EXAMPLE.items()
    # A field of x alone, whose time is the caller's, has none to check.
    if "t" in case.arguments
    and not name.startswith(("divergence.", "estimators.", "simplex.divergence"))
]


@pytest.mark.parametrize("name", TIMED)
def test_a_batched_time_raises_the_documented_error(name):
    case = PER_EXAMPLE[name]
    arguments = _one(case, _arguments(case, (2,)), 0)
    arguments[case.arguments.index("t")] = jnp.full(3, 0.5)
    with pytest.raises(ValueError, match=r"must be a scalar, got shape \(3,\).*jax\.vmap"):
        case.call(*arguments)


@pytest.mark.parametrize("name", slow.those(PER_EXAMPLE, HEAVY.search))
def test_gradients_are_finite(name):
    case = PER_EXAMPLE[name]
    arguments = _one(case, _arguments(case, (2,)), 1)
    where = tuple(i for i, letter in enumerate(case.arguments) if letter != "k")

    def total(*arguments):
        return sum(jnp.sum(a**2) for a in _numbers(case.call(*arguments)))

    grads = jax.jit(jax.grad(total, argnums=where))(*arguments)
    assert all(bool(jnp.all(jnp.isfinite(g))) for g in grads)


@pytest.mark.parametrize("name", slow.those(BATCH, HEAVY.search))
def test_batch_functions_run_under_jit_and_keep_float32(name):
    x = jax.random.normal(jax.random.key(0), (6, 3))
    y = jax.random.gamma(jax.random.key(1), 1.5, (6, 3))
    plain = BATCH[name](jax.random.key(2), x, y)
    jitted = jax.jit(BATCH[name])(jax.random.key(2), x, y)
    assert all(a.dtype == jnp.float32 for a in _numbers(plain))
    for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(jitted), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "density",
    [toy.eight_gaussians(), toy.checkerboard(), toy.moons()],
    ids=["eight_gaussians", "checkerboard", "moons"],
)
def test_densities_run_under_jit_and_vmap(density):
    keys = jax.random.split(jax.random.key(0), 5)
    x = jax.jit(jax.vmap(density.sample))(keys)
    log_p = jax.jit(jax.vmap(density.log_prob))(x)
    assert x.shape == (5, 2)
    assert x.dtype == log_p.dtype == jnp.float32
    np.testing.assert_allclose(density.log_prob(x[3]), log_p[3], rtol=1e-5)


def test_importing_train_brings_its_types():
    assert train.TrainState._fields == ("step", "params", "ema_params", "opt_state")
