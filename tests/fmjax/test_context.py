"""Networks with a label or a vector: against NumPy, transformed, and errors by message."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from fmjax import models
from tests.fmjax.test_models import example, parts

MAKERS = {
    "mlp": ((2,), partial(models.MLP, 2, width=16, depth=1)),
    "unet": (
        (5, 3, 2),
        partial(models.UNet, (5, 3, 2), channels=(4, 8), num_groups=2, num_heads=2),
    ),
    "conv1d": ((7, 2), partial(models.Conv1D, (7, 2), channels=(4, 8), num_groups=2)),
    "dit": ((5, 2), partial(models.DiT, (5, 2), width=8, depth=1, num_heads=2)),
}
# Where the numbers of a context enter beside the embedding, `Conv1D` and `DiT` have own tests.
VECTORS = pytest.mark.parametrize("name", ["mlp", "unet"])
NETWORKS = pytest.mark.parametrize("name", MAKERS)


def build(name, **options):
    """The shape of one example, the jitted pure function and filled parameters."""
    shape, make = MAKERS[name]
    apply, params = parts(make, **options)
    return shape, jax.jit(apply), params


def without_context(params):
    return {name: branch for name, branch in params.items() if name != "condition"}


@pytest.mark.parametrize("options", [{"num_classes": 3}, {"context": 3}], ids=str)
def test_the_perceptron_against_numpy(options):
    _, apply, params = build("mlp", **options)
    x, vector = np.array([0.7, -1.3]), np.array([0.3, -2.0, 1.1])
    tree = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    silu = lambda value: value / (1.0 + np.exp(-value))
    dense = lambda layer, value: value @ layer["kernel"] + layer.get("bias", 0.0)
    angles = 0.4 * 10.0 ** (2.0 * np.arange(32) / 31)
    times = dense(tree["embed"]["dense"], np.concatenate([np.sin(angles), np.cos(angles)]))
    contexts = (0, 2, 3) if "num_classes" in options else (vector, np.zeros(3))
    for context in contexts:
        moved = tree["condition"]
        moved = (
            moved["rows"][context] if isinstance(context, int) else dense(moved["linear"], context)
        )
        embedding, block = silu(times + moved), tree["blocks"]["0"]
        hidden = dense(tree["dense_in"], x)
        inner = silu(dense(block["dense_in"], hidden) + dense(block["time"], embedding))
        expected = dense(tree["dense_out"], silu(hidden + dense(block["dense_out"], inner)))
        found = apply(params, jnp.asarray(x, jnp.float32), 0.4, context=context)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@NETWORKS
def test_every_label_is_another_field_and_the_rest_is_the_plain_network(name):
    shape, apply, params = build(name, num_classes=3)
    assert params["condition"]["rows"].shape[0] == 4  # the last is the null label
    x = example(shape)
    fields = [apply(params, x, 0.3, context=label) for label in range(4)]
    for label in range(4):
        for other in range(label):
            assert abs(fields[label] - fields[other]).max() > 1e-3
    _, plain, rest = build(name)
    assert jax.tree.structure(rest) == jax.tree.structure(without_context(params))
    params["condition"]["rows"] = params["condition"]["rows"].at[2].set(0.0)
    expected = plain(without_context(params), x, 0.3)
    np.testing.assert_allclose(apply(params, x, 0.3, context=2), expected, rtol=1e-5, atol=1e-6)


@VECTORS
def test_the_vector_of_zeros_is_the_network_without(name):
    shape, apply, params = build(name, context=3)
    x = example(shape)
    _, plain, _ = build(name)
    expected = plain(without_context(params), x, 0.3)
    null = apply(params, x, 0.3, context=jnp.zeros(3))
    np.testing.assert_allclose(null, expected, rtol=1e-6, atol=1e-6)
    told = [apply(params, x, 0.3, context=jnp.asarray(c)) for c in ([1.0, 0, 0], [0, 0, 1.0])]
    assert min(abs(a - b).max() for a, b in ((null, told[0]), (null, told[1]), told)) > 1e-3


@pytest.mark.slow
@NETWORKS
def test_a_batch_of_labels_equals_a_loop(name, key):
    shape, apply, params = build(name, num_classes=3, dropout=0.3)
    x = jnp.stack([example(shape, seed) for seed in range(4)])
    t, keys = jnp.linspace(0.1, 0.9, 4), jax.random.split(key, 4)
    one = lambda x, t, label, key: apply(params, x, t, context=label, key=key)
    for labels in (jnp.array([2, 0, 3, 2]), jnp.array([2, 0, 3, 2], jnp.uint8)):
        together = jax.vmap(one)(x, t, labels, keys)
        alone = jnp.stack(
            [one(*row) for row in zip(x, t, (2, 0, 3, np.int64(2)), keys, strict=True)]
        )
        np.testing.assert_allclose(together, alone, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("option", ["num_classes", "context"])
@VECTORS
def test_derivatives_against_differences(name, option, x64):
    shape, make = MAKERS[name]
    apply, params = parts(make, param_dtype=jnp.float64, **{option: 3})
    x, direction = (example(shape, seed).astype(jnp.float64) for seed in (0, 3))
    context = jnp.array(1) if option == "num_classes" else jnp.array([0.3, -2.0, 1.1])
    field = lambda x, t, params: apply(params, x, t, context=context)
    tangents = (direction, jnp.float64(1.0), jax.tree.map(jnp.sin, params))

    @jax.jit
    def derivatives(x, t, params):
        value, tangent = jax.jvp(field, (x, t, params), tangents)
        return value, tangent, jax.jacfwd(field)(x, t, params)

    at = (x, jnp.float64(0.3), params)
    value, tangent, jacobian = derivatives(*at)
    assert value.dtype == tangent.dtype == jnp.float64
    move = lambda step: jax.tree.map(lambda a, b: a + step * b, at, tangents)
    difference = (derivatives(*move(1e-6))[0] - derivatives(*move(-1e-6))[0]) / 2e-6
    np.testing.assert_allclose(tangent, difference, rtol=1e-6, atol=1e-8)
    along = lambda step: derivatives(x + step * direction, 0.3, params)[0]
    difference = (along(1e-5) - along(-1e-5)) / 2e-5
    np.testing.assert_allclose(
        jnp.tensordot(jacobian, direction, axes=len(shape)), difference, rtol=1e-6, atol=1e-8
    )


@pytest.mark.slow
def test_a_gradient_reaches_the_rows_that_were_used_and_a_vector(x64):
    shape, apply, params = build("mlp", num_classes=3)
    loss = lambda params, labels: jnp.sum(
        jax.vmap(lambda c: apply(params, example(shape), 0.3, context=c))(labels) ** 2
    )
    slope = jax.grad(loss)(params, jnp.array([3, 1]))["condition"]["rows"]
    assert [bool(row.any()) for row in slope] == [False, True, False, True]
    _, apply, params = build("mlp", context=2, param_dtype=jnp.float64)
    x = example(shape).astype(jnp.float64)
    field = lambda c: apply(params, x, 0.3, context=c)
    at, step = jnp.array([0.3, -0.7]), 1e-5
    jacobian = jax.jacfwd(field)(at)
    for i, unit in enumerate(jnp.eye(2)):
        difference = (field(at + step * unit) - field(at - step * unit)) / (2 * step)
        np.testing.assert_allclose(jacobian[:, i], difference, rtol=1e-6, atol=1e-9)
        assert abs(difference).max() > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("options", [{"num_classes": 3}, {"context": 2}], ids=str)
@VECTORS
def test_the_dtype_is_that_of_state_and_parameters(name, options, x64):
    wide = jnp.array([1.0, -2.0], jnp.float64) if "context" in options else jnp.array(2)
    for dtype in (jnp.bfloat16, jnp.float32, jnp.float64):
        shape, apply, params = build(name, param_dtype=dtype, **options)
        assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype(dtype)}
        x = example(shape).astype(dtype)
        value = apply(params, x, jnp.asarray(0.3, dtype), context=wide)
        assert value.dtype == dtype
        assert bool(jnp.isfinite(value).all())


@NETWORKS
def test_a_traced_label_of_no_class_is_not_a_number(name):
    shape, apply, params = build(name, num_classes=3)
    for label, finite in ((3, True), (4, False), (-1, False), (300, False)):
        value = apply(params, example(shape), 0.3, context=jnp.asarray(label))
        assert bool(jnp.isfinite(value).all()) == finite
        assert bool(jnp.isnan(value).any()) != finite


@NETWORKS
def test_wrong_contexts_are_named(name):
    shape, make = MAKERS[name]
    x = example(shape)
    apply, params = parts(make)
    for given, got in ((2, "2"), (jnp.ones(3), r"an array of shape \(3,\) and dtype float32")):
        with pytest.raises(
            ValueError, match=rf"must be left out .* got {got}: build it with num_c"
        ):
            apply(params, x, 0.3, context=given)
    apply, params = parts(make, num_classes=3)
    wrong = {
        "none": None,
        "4": 4,
        "-1": -1,
        "2.0": 2.0,
        "True": True,
        "'cat'": "cat",
        r"an array of shape \(2,\) and dtype int32": jnp.array([1, 2]),
        r"an array of shape \(\) and dtype float32": jnp.array(1.0),
        r"an array of shape \(\) and dtype int64": np.array(7),
    }
    for got, given in wrong.items():
        with pytest.raises(ValueError, match=rf"from 0 to 3 .* null label, got {got}: .*jax\.vmap"):
            apply(params, x, 0.3, context=given)


@VECTORS
def test_wrong_vectors_are_named(name):
    shape, make = MAKERS[name]
    apply, params = parts(make, context=3)
    wrong = {"none": None, r"\[1.0, 2.0, 3.0\]": [1.0, 2.0, 3.0], "2": 2}
    wrong[r"an array of shape \(5, 3\) and dtype float32"] = jnp.ones((5, 3))
    for got, given in wrong.items():
        with pytest.raises(ValueError, match=rf"an array of shape \(3,\) .* got {got}: call it as"):
            apply(params, example(shape), 0.3, context=given)


@NETWORKS
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_classes": -1}, "num_classes must be an integer of at least 1, got -1"),
        ({"num_classes": 2.0}, "num_classes must be an integer of at least 1, got 2.0"),
        ({"context": None}, "context must be an integer of at least 1, got None"),
        ({"num_classes": 3, "context": 2}, "labels or numbers, got num_classes=3 and context=2"),
    ],
)
def test_wrong_options_are_named(name, options, message):
    _, make = MAKERS[name]
    with pytest.raises(ValueError, match=message):
        nnx.eval_shape(lambda: make(**options, rngs=nnx.Rngs(0)))


@pytest.mark.slow
def test_integer_states_of_a_sequence_do_not_round_its_context():
    shape, make = MAKERS["conv1d"]
    apply, params = parts(make, context=1)
    context, x = example((7, 1)), jnp.arange(14).reshape(shape)
    expected = apply(params, x.astype(jnp.float32), 0.3, context=context)
    np.testing.assert_allclose(apply(params, x, 0.3, context=context), expected, rtol=1e-6)
