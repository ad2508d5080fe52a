"""fmjax.models: layers against NumPy, networks under every transformation, errors by message."""

from functools import partial

import equinox
import flax.linen
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from fmjax import models, train
from fmjax.models import blocks, layers, unet
from tests import slow


def filled(params):
    """Parameters away from the zero initialisation, where every output would be zero.

    Drawn by NumPy, also for parameters of which only the shapes are known: flax compiles an
    initialiser for every shape, which would take most of this file's time.
    """
    random = np.random.default_rng(0)

    def draw(path, leaf):
        values = random.normal(size=leaf.shape) / np.sqrt(max(np.prod(leaf.shape[:-1]), 10.0))
        return jnp.asarray(values + ("scale" in jax.tree_util.keystr(path)), leaf.dtype)

    return jax.tree.map_with_path(draw, params)


def example(shape, seed=0):
    """One skewed example: shifted and stretched, so that a lost axis or sign shows."""
    return jnp.asarray(np.random.default_rng(seed).gamma(2.0, size=shape).astype(np.float32) - 0.5)


MAKERS = {
    "mlp": ((2,), partial(models.MLP, 2, width=16, depth=2)),
    "mlp_matrix": ((3, 2), partial(models.MLP, (3, 2), width=16, depth=1)),
    "unet": (
        (5, 7, 2),
        partial(models.UNet, (5, 7, 2), channels=(4, 8), num_groups=2, num_heads=2),
    ),
    "dit": ((5, 2), partial(models.DiT, (5, 2), width=8, depth=1, num_heads=2)),
}
NETWORKS = pytest.mark.parametrize("name", MAKERS)
ONE_NETWORK = slow.but_the_first("name", MAKERS)


def parts(make, **options):
    """The pure function of a network and filled parameters, without running initialisers."""
    apply, params = models.functional(nnx.eval_shape(lambda: make(rngs=nnx.Rngs(0), **options)))
    return apply, filled(params)


def build(name, **options):
    """The shape of one example, the jitted pure function and filled parameters."""
    shape, make = MAKERS[name]
    apply, params = parts(make, **options)
    return shape, jax.jit(apply), params


# Layers.


def group_norm_by_hand(x, num_groups, scale, bias):
    """Loops over the groups in float64, as the paper's eq. (1) reads."""
    x = np.asarray(x, np.float64)
    result = np.empty_like(x)
    size = x.shape[-1] // num_groups
    for group in range(num_groups):
        part = slice(group * size, (group + 1) * size)
        values = x[..., part]
        result[..., part] = (values - values.mean()) / np.sqrt(values.var() + 1e-6)
    return result * scale + bias


@pytest.mark.slow
@slow.but_the_first("shape", [(4, 3, 6), (5, 6), (6,)], ids=str)
@slow.but_the_first("num_groups", [1, 2, 3])
def test_group_norm_equals_the_formula_and_flax_with_a_batch_axis(shape, num_groups):
    x = example(shape)
    norm = layers.GroupNorm(6, num_groups=num_groups, rngs=nnx.Rngs(0))
    norm.scale[...] = jnp.arange(1.0, 7.0)
    norm.bias[...] = -jnp.arange(6.0)
    expected = group_norm_by_hand(x, num_groups, np.arange(1.0, 7.0), -np.arange(6.0))
    np.testing.assert_allclose(norm(x), expected, atol=2e-5)
    flax_norm = nnx.GroupNorm(6, num_groups=num_groups, rngs=nnx.Rngs(0))
    flax_norm.scale[...], flax_norm.bias[...] = norm.scale[...], norm.bias[...]
    np.testing.assert_allclose(norm(x), flax_norm(x[None])[0], atol=2e-5)
    if len(shape) == 3:  # what the layer protects from: rows taken for examples
        assert abs(flax_norm(x) - norm(x)).max() > 0.1


