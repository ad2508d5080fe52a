"""Fields and losses on the simplex against enumeration, the whole Jacobian, and exact laws."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fmjax import divergence, estimators, samplers, simplex

K, N = 4, 3
PATHS = {"linear": simplex.linear(K), "dirichlet": simplex.dirichlet(K, limit=6.0)}
# Seven of 64 sequences, one of them twice, none a product law.
BANK = jnp.array([[0, 1, 2], [0, 1, 2], [3, 1, 0], [2, 2, 1], [0, 3, 3], [1, 0, 2], [3, 3, 1]])
WEIGHTS = np.random.default_rng(5).normal(size=(N * K, N * K))


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


def _network(x, t, weights=0.0):
    """Smooth logits of every position that depend on the whole sequence."""
    mixed = jnp.asarray(WEIGHTS, x.dtype) @ x.ravel() + jnp.cos(jnp.arange(N * K) + t)
    return jnp.tanh(mixed + weights).reshape(N, K)


def _exact(path):
    """The logits of a network without error on the bank."""
    return lambda x, t: jnp.log(simplex.posterior(path, BANK, x, t))


def _state(path, t, seed=0, datum=3):
    return path.sample(jax.random.key(seed), BANK[datum], t).astype(jnp.float64)


def _law(path, x1, x, t):
    return jnp.sum(path.log_density(x, t)[jnp.arange(N), x1])


def _raw(path, logits, x, x1, t):
    """The residual by its definition, eq. (1), every derivative by jax."""
    flow, div = simplex.divergence(lambda z: simplex.as_velocity(logits, path)(z, t), x)
    change = jax.grad(lambda t: _law(path, x1, x, t))(t)
    score = jax.grad(lambda z: _law(path, x1, z, t))(x)
    return -(change + div + jnp.sum(flow * score))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["linear", "dirichlet"])
def test_the_residual_is_its_definition(name):
    path, t = PATHS[name], 0.35
    x = _state(path, t)
    found = simplex.residual(_network, path, x, BANK[3], t)
    expected = path.scale(t) * _raw(path, _network, x, BANK[3], t)
    assert abs(expected) > 0.01
    assert found == pytest.approx(float(expected), rel=1e-10)
    assert simplex.cdm(_network, path, x, BANK[3], t) == pytest.approx(float(found) ** 2 / 9)


def test_the_residual_of_the_linear_path_is_the_divergence_of_the_probabilities():
    path, t = PATHS["linear"], 0.35
    x = _state(path, t)
    _, div = simplex.divergence(lambda z: jax.nn.softmax(_network(z, t)), x)
    assert simplex.residual(_network, path, x, BANK[3], t) == pytest.approx(-float(div), rel=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("t", [0.2, 0.6, 1.0])
def test_at_the_exact_field_the_residual_vanishes_on_average(t):
    """Over the data given x, enumerated; a single residual does not vanish."""
    path = PATHS["dirichlet"]
    x = _state(path, t, seed=1)
    weights = jax.nn.softmax(jnp.stack([_law(path, x1, x, t) for x1 in BANK]))
    found = [simplex.residual(_exact(path), path, x, x1, t) for x1 in BANK]
    assert max(abs(float(r)) for r in found) > 0.1
    assert weights @ jnp.stack(found) == pytest.approx(0, abs=1e-9)


@pytest.mark.slow
def test_the_exact_field_is_stationary_because_no_gradient_passes_through_the_score():
    path, t = PATHS["dirichlet"], 0.15
    x, exact = _state(path, t, seed=1), _exact(path)
    weights = jax.nn.softmax(jnp.stack([_law(path, x1, x, t) for x1 in BANK]))

    def near(theta):
        return lambda x, t: exact(x, t) + (theta * jnp.sin(3 * x.ravel())).reshape(N, K)

    def mean(theta):
        return weights @ jnp.stack([simplex.cdm(near(theta), path, x, x1, t) for x1 in BANK])

    def without_stop(theta):
        raw = jnp.stack([_raw(path, near(theta), x, x1, t) for x1 in BANK])
        return weights @ jnp.square(path.scale(t) * raw) / 9

    zero = jnp.zeros(N * K)
    assert jnp.abs(jax.grad(mean)(zero)).max() < 1e-8
    assert jnp.abs(jax.grad(without_stop)(zero)).max() > 1e-3


def test_the_posterior_is_bayes_rule_by_enumeration():
    for path in PATHS.values():
        x = _state(path, 0.3)
        joint = np.array([np.exp(float(_law(path, x1, x, 0.3))) for x1 in BANK])
        joint /= joint.sum()
        expected = np.zeros((N, K))
        for weight, x1 in zip(joint, np.asarray(BANK), strict=True):
            expected[np.arange(N), x1] += weight
        np.testing.assert_allclose(simplex.posterior(path, BANK, x, 0.3), expected, rtol=1e-11)


@pytest.mark.slow
def test_the_divergence_is_the_trace_of_the_projected_jacobian():
    x = simplex.uniform(jax.random.key(0), (N, K), jnp.float64)
    field = partial(simplex.as_velocity(_network, PATHS["dirichlet"]), t=0.4)
    value, found = simplex.divergence(field, x)
    jacobian = jax.jacfwd(field)(x)
    ones = jnp.einsum("pkpl->p", jacobian) / K  # along the normals 1 / sqrt(K)
    expected = jnp.einsum("pkpk->p", jacobian) - ones
    np.testing.assert_allclose(found, expected.sum(), rtol=1e-11)
    np.testing.assert_allclose(value, field(x), rtol=1e-13)
    probes = partial(estimators.hutchinson, num_probes=400, probe=simplex.tangent_probe)
    _, estimate = probes(jax.random.key(1), field, x)
    assert abs(estimate.mean - found) < 5 * estimate.standard_error
    assert estimate.standard_error < 0.2 * abs(found)


def test_tangent_probes_have_the_projection_as_their_covariance():
    n = 20_000
    draw = partial(simplex.tangent_probe, shape=(2, K), dtype=jnp.float64)
    z = jax.vmap(draw)(jax.random.split(jax.random.key(0), n)).reshape(n, -1)
    expected = np.kron(np.eye(2), np.eye(K) - 1 / K)
    np.testing.assert_allclose(z.T @ z / n, expected, atol=5 * np.sqrt(2 / n))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dirichlet", "linear"])
def test_an_estimated_residual_has_the_right_mean(name):
    path, t = PATHS[name], 0.35
    x = _state(path, t)
    exact = simplex.residual(_network, path, x, BANK[3], t)

    def draw(key):
        probes = partial(divergence.hutchinson, key)
        return simplex.residual(_network, path, x, BANK[3], t, divergence=probes)

    found = jax.vmap(draw)(jax.random.split(jax.random.key(2), 2000))
    assert abs(found.mean() - exact) < 5 * found.std() / jnp.sqrt(2000)
    assert found.std() > 0


def test_the_loss_is_the_cross_entropy_plus_the_weighted_penalty():
    path, t = PATHS["dirichlet"], 0.35
    x, x1 = _state(path, t), BANK[3]
    entropy = simplex.cross_entropy(_network, x, x1, t)
    log_probs = np.log(np.asarray(jax.nn.softmax(_network(x, t))))
    assert entropy == pytest.approx(-log_probs[np.arange(N), np.asarray(x1)].mean(), rel=1e-12)
    penalty = simplex.cdm(_network, path, x, x1, t)
    both = simplex.fdm(_network, path, x, x1, t, weight=0.3)
    assert both == pytest.approx(float(entropy + 0.3 * penalty), rel=1e-12)
    assert simplex.fdm(_network, path, x, x1, t, weight=0.0) == entropy


def test_mixed_velocities_are_the_velocity_of_mixed_probabilities():
    path, t = PATHS["dirichlet"], 0.4
    x = _state(path, t)
    p, q = (jax.nn.softmax(_network(x, t, w)) for w in (0.0, 1.0))
    guided = samplers.guided(
        lambda x, t: simplex.velocity(path, p, x, t),
        lambda x, t: simplex.velocity(path, q, x, t),
        scale=2.5,
    )
    mixed = q + 2.5 * (p - q)
    np.testing.assert_allclose(guided(x, t), simplex.velocity(path, mixed, x, t), rtol=1e-10)


@pytest.mark.slow
def test_samples_of_the_exact_field_are_the_data_with_their_frequencies():
    path, n, rows = PATHS["dirichlet"], 600, {tuple(row): 0 for row in BANK.tolist()}
    field = simplex.as_velocity(_exact(path), path)
    draw = partial(simplex.uniform, shape=(N, K), dtype=jnp.float64)
    noise = jax.vmap(draw)(jax.random.split(jax.random.key(0), n))
    x = jax.jit(jax.vmap(partial(simplex.sample, field)))(noise)
    assert (x >= 0).all()
    np.testing.assert_allclose(x.sum(-1), 1, atol=1e-9)
    # Near the corners; the classes are those of a last prediction.
    last = jax.vmap(lambda z: simplex.posterior(path, BANK, z, 1.0))(x)
    for row in last.argmax(-1).tolist():
        rows[tuple(row)] += 1  # a sequence that is none of the data is a KeyError
    for row, count in rows.items():
        share = 2 / 7 if row == (0, 1, 2) else 1 / 7
        # Euler's steps bend the trajectories a little: two per cent beside five standard errors.
        assert abs(count / n - share) < 0.02 + 5 * np.sqrt(share * (1 - share) / n)


def test_eulers_steps_on_the_linear_path_end_at_what_is_predicted():
    """The factors 1 - h / (1 - t) of the distance have the product zero, whatever the start."""
    probs = jax.nn.softmax(_network(jnp.full((N, K), 0.25), 0.3))
    field = simplex.as_velocity(lambda x, t: jnp.log(probs), PATHS["linear"])
    x = simplex.sample(field, simplex.uniform(jax.random.key(0), (N, K), jnp.float64), num_steps=7)
    np.testing.assert_allclose(x, probs, rtol=1e-12)


@pytest.mark.slow
def test_float32_stays_float32():
    path, x1 = PATHS["dirichlet"], jnp.array([2, 2, 1])
    x = path.sample(jax.random.key(0), x1, 0.5).astype(jnp.float32)
    logits = partial(_network, weights=jnp.float32(0))
    for value in (
        simplex.fdm(logits, path, x, x1, jnp.float32(0.5), weight=0.1),
        simplex.as_velocity(logits, path)(x, jnp.float32(0.5)),
        simplex.posterior(path, BANK, x, jnp.float32(0.5)),
    ):
        assert value.dtype == jnp.float32
        assert jnp.isfinite(value).all()


X = jnp.full((N, K), 0.25)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda p: simplex.velocity(p, X, X, 1.0), "below one.*not finite at t = 1.0.*0.999"),
        (lambda p: simplex.velocity(p, X, X[:, :3], 0.5), r"4 classes.*shape \(3, 3\)"),
        (lambda p: simplex.velocity(p, X[:2], X, 0.5), "shape"),
        (lambda p: simplex.velocity("linear", X, X, 0.5), r"fmjax.simplex.linear\(4\)"),
        (lambda p: simplex.velocity(p, X, 2 * np.asarray(X), 0.5), "sum to one"),
        (lambda p: simplex.velocity(p, X, np.array([[1.5, -0.5, 0, 0]] * 3), 0.5), "negative"),
        (lambda p: simplex.as_velocity(lambda x, t: x[:2], p)(X, 0.5), "logits"),
        (lambda p: simplex.posterior(p, BANK[:0], X, 0.5), r"at least 1, got shape \(0, 3\)"),
        (lambda p: simplex.posterior(p, BANK[:, :2], X, 0.5), r"got shape \(7, 2\)"),
        (lambda p: simplex.posterior(p, np.full((2, 3), 7), X, 0.5), "values from 7 to 7"),
        (
            lambda p: simplex.cdm(_network, p, X, BANK[0, :2], 0.5),
            r"shape \(3,\).*got shape \(2,\)",
        ),
        (lambda p: simplex.fdm(_network, p, X, X, 0.5, weight=1.0), "argmax"),
        (lambda p: simplex.fdm(_network, p, X, BANK[0], 0.5, weight=-1.0), "not be negative"),
        (lambda p: simplex.divergence(lambda x: x, jnp.ones((3, 1))), "two or more"),
        (lambda p: simplex.uniform(jax.random.key(0), (3, 1)), "two or more"),
        (lambda p: simplex.sample(_network, X, num_steps=0), "num_steps"),
        (lambda p: simplex.sample(_network, X, t1=1.5), "t1 must lie in"),
    ],
)
def test_wrong_input_gets_one_clear_error(call, message):
    with pytest.raises(ValueError, match=message):
        call(PATHS["linear"])
