"""The losses of flow and divergence matching: values, exact expected gradients.

Expectations over pairs are sums over a grid of noise times all points of a small bank in the
plane, exact to rounding, so no random number is drawn for them.
"""

from functools import partial
from itertools import combinations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fmjax import _checks, divergence, empirical, losses, paths
from tests import slow

PATH = paths.linear()
BANK = np.array([[0.4, -1.1], [1.6, 0.2], [-0.9, 0.8], [2.1, 1.3], [-0.2, -0.3]])
TIME = 0.45
SIZE = len(BANK)
KEY = jax.random.key(0)
MATCHINGS = {
    "trace": losses.match_trace,
    "product": partial(losses.match_product, KEY),
    "jacobian": partial(losses.match_jacobian, KEY, num_probes=2),
}


def _net(theta, x, t):
    """A small field with parameters [3] and no symmetry."""
    wave = jnp.stack([jnp.sin(x[1] + t) * x[0], jnp.cos(2 * x[0]) - x[1] ** 2 * t])
    return theta[0] * jnp.tanh(x) + theta[1] * wave + theta[2] * jnp.roll(x, 1) * x**2


def _around(theta, x, t):
    """The exact field of the bank, disturbed by a small network."""
    return empirical.velocity(PATH, jnp.asarray(BANK), x, t) + _net(theta, x, t)


def _grid(extent=7.5, points=61):
    """Returns noise `[points^2, 2]` and its masses; beyond 7.5 there is 1e-13 of N(0, I)."""
    line = np.linspace(-extent, extent, points)
    mass = np.exp(-0.5 * line**2)
    mass /= mass.sum()
    nodes = np.stack(np.meshgrid(line, line, indexing="ij"), axis=-1).reshape(-1, 2)
    return nodes, np.outer(mass, mass).ravel()


@partial(jax.jit, static_argnums=0)
def _moments(size, thetas):
    """Returns mean and mean square of the gradient of three losses over all minibatches.

    `[3, size of thetas, 3 parameters]` each: flow matching, the trace and the Jacobian penalty.
    Every minibatch of the size, every x1 in it and every noise of the grid is an example; with
    size 1 the minibatch is x1 alone.
    """
    subsets = [subset for subset in combinations(range(SIZE), size)]
    banks = jnp.asarray([BANK[list(subset)] for subset in subsets for _ in subset])
    x1 = jnp.asarray([BANK[i] for subset in subsets for i in subset])
    noise, mass = (jnp.asarray(part) for part in _grid())
    signs = jnp.array([[1.0, 1.0], [1.0, -1.0]])  # all Rademacher probes up to their sign

    def three(theta, bank, x1, x0):
        target = losses.of_bank(PATH, bank, x0, x1, TIME)
        field = lambda x: _around(theta, x, TIME)
        value, trace = losses.match_trace(field, target, divergence=divergence.unrolled)
        drawn = iter(signs)
        jacobian = losses.match_jacobian(
            KEY, field, target, num_probes=2, probe=lambda *_: next(drawn)
        )[1]
        return jnp.stack([jnp.mean((value - target.velocity) ** 2), trace, jacobian])

    def example(bank, x1):
        one = jax.vmap(jax.jacfwd(three), (None, None, None, 0))
        gradients = jax.vmap(lambda theta: one(theta, bank, x1, noise))(thetas)
        return tuple(jnp.tensordot(g, mass, ((1,), (0,))) for g in (gradients, gradients**2))

    means, squares = jax.lax.map(lambda pair: example(*pair), (banks, x1))
    return means.mean(axis=0).swapaxes(0, 1), squares.mean(axis=0).swapaxes(0, 1)


@pytest.mark.slow
def test_expected_gradients_do_not_depend_on_the_minibatch(x64):
    thetas = jnp.array([[0.0, 0.0, 0.0], [0.4, -0.7, 0.3]])
    found = {size: _moments(size, thetas) for size in (1, 2, SIZE)}
    exact, smallest = found[SIZE]
    # At the field of the bank every gradient vanishes, with the whole bank example by example.
    assert float(jnp.max(smallest[:, 0])) < 1e-22
    assert float(jnp.min(jnp.abs(exact[:, 1]))) > 1e-3
    for size in (1, 2):
        np.testing.assert_allclose(found[size][0], exact, atol=1e-9, err_msg=f"size {size}")
    # And the larger the minibatch, the less noise: conditional > minibatch > marginal.
    pairs, two, whole = (found[size][1] - found[size][0] ** 2 for size in (1, 2, SIZE))
    assert bool(jnp.all(pairs > 1.05 * two))
    assert bool(jnp.all(two > 1.05 * whole))