@pytest.mark.slow
def test_group_norm_survives_a_large_mean():
    x = 1000.0 + example((4, 4, 2))
    norm = layers.GroupNorm(2, num_groups=1, rngs=nnx.Rngs(0))
    np.testing.assert_allclose(norm(x), group_norm_by_hand(x, 1, 1.0, 0.0), atol=1e-3)


@pytest.mark.slow
def test_attention_equals_the_formula():
    channels, num_heads = 6, 2
    layer = blocks.Attention(channels, num_heads=num_heads, num_groups=3, rngs=nnx.Rngs(0))
    layer.project_out.kernel[...] = example((channels, channels), seed=1)
    x = example((2, 3, channels))
    tokens = group_norm_by_hand(x, 3, 1.0, 0.0).reshape(6, channels)
    kernel = np.asarray(layer.project_in.kernel[...], np.float64)
    query, key, value = np.split(tokens @ kernel, 3, axis=1)
    heads = []
    for part in (slice(0, 3), slice(3, 6)):
        weights = np.exp(query[:, part] @ key[:, part].T / np.sqrt(3.0))
        heads.append(weights / weights.sum(1, keepdims=True) @ value[:, part])
    read = np.concatenate(heads, 1) @ np.asarray(layer.project_out.kernel[...], np.float64)
    np.testing.assert_allclose(layer(x), x + read.reshape(x.shape), atol=2e-5)
    assert abs(read).max() > 0.5


def _attending(attention):
    """A small network with attention at the given levels, its parameters drawn anew."""
    options = {"channels": (4, 8), "num_blocks": 1, "num_heads": 2, "num_groups": 2}
    make = lambda: models.UNet((4, 4, 1), attention=attention, rngs=nnx.Rngs(0), **options)
    apply, params = models.functional(make())
    return apply, filled(params)


@pytest.mark.slow  # compiles two networks
def test_attention_stands_at_the_levels_that_are_named():
    x = example((4, 4, 1))
    without, shared = _attending(())
    assert "attention" not in str(list(shared))
    wanted = without(shared, x, 0.3)
    apply, params = _attending((0, -1, 1))
    added = {name: params[name] for name in params if "attention" in name}
    assert sorted(added) == ["attention", "finer_attention"]
    # Attention that reads nothing is no attention; one that reads something is not.
    params |= shared | jax.tree.map(jnp.zeros_like, added)
    np.testing.assert_allclose(apply(params, x, 0.3), wanted, atol=1e-6)
    for name, level in added.items():
        assert abs(apply({**params, name: level}, x, 0.3) - wanted).max() > 1e-3


@pytest.mark.parametrize("levels", [(2,), (-3,), -1, (0.0,), "all"])
def test_levels_without_a_place_for_attention_are_named(levels):
    with pytest.raises(ValueError, match="attention must name levels from -2 to 1, got .*coarsest"):
        models.UNet((4, 4, 1), channels=(8, 8), attention=levels, rngs=nnx.Rngs(0))


def test_sinusoidal_equals_the_formula():
    frequencies = 10.0 ** (2.0 * np.arange(32) / 31)
    expected = np.concatenate([np.sin(frequencies * 0.37), np.cos(frequencies * 0.37)])
    np.testing.assert_allclose(layers.sinusoidal(0.37), expected, atol=2e-5)


def test_time_embedding_tells_the_times_apart():
    embed = layers.TimeEmbedding(num_times=2, features=8, rngs=nnx.Rngs(0))
    assert abs(embed(0.2, 0.9) - embed(0.9, 0.2)).max() > 0.1


