"""The exact law of a finite data set along a Gaussian path: the closed form of flow matching.

Let the data be n points `b_i`, the bank, of equal weight or of weights a_i. Along
`x_t = alpha x1 + sigma x0` everything is a softmax over the bank:

    w_i(x)   = softmax_i( q_i / sigma^2 ),  q_i = alpha <x, b_i> - alpha^2 |b_i|^2 / 2
               + sigma^2 log a_i                                                          (1)
    m(x)     = E[x1 | x_t = x] = sum_i w_i b_i                                            (2)
    C(x)     = Cov[x1 | x_t = x] = sum_i w_i (b_i - m)(b_i - m)^T                         (3)
    u(x)     = alpha_dot m + sigma_dot (x - alpha m) / sigma                              (4)
    grad u   = (sigma_dot / sigma) I + (D alpha / sigma^3) C                              (5)
    div u    = d sigma_dot / sigma + (D alpha / sigma^3) tr C                             (6)
    log p(x) = log sum_i a_i N(x; alpha b_i, sigma^2 I) - log sum_i a_i                   (7)

with `D = alpha_dot sigma - alpha sigma_dot`. This is the field that conditional flow matching
regresses on, so it is the ground truth for a network trained on the bank: for its velocity,
its divergence and its posterior covariance. All of it is singular where sigma = 0.

* the law: `weights`, `mean`, `velocity`, `log_density`; `law` computes all of them in one pass
* its change in space and time: `covariance`, `matvec`, `jacobian`, `divergence`, `lipschitz`,
  `time_derivative`, `acceleration`
* how many points matter: `effective_number`, `entropy`, and `truncated` to the likeliest, with a
  bound
* targets of training, at a known pair: `anchored_velocity`, `refined_velocity`
* preparing data sets: `prepare` (also bytes), `take` (a batch), `reweighted` (a class), `mirrored`
  (flips), `padded` and `partition` (devices)

Data sets of 50,000 images are practical. Under `vmap` a velocity or a divergence is two matrix
products. `chunk_size` streams the bank: the result is the same, and the memory is one chunk.
`axis_name` spreads the bank over devices.

Products run at the highest matrix precision, since this is the reference for everything else. A NaN
in the data makes every result NaN; `prepare` refuses such data. The logits (1) come from inner
products. As t -> 1 in float32 these cannot separate points of the bank whose relative distance is
below about 1e-3. In training the pair (x0, x1) that made x_t is known, and the forms for targets
use it to avoid this cancellation. `truncated` avoids it among the points that it keeps.

References:
  Bertrand, Gagneux, Massias and Emonet (2025), On the Closed-Form of Flow Matching:
  Generalization Does Not Arise from Target Stochasticity, arXiv 2506.03719.
"""

from fmjax._bank import Bank
from fmjax.empirical.banks import mirrored, prepare, reweighted, take
from fmjax.empirical.derivatives import (
    covariance,
    divergence,
    jacobian,
    lipschitz,
    matvec,
)
from fmjax.empirical.devices import padded, partition
from fmjax.empirical.moments import (
    Law,
    law,
    log_density,
    mean,
    velocity,
    weights,
)
from fmjax.empirical.motion import acceleration, time_derivative
from fmjax.empirical.neighbors import (
    Truncated,
    effective_number,
    entropy,
    truncated,
)
from fmjax.empirical.targets import anchored_velocity, refined_velocity

__all__ = [
    "Bank",
    "Law",
    "Truncated",
    "acceleration",
    "anchored_velocity",
    "covariance",
    "divergence",
    "effective_number",
    "entropy",
    "jacobian",
    "law",
    "lipschitz",
    "log_density",
    "matvec",
    "mean",
    "mirrored",
    "padded",
    "partition",
    "prepare",
    "refined_velocity",
    "reweighted",
    "take",
    "time_derivative",
    "truncated",
    "velocity",
    "weights",
]
