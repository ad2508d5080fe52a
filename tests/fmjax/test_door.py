"""Every public function refuses a wrong path, function or state at the door, in one sentence.

The table is the signatures themselves: each parameter is tried with what is not of its kind, told
by its annotation, so that a new function without a check fails here. Messages are short whatever
came, a network with its parameters included, and begin with our own words.
"""

import importlib
import inspect
import re
from functools import partial

import diffrax
import flax.linen
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import fmjax
from fmjax import (
    couplings,
    divergence,
    empirical,
    estimators,
    events,
    likelihood,
    losses,
    metrics,
    models,
    onestep,
    paths,
    posterior,
    predictions,
    samplers,
    simplex,
    times,
    train,
)

PATH = paths.cosine()
X = jnp.array([0.3, -0.7])
KEY = jax.random.key(0)


def _field(x, t):
    return jnp.tanh(x) * (1 - t)


def _average(x, r, t):
    return jnp.tanh(x) * (r - t)


def _log_density(x, t):
    return -jnp.sum((1 + t) * x**2)


SOLVE = partial(samplers.fixed, num_steps=1)
TARGET = losses.of_pair(PATH, X, X, 0.5)
COMPONENTS = posterior.Components(jnp.ones(1), jnp.ones((1, 2)), None)
BATCH = jnp.ones((6, 2))

# What a parameter of this name accepts; those of single functions below.
GOOD = {
    "average_velocity": _average, "axis_name": "bank", "bandwidth": 0.2,
    "bank": jnp.array([[0.5, -1.0], [1.0, 2.0]]), "cell": 0.1, "index": jnp.array([0]),
    "multiple": 2, "weights": jnp.ones(2),
    "classes": jnp.arange(2), "components": COMPONENTS, "conditional": _average,
    "unconditional": _average, "context": jnp.arange(3), "covariance": jnp.eye(2),
    "cost": couplings.squared_euclidean, "divergence": divergence.exact,
    "dtype": jnp.bfloat16,
    "estimator": partial(estimators.bekas, KEY, num_probes=2), "event": jnp.sum, "exact": _field,
    "f": jnp.tanh, "field": jnp.tanh, "given": predictions.velocity, "grid": BATCH,
    "guide": lambda v, x, t: v, "heads": lambda x, t: (_field(x, t), x), "k": 1,
    "kernel": metrics.gaussian_kernel(1.0), "key": KEY,
    "kind": predictions.velocity, "knots": [0.2, 0.9], "limit": lambda path, t: X,
    "log_cdf": jax.scipy.special.log_ndtr, "log_density": _log_density,
    "log_prob0": likelihood.standard_normal, "loss": lambda params, key, batch: jnp.sum(params),
    "matching": losses.match_trace, "mean": X, "model": _field, "n": 3,
    "network": _field, "noise": lambda w: w,
    "null": 2, "num_timesteps": 5, "of": predictions.x1, "optimizer": optax.sgd(0.1),
    "params": X, "path": PATH,
    "probabilities": jnp.full(2, 0.5), "probe": jax.random.rademacher,
    "quantity": posterior.diagonal, "r": 0.7, "sampler": times.uniform, "scale": 1.5,
    "shape": (3,), "solve": SOLVE, "std": 1.5, "t": 0.5, "t0": 0.1, "t1": 0.9,
    "times": jnp.array([0.3, 0.6]), "value": X, "variance": X**2, "variances": X**2, "vector": X,
    "velocities": [_field], "velocity": _field, "wanted": predictions.x1, "weight": 0.3, "x": X,
    "x0": X, "x1": X, "y": X,
}  # fmt: skip
LETTERS = {
    "path": simplex.dirichlet(2), "logits": _field, "probs": jnp.array([0.4, 0.6]),
    "x": jnp.array([0.3, 0.7]), "x0": jnp.array([0.3, 0.7]), "x1": jnp.array(1),
    "bank": jnp.array([0, 1]), "b": 0.3, "s": 1.5, "num_classes": 3,
}  # fmt: skip
SPECIAL = {
    **{f"simplex.{name}": LETTERS for name in simplex.__all__},
    "couplings.independent": {"x0": BATCH, "x1": BATCH},
    "couplings.minibatch_ot": {"x0": BATCH, "x1": BATCH},
    "events.given_linear": {"measure": lambda x1: 2.0 * x1, "noise_std": 0.5},
    "losses.dm": {"target": losses.of_bank},
    "losses.efm": {"target": empirical.anchored_velocity},
    "losses.probe_every": {"every": 1, "loss": lambda weight, x: jnp.sum(x), "arrays": BATCH},
    "losses.guidance": {"mix": 0.5},
    "losses.match_jacobian": {"target": TARGET},
    "losses.match_product": {"target": TARGET},
    "losses.match_trace": {"target": TARGET},
    "metrics.mmd": {"x": BATCH, "y": BATCH},
    "models.functional": {"model": models.MLP(2, width=8, depth=1, rngs=nnx.Rngs(0))},
    "onestep.reverse_time": {"model": _average},
    "path_error.gap_along_flow": {"solve": lambda field, x, t0, t1: x},  # compiles nothing
    "posterior.principal_components": {"num_components": 1},
    "posterior.total_covariance": {"velocity": lambda x, t, c: _field(x, t)},
    "posterior.total_diagonal": {"velocity": lambda x, t, c: _field(x, t)},
    "predictions.time_first": {"model": lambda t, x: _field(x, t)},
    "predictions.unbatched": {"model": lambda x, t: _field(x, t[:, None])},
    "samplers.few_step": {"times": [0.0, 1.0]},
    "samplers.guided": {"conditional": _field, "unconditional": _field},
}
# With which a function that was returned is called; two arguments, a state and a time, unless told.
RETURNED = {
    "estimators.as_divergence": (jnp.tanh, X),
    "losses.guidance": (X, X, 0.5),
    "losses.marginal": (X, X, 0.5),
    "onestep.reverse_time": (X, 0.7, 0.5),
    "posterior.near_noise": (_field, PATH, X, 0.5),
}
FUNCTION = re.compile(
    "Callable|Velocity|Divergence|Solve|Prediction|Linear|Field|Guide|Matching|Event|Conditional"
    "|LogDensity|GradientTransformation"
)
VELOCITIES = {
    "velocity", "velocities", "average_velocity", "exact", "model", "conditional", "unconditional",
    "field", "f",
}  # fmt: skip


