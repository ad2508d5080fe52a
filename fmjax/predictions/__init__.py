"""What a network may predict along a path, and the conversion between predictions.

Every kind of prediction is a linear combination `a(t) x1 + b(t) x0` of data and noise. A kind is
therefore a pair of coefficients, its row `(a, b)`:

    velocity   (alpha_dot, sigma_dot)        d x_t / dt
    x1         (1, 0)                        the data ("denoiser", "x-prediction")
    x0         (0, 1)                        the noise ("epsilon-prediction")
    score      (0, -1 / sigma)               grad log p_t(x_t | x1)
    v          (-sigma, alpha)               Salimans and Ho's v

A prediction and the state `x = alpha x1 + sigma x0` together form a 2 x 2 system for the pair

    [ a     b     ] [x1]   [value]
    [ alpha sigma ] [x0] = [x    ]                                                (1)

so one function, `convert`, handles all pairs of kinds. The solution is affine in `value`, so it
holds for conditional means too. For example, it turns the exact velocity `E[dx_t/dt | x_t]` into
the exact denoiser `E[x1 | x_t]` or the exact score `grad log p_t(x_t)`.

The system is singular where the prediction adds no information to x: x1 at sigma = 0, x0 and score
at alpha = 0, velocity where `alpha_dot sigma = alpha sigma_dot` or a derivative is infinite (vp at
t = 1). v is never singular. Your own kind is any function `(path, t) -> (a, b)`.

`as_velocity`, `reverse_time` (for a time that starts at the data) and `from_timesteps` (for the
numbered timesteps of diffusion models) turn a model of any kind into a velocity. At an end of the
path where the system is singular they take the velocity of a time a little inside the path, so that
every sampler runs from end to end.

A network of any library is such a model once its parameters are bound and it takes one example:

    flax nnx        apply, params = models.functional(network); partial(apply, params)
    flax linen      partial(network.apply, variables)
    equinox         the network itself, after `equinox.nn.inference_mode`
    of a batch      unbatched(model); with the time in front unbatched(time_first(model))

`conditioned` makes a velocity of its best linear prediction, which the mean and standard deviation
of the data give, and a network whose input and target have unit variance at every time.

References:
  Salimans and Ho (2022), Progressive Distillation, arXiv 2202.00512, appendix D (v).
  Lipman et al. (2023), Flow Matching for Generative Modeling, arXiv 2210.02747.
"""

from fmjax.predictions.calls import time_first, unbatched
from fmjax.predictions.conditioning import conditioned, residual_std
from fmjax.predictions.conversion import as_velocity, convert, from_timesteps, reverse_time, target
from fmjax.predictions.rows import Prediction, score, v, velocity, x0, x1

__all__ = [
    "Prediction",
    "as_velocity",
    "conditioned",
    "convert",
    "from_timesteps",
    "residual_std",
    "reverse_time",
    "score",
    "target",
    "time_first",
    "unbatched",
    "v",
    "velocity",
    "x0",
    "x1",
]
