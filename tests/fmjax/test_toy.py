"""Toy laws: density against SciPy and brute force, samples against density."""

import itertools
import math
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.stats

from fmjax import toy

WEIGHTS = np.array([0.2, 0.5, 0.3])
MEANS = np.array([[0.0, 1.0], [3.0, -1.0], [-2.0, -2.0]])
COVARIANCES = np.array(
    [[[1.0, 0.6], [0.6, 0.5]], [[0.3, -0.2], [-0.2, 1.5]], [[0.05, 0.0], [0.0, 0.4]]]
)

LAWS = {
    "mixture": lambda: toy.gaussian_mixture(WEIGHTS, MEANS, COVARIANCES),
    "eight_gaussians": toy.eight_gaussians,
    "checkerboard": toy.checkerboard,
    "moons": toy.moons,
    "wide_moons": lambda: toy.moons(noise=0.4),
}
SMOOTH = [name for name in LAWS if name != "checkerboard"]
DRAWS = 100_000


def draw(law, n=DRAWS, seed=0):
    return jax.jit(jax.vmap(law.sample))(jax.random.split(jax.random.key(seed), n))


def log_probs(law, x):
    """The log-density at many points, in chunks that fit a small memory."""
    return np.asarray(jax.jit(lambda x: jax.lax.map(law.log_prob, x, batch_size=4096))(x))


def grid(half_width, n):
    """The midpoints of n by n equal squares of `[-half_width, half_width]^2`, `[n * n, 2]`."""
    ticks = half_width * ((2 * np.arange(n) + 1) / n - 1)
    return np.stack(np.meshgrid(ticks, ticks, indexing="ij"), -1).reshape(-1, 2)


