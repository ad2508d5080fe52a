"""Networks to start with, and the conversion of a flax module to a pure function.

A network takes one example and its scalar times, `model(x, *times) -> dx`; `functional` splits
it once into a pure function and a tree of parameters, and everything else of the library sees
only the function:

    apply, params = functional(MLP(2, rngs=nnx.Rngs(0)))
    velocity = functools.partial(apply, params)              # (x, t) -> dx

`MLP`, `UNet`, `Conv1D` and `DiT` take a class label (built with `num_classes=n`) or numbers (built
with `context=k`) as the keyword `context`. The null label is n, the null of numbers is zero:

    apply, params = functional(MLP(2, num_classes=10, rngs=nnx.Rngs(0)))
    velocity = functools.partial(apply, params, context=3)   # of class 3; 10 is no class

`Encoder` and `Decoder` take an image to a latent image and back, without a time. A flow of latents
is a flow of their tokens, `encode(params, x).reshape(-1, c)`.

Parameters are float32. With `in_dtype(apply, jnp.bfloat16)` a network computes in bfloat16 and
trains in float32; with `param_dtype=jnp.bfloat16` it trains in bfloat16 and loses small updates.

Only this sub-package imports `nnx`. Any callable is a velocity, so a linen, equinox or hand-written
network works as well.

Reference:
  Heek et al. (2024), Flax: A neural network library and ecosystem for JAX,
  github.com/google/flax.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx

from fmjax import _checks
from fmjax.models.autoencoder import Decoder, Encoder
from fmjax.models.conv1d import Conv1D
from fmjax.models.dit import DiT
from fmjax.models.mlp import MLP
from fmjax.models.perceptron import perceptron
from fmjax.models.precision import in_dtype
from fmjax.models.unet import UNet
from fmjax.types import Array, Key, PyTree

__all__ = [
    "MLP",
    "Conv1D",
    "Decoder",
    "DiT",
    "Encoder",
    "UNet",
    "functional",
    "in_dtype",
    "perceptron",
]


def functional(model: nnx.Module) -> tuple[Callable[..., Array], PyTree]:
    """Converts a module to a pure function and its parameters.

    The function has no hidden state, so it works under `jit`, `vmap`, `grad`, `jvp`, `jacfwd` and
    `linearize`. A module closed over from outside would fail there.

    Args:
      model: any `nnx.Module`, called as `model(x, *times)`. Variables that are neither
        parameters nor random state are kept as constants.

    Returns:
      `(apply, params)`. `apply(params, x, *times, key=None, **inputs)` evaluates the module.
      Without a key it runs in evaluation mode. With a typed key it runs in training mode, and every
      random layer draws from its own fold of that key. Any other keyword, such as the `context` of
      `Conv1D`, goes to the module. `params` is a nested dict of arrays with string keys.

    Raises:
      ValueError: if the module carries running statistics, which a pure function could not
        update; on a call, if `params` is another network's tree or `key` is not one typed key.

    Example:
      >>> import fmjax
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from flax import nnx
      >>> network = fmjax.models.MLP(2, width=8, depth=1, dropout=0.5, rngs=nnx.Rngs(0))
      >>> apply, params = fmjax.models.functional(network)
      >>> sorted(params)
      ['blocks', 'dense_in', 'dense_out', 'embed']
      >>> jax.vmap(apply, (None, 0, 0))(params, jnp.ones((5, 2)), jnp.linspace(0.0, 1.0, 5)).shape
      (5, 2)
    """
    _check_module(model)
    graphdef, state, rest = nnx.split(model, nnx.Param, ...)
    _no_running_statistics(rest)
    params = _with_string_keys(nnx.to_pure_dict(state))
    # Shapes only: the function must not keep the first parameters alive.
    variables = nnx.to_flat_state(
        jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), state)
    )

    wanted = _shapes(params)

    def apply(
        params: PyTree, x: Array, *times: Array, key: Key | None = None, **inputs: Array
    ) -> Array:
        if not isinstance(params, dict):
            message = (
                f"params must be the tree that functional returned, got "
                f"{_checks.described(params)}: bind it, functools.partial(apply, params)."
            )
            raise ValueError(message)  # noqa: TRY004 (every static error of fmjax is one)
        _check_fit(_shapes(params), wanted)
        filled = [(path, variable.replace(_at(params, path))) for path, variable in variables]
        # The copy belongs to this trace, so that random state can be written under jvp and vmap.
        merged = nnx.merge(graphdef, nnx.from_flat_state(filled), rest, copy=True)
        if key is None:
            merged.eval()
        else:
            merged.train()
            _reseed(merged, key)
        return merged(x, *times, **inputs)

    return apply, params


def _check_module(model: nnx.Module) -> None:
    """Raises ValueError unless the model is an instance of a module of flax nnx."""
    if isinstance(model, nnx.Module):
        return
    instead = "build one, such as models.MLP(2, rngs=nnx.Rngs(0))"
    if isinstance(model, type) and issubclass(model, nnx.Module):
        instead = f"build it first, such as {model.__name__}(..., rngs=nnx.Rngs(0))"
    elif hasattr(model, "init") and hasattr(model, "apply"):
        instead = (
            "a module of linen needs no such bridge, params = model.init(key, x, t) and "
            "velocity = functools.partial(model.apply, params)"
        )
    elif callable(model):
        instead = "a function is a velocity as it is, with functools.partial(function, params)"
    message = f"model must be an instance of nnx.Module, got {_checks.described(model)}: {instead}."
    raise ValueError(message)


def _no_running_statistics(rest: nnx.State) -> None:
    """Raises ValueError if a variable is a running statistic of batch normalization."""
    for path, variable in nnx.to_flat_state(rest):
        if isinstance(variable, nnx.BatchStat):
            message = (
                f"the module keeps running statistics at {'.'.join(map(str, path))}, which a pure "
                "function of one example cannot update: use group or layer normalization."
            )
            raise ValueError(message)  # noqa: TRY004  (a network that does not fit)


def _with_string_keys(tree: PyTree) -> PyTree:
    """Returns the nested dict with every key as a string, as checkpoints give it back."""
    if not isinstance(tree, dict):
        return tree
    return {str(name): _with_string_keys(branch) for name, branch in tree.items()}


def _shapes(params: PyTree) -> dict[str, tuple[int, ...]]:
    """Returns the shape of every parameter under its dotted name."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="."): jnp.shape(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(params)
    }


