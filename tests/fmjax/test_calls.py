"""Networks of other libraries and conventions: each is an exact field, whose posterior is known.

Every network here is a small real one, with layers of its library. Its weights are set so that it
computes the exact mean of the data given the state, a softmax over a bank of points: one dense
layer for the logits, one for the average. So whatever convention it is written in, the posterior
of its velocity must be the one that `fmjax.empirical` has in closed form.
"""

from functools import partial

import equinox as eqx
import flax.linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from fmjax import empirical, models, paths, posterior, predictions
from tests import slow

BANK = np.array([[1.0, -0.5, 0.3], [-0.7, 1.3, 0.0], [0.2, 0.1, -1.1], [2.0, 0.4, 0.6]])
NORMS = 0.5 * (BANK**2).sum(axis=1)
X, T = np.array([0.6, -0.2, 0.1]), 0.4
COSINE = paths.cosine()


def _logits(products, alpha, sigma):
    """The logits of the points from their products with the state."""
    return (alpha * products - alpha**2 * NORMS) / sigma**2


class OfNnx(nnx.Module):
    """E[x1 | x_t], layers of flax nnx."""

    def __init__(self, path):
        layer = partial(nnx.Linear, use_bias=False, param_dtype=jnp.float64, rngs=nnx.Rngs(0))
        self.path, self.logits, self.average = path, layer(3, 4), layer(4, 3)

    def __call__(self, x, t):
        """Returns the mean, [3], of a state and its time."""
        made = _logits(self.logits(x), self.path.alpha(t), self.path.sigma(t))
        return self.average(jax.nn.softmax(made))


class OfLinen(flax.linen.Module):
    """E[x1 | x_t], layers of flax linen."""

    along: paths.Path

    @flax.linen.compact
    def __call__(self, x, t):
        """Returns the mean, [3], of a state and its time."""
        layer = partial(flax.linen.Dense, use_bias=False, param_dtype=jnp.float64)
        made = _logits(layer(4)(x), self.along.alpha(t), self.along.sigma(t))
        return layer(3)(jax.nn.softmax(made))


class OfEquinox(eqx.Module):
    """E[x1 | x_t], layers of equinox, with dropout between them."""

    path: paths.Path
    logits: eqx.nn.Linear
    average: eqx.nn.Linear
    dropout: eqx.nn.Dropout

    def __init__(self, path):
        layer = partial(eqx.nn.Linear, use_bias=False, key=jax.random.key(0), dtype=jnp.float64)
        self.path, self.logits, self.average = path, layer(3, 4), layer(4, 3)
        self.dropout = eqx.nn.Dropout(0.5)

    def __call__(self, x, t):
        """Returns the mean, [3], of a state and its time."""
        made = _logits(self.logits(x), self.path.alpha(t), self.path.sigma(t))
        return self.average(self.dropout(jax.nn.softmax(made)))


def _of_nnx(path):
    apply, params = models.functional(OfNnx(path))
    assert params["logits"]["kernel"].shape == (3, 4)
    weights = {"logits": {"kernel": BANK.T}, "average": {"kernel": BANK}}
    return partial(apply, weights)


def _of_linen(path):
    network = OfLinen(path)
    network.init(jax.random.key(0), X, T)
    weights = {"Dense_0": {"kernel": BANK.T}, "Dense_1": {"kernel": BANK}}
    return partial(network.apply, {"params": weights})


def _of_equinox(path):
    where = lambda network: (network.logits.weight, network.average.weight)
    network = eqx.tree_at(where, OfEquinox(path), (jnp.array(BANK), jnp.array(BANK.T)))
    return eqx.nn.inference_mode(network)


LIBRARIES = {"nnx": _of_nnx, "linen": _of_linen, "equinox": _of_equinox}
KINDS = {
    kind.__name__: kind
    for kind in (
        predictions.x1, predictions.x0, predictions.score, predictions.v, predictions.velocity
    )
}  # fmt: skip


def _predicts(kind, path, denoiser):
    """The prediction of a kind by hand, from the mean of the data that a network gives."""

    def model(x, t):
        alpha, sigma = path.alpha(t), path.sigma(t)
        data = denoiser(x, t)
        noise = (x - alpha * data) / sigma
        slope = lambda function: (function(t + 1e-4) - function(t - 1e-4)) / 2e-4
        return {
            "x1": lambda: data,
            "x0": lambda: noise,
            "score": lambda: -noise / sigma,
            "v": lambda: alpha * noise - sigma * data,
            # Central differences of cos and sin, whose error is h^2 / 6 of the function: undone.
            "velocity": lambda: (slope(path.alpha) * data + slope(path.sigma) * noise) / _SHRINK,
        }[kind]()

    return model


_STEP = 1e-4 * np.pi / 2
_SHRINK = np.sin(_STEP) / _STEP