# All laws


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", SMOOTH)
def test_density_integrates_to_one(name):
    # The midpoint rule on a smooth, decaying function converges faster than any power.
    half_width, n = (9.0, 240) if name == "eight_gaussians" else (7.0, 420)
    density = np.exp(log_probs(LAWS[name](), grid(half_width, n)))
    np.testing.assert_allclose(density.sum() * (2 * half_width / n) ** 2, 1.0, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", LAWS)
def test_samples_follow_the_density(name):
    # Counts in 24 x 24 squares against the density, summed over 8 x 8 midpoints in each; the
    # squares of the checkerboard are cut in three, so that no square has an edge inside.
    law, bins, inner = LAWS[name](), 24, 8
    half_width = 4 / 0.45 if name == "checkerboard" else 8.0 if "eight" in name else 4.0
    fine = np.exp(np.float64(log_probs(law, jnp.float32(grid(half_width, bins * inner)))))
    fine = fine * (2 * half_width / (bins * inner)) ** 2
    expected = DRAWS * fine.reshape(bins, inner, bins, inner).sum((1, 3))
    edges = np.linspace(-half_width, half_width, bins + 1)
    x = np.asarray(draw(law))
    counts, _, _ = np.histogram2d(x[:, 0], x[:, 1], bins=(edges, edges))
    usual = expected > 25  # where a count is nearly normal
    # Five standard errors, and the error of the midpoints.
    tolerance = 5 * np.sqrt(expected) + 0.01 * expected
    assert np.all(np.abs(counts - expected)[usual] < tolerance[usual])
    rest = max(DRAWS - expected[usual].sum(), 0.0)  # elsewhere and outside
    assert abs(DRAWS - counts[usual].sum() - rest) < 5 * math.sqrt(rest) + 0.002 * DRAWS
    assert usual.sum() > 20


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mixture", "checkerboard"])
def test_one_example_float32_jit_and_vmap(name):
    law = LAWS[name]()
    x = draw(law, 6)
    assert x.shape == (6, 2)
    assert x.dtype == jnp.float32
    single = jnp.stack([law.sample(key) for key in jax.random.split(jax.random.key(0), 6)])
    np.testing.assert_allclose(x, single, rtol=1e-5, atol=1e-6)
    values = jax.jit(jax.vmap(law.log_prob))(x)
    assert values.shape == (6,)
    assert values.dtype == jnp.float32
    np.testing.assert_allclose(values, [law.log_prob(row) for row in x], rtol=1e-4, atol=1e-4)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", LAWS)
def test_float64(name):
    law = LAWS[name]()
    x = jax.eval_shape(law.sample, jax.random.key(0))
    assert x.dtype == jax.eval_shape(law.log_prob, x).dtype == jnp.float64


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", SMOOTH)
def test_score_agrees_with_finite_differences(name):
    law = LAWS[name]()
    points = jnp.array([[0.3, -0.2], [2.0, 1.0], [-1.1, 0.6], [0.5, 0.25]])
    step = 1e-5 * jnp.eye(2)

    def difference(x):
        values = jax.vmap(law.log_prob)
        return (values(x[None] + step) - values(x[None] - step)) / 2e-5

    score = jax.jit(jax.vmap(jax.grad(law.log_prob)))(points)
    np.testing.assert_allclose(score, jax.jit(jax.vmap(difference))(points), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", LAWS)
def test_a_batch_without_vmap_is_refused(name):
    with pytest.raises(ValueError, match=r"got x \(5, 2\).*wrap the call in jax\.vmap"):
        LAWS[name]().log_prob(jnp.zeros((5, 2)))


# Gaussian mixture


@pytest.mark.usefixtures("x64")
def test_mixture_agrees_with_scipy():
    points = np.random.default_rng(0).normal(scale=4.0, size=(50, 2))
    parts = [
        scipy.stats.multivariate_normal(mean, covariance).logpdf(points)
        for mean, covariance in zip(MEANS, COVARIANCES, strict=True)
    ]
    wanted = scipy.special.logsumexp(np.stack(parts), axis=0, b=WEIGHTS[:, None])
    np.testing.assert_allclose(log_probs(LAWS["mixture"](), points), wanted, rtol=1e-12)
    # Weights need not sum to one.
    law = toy.gaussian_mixture(7 * WEIGHTS, MEANS, COVARIANCES)
    np.testing.assert_allclose(log_probs(law, points), wanted, rtol=1e-12)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_mixture_in_another_dimension():
    factor = np.tril(np.random.default_rng(1).normal(size=(5, 5))) + 3 * np.eye(5)
    law = toy.gaussian_mixture(np.ones(1), np.arange(5.0)[None], (factor @ factor.T)[None])
    wanted = scipy.stats.multivariate_normal(np.arange(5), factor @ factor.T)
    x = law.sample(jax.random.key(0))
    assert x.shape == (5,)
    np.testing.assert_allclose(law.log_prob(x), wanted.logpdf(x), rtol=1e-12)


@pytest.mark.slow
def test_mixture_samples_have_its_covariances():
    x = np.asarray(draw(LAWS["mixture"]()), np.float64)
    mean = WEIGHTS @ MEANS
    second = np.einsum("k,kij->ij", WEIGHTS, COVARIANCES + MEANS[:, :, None] * MEANS[:, None, :])
    products = x[:, :, None] * x[:, None, :]
    assert np.all(np.abs(x.mean(0) - mean) < 5 * x.std(0) / math.sqrt(DRAWS))
    assert np.all(np.abs(products.mean(0) - second) < 5 * products.std(0) / math.sqrt(DRAWS))


@pytest.mark.slow
def test_mixture_with_an_empty_component():
    law = toy.gaussian_mixture(np.array([1.0, 0.0]), np.zeros((2, 1)), np.ones((2, 1, 1)))
    value, score = jax.jit(jax.value_and_grad(law.log_prob))(jnp.ones(1))
    np.testing.assert_allclose(value, -0.5 - 0.5 * math.log(2 * math.pi), rtol=1e-6)
    np.testing.assert_allclose(score, [-1.0], rtol=1e-6)


@pytest.mark.usefixtures("x64")
@pytest.mark.slow
@pytest.mark.parametrize("x", [0.3, -30.0])
def test_derivatives_of_a_mixture_in_its_weights(x):
    # Of log(sum_i w_i p_i / sum_i w_i), also where a weight is zero, and its component the nearest.
    means = np.array([0.0, 1.0, 2.0])

    def log_prob(w):
        law = toy.gaussian_mixture(w, jnp.asarray(means)[:, None], jnp.ones((3, 1, 1)))
        return law.log_prob(jnp.array([x]))

    for w in (np.array([0.0, 0.5, 0.25]), np.array([0.3, 0.5, 0.0]), np.array([0.3, 0.5, 0.2])):
        value, slopes = jax.value_and_grad(log_prob)(jnp.asarray(w))
        p = scipy.stats.norm.pdf(x, means)
        np.testing.assert_allclose(value, np.log(w @ p / w.sum()), rtol=1e-12)
        np.testing.assert_allclose(slopes, p / (w @ p) - 1 / w.sum(), rtol=1e-9)
    assert jnp.isnan(log_prob(jnp.array([-0.1, 0.5, 0.6])))
    assert jnp.isnan(log_prob(jnp.zeros(3)))


@pytest.mark.parametrize("name", LAWS)
def test_laws_can_be_pickled(name):
    law = LAWS[name]()
    again = pickle.loads(pickle.dumps(law))
    x, key = jnp.array([0.3, -0.4]), jax.random.key(3)
    np.testing.assert_array_equal(again.log_prob(x), law.log_prob(x))
    np.testing.assert_array_equal(again.sample(key), law.sample(key))


def test_mixture_beyond_the_range_of_the_numbers_has_density_zero():
    assert LAWS["mixture"]().log_prob(jnp.array([1e30, 0.0])) == -jnp.inf


def test_mixture_far_away_is_finite():
    x = jnp.array([300.0, -400.0])
    value, score = jax.jit(jax.value_and_grad(LAWS["mixture"]().log_prob))(x)
    assert jnp.isfinite(value)
    assert jnp.all(jnp.isfinite(score))


@pytest.mark.parametrize(
    ("weights", "means", "covariances"),
    [
        ((3,), (2, 2), (2, 2, 2)),
        ((2,), (2, 2), (2, 2)),
        ((2,), (2, 2), (2, 2, 3)),
        ((2,), (2,), (2, 2, 2)),
        ((), (1, 2), (1, 2, 2)),
        ((0,), (0, 2), (0, 2, 2)),
    ],
)
def test_mixture_of_other_shapes_is_refused(weights, means, covariances):
    with pytest.raises(ValueError, match=r"weights \[k\], means \[k, d\]") as error:
        toy.gaussian_mixture(*map(jnp.ones, (weights, means, covariances)))
    assert f"got {weights}, {means} and {covariances}" in str(error.value)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_eight_gaussians():
    # Radius 5, covariance sqrt(0.1) I; the neighbors, 3.83 away, add e^-23 and less.
    law = toy.eight_gaussians()
    for angle in np.arange(8) * np.pi / 4:
        center = 5 * np.array([np.cos(angle), np.sin(angle)])
        wanted = math.log(1 / 8) - math.log(2 * math.pi * math.sqrt(0.1))
        np.testing.assert_allclose(law.log_prob(center), wanted, atol=1e-8)
    x = np.asarray(draw(law, 20_000))
    angles = np.round(np.arctan2(x[:, 1], x[:, 0]) / (np.pi / 4))
    centers = 5 * np.stack([np.cos(angles * np.pi / 4), np.sin(angles * np.pi / 4)], 1)
    variance = ((x - centers) ** 2).mean()
    # A sample is given to the wrong center with probability 1e-3; then its residual is smaller.
    assert abs(variance - math.sqrt(0.1)) < 5 * math.sqrt(0.1 / 20_000) + 2e-3


# Checkerboard


def brute_force_support(x):
    """Whether the sampling recipe can reach x: does a coin and a uniform number exist?"""
    first, second = 0.45 * x
    rests = [second + 2 * coin - math.floor(first) % 2 for coin in (0, 1)]
    return -2 <= first < 2 and any(0 <= rest < 1 for rest in rests)


@pytest.mark.parametrize("x64", [False, True], ids=["float32", "float64"])
def test_checkerboard_support(x64):
    with jax.enable_x64(x64):
        points = grid(5.5, 150)
        inside = np.array([brute_force_support(x) for x in points])
        values = log_probs(toy.checkerboard(), jnp.asarray(points))
    np.testing.assert_array_equal(np.isfinite(values), inside)
    np.testing.assert_allclose(values[inside], math.log(0.0253125), rtol=1e-6)
    assert np.all(values[~inside] == -np.inf)
    # Eight cells of side 1 / 0.45, which is 30.3 times the pitch 11 / 150 of the grid.
    assert 8 * 30**2 <= inside.sum() <= 8 * 31**2


@pytest.mark.slow
def test_checkerboard_samples_never_leave_the_support():
    law = toy.checkerboard()
    values = log_probs(law, draw(law))
    np.testing.assert_allclose(values, -3.67646, atol=1e-5)  # the entropy, nats


@pytest.mark.slow
def test_checkerboard_cells_end_where_rounding_puts_them():
    # The largest float32 below an edge may be rounded onto the edge by the scaling; the smallest
    # offsets are rounded onto the lower edge. Both are draws, so both are inside.
    law = toy.checkerboard()
    lows = [(i, j) for i, j in itertools.product(range(-2, 2), repeat=2) if (i + j) % 2 == 0]
    assert len(lows) == 8
    for low in np.array(lows, np.float32):
        corners = [low, np.nextafter(low + 1, np.float32(-9))]
        scaled = jnp.asarray(corners) * (1.0 / 0.45)
        assert jnp.all(jnp.isfinite(jax.vmap(law.log_prob)(scaled)))


def test_checkerboard_is_one_object():
    assert toy.checkerboard() == toy.checkerboard()
    assert jnp.all(jax.grad(toy.checkerboard().log_prob)(jnp.ones(2)) == 0.0)


# Moons


def moon_density_by_quad(x, noise):
    """The log-density by SciPy's adaptive quadrature, with the largest term taken out."""
    arcs = [
        lambda a: (x[0] - np.cos(a)) ** 2 + (x[1] - np.sin(a)) ** 2,
        lambda a: (x[0] - 1 + np.cos(a)) ** 2 + (x[1] - 0.5 + np.sin(a)) ** 2,
    ]
    angles = np.linspace(0, np.pi, 20_001)
    nearest = [angles[np.argmin(arc(angles))] for arc in arcs]
    least = min(arc(angle) for arc, angle in zip(arcs, nearest, strict=True))
    total = 0.0
    for arc, angle in zip(arcs, nearest, strict=True):
        breaks = np.concatenate(
            [angle + noise * np.arange(-8, 9), angle + noise**2 * 4.0 ** np.arange(-3, 3)]
        )
        breaks = np.concatenate([breaks, 2 * angle - breaks])
        breaks = np.unique(np.concatenate([[0.0, np.pi], breaks[(breaks > 0) & (breaks < np.pi)]]))
        for low, high in itertools.pairwise(breaks):
            total += scipy.integrate.quad(
                lambda a, arc=arc: math.exp(-(arc(a) - least) / (2 * noise**2)),
                low,
                high,
                epsabs=1e-16,
                epsrel=1e-10,
            )[0]
    return math.log(total / (2 * np.pi)) - least / (2 * noise**2) - math.log(2 * np.pi * noise**2)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("noise", "tolerance"), [(0.01, 1e-8), (0.05, 1e-9), (0.1, 1e-10), (0.4, 1e-10), (2.0, 1e-10)]
)
def test_moons_agree_with_adaptive_quadrature(noise, tolerance):
    # On an arc, between them, at both tips, and as far off as the docstring promises.
    points = [[0.0, 1.0], [0.5, 0.25], [0.4, 0.3], [-1.0, 0.0], [-1.0, -0.1], [1.95, 0.7]]
    points += [[3.0, -4.0], [-4.5, 2.0], [1.0, -0.5], [0.02, 0.03]]
    values = log_probs(toy.moons(noise=noise), jnp.array(points))
    wanted = [moon_density_by_quad(x, noise) for x in points]
    np.testing.assert_allclose(values, wanted, rtol=0, atol=tolerance)


def test_moons_in_float32_are_close_to_float64():
    points = grid(2.5, 40)
    with jax.enable_x64(True):
        wanted = log_probs(toy.moons(), points)
    values = log_probs(toy.moons(), jnp.float32(points))
    np.testing.assert_allclose(values, wanted, rtol=2e-6, atol=2e-5)


@pytest.mark.slow
def test_moons_are_those_of_scikit_learn():
    datasets = pytest.importorskip("sklearn.datasets")
    points, labels = datasets.make_moons(400, noise=None, shuffle=False)
    density = np.exp(log_probs(toy.moons(noise=0.01), jnp.float32(points)))
    # On the arcs, away from tips and crossings, 1 / (2 pi) per length and 1 / (0.01 sqrt(2 pi)).
    wanted = 1 / (2 * np.pi) / (0.01 * math.sqrt(2 * np.pi))
    middle = np.r_[10:190, 210:390]
    np.testing.assert_allclose(density[middle], wanted, rtol=1e-2)
    x = np.asarray(draw(toy.moons()))
    for a, b in ((x.mean(0), points.mean(0)), (x.std(0), np.hypot(points.std(0), 0.1))):
        np.testing.assert_allclose(a, b, atol=5 / math.sqrt(DRAWS))
    assert labels.sum() == 200


@pytest.mark.parametrize("noise", [0.0, -0.1, 0.009, math.inf, math.nan])
def test_moons_of_unstated_noise_are_refused(noise):
    with pytest.raises(ValueError, match=f"at least 0.01, got {noise}"):
        toy.moons(noise=noise)
