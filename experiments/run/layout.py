"""How the arrays of a run lie on its devices: one mesh, and one rule for each kind of array.

All devices of all hosts form a mesh with two axes, as long as `split` says:

    data     devices that hold the same parameters
    model    devices among which one copy of the parameters is split

    batch                                    its examples over all devices of both axes
    parameters, average, optimizer's state   over "model", by `rule`, the same on all of "data"
    what every batch shares                  its points over "model", by `rule_of_points`

A step gathers every parameter whole for the loss (an all-gather), sums the gradient over the batch,
and keeps its part of the gradient: the parts of the state never meet. So the numbers are those of
one device, but for the order in which a batch is summed, and a device holds 1/n of the state
between two steps.

The rule needs nothing of `fmjax`, neither of a network nor of a loss, so it stands here beside its
one user, the loop. (`fmjax.empirical.partition` is in the library because only the library knows
what a bank consists of.)
"""

import contextlib
import contextvars
import functools
import json
import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from experiments.run import devices
from fmjax.types import Array, Key, PyTree

_SMALL = 2**14  # numbers; to gather fewer costs a message and saves no memory
_model = contextvars.ContextVar("model", default=1)

Loss = Callable[[PyTree, Key, PyTree], Array]


@contextlib.contextmanager
def split(model: int) -> Iterator[None]:
    """Splits the state of every training in the context over some of the devices.

    Args:
      model: the length of the axis "model"; 1 keeps the whole state on every device.
    """
    token = _model.set(model)
    try:
        yield
    finally:
        _model.reset(token)


