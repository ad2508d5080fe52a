"""Complex data are refused: the library's squares and densities are of real numbers."""

import jax
import jax.numpy as jnp
import pytest

from fmjax import (
    collapse,
    couplings,
    divergence,
    empirical,
    estimators,
    events,
    likelihood,
    losses,
    onestep,
    path_error,
    paths,
    posterior,
    predictions,
    samplers,
    toy,
)

KEY, PATH, BANK = jax.random.key(0), paths.linear(), jnp.ones((3, 2))
Z = jnp.array([1j, 2j])


def still(x, *_):
    return 0 * x


CALLS = {
    "cfm": lambda: losses.cfm(still, PATH, 0 * Z, Z, 0.5),
    "gaussian_nll": lambda: losses.gaussian_nll(lambda x, t: (x, x), PATH, 0 * Z, Z, 0.5),
    "cdm": lambda: losses.cdm(still, PATH, 0 * Z, Z, 0.5),
    "fdm": lambda: losses.fdm(still, PATH, jnp.zeros(2), Z, 0.5, weight=0),
    "efm": lambda: losses.efm(still, PATH, BANK, 0 * Z, Z, 0.5),
    "dm": lambda: losses.dm(still, PATH, BANK, 0 * Z, Z, 0.5, weight=0),
    "of_large_bank": lambda: losses.of_large_bank(PATH, BANK, 0 * Z, Z, 0.5),
    "meanflow": lambda: losses.meanflow(still, PATH, 0 * Z, Z, 0.7, 0.5),
    "fixed": lambda: samplers.fixed(still, Z),
    "adaptive": lambda: samplers.adaptive(still, Z),
    "a pair of states": lambda: samplers.fixed(still, (Z.real, Z)),
    "memoryless_sde": lambda: samplers.memoryless_sde(KEY, still, PATH, Z, 0.1),
    "few_step": lambda: samplers.few_step(still, Z, [0.0, 1.0]),
    "log_prob": lambda: likelihood.log_prob(still, Z),
    "standard_normal": lambda: likelihood.standard_normal(Z),
    "velocity of a bank": lambda: empirical.velocity(PATH, BANK, Z, 0.5),
    "posterior mean": lambda: posterior.mean(still, PATH, Z, 0.5),
    "prior_covariance": lambda: posterior.prior_covariance(jnp.eye(2) * 1j, PATH, 0.5),
    "collapse": lambda: collapse.information(PATH, Z, 0.5),
    "exact": lambda: divergence.exact(still, Z),
    "unrolled": lambda: divergence.unrolled(still, Z),
    "chunked": lambda: divergence.chunked(still, Z),
    "hutchinson": lambda: divergence.hutchinson(KEY, still, Z),
    "xtrace": lambda: estimators.xtrace(KEY, still, Z, num_probes=2),
    "sensitivity": lambda: onestep.sensitivity_trace(still, PATH, Z),
    "event": lambda: events.log_probability(lambda x: x[0].real, still, PATH, Z, 0.5),
    "moons": lambda: toy.moons().log_prob(Z),
    "mixture": lambda: toy.eight_gaussians().log_prob(Z),
    "checkerboard": lambda: toy.checkerboard().log_prob(Z),
    "path_error": lambda: path_error.residual(lambda x, t: 0.0, still, Z, 0.5),
    "convert": lambda: predictions.convert(
        PATH, Z, Z.real, 0.5, given=predictions.x1, wanted=predictions.x0
    ),
    "interpolate": lambda: paths.interpolate(PATH, 0 * Z, Z, 0.5),
    "coupling": lambda: couplings.minibatch_ot(KEY, BANK * 1j, BANK),
}


@pytest.mark.parametrize("name", CALLS)
def test_complex_data_are_refused(name):
    with pytest.raises(ValueError, match=r"\w+ must be real, got complex64: stack the real"):
        CALLS[name]()
