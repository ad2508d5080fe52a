"""fmjax.train.skip_nonfinite: a step whose loss or gradient is not finite changes nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fmjax import train

RNG = np.random.default_rng(0)
BATCHES = RNG.gamma(2.0, size=(6, 4)).astype(np.float32)
BATCHES[1, 2] = np.nan
BATCHES[3] += 100.0  # its loss is infinite, its gradient is not
BATCHES[4, 0] = np.inf
GOOD = (0, 2, 5)


def loss(params, key, batch):
    del key
    return ((params - batch) ** 2).mean() + jnp.where(batch.sum() > 100.0, jnp.inf, 0.0)


def by_hand(ema_decay):
    """Heavy-ball steps on the good batches, in NumPy; the decay counts the skipped steps too."""
    w, speed, ema = 2.0, 0.0, 2.0
    for k in GOOD:
        speed = 2.0 * np.mean(w - np.float64(BATCHES[k])) + 0.9 * speed
        w -= 0.1 * speed
        decay = min(ema_decay, (1 + k) / (10 + k))
        ema += (1.0 - decay) * (w - ema)
    return w, ema, speed


@pytest.mark.parametrize("several", [False, True], ids=["one by one", "in one call"])
def test_the_other_steps_are_those_of_a_training_without_the_bad_ones(key, several):
    optimizer = optax.sgd(0.1, momentum=0.9)
    step = train.skip_nonfinite(train.make_step(loss, optimizer, ema_decay=0.25))
    state = train.init(jnp.array(2.0), optimizer)
    if several:
        state, infos = jax.jit(train.repeat(step))(state, key, BATCHES)
        losses = infos.loss
    else:
        step, losses = jax.jit(step), []
        for batch in BATCHES:
            state, info = step(state, key, batch)
            losses.append(info.loss)
    assert int(state.step) == 6
    np.testing.assert_array_equal(np.isfinite(losses), np.isin(np.arange(6), GOOD))
    found = (state.params, state.ema_params, optax.tree.get(state.opt_state, "trace"))
    np.testing.assert_allclose(found, by_hand(0.25), rtol=1e-6)


def test_the_state_of_the_optimizer_stays_with_its_key(key):
    optimizer = optax.chain(optax.add_noise(0.1, 0.55, key=3), optax.adam(0.1))
    step = jax.jit(train.skip_nonfinite(train.make_step(loss, optimizer)))
    state, _ = step(train.init(jnp.array(2.0), optimizer), key, BATCHES[0])
    after, _ = step(state, key, BATCHES[1])
    bits = lambda x: jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x
    before, after = (jax.tree.map(bits, s._replace(step=s.step * 0)) for s in (state, after))
    jax.tree.map(np.testing.assert_array_equal, before, after)


def test_what_is_no_step_is_refused():
    with pytest.raises(ValueError, match=r"step must be a function .*make_step"):
        train.skip_nonfinite(train.init(jnp.array(2.0), optax.sgd(0.1)))