def _example(dtype=float):
    x0, x1 = jnp.asarray([0.7, -1.2], dtype), jnp.asarray(BANK[1], dtype)
    return x0, x1, jnp.asarray([0.4, -0.7, 0.3], dtype)


@pytest.mark.slow
@pytest.mark.parametrize("match", MATCHINGS.values(), ids=MATCHINGS)
def test_a_bank_of_one_point_is_the_pair(match, x64):
    x0, x1, theta = _example()

    @jax.jit
    def both(theta):
        field, options = partial(_net, theta), {"weight": 0.3, "matching": match}
        return jnp.stack(
            [
                losses.fdm(field, PATH, x0, x1, TIME, **options),
                losses.dm(field, PATH, x1[None], x0, x1, TIME, **options),
            ]
        )

    for found in (both(theta), jax.jit(jax.jacfwd(both))(theta)):
        np.testing.assert_allclose(found[1], found[0], rtol=1e-13)
    plain = losses.cfm(partial(_net, theta), PATH, x0, x1, TIME)
    assert float(both(theta)[0]) != pytest.approx(float(plain), rel=1e-3)


@pytest.mark.parametrize("path", [PATH, paths.cosine(), paths.vp()], ids=["linear", "cosine", "vp"])
def test_without_weight_it_is_flow_matching_bit_for_bit(path):
    x0, x1, theta = _example(jnp.float32)

    def slope(loss):
        one = lambda theta: loss(partial(_net, theta), path, x0, x1, jnp.float32(0.3))
        return jax.jit(jax.value_and_grad(one))(theta)

    def refuse(field, target):
        raise AssertionError

    ours = slope(partial(losses.fdm, weight=0, matching=refuse))
    for found, expected in zip(ours, slope(losses.cfm), strict=True):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.slow
@pytest.mark.parametrize("name", MATCHINGS)
def test_a_vmapped_jitted_gradient_equals_a_loop(name, x64):
    noise = jax.random.normal(jax.random.key(1), (4, 2))
    data, times = jnp.asarray(BANK[:4]), jnp.array([0.1, 0.4, 0.6, 0.9])
    keys = jax.random.split(KEY, 4)
    bind = {
        "trace": lambda key: partial(
            losses.match_trace, divergence=partial(divergence.hutchinson, key)
        ),
        "product": lambda key: partial(losses.match_product, key),
        "jacobian": lambda key: partial(losses.match_jacobian, key),
    }[name]

    def slope(weight, key, *example):
        one = lambda theta: losses.fdm(
            partial(_net, theta), PATH, *example, weight=weight, matching=bind(key)
        )
        return jax.grad(one)(jnp.array([0.4, -0.7, 0.3]))

    examples = (keys, noise, data, times)
    together = jax.jit(jax.vmap(slope, (None, 0, 0, 0, 0)))(0.5, *examples)
    single = jax.jit(slope)
    loop = [single(0.5, *(array[i] for array in examples)) for i in range(4)]
    np.testing.assert_allclose(together, jnp.stack(loop), rtol=1e-11, atol=1e-13)
    # A traced weight is linear.
    twice = single(1.0, *(array[0] for array in examples))
    once, none = loop[0], single(0.0, *(array[0] for array in examples))
    np.testing.assert_allclose(twice - none, 2 * (once - none), rtol=1e-10, atol=1e-12)


@pytest.mark.slow
def test_the_absolute_loss_bounds_the_marginal_one(x64):
    theta = jnp.array([0.4, -0.7, 0.3])
    noise, mass = (jnp.asarray(part) for part in _grid())
    field, bank = partial(_around, theta), jnp.asarray(BANK)

    @jax.jit
    @partial(jax.vmap, in_axes=(None, 0))
    @partial(jax.vmap, in_axes=(0, None))
    def three(x0, x1):
        target = losses.of_bank(PATH, bank, x0, x1, TIME)
        value, div = divergence.exact(lambda x: field(x, TIME), target.x)
        marginal = losses.scaled_residual(value, div, target) / target.sigma
        conditional = losses.cdm_absolute(field, PATH, x0, x1, TIME)
        return jnp.abs(marginal), conditional, losses.cdm(field, PATH, x0, x1, TIME)

    marginal, conditional, squared = three(noise, bank)
    # |r| from (sigma r)^2 / d.
    np.testing.assert_allclose(conditional, (2 * squared) ** 0.5 / (1 - TIME), rtol=1e-9)
    mean = lambda values: float(jnp.mean(values @ mass))
    assert 0.1 < mean(marginal) < 0.9 * mean(conditional)


