"""Compiling a solver once, though it is called outside `jax.jit`.

JAX keeps a compiled program for a function that it knows again. A solver makes new functions on
every call, so none would be known again. `known` makes one of a velocity that equals the one of an
earlier call as long as everything is the same that the velocity refers to:

* the arrays bound by `functools.partial`, such as parameters, are inputs of the program: with other
  values it is not compiled again;
* what a function encloses, or finds among the global names of its module, is compared with what it
  was. So parameters that were trained in the meantime are seen.

What may be written to unseen, such as an object with attributes, makes a velocity new, and it is
compiled on every call.
"""

from __future__ import annotations

import dataclasses
import functools
import types
from collections.abc import Callable, Hashable, Iterator
from typing import Any

import jax
from jax.tree_util import Partial

__all__ = ["known", "run"]

_LIBRARIES = {"builtins", "diffrax", "fmjax", "jax", "jaxlib", "numpy"}
"""Packages whose global names do not change while a program runs."""
_CONSTANT = (str, bytes, int, float, complex, type, types.ModuleType, types.BuiltinFunctionType)


def known(function: Callable) -> Callable:
    """Returns the function in a form that is equal on the next call if nothing has changed."""
    if isinstance(function, _Known) or getattr(function, "func", None) is _bound:
        return function
    try:
        if isinstance(function, functools.partial):
            leaves, structure = jax.tree.flatten((function.args, function.keywords))
            leaves = [leaf if isinstance(leaf, jax.Array) else _Known(leaf) for leaf in leaves]
            return Partial(_bound, _Known(function.func), _Known(structure), *leaves)
        return _Known(function)
    except (_MayChangeError, TypeError):  # a TypeError: a part has no hash
        return lambda *inputs: function(*inputs)


def run(function: Callable, *inputs: Any) -> Any:
    """Calls a function of pytrees as one program, compiled once for the same functions and shapes.

    Args:
      function: at the top of a module, `(*inputs) -> pytree`.
      *inputs: arrays, and functions that have passed `known`.
    """
    leaves, structure = jax.tree.flatten(inputs)
    arrays = [leaf for leaf in leaves if isinstance(leaf, jax.Array)]
    others = tuple(None if isinstance(leaf, jax.Array) else leaf for leaf in leaves)
    return _compiled(function, structure, others, arrays)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _compiled(function: Callable, structure: Any, others: tuple, arrays: list[jax.Array]) -> Any:
    rest = iter(arrays)
    leaves = [next(rest) if other is None else other for other in others]
    return function(*jax.tree.unflatten(structure, leaves))


def _bound(function: _Known, structure: _Known, *inputs: Any) -> Any:
    """Calls a partial that was taken apart."""
    count = structure.value.num_leaves
    leaves = [leaf.value if isinstance(leaf, _Known) else leaf for leaf in inputs[:count]]
    args, keywords = jax.tree.unflatten(structure.value, leaves)
    return function.value(*args, *inputs[count:], **keywords)


class _Known:
    """A value that equals another one if both refer to the same things."""

    def __init__(self, value: Any):
        self.value = value
        self.parts = tuple(_parts(value, {}))
        self.hash = hash(self.parts)

    def __call__(self, *inputs: Any) -> Any:
        return self.value(*inputs)

    def __hash__(self) -> int:
        return self.hash

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Known) and self.parts == other.parts


class _Same:
    """An object that equals no other object, and is kept from being replaced by one."""

    def __init__(self, value: Any):
        self.value = value

    def __hash__(self) -> int:
        return id(self.value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self.value is other.value


class _MayChangeError(Exception):
    """What a function refers to may be written to unseen."""


def _parts(value: Any, seen: dict[int, Any]) -> Iterator[Hashable]:
    """Yields the things that a value refers to, none of which ever changes itself."""
    if id(value) in seen:
        return
    seen[id(value)] = value  # kept, as the number of a thing that is gone may come again
    inner = []
    if isinstance(value, jax.Array):
        yield _Same(value)
    elif isinstance(value, functools.partial) and not isinstance(value, Partial):
        inner = [value.func, value.args, value.keywords]
    elif not jax.tree_util.all_leaves([value]):
        inner = jax.tree.leaves(value)
        yield jax.tree.structure(value)
    elif isinstance(value, types.FunctionType):
        yield value.__code__
        inner = [cell.cell_contents for cell in value.__closure__ or ()]
        if not _of_a_library(value):
            inner += [value.__defaults__, value.__kwdefaults__, *_globals(value)]
        elif not inner:
            yield _Same(value)
    elif _of_a_library(value):
        yield _Same(value)
    elif isinstance(value, types.MethodType):
        inner = [value.__self__, value.__func__]
    elif hasattr(value, "__wrapped__"):  # made by jax.jit, for example
        inner = [value.__wrapped__]
        yield type(value)
    elif isinstance(value, _CONSTANT) or _is_frozen(value):
        yield type(value), value  # with its type, as 1 equals 1.0
    else:
        raise _MayChangeError
    for one in inner:
        yield from _parts(one, seen)


def _of_a_library(value: Any) -> bool:
    """Returns whether a value is a function of a library; a network of a library is an object."""
    function = isinstance(value, types.FunctionType) or hasattr(value, "__wrapped__")
    module = getattr(value, "__module__", None) if function else None
    return isinstance(module, str) and module.partition(".")[0] in _LIBRARIES


def _is_frozen(value: Any) -> bool:
    """Returns whether a value has a hash of its contents, and no attributes to write to."""
    frozen = dataclasses.is_dataclass(value) and value.__dataclass_params__.frozen
    hashed = type(value).__hash__ not in {object.__hash__, None}
    return hashed and (frozen or not hasattr(value, "__dict__"))


def _globals(function: types.FunctionType) -> list[Any]:
    """Returns what the global names in a function stand for at present."""
    names, codes = set(), [function.__code__]
    while codes:
        code = codes.pop()
        names.update(code.co_names)
        codes += [one for one in code.co_consts if isinstance(one, types.CodeType)]
    return [function.__globals__[name] for name in sorted(names) if name in function.__globals__]
