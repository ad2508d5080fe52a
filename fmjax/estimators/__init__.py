"""Trace and diagonal of a Jacobian from random probes, each with its standard error.

An estimator is a function `(key, f, x) -> (f(x), Estimate)`. With `J = df/dx`, d entries and K
probes z that have `E[z z^T] = I`, `hutchinson` and `bekas` average

    E[z^T J z] = tr J,        E[z * J z] = diag J                                 (1)

without bias. One probe has the variance, with S = (J + J^T) / 2 and for entry i,

    trace     Rademacher  2 (||S||_F^2 - sum_i S_ii^2)     Gaussian  2 ||S||_F^2  (2)
    diagonal  Rademacher  sum_{j != i} J_ij^2              Gaussian  sum_j J_ij^2 + J_ii^2

so the error falls as 1 / sqrt(K). The others first remove what the probes Z have found: `Q =
orth(J Z)`, or `J Z (Z^T J Z)^+ Z^T J` (Nystrom) where J is symmetric and positive semi-definite,
is taken exactly, and (1) estimates the rest. To be free of bias the probe of (1) must not have
made Q, so each probe is left out in turn, as here for the trace (P_i projects on `J Z_-i`),

    T_i = tr(P_i J) + z_i^T (I - P_i) J (I - P_i) z_i,     T = mean_i T_i         (3)

and the error falls as the eigenvalues do. On two posterior covariances of 28x28 digits, whose
effective rank `tr^2 / ||C||_F^2` is about 10, 16 products with C give the trace to 10 % by (1), to
7 % by `xtrace` with 8 probes and to 4 % by `xnystrace` with 16; and a map of the diagonal that
correlates with the exact one by 0.37 (`bekas`), 0.6 (`xdiag`) and 0.87 (`xnysdiag`).

    standard error = sqrt( sum_i (T_i - T)^2 / (K (K - 1)) )                      (4)

is exact in mean square for independent terms (1). The T_i of (3) share probes: `K E[(4)^2] =
Var T_i - Cov(T_i, T_j)` while `K Var T = Var T_i + (K - 1) Cov(T_i, T_j)`, so there (4) is the
order of the error and no more: between 0.5 and 1.1 times the true one where measured.

What to know before use
* x*-estimators are exact, with standard error zero, for `d <= 2 num_probes`.
* `num_probes` tangents are in flight (`vmap` in matfree), times the batch of the caller's vmap.
  Where d tangents are affordable, `fmjax.divergence` is exact in the memory of one chunk.
* jaxlib 0.10 can stop for good in a large `vmap` of the QR of `xtrace` and `xdiag` on a CPU of
  two cores; take `jax.lax.map` over the batch there.
* Which f: `xnys*` want the Jacobian of `(sigma^2 / alpha) E[x1 | x_t = x]`, which is the
  posterior covariance, and never that of a velocity, which is indefinite. See `xnystrace`.
* Derivatives of x*-estimators pass through a QR or an eigendecomposition and are lost where
  the Jacobian's rank is below `num_probes`; differentiate `hutchinson` and `bekas`.

References:
  Hutchinson (1989), A stochastic estimator of the trace of the influence matrix.
  Bekas, Kokiopoulou and Saad (2007), An estimator for the diagonal of a matrix.
  Epperly, Tropp and Webber (2024), XTrace: Making the Most of Every Sample in Stochastic Trace
  Estimation, arXiv 2301.07825.
  Epperly (2025), Make the Most of What You Have, arXiv 2512.15929.
  Kraemer et al. (2024), Gradients of Functions of Large Matrices, arXiv 2405.17277 (matfree).
  [kraemer2024gradients]
"""

from fmjax.estimators._common import Estimate
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
