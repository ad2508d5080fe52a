"""What is not a number stays so: no comparison turns it into an answer, no option may be one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fmjax import empirical, events, likelihood, losses, path_error, paths, samplers, toy

PATH, NAN = paths.linear(), float("nan")
X = jnp.array([0.5, -2.0])


def inside(x1):
    return x1[0] + 10.0


def gaussian(x, t):
    return (2 * t - 1) / (t**2 + (1 - t) ** 2) * x


def average(x, r, t):
    return gaussian(x, (r + t) / 2)


@jax.custom_jvp
def without_derivative(x):
    return x


without_derivative.defjvp(lambda x, dx: (x[0], NAN * dx[0]))


@pytest.mark.parametrize("jitter", [0.0, 1e-3])
@pytest.mark.parametrize(
    "field",
    [lambda x, t: gaussian(without_derivative(x), t), lambda x, t: NAN * x],
    ids=["jacobian", "velocity"],
)
def test_the_probability_of_an_event(field, jitter):
    ask = jax.jit(lambda x: events.log_probability(inside, field, PATH, x, 0.5, jitter=jitter))
    assert jnp.isnan(ask(X))
    guided = events.conditioned(inside, field, PATH, jitter=jitter)
    assert jnp.isnan(guided(X, 0.5)).any()


def test_an_event_that_is_decided_by_the_state():
    # Of a velocity whose posterior variance is 0 the sign of the event decides.
    fixed = lambda x, t: -x / (1 - t)  # the mean of the data is 0 everywhere
    value = lambda level: events.log_probability(
        lambda x1: x1[0] + level, fixed, PATH, X, 0.5, jitter=0.0
    )
    assert value(1.0) == 0.0
    assert value(-1.0) == -jnp.inf
    assert jnp.isnan(value(NAN))


def test_densities_of_laws():
    for law in (toy.checkerboard(), toy.moons(), toy.eight_gaussians()):
        for x in ([NAN, 0.5], [0.5, NAN], [NAN, NAN]):
            assert jnp.isnan(law.log_prob(jnp.array(x)))


def test_a_path_error_on_a_grid():
    log_density = lambda x, t: jnp.where(x[0] > 0.0, -0.5 * jnp.sum(x**2), NAN)
    grid, times = jnp.linspace(-1.0, 1.0, 6)[:, None], jnp.array([0.2, 0.8])
    found = path_error.bound(log_density, gaussian, grid, 0.4, times, num_nodes=2)
    assert jnp.isnan(found).any()


@pytest.mark.parametrize("field", [empirical.law, empirical.weights], ids=["law", "weights"])
@pytest.mark.parametrize("chunk_size", [None, 2])
@pytest.mark.parametrize("place", ["bank", "x", "t", "weights"])
def test_banks(place, chunk_size, field):
    bank, x, t = jnp.array([[-1.0], [1.0], [2.0], [5.0]]), jnp.array([0.3]), jnp.float32(0.5)
    weights = jnp.array([1.0, 2.0, NAN if place == "weights" else 0.0, 1.0])
    bank, x, t = (NAN * z if place == name else z for name, z in zip(
        ("bank", "x", "t"), (bank, x, t), strict=True))  # fmt: skip

    def ask(bank, weights, x, t):
        return field(PATH, empirical.reweighted(bank, weights), x, t, chunk_size=chunk_size)

    for number in jax.tree.leaves(jax.jit(ask)(bank, weights, x, t)):
        assert jnp.isnan(number).all()


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: events.log_probability(inside, gaussian, PATH, X, 0.5, jitter=NAN), "jitter"),
        (lambda: events.conditioned(inside, gaussian, PATH, smallest_t=NAN), "smallest_t"),
        (lambda: likelihood.standard_normal(X, scale=NAN), "scale must be positive, got nan"),
        (lambda: likelihood.bits_per_dim(X[0], 2, bin_width=NAN), "must be positive"),
        (lambda: likelihood.log_prob(gaussian, X, t0=NAN), "t0 must lie in .*got nan"),
        (lambda: losses.guidance(average, average, scale=1.0, mix=0.0, low=NAN), "got low nan"),
        (lambda: losses.guidance(average, average, scale=1.0, mix=0.0, high=NAN), "high nan"),
        (
            lambda: empirical.velocity(paths.Path(lambda t: t, lambda t: NAN * t), X[None], X, 0.5),
            "sigma must be positive, got nan",
        ),
        (
            lambda: path_error.bound(
                lambda x, t: -jnp.sum(x**2), gaussian, X[:, None], NAN, jnp.array([0.2, 0.8])
            ),
            "cell must be positive, got nan",
        ),
        (lambda: samplers.adaptive(gaussian, X, atol=NAN), "must be positive, got 1e-05, nan"),
        (lambda: samplers.fixed(gaussian, X, NAN), r"t0 must lie in \[0, 1\], got nan"),
        (lambda: samplers.memoryless_sde(jax.random.key(0), gaussian, PATH, X, NAN), "got nan"),
        (lambda: paths.smoothed(PATH, NAN), "bandwidth must not be negative, got nan"),
        (lambda: empirical.reweighted(X[:, None], np.array([1.0, NAN])), "weights must be finite"),
    ],
)
def test_options_that_are_nan_are_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call()
