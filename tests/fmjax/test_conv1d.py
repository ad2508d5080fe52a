"""fmjax.models.Conv1D: against the image network and differences, sizes, context, errors."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from fmjax import models
from fmjax.models import blocks, unet
from tests import slow
from tests.fmjax.test_models import example, filled, parts

make = partial(models.Conv1D, channels=(4, 8), num_groups=2)


@slow.but_the_first("length", [1, 2, 7, 8, 61])
def test_any_length_is_kept_and_its_features(length):
    apply, params = parts(partial(make, (length, 3), channels=(4, 4, 4)))
    value = jax.eval_shape(apply, params, jnp.zeros((length, 3)), 0.3)
    assert value.shape == (length, 3)
    assert value.dtype == jnp.float32


@pytest.mark.slow
def test_it_starts_at_zero_and_later_depends_on_everything():
    apply, params = models.functional(make((5, 3), context=2, rngs=nnx.Rngs(0)))
    apply = jax.jit(apply)
    x, c = example((5, 3)), example((5, 2), seed=1)
    assert not apply(params, x, 0.3, context=c).any()
    params = filled(params)
    value = apply(params, x, 0.3, context=c)
    assert (abs(value) > 0.0).all()  # every position, of an odd length too
    for changed in (
        apply(params, x, 0.7, context=c),
        apply(params, x, 0.3, context=2.0 * c),
        apply(params, x.at[0].add(1.0), 0.3, context=c),
    ):
        assert (abs(changed - value).max(1) > 1e-4).all()  # felt at the far end as well


@pytest.mark.slow
def test_an_image_of_one_column_is_a_sequence():
    """The same blocks with 3x3 kernels whose outer columns are empty, on a `[h, 1, c]` image."""
    options = {"time_features": 3, "num_groups": 2, "rngs": nnx.Rngs(0)}
    line = blocks.ResidualBlock(2, 4, kernel_size=(3,), **options)
    plane = blocks.ResidualBlock(2, 4, **options)
    line.conv_out.kernel[...] = example((3, 4, 4), seed=2)
    for name in ("conv_in", "conv_out"):
        kernel = getattr(line, name).kernel[...]
        getattr(plane, name).kernel[...] = (
            jnp.zeros((3, *kernel.shape)).swapaxes(0, 1).at[:, 1].set(kernel)
        )
        getattr(plane, name).bias[...] = getattr(line, name).bias[...]
    for name in ("film", "adapt"):
        getattr(plane, name).kernel[...] = getattr(line, name).kernel[...]
    x, embedding = example((7, 2)), jnp.array([0.3, -1.0, 2.0])
    expected = plane(x[:, None], embedding)[:, 0]
    np.testing.assert_allclose(line(x, embedding), expected, rtol=1e-5, atol=1e-5)
    assert abs(line(x, embedding) - line.adapt(x)).max() > 0.1
    repeated = unet.repeat_to(x, 13)
    np.testing.assert_array_equal(repeated, np.repeat(x, 2, axis=0)[:13])


@pytest.mark.slow
def test_each_level_has_the_blocks_it_was_asked_for():
    module = nnx.eval_shape(lambda: make((6, 1), num_blocks=(1, 3), rngs=nnx.Rngs(0)))
    assert [len(level) for level in (*module.down, *module.up)] == [1, 3, 1, 3]
    kernels = nnx.eval_shape(lambda: make((6, 1), kernel_size=5, rngs=nnx.Rngs(0)))
    assert kernels.down[1][0].conv_in.kernel.shape == (5, 4, 8)


@pytest.mark.slow
def test_the_table_of_the_docstring_is_right():
    rows = re.findall(r"\| (\(.*\)) +\| (.*?) +\| +[\d.]+ +\| ([\d.]+) M", models.Conv1D.__doc__)
    assert len(rows) == 3
    for channels, num_blocks, millions in rows:
        options = {"channels": eval(channels), "num_blocks": eval(num_blocks)}
        module = nnx.eval_shape(lambda o=options: models.Conv1D((60, 4), **o, rngs=nnx.Rngs(0)))
        count = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(module, nnx.Param)))
        assert f"{count / 1e6:.2f}" == millions


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shape": 5}, r"\(length, features\) of one sequence, got 5"),
        ({"shape": (5, 2, 1)}, r"\(length, features\) of one sequence, got \(5, 2, 1\)"),
        ({"shape": (0, 2)}, "length must be an integer of at least 1, got 0"),
        ({"channels": ()}, r"each of one or more levels, got \(\) and 1"),
        ({"num_blocks": (1,)}, r"one entry for each .* got \(4, 8\) and \(1,\)"),
        ({"num_blocks": (1, 0)}, "num_blocks must be an integer of at least 1, got 0"),
        ({"context": -1}, "context must be an integer of at least 1, got -1"),
        ({"kernel_size": 0}, "kernel_size must be an integer of at least 1, got 0"),
        ({"num_groups": 3}, "divisible by num_groups, got 4 channels and num_groups=3"),
    ],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        nnx.eval_shape(lambda: make(**{"shape": (5, 2)} | options, rngs=nnx.Rngs(0)))


def test_wrong_calls_are_named():
    x = example((5, 2))
    apply, params = parts(partial(make, (5, 2)))
    with pytest.raises(ValueError, match=r"built for, got \(9, 5, 2\).*jax\.vmap"):
        apply(params, jnp.stack([x] * 9), 0.3)
    with pytest.raises(ValueError, match=r"left out for this network, got an array of shape"):
        apply(params, x, 0.3, context=jnp.zeros((5, 1)))
    apply, params = parts(partial(make, (5, 2), context=3))
    for context, got in ((None, "none"), (jnp.zeros((5, 2)), r"an array of shape \(5, 2\)")):
        with pytest.raises(
            ValueError, match=rf"shape \(5, 3\) for this network, got {got}.*: call"
        ):
            apply(params, x, 0.3, context=context)
