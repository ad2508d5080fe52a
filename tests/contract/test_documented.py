"""Errors are those that the docstrings name, in one short message that names the argument.

Two directions. Every `Raises:` section of the library is read: it names a type of error and says
when, and whatever a function raises, by itself or by the functions of fmjax that it calls, is of a
type that it names. And a table of functions and bad inputs is called. The arguments of a kind are
found in the signatures, so that a new function is in the table without a line of its own.
"""

import ast
import builtins
import functools
import importlib
import inspect
import pathlib
import re

import jax.numpy as jnp
import numpy as np
import pytest

import fmjax
from tests.contract.test_docs import MODULES
from tests.contract.test_surface import FUNCTIONS, _called, _tree
from tests.fmjax import test_door as door

X = door.X
SECTION = re.compile(r"^( *)Raises:\n((?:\1 +.*(?:\n|$)|\n)+)", re.M)
# What a condition begins with: a reader asks when.
WHEN = re.compile(
    r"(if|unless|as|for|on a call,|outside of `jit`,|while running,|whatever|, or) ?", re.I
)


def _entries(docstring):
    """Returns the entries of the section, `{type: when}`."""
    found = SECTION.search(docstring or "")
    if not found:
        return {}
    lines = [line for line in found[2].splitlines() if line.strip()]
    indent = min(len(line) - len(line.lstrip()) for line in lines)
    joined = re.sub(rf"\n {{{indent + 1},}}", " ", "\n".join(lines))
    return dict(entry.strip().split(": ", 1) for entry in joined.splitlines())


def _documented():
    """Yields every function and method whose docstring has the section, with that docstring."""
    for name in MODULES:
        path = pathlib.Path(importlib.import_module(name).__file__)
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                text = ast.get_docstring(node)
                if "Raises:" in (text or ""):
                    yield pytest.param(name, text, id=f"{name}.{node.name}")


@pytest.mark.parametrize(("module", "text"), list(_documented()))
def test_a_section_names_an_error_and_says_when(module, text):
    entries = _entries(text)
    assert entries, "an empty section"
    for error, when in entries.items():
        assert issubclass(getattr(builtins, error), Exception)
        assert WHEN.match(when), when
        assert when.endswith("."), when
        for other in re.findall(r"\bas `([\w.]+)`", when):
            assert _entries(inspect.getdoc(_named(module, other))), f"{other} says nothing"


def _named(module, name):
    """Returns the public function that a docstring names, with or without its module."""
    first, *rest = name.split(".")
    place = fmjax if rest else importlib.import_module(module)
    return functools.reduce(getattr, [first, *rest], place)


def _types(function):
    """Returns the types that a function names, those of `as` included."""
    entries = _entries(inspect.getdoc(function))
    others = re.findall(r"\bas `([\w.]+)`", " ".join(entries.values()))
    return {*entries}.union(*(_types(_named(function.__module__, other)) for other in others))


@functools.cache
def _raised(function):
    """Returns the types in the raise statements of a function and of those of fmjax it calls."""
    own = {
        node.exc.func.id
        for node in ast.walk(_tree(function))
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call)
    }
    return own.union(*(_raised(other) for other in _called(function) if other is not function))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_what_is_raised_is_named(name):
    function = FUNCTIONS[name]
    if inspect.signature(function).parameters:
        assert _raised(function) <= _types(function)


# Good arguments that the table of test_door, of functions and states, has no need of.
ROWS = jnp.arange(12.0).reshape(6, 2)
GOOD = {
    "empirical.prepare": {"points": ROWS},
    "likelihood.bits_per_dim": {"log_prob": X[0], "num_dims": 2},
    "losses.draw_bank": {"batch": jnp.array([1, 0]), "n": 5, "size": 3},
    "metrics.distance_ratio": {"generated": ROWS, "train": ROWS},
    "metrics.memorization_ratio": {"generated": ROWS, "train": ROWS},
    "metrics.nearest_neighbor": {"x": ROWS, "data": ROWS},
    "metrics.prdc": {"real": ROWS, "generated": ROWS},
    "onestep.prior": {"bank": ROWS},
    "samplers.graded": {"times": [0.0, 0.5, 1.0], "density": jnp.ones(3), "num_steps": 4},
    "train.repeat": {"step": lambda state, key, batch: (state, {})},
}


