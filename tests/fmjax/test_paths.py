"""The paths against their closed-form derivatives, their ends, and wrong arguments."""

import pickle
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fmjax import paths, toy

OPTIMIZED = True

TIMES = np.array([0.01, 0.2, 0.5, 0.77, 0.99])


def _vp_coefficients(t, low=0.1, high=20.0):
    # By hand: T = low s + (high - low) s^2 / 2 with s = 1 - t, beta = dT/ds = -dT/dt.
    s = 1 - t
    total, beta = low * s + 0.5 * (high - low) * s**2, low + (high - low) * s
    alpha, sigma = np.exp(-total / 2), np.sqrt(1 - np.exp(-total))
    return alpha, sigma, alpha * beta / 2, -(alpha**2) * beta / (2 * sigma)


def _ve_coefficients(t, low=0.01, high=50.0):
    sigma = low**t * high ** (1 - t)
    return np.ones_like(t), sigma, np.zeros_like(t), sigma * np.log(low / high)


CLOSED = {
    "linear": (paths.linear(), lambda t: (t, 1 - t, 1 + 0 * t, -1 + 0 * t)),
    "linear, sigma_min": (paths.linear(0.2), lambda t: (t, 1 - 0.8 * t, 1 + 0 * t, -0.8 + 0 * t)),
    "cosine": (
        paths.cosine(),
        lambda t: (
            np.sin(np.pi * t / 2),
            np.cos(np.pi * t / 2),
            np.pi / 2 * np.cos(np.pi * t / 2),
            -np.pi / 2 * np.sin(np.pi * t / 2),
        ),
    ),
    "vp": (paths.vp(), _vp_coefficients),
    "ve": (paths.ve(), _ve_coefficients),
}


@pytest.mark.parametrize("name", CLOSED)
def test_coefficients_equal_the_derivatives_by_hand(name, x64):
    path, closed = CLOSED[name]
    ours = jax.vmap(lambda t: paths.coefficients(path, t))(jnp.asarray(TIMES))
    for mine, truth in zip(ours, closed(TIMES), strict=True):
        np.testing.assert_allclose(mine, truth, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("name", CLOSED)
def test_coefficients_keep_their_digits_in_float32(name):
    # vp near the noise is the hard one: expm1 alone would give sigma_dot to 8e-5 only.
    path, closed = CLOSED[name]
    ours = jax.vmap(lambda t: paths.coefficients(path, t))(jnp.asarray(TIMES, jnp.float32))
    for mine, truth in zip(ours, closed(TIMES.astype(np.float32).astype(float)), strict=True):
        np.testing.assert_allclose(mine, truth, rtol=4e-6, atol=1e-7)


@pytest.mark.parametrize("name", CLOSED)
def test_the_wronskian_is_positive(name):
    wronskian = jax.vmap(lambda t: paths.coefficients(CLOSED[name][0], t).wronskian)(TIMES)
    assert bool(jnp.all(wronskian > 0))


def test_ends():
    for path in (paths.linear(), paths.cosine()):
        assert (float(path.alpha(0.0)), float(path.sigma(0.0))) == (0.0, 1.0)
        assert (float(path.alpha(1.0)), float(path.sigma(1.0))) == (1.0, 0.0)
    assert float(paths.linear(0.1).sigma(1.0)) == pytest.approx(0.1)
    assert float(paths.vp().sigma(1.0)) == 0.0
    assert float(paths.ve().sigma(1.0)) == pytest.approx(0.01, rel=1e-5)


def test_paths_without_parameters_are_equal_so_that_compiled_code_is_shared():
    assert paths.linear() == paths.linear()
    assert paths.cosine() == paths.cosine()
    assert paths.linear() != paths.linear(0.1)


PICKLED = {
    "linear": paths.linear(),
    "linear with noise": paths.linear(0.1),
    "cosine": paths.cosine(),
    "vp": paths.vp(0.2, 15.0),
    "ve": paths.ve(0.02, 30.0),
    "ve_to_zero": paths.ve_to_zero(0.01, 100.0),
    "smoothed": paths.smoothed(paths.vp(), 0.25),
    "smoothed by an array": paths.smoothed(paths.linear(), jnp.float32(0.25)),
}


@pytest.mark.parametrize("name", PICKLED)
def test_paths_can_be_pickled(name):
    path = PICKLED[name]
    again = pickle.loads(pickle.dumps(path))
    for t in (0.1, 0.7):
        for ours, theirs in zip(
            paths.coefficients(again, t), paths.coefficients(path, t), strict=True
        ):
            np.testing.assert_array_equal(ours, theirs)
    if name in {"linear", "cosine"}:  # so compiled code is shared with the process that sent it
        assert again == path


@pytest.mark.slow  # a second interpreter has to import jax
def test_paths_and_laws_are_read_by_another_process(tmp_path):
    # As multiprocessing and Hydra do it: only the modules' names travel.
    sent = {"path": PICKLED["smoothed"], "law": toy.moons(0.2)}
    (tmp_path / "sent").write_bytes(pickle.dumps(sent))
    script = (
        "import pickle, sys; got = pickle.loads(open(sys.argv[1], 'rb').read()); "
        "print(float(got['path'].sigma(0.3)), got['law'].log_prob([0.3, 0.2]))"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "sent")]
    found = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    sigma, log_prob = float(sent["path"].sigma(0.3)), float(sent["law"].log_prob([0.3, 0.2]))
    np.testing.assert_allclose([float(number) for number in found], [sigma, log_prob], rtol=1e-5)


def test_a_path_of_ones_own_is_two_lines():
    path = paths.Path(alpha=lambda t: t**2, sigma=lambda t: 1 - t**2)
    c = paths.coefficients(path, 0.5)
    assert (float(c.alpha_dot), float(c.sigma_dot)) == (1.0, -1.0)


def test_interpolate_is_the_weighted_sum():
    x0, x1 = jnp.array([1.0, 2.0]), jnp.array([-3.0, 5.0])
    x = paths.interpolate(paths.cosine(), x0, x1, 1 / 3)
    np.testing.assert_allclose(x, 0.5 * x1 + np.sqrt(0.75) * x0, rtol=1e-6)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: paths.linear(1.0), "sigma_min must lie in"),
        (lambda: paths.linear(-0.1), "sigma_min must lie in"),
        (lambda: paths.vp(0.0, 1.0), "0 < beta_min"),
        (lambda: paths.vp(2.0, 1.0), "0 < beta_min"),
        (lambda: paths.ve(1.0, 1.0), "0 < sigma_min"),
        (lambda: paths.coefficients(paths.linear(), 1.5), "must lie in"),
        (lambda: paths.coefficients(paths.linear(), float("nan")), "must lie in"),
        (lambda: paths.coefficients(paths.linear(), np.float32(-0.1)), "must lie in"),
        (lambda: paths.coefficients(paths.linear(), jnp.zeros(3)), r"got shape \(3,\)"),
        (
            lambda: paths.interpolate(paths.linear(), jnp.zeros(2), jnp.zeros((4, 2)), 0.5),
            r"x0 \(2,\), x1 \(4, 2\)",
        ),
    ],
)
def test_wrong_arguments_are_named(call, words):
    with pytest.raises(ValueError, match=words):
        call()
