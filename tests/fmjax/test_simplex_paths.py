"""The paths on the simplex: their coefficient, laws, and the continuity equation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.special
import scipy.stats

from fmjax import simplex
from tests import slow

PATHS = {
    "linear": simplex.linear(5),
    "dirichlet": simplex.dirichlet(5),
    "dirichlet to 30": simplex.dirichlet(5, limit=30.0),
}


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


def _by_scipy(b, s, classes):
    """The coefficient by eq. (2): the mass above b must grow as fast as its density changes."""
    a, c = 1 + s, classes - 1
    log_beta = scipy.special.betaln(a, c)
    shift = scipy.special.digamma(a) - scipy.special.digamma(a + c)

    def change(tau):
        log_density = (a - 1) * np.log(tau) + (c - 1) * np.log1p(-tau) - log_beta
        return np.exp(log_density) * (np.log(tau) - shift)

    # On one side of b the integrand has one sign; the whole integral is zero.
    ends, sign = ((0, b), -1) if b < np.exp(shift) else ((b, 1), 1)
    flux = sign * scipy.integrate.quad(change, *ends, epsabs=0, epsrel=1e-10, limit=200)[0]
    density = np.exp((a - 1) * np.log(b) + (c - 1) * np.log1p(-b) - log_beta)
    return flux / (density * (1 - b))


@slow.but_the_first("classes", [4, 2, 40, 200])
def test_the_coefficient_is_the_flux_through_b_over_the_density_there(classes):
    for s in (0.0, 0.3, 1.0, 7.0, 40.0):
        b = np.array([1e-6, 0.003, 0.03, 0.2, 0.5, 0.8, 0.99])
        b = b[(classes - 1) * np.log1p(-b) > -600]  # where scipy's density has not underflowed
        expected = [_by_scipy(value, s, classes) for value in b]
        found = simplex.coefficient(jnp.array(b), s, num_classes=classes)
        np.testing.assert_allclose(found, expected, rtol=2e-9)


def test_the_coefficient_of_two_and_of_three_classes_in_closed_form():
    b = jnp.array([1e-300, 1e-12, 0.01, 0.3, 0.7, 0.999, 1 - 1e-9])
    for s in (0.0, 0.5, 3.0, 20.0):
        a, log = 1 + s, jnp.log(b)
        two = -b * log / (a * -jnp.expm1(log))
        np.testing.assert_allclose(simplex.coefficient(b, s, num_classes=2), two, rtol=1e-12)
    a, b = 3.5, jnp.array([0.01, 0.3, 0.7])
    rate = b**a * (1 - b) + jnp.log(b) * ((a + 1) * b**a - a * b ** (a + 1))
    three = -rate / (a * (a + 1) * b ** (a - 1) * (1 - b) ** 2)
    np.testing.assert_allclose(simplex.coefficient(b, a - 1, num_classes=3), three, rtol=1e-12)


@slow.but_the_first("classes", [4, 2, 40, 500])
def test_the_coefficient_has_its_limit_and_its_derivative_at_the_corner(classes):
    for s in (0.0, 7.0):
        harmonic = scipy.special.digamma(s + classes) - scipy.special.digamma(s + 1)
        corner = jnp.array(1.0)
        found = simplex.coefficient(corner, s, num_classes=classes)
        assert found == pytest.approx(harmonic / (classes - 1), rel=1e-12)
        slope = jax.grad(lambda b, s=s: simplex.coefficient(b, s, num_classes=classes))
        assert slope(corner) == pytest.approx(float(slope(corner - 1e-7)), rel=1e-4)
        assert simplex.coefficient(jnp.array(0.0), s, num_classes=classes) == 0


@slow.but_the_first("classes", [4, 500, 2, 40, 160])
def test_the_coefficient_in_float32(classes):
    b = jnp.array([1e-30, 1e-6, 0.003, 0.01, 0.03, 0.05, 0.2, 0.5, 0.8, 0.99, 1.0])
    for s in (0.0, 0.3, 7.0):
        exact = simplex.coefficient(b, s, num_classes=classes)
        single = simplex.coefficient(b.astype(jnp.float32), jnp.float32(s), num_classes=classes)
        assert single.dtype == jnp.float32
        np.testing.assert_allclose(single, exact, rtol=1e-5 if classes <= 40 else 1e-4)


def _inside(path, t, seed=3):
    """A point that every class reaches, skewed."""
    corner = jnp.array([0.31, 0.22, 0.19, 0.16, 0.12])
    noise = simplex.uniform(jax.random.key(seed), (5,), jnp.float64)
    return corner if path is PATHS["linear"] else 0.5 * corner + 0.5 * noise


@pytest.mark.slow
@pytest.mark.parametrize("t", [0.1, 0.0])
@pytest.mark.parametrize("name", ["dirichlet", "linear", "dirichlet to 30"])
def test_every_class_satisfies_the_continuity_equation(name, t):
    path = PATHS[name]
    x = _inside(path, t)
    for j in range(5):
        probs = jnp.eye(5)[j]
        flow, div = simplex.divergence(lambda z, p=probs: simplex.velocity(path, p, z, t), x)
        change = jax.grad(lambda t, j=j: path.log_density(x, t)[j])(t)
        score = jax.grad(lambda z, j=j: path.log_density(z, t)[j])(x)
        assert change + div + flow @ score == pytest.approx(0, abs=1e-10 * (1 + abs(float(div))))
        scale = path.scale(t)
        assert path.rate(x, t)[j] == pytest.approx(float(scale * change), rel=1e-11)
        pull = path.coefficient(x, t)[j] * score[j]
        assert path.pull(x, t)[j] == pytest.approx(float(pull), rel=1e-11, abs=1e-13)


def test_the_laws_of_the_paths_are_normalized():
    """In three classes, over the triangle, by a fine grid of cell centers."""
    n = 400
    u, v = jnp.meshgrid((jnp.arange(n) + 0.5) / n, (jnp.arange(n) + 0.5) / n)
    x = jnp.stack([u * (1 - v), v, (1 - u) * (1 - v)], -1)  # with volume (1 - v) du dv
    for path, t in ((simplex.linear(3), 0.3), (simplex.dirichlet(3, limit=4.0), 0.7)):
        density = jnp.exp(path.log_density(x, t))
        mass = ((1 - v)[..., None] * density).mean((0, 1))
        np.testing.assert_allclose(mass, 1, rtol=4e-3)


def test_the_law_of_dirichlet_is_scipys():
    path, t, x = simplex.dirichlet(4, limit=5.0), 0.6, np.array([0.1, 0.2, 0.3, 0.4])
    for j in range(4):
        expected = scipy.stats.dirichlet.logpdf(x, 1 + 3.0 * np.eye(4)[j])
        assert path.log_density(jnp.array(x), t)[j] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("name", PATHS)
def test_samples_have_the_mean_and_the_marginals_of_the_law(name):
    path, t, n = PATHS[name], 0.4, 4000
    x1 = jnp.array([3, 0])
    x = jax.vmap(lambda k: path.sample(k, x1, t))(jax.random.split(jax.random.key(0), n))
    assert x.shape == (n, 2, 5)
    np.testing.assert_allclose(x.sum(-1), 1, atol=1e-12)
    if name == "linear":
        law = scipy.stats.beta(1, 4, loc=t, scale=1 - t)
    else:
        s = {"dirichlet": 7.0, "dirichlet to 30": 30.0}[name] * t
        law = scipy.stats.beta(1 + s, 4)
    for position, letter in enumerate(x1):
        assert scipy.stats.kstest(np.asarray(x[:, position, letter]), law.cdf).pvalue > 1e-4
    assert jnp.isfinite(path.log_density(x, t)[:, jnp.arange(2), x1]).all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: simplex.linear(1), "num_classes"),
        (lambda: simplex.dirichlet(4, limit=0.0), "limit must be a positive number, got 0.0"),
        (lambda: simplex.dirichlet(4, limit=float("nan")), "limit must be a positive number"),
        (lambda: simplex.dirichlet(501), "at most 500, got 501"),
        (
            lambda: simplex.linear(4).sample(jax.random.key(0), jnp.ones((3, 4)), 0.5),
            r"integers from 0 to 3, got float64 of shape \(3, 4\).*argmax",
        ),
        (
            lambda: simplex.linear(4).sample(jax.random.key(0), np.array([0, 4]), 0.5),
            "from 0 to 3, got values from 0 to 4",
        ),
        (
            lambda: simplex.linear(4).sample(jax.random.key(0), np.array([0, -1]), 0.5),
            "from 0 to 3, got values from -1 to 0",
        ),
    ],
)
def test_wrong_input_gets_one_clear_error(make, message):
    with pytest.raises(ValueError, match=message):
        make()