@pytest.mark.slow
def test_residual_block_equals_its_parts():
    """The second route convolves by explicit sums over the nine shifts."""
    block = blocks.ResidualBlock(2, 4, time_features=3, num_groups=2, rngs=nnx.Rngs(0))
    block.conv_out.kernel[...] = example((3, 3, 4, 4), seed=2)
    x, embedding = example((3, 5, 2)), jnp.array([0.3, -1.0, 2.0])

    def convolve(image, layer):
        padded = np.pad(image, ((1, 1), (1, 1), (0, 0)))
        kernel = np.asarray(layer.kernel[...], np.float64)
        shifted = [padded[i : i + 3, j : j + 5] @ kernel[i, j] for i in range(3) for j in range(3)]
        return sum(shifted) + np.asarray(layer.bias[...])

    def silu(value):
        return value / (1.0 + np.exp(-value))

    hidden = convolve(silu(group_norm_by_hand(x, 2, 1.0, 0.0)), block.conv_in)
    scale, offset = np.split(np.asarray(block.film(embedding)), 2)
    hidden = silu((1.0 + scale) * group_norm_by_hand(hidden, 2, 1.0, 0.0) + offset)
    expected = np.asarray(block.adapt(x)) + convolve(hidden, block.conv_out)
    np.testing.assert_allclose(block(x, embedding), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("size", [(4, 6), (3, 5), (1, 1)], ids=str)
def test_repeat_to_takes_the_pixel_above(size):
    height, width = size
    x = example(((height + 1) // 2, (width + 1) // 2, 3))
    repeated = unet.repeat_to(x, height, width)
    assert repeated.shape == (height, width, 3)
    for i in range(height):
        for j in range(width):
            np.testing.assert_array_equal(repeated[i, j], x[i // 2, j // 2])


# The bridge.


@NETWORKS
def test_params_are_nested_dicts_of_arrays_with_string_keys(name):
    _, _, params = build(name, dropout=0.5)

    def visit(tree):
        if isinstance(tree, dict):
            assert all(isinstance(key, str) for key in tree)
            for branch in tree.values():
                visit(branch)
        else:
            assert isinstance(tree, jax.Array)
            assert tree.dtype == jnp.float32  # neither keys nor counters of random streams

    assert type(params) is dict
    visit(params)


@pytest.mark.slow
@slow.but_the_first(("name", "options"), [("mlp", {}), ("unet", {"channels": (4, 4)})])
def test_output_starts_at_exactly_zero_and_depends_on_x_and_t_later(name, options):
    shape, make = MAKERS[name]
    apply, params = models.functional(make(rngs=nnx.Rngs(0), **options))
    apply = jax.jit(apply)
    x = example(shape)
    assert apply(params, x, 0.3).shape == shape
    assert not apply(params, x, 0.3).any()
    params = filled(params)
    assert abs(apply(params, x, 0.3) - apply(params, x, 0.7)).max() > 1e-3
    assert abs(apply(params, x, 0.3) - apply(params, 2.0 * x, 0.3)).max() > 1e-3


@NETWORKS
def test_function_equals_the_module(name):
    shape, make = MAKERS[name]
    module = nnx.eval_shape(lambda: make(rngs=nnx.Rngs(0), dropout=0.5))
    apply, params = models.functional(module)
    params = filled(params)
    state = nnx.state(module, nnx.Param)
    nnx.replace_by_pure_dict(state, params)
    nnx.update(module, state)
    module.eval()
    expected = jax.jit(lambda x, t: module(x, t))(example(shape), 0.3)
    assert abs(expected).max() > 0.1
    value = jax.jit(apply)(params, example(shape), 0.3)
    np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
@NETWORKS
def test_two_times(name):
    shape, apply, params = build(name, num_times=2)
    x = example(shape)
    forward, backward = apply(params, x, 0.2, 0.9), apply(params, x, 0.9, 0.2)
    assert forward.shape == shape
    assert abs(forward - backward).max() > 1e-4


# What training mode computes contains what evaluation does, so the U-Net is compiled once.
TRAINING = slow.but_the_first(
    ("name", "training"),
    [("mlp", False), ("mlp_matrix", True), ("unet", True), ("dit", True)],
    ids=["mlp", "mlp_matrix_training", "unet_training", "dit_training"],
)


@pytest.mark.slow
@TRAINING
def test_derivatives_agree_with_one_another_and_with_differences(name, training, key, x64):
    shape, make = MAKERS[name]
    apply, params = parts(make, dropout=0.3, param_dtype=jnp.float64)
    x, direction = (example(shape, seed).astype(jnp.float64) for seed in (0, 3))
    options = {"key": key} if training else {}

    @jax.jit
    def derivatives(params, t):
        field = lambda x: apply(params, x, t, **options)
        value, linear = jax.linearize(field, x)
        columns = jax.vmap(linear)(jnp.eye(x.size).reshape(x.size, *shape))
        return value, columns, jax.jacfwd(field)(x)

    value, columns, jacobian = derivatives(params, jnp.float64(0.3))
    assert value.dtype == jnp.float64
    jacobian = jacobian.reshape(x.size, x.size)
    np.testing.assert_allclose(columns.reshape(x.size, -1).T, jacobian, atol=1e-12)
    tangent = (jacobian @ direction.ravel()).reshape(shape)
    run = jax.jit(lambda x: apply(params, x, 0.3, **options))
    step = 1e-5 * direction
    difference = (run(x + step) - run(x - step)) / 2e-5
    np.testing.assert_allclose(tangent, difference, rtol=1e-6, atol=1e-8)
    assert abs(tangent).max() > 1e-3


@pytest.mark.slow
@TRAINING
def test_batch_equals_a_loop_and_examples_do_not_see_one_another(name, training, key):
    shape, apply, params = build(name, dropout=0.3)
    x = jnp.stack([example(shape, seed) for seed in range(4)])
    t = jnp.linspace(0.1, 0.9, 4)
    keys = jax.random.split(key, 4)

    def one(x, t, key):
        return apply(params, x, t, key=key) if training else apply(params, x, t)

    batched = jax.jit(jax.vmap(one))
    together = batched(x, t, keys)
    single = jax.jit(one)
    alone = jnp.stack([single(*arguments) for arguments in zip(x, t, keys, strict=True)])
    np.testing.assert_allclose(together, alone, rtol=1e-5, atol=1e-5)
    others_changed = batched(x.at[1:].multiply(-50.0), t.at[1:].set(0.0), keys)
    np.testing.assert_allclose(others_changed[0], together[0], atol=1e-6)
    assert abs(others_changed[1:] - together[1:]).max() > 0.1


@pytest.mark.slow
@ONE_NETWORK
def test_dropout_follows_the_key(name):
    shape, apply, params = build(name, dropout=0.5)
    run = apply
    x = example(shape)
    one, two = jax.random.key(1), jax.random.key(2)
    plain = run(params, x, 0.3)
    np.testing.assert_array_equal(run(params, x, 0.3, key=one), run(params, x, 0.3, key=one))
    np.testing.assert_array_equal(run(params, x, 0.3), plain)
    assert abs(run(params, x, 0.3, key=one) - run(params, x, 0.3, key=two)).max() > 1e-3
    assert abs(run(params, x, 0.3, key=one) - plain).max() > 1e-3
    _, dry, _ = build(name, dropout=0.0)
    np.testing.assert_allclose(dry(params, x, 0.3, key=one), plain, rtol=1e-5, atol=1e-6)


class Wet(nnx.Module):
    """Two dropout layers over the input, with nothing else."""

    def __init__(self, rngs):
        self.first = layers.dropout(0.3, rngs=rngs)
        self.second = layers.dropout(0.3, rngs=rngs)

    def __call__(self, x, t):
        """Returns both draws."""
        return jnp.stack([self.first(x), self.second(x)]) * t


@pytest.mark.slow
def test_dropout_keeps_the_mean_and_its_layers_draw_apart(key):
    apply, params = models.functional(Wet(rngs=nnx.Rngs(0)))
    assert params == {}
    num = 4000
    keys = jax.random.split(key, num)
    draws = jax.vmap(lambda key: apply(params, jnp.array([2.0]), 1.0, key=key))(keys)[..., 0]
    error = draws.std(0) / np.sqrt(num)
    assert (abs(draws.mean(0) - 2.0) < 5.0 * error).all()
    np.testing.assert_allclose(jnp.unique(draws), [0.0, 2.0 / 0.7], rtol=1e-6)
    correlation = jnp.corrcoef(draws.T)[0, 1]
    assert abs(correlation) < 5.0 / np.sqrt(num)


@pytest.mark.slow
def test_each_call_starts_from_its_key_alone(key):
    """No counter survives a call: were it so, the second call would draw other masks."""
    shape, apply, params = build("mlp", dropout=0.5)
    calls = [apply(params, example(shape), 0.3, key=key) for _ in range(2)]
    np.testing.assert_array_equal(*calls)


@pytest.mark.slow
def test_float64_parameters_give_float64_and_the_same_values(x64):
    for shape, make in (MAKERS["mlp"], MAKERS["unet"]):
        apply, params = parts(make, param_dtype=jnp.float64)
        apply = jax.jit(apply)
        assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {np.dtype("float64")}
        value = apply(params, example(shape).astype(jnp.float64), jnp.float64(0.3))
        assert value.dtype == jnp.float64
        single = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), params)
        rounded = apply(single, example(shape), jnp.float32(0.3))
        assert rounded.dtype == jnp.float32
        np.testing.assert_allclose(rounded, value, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_parameters_of_lists_are_found_beyond_ten():
    """Ten sorts before two as a string: the eleventh layer must not take the third's place."""
    module = models.MLP(2, width=4, depth=12, rngs=nnx.Rngs(0))
    for index, block in enumerate(module.blocks):
        block.dense_in.bias[...] = jnp.full(4, float(index))
    apply, params = models.functional(module)
    assert float(params["blocks"]["11"]["dense_in"]["bias"][0]) == 11.0
    params = filled(params)
    graphdef, state = nnx.split(module)
    nnx.replace_by_pure_dict(state, params)
    expected = nnx.merge(graphdef, state)(jnp.ones(2), 0.5)
    np.testing.assert_allclose(apply(params, jnp.ones(2), 0.5), expected, rtol=1e-6)


class BatchNormed(nnx.Module):
    """A module with running statistics."""

    def __init__(self, rngs):
        self.norm = nnx.BatchNorm(2, rngs=rngs)


def test_running_statistics_are_refused():
    with pytest.raises(ValueError, match=r"running statistics at norm\.mean"):
        models.functional(BatchNormed(nnx.Rngs(0)))


def test_a_key_that_is_not_one_typed_key_is_refused(key):
    shape, apply, params = build("mlp")
    with pytest.raises(ValueError, match=r"key must be one typed key, got shape \(2,\)"):
        apply(params, example(shape), 0.3, key=jax.random.split(key, 2))
    with pytest.raises(ValueError, match=r"of uint32: use jax.random.key"):
        apply(params, example(shape), 0.3, key=jax.random.key_data(key))


def test_foreign_parameters_are_refused():
    shape, apply, params = build("mlp")
    del params["dense_in"]["bias"]
    with pytest.raises(ValueError, match=r"params has no entry at dense_in\.bias"):
        apply(params, example(shape), 0.3)


# Errors at the door.


@NETWORKS
def test_wrong_shapes_and_times_are_named(name):
    shape, apply, params = build(name)
    x = example(shape)
    with pytest.raises(ValueError, match=r"built for, got \(9, .*one example.*jax\.vmap"):
        apply(params, jnp.stack([x] * 9), 0.3)
    with pytest.raises(ValueError, match=r"t must be a scalar, got shape \(9,\)"):
        apply(params, x, jnp.linspace(0.0, 1.0, 9))
    with pytest.raises(ValueError, match=r"built for 1 time\(s\), got 2"):
        apply(params, x, 0.1, 0.3)
    with pytest.raises(ValueError, match=r"built for 1 time\(s\), got 0"):
        apply(params, x)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (partial(models.MLP, 2, dropout=1.0), r"dropout must lie in \[0, 1\), got 1.0"),
        (partial(models.MLP, 2, dropout=-0.1), r"dropout must lie in \[0, 1\), got -0.1"),
        (partial(models.MLP, 2, width=0), "width must be an integer of at least 1, got 0"),
        (partial(models.MLP, 2, depth=0), "depth must be an integer of at least 1, got 0"),
        (partial(models.MLP, 2, num_times=0), "num_times must be an integer"),
        (partial(models.MLP, (2, 0)), "shape must be an integer of at least 1, got 0"),
        (partial(models.UNet, (8, 8)), r"\(height, width, channels\) of one image, got \(8, 8\)"),
        (partial(models.UNet, 8), r"\(height, width, channels\) of one image, got 8"),
        (partial(models.UNet, (8, 8, 1), channels=()), "at least one level, got none"),
        (
            partial(models.UNet, (8, 8, 1), channels=(12, 16)),
            "divisible by num_groups, got 12 channels and num_groups=8",
        ),
        (
            partial(models.UNet, (8, 8, 1), channels=(8, 8), num_heads=3),
            "divisible by num_heads, got 8 channels and num_heads=3",
        ),
        (partial(models.UNet, (8, 8, 1), dropout=1.0), r"dropout must lie in \[0, 1\)"),
        (partial(models.UNet, (8, 8, 1), num_blocks=0), "num_blocks must be an integer"),
    ],
)
def test_wrong_options_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        nnx.eval_shape(lambda: make(rngs=nnx.Rngs(0)))


# The U-Net's sizes and price.


def tiny_unet(shape):
    return parts(partial(models.UNet, shape, channels=(4, 4, 8), num_groups=2, num_heads=2))


@pytest.mark.slow
@slow.but_the_first("shape", [(8, 8, 1), (28, 28, 1), (32, 32, 3), (9, 33, 2)], ids=str)
def test_unet_accepts_any_size(shape):
    apply, params = tiny_unet(shape)
    value = jax.eval_shape(apply, params, jnp.zeros(shape), 0.3)
    assert value.shape == shape
    assert value.dtype == jnp.float32


@pytest.mark.slow
@slow.but_the_first("shape", [(7, 10, 2), (1, 3, 1)], ids=str)
def test_unet_writes_every_pixel_of_an_odd_image(shape):
    apply, params = tiny_unet(shape)
    value = jax.jit(apply)(params, example(shape), 0.3)
    assert jnp.isfinite(value).all()
    assert (abs(value) > 0.0).all()


@pytest.mark.slow
def test_unet_sees_the_whole_image():
    """The change of one pixel is felt everywhere, to the far corner."""
    shape, apply, params = build("unet")
    x = example(shape)
    changed = abs(apply(params, x.at[0, 0].add(1.0), 0.3) - apply(params, x, 0.3)).sum(-1)
    assert (changed > 1e-4).all()


@pytest.mark.parametrize("num_blocks", [1, 2])
def test_unet_has_the_blocks_it_was_asked_for(num_blocks):
    make = partial(models.UNet, (4, 4, 1), channels=(8, 8), num_blocks=num_blocks)
    module = nnx.eval_shape(lambda: make(rngs=nnx.Rngs(0)))
    assert [len(level) for level in (*module.down, *module.up)] == [num_blocks] * 4


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shape", "channels", "mflop"),
    [((8, 8, 1), (32, 64), 15.0), ((28, 28, 1), (32, 64, 64), 150.0)],
    ids=["digits", "mnist"],
)
def test_unet_stays_cheap(shape, channels, mflop):
    """XLA's own count for one call; the bounds are the budgets of the two-core examples."""
    apply, params = parts(partial(models.UNet, shape, channels=channels))
    lowered = jax.jit(apply).lower(params, jnp.zeros(shape), 0.5)
    flops = lowered.compile().cost_analysis()["flops"]
    assert 0.3 * mflop < flops / 1e6 < mflop


# Training.

WEIGHTS = np.array([0.7, 0.2, 0.1])
MEANS = np.array([[1.5, -0.5], [-1.0, 1.0], [-0.5, -1.8]])
STDS = np.array([[0.6, 0.3], [0.25, 0.5], [0.3, 0.3]])


def mixture_velocity(x, t):
    """The exact velocity of a skewed mixture on the linear path: posterior mean of x1 - x0."""
    variance = t**2 * STDS**2 + (1.0 - t) ** 2
    centered = x[None] - t * MEANS
    logits = jnp.log(WEIGHTS) - 0.5 * (centered**2 / variance + jnp.log(variance)).sum(1)
    each = MEANS + (t * STDS**2 - (1.0 - t)) / variance * centered
    return jax.nn.softmax(logits) @ each


def mixture_batch(key, num):
    """Points `x_t` of the linear path into the mixture, times and exact velocities."""
    key_component, key_data, key_noise, key_time = jax.random.split(key, 4)
    component = jax.random.categorical(key_component, jnp.log(WEIGHTS), shape=(num,))
    normal = jax.random.normal(key_data, (num, 2))
    x1 = jnp.asarray(MEANS)[component] + jnp.asarray(STDS)[component] * normal
    t = jax.random.uniform(key_time, (num,))
    x0 = jax.random.normal(key_noise, (num, 2))
    x = t[:, None] * x1 + (1.0 - t[:, None]) * x0
    return x, t, x1 - x0


@pytest.mark.slow
def test_mlp_learns_the_velocity_of_a_skewed_mixture(key):
    """From drawn pairs alone, its distance to the exact velocity falls fifteenfold."""
    apply, params = models.functional(models.MLP(2, width=48, depth=2, rngs=nnx.Rngs(0)))

    def loss(params, key, _):
        x, t, target = mixture_batch(key, 256)
        return ((jax.vmap(partial(apply, params))(x, t) - target) ** 2).mean()

    optimizer = optax.adam(optax.cosine_decay_schedule(5e-3, 600))
    step = train.make_step(loss, optimizer)

    @jax.jit
    def run(state):
        return jax.lax.scan(lambda state, _: step(state, key, None), state, length=600)

    @jax.jit
    def distance(params):
        x, t, _ = mixture_batch(jax.random.key(7), 4096)
        exact = jax.vmap(mixture_velocity)(x, t)
        return ((jax.vmap(partial(apply, params))(x, t) - exact) ** 2).mean()

    state, info = run(train.init(params, optimizer))
    assert jnp.isfinite(info.grad_norm).all()
    assert info.loss[-50:].mean() < 0.8 * info.loss[:5].mean()
    assert distance(state.ema_params) < distance(params) / 15.0


@pytest.mark.slow
@ONE_NETWORK
def test_training_fits_one_batch_and_moves_every_parameter(name, key):
    """Adam leaves a parameter where it is only if its gradient is exactly zero."""
    shape, apply, params = build(name, dropout=0.01)
    x = jax.random.normal(key, (8, *shape))
    target = jnp.roll(x, 1, axis=1) - 0.5 * x + 0.3
    t = jnp.linspace(0.0, 1.0, 8)

    def loss(params, key, _):
        field = lambda x, t, key: apply(params, x, t, key=key)
        value = jax.vmap(field)(x, t, jax.random.split(key, 8))
        return ((value - target) ** 2).mean()

    optimizer = optax.adam(1e-2)
    step = jax.jit(train.make_step(loss, optimizer))
    state = train.init(params, optimizer)
    losses = []
    for _ in range(100):
        state, info = step(state, key, None)
        assert jnp.isfinite(info.grad_norm)
        losses.append(float(info.loss))
    assert losses[-1] < 0.2 * losses[0]
    for (path, before), after in zip(
        jax.tree.leaves_with_path(params), jax.tree.leaves(state.params), strict=True
    ):
        assert (before != after).any(), jax.tree_util.keystr(path)


# Networks of other libraries.


class LinenVelocity(flax.linen.Module):
    """Two dense layers in linen."""

    @flax.linen.compact
    def __call__(self, x, t):
        """Returns a velocity."""
        hidden = jnp.tanh(flax.linen.Dense(8)(jnp.append(x, t)))
        return flax.linen.Dense(x.shape[-1])(hidden)


class EquinoxVelocity(equinox.Module):
    """The same in equinox."""

    first: equinox.nn.Linear
    second: equinox.nn.Linear

    def __init__(self, key):
        keys = jax.random.split(key)
        self.first = equinox.nn.Linear(3, 8, key=keys[0])
        self.second = equinox.nn.Linear(8, 2, key=keys[1])

    def __call__(self, x, t):
        """Returns a velocity."""
        return self.second(jnp.tanh(self.first(jnp.append(x, t))))


def linen_parts(key):
    """The velocity and its two layers as (kernel, bias) with inputs first."""
    module = LinenVelocity()
    variables = module.init(key, jnp.zeros(2), jnp.zeros(()))
    parts = [variables["params"][name] for name in ("Dense_0", "Dense_1")]
    return partial(module.apply, variables), [(part["kernel"], part["bias"]) for part in parts]


def equinox_parts(key):
    """The velocity and its two layers as (kernel, bias) with inputs first."""
    module = EquinoxVelocity(key)
    return module, [(part.weight.T, part.bias) for part in (module.first, module.second)]


@pytest.mark.slow
@pytest.mark.parametrize("parts", [linen_parts, equinox_parts], ids=["linen", "equinox"])
def test_other_libraries_serve_as_a_velocity(parts, key):
    velocity, ((kernel, bias), (kernel_out, bias_out)) = parts(key)
    x, t = example((5, 2)), jnp.linspace(0.0, 1.0, 5)
    hidden = np.tanh(np.column_stack([x, t]) @ kernel + np.asarray(bias)[None])
    expected = hidden @ kernel_out + np.asarray(bias_out)[None]
    np.testing.assert_allclose(jax.vmap(velocity)(x, t), expected, atol=1e-5)
    jacobians = jax.jit(jax.vmap(jax.jacfwd(velocity)))(x, t)
    for index in range(5):  # the derivative of the formula, by hand
        slope = np.diag(1.0 - hidden[index] ** 2)
        by_hand = np.asarray(kernel_out).T @ slope @ np.asarray(kernel)[:2].T
        np.testing.assert_allclose(jacobians[index], by_hand, atol=1e-5)


@pytest.mark.slow
def test_parameters_survive_a_jitted_step_of_training(key):
    """The whole chain: network, pure function, donated step, function again."""
    apply, params = models.functional(
        models.MLP(2, width=8, depth=1, dropout=0.2, rngs=nnx.Rngs(0))
    )

    def loss(params, key, x):
        keys = jax.random.split(key, len(x))
        value = jax.vmap(lambda x, key: apply(params, x, 0.3, key=key))(x, keys)
        return ((value - x) ** 2).mean()

    optimizer = optax.adam(1e-2)
    step = jax.jit(train.make_step(loss, optimizer), donate_argnums=0)
    state = train.init(params, optimizer)
    for _ in range(3):
        state, info = step(state, key, example((4, 2)))
    assert jnp.isfinite(info.loss)
    assert apply(state.ema_params, jnp.ones(2), 0.3).any()
    assert not apply(params, jnp.ones(2), 0.3).any()  # the first parameters are still there
