"""What `inspect` finds at the public surface: names, docstrings, errors, fields, equations."""

import ast
import functools
import importlib
import inspect
import pathlib
import re
import textwrap

import pytest

import fmjax
from tests.contract.test_docs import MODULES

PUBLIC = {
    f"{module}.{name}": getattr(getattr(fmjax, module), name)
    for module in fmjax._MODULES
    for name in getattr(fmjax, module).__all__
}
FUNCTIONS = {name: value for name, value in PUBLIC.items() if inspect.isfunction(value)}
TUPLES = {name: value for name, value in PUBLIC.items() if hasattr(value, "_fields")}


@pytest.mark.parametrize("name", MODULES)
def test_a_module_lists_its_public_names(name):
    module = importlib.import_module(name)
    mine = {
        key
        for key, value in vars(module).items()
        if getattr(value, "__module__", None) == name
        and (inspect.isfunction(value) or inspect.isclass(value))
        and not key.startswith("_")
    }
    assert mine <= set(module.__all__)
    assert all(hasattr(module, key) for key in module.__all__)


@pytest.mark.parametrize("name", MODULES)
def test_a_file_of_the_library_is_at_most_300_lines(name):
    path = pathlib.Path(importlib.import_module(name).__file__)
    assert len(path.read_text().splitlines()) <= 300


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_first_line_says_what_a_function_does(name):
    first = inspect.getdoc(FUNCTIONS[name]).splitlines()[0]
    verb, *_ = first.split()
    assert re.fullmatch(r"[A-Z][a-z]+s", verb), first
    assert verb not in {"Returns", "Sees"}, first
    assert first.endswith("."), first


@pytest.mark.parametrize("name", TUPLES)
def test_every_field_of_a_tuple_is_described(name):
    attributes = inspect.getdoc(TUPLES[name]).split("Attributes:")[1]
    for field in TUPLES[name]._fields:
        assert re.search(rf"^\s+{field}: ", attributes, re.M), f"{field} without a word"


def _called(function):
    """Yields the functions of fmjax that a function calls by a name of its module."""
    for node in ast.walk(_tree(function)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name | ast.Attribute):
            first, *rest = ast.unparse(node.func).split(".")
            target = function.__globals__.get(first)
            for part in rest:
                target = getattr(target, part, None)
            if inspect.isfunction(target) and target.__module__.startswith("fmjax"):
                yield target


def _tree(function):
    return ast.parse(textwrap.dedent(inspect.getsource(function)))


@functools.cache
def _may_raise(function):
    """Tells whether a function, or one of fmjax that it calls, has a raise statement."""
    if any(isinstance(node, ast.Raise) for node in ast.walk(_tree(function))):
        return True
    return any(_may_raise(other) for other in _called(function) if other is not function)


def test_the_search_for_errors_sees_through_calls():
    assert _may_raise(fmjax.samplers.one_step)  # by few_step
    assert not _may_raise(fmjax.predictions.convert.__globals__["_checks"].wide_dtype)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_that_may_raise_says_when(name):
    function = FUNCTIONS[name]
    if inspect.signature(function).parameters and _may_raise(function):
        assert "Raises:" in inspect.getdoc(function)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_an_equation_has_its_source_at_the_function(name):
    text = inspect.getdoc(FUNCTIONS[name])
    if re.search(r"eq\. \(", text.split("Args:")[0]):
        assert "Reference:" in text
