"""Prediction rows and conversions; all pairs are in `tests/measured/identities.py`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fmjax import paths, predictions, samplers


def test_targets_of_a_pair_by_hand():
    # Linear path at t = 0.25: alpha = 0.25, sigma = 0.75, derivatives 1 and -1.
    x0, x1 = jnp.array([1.0, -2.0]), jnp.array([3.0, 5.0])
    expected = {
        predictions.velocity: x1 - x0,
        predictions.x1: x1,
        predictions.x0: x0,
        predictions.score: -x0 / 0.75,
        predictions.v: 0.25 * x0 - 0.75 * x1,
    }
    for kind, truth in expected.items():
        ours = predictions.target(kind, paths.linear(), x0, x1, 0.25)
        np.testing.assert_allclose(ours, truth, rtol=1e-6, err_msg=kind.__name__)


@pytest.mark.slow
def test_velocity_target_is_the_time_derivative_of_the_path():
    x0, x1 = jnp.array([1.0, -2.0]), jnp.array([3.0, 5.0])
    for path in (paths.linear(0.1), paths.cosine(), paths.vp(), paths.ve(0.1, 5.0)):
        move = lambda t, path=path: paths.interpolate(path, x0, x1, t)
        ours = predictions.target(predictions.velocity, path, x0, x1, 0.4)
        np.testing.assert_allclose(ours, jax.jacfwd(move)(0.4), rtol=1e-5)


def test_score_target_is_the_gradient_of_the_conditional_log_density():
    path, x0, x1 = paths.cosine(), jnp.array([1.0, -2.0]), jnp.array([3.0, 5.0])
    log_density = lambda x: -0.5 * jnp.sum((x - path.alpha(0.4) * x1) ** 2) / path.sigma(0.4) ** 2
    x = paths.interpolate(path, x0, x1, 0.4)
    ours = predictions.target(predictions.score, path, x0, x1, 0.4)
    np.testing.assert_allclose(ours, jax.grad(log_density)(x), rtol=1e-5)


def test_a_kind_of_ones_own_is_a_function_of_two_numbers():
    difference = lambda path, t: (jnp.ones_like(t), -jnp.ones_like(t))  # x1 - x0
    x0, x1 = jnp.array([1.0, -2.0]), jnp.array([3.0, 5.0])
    path = paths.cosine()
    x = paths.interpolate(path, x0, x1, 0.4)
    made = predictions.convert(path, x1 - x0, x, 0.4, given=difference, wanted=predictions.x1)
    np.testing.assert_allclose(made, x1, rtol=1e-5)


def test_velocity_is_never_singular():
    x = jnp.array([1.0, -2.0])
    for t in (0.0, 1.0):
        for path in (paths.linear(), paths.cosine()):
            for wanted in (predictions.x1, predictions.x0):
                made = predictions.convert(
                    path, 2 * x, x, t, given=predictions.velocity, wanted=wanted
                )
                assert bool(jnp.all(jnp.isfinite(made)))


@pytest.mark.slow
def test_float32_error_of_all_pairs_is_a_few_units_in_the_last_place_times_conditioning(x64):
    kinds = (
        predictions.velocity, predictions.x1, predictions.x0, predictions.score, predictions.v
    )  # fmt: skip
    x0, x1 = jax.random.normal(jax.random.key(0), (2, 64)) + 0.5
    worst = 0.0
    for path in (paths.linear(), paths.cosine(), paths.vp()):
        for t in (0.05, 0.5, 0.9):
            x = paths.interpolate(path, x0, x1, t)
            for given in kinds:
                for wanted in kinds:
                    value = predictions.target(given, path, x0, x1, t).astype(jnp.float32)
                    made = predictions.convert(
                        path, value, x.astype(jnp.float32), jnp.float32(t),
                        given=given, wanted=wanted,
                    )  # fmt: skip
                    truth = predictions.target(wanted, path, x0, x1, t)
                    error = jnp.linalg.norm(made - truth) / jnp.linalg.norm(truth)
                    worst = max(worst, float(error))
    assert worst < 1e-4, worst


def test_shapes_that_differ_are_named():
    with pytest.raises(ValueError, match=r"value \(3,\), x \(2,\)"):
        predictions.convert(
            paths.linear(), jnp.zeros(3), jnp.zeros(2), 0.5,
            given=predictions.velocity, wanted=predictions.x1,
        )  # fmt: skip


KINDS = (
    predictions.velocity, predictions.x1, predictions.x0, predictions.score, predictions.v
)  # fmt: skip


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_a_model_of_any_kind_that_counts_from_the_data_by_hand(kind, x64):
    # Data N(2, 9) on the path (1 - s) x1 + s x0, everything in s: with total variance
    # V = 9 (1 - s)^2 + s^2 and g = x - 2 (1 - s), the two means and the score are
    def theirs(x, s):
        total, gap = 9 * (1 - s) ** 2 + s**2, x - 2 * (1 - s)
        data, noise = 2 + 9 * (1 - s) * gap / total, s * gap / total
        return {
            predictions.velocity: noise - data,  # dx/ds
            predictions.x1: data,
            predictions.x0: noise,
            predictions.score: -gap / total,
            predictions.v: (1 - s) * noise - s * data,
        }[kind]

    ours = predictions.reverse_time(theirs, paths.linear(), given=kind)
    straight = predictions.as_velocity(
        lambda x, t: theirs(x, 1 - t) * (-1 if kind is predictions.velocity else 1),
        paths.linear(), given=kind,
    )  # fmt: skip
    x = jnp.array([0.7, -1.3])
    for t in (0.1, 0.5, 0.9):
        total, gap = 9 * t**2 + (1 - t) ** 2, x - 2 * t
        truth = 2 + (9 * t - (1 - t)) * gap / total
        np.testing.assert_allclose(ours(x, t), truth, rtol=1e-13)
        np.testing.assert_allclose(straight(x, t), truth, rtol=1e-13)


def test_models_of_another_kind_name_wrong_input():
    path, x = paths.linear(), jnp.ones(2)
    for make in (predictions.as_velocity, predictions.reverse_time):
        short = make(lambda x, t: x[:1], path, given=predictions.x1)
        with pytest.raises(ValueError, match=r"x \(2,\), model \(1,\)"):
            short(x, 0.5)
        field = make(lambda x, t: x, path, given=predictions.x1)
        with pytest.raises(ValueError, match="must be a scalar"):
            field(x, jnp.ones(2))
        with pytest.raises(ValueError, match="must lie in"):
            field(x, 1.5)
    assert predictions.reverse_time(lambda x, s: -s * x, path)(x, 0).tolist() == [1.0, 1.0]


@pytest.mark.parametrize(
    "path", [paths.linear(), paths.cosine(), paths.vp()], ids=["linear", "cosine", "vp"]
)
@pytest.mark.parametrize(
    "kind", [k for k in KINDS if k is not predictions.velocity], ids=lambda kind: kind.__name__
)
def test_models_of_every_kind_are_finite_at_both_ends_and_near_the_limit(kind, path):
    # Data N(2, 9): with V = 9 alpha^2 + sigma^2 and g = x - 2 alpha the means and the score are
    def model(x, t):
        alpha, sigma = path.alpha(t), path.sigma(t)
        total, gap = 9 * alpha**2 + sigma**2, x - 2 * alpha
        data, noise = 2 + 9 * alpha * gap / total, sigma * gap / total
        return {
            predictions.x1: data, predictions.x0: noise, predictions.score: -gap / total,
            predictions.v: alpha * noise - sigma * data,
        }[kind]  # fmt: skip

    field = predictions.as_velocity(model, path, given=kind)
    theirs = predictions.reverse_time(lambda x, s: model(x, 1 - s), path, given=kind)
    x = jnp.array([0.7, -1.3, 4.0])
    for t in (0.0, 1.0, jnp.float32(0.0), jnp.float32(1.0)):
        ours = field(x, t)
        assert bool(jnp.all(jnp.isfinite(ours)))
        np.testing.assert_allclose(theirs(x, t), ours, rtol=1e-3)
        if path.sigma(jnp.float32(0.5)) == paths.vp().sigma(jnp.float32(0.5)):
            continue  # its velocity is infinite at the data
        c = paths.coefficients(path, t)
        total = 9 * c.alpha**2 + c.sigma**2
        pull = (9 * c.alpha * c.alpha_dot + c.sigma * c.sigma_dot) / total
        np.testing.assert_allclose(ours, 2 * c.alpha_dot + pull * (x - 2 * c.alpha), atol=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("solve", [samplers.fixed, samplers.adaptive], ids=["fixed", "adaptive"])
def test_a_model_of_the_noise_is_sampled_from_the_noise_to_the_data(solve):
    # Data N(2, 9): the flow carries z to 2 + 3 z.
    noise = lambda x, t: (1 - t) * (x - 2 * t) / (9 * t**2 + (1 - t) ** 2)
    data = lambda x, t: 2 + 9 * t * (x - 2 * t) / (9 * t**2 + (1 - t) ** 2)
    z, path = jnp.array([0.7, -1.3, 0.0]), paths.linear()
    field = predictions.as_velocity(noise, path, given=predictions.x0)
    np.testing.assert_allclose(solve(field, z), 2 + 3 * z, rtol=5e-3)
    back = predictions.as_velocity(data, path, given=predictions.x1)
    np.testing.assert_allclose(solve(back, 2 + 3 * z, 1.0, 0.0), z, atol=1e-2)


def test_a_velocity_needs_no_conversion_where_its_row_is_infinite():
    path, x = paths.vp(), jnp.array([0.7, -1.3])
    field = lambda x, t: t * x
    for t in (0.5, 0.9995, 1.0):
        ours = predictions.as_velocity(field, path, given=predictions.velocity)(x, t)
        np.testing.assert_allclose(ours, t * x, rtol=1e-6)
        ours = predictions.reverse_time(lambda x, s: -(1 - s) * x, path)(x, t)
        np.testing.assert_allclose(ours, t * x, rtol=1e-6)


@pytest.mark.slow
def test_a_row_that_is_nowhere_singular_is_left_alone_and_its_derivative_in_time_is_whole():
    field = predictions.as_velocity(lambda x, t: t * x, paths.linear(), given=predictions.v)
    x = jnp.array(1.0)
    for t in (0.0, 1e-4, 0.9999, 1.0):
        # v = -sigma x1 + alpha x0: velocity = [x1 - x0], by hand for the linear path.
        wanted = jax.jvp(lambda t: _from_v(t * x, x, t), (t,), (1.0,))
        ours = jax.jvp(lambda t: field(x, t), (t,), (1.0,))
        np.testing.assert_allclose(ours, wanted, rtol=1e-5, atol=1e-5)


def _from_v(v, x, t):
    """The velocity x1 - x0 from v = t x0 - (1 - t) x1 and x = t x1 + (1 - t) x0."""
    total = t**2 + (1 - t) ** 2
    x1, x0 = (t * x - (1 - t) * v) / total, ((1 - t) * x + t * v) / total
    return x1 - x0


def test_a_margin_outside_the_path_is_refused():
    for margin in (0.0, 0.5, -1e-3, float("nan")):
        with pytest.raises(ValueError, match="margin must lie between 0 and 1/2"):
            predictions.as_velocity(
                lambda x, t: x, paths.linear(), given=predictions.x0, margin=margin
            )
