"""Several networks at once are the networks of their seeds."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import fmjax
from experiments.run import several


def test_every_network_is_the_one_of_its_own_seed(key):
    options = {"width": 8, "depth": 1, "num_times": 2}
    make = lambda seed: fmjax.models.functional(
        fmjax.models.MLP((3,), **options, rngs=nnx.Rngs(seed))
    )
    apply, params = several.networks(make, seed=7, count=3)
    x = jax.random.normal(key, (3,))
    found = jax.vmap(lambda p: apply(jax.tree.map(jnp.cos, p), x, 0.3, 0.5))(params)
    assert len(np.unique(found[:, 0])) == 3
    for i, seed in enumerate(np.random.SeedSequence(7).generate_state(3).tolist()):
        one = make(seed)[1]
        chex.assert_trees_all_equal(jax.tree.map(lambda leaf, i=i: leaf[i], params), one)


def test_the_mean_loss_is_the_mean_of_single_ones_with_their_own_parts(key, x64):
    rng = np.random.default_rng(0)
    batch = {
        "bank": jnp.asarray(rng.gamma(2.0, size=(7, 2))),
        "index": jnp.arange(12).reshape(4, 3),
    }
    params = jnp.asarray(rng.normal(size=(3, 2)))
    noise = lambda key, n: jax.random.normal(key, (n,))

    def one(params, key, batch):
        x = batch["bank"][batch["index"] % 7] @ params
        return jnp.sum(x * noise(key, len(x)))

    found, slope = jax.value_and_grad(several.mean_loss(one, own="index"))(params, key, batch)
    keys, each = jax.random.split(key, 3), []
    for i in range(3):
        own = batch | {"index": batch["index"][:, i]}
        each.append(jax.value_and_grad(one)(params[i], keys[i], own))
    np.testing.assert_allclose(found, np.mean([value for value, _ in each]), rtol=1e-12)
    # Each network has a third of its own gradient, and of no other.
    np.testing.assert_allclose(3 * slope, np.stack([g for _, g in each]), rtol=1e-12)