@pytest.mark.parametrize("weight", [-0.1, float("nan"), np.float32(-1.0)])
def test_a_negative_weight_is_named(weight):
    x0, x1, theta = _example(jnp.float32)
    with pytest.raises(ValueError, match="weight must not be negative"):
        _traced(losses.fdm, partial(_net, theta), PATH, x0, x1, 0.5, weight=weight)
    with pytest.raises(ValueError, match="weight must not be negative"):
        _traced(losses.dm, partial(_net, theta), PATH, x1[None], x0, x1, 0.5, weight=weight)


def _traced(function, *arguments, **options):
    """Traces a call and computes nothing: static errors come up all the same."""
    return jax.eval_shape(lambda: function(*arguments, **options))


def _calls():
    x0, x1, theta = _example(jnp.float32)
    field = partial(_net, theta)
    return {
        "cdm": lambda t: losses.cdm(field, PATH, x0, x1, t),
        "fdm": lambda t: losses.fdm(field, PATH, x0, x1, t, weight=1.0),
        "cdm_absolute": lambda t: losses.cdm_absolute(field, PATH, x0, x1, t),
        "dm": lambda t: losses.dm(field, PATH, x1[None], x0, x1, t, weight=1.0),
    }


@pytest.mark.parametrize("name", ["cdm", "fdm", "cdm_absolute", "dm"])
def test_a_time_that_makes_no_sense_is_named(name):
    call = _calls()[name]
    with pytest.raises(ValueError, match="t must be a scalar"):
        _traced(call, jnp.array([0.1, 0.2]))
    with pytest.raises(ValueError, match="t must lie in"):
        _traced(call, 1.5)


@pytest.mark.parametrize("name", ["cdm_absolute", "dm"])
@pytest.mark.parametrize("t", [1, 1.0, np.float64(1.0)], ids=["int", "float", "numpy"])
def test_a_division_by_no_noise_is_named(name, t):
    for call in (_calls()[name], partial(_traced, _calls()[name])):
        with pytest.raises(ValueError, match=r"sigma must be positive, got 0.0 at t = 1.0"):
            call(t)
    assert _traced(_calls()[name], 0.999).shape == ()


@slow.but_the_first("dim", [64, 1, 1000])
def test_the_penalty_of_an_untrained_field_is_of_order_one_in_every_dimension(key, dim):
    def penalties(key):
        key_noise, key_data, key_probe = jax.random.split(key, 3)
        x1 = jax.random.exponential(key_data, (dim,)) - 1.0  # skewed, of unit variance
        target = losses.of_pair(PATH, jax.random.normal(key_noise, (dim,)), x1, 0.3)
        matchings = (
            losses.match_trace,
            partial(losses.match_product, key_probe),
            partial(losses.match_jacobian, key_probe),
        )
        return [match(jnp.zeros_like, target)[1] for match in matchings]

    values = jax.jit(jax.vmap(penalties))(jax.random.split(key, 20_000))
    # sigma r = |x0|^2 - d - x1 . x0 has variance 3 d; the matrix by the moments of the same pair.
    for found, mean in zip(values, (3.0, 3.0, 2.0 + 1.0 / dim), strict=True):
        assert abs(found.mean() - mean) < 5 * found.std() / len(found) ** 0.5


@pytest.mark.slow
def test_without_a_division_the_end_is_allowed():
    calls = _calls()
    values = jax.jit(lambda: [calls[name](1.0) for name in ("cdm", "fdm")])()
    assert all(np.isfinite(values))


def test_the_noise_is_checked_where_it_is_known():
    _checks.positive_sigma(paths.linear(0.1), 1.0)
    _checks.positive_sigma(PATH, jnp.array(1.0))  # the value of an array is not read
    jax.jit(partial(_checks.positive_sigma, PATH))(1.0)
    with pytest.raises(ValueError, match="sigma must be positive"):
        _checks.positive_sigma(paths.ve_to_zero(), 1.0)
    with pytest.raises(ValueError, match="t must lie in"):
        _checks.positive_sigma(PATH, -0.1)