def make_mesh() -> jax.sharding.Mesh:
    """Returns all devices of all hosts as a mesh with the axes "data" and "model".

    Raises:
      ValueError: if the devices do not divide into parts as long as `split` says.
    """
    count, model = jax.device_count(), _model.get()
    if model < 1 or count % model:
        fitting = ", ".join(str(n) for n in range(1, count + 1) if count % n == 0)
        message = (
            f"model_devices must divide the {count} devices, got {model}: give one of {fitting}."
        )
        raise ValueError(message)
    # jax's default, explicit axes, refuses vmap over a sharded batch beside freshly split keys.
    auto = (jax.sharding.AxisType.Auto,) * 2
    return jax.make_mesh((count // model, model), ("data", "model"), axis_types=auto)


def rule(shape: tuple[int, ...], count: int) -> jax.P:
    """Says along which axis an array of the state is split: the largest one that divides.

    Args:
      shape: of the array.
      count: parts to split it into, positive.

    Returns:
      The largest axis whose length divides by `count`, the last one of equals, over "model".
      An array of fewer than 16,384 numbers, or without such an axis, stays whole.
    """
    fitting = [axis for axis, length in enumerate(shape) if length % count == 0]
    if count == 1 or math.prod(shape) < _SMALL or not fitting:
        return jax.P()
    axis = max(fitting, key=lambda axis: (shape[axis], axis))
    return jax.P(*[None] * axis, "model")


def of_state(mesh: jax.sharding.Mesh, tree: PyTree) -> PyTree:
    """Returns the sharding of every array of a state, by `rule`.

    Args:
      mesh: from `make_mesh`.
      tree: arrays, or descriptions of arrays.
    """
    count = mesh.shape["model"]
    return jax.tree.map(lambda x: jax.NamedSharding(mesh, rule(x.shape, count)), tree)


def rule_of_points(shape: tuple[int, ...], count: int) -> jax.P:
    """Says whether a data set that all batches share is split: its points over "model".

    Args:
      shape: `[n, *dims]`, of an array.
      count: parts to split it into, positive.

    Returns:
      The first axis, over "model", if n divides by `count`. Else, and of an array of fewer than
      16,384 numbers, every device holds the whole.
    """
    splits = count > 1 and math.prod(shape) >= _SMALL and shape[0] % count == 0
    return jax.P("model") if splits else jax.P()


def shared(mesh: jax.sharding.Mesh, tree: PyTree) -> PyTree:
    """Puts on the devices what all batches share, by `rule_of_points`.

    Args:
      mesh: from `make_mesh`.
      tree: arrays `[n, *dims]` or numbers, the same on all hosts.
    """
    rule = lambda x: jax.NamedSharding(mesh, rule_of_points(np.shape(x), mesh.shape["model"]))  # noqa: E731
    return jax.device_put(tree, jax.tree.map(rule, tree))


def made(mesh: jax.sharding.Mesh, make: Callable[[PyTree], PyTree], params: PyTree) -> PyTree:
    """Makes a state of parameters in its parts: no device ever holds it whole.

    Args:
      mesh: from `make_mesh`.
      make: `params -> state`.
      params: the parameters, the same on all hosts.
    """
    if mesh.shape["model"] == 1:
        return everywhere(make(params), mesh)
    shardings = of_state(mesh, jax.eval_shape(make, params))
    return jax.jit(make, out_shardings=shardings)(jax.device_put(params, of_state(mesh, params)))


def gathering(mesh: jax.sharding.Mesh, loss: Loss) -> Loss:
    """Returns a loss that gathers its parameters whole, and whose gradient is left in parts.

    Without it the compiler may as well move the activations, whatever their size.

    Args:
      mesh: from `make_mesh`.
      loss: `(params, key, batch) -> scalar`.
    """
    if mesh.shape["model"] == 1:
        return loss
    whole = jax.NamedSharding(mesh, jax.P())

    @jax.custom_vjp
    def gathered(params: PyTree) -> PyTree:
        return jax.lax.with_sharding_constraint(params, whole)

    gathered.defvjp(lambda params: (gathered(params), None), lambda _, g: (_in_parts(mesh, g),))
    return lambda params, key, batch: loss(gathered(params), key, batch)


def keeping(mesh: jax.sharding.Mesh, step: Callable[..., Any]) -> Callable[..., Any]:
    """Returns a step that leaves the state in the parts in which it came.

    Args:
      mesh: from `make_mesh`.
      step: `(state, ...) -> (state, info)`.
    """
    if mesh.shape["model"] == 1:
        return step

    def kept(state: PyTree, *rest: Any) -> tuple[PyTree, Any]:
        state, info = step(state, *rest)
        return _in_parts(mesh, state), info

    return kept


def _in_parts(mesh: jax.sharding.Mesh, tree: PyTree) -> PyTree:
    """Keeps a state, or a gradient, in its parts; under `jit`."""
    return jax.lax.with_sharding_constraint(tree, of_state(mesh, tree))


def spread(tree: PyTree, mesh: jax.sharding.Mesh | None = None) -> PyTree:
    """Splits examples over all devices, like a batch.

    Args:
      tree: arrays `[n, *dims]`, typed keys among them, the same on all hosts; n is a multiple of
        the devices.
      mesh: from `make_mesh`, the default.
    """
    sharding = jax.NamedSharding(mesh or make_mesh(), jax.P(("data", "model")))

    def one(x: Array) -> Array:
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(
                one(jax.random.key_data(x)), impl=jax.random.key_impl(x)
            )
        whole = np.asarray(x)
        return jax.make_array_from_callback(x.shape, sharding, whole.__getitem__)

    return jax.tree.map(one, tree)


def everywhere(tree: PyTree, mesh: jax.sharding.Mesh | None = None) -> PyTree:
    """Puts arrays whole on every device of every host.

    Args:
      tree: arrays, the same on all hosts.
      mesh: from `make_mesh`, the default.
    """
    return jax.device_put(tree, jax.NamedSharding(mesh or make_mesh(), jax.P()))


def on_host(tree: PyTree) -> PyTree:
    """Returns NumPy arrays, whole and the same on every host; for all processes to call."""
    return jax.tree.map(_on_host, tree)


def _on_host(x: Array) -> np.ndarray:
    if isinstance(x, jax.Array) and not (x.is_fully_addressable or x.is_fully_replicated):
        return multihost_utils.process_allgather(x, tiled=True)
    return jax.device_get(x)


def said_by_first(value: Any) -> Any:
    """Returns on every process the value of process 0, which JSON can hold; for all to call."""
    if jax.process_count() == 1:
        return value
    own = np.frombuffer(json.dumps(value).encode(), np.uint8)
    size = int(multihost_utils.broadcast_one_to_all(np.int32(len(own))))
    own = own if jax.process_index() == 0 else np.zeros(size, np.uint8)
    return json.loads(bytes(multihost_utils.broadcast_one_to_all(own)))


def rows(size: int, mesh: jax.sharding.Mesh | None = None) -> np.ndarray:
    """Tells which examples of a batch lie on the devices of this process.

    Args:
      size: of the batch; with several processes a multiple of the devices.
      mesh: from `make_mesh`, the default.

    Returns:
      Their places in the batch, increasing; together the processes have every place once.

    Raises:
      ValueError: if the batch of several processes does not divide by the devices.
    """
    if jax.process_count() == 1:
        return np.arange(size)
    devices.check_divides("a batch of", size)
    mesh = mesh or make_mesh()
    own = [device.process_index == jax.process_index() for device in mesh.devices.flat]
    return np.arange(size).reshape(mesh.size, -1)[own].ravel()


def shard(mesh: jax.sharding.Mesh, batch: PyTree, *, axis: int = 0) -> PyTree:
    """Returns the global batch, split over all devices, from this process's share of it.

    Args:
      mesh: from `make_mesh`.
      batch: NumPy arrays `[n, *dims]`, the `rows` of this process.
      axis: of the examples; 1 for several batches in one, `[k, n, *dims]`.

    Returns:
      The same tree of jax arrays `[n * processes, *dims]`.

    Raises:
      ValueError: if the batch does not divide by the devices.
    """
    for x in jax.tree.leaves(batch):
        devices.check_divides("a batch of", np.shape(x)[axis] * jax.process_count())
    sharding = jax.NamedSharding(mesh, jax.P(*[None] * axis, ("data", "model")))
    if jax.process_count() == 1:
        return jax.device_put(batch, sharding)
    return jax.tree.map(functools.partial(_from_share, sharding, axis), batch)


def _from_share(sharding: jax.NamedSharding, axis: int, x: np.ndarray) -> Array:
    """Returns one array of the global batch, of which `x` are the `rows` of this process."""
    size = x.shape[axis] * jax.process_count()
    own = rows(size, sharding.mesh)

    def part(index: tuple[slice, ...]) -> np.ndarray:
        begin, end, _ = index[axis].indices(size)
        first = np.searchsorted(own, begin)
        return x[(slice(None),) * axis + (slice(first, first + end - begin),)]

    shape = (*x.shape[:axis], size, *x.shape[axis + 1 :])
    return jax.make_array_from_callback(shape, sharding, part)
