"""How certain a flow-matching model is: the law of the data given a noisy state.

Let `v(x, t) = E[d x_t / dt | x_t = x]` be the velocity of a path with Gaussian noise drawn
independently of the data, and J its Jacobian in x. With `D = alpha_dot sigma - alpha sigma_dot`
the first two moments of the posterior are closed forms of v and J:

    E[x1 | x_t = x]   = (sigma v - sigma_dot x) / D                                       (1)
    Cov[x1 | x_t = x] = sigma^2 / (alpha D) (sigma J - sigma_dot I)                       (2)
    U = tr Cov        = sigma^2 / (alpha D) (sigma div v - sigma_dot d)                   (3)

On the linear path (2) is `(1 - t)^2 / t (I + (1 - t) J)`. Nothing is retrained: any velocity
trained by conditional flow matching will do. The result is the uncertainty under the law that the
model has learned. Under that law `E |x1 - E[x1 | x_t]|^2 = E[U]` at every t: check this on a
trained model (`fmjax.metrics.calibration`).

Why (2): differentiating (1) gives `grad m`, and by Bayes' rule `grad m = alpha / sigma^2 Cov`.

    question                                      function
    mean, the whole matrix, products with it      mean, covariance, matvec
    a map, the scalar U                           diagonal, trace; estimate for many dimensions
    directions, walks, Gaussian samples           principal_components, traverse, sample
    what remains once the class is known          total_covariance, total_diagonal
    what a variance head learns                   diagonal(..., of=predictions.velocity)
    the noise end                                 gain, near_noise, prior_variance, prior_covariance
    scaled data                                   in_data_units
    how many dimensions the data have here        dimension
    is this field a posterior's?                  asymmetry, extremes

A model that predicts something else, or counts time from the data, becomes a velocity by
`predictions.as_velocity` and `predictions.reverse_time`; a one-step model by
`onestep.instantaneous`.

What to know before use
* The noise must be Gaussian and independent of the data. For a velocity trained on coupled pairs
  (minibatch optimal transport, reflow) (2) is wrong. For N(0, 1) coupled to N(0, 4) by the monotone
  map the true variance is 0 at every state, and (2) gives 0.667 at t = 1/2. The field itself does
  not show it; the calibration E[error] = E[U] does.
* For a guided velocity (classifier-free guidance of scale w) it is wrong too. (2) then gives
  `w C_conditional + (1 - w) C_unconditional`, which is not a covariance and may be negative. Use
  the conditional velocity alone. A network trained on guided targets has guidance built in.
* At the noise end alpha -> 0 and (2) is 0 times infinity. A small error in the model's J is
  multiplied by `sigma^3 / (alpha D)`. At t = 0.05 this factor is 17 on the linear path and 919 on
  vp. The exact limit is the covariance of the data. `near_noise` returns it below a smallest t, and

      P = alpha grad m = (alpha^2 / sigma^2) Cov = alpha / D (sigma J - sigma_dot I)      (4)

  is finite wherever D is (everywhere but at t = 1 of vp) and ranks states and pixels at
  one t as the covariance does.
* At the data end the covariance vanishes like sigma^2, so maps beyond t = 0.95 say little.
* The exact J is symmetric; the J of a network is not. Matrices and products take its symmetric
  part, which is the nearest symmetric matrix. Diagonal and trace do not depend on the rest.
* A learned covariance may have negative eigenvalues; they are not clipped. For data in [a, b]
  every variance lies in `[0, (b - a)^2 / 4]`                                             (5)
* A Jacobian that is not finite gives a covariance that is not finite; nothing is masked. A NaN that
  is only added to the velocity appears in the mean but not in the Jacobian: check both.
* Run in float32 at the highest matrix precision; TF32 noise is multiplied as well.

References:
  Xing, Wang and Wang (2026), Divergence is Uncertainty: A Closed-Form Posterior Covariance for
  Flow Matching, arXiv 2605.00941.
  Manor and Michaeli (2024), On the Posterior Distribution in Denoising, arXiv 2309.13598.
"""

from fmjax.posterior.classes import Parts, total_covariance, total_diagonal
from fmjax.posterior.fields import asymmetry, in_data_units
from fmjax.posterior.limits import (
    SMALLEST_T,
    gain,
    near_noise,
    prior_covariance,
    prior_variance,
)
from fmjax.posterior.manifold import dimension
from fmjax.posterior.moments import covariance, diagonal, estimate, matvec, mean, trace
from fmjax.posterior.spectrum import (
    Components,
    extremes,
    principal_components,
    sample,
    traverse,
)

__all__ = [
    "SMALLEST_T",
    "Components",
    "Parts",
    "asymmetry",
    "covariance",
    "diagonal",
    "dimension",
    "estimate",
    "extremes",
    "gain",
    "in_data_units",
    "matvec",
    "mean",
    "near_noise",
    "principal_components",
    "prior_covariance",
    "prior_variance",
    "sample",
    "total_covariance",
    "total_diagonal",
    "trace",
    "traverse",
]