def _public():
    for name in fmjax._MODULES:
        module = importlib.import_module(f"fmjax.{name}")
        for function, value in sorted(vars(module).items()):
            own = f"{getattr(value, '__module__', '')}.".startswith(f"{module.__name__}.")
            if inspect.isfunction(value) and own and not function.startswith("_"):
                yield f"{name}.{function}", value


PUBLIC = dict(_public())


def _parameters(wanted):
    """Yields every function and parameter whose name and annotation are wanted."""
    for name, function in PUBLIC.items():
        for parameter in inspect.signature(function).parameters.values():
            if wanted(parameter.name, str(parameter.annotation)):
                yield name, parameter.name


def _call(name, **replaced):
    """Calls a function with accepted arguments but those replaced, and what it returned."""
    own = SPECIAL.get(name, {})
    accepted = {**GOOD, **own}
    positional, keywords = [], {}
    for parameter in inspect.signature(PUBLIC[name]).parameters.values():
        optional = parameter.default is not parameter.empty and parameter.name != "solve"
        if optional and parameter.name not in {**own, **replaced}:
            continue
        value = {**accepted, **replaced}[parameter.name]
        if parameter.kind is parameter.KEYWORD_ONLY:
            keywords[parameter.name] = value
        elif parameter.kind is parameter.VAR_KEYWORD:
            continue
        else:
            positional.append(value)
    out = PUBLIC[name](*positional, **keywords)
    while isinstance(out, tuple) and out and inspect.isfunction(out[0]):
        out = out[0]
    return out(*RETURNED.get(name, (X, 0.5))) if inspect.isfunction(out) else out


def _refused(name, words, **replaced):
    with pytest.raises(ValueError, match=words) as caught:
        _call(name, **replaced)
    assert len(str(caught.value)) < 400
    assert "Chex" not in str(caught.value)


def _id(case):
    return "-".join(case)


