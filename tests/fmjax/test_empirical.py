"""The exact law of a data set where the identities of tests/measured/ do not reach."""

from functools import partial

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fmjax import empirical, losses, paths, samplers
from tests import slow

PATH = paths.linear()
OPTIMIZED = True


@pytest.fixture(scope="module")
def bank():
    """Twenty skewed points in the shape [2, 2]."""
    return jax.random.gamma(jax.random.key(0), 0.5, (20, 2, 2)) - 0.3


@pytest.mark.slow
@slow.but_the_first("chunk_size", [1, 3, 7, 19, 20, 50])
def test_streams_of_every_chunk_size_equal_the_whole(bank, chunk_size, x64):
    bank = bank.astype(jnp.float64)
    x = 0.4 * bank[3] + 0.6
    for function in (
        empirical.mean, empirical.velocity, empirical.divergence, empirical.log_density
    ):  # fmt: skip
        whole = function(PATH, bank, x, 0.4)
        streamed = function(PATH, bank, x, 0.4, chunk_size=chunk_size)
        np.testing.assert_allclose(streamed, whole, rtol=1e-12, err_msg=function.__name__)


@pytest.mark.slow
# Banks are prepared: for the norms of a plain one XLA of jax 0.7 copies it, on the CPU.
def test_the_stream_keeps_only_a_chunk_in_memory():
    def temporary(chunk_size):
        f = partial(empirical.velocity, PATH, chunk_size=chunk_size)
        batched = jax.jit(jax.vmap(f, in_axes=(None, 0, None)))
        bank = empirical.prepare(jnp.zeros((4096, 64)))
        shapes = (bank, jnp.zeros((128, 64)), jnp.float32(0.5))
        return batched.lower(*shapes).compile().memory_analysis().temp_size_in_bytes

    assert temporary(64) < temporary(None) / 8


@pytest.mark.slow
def test_reverse_mode_keeps_only_a_chunk_in_memory_too():
    def temporary(chunk_size):
        density = partial(empirical.log_density, PATH, chunk_size=chunk_size)
        slopes = jax.jit(jax.vmap(jax.grad(density, argnums=1), in_axes=(None, 0, None)))
        bank = empirical.prepare(jnp.zeros((4096, 256)))
        shapes = (bank, jnp.zeros((8, 256)), jnp.float32(0.5))
        return slopes.lower(*shapes).compile().memory_analysis().temp_size_in_bytes

    assert temporary(128) < 4096 * 256 * 4 / 4


@pytest.mark.slow
def test_the_log_density_keeps_its_digits_near_the_data():
    # In the plane at t = 0.9999 the inner products of float32 err by 100 nats.
    points = 3.0 * jax.random.normal(jax.random.key(0), (500, 2))
    noise = jax.random.normal(jax.random.key(1), (40, 2))
    for t in (0.9, 0.999, 0.9999):
        x = np.float32(t) * points[:40] + np.float32(1 - t) * noise
        many = jax.jit(
            jax.vmap(partial(empirical.log_density, PATH, chunk_size=100), (None, 0, None))
        )
        with jax.enable_x64(True):
            wide = (np.asarray(a, np.float64) for a in (points, x, np.float32(t)))
            exact = np.asarray(many(*map(jnp.asarray, wide)))
        found = np.asarray(many(points, x, jnp.float32(t)), np.float64)
        np.testing.assert_allclose(found, exact, atol=0.05)


@pytest.mark.slow
def test_at_the_noise_end_the_velocity_points_to_the_mean(bank):
    x = jnp.ones((2, 2))
    np.testing.assert_allclose(
        empirical.velocity(PATH, bank, x, 0.0), bank.mean(axis=0) - x, rtol=1e-5, atol=1e-6
    )
    np.testing.assert_allclose(empirical.jacobian(PATH, bank, x, 0.0), -np.eye(4), atol=1e-6)


