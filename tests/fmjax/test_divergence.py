"""Divergences against formulas; Hutchinson's law is in `tests/measured/identities.py`."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fmjax import divergence
from tests import slow

OPTIMIZED = True

EXACT = {
    "exact": divergence.exact,
    "chunked": divergence.chunked,
    "chunk that does not divide": partial(divergence.chunked, chunk_size=5),
}
FEW = {**EXACT, "unrolled": divergence.unrolled}  # for few entries


def _field(x):
    """A field that mixes all entries, with divergence d sin-free: see `_closed`."""
    weights = jnp.arange(1.0, x.size + 1, dtype=x.dtype).reshape(x.shape)
    return jnp.sin(weights * x) + x * jnp.sum(weights * x)


def _closed(x):
    # d/dx_i [sin(w_i x_i) + x_i S] = w_i cos(w_i x_i) + S + w_i x_i, S = sum w x.
    w = np.arange(1.0, x.size + 1).reshape(x.shape)
    x = np.asarray(x)
    return w * np.cos(w * x) + np.sum(w * x) + w * x


@slow.but_the_first("shape", [(), (2,), (4, 4, 3)])
@slow.but_the_first("name", EXACT)
def test_exact_divergence_equals_the_formula(name, shape, x64):
    x = jax.random.normal(jax.random.key(1), shape)
    value, div = EXACT[name](_field, x)
    np.testing.assert_allclose(value, _field(x), rtol=1e-14)
    np.testing.assert_allclose(div, _closed(x).sum(), rtol=1e-12)
    assert value.shape == shape
    assert div.shape == ()


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(), (2, 2)])
def test_unrolled_equals_exact_and_so_does_its_gradient(shape, x64):
    x = jax.random.normal(jax.random.key(1), shape)
    both = jax.jit(
        lambda x: [jax.value_and_grad(lambda x, d=d: d(_field, x)[1])(x) for d in FEW.values()]
    )(x)
    for div, gradient in both:
        np.testing.assert_allclose(div, _closed(x).sum(), rtol=1e-12)
        np.testing.assert_allclose(gradient, both[0][1], rtol=1e-11)
    np.testing.assert_allclose(divergence.unrolled(_field, x)[0], _field(x), rtol=1e-14)


def test_unrolled_refuses_many_entries():
    with pytest.raises(ValueError, match="at most 64, got 65: use divergence.exact"):
        divergence.unrolled(_field, jnp.ones(65))


@slow.but_the_first("shape", [(2,), (), (4, 4, 3)])
def test_diagonal_equals_the_formula(shape, x64):
    x = jax.random.normal(jax.random.key(1), shape)
    _, entries = divergence.diagonal(_field, x, chunk_size=7)
    np.testing.assert_allclose(entries, _closed(x), rtol=1e-12)


@pytest.mark.slow
@slow.but_the_first("probe", [jax.random.rademacher, jax.random.normal])
@slow.but_the_first("shape", [(), (2,), (4, 4, 3)])
def test_hutchinson_is_the_mean_of_its_forms(probe, shape, x64):
    x, key = jax.random.normal(jax.random.key(1), shape), jax.random.key(7)
    value, estimate = divergence.hutchinson(key, _field, x, num_probes=3, probe=probe)
    jacobian = jax.jacfwd(lambda z: _field(z.reshape(shape)).ravel())(x.ravel())
    probes = [probe(k, shape, x.dtype).ravel() for k in jax.random.split(key, 3)]
    np.testing.assert_allclose(value, _field(x), rtol=1e-14)
    np.testing.assert_allclose(estimate, np.mean([z @ jacobian @ z for z in probes]), rtol=1e-12)


@pytest.mark.slow
def test_rademacher_is_exact_for_a_diagonal_jacobian():
    _, estimate = divergence.hutchinson(jax.random.key(3), lambda x: x**3, jnp.arange(4.0))
    assert float(estimate) == pytest.approx(3 * (1 + 4 + 9))


@pytest.mark.slow
def test_more_probes_estimate_better():
    matrix = jax.random.normal(jax.random.key(0), (8, 8))
    draw = lambda key, n: divergence.hutchinson(
        key, lambda x: matrix @ x, jnp.ones(8), num_probes=n
    )
    keys = jax.random.split(jax.random.key(1), 4000)
    spread = {n: jnp.std(jax.vmap(lambda k, n=n: draw(k, n)[1])(keys)) for n in (1, 16)}
    # The standard deviation falls by four; each is known to about 2 %.
    assert float(spread[1] / spread[16]) == pytest.approx(4.0, rel=0.1)


@pytest.mark.slow
def test_gradients_flow_through_every_estimator(x64):
    def total(scale, estimator):
        return estimator(lambda x: scale * _field(x), jnp.array([0.3, -0.8]))[1]

    key = jax.random.key(0)
    for estimator in (*FEW.values(), partial(divergence.hutchinson, key)):
        slope = jax.grad(total)(1.3, estimator)
        np.testing.assert_allclose(slope, total(1.0, estimator), rtol=1e-12)  # linear in scale


@pytest.mark.parametrize(
    "estimator", [*FEW.values(), partial(divergence.hutchinson, jax.random.key(0))]
)
def test_a_field_of_another_shape_is_named(estimator):
    with pytest.raises(ValueError, match=r"x \(3,\), field \(2,\)"):
        estimator(lambda x: x[:2], jnp.ones(3))


def test_counts_must_be_positive():
    with pytest.raises(ValueError, match="chunk_size must be at least 1"):
        divergence.chunked(_field, jnp.ones(3), chunk_size=0)
    with pytest.raises(ValueError, match="num_probes must be at least 1"):
        divergence.hutchinson(jax.random.key(0), _field, jnp.ones(3), num_probes=0)


@pytest.mark.slow
def test_memory_is_set_by_the_chunk_and_not_by_the_dimension():
    matrix = jnp.ones((1024, 1024)) / 1024

    def temporary(estimator):
        divergence_of = lambda matrix, x: estimator(lambda x: jnp.tanh(matrix @ x), x)[1]
        compiled = jax.jit(divergence_of).lower(matrix, jnp.ones(1024)).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    whole = temporary(divergence.exact)
    assert temporary(partial(divergence.chunked, chunk_size=16)) < whole / 8
    assert temporary(partial(divergence.chunked, chunk_size=1)) < whole / 64


@pytest.mark.parametrize("shape", [(0,), (3, 0)], ids=str)
def test_a_state_without_entries_has_divergence_zero(shape):
    x = jnp.zeros(shape)
    estimators = (
        divergence.exact,
        divergence.chunked,
        divergence.unrolled,
        partial(divergence.hutchinson, jax.random.key(0)),
    )
    for estimator in estimators:
        value, div = jax.jit(partial(estimator, jnp.tanh))(x)
        assert value.shape == shape
        assert (div.shape, float(div), div.dtype) == ((), 0.0, jnp.float32)
    assert divergence.diagonal(jnp.tanh, x)[1].shape == shape
