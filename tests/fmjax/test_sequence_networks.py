"""What the networks of sequences have in common, `Conv1D` and `DiT`: batches and derivatives."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fmjax import models
from tests.fmjax.test_models import example, parts

KINDS = {
    "conv1d": partial(models.Conv1D, channels=(4, 8), num_groups=2),
    "dit": partial(models.DiT, width=8, depth=2, num_heads=2, expansion=2),
}


@pytest.mark.slow
@pytest.mark.parametrize("make", KINDS.values(), ids=KINDS)
def test_batch_equals_a_loop_with_two_times_and_dropout(make, key):
    apply, params = parts(partial(make, (7, 2), num_times=2, dropout=0.3))
    x = jnp.stack([example((7, 2), seed) for seed in range(4)])
    r, t, keys = jnp.linspace(0.5, 1.0, 4), jnp.linspace(0.1, 0.4, 4), jax.random.split(key, 4)
    one = jax.jit(lambda x, r, t, key: apply(params, x, r, t, key=key))
    together = jax.jit(jax.vmap(one))(x, r, t, keys)
    alone = jnp.stack([one(*arguments) for arguments in zip(x, r, t, keys, strict=True)])
    np.testing.assert_allclose(together, alone, rtol=1e-5, atol=1e-5)
    assert abs(one(x[0], t[0], r[0], keys[0]) - alone[0]).max() > 1e-4
    assert abs(one(x[0], r[0], t[0], keys[1]) - alone[0]).max() > 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("make", KINDS.values(), ids=KINDS)
def test_derivatives_agree_with_one_another_and_with_differences(make, x64):
    shape = (5, 2)
    apply, params = parts(partial(make, shape, context=1, param_dtype=jnp.float64))
    x, direction = (example(shape, seed).astype(jnp.float64) for seed in (0, 3))
    context = example((5, 1), 4)

    @jax.jit
    def derivatives(params, x, t):
        field = lambda x, t: apply(params, x, t, context=context)
        value, tangent = jax.jvp(field, (x, t), (direction, 1.0))
        return value, tangent, jax.jacfwd(field, argnums=(0, 1))(x, t)

    t, step = 0.3, 1e-6
    value, tangent, (by_x, by_t) = derivatives(params, x, t)
    assert value.dtype == jnp.float64
    expected = jnp.tensordot(by_x, direction, axes=2) + by_t
    np.testing.assert_allclose(tangent, expected, atol=1e-12)
    above, below = (derivatives(params, x + s * direction, t + s)[0] for s in (step, -step))
    np.testing.assert_allclose(tangent, (above - below) / (2 * step), rtol=1e-6, atol=1e-8)
    assert abs(tangent).max() > 1e-3
