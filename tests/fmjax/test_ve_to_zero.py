"""The variance-exploding path to zero against long doubles, and at its singular end."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fmjax import paths, posterior

OPTIMIZED = True

LOW, HIGH = 1e-3, 300.0
TIMES = np.array([0.0, 0.03, 0.2, 0.5, 0.77, 0.95, 0.999, 1 - 2.0**-14, 1 - 2.0**-23])


def _by_hand(t):
    """Returns sigma and its derivative in long doubles: LOW sqrt(r^(2 (1 - t)) - 1)."""
    s = 1 - np.asarray(t, np.longdouble)
    rate = np.log(np.longdouble(HIGH) / np.longdouble(LOW))
    sigma = np.longdouble(LOW) * np.sqrt(np.expm1(2 * rate * s))
    return sigma, -(np.longdouble(LOW) ** 2) * rate * np.exp(2 * rate * s) / sigma


def _coefficients(t):
    return jax.vmap(lambda t: paths.coefficients(paths.ve_to_zero(LOW, HIGH), t))(t)


def _compare(ours, t, rtol):
    sigma, sigma_dot = _by_hand(t)
    np.testing.assert_array_equal(ours.alpha, np.ones(len(t)))
    np.testing.assert_array_equal(ours.alpha_dot, np.zeros(len(t)))
    np.testing.assert_allclose(ours.sigma, np.float64(sigma), rtol=rtol)
    np.testing.assert_allclose(ours.sigma_dot, np.float64(sigma_dot), rtol=rtol)


@pytest.mark.slow
def test_coefficients_equal_those_by_hand(x64):
    _compare(_coefficients(jnp.asarray(TIMES)), TIMES, 1e-14)


@pytest.mark.slow
def test_coefficients_keep_their_digits_in_float32_up_to_the_last_time_before_one():
    # The largest error is at the noise end, where the rounding of t meets an exponent of 25.
    t = TIMES.astype(np.float32)
    ours = _coefficients(jnp.asarray(t))
    _compare(ours, t, 2e-6)
    late = t > 0.9
    sigma, sigma_dot = _by_hand(t[late])
    np.testing.assert_allclose(ours.sigma[late], np.float64(sigma), rtol=3e-7)
    np.testing.assert_allclose(ours.sigma_dot[late], np.float64(sigma_dot), rtol=3e-7)


@pytest.mark.slow
def test_it_is_ve_with_the_last_noise_taken_off(x64):
    t = jnp.asarray(TIMES[:-1])
    ours = jax.vmap(paths.ve_to_zero(0.02, 40.0).sigma)(t)
    other = jax.vmap(paths.ve(0.02, 40.0).sigma)(t)
    np.testing.assert_allclose(ours**2 + 0.02**2, other**2, rtol=1e-13)


def test_the_end_has_no_noise_and_an_infinite_derivative():
    end = paths.coefficients(paths.ve_to_zero(), 1.0)
    assert (float(end.sigma), float(end.sigma_dot)) == (0.0, -np.inf)
    assert float(paths.ve_to_zero().sigma(0.0)) == pytest.approx(300.0, rel=1e-6)


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (-1e-3, 1.0), (1.0, 1.0), (2.0, 1.0)])
def test_wrong_scales_are_refused(low, high):
    with pytest.raises(ValueError, match=f"0 < sigma_min < sigma_max, got {low} and {high}"):
        paths.ve_to_zero(low, high)


def test_the_posterior_along_it_equals_the_closed_form(x64):
    # Of N(m, s^2): mean (sigma^2 m + s^2 x) / S and variance s^2 sigma^2 / S, S = s^2 + sigma^2.
    # From sigma = 160, where the formula multiplies the rounding of J by sigma^2 / 12.6, to 0.006.
    path, m, s = paths.ve_to_zero(), 0.7, 0.6
    t = np.array([0.05, 0.3, 0.6, 0.9, 0.99, 0.999])
    sigma = np.float64(_by_hand(t)[0])
    x = m + np.sqrt(s**2 + sigma**2) * np.array([1.3, -0.4, 0.8, -2.0, 0.1, 1.1])

    def velocity(x, t):
        c = paths.coefficients(path, t)
        return c.sigma_dot * c.sigma / (s**2 + c.sigma**2) * (x - m)

    both = lambda x, t: (
        posterior.mean(velocity, path, x, t),
        posterior.trace(velocity, path, x, t),
    )
    mean, variance = jax.jit(jax.vmap(both))(x, t)
    total = s**2 + sigma**2
    np.testing.assert_allclose(mean, (sigma**2 * m + s**2 * x) / total, rtol=1e-11)
    np.testing.assert_allclose(variance, s**2 * sigma**2 / total, rtol=1e-8)
