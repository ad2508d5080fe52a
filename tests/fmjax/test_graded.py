"""Times that share a density evenly, against closed forms and against other times."""

from functools import partial

import jax.numpy as jnp
import numpy as np
import pytest

from fmjax import samplers
from tests import slow


@slow.but_the_first("power", [0.5, 1.0, 3.0])
def test_of_a_power_of_time_they_are_a_closed_form(x64, power):
    fine = np.linspace(0.0, 1.0, 20001)
    found = samplers.graded(fine, fine**power, 7)
    np.testing.assert_allclose(found, np.linspace(0, 1, 8) ** (1 / (power + 1)), atol=2e-6)


def test_every_interval_has_the_same_share(x64):
    fine = np.linspace(0.2, 0.9, 141)
    density = np.exp(-5 * fine) + 3 * (fine > 0.6)
    found = samplers.graded(fine, density, 13)
    sums = np.concatenate([[0], np.cumsum(np.diff(fine) * (density[1:] + density[:-1]) / 2)])
    shares = np.diff(np.interp(found, fine, sums))
    np.testing.assert_allclose(shares, sums[-1] / 13, rtol=1e-10)
    assert (float(found[0]), float(found[-1])) == (0.2, 0.9)


def test_no_other_times_have_a_smaller_sum_of_local_errors(x64):
    # Of Euler's method, whose error of a step is c h^2: the density is the root of c.
    fine = np.linspace(0.0, 1.0, 4001)
    size = lambda t: 0.05 + 4 * np.exp(-60 * (t - 0.7) ** 2)
    inner = np.asarray(samplers.graded(fine, np.sqrt(size(fine)), 40))
    total = lambda times: np.sum(size((times[1:] + times[:-1]) / 2) * np.diff(times) ** 2)
    rng = np.random.default_rng(0)
    for _ in range(100):
        moved = inner.copy()
        moved[1:-1] += (
            0.2 * rng.normal(size=39) * np.minimum(np.diff(inner)[1:], np.diff(inner)[:-1])
        )
        assert total(moved) > total(inner)
    assert total(np.linspace(0, 1, 41)) > 1.5 * total(inner)


def test_a_solver_along_them_errs_less_where_the_field_is_steep(x64):
    field, fine = lambda x, t: 3 / (1.02 - t), jnp.linspace(0.0, 1.0, 1001)
    # Heun's method has order 2 and errs by the second derivative of the field, 6 / (1.02 - t)^3.
    times = samplers.graded(fine, 1 / (1.02 - fine), 24)
    one, exact = partial(samplers.fixed, num_steps=1), 3 * np.log(1.02 / 0.02)
    off = [
        abs(float(samplers.trajectory(field, jnp.array(0.0), times, solve=one)[-1]) - exact)
        for times in (jnp.linspace(0, 1, 25), times)
    ]
    assert off[1] < 0.1 * off[0]


def test_without_a_density_the_steps_are_equal_and_a_nan_stays():
    times = jnp.array([0.0, 0.1, 1.0])
    np.testing.assert_allclose(samplers.graded(times, jnp.zeros(3), 4), np.linspace(0, 1, 5))
    found = samplers.graded(times, jnp.array([1.0, jnp.nan, 1.0]), 4)
    assert np.isnan(found[-1])
    half = samplers.graded(times, jnp.array([0, 1, 4], jnp.bfloat16), 3)
    assert half.dtype == jnp.float32


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([0.0, 1.0], np.ones(3), 4), r"times \(2,\), density \(3,\)"),
        (([0.0, 1.0], np.ones(2), 0), "num_steps must be at least 1, got 0"),
        (([0.0], np.ones(1), 2), "times must be a vector of two or more"),
        (([0.0, 2.0], np.ones(2), 2), r"in \[0, 1\]"),
        (([0.0, 1.0], 1j * np.ones(2), 2), "complex"),
    ],
)
def test_bad_input_is_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        samplers.graded(*arguments)
