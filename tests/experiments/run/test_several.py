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
