"""The checks of every argument that is a path or a function, and of what such a function returns.

What a function returns is looked at where it is called anyway: no check calls one.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from fmjax._checks import paths
from fmjax._checks.arrays import same_shape
from fmjax._checks.words import described, is_array, is_path, name_of
from fmjax.types import Array, PyTree

__all__ = [
    "at",
    "divergence_of",
    "function",
    "functions",
    "instance",
    "pair",
    "returned",
    "returned_tree",
]

# How each argument is called, and what to write for one.
_SIGNATURES = {
    "velocity": ("(x, t) -> dx", "pass, for example, functools.partial(apply, params)"),
    "exact": (
        "(x, t) -> dx",
        "pass, for example, functools.partial(empirical.velocity, path, bank)",
    ),
    "network": ("(y, t) -> rest", "pass, for example, functools.partial(apply, params)"),
    "model": ("(x, t) -> prediction", "pass, for example, functools.partial(apply, params)"),
    "heads": (
        "(x, t) -> (velocity, log_variance)",
        "pass, for example, lambda x, t: (velocity(x, t), log_variance(x, t))",
    ),
    "logits": ("(x, t) -> logits", "pass, for example, functools.partial(apply, params)"),
    "average_velocity": ("(x, r, t) -> u", "pass, for example, functools.partial(apply, params)"),
    "conditional": (
        "(x, r, t) -> u",
        "pass, for example, functools.partial(apply, params, label=c)",
    ),
    "unconditional": (
        "(x, r, t) -> u",
        "pass, for example, functools.partial(apply, params, label=none)",
    ),
    "divergence": (
        "(f, x) -> (f(x), div f(x))",
        "pass, for example, divergence.exact or functools.partial(divergence.hutchinson, key)",
    ),
    "estimator": (
        "(f, x) -> (f(x), Estimate)",
        "pass, for example, functools.partial(estimators.xtrace, key)",
    ),
    "solve": (
        "(field, x, t0, t1) -> x at t1",
        "pass, for example, samplers.adaptive or functools.partial(samplers.fixed, num_steps=50)",
    ),
    "matching": (
        "(field, target) -> (value, penalty)",
        "pass, for example, losses.match_trace or functools.partial(losses.match_product, key)",
    ),
    "f": ("(x) -> f(x)", "pass, for example, lambda x: velocity(x, t)"),
    "field": ("(x) -> f(x)", "pass, for example, lambda x: velocity(x, t)"),
    "probe": ("(key, shape, dtype) -> z", "pass, for example, jax.random.rademacher"),
    "kind": ("(path, t) -> (a, b)", "pass, for example, predictions.velocity"),
    "given": ("(path, t) -> (a, b)", "pass, for example, predictions.x0"),
    "wanted": ("(path, t) -> (a, b)", "pass, for example, predictions.velocity"),
    "of": ("(path, t) -> (a, b)", "pass, for example, predictions.x1"),
    "noise": ("(vector) -> vector", "pass, for example, lambda w: variance * w"),
    "log_prob0": ("(x) -> log-density", "pass, for example, likelihood.standard_normal"),
    "log_density": ("(x, t) -> log-density", "pass, for example, a toy law's, at time t"),
    "event": ("(x1) -> number", "pass, for example, lambda x: x.max() - 2.5"),
    "measure": ("(x1) -> y", "pass, for example, lambda x1: mask * x1"),
    "log_cdf": ("(z) -> log-probability", "pass, for example, jax.scipy.special.log_ndtr"),
    "guide": ("(v, x, t) -> v", "pass, for example, losses.guidance(...)"),
    "quantity": ("(velocity, path, x, t) -> quantity", "pass, for example, posterior.diagonal"),
    "limit": (
        "(path, t) -> limit",
        "pass, for example, functools.partial(posterior.prior_variance, v)",
    ),
    "cost": ("(a, b) -> cost", "pass, for example, couplings.squared_euclidean"),
    "kernel": ("(a, b) -> number", "pass, for example, metrics.gaussian_kernel(1.0)"),
    "sampler": ("(key, shape) -> times", "pass, for example, times.uniform"),
}


def functions(**arguments: Any) -> None:
    """Raises ValueError unless every argument is what its name says: a path, or a function.

    Args:
      **arguments: under the names of the public signature, which tell how each is called.
    """
    for name, value in arguments.items():
        if name == "path":
            paths.check(value)
        else:
            function(value, name, *_SIGNATURES[name])


def function(value: Any, name: str, signature: str, instead: str) -> None:
    """Raises ValueError unless the value can be called as the signature says.

    Args:
      value: the argument.
      name: what the error message calls it.
      signature: as `(x, t) -> dx`; as many arguments as it lists are passed by position.
      instead: the end of the message, what to write.
    """
    wanted = f"{name} must be a function {signature}, got {described(value)}"
    if is_path(value):
        instead = "the path has another place among the arguments"
    elif not callable(value) or isinstance(value, type) or is_array(value):
        pass
    elif _is_unbound(value):
        instead = "bind its variables, lambda *inputs: module.apply(variables, *inputs)"
    else:
        names = _refused(value, signature.split(")")[0].count(",") + 1)
        if names is None:
            return
        wanted = f"{wanted}, which takes ({', '.join(names)})"
        if names[:1] == ["key"]:
            instead = f"bind the key, functools.partial({name_of(value)}, key)"
    message = f"{wanted}: {instead}."
    raise ValueError(message)


def _is_unbound(value: Any) -> bool:
    """Returns whether the value is a module of linen without its variables."""
    linen = hasattr(value, "init") and hasattr(value, "apply")
    return linen and getattr(value, "scope", None) is None


def _refused(value: Callable, count: int) -> list[str] | None:
    """Returns the names of a function's arguments if it does not take `count`; None if it does."""
    try:
        signature = inspect.signature(value)
    except (TypeError, ValueError):  # builtins have none
        return None
    try:
        bound = signature.bind_partial(*range(count)).arguments
    except TypeError:
        bound = {}  # it takes fewer
    named = [one for one in signature.parameters.values() if one.kind <= one.POSITIONAL_OR_KEYWORD]
    if bound and all(one.name in bound or one.default is not one.empty for one in named):
        return None
    return [str(one).split(":")[0] for one in signature.parameters.values()][:6]


