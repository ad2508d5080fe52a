"""Targets and matchings: against derivatives of log-densities and explicit matrices.

Random probes are enumerated, never drawn: all signs for Rademacher, and for Gaussian probes the
three-point Gauss-Hermite rule, which is exact for the fourth moments in question.
"""

from functools import partial
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fmjax import divergence, empirical, losses, paths
from tests import slow
from tests.oracles import round as mixtures

PATHS = {
    "linear": paths.linear(),
    "linear with noise": paths.linear(0.1),
    "cosine": paths.cosine(),
    "vp": paths.vp(),
    "ve": paths.ve(0.1, 3.0),
    "ve to zero": paths.ve_to_zero(0.1, 3.0),
}
DIM = 3
BANK = np.array([[0.4, -1.1, 0.3], [1.6, 0.2, -0.7], [-0.9, 0.8, 1.2], [2.1, 1.3, 0.1]])
NOISE = np.array([0.7, -1.2, 0.4])
SIGNS = np.array(list(product([-1.0, 1.0], repeat=DIM)))
# The three-point rule: nodes 0 and +-sqrt(3), weights 2/3 and 1/6, on a grid.
NODES = np.array(list(product([-(3**0.5), 0.0, 3**0.5], repeat=DIM)))
MASSES = np.prod(np.where(NODES == 0, 2 / 3, 1 / 6), axis=1)
PROBES = {
    "Rademacher": (SIGNS, np.full(len(SIGNS), 1 / len(SIGNS))),
    "Gaussian": (NODES, MASSES),
}


def _field(x):
    """A velocity whose Jacobian is neither symmetric nor diagonal."""
    return jnp.sin(x) * jnp.roll(x, 1) + 0.3 * jnp.roll(x, -1) ** 2 - 0.5


def _pair(path, t, dtype=float):
    return losses.of_pair(path, jnp.asarray(NOISE, dtype), jnp.asarray(BANK[1], dtype), t)


def _bank(path, t, dtype=float):
    arrays = (jnp.asarray(array, dtype) for array in (BANK, NOISE, BANK[1]))
    return losses.of_bank(path, *arrays, t)


def _log_conditional(path, x, t):
    """Returns log N(x; alpha x1, sigma^2 I) up to a constant."""
    offset = x - path.alpha(t) * jnp.asarray(BANK[1])
    return -x.size * jnp.log(path.sigma(t)) - 0.5 * jnp.sum(offset**2) / path.sigma(t) ** 2


def _log_marginal(path, x, t):
    return empirical.log_density(path, jnp.asarray(BANK), x, t)


MAKERS = {"pair": (_pair, _log_conditional), "bank": (_bank, _log_marginal)}


def _against_the_density(path, t, maker):
    """Returns pairs of what a target says and what derivatives of the log-density say."""
    make, log_density = MAKERS[maker]
    target, sigma = make(path, t), path.sigma(t)
    score, rate = jax.grad(log_density, (1, 2))(path, target.x, t)
    value, jacobian = _field(target.x), jax.jacfwd(_field)(target.x)
    r = -(rate + jnp.trace(jacobian) + value @ score)
    found = losses.scaled_residual(value, jnp.trace(jacobian), target)
    return {
        "rate": (target.rate, -sigma * rate),
        "noise": (target.noise, -sigma * score),
        "residual": (found, sigma * r),
        "penalty": (jnp.sqrt(losses.match_trace(_field, target)[1]), sigma * jnp.abs(r) / DIM**0.5),
    }