def _wrong(name, value):
    """Returns the value as the parameter takes it: `velocities` is a list of them."""
    return [value] if name == "velocities" else value


FUNCTIONS = list(_parameters(lambda name, annotation: FUNCTION.search(annotation)))
PATHS = list(_parameters(lambda name, _: name == "path"))
STATES = [
    (name, parameter)
    for name, parameter in _parameters(lambda name, _: name in {"x", "x0", "x1"})
    if {"path", "velocity", "average_velocity", "exact"}
    & {*inspect.signature(PUBLIC[name]).parameters}
    and not name.startswith("samplers.")
    and not (name.startswith("simplex.") and parameter == "x1")  # its classes are integers
]
ARRAYS = [
    (name, parameter)
    for name, parameter in _parameters(
        lambda name, _: name in {"x", "x0", "x1", "t", "t0", "t1", "r", "bank", "grid", "vector"}
    )
    if not name.startswith(("metrics.", "couplings."))
]


def test_the_tables_hold_every_function_that_takes_one():
    assert len(FUNCTIONS) > 90
    assert len(PATHS) > 55
    assert len(STATES) > 60


@pytest.mark.parametrize("case", FUNCTIONS, ids=_id)
def test_what_is_no_function_is_refused(case):
    name, parameter = case
    words = "velocity" if parameter == "velocities" else parameter
    for value, got in (
        ("exact", "the string 'exact'"),
        (diffrax.Euler, "the class `Euler`"),
        (X, "an array of float32 and shape"),
        (PATH, "a Path"),
    ):
        _refused(name, f"^{words} must be .*, got {got}", **{parameter: _wrong(parameter, value)})


@pytest.mark.parametrize("case", FUNCTIONS, ids=_id)
def test_a_function_that_takes_other_arguments_is_refused(case):
    name, parameter = case
    if parameter in {"optimizer", "solver", "adjoint"} or name == "models.functional":
        pytest.skip("an object, not a function")
    words = "velocity" if parameter == "velocities" else parameter
    wrong = lambda key, a, b, c, d, e, g: a
    _refused(
        name,
        f"^{words} must be a function .*, which takes .key, a, b, .*bind the key",
        **{parameter: _wrong(parameter, wrong)},
    )


@pytest.mark.parametrize("case", PATHS, ids=_id)
def test_what_is_no_path_is_refused(case):
    name, _ = case
    for value, words in (
        (paths.linear, "got the function `linear`: call it, paths.linear()"),
        ("cosine", "got the string 'cosine': write paths.cosine()"),
        (_field, "got the function `_field`: the arguments are in another order"),
        (None, "got None: build one"),
        (paths.Path, "got the class `Path`: build one"),
    ):
        said = f"path must be a fmjax.paths.Path, {words}"
        if name.startswith("simplex."):
            said = "path must be a path on the simplex, " + words.partition(":")[0]
        _refused(name, re.escape(said), path=value)


@pytest.mark.parametrize("case", [case for case in FUNCTIONS if case[1] in VELOCITIES], ids=_id)
def test_what_a_velocity_returns_is_looked_at(case):
    name, parameter = case
    if name == "models.functional":
        pytest.skip("a module is checked when it is called")
    if name == "predictions.unbatched":
        pytest.skip("of a batch of one, see test_calls")
    for value, words in (
        ((X, X), "one array shaped like x .2,., got a tuple of 2: return the array alone"),
        ([0.1, 0.2], "one array shaped like x .2,., got the list"),
        ({"dx": X}, "one array shaped like x .2,., got a dict with keys dx"),
        (jnp.array([1, 2]), "real floating numbers, got int32"),
        (1j * X, "real floating numbers, got complex64"),
    ):
        wrong = lambda *_, value=value: value
        _refused(name, f"must return {words}", **{parameter: _wrong(parameter, wrong)})
    _refused(
        name, r"shapes must be equal.*\(3,\)",
        **{parameter: _wrong(parameter, lambda *_: jnp.ones(3))},
    )  # fmt: skip


@pytest.mark.parametrize("case", STATES, ids=_id)
def test_images_of_integers_are_refused(case):
    name, parameter = case
    words = rf"^{parameter} must be of floating dtype, got uint8.*images.astype\(jnp.float32\)"
    for made in (np.array, jnp.array):
        _refused(name, words, **{parameter: made([7, 200], dtype=np.uint8)})
    _refused(name, f"^{parameter} must be real, got complex64", **{parameter: 1j * X})


