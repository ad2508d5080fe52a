"""The uncertainty of one-step models: exact statements, approximations, and a wrong formula.

A model of average velocities u(x, r, t) (MeanFlow) carries x at time t to

    x_r = x + (r - t) u(x, r, t),        G(x0) = x0 + u(x0, 1, 0)                     (1)

the sample of the noise x0 (`samplers.flow_map`, `samplers.one_step`).
`C(x, t) = Cov[x1 | x_t = x]` is the posterior covariance of `fmjax.posterior` and
`J_t(x) = I + (1 - t) grad u(x, 1, t)` the Jacobian of the map (1) from t to the data. For an exact
u, trained without guidance on noise drawn independently of the data, on the linear path:

    statement                                                    verdict
    E1  C = (1 - t)^2 / t (I + (1 - t) grad u(x, t, t))           exact, at any 0 < t < 1: the h = 0
                                                                  slice is the velocity
    E2  at t = 0, C = Cov[x1] for every x0                        exact, a constant: the noise says
                                                                  nothing about the data
    E3  Cov[G(x0) | x0] = 0                                       exact: G draws nothing
    E4  log p(G(x0)) = log N(x0) - log |det J_0(x0)|              exact: a density, no covariance
    E5  E1 with u(x, 1, t) for u(x, t, t)                         wrong: it is (1 - t)^2 / t J_t
    E6  S(x, t) = sigma_t^2 J_t J_t^T                             exact for Gaussian data, and the
                                                                  more so the nearer to the data
    E7  the covariance of G(x + e) for small e                    first order: J Cov[e] J^T

E1 in the form (2) of `fmjax.posterior` holds on every path, E6 on paths with alpha(1) = 1 and
sigma(1) = 0. So "the uncertainty of a generated sample" can mean three questions, each with its
function:

* How ambiguous is this sample at noise level t? `renoised`, E1 at a state made from it.
* How would it change with the noise? `sensitivity`, E6. For Gaussian data it equals C,
  `S = sigma^2 Sigma (alpha^2 Sigma + sigma^2 I)^-1`, and it is close to C where the posterior has
  one mode. With several modes S is the spread within one mode, and large at the borders between
  modes. So tr S has heavy tails over x0: report its median, not its mean.
* What is known before anything is drawn? `prior`, E2. At t = 0 no network can improve on it: E1 is
  0 times infinity there, and evaluating it only shows the network's error.

fmjax does not implement E5. For Gaussian data it is
`(1 - t)^2 / t Sigma^{1/2} (t^2 Sigma + (1 - t)^2 I)^{-1/2}`, which is above C in every direction
and infinite at the noise end. None of these functions measures how uncertain the network's weights
are.

References:
  Geng et al. (2025), Mean Flows for One-step Generative Modeling, arXiv 2505.13447.
  Xing, Wang and Wang (2026), Divergence is Uncertainty, arXiv 2605.00941, section 4.5.
"""

from fmjax.onestep.jacobian import (
    sensitivity,
    sensitivity_diagonal,
    sensitivity_estimate,
    sensitivity_trace,
)
from fmjax.onestep.states import Prior, instantaneous, prior, renoised, reverse_time

__all__ = [
    "Prior",
    "instantaneous",
    "prior",
    "renoised",
    "reverse_time",
    "sensitivity",
    "sensitivity_diagonal",
    "sensitivity_estimate",
    "sensitivity_trace",
]