def _check(velocity, path, t=T, rtol=1e-10):
    """Compares the posterior of a velocity with the closed form of the bank."""
    mean, covariance = jax.jit(lambda x: (
        posterior.mean(velocity, path, x, t), posterior.covariance(velocity, path, x, t)
    ))(X)  # fmt: skip
    np.testing.assert_allclose(mean, empirical.mean(path, BANK, X, t), rtol=rtol, atol=rtol)
    truth = empirical.covariance(path, BANK, X, t)
    np.testing.assert_allclose(covariance, truth, rtol=rtol, atol=rtol)


@slow.but_the_first("kind", KINDS)
@pytest.mark.parametrize("library", LIBRARIES)
def test_a_network_of_every_library_and_kind(library, kind, x64):
    model = _predicts(kind, COSINE, LIBRARIES[library](COSINE))
    velocity = predictions.as_velocity(model, COSINE, given=KINDS[kind])
    _check(velocity, COSINE, rtol=1e-9 if kind == "velocity" else 1e-10)


def _batches(model):
    """The model as its authors call it: batches, the time with them."""
    return jax.vmap(model)


CALLS = {
    "batches": lambda model: predictions.unbatched(_batches(model)),
    "time first": lambda model: predictions.time_first(lambda t, x: model(x, t)),
    "batches with the time first": lambda model: predictions.unbatched(
        predictions.time_first(lambda t, x: _batches(model)(x, t))
    ),
    "one time for a batch": lambda model: predictions.unbatched(
        lambda x, t: jax.vmap(model, (0, None))(x, t[0])
    ),
}


@pytest.mark.parametrize("called", CALLS)
@pytest.mark.parametrize("library", LIBRARIES)
def test_a_network_that_is_called_in_another_way(library, called, x64):
    network = LIBRARIES[library](COSINE)
    velocity = predictions.as_velocity(CALLS[called](network), COSINE, given=predictions.x1)
    _check(velocity, COSINE)


@slow.but_the_first("kind", ["x0", "x1", "score", "v"])
def test_a_network_of_batches_whose_time_comes_first_and_runs_from_the_data(kind, x64):
    # The noise prediction of a linen network, called as model(s, x) of batches, s = 0 at the data.
    inner = _predicts(kind, COSINE, _of_linen(COSINE))
    theirs = jax.vmap(lambda s, x: inner(x, 1 - s))
    model = predictions.unbatched(predictions.time_first(theirs))
    _check(predictions.reverse_time(model, COSINE, given=KINDS[kind]), COSINE)


def test_a_network_of_batches_that_takes_integer_timesteps(x64):
    betas = np.linspace(1e-4, 0.02, 1000)
    path = paths.from_betas(betas)
    abar = jnp.asarray(np.cumprod(1 - betas))
    # The levels as the model has them, by its own table and not by the path of the library.
    levels = lambda i: paths.Path(lambda _: jnp.sqrt(abar[i]), lambda _: jnp.sqrt(1 - abar[i]))

    def theirs(x, i):  # x [n, 3], i [n] integers
        assert i.dtype == jnp.int64
        noise = lambda x, i: _predicts("x0", levels(i), _of_equinox(levels(i)))(x, 0.5)
        return jax.vmap(noise)(x, i)

    rounded = lambda x, i: theirs(x, jnp.round(i).astype(jnp.int64))
    model = predictions.unbatched(rounded)
    field = predictions.from_timesteps(model, path, 1000, given=predictions.x0)
    check = jax.jit(lambda t: posterior.covariance(field, path, X, t))
    for i in (150, 500, 930):
        t = 1 - (i + 1) / 1000
        truth = empirical.covariance(path, BANK, X, t)
        np.testing.assert_allclose(check(t), truth, rtol=1e-9, atol=1e-10)


def test_a_batch_of_single_calls_is_the_network_called_once(key):
    network = jax.vmap(lambda x, t: jnp.tanh(x) * t)
    x, t = jax.random.normal(key, (5, 3)), jnp.linspace(0.1, 0.9, 5)
    single = jax.vmap(predictions.unbatched(network))(x, t)
    np.testing.assert_allclose(single, network(x, t), rtol=1e-6)


def test_what_a_model_of_batches_does_wrong_is_named():
    with pytest.raises(ValueError, match=r"return \(1, 3\) for a batch of one, got \(3,\)"):
        predictions.unbatched(lambda x, t: x[0])(jnp.ones(3), 0.5)
    for value, words in (
        ((BANK, BANK), "one array shaped like x .1, 3., got a tuple of 2"),
        (jnp.ones((1, 3), int), "real floating numbers, got int32"),
    ):
        with pytest.raises(ValueError, match=f"^model must return {words}"):
            predictions.unbatched(lambda x, t, value=value: value)(jnp.ones(3), 0.5)
    with pytest.raises(ValueError, match="t must be a scalar"):
        predictions.unbatched(lambda x, t: x)(jnp.ones((2, 3)), jnp.ones(2))
    with pytest.raises(ValueError, match=r"^model must be a function \(t, x\)"):
        predictions.time_first("model")
