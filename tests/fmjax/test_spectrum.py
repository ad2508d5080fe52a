"""Principal components against eigh, and the fields on which Lanczos' method breaks down."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fmjax import empirical, paths, posterior, predictions
from tests.oracles import mixture as oracles

PATH = paths.linear()
SHAPE = (4, 4, 4)


def _linear(jacobian):
    """A field of this Jacobian; at t = 1/2 of the linear path C = (I + J / 2) / 2."""
    return lambda x, t: (jacobian @ x.ravel()).reshape(x.shape)


def _rotated(values):
    """A symmetric matrix of these eigenvalues in no special basis."""
    basis = np.linalg.qr(np.random.default_rng(0).normal(size=(len(values),) * 2))[0]
    return (basis * np.asarray(values)) @ basis.T


# Every one of these ends the Krylov space early: in one step, in two, in four.
DEGENERATE = {
    "zero": np.zeros((64, 64)),
    "identity": np.eye(64),
    "rank one, along an axis": np.diag(np.eye(64)[5]),
    "rank three": _rotated([*np.zeros(61), 1.0, 2.0, 3.0]),
    "five equal, the rest zero": _rotated([*np.zeros(59), *np.ones(5)]),
    "three distinct": _rotated([*0.2 * np.ones(29), *0.5 * np.ones(30), *np.ones(5)]),
    "half negative": _rotated([*-np.ones(32), *np.ones(32)]),
}


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_repeated_eigenvalues_and_low_rank(dtype):
    @jax.jit
    def find(key, jacobian, size):
        return posterior.principal_components(
            key, _linear(jacobian), PATH, jnp.zeros(SHAPE, jacobian.dtype), 0.5,
            num_matvecs=20, noise=lambda w: size * w,
        )  # fmt: skip

    eps = np.finfo(dtype).eps
    with jax.enable_x64(dtype == np.float64):
        for name, matrix in DEGENERATE.items():
            for seed, size in ((0, 1.0), (1, 1.0), (2, 1e-18), (3, 1e12)):
                found = find(
                    jax.random.key(seed), jnp.asarray(4 * matrix - 2 * np.eye(64), dtype), size
                )
                values = np.asarray(found.variances, np.float64) / size
                rows = np.asarray(found.directions, np.float64).reshape(5, 64)
                truth = np.linalg.eigvalsh(matrix)[::-1][:5]
                np.testing.assert_allclose(values, truth, atol=300 * eps, err_msg=name)
                np.testing.assert_allclose(rows @ rows.T, np.eye(5), atol=50 * eps, err_msg=name)
                defect = np.linalg.norm(rows @ matrix - values[:, None] * rows, axis=1)
                np.testing.assert_allclose(found.residuals / size, defect, atol=100 * eps)
                # The diagonal that keeps the space growing is eps^0.8, in units of the operator.
                assert defect.max() < 10 * eps**0.8, name


@pytest.mark.slow
def test_components_of_the_mixture_against_eigh(x64):
    # All three, at 24 states and times, of the data and of the noise, which has a covariance.
    mixture = oracles.MIXTURE._replace(
        noise=np.array([[1.3, 0.5, -0.2], [0.5, 0.8, 0.3], [-0.2, 0.3, 0.6]])
    )
    velocity = lambda x, t: oracles.law(paths.coefficients(PATH, t), x, mixture).velocity
    noise = lambda w: jnp.asarray(mixture.noise) @ w
    states = 1.5 * jax.random.normal(jax.random.key(1), (24, 3))
    times = jnp.linspace(0.05, 0.9, 24)
    for of, row in ((predictions.x1, (1.0, 0.0)), (predictions.x0, (0.0, 1.0))):
        ours = lambda key, x, t, of=of: posterior.principal_components(
            key, velocity, PATH, x, t, num_components=3, of=of, noise=noise
        )
        exact = lambda x, t, row=row: oracles.covariance_of(
            *row, paths.coefficients(PATH, t), x, mixture
        )
        keys = jax.random.split(jax.random.key(0), 24)
        found = jax.jit(jax.vmap(ours))(keys, states, times)
        matrices = np.asarray(jax.jit(jax.vmap(exact))(states, times))
        values, vectors = np.linalg.eigh(matrices)
        np.testing.assert_allclose(found.variances, values[:, ::-1], atol=1e-12)
        overlap = np.einsum("nkd,ndk->nk", found.directions, vectors[:, :, ::-1])
        np.testing.assert_allclose(np.abs(overlap), 1.0, atol=1e-10)
        assert float(found.residuals.max()) < 1e-12


@pytest.mark.slow
def test_one_entry_is_its_own_component():
    found = posterior.principal_components(
        jax.random.key(0), lambda x, t: 3.0 * x, PATH, jnp.array(1.5), 0.5, num_components=1
    )
    assert found.directions.shape == (1,)
    assert float(jnp.abs(found.directions[0])) == pytest.approx(1.0)
    assert float(found.variances[0]) == pytest.approx(0.5 * (1 + 0.5 * 3.0), rel=1e-6)


@pytest.mark.slow
def test_a_small_space_is_honest_about_its_error(x64):
    # Eigenvalues that fall slowly and ten products: the residuals bound what is missing.
    matrix = _rotated(0.9 ** np.arange(64))
    field, x = _linear(jnp.asarray(4 * matrix - 2 * np.eye(64))), jnp.zeros(64)
    find = lambda key: posterior.principal_components(key, field, PATH, x, 0.5, num_matvecs=10)
    found = jax.jit(find)(jax.random.key(0))
    exact = np.linalg.eigvalsh(matrix)
    distance = np.abs(np.asarray(found.variances)[:, None] - exact[None]).min(axis=1)
    assert np.all(distance <= np.asarray(found.residuals) + 1e-12)
    assert float(found.residuals[-1]) > 1e-3  # the bound is needed here
    rows = np.asarray(found.directions)
    np.testing.assert_allclose(rows @ rows.T, np.eye(5), atol=1e-12)


@pytest.mark.slow
def test_extremes_of_a_field_that_is_indefinite_and_no_gradient(x64):
    generator = np.random.default_rng(2)
    jacobian = generator.normal(size=(48, 48))
    x = jnp.zeros((4, 4, 3))
    exact = np.linalg.eigvalsh(0.5 * (np.eye(48) + 0.25 * (jacobian + jacobian.T)))
    field = _linear(jnp.asarray(jacobian))
    find = lambda num_matvecs: jax.jit(
        lambda key: posterior.extremes(key, field, PATH, x, 0.5, num_matvecs=num_matvecs)
    )(jax.random.key(0))
    assert exact[0] < -1.0
    np.testing.assert_allclose(find(num_matvecs=48), [exact[0], exact[-1]], atol=1e-12)
    least, greatest = find(num_matvecs=6)  # from inside the spectrum
    assert exact[0] < least < 0.5 * exact[0]
    assert 0.5 * exact[-1] < greatest < exact[-1]
    only, same = find(num_matvecs=1)
    assert only == same


def _three(shape=(2, 3)):
    """Three components of a six-dimensional covariance, of which the last is negative."""
    basis = np.linalg.qr(np.random.default_rng(3).normal(size=(6, 6)))[0][:3]
    values = np.array([4.0, 0.25, -0.5])
    directions = jnp.asarray(basis.reshape(3, *shape))
    return posterior.Components(jnp.asarray(values), directions, jnp.zeros(3))


@pytest.mark.slow
def test_walks_by_hand():
    three, mean = _three(), jnp.arange(6.0).reshape(2, 3)
    walked = posterior.traverse(mean, three, -1.5)
    for k, deviation in enumerate((2.0, 0.5, 0.0)):  # a negative variance stays where it is
        truth = mean - 1.5 * deviation * three.directions[k]
        np.testing.assert_allclose(walked[k], truth, atol=1e-6)


@pytest.mark.slow
def test_samples_have_the_moments_of_their_components(x64):
    three, mean, n = _three(), jnp.arange(6.0).reshape(2, 3), 20_000
    draw = jax.jit(jax.vmap(partial(posterior.sample, mean=mean, components=three)))
    x = np.asarray(draw(jax.random.split(jax.random.key(0), n))).reshape(n, 6)
    rows = np.asarray(three.directions).reshape(3, 6)
    truth = 4.0 * np.outer(rows[0], rows[0]) + 0.25 * np.outer(rows[1], rows[1])
    centered = x - np.arange(6.0)
    errors = np.sqrt((np.outer(np.diag(truth), np.diag(truth)) + truth**2) / n)
    assert np.all(np.abs(centered.T @ centered / n - truth) < 5 * errors)
    assert np.all(np.abs(centered.mean(0)) < 5 * np.sqrt(np.diag(truth) / n))
    assert np.linalg.matrix_rank(centered[:50], tol=1e-10) == 2


@pytest.mark.slow
def test_walks_and_samples_have_gradients_where_a_variance_is_not_positive():
    three = _three()._replace(variances=jnp.array([4.0, 0.0, -0.5]))
    mean = jnp.ones((2, 3))
    total = lambda c: (
        jnp.sum(posterior.traverse(mean, c, 2.0))
        + jnp.sum(posterior.sample(jax.random.key(0), mean, c) ** 2)
    )
    assert all(bool(jnp.all(jnp.isfinite(g))) for g in jax.tree.leaves(jax.grad(total)(three)))


@pytest.mark.slow
@pytest.mark.parametrize("differentiate", [jax.jacfwd, jax.jacrev])
def test_derivatives_of_the_variances(differentiate, x64):
    # d lambda_i = v_i^T dC v_i, with 12 of 64 products and by differences in both modes.
    matrix, change = _rotated(0.5 ** np.arange(64)), np.random.default_rng(4).normal(size=(64, 64))

    @jax.jit
    def find(step):
        jacobian = jnp.asarray(4 * matrix - 2 * np.eye(64)) + step * 4 * jnp.asarray(change)
        return posterior.principal_components(
            jax.random.key(0), _linear(jacobian), PATH, jnp.zeros(64), 0.5,
            num_components=2, num_matvecs=12,
        )  # fmt: skip

    ours = jax.jit(differentiate(lambda step: find(step).variances))(0.0)
    rows = np.asarray(find(0.0).directions)
    np.testing.assert_allclose(ours, np.einsum("ki,ij,kj->k", rows, change, rows), rtol=1e-6)
    differences = (find(1e-6).variances - find(-1e-6).variances) / 2e-6
    np.testing.assert_allclose(ours, differences, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("differentiate", [jax.jacfwd, jax.jacrev])
def test_derivatives_where_eigenvalues_meet(differentiate, x64):
    # The variances of C + s B with C = diag(1, 1, 1, 1/2, 0) / 2 have the sum of derivatives tr B
    # over the whole space, although those of the three that meet depend on the basis.
    matrix = np.diag([0.5, 0.5, 0.5, 0.25, 0.0])
    change = np.random.default_rng(4).normal(size=(5, 5))

    def find(step):
        jacobian = jnp.asarray(4 * matrix - 2 * np.eye(5)) + step * 4 * jnp.asarray(change)
        return posterior.principal_components(
            jax.random.key(0), _linear(jacobian), PATH, jnp.zeros(5), 0.5, num_components=5
        ).variances

    slopes = jax.jit(differentiate(find))(0.0)
    np.testing.assert_allclose(slopes.sum(), np.trace(change), rtol=1e-6)
    np.testing.assert_allclose(slopes[3:], np.diag(change)[3:], rtol=1e-6)
    np.testing.assert_allclose(slopes[:3].sum(), np.trace(change[:3, :3]), rtol=1e-6)


@pytest.mark.slow
def test_lipschitz_has_derivatives_where_the_covariance_vanishes():
    # One point has all the weight: the constant is |sigma_dot / sigma| = 1 / (1 - t).
    bank = jnp.array([[0.0, 0.0, 0.0], [10.0, 0.0, 0.0], [0.0, 10.0, 0.0]])
    x = jnp.array([0.1, 0.0, 0.0])

    def constant(x, t, bank):
        return empirical.lipschitz(jax.random.key(0), PATH, bank, x, t)

    slopes = jax.jit(jax.grad(constant, argnums=(0, 1, 2)))(x, 0.9, bank)
    for slope, wanted in zip(slopes, (0.0, 100.0, 0.0), strict=True):
        np.testing.assert_allclose(slope, wanted, rtol=1e-5)
    each = lambda x: jax.grad(constant)(x, 0.9, bank)
    np.testing.assert_array_equal(jax.lax.map(each, jnp.stack([x, 2 * x])), 0.0)
    np.testing.assert_array_equal(jax.vmap(each)(jnp.stack([x, 2 * x])), 0.0)


@pytest.mark.slow
def test_lipschitz_has_the_derivatives_of_the_largest_eigenvalue(x64):
    bank = jnp.asarray(np.random.default_rng(5).gamma(1.0, size=(9, 4)))
    x = jnp.array([0.3, 0.1, 0.5, 0.2])

    def constant(z):
        return empirical.lipschitz(jax.random.key(0), PATH, bank, z[:4], z[4])

    def by_matrix(z):
        return jnp.linalg.norm(empirical.jacobian(PATH, bank, z[:4], z[4]), 2)

    z = jnp.append(x, 0.7)
    for differentiate in (jax.jacfwd, jax.jacrev):
        ours, theirs = (jax.jit(differentiate(f))(z) for f in (constant, by_matrix))
        np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-8)


def test_wrong_input_is_named(key):
    field, x = lambda x, t: -x, jnp.zeros((2, 3))
    find = partial(posterior.principal_components, key, field, PATH, x, 0.5)
    for k, m in ((7, 32), (5, 4)):
        with pytest.raises(ValueError, match=rf"between 1 and {min(6, m)}, got {k}.*num_matvecs"):
            find(num_components=k, num_matvecs=m)
    with pytest.raises(ValueError, match="num_components must be at least 1, got 0"):
        find(num_components=0)
    with pytest.raises(ValueError, match="num_matvecs must be at least 1, got 0"):
        posterior.extremes(key, field, PATH, x, 0.5, num_matvecs=0)
    wrong = posterior.Components(jnp.ones(2), jnp.ones((2, 3)), jnp.zeros(2))
    with pytest.raises(ValueError, match=r"mean \(2,\), direction \(3,\)"):
        posterior.traverse(jnp.zeros(2), wrong, 1.0)
    with pytest.raises(ValueError, match=r"mean \(2, 3\), direction \(3,\)"):
        posterior.sample(key, x, wrong)
    with pytest.raises(ValueError, match=r"amount must be a scalar, got shape \(3,\)"):
        posterior.traverse(jnp.zeros(3), wrong, jnp.ones(3))
