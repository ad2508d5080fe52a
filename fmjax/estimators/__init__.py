"""Trace and diagonal of a Jacobian from random probes, each with its standard error.

An estimator is a function `(key, f, x) -> (f(x), Estimate)`. With `J = df/dx`, d entries and K
probes z that have `E[z z^T] = I`, `hutchinson` and `bekas` average

    E[z^T J z] = tr J,        E[z * J z] = diag J                                 (1)

without bias. One probe has the variance, with S = (J + J^T) / 2 and for entry i,

    trace     Rademacher  2 (||S||_F^2 - sum_i S_ii^2)     Gaussian  2 ||S||_F^2  (2)
    diagonal  Rademacher  sum_{j != i} J_ij^2              Gaussian  sum_j J_ij^2 + J_ii^2

so the error falls as 1 / sqrt(K). The other estimators first build a low-rank approximation of J
from the probes Z. It is a projection on `Q = orth(J Z)`, or `J Z (Z^T J Z)^+ Z^T J` (Nystrom) where
J is symmetric and positive semi-definite. They take this part exactly and estimate the rest by (1).
The estimate is unbiased only if the probe in (1) did not help to build Q. So each probe is left out
in turn, here for the trace (P_i projects on `J Z_-i`):

    T_i = tr(P_i J) + z_i^T (I - P_i) J (I - P_i) z_i,     T = mean_i T_i         (3)

The error falls as the eigenvalues of J do. On two posterior covariances C of 28x28 digits, with an
effective rank `tr^2 / ||C||_F^2` of about 10, 16 products with C gave:

* trace: an error of 10 % by (1), 7 % by `xtrace` (8 probes), 4 % by `xnystrace` (16 probes)
* diagonal: a correlation with the exact map of 0.37 (`bekas`), 0.6 (`xdiag`), 0.87 (`xnysdiag`)

The standard error

    standard error = sqrt( sum_i (T_i - T)^2 / (K (K - 1)) )                      (4)

is exact in mean square for the independent terms in (1). The T_i in (3) share probes:
`K E[(4)^2] = Var T_i - Cov(T_i, T_j)`, while `K Var T = Var T_i + (K - 1) Cov(T_i, T_j)`. There (4)
gives only the order of the error: in measurements it was 0.5 to 1.1 times the true error.

What to know before use
* x*-estimators are exact, with standard error zero, for `d <= 2 num_probes`.
* `num_probes` tangents are computed at once (`vmap` in matfree), times the batch of your vmap.
  Where d tangents are affordable, `fmjax.divergence` is exact in the memory of one chunk.
* jaxlib 0.10 can hang in a large `vmap` of the QR of `xtrace` and `xdiag` on a CPU with two
  cores; use `jax.lax.map` over the batch there.
* Give `xnystrace` and `xnysdiag` the field `(sigma^2 / alpha) E[x1 | x_t = x]`: its Jacobian is
  the posterior covariance. Never give them a velocity, whose Jacobian is indefinite.
* Derivatives of x*-estimators pass through a QR or an eigendecomposition. They do not exist where
  the rank of the Jacobian is below `num_probes`; differentiate `hutchinson` and `bekas`.

References:
  Hutchinson (1989), A stochastic estimator of the trace of the influence matrix.
  Bekas, Kokiopoulou and Saad (2007), An estimator for the diagonal of a matrix.
  Epperly, Tropp and Webber (2024), XTrace: Making the Most of Every Sample in Stochastic Trace
  Estimation, arXiv 2301.07825.
  Epperly (2025), Make the Most of What You Have, arXiv 2512.15929.
  Kraemer et al. (2024), Gradients of Functions of Large Matrices, arXiv 2405.17277 (matfree).
  [kraemer2024gradients]
"""

from fmjax._jacobian import Estimate
from fmjax.estimators.leave_one_out import xdiag, xnysdiag, xnystrace, xtrace
from fmjax.estimators.probes import as_divergence, bekas, hutchinson

__all__ = [
    "Estimate",
    "as_divergence",
    "bekas",
    "hutchinson",
    "xdiag",
    "xnysdiag",
    "xnystrace",
    "xtrace",
]