def _call(name, **replaced):
    """Calls a function by keywords, with good arguments but those replaced; also what it made."""
    own = {**door.SPECIAL.get(name, {}), **GOOD.get(name, {}), **replaced}
    listed, given = [], {}
    for parameter in inspect.signature(door.PUBLIC[name]).parameters.values():
        if parameter.default is not parameter.empty and parameter.name not in own:
            continue
        if parameter.kind is parameter.VAR_POSITIONAL:
            listed = [own[parameter.name]]
        elif parameter.kind is not parameter.VAR_KEYWORD:
            given[parameter.name] = {**door.GOOD, **own}[parameter.name]
    if listed:
        return door.PUBLIC[name](*given.values(), *listed)
    made = door.PUBLIC[name](**given)
    return made(*door.RETURNED.get(name, (X, 0.5))) if inspect.isfunction(made) else made


def _refused(name, parameter, value):
    words = "bank" if parameter == "points" else parameter
    with pytest.raises(ValueError, match=rf"\b{words}\b") as caught:
        _call(name, **{parameter: value})
    assert type(caught.value).__name__ in _types(door.PUBLIC[name])
    assert len(str(caught.value)) < 400, str(caught.value)


def _parameters(*names):
    """Returns the pairs of every public function and its parameters of these names."""
    return [
        pytest.param(function, parameter, id=f"{function}-{parameter}")
        for function, value in door.PUBLIC.items()
        for parameter in inspect.signature(value).parameters
        if parameter in names
    ]


TIMES = _parameters("t", "t0", "t1", "r", "times", "knots", "low", "high", "smallest_t")
BANKS = [
    case
    for case in _parameters("bank", "points")
    if not case.id.startswith(("collapse.", "toy."))  # of NumPy arrays, which may be integers
]

COUNTS = _parameters(
    "num_steps", "num_probes", "chunk_size", "num_nodes", "batch_size", "neighbors", "chunk", "k",
    "num_matvecs", "num_components", "multiple", "num_dims", "max_steps",
)  # fmt: skip
# What the kinds above do not hold.
BAD = {
    "couplings.drop_context": [("probability", 1.5)],
    "empirical.mirrored": [("axis", 0)],
    "empirical.reweighted": [
        ("weights", jnp.ones(3)), ("weights", jnp.array([1.0, -1.0])), ("weights", 1j * X),
        ("weights", "class 1"),
    ],
    "empirical.take": [
        ("index", jnp.array([0.0])), ("index", jnp.array([2])), ("index", jnp.array([-1])),
    ],
    "likelihood.bits_per_dim": [("bin_width", 0.0)],
    "losses.draw_bank": [
        ("batch", jnp.array([0, 0])), ("batch", jnp.array([5])), ("size", 0), ("size", 9),
    ],
    "losses.probe_every": [("every", 0), ("every", 7), ("every", 1.5), ("every", None)],
    "metrics.memorization_ratio": [("threshold", 0.0)],
    "path_error.bound": [("grid", jnp.zeros((0, 2))), ("cell", -1.0), ("times", [0.5, 0.2])],
    "path_error.total_variation": [("grid", X[0]), ("cell", 0.0)],
    "paths.linear": [("sigma_min", 1.0)],
    "paths.smoothed": [("bandwidth", -1.0)],
    "samplers.adaptive": [("rtol", 0.0), ("atol", -1.0)],
    "samplers.graded": [("density", jnp.ones(2)), ("times", [0.5])],
    "times.intervals": [("fraction_equal", 1.5)],
    "times.log_normal": [("std", 0.0), ("shape", 5)],
    "times.log_normal_density": [("t", 0.0), ("t", 1.0), ("std", -1.0)],
    "times.logit_normal": [("std", float("nan")), ("shape", 5)],
    "times.stratified": [("shape", 5)],
    "times.uniform": [("low", 1.0), ("low", -0.1), ("high", 0.0), ("shape", 5)],
    "train.make_step": [("ema_decay", 1.5)],
}  # fmt: skip


@pytest.mark.parametrize(("name", "parameter"), TIMES)
def test_complex_times(name, parameter):
    several = parameter in {"times", "knots"}
    for value in (0.5 + 0j, np.complex64(0.5), jnp.complex64(0.5)):
        _refused(name, parameter, [0.0, value] if several else value)
    if several:
        _refused(name, parameter, jnp.array([0.0, 0.5 + 0j]))


@pytest.mark.parametrize(("name", "parameter"), BANKS)
def test_banks_that_are_none(name, parameter):
    for value in (jnp.zeros((0, 2)), jnp.float32(0.5), jnp.array([[7, 200], [1, 2]], jnp.uint8)):
        _refused(name, parameter, value)


@pytest.mark.parametrize(("name", "parameter"), COUNTS)
def test_counts_that_are_none(name, parameter):
    for value in (0, -1, 2.5, float("nan"), "3"):
        _refused(name, parameter, value)


@pytest.mark.parametrize("name", BAD)
def test_bad_inputs(name):
    for parameter, value in BAD[name]:
        _refused(name, parameter, value)
