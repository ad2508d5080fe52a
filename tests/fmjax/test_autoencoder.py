"""fmjax.models.Encoder and Decoder: against NumPy and differences, sizes, training, errors."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from fmjax import models, train
from tests import slow
from tests.fmjax.test_models import example, group_norm_by_hand, parts

KINDS = {"encoder": models.Encoder, "decoder": models.Decoder}
SIZE = {"channels": (4, 6), "num_latents": 3, "num_groups": 2}


def build(kind, shape=(5, 8, 2), **options):
    """The shape of what it takes, the jitted pure function and filled parameters."""
    make = partial(KINDS[kind], shape, **SIZE | options)
    latent = nnx.eval_shape(lambda: make(rngs=nnx.Rngs(0))).latent_shape
    apply, params = parts(make)
    return shape if kind == "encoder" else latent, jax.jit(apply), params


# By explicit sums over the nine shifts, in float64.


def convolve(layer, x, stride=1):
    kernel = np.asarray(layer["kernel"], np.float64)
    size = [-(-side // stride) for side in x.shape[:2]]
    # "SAME": what is missing for the last window, with the larger half behind.
    short = [max((n - 1) * stride + 3 - side, 0) for n, side in zip(size, x.shape[:2], strict=True)]
    x = np.pad(x, [*[(s // 2, s - s // 2) for s in short], (0, 0)])
    rows, columns = ((n - 1) * stride + 1 for n in size)
    taken = [
        x[i : i + rows : stride, j : j + columns : stride] @ kernel[i, j]
        for i in range(3)
        for j in range(3)
    ]
    return sum(taken) + np.asarray(layer["bias"], np.float64)


def active(norm, x):
    normal = group_norm_by_hand(x, 2, np.asarray(norm["scale"]), np.asarray(norm["bias"]))
    return normal / (1.0 + np.exp(-normal))


def block(tree, x):
    hidden = convolve(tree["conv_in"], active(tree["norm_in"], x))
    return x + convolve(tree["conv_out"], active(tree["norm_out"], hidden))


def encoded(tree, x):
    for level in ("0", "1"):
        x = block(tree["blocks"][level], convolve(tree["halve"][level], x, stride=2))
    return convolve(tree["conv_out"], active(tree["norm_out"], x))


def decoded(tree, z, fine, finest):
    up = lambda x, h, w: x.repeat(2, axis=0).repeat(2, axis=1)[:h, :w]
    hidden = block(tree["blocks"]["0"], convolve(tree["conv_in"], z))
    hidden = block(tree["blocks"]["1"], convolve(tree["double"]["0"], up(hidden, *fine)))
    return convolve(tree["conv_out"], up(active(tree["norm_out"], hidden), *finest))


@slow.but_the_first("kind", KINDS)
def test_it_equals_the_sums(kind):
    shape, apply, params = build(kind)
    x = example(shape)
    if kind == "encoder":
        expected = encoded(params, np.float64(x))
        assert expected.shape == (2, 2, 3)
    else:
        expected = decoded(params, np.float64(x), (3, 4), (5, 8))
        assert expected.shape == (5, 8, 2)
    np.testing.assert_allclose(apply(params, x), expected, rtol=1e-4, atol=1e-4)
    assert abs(expected).max() > 0.1


@slow.but_the_first("channels", [(4,), (4, 4, 4)], ids=str)
@slow.but_the_first("size", [(7, 5), (1, 1), (8, 16)], ids=str)
def test_images_of_any_size_come_back_with_theirs(size, channels):
    shape, options = (*size, 1), {"channels": channels, "num_groups": 2, "num_latents": 5}
    made = [partial(kind, shape, **options) for kind in KINDS.values()]
    cells = [int(np.ceil(side / 2 ** len(channels))) for side in size]
    for make in made:
        assert nnx.eval_shape(lambda m=make: m(rngs=nnx.Rngs(0))).latent_shape == (*cells, 5)
    (encode, first), (decode, second) = map(parts, made)
    z = jax.eval_shape(encode, first, jnp.zeros(shape))
    assert z.shape == (*cells, 5)
    image = jax.eval_shape(decode, second, z)
    assert image.shape == shape
    assert image.dtype == z.dtype == jnp.float32


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_equals_a_loop_and_derivatives_equal_differences(kind, x64):
    shape, apply, params = build(kind, param_dtype=jnp.float64)
    x = jnp.stack([example(shape, seed).astype(jnp.float64) for seed in range(3)])
    alone = jnp.stack([apply(params, one) for one in x])
    assert alone.dtype == jnp.float64
    np.testing.assert_allclose(jax.vmap(apply, (None, 0))(params, x), alone, atol=1e-12)
    step = 1e-5 * x[1]
    value, tangent = jax.jvp(partial(apply, params), (x[0],), (x[1],))
    np.testing.assert_allclose(value, alone[0], atol=1e-12)
    difference = (apply(params, x[0] + step) - apply(params, x[0] - step)) / 2e-5
    np.testing.assert_allclose(tangent, difference, rtol=1e-6, atol=1e-8)
    assert abs(tangent).max() > 1e-2


@pytest.mark.slow
def test_both_learn_to_bring_an_image_back(key):
    """Blobs at random places: few numbers, so that six of each cell are enough."""
    shape, options = (8, 8, 1), {"channels": (8, 16), "num_latents": 6}
    (encode, first), (decode, second) = (
        models.functional(kind(shape, **options, rngs=nnx.Rngs(0))) for kind in KINDS.values()
    )
    grid = jnp.arange(8.0)

    def image(key):
        at = jax.random.uniform(key, (2, 1), minval=1.0, maxval=6.0)
        rows, columns = jnp.exp(-((grid[None] - at) ** 2) / 3)
        return jnp.outer(rows, columns)[..., None]

    def error(params, x):
        back = decode(params["decoder"], encode(params["encoder"], x))
        return jnp.mean((back - x) ** 2)

    def loss(params, key, _):
        x = jax.vmap(image)(jax.random.split(key, 16))
        return jax.vmap(error, (None, 0))(params, x).mean()

    optimizer = optax.adam(3e-3)
    state = train.init({"encoder": first, "decoder": second}, optimizer)
    step = jax.jit(train.make_step(loss, optimizer))
    for _ in range(200):
        state, _ = step(state, key, None)
    x = jax.vmap(image)(jax.random.split(jax.random.key(7), 100))
    left = jax.vmap(error, (None, 0))(state.params, x).mean()
    assert float(left) < 0.05 * float(x.var())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shape": 8}, r"\(height, width, channels\) of one image, got 8"),
        ({"shape": (8, 8)}, r"\(height, width, channels\) of one image, got \(8, 8\)"),
        ({"shape": (8, 0, 1)}, "width must be an integer of at least 1, got 0"),
        ({"channels": ()}, r"at least one level, got \(\)"),
        ({"channels": 8}, "at least one level, got 8"),
        ({"channels": (4, 7)}, "divisible by num_groups, got 7 channels and num_groups=2"),
        ({"num_latents": 0}, "num_latents must be an integer of at least 1, got 0"),
    ],
)
def test_wrong_options_are_named(options, message):
    for kind in KINDS.values():
        with pytest.raises(ValueError, match=message):
            nnx.eval_shape(
                lambda k=kind: k(**{"shape": (8, 8, 1)} | SIZE | options, rngs=nnx.Rngs(0))
            )


def test_wrong_calls_are_named():
    for kind, name in (("encoder", "x"), ("decoder", "z")):
        shape, apply, params = build(kind)
        with pytest.raises(ValueError, match=rf"^{name} must have shape .* got \(9, .*jax\.vmap"):
            apply(params, jnp.zeros((9, *shape)))