def instance(value: Any, kind: type, name: str, example: str) -> None:
    """Raises ValueError unless the value is an instance of a class.

    Args:
      value: the argument.
      kind: the class.
      name: what the error message calls the argument.
      example: the end of the message, what to write.
    """
    if isinstance(value, kind):
        return
    if isinstance(value, type) and issubclass(value, kind):
        example = f"call it, {value.__module__.split('.')[0]}.{value.__name__}()"
    message = f"{name} must be an instance of `{kind.__name__}`, got {described(value)}: {example}."
    raise ValueError(message)


def returned(x: Array, **values: Any) -> None:
    """Raises ValueError unless functions returned, at the state x, floating arrays shaped like x.

    Args:
      x: `[*dims]`, the state.
      **values: what the functions returned, under the functions' names.
    """
    for name, value in values.items():
        if not is_array(value):
            message = (
                f"{name} must return one array shaped like x {jnp.shape(x)}, got "
                f"{described(value)}: return the array alone."
            )
            raise ValueError(message)
    same_shape(x=x, **values)
    for name, value in values.items():
        dtype = jnp.result_type(value)
        if not jnp.issubdtype(dtype, jnp.floating):
            message = (
                f"{name} must return real floating numbers, got {dtype}: convert them, such as "
                "by .astype(x.dtype)."
            )
            raise ValueError(message)


def returned_tree(x: PyTree, **values: Any) -> None:
    """Raises ValueError unless functions returned, at a state of one or more arrays, its like."""
    structure = jax.tree.structure(x)
    if jax.tree_util.treedef_is_leaf(structure):
        returned(x, **values)
        return
    for name, value in values.items():
        if jax.tree.structure(value) != structure:
            message = (
                f"{name} must return a tree like the state, {described(x)}, got "
                f"{described(value)}: return a change for each of its arrays."
            )
            raise ValueError(message)
        for leaf, change in zip(jax.tree.leaves(x), jax.tree.leaves(value), strict=True):
            returned(leaf, **{name: change})


def at(velocity: Callable[[Array, Array], Array], t: Array, name: str = "velocity") -> Callable:
    """Returns the velocity at a time as a function of the state, its values checked."""

    def field(x: Array) -> Array:
        value = velocity(x, t)
        returned(x, **{name: value})
        return value

    return field


def divergence_of(divergence: Callable, f: Callable, x: Array) -> tuple[Array, Array]:
    """Returns what a divergence returns of a field at x, its value and its divergence, checked."""
    return pair(x, divergence(f, x), "divergence", "(f(x), div f(x))")


def pair(x: Array, result: Any, name: str, wanted: str) -> tuple[Array, Array]:
    """Returns a result that is an array like x and a scalar, or says what is wrong with it.

    Args:
      x: `[*dims]`, the state.
      result: what the function returned.
      name: the function's name in the message.
      wanted: the pair as the message shows it.
    """
    if not isinstance(result, tuple) or len(result) != 2:
        message = f"{name} must return {wanted}, got {described(result)}: return both."
        raise ValueError(message)
    value, number = result
    returned(x, **{name: value})
    if hasattr(number, "standard_error"):
        message = (
            f"{name} must return {wanted}, got an Estimate in place of the number: wrap the "
            "estimator, estimators.as_divergence(functools.partial(estimators.xtrace, key))."
        )
        raise ValueError(message)
    if not is_array(number) or jnp.shape(number) != ():
        message = (
            f"{name} must return {wanted}, the second a scalar, got {described(number)}: sum over "
            "the dimensions of one example."
        )
        raise ValueError(message)
    return value, number
