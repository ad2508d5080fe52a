"""A network with labels learns the digits; what it says of classes, together and under guidance."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import sklearn.datasets
from flax import nnx

from fmjax import couplings, losses, models, paths, posterior, samplers, times, train

PATH = paths.linear()
NUM_CLASSES = 10
SHARES = np.arange(1.0, 11.0) / 55.0  # no two classes weigh the same
CLASSES = jnp.arange(NUM_CLASSES)


def digits():
    """Images of 4x4 pixels, the means of four pixels of scikit-learn's, and their labels."""
    images, labels = sklearn.datasets.load_digits(return_X_y=True)
    coarse = images.reshape(-1, 4, 2, 4, 2).mean((2, 4)) / 8.0 - 1.0
    return coarse.astype(np.float32)[..., None], labels


@pytest.fixture(scope="module")
def field():
    """The trained velocity `(x, t, label) -> dx`, jitted."""
    images, labels = map(jnp.asarray, digits())
    network = models.MLP((4, 4, 1), num_classes=NUM_CLASSES, width=64, depth=2, rngs=nnx.Rngs(0))
    apply, params = models.functional(network)

    def loss(params, key, _):
        key_rows, key_noise, key_time, key_drop = jax.random.split(key, 4)
        rows = jax.random.choice(key_rows, len(images), (128,))
        noise = jax.random.normal(key_noise, (128, 4, 4, 1))
        kept = couplings.drop_context(key_drop, labels[rows], NUM_CLASSES, probability=0.15)

        def one(x0, x1, t, label):
            return losses.cfm(partial(apply, params, context=label), PATH, x0, x1, t)

        return jax.vmap(one)(noise, images[rows], times.uniform(key_time, (128,)), kept).mean()

    optimizer = optax.adam(optax.cosine_decay_schedule(5e-3, 400))
    step = train.make_step(loss, optimizer, ema_decay=0.98)
    run = jax.jit(
        lambda state: jax.lax.scan(
            lambda state, _: step(state, jax.random.key(1), None), state, length=400
        )[0]
    )
    trained = run(train.init(params, optimizer)).ema_params
    return jax.jit(lambda x, t, label: apply(trained, x, t, context=label))


@pytest.mark.slow
def test_it_learns_the_law_of_every_class_and_of_all_under_the_null_label(field):
    """At the noise the posterior mean is the mean of the class; later U is the squared error."""
    images, labels = digits()
    order = np.concatenate([np.flatnonzero(labels == c)[:150] for c in range(NUM_CLASSES)])
    x1, own = jnp.asarray(images[order]), jnp.asarray(labels[order])
    x0 = jax.random.normal(jax.random.key(2), x1.shape)

    @jax.jit
    @jax.vmap
    def measures(x0, x1, label):
        given = lambda x, t: field(x, t, label)
        start = posterior.mean(given, PATH, x0, 0.0)
        x = paths.interpolate(PATH, x0, x1, 0.5)
        error = jnp.sum((posterior.mean(given, PATH, x, 0.5) - x1) ** 2)
        return start, posterior.trace(given, PATH, x, 0.5), error

    starts, traces, errors = map(np.asarray, measures(x0, x1, own))
    nobody, trace_null, _ = map(np.asarray, measures(x0, x1, jnp.full_like(own, NUM_CLASSES)))
    truth = np.stack([images[labels == c].mean(0) for c in range(NUM_CLASSES)] + [images.mean(0)])
    found = np.stack([starts[own == c].mean(0) for c in range(NUM_CLASSES)] + [nobody.mean(0)])
    distances = ((found[:, None] - truth[None]) ** 2).sum((2, 3, 4))
    assert (distances.argmin(1) == np.arange(NUM_CLASSES + 1)).all()
    u, error = (
        np.array([a[own == c].mean() for c in range(NUM_CLASSES)]) for a in (traces, errors)
    )
    # After 400 steps: beyond chance (ten classes: 0.63 at 5 %), and right in size.
    assert np.corrcoef(u, error)[0, 1] > 0.63
    np.testing.assert_allclose(u.mean(), error.mean(), rtol=0.3)
    assert u.max() > 1.5 * u.min()  # the classes differ
    assert trace_null.mean() > traces.mean()  # the doubt about the class is in it


@pytest.mark.slow
def test_total_covariance_against_the_law_of_total_covariance_by_loops(field):
    images, _ = digits()
    t = 0.15
    noise = jax.random.normal(jax.random.key(3), (4, 4, 1))
    x = t * images[17] + (1 - t) * noise
    total = jax.jit(partial(posterior.total_covariance, field, PATH))
    parts = total(x, t, CLASSES, jnp.asarray(SHARES, jnp.float32))
    jacobian = jax.jit(jax.jacfwd(field))
    means, covariances = [], []
    for c in range(NUM_CLASSES):  # m = x + (1 - t) v and C = (1 - t)^2 / t (I + (1 - t) J)
        velocity = np.asarray(field(x, t, c), np.float64).ravel()
        slope = np.asarray(jacobian(x, t, c), np.float64).reshape(16, 16)
        means.append(np.asarray(x, np.float64).ravel() + (1 - t) * velocity)
        covariances.append((1 - t) ** 2 / t * (np.eye(16) + (1 - t) * slope))
    center = sum(p * m for p, m in zip(SHARES, means, strict=True))
    within, between = np.zeros((16, 16)), np.zeros((16, 16))
    for p, m, covariance in zip(SHARES, means, covariances, strict=True):
        for i in range(16):
            for j in range(16):
                within[i, j] += p * covariance[i, j]
                between[i, j] += p * (m[i] - center[i]) * (m[j] - center[j])
    symmetric = (within + within.T) / 2
    np.testing.assert_allclose(parts.mean.ravel(), center, rtol=1e-4, atol=1e-5)
    found = np.asarray(parts.within)
    np.testing.assert_allclose((found + found.T) / 2, symmetric, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(parts.between, between, rtol=1e-3, atol=1e-4)
    assert np.trace(between) > 0.05


@pytest.mark.slow
def test_guided_samples_lie_nearer_to_their_class(field):
    images, labels = digits()
    centers = jnp.stack([images[labels == c].mean(0) for c in range(NUM_CLASSES)])
    wanted = jnp.arange(100) % NUM_CLASSES
    noise = jax.random.normal(jax.random.key(4), (100, 4, 4, 1))

    @jax.jit
    @partial(jax.vmap, in_axes=(None, 0, 0))
    def recognized(scale, x, label):
        mixed = samplers.guided(
            lambda x, t: field(x, t, label), lambda x, t: field(x, t, NUM_CLASSES), scale=scale
        )
        sample = samplers.fixed(mixed, x, num_steps=10)
        return jnp.sum((centers - sample[None]) ** 2, (1, 2, 3)).argmin() == label

    share = [float(recognized(scale, noise, wanted).mean()) for scale in (0.0, 1.0, 3.0)]
    assert share[0] < 0.25  # without the class a tenth by chance
    assert share[1] > 0.7
    assert share[2] > share[1]
