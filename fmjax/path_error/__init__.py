"""How far the law of a learned flow is from the law of the path that it was trained on.

Let p_t be the true law at time t, moved by the true velocity u, and q_t the law that a learned
velocity v makes out of the same noise. Both obey the continuity equation, so their difference
eps = p - q obeys the error equation

    d eps / dt + div(eps v) = -p r,    r = div(u - v) + (u - v) . grad log p      (1)

(Proposition 3.1). Since `div u + u . grad log p = -d log p / dt`, the residual r needs no u:

    r = -(d log p / dt + div v + v . grad log p)                                  (2)

per unit of time. It is zero everywhere if and only if v moves p_0 to p_t at every t. Two velocities
with r = 0 may still differ, since r measures only how they move p. Along the flow phi of v, with
`J_t = det(d phi_t / d x0)`, (1) is an ordinary differential equation. Its solution is Duhamel's
formula,

    eps_t(phi_t(x0)) J_t = eps_0(x0) - integral_0^t p_s r_s(phi_s(x0)) J_s ds      (3)

(Corollary 3.2; eps_0 = 0 on the paths that start from pure noise). Absolute values and a change of
variables bound the total variation distance (Theorem 3.3),

    TV(p_t, q_t) <= TV(p_0, q_0) + 1/2 integral_0^t E_{x ~ p_s} |r_s(x)| ds        (4)

The Kullback-Leibler divergence has an equation, too, with the scores of both laws. By partial
integration of both continuity equations, and by Cauchy-Schwarz,

    d KL(p_t || q_t) / dt  =  E_{x ~ p_t} (u - v) . (grad log p - grad log q)                 (5)
    KL(p_t || q_t) <= KL(p_0 || q_0)
        + integral_0^t sqrt(E |u - v|^2) sqrt(E |grad log p - grad log q|^2) ds               (6)

So it grows with the error of flow matching times the distance of the scores, which the divergence
of v moves: a small loss alone does not bound it.

A true log-density is any function `log_density(x, t) -> nats`, differentiable in both. For the data
set `bank` it is `partial(empirical.log_density, path, bank)`. With a bank of the one point x1 it is
the conditional law `p_t(x | x1)`, and (2) becomes the conditional residual. Its mean absolute value
over x1 and x bounds the mean absolute value of the marginal residual (Theorem 4.1), and a loss can
compute it. On a path that ends without noise it is not finite. Near t = 1 the mean grows as
`1 / (1 - t)` even for v = u, and its bound as `log 1 / (1 - t)`.

In many dimensions the integral (4) is a mean over samples of the path, `0.5 * mean |residual|`
with t uniform on [0, 1] and x ~ p_t. In one or two, `bound` and `total_variation` sum over a grid.

If the true velocity u is known, as for a finite data set (`fmjax.empirical`), v can be compared
with it directly, in any dimension d. The result depends on the states:

    E |v - u|^2 / d  at  x_t = alpha x1 + sigma x0,    x1 from the training data              (7)
    E |v - u|^2 / d  at  phi_t(x0), the trajectories of v itself                              (8)

Flow matching minimizes (7) alone. For a finite data set u leads from everywhere to one of its
points. So a model that generates anything new has a large (8), however small its (7). This is
called selective underfitting.

* `residual`: at a point, in any dimension
* `forcing`, `duhamel`: at a point, in few dimensions. They contain the density itself, which is
  1e-5 at a typical point in 12 dimensions and 0 in float32 in a hundred; lower tolerances with it
* `kl_rate`: at a point, in any dimension in which a likelihood can be computed
* `bound`, `total_variation`: of the whole law, on a grid
* `gap_on_path`, `gap_along_flow`: of one example, the distance of v from u at all times

References:
  Huang et al. (2025), Improving Flow Matching by Aligning Flow Divergence, arXiv 2602.00869.
  Su et al. (2025), On Flow Matching KL Divergence, arXiv 2511.05480.
  Bertrand et al. (2025), On the Closed-Form of Flow Matching, arXiv 2506.03719, section 3.2.
  Song et al. (2025), Selective Underfitting in Diffusion Models, arXiv 2510.01378.
"""

from fmjax.path_error._density import LogDensity
from fmjax.path_error.gap import gap_along_flow, gap_on_path
from fmjax.path_error.on_grid import bound, total_variation
from fmjax.path_error.pointwise import duhamel, forcing, residual
from fmjax.path_error.relative_entropy import KLRate, kl_rate

__all__ = [
    "KLRate",
    "LogDensity",
    "bound",
    "duhamel",
    "forcing",
    "gap_along_flow",
    "gap_on_path",
    "kl_rate",
    "residual",
    "total_variation",
]
