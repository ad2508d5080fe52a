"""Losses by their value, by their gradient, and by what minimizes them."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fmjax import losses, onestep, paths, samplers, times
from tests import slow
from tests.oracles import flows
from tests.oracles import mixture as oracles

PATH = paths.linear()
MEANFLOWS = {
    "meanflow": losses.meanflow,
    "improved": lambda u, *rest, **options: losses.improved_meanflow(
        u, onestep.instantaneous(u), *rest, **options
    ),
}


@pytest.mark.parametrize("path", [paths.linear(0.1), paths.cosine(), paths.ve(0.1, 3.0)])
def test_cfm_by_hand(path):
    x0, x1, t = jnp.array([1.0, -2.0]), jnp.array([3.0, 5.0]), 0.3
    c = paths.coefficients(path, t)
    x = c.alpha * x1 + c.sigma * x0
    expected = np.mean((2.0 * x + t - (c.alpha_dot * x1 + c.sigma_dot * x0)) ** 2)
    ours = losses.cfm(lambda x, t: 2.0 * x + t, path, x0, x1, t)
    assert float(ours) == pytest.approx(float(expected), rel=1e-6)


@pytest.mark.slow
def test_cfm_is_minimal_at_the_exact_velocity():
    path, n = paths.linear(), 50_000
    x1 = oracles.sample(jax.random.key(0), n)
    x0 = jax.random.normal(jax.random.key(1), x1.shape)
    t = jax.random.uniform(jax.random.key(2), (n,))

    def values(shift):
        velocity = lambda x, t: oracles.law(paths.coefficients(path, t), x).velocity + shift
        return jax.vmap(partial(losses.cfm, velocity, path))(x0, x1, t)

    for shift in (jnp.array([0.2, 0.0, 0.0]), jnp.array([0.0, -0.3, 0.1])):
        # E[loss(u + c)] = E[loss(u)] + |c|^2 / d exactly at the minimiser.
        growth = values(shift) - values(jnp.zeros(3))
        error = float(growth.std()) / n**0.5
        assert abs(float(growth.mean()) - float(jnp.mean(shift**2))) < 5 * error


def test_a_field_of_another_shape_is_named():
    with pytest.raises(ValueError, match=r"x \(2,\), velocity \(2, 1\)"):
        losses.cfm(lambda x, t: x[:, None], paths.linear(), jnp.zeros(2), jnp.ones(2), 0.5)


def _net(theta, x, r, t):
    """A small network of two times, with a parameter theta and no symmetry."""
    return jnp.tanh(theta * x + r) * (1 + t) + jnp.roll(x, 1) * r


def _pairs(n):
    """Returns n pairs and times of Gaussian data, in float64; half of the times are equal."""
    x1 = flows.CENTER[None] + jax.random.normal(jax.random.key(0), (n, 3)) @ flows.FACTOR.T
    x0 = jax.random.normal(jax.random.key(1), (n, 3))
    r, t = times.intervals(jax.random.key(2), (n,), fraction_equal=0.5)
    return x0, x1, r, t


@slow.but_the_first("name", MEANFLOWS)
@slow.but_the_first("path", [paths.linear(0.1), paths.cosine(), paths.ve(0.1, 3.0)])
def test_at_equal_times_meanflow_is_cfm_of_its_slice(name, path, x64):
    x0, x1 = jnp.array([1.0, -2.0, 0.3]), jnp.array([3.0, 5.0, -1.0])
    for t in (0.0, 0.3, 1.0):
        ours = lambda theta, t=t: MEANFLOWS[name](partial(_net, theta), path, x0, x1, t, t)
        slice_ = lambda theta, t=t: losses.cfm(
            onestep.instantaneous(partial(_net, theta)), path, x0, x1, t
        )
        assert float(ours(0.7)) == float(slice_(0.7))
        gradients = jax.grad(ours)(0.7), jax.grad(slice_)(0.7)
        assert float(gradients[0]) == pytest.approx(float(gradients[1]), rel=1e-13)


@pytest.mark.parametrize("path", [paths.linear(0.1), paths.cosine()])
def test_meanflow_value_and_gradient_by_central_differences(path, x64):
    # du/dt by differences along the tangent, every frozen part by plain numbers.
    x0, x1, r, t = jnp.array([1.0, -2.0, 0.3]), jnp.array([0.4, 1.5, -1.0]), 0.8, 0.3
    c, theta, step = paths.coefficients(path, t), 0.7, 1e-5
    x, v = c.alpha * x1 + c.sigma * x0, c.alpha_dot * x1 + c.sigma_dot * x0

    def change(tangent):
        ahead = _net(theta, x + step * tangent, r, t + step)
        return (ahead - _net(theta, x - step * tangent, r, t - step)) / (2 * step)

    u = _net(theta, x, r, t)
    slope = (_net(theta + step, x, r, t) - _net(theta - step, x, r, t)) / (2 * step)
    errors = {
        "meanflow": u - (v - (t - r) * change(v)),
        "improved": u + (t - r) * change(_net(theta, x, t, t)) - v,
    }
    for name, error in errors.items():
        loss = lambda theta, name=name: MEANFLOWS[name](partial(_net, theta), path, x0, x1, r, t)
        value, gradient = jax.value_and_grad(loss)(theta)
        assert float(value) == pytest.approx(float(np.mean(np.square(error))), rel=1e-8)
        assert float(gradient) == pytest.approx(2 * float(np.mean(error * slope)), rel=1e-7)


@pytest.mark.slow
def test_the_identity_holds_on_exact_flows_in_both_directions(x64):
    def residual(average, velocity, x, r, t):
        v = velocity(x, t)
        u, du = jax.jvp(average, (x, r, t), (v, jnp.zeros_like(r), jnp.ones_like(t)))
        return jnp.max(jnp.abs(u - v + (t - r) * du))

    r, t = jnp.array([0.9, 1.0, 0.4, 0.1]), jnp.array([0.2, 0.05, 0.4, 0.7])
    x = oracles.sample(jax.random.key(3), 4)
    for average, velocity, bar in (
        (flows.gaussian, flows.gaussian_velocity, 1e-13),
        (flows.mixture, flows.mixture_velocity, 1e-9),  # 300 steps of a fourth-order scheme
    ):
        found = jax.jit(jax.vmap(partial(residual, average, velocity)))(x, r, t)
        assert float(found.max()) < bar


@pytest.mark.slow
def test_the_exact_average_velocity_has_no_mean_gradient(x64):
    # For shifts along a family of directions phi(x, r, t); and away from it the gradient shows.
    n = 40_000
    data = _pairs(n)

    def family(theta, x, r, t):
        shift = theta[0] + theta[1] * jnp.tanh(x) + theta[2] * (r - t) * jnp.roll(x, 1)
        return flows.gaussian(x, r, t) + shift

    for loss in MEANFLOWS.values():
        one = lambda theta, *example, loss=loss: loss(partial(family, theta), PATH, *example)
        for theta, minimal in ((jnp.zeros((3, 3)), True), (jnp.full((3, 3), 0.2), False)):
            gradients = jax.jit(jax.vmap(jax.grad(one), (None, 0, 0, 0, 0)))(theta, *data)
            z = np.abs(gradients.mean(axis=0)) / (gradients.std(axis=0) / n**0.5)
            assert z.max() < 5 if minimal else z.min() > 8, z


@pytest.mark.slow
def test_the_two_errors_differ_by_the_jacobian_of_the_flow(x64):
    # Eq. (5). The data are wider than the noise in one direction and narrower in two, so that
    # the improved loss has the smaller variance in the one and the larger in the others.
    def error(loss, *example):
        shifted = lambda shift: loss(lambda *a: flows.gaussian(*a) + shift, PATH, *example)
        return 1.5 * jax.grad(shifted)(jnp.zeros(3))  # d = 3: the gradient is 2 / 3 of the error

    def both(x0, x1, r, t):
        x = paths.interpolate(PATH, x0, x1, t)
        jacobian = jax.jacfwd(lambda x: samplers.flow_map(flows.gaussian, x, r, t))(x)
        old, new = (error(loss, x0, x1, r, t) for loss in MEANFLOWS.values())
        marginal = flows.gaussian_velocity(x, t) - (x1 - x0)
        return old, new, jacobian @ new, marginal

    old, new, carried, marginal = jax.jit(jax.vmap(both))(*_pairs(4000))
    np.testing.assert_allclose(new, marginal, atol=1e-12)
    np.testing.assert_allclose(old, carried, atol=1e-12)
    _, vectors = np.linalg.eigh(flows.SIGMA)
    ratio = np.var(new @ vectors, axis=0) / np.var(old @ vectors, axis=0)
    assert ratio[0] > 1.2
    assert ratio[2] < 0.8


@pytest.mark.slow
def test_guidance_by_hand():
    with_class, without = lambda x, r, t: 2 * x + r + t, lambda x, r, t: -x + 3 * r - t
    v, x, t = jnp.array([1.0, -2.0]), jnp.array([0.3, 0.4]), 0.25
    u_c, u = 2 * x + 0.5, -x + 0.5
    maker = partial(losses.guidance, with_class, without)
    ours = maker(scale=2.0)(v, x, t)
    np.testing.assert_allclose(ours, u + 2.0 * (v - u), rtol=1e-6)
    ours = maker(scale=1.0, mix=0.5)(v, x, t)
    np.testing.assert_allclose(ours, v - 0.5 * u + 0.5 * u_c, rtol=1e-6)
    # Improved MeanFlow at omega = 4, in its own form.
    ours = maker(scale=1.0, mix=1 - 1 / 4)(v, x, t)
    np.testing.assert_allclose(ours, v + (1 - 1 / 4) * (u_c - u), rtol=1e-6)
    np.testing.assert_array_equal(maker(scale=1.0)(v, x, t), v)

    def total(a, b):
        guide = losses.guidance(lambda *_: a * x, lambda *_: b * x, scale=2.0, mix=0.3)
        return guide(v, x, t).sum()

    assert [float(g) for g in jax.grad(total, argnums=(0, 1))(0.7, 0.4)] == [0.0, 0.0]


def test_guidance_learns_the_conditional_field_scaled_by_omega_over_one_minus_kappa():
    # Where the slice has become the mean of the target, u_c = omega v + (1 - omega - kappa) u +
    # kappa u_c: the field guided by omega / (1 - kappa).
    omega, kappa, v, u, x = 1.5, 0.25, jnp.array([1.0]), jnp.array([-0.5]), jnp.zeros(1)
    guided = u + omega / (1 - kappa) * (v - u)
    guide = losses.guidance(lambda *_: guided, lambda *_: u, scale=omega, mix=kappa)
    np.testing.assert_allclose(guide(v, x, 0.5), guided, rtol=1e-6)


def test_guidance_keeps_to_its_interval_and_to_each_example():
    field = lambda x, r, t: x + r
    v, x = jnp.ones((5, 2)), jnp.zeros((5, 2))
    t, scale = jnp.array([0.1, 0.2, 0.5, 0.6, 0.7]), jnp.array([2.0, 2.0, 1.0, 3.0, 2.0])

    @jax.jit
    @jax.vmap
    def guided(v, x, t, scale):
        return losses.guidance(field, field, scale=scale, low=0.2, high=0.6)(v, x, t)

    expected = [1.0, 2 - 0.2, 1.0, 3 - 2 * 0.6, 1.0]
    np.testing.assert_allclose(guided(v, x, t, scale)[:, 0], expected, rtol=1e-6)


@pytest.mark.parametrize("name", MEANFLOWS)
def test_no_gradient_enters_a_guide_and_its_velocity_is_the_target(name, x64):
    x0, x1, r, t = jnp.array([1.0, -2.0]), jnp.array([0.4, 1.5]), 0.8, 0.3
    own = partial(_net, 0.7)

    def loss(theta, inner):
        net = partial(_net, inner)
        guide = losses.guidance(net, lambda *a: 0.5 * net(*a), scale=1.5, mix=0.2)
        return MEANFLOWS[name](partial(_net, theta), PATH, x0, x1, r, t, guide=guide)

    by_theta, by_guide = jax.jit(jax.grad(loss, argnums=(0, 1)))(0.7, 0.7)
    assert float(by_guide) == 0.0
    assert float(by_theta) != 0.0
    x = paths.interpolate(PATH, x0, x1, t)
    guided = 1.5 * (x1 - x0) + (-0.7 * 0.5 + 0.2) * own(x, t, t)
    tangent = guided if name == "meanflow" else own(x, t, t)
    du = jax.jacfwd(own)(x, r, t) @ tangent + jax.jacfwd(own, argnums=2)(x, r, t)
    expected = np.mean(np.square(own(x, r, t) + (t - r) * du - guided))
    assert float(loss(0.7, 0.7)) == pytest.approx(float(expected), rel=1e-12)
    # A guide of the user's, too, is a target.
    user = lambda theta: MEANFLOWS[name](own, PATH, x0, x1, r, t, guide=lambda v, x, t: theta * v)
    assert float(jax.grad(user)(0.7)) == 0.0


@pytest.mark.slow
def test_a_second_head_is_the_tangent_and_gets_no_gradient(x64):
    x0, x1, r, t = jnp.array([1.0, -2.0]), jnp.array([0.4, 1.5]), 0.8, 0.3
    own = partial(_net, 0.7)
    loss = lambda theta: losses.improved_meanflow(own, lambda x, t: theta * x, PATH, x0, x1, r, t)
    x = paths.interpolate(PATH, x0, x1, t)
    du = jax.jacfwd(own)(x, r, t) @ (1.3 * x) + jax.jacfwd(own, argnums=2)(x, r, t)
    expected = np.mean(np.square(own(x, r, t) + (t - r) * du - (x1 - x0)))
    value, gradient = jax.value_and_grad(loss)(1.3)
    assert float(value) == pytest.approx(float(expected), rel=1e-12)
    assert float(gradient) == 0.0


@pytest.mark.slow
def test_adaptive_by_its_formula(x64):
    plain = lambda theta: 3.0 + theta**2
    for power, eps in ((0.0, 1e-3), (0.5, 1e-2), (0.75, 1e-3), (1.0, 0.5)):
        options = {"power": power, "eps": eps}
        loss = lambda theta, options=options: losses.adaptive(plain(theta), **options)
        value, gradient = jax.value_and_grad(loss)(1.5)
        weight = (5.25 + eps) ** -power
        assert float(value) == pytest.approx(5.25 * weight, rel=1e-14)
        assert float(gradient) == pytest.approx(3.0 * weight, rel=1e-14)
    logarithm = jax.grad(lambda theta: jnp.log(plain(theta) + 1e-3))(1.5)
    assert float(jax.grad(lambda theta: losses.adaptive(plain(theta)))(1.5)) == pytest.approx(
        float(logarithm), rel=1e-14
    )


@pytest.mark.slow
def test_adaptive_on_a_mean_is_that_on_a_sum_with_eps_over_d(x64):
    d, c, power = 12, 1e-2, 0.75
    error = lambda theta: jnp.square(theta * jnp.arange(1.0, d + 1) - 2.0)
    by_sum = jax.grad(lambda s: losses.adaptive(error(s).sum(), power=power, eps=c))(0.3)
    by_mean = jax.grad(lambda s: losses.adaptive(error(s).mean(), power=power, eps=c / d))(0.3)
    assert float(by_sum) == pytest.approx(d ** (1 - power) * float(by_mean), rel=1e-13)


@pytest.mark.slow
def test_float32_keeps_five_digits_of_the_meanflow_losses(x64):
    narrow = [a.astype(jnp.float32) for a in _pairs(64)]
    for loss in MEANFLOWS.values():
        batched = jax.jit(jax.vmap(partial(loss, partial(_net, 0.7), PATH)))
        with jax.default_matmul_precision("highest"):
            ours = batched(*narrow)
        assert ours.dtype == jnp.float32
        truth = batched(*(a.astype(jnp.float64) for a in narrow))
        np.testing.assert_allclose(ours, truth, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", MEANFLOWS)
def test_wrong_input_of_meanflow_is_named(name):
    net, x0, x1 = partial(_net, 0.7), jnp.zeros(2), jnp.ones(2)
    loss = partial(MEANFLOWS[name], net, PATH, x0, x1)
    for r, t in ((0.2, 0.7), (np.float32(0.2), 0.7), (0, np.array(1))):
        with pytest.raises(ValueError, match=r"meanflow needs r >= t, got r = .*times.intervals"):
            loss(r, t)
    # The value of an array is not read, and the identity holds there too.
    assert bool(jnp.isfinite(loss(jnp.array(0.2), 0.7)))
    with pytest.raises(ValueError, match=r"r must be a scalar, got shape \(5,\).*jax\.vmap"):
        loss(jnp.ones(5), 0.5)
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\], got 1.5"):
        loss(1.5, 0.5)
    with pytest.raises(ValueError, match=r"x \(2,\), guided \(1,\)"):
        loss(0.7, 0.2, guide=lambda v, x, t: v[:1])
    with pytest.raises(ValueError, match=r"x0 \(2,\), x1 \(3,\)"):
        MEANFLOWS[name](net, PATH, x0, jnp.ones(3), 0.7, 0.2)


def test_a_state_without_entries_is_refused():
    none = jnp.zeros((2, 0))
    for loss in (losses.cfm, partial(losses.fdm, weight=0.0), partial(losses.fdm, weight=1.0)):
        with pytest.raises(ValueError, match=r"x must have entries, got shape \(2, 0\)"):
            loss(lambda x, t: x, PATH, none, none, 0.5)


def test_networks_of_another_shape_are_named():
    short, whole = lambda x, *times: x[:1], lambda x, *times: x
    pair = (PATH, jnp.zeros(2), jnp.ones(2), 0.7, 0.2)
    with pytest.raises(ValueError, match=r"x \(2,\), average_velocity \(1,\)"):
        losses.meanflow(short, *pair)
    with pytest.raises(ValueError, match=r"x \(2,\), average_velocity \(1,\)"):
        losses.improved_meanflow(short, whole, *pair)
    with pytest.raises(ValueError, match=r"x \(2,\), velocity \(1,\)"):
        losses.improved_meanflow(whole, short, *pair)
    with pytest.raises(ValueError, match=r"x \(2,\), conditional \(1,\)"):
        losses.guidance(short, whole, scale=2.0, mix=0.5)(jnp.zeros(2), jnp.zeros(2), 0.5)
    with pytest.raises(ValueError, match=r"x \(2,\), unconditional \(1,\)"):
        losses.guidance(whole, short, scale=2.0)(jnp.zeros(2), jnp.zeros(2), 0.5)


def test_guidance_without_mix_asks_only_the_network_without_class():
    asked = []
    network = lambda name: lambda x, r, t: (asked.append(name), x)[1]
    guide = losses.guidance(network("with"), network("without"), scale=2.0)
    np.testing.assert_allclose(guide(jnp.ones(2), jnp.full(2, 3.0), 0.5), [-1.0, -1.0])
    assert asked == ["without"]
