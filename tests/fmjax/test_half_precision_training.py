"""Networks that compute in bfloat16: what stays float32, and how far their answers are off."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from fmjax import divergence, likelihood, models, paths, posterior, samplers, train
from tests import slow

PATH = paths.linear()


def products(jaxpr):
    """The dtypes of all factors of all products of a traced function."""
    found = set()
    for equation in jaxpr.eqns:
        if equation.primitive.name in ("dot_general", "conv_general_dilated"):
            found |= {variable.aval.dtype for variable in equation.invars}
        for inner in jax.tree.leaves(
            list(equation.params.values()), is_leaf=lambda f: hasattr(f, "jaxpr")
        ):
            found |= products(inner.jaxpr) if hasattr(inner, "jaxpr") else set()
    return found


NETWORKS = {
    "perceptron": (lambda: models.perceptron(jax.random.key(0), 2, width=8, depth=2), (2,), None),
    "MLP": (lambda: models.MLP(2, width=8, context=3, rngs=nnx.Rngs(0)), (2,), jnp.ones(3)),
    "labels": (lambda: models.MLP(2, width=8, num_classes=3, rngs=nnx.Rngs(0)), (2,), 1),
    "UNet": (lambda: models.UNet((4, 4, 1), channels=(8, 8), rngs=nnx.Rngs(0)), (4, 4, 1), None),
    "Conv1D": (
        lambda: models.Conv1D((4, 1), channels=(8, 8), context=2, rngs=nnx.Rngs(0)),
        (4, 1),
        jnp.ones((4, 2)),
    ),
    "DiT": (
        lambda: models.DiT((4, 1), width=8, depth=1, context=2, rngs=nnx.Rngs(0)),
        (4, 1),
        jnp.ones((4, 2)),
    ),
}


@slow.but_the_first("name", NETWORKS)
def test_every_product_of_a_network_is_of_bfloat16_and_its_ends_are_float32(name):
    make, shape, context = NETWORKS[name]
    made = make()
    apply, params = made if isinstance(made, tuple) else models.functional(made)
    inputs = {} if context is None else {"context": context}
    call = lambda apply: lambda params, x: apply(params, x, jnp.float32(0.3), **inputs)
    low = call(models.in_dtype(apply, jnp.bfloat16))
    x = jnp.ones(shape)
    assert products(jax.make_jaxpr(low)(params, x).jaxpr) == {jnp.dtype(jnp.bfloat16)}
    assert products(jax.make_jaxpr(call(apply))(params, x).jaxpr) == {jnp.dtype(jnp.float32)}
    assert jax.eval_shape(low, params, x).dtype == jnp.float32
    gradient = jax.eval_shape(jax.grad(lambda p: low(p, x).sum()), params)
    assert {leaf.dtype for leaf in jax.tree.leaves(gradient)} == {jnp.dtype(jnp.float32)}


def test_small_updates_of_a_network_in_bfloat16_add_up(key):
    # d/dw of the velocity w x at x = 1 is 1: 200 steps of sgd at 1e-3 move w from 1 to 0.8, by
    # hand. bfloat16 knows no number between 0.996 and 1, so parameters stored in it stand still.
    optimizer = optax.sgd(1e-3)
    network = lambda w, x, t: w * x

    def trained(apply, w):
        step = train.make_step(lambda w, *_: apply(w, jnp.float32(1.0), 0.5), optimizer)
        return train.repeat(step, num_steps=200)(train.init(w, optimizer), key, None)[0]

    state = trained(models.in_dtype(network, jnp.bfloat16), jnp.float32(1.0))
    for leaf in (state.params, state.ema_params):
        assert leaf.dtype == jnp.float32
    assert float(state.params) == pytest.approx(0.8, abs=1e-5)
    assert 0.8 < float(state.ema_params) < 0.95
    assert float(trained(network, jnp.bfloat16(1.0)).params) == 1.0


def test_the_state_of_the_optimizer_is_float32():
    _, params = models.perceptron(jax.random.key(0), 2, width=8, depth=2)
    state = train.init(params, optax.adam(1e-3))
    floats = [x for x in jax.tree.leaves(state) if jnp.issubdtype(x.dtype, jnp.floating)]
    assert {x.dtype for x in floats} == {jnp.dtype(jnp.float32)}
    assert len(floats) == 4 * len(jax.tree.leaves(params))


@pytest.mark.slow
def test_divergence_likelihood_and_posterior_within_the_errors_of_the_docstring(key):
    apply, params = models.perceptron(key, 6, width=64, depth=3)
    params = jax.tree.map(lambda a: 1.7 * a, params)  # as steep as a trained network
    low = models.in_dtype(apply, jnp.bfloat16)
    x = jax.random.gamma(jax.random.key(1), 2.0, (32, 6)) - 1.0

    def both(function):
        one = lambda apply: jax.jit(jax.vmap(lambda x: function(partial(apply, params), x)))(x)
        return [np.asarray(one(network), np.float64) for network in (apply, low)]

    t = jnp.float32(0.6)
    exact, ours = both(lambda v, x: v(x, t))
    error = np.linalg.norm(ours - exact) / np.linalg.norm(exact)
    assert 1e-4 < error < 0.01
    terms, _ = both(lambda v, x: divergence.diagonal(lambda x: v(x, t), x)[1])
    size = np.sqrt((terms**2).sum(-1).mean())
    for estimate in (divergence.exact, partial(divergence.hutchinson, key, num_probes=4)):
        exact, ours = both(lambda v, x, e=estimate: e(lambda x: v(x, t), x)[1])
        assert np.sqrt(np.mean((ours - exact) ** 2)) < 0.02 * size
    exact, ours = both(lambda v, x: posterior.trace(v, PATH, x, t))
    assert np.linalg.norm(ours - exact) < 0.01 * np.linalg.norm(exact)
    solve = partial(samplers.fixed, num_steps=20)
    exact, ours = both(lambda v, x: likelihood.log_prob(v, x, solve=solve))
    assert np.sqrt(np.mean((ours - exact) ** 2)) < 0.01 * 6


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((lambda params, x, t: x, jnp.int32), "dtype must be a floating dtype, got .*jnp.bfloat16"),
        ((lambda params, x, t: x, "small"), "dtype must be a floating dtype, got"),
        ((models.MLP, jnp.bfloat16), r"apply must be a function \(params, x, t\) -> dx"),
    ],
    ids=["integers", "word", "class"],
)
def test_what_is_no_network_or_no_dtype_is_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        models.in_dtype(*arguments)