@pytest.mark.slow
def test_no_overflow_near_the_data(bank):
    # A common scaling of logits would overflow: the largest is about 1e10 here.
    x = bank[5] + 1e-6
    w = empirical.weights(PATH, bank, x, 0.999995)
    assert int(jnp.argmax(w)) == 5
    assert float(w.sum()) == pytest.approx(1.0)
    assert bool(jnp.isfinite(empirical.log_density(PATH, bank, x, 0.999995)))


@pytest.mark.slow
def test_jitted_softmax_is_one_at_its_maximum():
    # The guard against XLA's contraction of exp(s q - max(s q)), see `_bank.masses`.
    bank = 1e3 * jax.random.normal(jax.random.key(0), (50, 3))
    f = jax.jit(jax.vmap(partial(empirical.weights, PATH), in_axes=(None, 0, None)))
    w = f(bank, 0.9999 * bank, 0.9999)
    np.testing.assert_allclose(jnp.diag(w), 1.0, rtol=1e-6)


@pytest.mark.slow
def test_the_exact_flow_makes_points_of_the_data_set(bank):
    # Euler's last step lands on the posterior mean, a data point once the weights collapsed.
    noise = jax.random.normal(jax.random.key(1), (8, 2, 2))
    solve = partial(samplers.fixed, num_steps=100, solver=diffrax.Euler())
    field = partial(empirical.velocity, PATH, bank)
    made = jax.jit(jax.vmap(partial(solve, field)))(noise)
    gaps = jnp.linalg.norm((made[:, None] - bank[None]).reshape(8, 20, 4), axis=-1)
    assert float(gaps.min(axis=1).max()) < 1e-3


@pytest.mark.slow
def test_the_exact_velocity_minimizes_the_conditional_loss(bank):
    n = 50_000
    key_pick, key_noise, key_time = jax.random.split(jax.random.key(2), 3)
    x1 = bank[jax.random.randint(key_pick, (n,), 0, 20)]
    x0 = jax.random.normal(key_noise, x1.shape)
    t = jax.random.uniform(key_time, (n,), maxval=0.9)

    def loss(shift):
        field = lambda x, t: empirical.velocity(PATH, bank, x, t) + shift
        return jax.vmap(partial(losses.cfm, field, PATH))(x0, x1, t)

    exact = loss(0.0)
    for shift in (-0.1, 0.1):
        # Off by a constant c the loss grows by c^2 in the mean: five standard errors.
        growth = loss(shift) - exact
        error = growth.std() / n**0.5
        assert abs(float(growth.mean()) - 0.01) < 5 * float(error)


@pytest.mark.slow
def test_the_anchored_form_is_exact_with_duplicates(bank):
    doubled = jnp.concatenate([bank, bank[4:5]])
    x0 = jnp.full((2, 2), 0.3)
    x = paths.interpolate(PATH, x0, doubled[4], 0.6)
    ours = empirical.anchored_velocity(PATH, doubled, x0, doubled[4], 0.6)
    np.testing.assert_allclose(ours, empirical.velocity(PATH, doubled, x, 0.6), rtol=2e-5)


@pytest.mark.parametrize(
    ("bank_shape", "x_shape"), [((0, 2), (2,)), ((5, 3), (2,)), ((5, 2), (7, 2)), ((), ())]
)
def test_banks_that_do_not_fit_are_named(bank_shape, x_shape):
    for function in (empirical.weights, empirical.velocity, empirical.covariance):
        with pytest.raises(ValueError, match="the bank must have shape"):
            function(PATH, jnp.zeros(bank_shape), jnp.zeros(x_shape), 0.5)


def test_integer_banks_are_refused():
    bank = np.full((3, 2), 200, np.uint8)
    for call in (
        lambda: empirical.log_density(PATH, bank, jnp.zeros(2), 0.5),
        lambda: empirical.anchored_velocity(PATH, bank, jnp.zeros(2), jnp.zeros(2), 0.5),
    ):
        with pytest.raises(ValueError, match="floating dtype, got uint8"):
            call()


def test_wrong_chunks_are_named(bank):
    with pytest.raises(ValueError, match="chunk_size must be at least 1"):
        empirical.mean(PATH, bank, bank[0], 0.5, chunk_size=0)
