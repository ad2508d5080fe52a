"""Flow matching of categories: letters of a sequence as points on the simplex.

A letter of K classes is a corner `e_i` of the simplex; a sequence is a point `[*positions, K]`
whose last axis sums to one. Noise is uniform on the simplex, at t = 0. Given its class, every
position moves by itself along a path of densities with the velocity

    u_t(x | e_i) = C(x_i, t) (e_i - x)                                            (1)

and a network predicts the class of every position from the whole noisy sequence, as logits with
probabilities p. The velocity of the model is the mean of (1) under these,

    v_t(x) = sum_j p_j(x, t) C(x_j, t) (e_j - x)                                  (2)

at every position. It is tangent: its entries sum to zero, and so a divergence is the trace over
the K - 1 directions within the simplex.

* paths: `linear` and `dirichlet`, a `Path` of pure functions; `coefficient`, the C of the latter
* fields: `velocity` of probabilities, `as_velocity` of a network, `posterior`, the exact
  probabilities for a finite data set
* divergence: `divergence`, exact; `tangent_probe` for `fmjax.divergence.hutchinson`
* losses: `cross_entropy`, `cdm` and `fdm`, with the conditional `residual`
* `sample`, by Euler's method; `uniform`, the noise

References:
  Stark et al. (2024), Dirichlet Flow Matching with Applications to DNA Sequence Design, arXiv
  2402.05841.
  Huang et al. (2025), Improving Flow Matching by Aligning Flow Divergence, arXiv 2602.00869.
"""

from fmjax.simplex.fields import (
    as_velocity,
    divergence,
    posterior,
    tangent_probe,
    velocity,
)
from fmjax.simplex.losses import cdm, cross_entropy, fdm, residual
from fmjax.simplex.paths import Path, coefficient, dirichlet, linear
from fmjax.simplex.sampling import sample, uniform

__all__ = [
    "Path",
    "as_velocity",
    "cdm",
    "coefficient",
    "cross_entropy",
    "dirichlet",
    "divergence",
    "fdm",
    "linear",
    "posterior",
    "residual",
    "sample",
    "tangent_probe",
    "uniform",
    "velocity",
]