def _against_empirical(path, t):
    """Returns pairs of what the target of a bank and what `fmjax.empirical` says."""
    target, law = _bank(path, t), (path, jnp.asarray(BANK))
    jacobian = empirical.jacobian(*law, target.x, t)
    velocity = empirical.velocity(*law, target.x, t)
    rate = path.sigma(t) * empirical.divergence(*law, target.x, t) - velocity @ target.noise
    field = lambda x: empirical.velocity(*law, x, t)
    _, penalty = losses.match_trace(field, target)
    matrix = losses.match_jacobian(jax.random.key(0), field, target, num_probes=2)[1]
    return {
        "velocity": (target.velocity, velocity),
        "rate": (target.rate, rate),
        "slope": (jax.vmap(target.slope)(jnp.eye(DIM)).T, path.sigma(t) * jacobian),
        "penalty at the velocity itself": (jnp.sqrt(penalty), 0.0 * penalty),
        "matrix at the velocity itself": (jnp.sqrt(matrix), 0.0 * matrix),
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", PATHS)
def test_targets_equal_the_derivatives_of_the_density(name, x64):
    path = PATHS[name]

    @jax.jit
    @jax.vmap
    def facts(t):
        pair = {"pair": _against_the_density(path, t, "pair")}
        if name not in ("linear with noise", "vp", "ve"):  # the bank compiles for seconds
            return pair
        bank = {"bank": _against_the_density(path, t, "bank")}
        return pair | bank | {"empirical": _against_empirical(path, t)}

    for source, pairs in facts(jnp.array([0.12, 0.55, 0.93])).items():
        size = 1.0 + float(jnp.max(jnp.abs(pairs["rate"][1])))
        for name, (found, expected) in pairs.items():
            np.testing.assert_allclose(
                found, expected, atol=2e-13 * size, err_msg=f"{source} {name}"
            )


@slow.but_the_first("path", PATHS.values(), ids=PATHS)
def test_targets_in_float32(path):
    def values(dtype, t):
        targets = (make(path, t, dtype)[:5] for make, _ in MAKERS.values())
        return [dict(zip(("x", "u", "n", "rate", "sigma"), t, strict=True)) for t in targets]

    t = jnp.array([0.125, 0.5, 0.9375, 0.999], jnp.float32)
    ours = jax.jit(jax.vmap(partial(values, jnp.float32)))(t)
    with jax.enable_x64(True):
        exact = jax.jit(jax.vmap(partial(values, float)))(jnp.asarray(np.asarray(t, float)))
    for found, expected in zip(ours, exact, strict=True):
        # Relative to the largest term of each: the rate is a sum of products of u and n.
        for name in found:
            size = 1.0 + np.abs(np.asarray(expected["u"])).max() * float(NOISE @ NOISE)
            assert found[name].dtype == jnp.float32
            np.testing.assert_allclose(found[name], expected[name], atol=4e-6 * size, err_msg=name)


@pytest.mark.slow
def test_the_conditional_velocity_has_no_residual_and_a_divergence(x64):
    t, x1 = 0.4, jnp.asarray(BANK[1])

    @jax.jit
    def penalties():
        rows = []
        for path in PATHS.values():
            target, c = _pair(path, t), paths.coefficients(path, t)
            velocity = lambda x, c=c: c.alpha_dot * x1 + c.sigma_dot / c.sigma * (x - c.alpha * x1)
            constant = lambda x, target=target: target.velocity + 0.0 * x
            both = (losses.match_trace(field, target)[1] for field in (velocity, constant))
            rows.append((*both, c.sigma_dot**2))
        return rows

    for zero, without, expected in penalties():
        assert float(zero) < 1e-24 * (1 + float(expected))
        # The mistake to guard against: x1 - x0 is constant for a pair, but not in x. A field with
        # the right value and no divergence misses sigma div u = d sigma_dot.
        np.testing.assert_allclose(without, DIM * expected, rtol=1e-10)
    assert float(penalties()[0][1]) == pytest.approx(DIM)  # on the linear path


@partial(jax.jit, static_argnums=0)
def _enumerated(maker, probes):
    """Returns every matching at every probe, and at every pair of probes for the product."""
    target, key = MAKERS[maker][0](PATHS["linear with noise"], 0.4), jax.random.key(0)

    def squared(z):
        one = partial(divergence.hutchinson, key, probe=lambda *_: z)
        return losses.match_trace(_field, target, divergence=one)[1]

    def matrix(z):
        return losses.match_jacobian(key, _field, target, probe=lambda *_: z)[1]

    def two(match, first, second, **options):
        drawn = iter((first, second))
        return match(key, _field, target, probe=lambda *_: next(drawn), **options)[1]

    pairs = lambda f: jax.vmap(jax.vmap(f, (None, 0)), (0, None))(probes, probes)
    return {
        "exact": losses.match_trace(_field, target)[1],
        "squared": jax.vmap(squared)(probes),
        "matrix": jax.vmap(matrix)(probes),
        "matrices": pairs(partial(two, losses.match_jacobian, num_probes=2)),
        "product": pairs(partial(two, losses.match_product)),
    }


@jax.jit
def _matrices():
    """Returns grad v at the state, and `sigma M` of the pair and of the bank, by jacfwd."""
    path, t = PATHS["linear with noise"], 0.4
    x, sigma = _pair(path, t).x, path.sigma(t)

    def matrix(points):  # a bank of one point: the conditional law
        law = (path, jnp.asarray(points))
        gap = lambda x: empirical.velocity(*law, x, t) - _field(x)
        score = jax.grad(empirical.log_density, 2)(*law, x, t)
        return sigma * (jax.jacfwd(gap)(x) + jnp.outer(gap(x), score))

    return sigma * jax.jacfwd(_field)(x), {"pair": matrix(BANK[1:2]), "bank": matrix(BANK)}


@slow.but_the_first("name", PROBES)
@slow.but_the_first("maker", MAKERS)
def test_the_moments_of_random_probes(maker, name, x64):
    probes, masses = PROBES[name]
    found = _enumerated(maker, jnp.asarray(probes))
    jacobian, matrices = jax.tree.map(np.asarray, _matrices())
    matrix, exact = matrices[maker], float(found["exact"])
    assert exact == pytest.approx(np.trace(matrix) ** 2 / DIM, rel=1e-11)
    # The square of one probe is too large by the variance of the probe.
    symmetric = 0.5 * (jacobian + jacobian.T)
    off = np.sum(symmetric**2) - (np.sum(np.diag(symmetric) ** 2) if name == "Rademacher" else 0)
    assert masses @ found["squared"] == pytest.approx(exact + 2 * off / DIM, rel=1e-12)
    assert off > 0.1
    # The product of two has no bias, and is no square.
    assert masses @ found["product"] @ masses == pytest.approx(exact, rel=1e-12)
    assert float(found["product"].min()) < 0
    # The matrix penalty is the Frobenius norm, and bounds the trace.
    norm = np.mean(matrix**2)
    assert masses @ found["matrix"] == pytest.approx(norm, rel=1e-11)
    assert DIM**2 * norm > exact
    means = 0.5 * (found["matrix"][:, None] + found["matrix"][None])
    np.testing.assert_allclose(found["matrices"], means, rtol=1e-12)


def _of_mixture(x, t):
    """Returns the target of `mixtures.LINE` on the linear path, without fmjax."""
    velocity = partial(mixtures.velocity, mixtures.LINE)
    score, sigma = mixtures.score(mixtures.LINE, x, t), 1.0 - t
    u, div = velocity(x, t), jax.grad(velocity)(x, t)
    return losses.Target(x, u, -sigma * score, sigma * (div + u * score), sigma, None)


def _without_stop(field, target):
    """The squared residual with a gradient through the value beside the score."""
    value, div = divergence.exact(field, target.x)
    return value, (target.rate + value * target.noise - target.sigma * div) ** 2


@jax.jit
def _gradients(theta, t):
    """Returns d/dtheta of E r^2 at v = u + theta sin x: marginal, conditional, without stop."""
    exact = partial(mixtures.velocity, mixtures.LINE)
    slope = lambda match, target: (
        jax.grad(lambda theta: match(lambda x: exact(x, t) + theta * jnp.sin(x), target)[1])(theta)
        / (1 - t) ** 2
    )
    x = jnp.linspace(-9.0, 9.0, 1501)
    density = jnp.exp(jax.vmap(partial(mixtures.log_density, mixtures.LINE), (0, None))(x, t))
    on_line = jax.vmap(lambda x: slope(losses.match_trace, _of_mixture(x, t)))(x)
    # Pairs on a grid: noise times data.
    x0, x1 = jnp.linspace(-8.0, 8.0, 81), jnp.linspace(-5.5, 5.5, 221)
    log_data = jax.vmap(partial(mixtures.log_density, mixtures.LINE), (0, None))(x1, 1.0)
    mass = jnp.exp(log_data[None] - 0.5 * x0[:, None] ** 2) / jnp.sqrt(2 * jnp.pi)
    area = (x0[1] - x0[0]) * (x1[1] - x1[0])

    def on_pairs(match):
        one = lambda x0, x1: slope(match, losses.of_pair(paths.linear(), x0, x1, t))
        table = jax.vmap(jax.vmap(one, (None, 0)), (0, None))(x0, x1)
        return jnp.sum(mass * table) * area

    marginal = jnp.sum(density * on_line) * (x[1] - x[0])
    return marginal, on_pairs(losses.match_trace), on_pairs(_without_stop)


@pytest.mark.slow
def test_the_gradient_over_pairs_is_the_marginal_one(x64):
    # The first two numbers by scipy.integrate.quad; the third, what the loss without the
    # stop-gradient says at v = u, by Monte Carlo, 3.46 +- 0.01.
    for t, number in ((0.5, 0.355579009), (0.8, 0.324577742)):
        marginal, conditional, _ = _gradients(0.3, t)
        assert float(marginal) == pytest.approx(number, abs=1e-8)
        assert float(conditional) == pytest.approx(number, abs=1e-8)
    marginal, conditional, biased = _gradients(0.0, 0.5)
    assert abs(float(marginal)) < 1e-12
    assert abs(float(conditional)) < 1e-9
    assert float(biased) == pytest.approx(3.46, abs=0.03)


def test_bad_input_is_named():
    target = _pair(paths.linear(), 0.5)
    key = jax.random.key(0)
    with pytest.raises(ValueError, match="num_probes must be at least 1, got 0"):
        losses.match_jacobian(key, _field, target, num_probes=0)
    for match in (
        losses.match_trace,
        partial(losses.match_product, key),
        partial(losses.match_jacobian, key),
    ):
        with pytest.raises(ValueError, match="shapes must be equal"):
            match(lambda x: x[:2], target)
    with pytest.raises(ValueError, match="the bank must have shape"):
        losses.of_bank(paths.linear(), jnp.zeros((4, 2)), jnp.zeros(3), jnp.zeros(3), 0.5)


@pytest.mark.slow
def test_the_target_of_a_large_bank_is_that_of_a_bank(x64):
    names = ("linear", "ve to zero")
    x0, x1, z = (jnp.asarray(array) for array in (NOISE, BANK[1], [0.3, -1.0, 2.0]))
    bytes_, scaled = np.uint8(40 * BANK + 60), np.uint8(40 * BANK + 60) / 40 - 1.5

    def values(target):
        return [*target[:5], target.slope(z)]

    for name in names:
        plain = jax.jit(lambda t, path=PATHS[name]: values(_bank(path, t)))
        large = jax.jit(
            lambda t, path=PATHS[name]: values(
                losses.of_large_bank(path, jnp.asarray(BANK), x0, x1, t, k=2, chunk_size=3)
            )
        )
        for t in (0.2, 0.8):
            for ours, theirs in zip(large(t), plain(t), strict=True):
                np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-12)
    prepared = empirical.prepare(bytes_, scale=1 / 40, shift=-1.5)
    loss = partial(losses.dm, lambda x, t: _field(x) * t, PATHS["linear"], weight=0.7)
    last = (x0, jnp.asarray(scaled[1]), 0.6)
    wanted = loss(jnp.asarray(scaled), *last)
    found = loss(prepared, *last, target=partial(losses.of_large_bank, k=1, chunk_size=2))
    assert float(found) == pytest.approx(float(wanted), rel=1e-9)
