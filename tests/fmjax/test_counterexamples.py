"""Where the posterior identity does not hold: guided fields and coupled noise.

The identity itself is right in both cases about the velocity that it is given; that velocity is
not the conditional mean of independent pairs. Nothing in its output shows it but a negative
number, so the cases are pinned here with their true values.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fmjax import couplings, losses, onestep, paths, posterior
from tests.oracles import mixture as oracles

PATH = paths.linear()


def _gaussian(mean, variance):
    """Returns the velocity to N(mean, variance) on the line."""

    def velocity(x, t):
        total = t**2 * variance + (1 - t) ** 2
        return mean + (t * variance - (1 - t)) / total * (x - t * mean)

    return velocity


def _two_classes(x, t):
    """Returns the velocity to N(-1, 0.36) and N(1, 0.36) in equal parts."""
    score = -0.5 * (x - t * jnp.array([-1.0, 1.0])) ** 2 / (0.36 * t**2 + (1 - t) ** 2)
    weights = jax.nn.softmax(score)
    return weights[0] * _gaussian(-1.0, 0.36)(x, t) + weights[1] * _gaussian(1.0, 0.36)(x, t)


@pytest.mark.slow
def test_a_guided_field_has_a_negative_variance(x64):
    # By hand, at t = 1/2 and x = 0: Cov[x1 | x, class] = 0.36 / 1.36 = 9 / 34; the two class
    # means are +-25 / 34, so the unconditional variance is 9 / 34 + (25 / 34)^2.
    conditional, x = _gaussian(1.0, 0.36), jnp.array(0.0)
    guided = lambda x, t: 2.0 * conditional(x, t) - _two_classes(x, t)
    variances = [
        float(posterior.diagonal(field, PATH, x, 0.5))
        for field in (conditional, _two_classes, guided)
    ]
    expected = [9 / 34, 9 / 34 + (25 / 34) ** 2, 9 / 34 - (25 / 34) ** 2]
    np.testing.assert_allclose(variances, expected, rtol=1e-13)
    assert variances[2] == pytest.approx(-0.2759515570934256, rel=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("scale", [0.5, 2.0, 4.0])
def test_a_guided_field_mixes_the_covariances(scale, x64):
    # The mixture of tests/oracles/mixture.py, whose first component is the class.
    t, x = 0.5, jnp.array([-0.2, 0.3, 0.1])
    mu, sigma = oracles.MEANS[0], oracles.COVARIANCES[0]

    def conditional(x, t):
        pull = jnp.linalg.solve(t**2 * sigma + (1 - t) ** 2 * jnp.eye(3), x - t * mu)
        return mu + t * sigma @ pull - (1 - t) * pull

    law = lambda x, t: oracles.law(paths.coefficients(PATH, t), x)
    guided = lambda x, t: scale * conditional(x, t) + (1 - scale) * law(x, t).velocity
    ours = jax.jit(partial(posterior.covariance, guided, PATH))(x, t)
    total = t**2 * sigma + (1 - t) ** 2 * np.eye(3)
    own = (1 - t) ** 2 * sigma @ np.linalg.inv(total)
    np.testing.assert_allclose(ours, scale * own + (1 - scale) * law(x, t).covariance, atol=1e-13)
    assert (np.linalg.eigvalsh(ours).min() < -0.1) == (scale > 1)


@pytest.mark.slow
def test_a_network_trained_with_guidance_has_it_inside(x64):
    conditional, unconditional = _gaussian(1.0, 0.36), _two_classes
    learned = lambda x, r, t: 2.0 * conditional(x, t) - unconditional(x, t)  # at r = t
    # The target is affine in the velocity of the pair, so its mean given x_t is the guide at the
    # marginal velocity, and `learned` is the minimiser for any weight of its own slice.
    for mix in (0.0, 0.5):
        guide = losses.guidance(
            learned, lambda x, r, t: unconditional(x, t), scale=2.0 * (1.0 - mix), mix=mix
        )
        for x, t in ((jnp.array(0.3), 0.5), (jnp.array(-1.2), 0.8)):
            target = guide(conditional(x, t), x, t)
            np.testing.assert_allclose(target, learned(x, t, t), rtol=1e-13)
    # So E1 of `fmjax.onestep` is asked at the guided field; these two meet at 0 at t = 1/2.
    x0, x1 = jnp.array(-0.6), jnp.array(0.6)
    ours = float(onestep.renoised(learned, PATH, x0, x1, 0.5))
    assert ours == pytest.approx(9 / 34 - (25 / 34) ** 2, rel=1e-13)


@pytest.mark.slow
def test_a_monotone_coupling_has_no_variance_and_the_identity_says_two_thirds(x64):
    # N(0, 1) to N(0, 4) by x1 = 2 x0: x_t = (1 + t) x0 fixes x1, and the velocity is x / (1 + t).
    coupled, x = (lambda x, t: x / (1 + t)), jnp.array(0.8)
    assert float(posterior.diagonal(coupled, PATH, x, 0.5)) == pytest.approx(2 / 3, rel=1e-14)
    independent = _gaussian(0.0, 4.0)
    assert float(posterior.diagonal(independent, PATH, x, 0.5)) == pytest.approx(0.8, rel=1e-14)
    # The mean is wrong by nothing: x + (1 - t) v = 2 x / (1 + t).
    mean = posterior.mean(coupled, PATH, x, 0.5)
    assert float(mean) == pytest.approx(1.6 / 1.5, rel=1e-14)


@pytest.mark.slow
def test_minibatch_optimal_transport_is_such_a_coupling():
    # What is left of x1 once x_t is known, by a straight line through the pairs.
    n, t = 512, 0.5
    x0 = jax.random.normal(jax.random.key(0), (n, 1))
    x1 = 2.0 * jax.random.normal(jax.random.key(1), (n, 1))
    left = {}
    for name, coupling in (
        ("independent", couplings.independent),
        ("transport", couplings.minibatch_ot),
    ):
        a, b = (np.asarray(side)[:, 0] for side in coupling(jax.random.key(2), x0, x1))
        states = t * b + (1 - t) * a
        slope, offset = np.polyfit(states, b, 1)
        left[name] = np.mean((b - slope * states - offset) ** 2)
    assert left["transport"] < 0.05
    spread = 0.8 * np.sqrt(2 / n)  # of a sample variance about 0.8
    assert abs(left["independent"] - 0.8) < 5 * spread
