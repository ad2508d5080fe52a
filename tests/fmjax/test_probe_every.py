"""A divergence on a share of the batch: exact over its shifts, and paid for on the share only."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fmjax import losses, paths


def _batch(n):
    """Returns a loss with its weight first, and a batch of n examples, keys among them."""
    x0 = jax.random.normal(jax.random.key(1), (n, 2))
    x1 = jax.random.normal(jax.random.key(2), (n, 2)) + 1.0
    t = jnp.linspace(0.1, 0.8, n)

    def loss(weight, key, x0, x1, t):
        match = partial(losses.match_product, key)
        field = lambda x, t: jnp.sin(x + t) * jnp.roll(x, 1) - 0.3 * x**2
        return losses.fdm(field, paths.linear(), x0, x1, t, weight=weight, matching=match)

    return loss, (jax.random.split(jax.random.key(0), n), x0, x1, t)


@pytest.mark.slow
@pytest.mark.parametrize("every", [1, 2, 3, 6])
def test_a_share_of_the_batch_is_unbiased_over_its_shifts(every, x64):
    loss, arrays = _batch(6)

    @jax.jit
    def values(weight):
        full = jnp.mean(jax.vmap(partial(loss, weight))(*arrays))
        shifted = [
            losses.probe_every(every, loss, weight, *(jnp.roll(a, s, axis=0) for a in arrays))
            for s in range(every)
        ]
        return full, jnp.stack(shifted)

    full, shifted = values(0.5)
    assert float(shifted.mean()) == pytest.approx(float(full), rel=1e-13)
    assert every == 1 or float(jnp.std(shifted)) > 1e-2 * float(full)  # a share of the noise


@pytest.mark.slow
@pytest.mark.parametrize(("every", "n"), [(2, 5), (3, 5), (4, 5), (3, 7)])
def test_a_share_that_does_not_divide_the_batch(every, n, x64):
    loss, arrays = _batch(n)
    ours = jax.jit(lambda weight: losses.probe_every(every, loss, weight, *arrays))(0.5)
    one = jax.jit(loss)
    count = len(range(0, n, every))
    weights = [0.5 * n / count if i % every == 0 else 0.0 for i in range(n)]
    values = [one(w, *(array[i] for array in arrays)) for i, w in enumerate(weights)]
    assert float(ours) == pytest.approx(float(np.mean(values)), rel=1e-13)


@pytest.mark.slow
def test_the_others_of_the_batch_cost_no_derivative():
    seen = []

    def loss(weight, x):
        seen.append((weight, x.shape))
        return x * weight

    assert float(losses.probe_every(4, loss, 2.0, jnp.arange(1.0, 9.0))) == pytest.approx(6.0)
    assert {weight for weight, _ in seen} == {0.0, 8.0}  # the number, which skips the matching


@pytest.mark.parametrize("every", [0, -1, 4])
def test_a_share_must_have_an_example(every):
    with pytest.raises(ValueError, match=rf"lengths \[3\] and every = {every}"):
        losses.probe_every(every, lambda weight, x: x * weight, 1.0, jnp.zeros(3))


def test_arrays_of_a_batch_must_be_equally_long():
    with pytest.raises(ValueError, match=r"lengths \[2, 3\] and every = 1"):
        losses.probe_every(1, lambda w, x, y: w * x * y, 1.0, jnp.zeros(3), jnp.zeros(2))
