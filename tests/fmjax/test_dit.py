"""fmjax.models.DiT: against NumPy and differences, order of tokens, context, cost, errors."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import fmjax
from fmjax import models
from tests.fmjax.test_models import example, filled, parts

make = partial(models.DiT, width=8, depth=2, num_heads=2, expansion=2)


def by_hand(tree, x, t, context, num_heads):
    """The network in float64 by NumPy, head by head, as the module's formulas read."""
    tree = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), tree)
    silu = lambda value: value / (1.0 + np.exp(-value))
    dense = lambda layer, value: value @ layer["kernel"] + layer.get("bias", 0.0)
    normal = lambda h: (h - h.mean(1, keepdims=True)) / np.sqrt(h.var(1, keepdims=True) + 1e-6)
    angles = t * 10.0 ** (2.0 * np.arange(32) / 31)
    e = silu(dense(tree["embed"]["dense"], np.concatenate([np.sin(angles), np.cos(angles)])))
    h = dense(tree["dense_in"], np.concatenate([x, context], axis=1)) + tree["positions"]
    for number in sorted(tree["blocks"]):
        block = tree["blocks"][number]
        shift, scale, gate, shift_2, scale_2, gate_2 = np.split(dense(block["modulate"], e), 6)
        joined = dense(block["attention"]["project_in"], (1 + scale) * normal(h) + shift)
        query, key, value = np.split(joined, 3, axis=1)
        heads, size = [], h.shape[1] // num_heads
        for part in (slice(i * size, (i + 1) * size) for i in range(num_heads)):
            weights = np.exp(query[:, part] @ key[:, part].T / np.sqrt(size))
            heads.append(weights / weights.sum(1, keepdims=True) @ value[:, part])
        h = h + gate * dense(block["attention"]["project_out"], np.concatenate(heads, 1))
        inner = silu(dense(block["dense_in"], (1 + scale_2) * normal(h) + shift_2))
        h = h + gate_2 * dense(block["dense_out"], inner)
    shift, scale = np.split(dense(tree["modulate"], e), 2)
    return dense(tree["dense_out"], (1 + scale) * normal(h) + shift)


def test_it_equals_the_formulas():
    apply, params = parts(partial(make, (5, 3), context=2))
    x, context = example((5, 3)), example((5, 2), seed=1)
    value = jax.jit(apply)(params, x, 0.3, context=context)
    expected = by_hand(params, np.float64(x), 0.3, np.float64(context), num_heads=2)
    np.testing.assert_allclose(value, expected, rtol=1e-4, atol=1e-5)
    assert abs(expected).min(1).max() > 0.01


@pytest.mark.slow
def test_it_starts_at_zero_and_later_depends_on_everything():
    apply, params = models.functional(make((5, 3), context=2, rngs=nnx.Rngs(0)))
    apply = jax.jit(apply)
    x, c = example((5, 3)), example((5, 2), seed=1)
    assert not apply(params, x, 0.3, context=c).any()
    params = filled(params)
    value = apply(params, x, 0.3, context=c)
    for changed in (
        apply(params, x, 0.7, context=c),
        apply(params, x, 0.3, context=c.at[-1].add(1.0)),
        apply(params, x.at[0].add(1.0), 0.3, context=c),
    ):
        assert (abs(changed - value).max(1) > 1e-4).all()  # felt by every token


@pytest.mark.slow
def test_only_the_positions_tell_the_order_of_the_tokens():
    apply, params = parts(partial(make, (5, 3)))
    x, order = example((5, 3)), jnp.array([3, 0, 4, 1, 2])
    here = apply(params, x, 0.3)
    assert abs(apply(params, x[order], 0.3) - here[order]).max() > 1e-3
    moved = {**params, "positions": params["positions"][order]}
    np.testing.assert_allclose(apply(moved, x[order], 0.3), here[order], rtol=1e-4, atol=1e-5)


def counted(function, *arguments):
    return jax.jit(function).lower(*arguments).compile().cost_analysis()["flops"]


def operations(weight):
    """The operations of a gradient of `losses.fdm`, counted by XLA."""
    apply, params = parts(partial(models.DiT, (64, 4), width=64, depth=2))
    path, x = fmjax.paths.linear(), jnp.ones((64, 4))

    def loss(params, key):
        probe = partial(fmjax.divergence.hutchinson, key)
        matching = partial(fmjax.losses.match_trace, divergence=probe)
        pair = (partial(apply, params), path, x, -x, 0.5)
        return fmjax.losses.fdm(*pair, weight=weight, matching=matching)

    return counted(jax.grad(loss), params, jax.random.key(0))


@pytest.mark.slow
def test_a_step_of_divergence_matching_takes_little_more_than_two_of_flow_matching():
    # Each product of tokens and weights has one for the tangent; one of tokens and tokens has two.
    assert 1.5 < operations(0.01) / operations(0.0) < 2.3


@pytest.mark.slow
def test_the_table_of_the_docstring_is_right():
    found = re.findall(
        r"\| (\d+) +\| (\d+) +\| (\d+) +\| ([\d.]+) +\| ([\d.]+) M", models.DiT.__doc__
    )
    assert len(found) == 3
    for tokens, width, depth, mega, millions in found:
        size = {"width": int(width), "depth": int(depth)}
        apply, params = parts(partial(models.DiT, (int(tokens), 8), **size))
        count = sum(leaf.size for leaf in jax.tree.leaves(params))
        assert f"{count / 1e6:.2f}" == millions
        flop = counted(apply, params, jnp.ones((int(tokens), 8)), 0.5)
        assert flop / 1e6 == pytest.approx(float(mega), rel=0.05)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shape": 5}, r"\(tokens, features\) of one example, got 5"),
        ({"shape": (5, 2, 1)}, r"\(tokens, features\) of one example, got \(5, 2, 1\)"),
        ({"shape": (0, 2)}, "tokens must be an integer of at least 1, got 0"),
        ({"depth": 0}, "depth must be an integer of at least 1, got 0"),
        ({"expansion": 1.5}, "expansion must be an integer of at least 1, got 1.5"),
        ({"num_heads": 3}, "divisible by num_heads, got 8 channels and num_heads=3"),
        ({"context": -1}, "context must be an integer of at least 1, got -1"),
        ({"dropout": 1.0}, r"dropout must lie in \[0, 1\), got 1.0"),
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