def _check_fit(given: dict[str, tuple], wanted: dict[str, tuple]) -> None:
    """Raises ValueError if the parameters are another network's."""
    for name in {**wanted, **given}:
        if given.get(name) != wanted.get(name):
            message = (
                f"params has {given.get(name, 'no entry')} at {name}, this network has "
                f"{wanted.get(name, 'none')}: pass the tree that functional returned for this "
                "network, or one of the same structure."
            )
            raise ValueError(message)


def _at(params: PyTree, path: tuple) -> Array:
    """Returns the parameter at a path."""
    for name in path:
        params = params[str(name)]
    return params


def _reseed(model: nnx.Module, key: Key) -> None:
    """Gives every random stream of the module its own fold of the key."""
    if not jnp.issubdtype(jnp.asarray(key).dtype, jax.dtypes.prng_key) or jnp.shape(key) != ():
        message = (
            f"key must be one typed key, got shape {jnp.shape(key)} of {jnp.asarray(key).dtype}: "
            "use jax.random.key, and jax.vmap for a batch."
        )
        raise ValueError(message)
    streams = [node for _, node in nnx.iter_graph(model) if isinstance(node, nnx.RngStream)]
    for index, stream in enumerate(streams):
        shape = stream.key.shape  # not () where flax has split a stream over stacked layers
        _write(stream.key, jax.random.split(jax.random.fold_in(key, index), shape))
        _write(stream.count, jnp.zeros(shape, jnp.uint32))


def _write(variable: nnx.Variable, value: Array) -> None:
    """Puts a value into a variable of flax."""
    if hasattr(nnx.Variable, "set_value"):
        variable.set_value(value)
    else:  # flax 0.11
        variable.value = value
