"""Batches: endless ones for a training, and measurements taken a few examples at a time."""

import functools
import sys
from collections.abc import Callable, Iterator

import jax
import numpy as np

from experiments.run import layout, progress
from fmjax.train import compiler_options
from fmjax.types import Array, PyTree


def batched(
    apply: Callable[..., Array], params: PyTree, function: Callable[..., PyTree], *bound: object
) -> Callable[..., PyTree]:
    """Returns a function of a velocity, compiled for batches of its other arguments.

    Args:
      apply: `(params, x, t) -> dx` of one example.
      params: the parameters. They stay an argument of the compiled program: closed over, they
        would be compiled in as constants.
      function: `(velocity, *bound, *arrays) -> anything` of one example.
      *bound: what all examples have in common.

    Returns:
      `(*arrays) -> anything`, both with a batch axis in front.
    """
    one = lambda params, *rest: function(functools.partial(apply, params), *bound, *rest)  # noqa: E731
    many = lambda params, *rest: jax.vmap(functools.partial(one, params))(*rest)  # noqa: E731
    return functools.partial(jax.jit(many), params)


def in_batches(
    function: Callable[..., PyTree], *arrays: Array, size: int, label: str | None
) -> PyTree:
    """Returns a batched function of every example, a few at a time, with a progress bar.

    Every device of every host computes its share of a batch, without waiting for another one. So
    all processes call it, with the same arrays, and all of them get the results.

    Args:
      function: `(*arrays) -> tree`, both with a batch axis in front. What `functools.partial` has
        bound to it, such as parameters, goes to every device whole.
      *arrays: `[n, ...]` each.
      size: examples at a time; the next multiple of the devices is taken.
      label: what the progress bar says; None for no bar, of what is measured during a training.

    Returns:
      The tree of NumPy arrays `[n, ...]`.

    Raises:
      ArithmeticError: if a result is not finite, or a solver gave up.
    """
    count = len(arrays[0])
    shown = label is not None and jax.process_index() == 0
    if shown and not sys.stderr.isatty():
        print(f"{label}: {count} examples", file=sys.stderr, flush=True)
    size += -size % jax.device_count()
    bound = ()
    if isinstance(function, functools.partial) and not function.keywords:
        function, bound = function.func, layout.everywhere(function.args)
    together = _on_each(function, layout.make_mesh())

    def parts() -> Iterator[PyTree]:
        for start in progress.each(range(0, count, size), label, unit="batch", shows=shown):
            # The last batch is filled up with earlier examples, so that one program serves all.
            index = np.arange(start, start + size) % count
            part = layout.spread(tuple(a[index] for a in arrays))
            yield layout.on_host(together(bound, part))

    try:
        results = jax.tree.map(lambda *leaves: np.concatenate(leaves)[:count], *parts())
    except RuntimeError as error:
        if "solver steps" not in str(error):
            raise
        message = (
            f"{_prefix(label)}the adaptive solver used up its steps, so the learned velocity is "
            "too rough or not finite: train longer, or with a smaller learning rate, in another "
            "--workdir. The checkpoints are kept."
        )
        raise ArithmeticError(message) from error
    _check_finite(results, label)
    return results


@functools.lru_cache(maxsize=32)
def _on_each(
    function: Callable[..., PyTree], mesh: jax.sharding.Mesh
) -> Callable[[tuple, tuple], PyTree]:
    """Returns a function of two tuples, what the examples share and the examples of a batch.

    Every device computes its own examples by itself: no loop that ends with the slowest example
    waits for another device, and where an example fails on one device, the others do not hang.
    """
    both = lambda shared, examples: function(*shared, *examples)  # noqa: E731
    if mesh.size > 1:
        split = jax.P(("data", "model"))
        both = jax.shard_map(
            both, mesh=mesh, in_specs=(jax.P(), split), out_specs=split, check_vma=False
        )
    return jax.jit(both, compiler_options=compiler_options())


def _prefix(label: str | None) -> str:
    return "" if label is None else f"{label}: "


def _check_finite(tree: PyTree, label: str | None) -> None:
    """Raises ArithmeticError if a number is not finite, before it gets into a table."""
    for leaf in jax.tree.leaves(tree):
        finite = np.isfinite(leaf).reshape(len(leaf), -1).all(axis=1)
        if not finite.all():
            message = (
                f"{_prefix(label)}{int((~finite).sum())} of {len(finite)} results are not finite, "
                "so the velocity is not finite or too steep there: train longer, or with a smaller "
                "learning rate, in another --workdir (the checkpoints are kept); or, as for a "
                "model of your own, measure at larger times."
            )
            raise ArithmeticError(message)


Batches = Callable[[int], Iterator[dict[str, np.ndarray]]]
"""`start_step -> iterator` over batches, endless and always the same."""


def batches(images: np.ndarray, batch_size: int, *, seed: int) -> Batches:
    """Returns a function that iterates over batches from any step on.

    Epoch e is the permutation drawn from `[seed, e]`; images that do not fill a last batch
    are left out of that epoch. The iterator never ends, and `batches(k)` gives what
    `batches(0)` gives after k batches. Of several processes each gets its own slice.

    Args:
      images: `[n, *dims]`.
      batch_size: number of images over all processes.
      seed: for the permutations, not negative.

    Returns:
      `start_step -> iterator` of `{"x": [batch_size / processes, *dims]}`.

    Raises:
      ValueError: if the batch is larger than the data set, or no multiple of the processes.
    """
    check_seed(seed)
    if not 1 <= batch_size <= len(images):
        message = (
            f"batch_size must lie between 1 and the {len(images)} training images, got "
            f"{batch_size}: give a smaller batch or more images."
        )
        raise ValueError(message)
    if batch_size % jax.process_count():
        message = (
            f"batch_size {batch_size} must be a multiple of the {jax.process_count()} processes."
        )
        raise ValueError(message)
    per_epoch, own = len(images) // batch_size, layout.rows(batch_size)

    def start(step: int) -> Iterator[dict[str, np.ndarray]]:
        epoch, position = divmod(step, per_epoch)
        while True:
            order = np.random.default_rng([seed, epoch]).permutation(len(images))
            for index in range(position, per_epoch):
                yield {"x": images[order[index * batch_size + own]]}
            epoch, position = epoch + 1, 0

    return start


def drawn(
    draw: Callable[[np.random.Generator], dict[str, np.ndarray]], batch_size: int, *, seed: int
) -> Batches:
    """Returns a function that iterates over batches of fresh draws from any step on, without end.

    Args:
      draw: the batch of all processes, `[batch_size, ...]` each, from the generator of a step.
      batch_size: examples over all processes, a multiple of them.
      seed: of the draws, not negative.

    Returns:
      `start_step -> iterator`; of several processes each gets its own rows.
    """
    own = layout.rows(batch_size)

    def start(step: int) -> Iterator[dict[str, np.ndarray]]:
        while True:
            made = draw(np.random.default_rng([seed, 0, step]))
            yield {name: rows[own] for name, rows in made.items()}
            step += 1

    return start


def check_seed(seed: int) -> None:
    """Raises ValueError unless the seed is one of NumPy's, from 0 to 2**32 - 1."""
    if not 0 <= seed < 2**32:
        message = f"seed must be an integer from 0 to 2**32 - 1, got {seed}."
        raise ValueError(message)