@pytest.mark.slow  # each row compiles a whole method twice
@pytest.mark.parametrize("case", STATES, ids=_id)
def test_lists_of_numbers_are_states(case):
    name, parameter = case
    listed, wanted = _call(name, **{parameter: [0.3, -0.7]}), _call(name, **{parameter: X})
    for a, b in zip(jax.tree.leaves(listed), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


@pytest.mark.parametrize("case", ARRAYS, ids=_id)
def test_a_network_in_the_place_of_an_array_is_named_in_a_few_words(case):
    name, parameter = case
    apply, params = models.functional(models.MLP(2, width=64, rngs=nnx.Rngs(0)))
    _refused(
        name, "must be an array, got a partial of `apply`", **{parameter: partial(apply, params)}
    )
    key = jax.random.key(1)
    _refused(name, "must be an array, got a random key", **{parameter: key})


LINEN = flax.linen.Dense(2)
OPTIMIZER = optax.adam(1e-3)
FUNCTIONAL = models.functional(models.MLP(2, width=8, depth=1, rngs=nnx.Rngs(0)))
FIRST_DAY = {
    "a divergence without its key": (
        lambda: likelihood.log_prob(_field, X, divergence=divergence.hutchinson),
        r"^divergence must be .*, got the function `hutchinson`, which takes \(key, .*bind the key",
    ),
    "an estimator without its key": (
        lambda: likelihood.log_prob(_field, X, divergence=estimators.xtrace),
        "got the function `xtrace`, .*bind the key, functools.partial.xtrace, key",
    ),
    "an estimator for a divergence": (
        lambda: likelihood.log_prob(_field, X, divergence=partial(estimators.xtrace, KEY)),
        "got an Estimate.*estimators.as_divergence",
    ),
    "an estimator for a divergence, of a loss": (
        lambda: losses.cdm(_field, PATH, X, X, 0.5, divergence=partial(estimators.xtrace, KEY)),
        "got an Estimate.*estimators.as_divergence",
    ),
    "a diagonal for a divergence": (
        lambda: posterior.trace(_field, PATH, X, 0.5, divergence=divergence.diagonal),
        r"^divergence must return .f.x., div f.x.., the second a scalar, got an array",
    ),
    "a divergence that returns one number": (
        lambda: losses.cdm(_field, PATH, X, X, 0.5, divergence=lambda f, x: jnp.sum(f(x))),
        r"^divergence must return .f.x., div f.x.., got an array.*return both",
    ),
    "a matching without its key": (
        lambda: losses.fdm(_field, PATH, X, X, 0.5, weight=1.0, matching=losses.match_product),
        "^matching must be .*bind the key, functools.partial.match_product, key",
    ),
    "a matching that returns one number": (
        lambda: losses.fdm(_field, PATH, X, X, 0.5, weight=1.0, matching=lambda f, y: f(y.x)),
        "^matching must return .value, penalty., got an array",
    ),
    "a solver's name": (
        lambda: samplers.fixed(_field, X, solver="euler"),
        "^solver must be an instance of `AbstractSolver`, got the string 'euler'",
    ),
    "a solver's class": (
        lambda: samplers.adaptive(_field, X, solver=diffrax.Dopri5),
        r"got the class `Dopri5`: call it, diffrax.Dopri5\(\)",
    ),
    "an adjoint's class": (
        lambda: samplers.fixed(_field, X, adjoint=diffrax.DirectAdjoint),
        r"^adjoint must .*call it, diffrax.DirectAdjoint\(\)",
    ),
    "a solver for solve": (
        lambda: likelihood.log_prob(_field, X, solve=diffrax.Euler()),
        "^solve must be a function .*, got an Euler: pass, for example, samplers.adaptive",
    ),
    "a state of two arrays, a change of one": (
        lambda: samplers.fixed(lambda x, t: x[0], (X, X)),
        "^velocity must return a tree like the state, a tuple of 2, got an array",
    ),
    "a linen module for a velocity": (
        lambda: losses.cfm(LINEN, PATH, X, X, 0.5),
        "^velocity must be a function .*, got a Dense: bind its variables",
    ),
    "functional of a linen module": (
        lambda: models.functional(LINEN),
        "^model must be an instance of nnx.Module, got a Dense: a module of linen needs no such",
    ),
    "functional of a class": (
        lambda: models.functional(models.MLP),
        "got the class `MLP`: build it first, such as MLP.*rngs=nnx.Rngs",
    ),
    "functional of a function": (
        lambda: models.functional(_field),
        "got the function `_field`: a function is a velocity as it is",
    ),
    "apply without its parameters": (
        lambda: losses.cfm(FUNCTIONAL[0], PATH, X, X, 0.5),
        "^params must be the tree that functional returned, got an array.*partial.apply, params",
    ),
    **{
        f"{network.__name__} of a seed": (
            partial(network, shape, rngs=0),
            r"^rngs must be an instance of `Rngs`, got 0: write rngs=nnx.Rngs\(0\)",
        )
        for network, shape in (
            (models.MLP, 2),
            (models.UNet, (8, 8, 1)),
            (models.Conv1D, (8, 1)),
            (models.DiT, (8, 1)),
            (models.Encoder, (8, 8, 1)),
            (models.Decoder, (8, 8, 1)),
        )
    },
    "train.init, swapped": (
        lambda: train.init(OPTIMIZER, {"w": X}),
        "^optimizer must be a gradient transformation of optax, got a dict with keys w: write one",
    ),
    "train.init of an optimizer's maker": (
        lambda: train.init(X, optax.adam),
        "^optimizer must be .*, got the function `adam`: write one such as optax.adam.1e-3",
    ),
    "make_step, swapped": (
        lambda: train.make_step(OPTIMIZER, lambda params, key, batch: 0.0),
        "^loss must be a function .params, key, batch. .*, got a GradientTransformation",
    ),
    "make_step of a loss without a key": (
        lambda: train.make_step(lambda params, batch: 0.0, OPTIMIZER),
        r"^loss must be .*, got a lambda, which takes \(params, batch\)",
    ),
    "bits of a shape": (
        lambda: likelihood.bits_per_dim(jnp.array(-1.0), (28, 28, 1)),
        r"^num_dims must be an integer of at least 1, got the tuple \(28, 28, 1\).*x.size",
    ),
    "shapes that differ": (
        lambda: losses.cfm(_field, PATH, X, jnp.ones(3), 0.5),
        r"^shapes must be equal, got x0 \(2,\), x1 \(3,\): .*jax.vmap",
    ),
    "a batched time": (
        lambda: losses.cfm(_field, PATH, X, X, jnp.ones(3)),
        r"^t must be a scalar, got shape \(3,\)",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FIRST_DAY)
def test_mistakes_of_a_first_day(name):
    call, words = FIRST_DAY[name]
    with pytest.raises(ValueError, match=words) as caught:
        call()
    assert len(str(caught.value)) < 400


NAN = float("nan")
NANS = {
    "scale": lambda: likelihood.standard_normal(X, scale=NAN),
    "bin_width": lambda: likelihood.bits_per_dim(jnp.array(-1.0), 2, bin_width=NAN),
    "num_dims": lambda: likelihood.bits_per_dim(jnp.array(-1.0), NAN),
    "t1": lambda: likelihood.log_prob(_field, X, t1=NAN),
    "rtol": lambda: samplers.adaptive(_field, X, rtol=NAN),
    "rtol, atol": lambda: samplers.adaptive(_field, X, atol=NAN),
    "num_steps": lambda: samplers.fixed(_field, X, num_steps=NAN),
    "num_steps ": lambda: samplers.memoryless_sde(KEY, _field, PATH, X, 0.1, num_steps=NAN),
    "jitter": lambda: _call("events.log_probability", jitter=NAN),
    "smallest_t": lambda: _call("events.conditioned", smallest_t=NAN),
    "smallest_t ": lambda: _call("posterior.near_noise", smallest_t=NAN),
    "num_probes": lambda: divergence.hutchinson(KEY, jnp.tanh, X, num_probes=NAN),
    "num_probes ": lambda: estimators.xtrace(KEY, jnp.tanh, X, num_probes=NAN),
    "chunk_size": lambda: divergence.chunked(jnp.tanh, X, chunk_size=NAN),
    "cell": lambda: _call("path_error.bound", cell=NAN),
    "weight": lambda: _call("losses.fdm", weight=NAN),
    "bandwidth": lambda: paths.smoothed(PATH, NAN),
    "bandwidth ": lambda: metrics.gaussian_kernel(NAN),
    "sigma_min": lambda: paths.linear(NAN),
    "ema_decay": lambda: train.make_step(GOOD["loss"], OPTIMIZER, ema_decay=NAN),
    "t": lambda: losses.cfm(_field, PATH, X, X, NAN),
}


@pytest.mark.parametrize("name", NANS)
def test_options_that_are_not_a_number_are_refused(name):
    with pytest.raises(ValueError, match=f"{name.strip()}.*nan"):
        NANS[name]()


@pytest.mark.slow
def test_a_network_wider_than_the_state_keeps_its_values(x64):
    matrix = np.array([[0.3, -1.1], [0.4, 0.7]])
    field = lambda x, t: jnp.asarray(matrix) @ x.astype(jnp.float64)
    x, vector = jnp.array([0.25, -0.5], jnp.float32), jnp.array([2.0, -1.5], jnp.float32)
    odd, even = matrix - matrix.T, matrix + matrix.T
    skew = np.linalg.norm(odd) / np.linalg.norm(even)
    assert float(posterior.asymmetry(KEY, field, x, 0.5, num_probes=2)) == pytest.approx(skew)
    # On the linear path the mean is x + (1 - t) u, its Jacobian over alpha / sigma^2 = 2 the law's.
    jacobian = np.eye(2) + 0.5 * matrix
    product = posterior.matvec(field, paths.linear(), x, 0.5, vector)
    np.testing.assert_allclose(product, (jacobian + jacobian.T) / 4 @ vector, rtol=1e-7)
    spread = onestep.sensitivity_diagonal(lambda x, r, t: field(x, t), paths.linear(), x, 0.5)
    np.testing.assert_allclose(spread, 0.25 * np.sum(jacobian**2, axis=1), rtol=1e-6)
    mean = jacobian @ np.array([0.25, -0.5])  # the event is C(x) = 3 x_0 - x_1
    normal = np.array([3.0, -1.0])
    value = normal @ mean / np.sqrt(normal @ jacobian @ normal / 2)
    ours = events.log_probability(
        lambda x: 3 * x[0] - x[1], field, paths.linear(), x, 0.5, jitter=0
    )
    assert float(ours) == pytest.approx(float(jax.scipy.special.log_ndtr(value)), rel=1e-7)


def test_a_bound_linen_module_is_a_velocity():
    class Field(flax.linen.Module):
        @flax.linen.compact
        def __call__(self, x, t):
            return t * flax.linen.Dense(2)(x)

    variables = Field().init(KEY, X, 0.5)
    losses_of = partial(losses.cfm, path=PATH, x0=X, x1=2 * X, t=0.5)
    bound, plain = Field().bind(variables), partial(Field().apply, variables)
    np.testing.assert_array_equal(losses_of(bound), losses_of(plain))


def test_a_check_says_the_same_under_jit_vmap_and_grad():
    wrong = jnp.ones((4, 2), jnp.uint8)
    loss = lambda x1: losses.cfm(_field, PATH, jnp.zeros(2), x1, 0.5)
    with pytest.raises(ValueError, match="^x1 must be of floating dtype, got uint8"):
        jax.jit(jax.vmap(loss))(wrong)
    tuples = lambda x1: losses.cfm(lambda x, t: (x, t), PATH, jnp.zeros(2), x1, 0.5)
    with pytest.raises(ValueError, match="^velocity must return one array"):
        jax.jit(jax.vmap(jax.grad(tuples)))(jnp.ones((4, 2)))


@pytest.mark.parametrize("name", ["losses.cfm", "posterior.mean", "losses.efm"])
def test_no_check_calls_the_velocity_again(name):
    calls = []

    def counted(x, t):
        calls.append(1)
        return _field(x, t)

    _call(name, velocity=counted)
    assert len(calls) == 1
