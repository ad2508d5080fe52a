"""One training step as a pure function; the training loop belongs to the experiment.

    state = fmjax.train.init(params, optimizer)
    step = fmjax.train.make_step(loss, optimizer)
    one = jax.jit(step, donate_argnums=0)
    for batch in batches:
        state, info = one(state, key, batch)                 # the same key every time

Where a step takes less time than its start, several go into one call, with the same result:

    many = jax.jit(fmjax.train.repeat(step), donate_argnums=0)
    state, infos = many(state, key, ten_batches)             # every array [10, ...]

On a CPU a network with convolutions trains some three times faster with
`jax.jit(step, compiler_options=fmjax.train.compiler_options())`.

Step k draws from `fold_in(key, k)`, so the state holds no key, and a resumed run gives the same
results as an uninterrupted run. A step also updates the exponential moving average (ema) of the
parameters theta, which gives better samples than the last iterate:

    ema <- ema + (1 - d_k) (theta - ema),     d_k = min(ema_decay, (1 + k) / (10 + k)),   (1)

The warm-up of d_k lets the average forget the initial parameters early: with a constant decay of
0.999 they would still have a weight of one third after 1000 steps. The average is kept in float32
or wider, whatever the dtype of the parameters, because bfloat16 rounds away a change by a
thousandth. Here k counts updates of the parameters. It equals the step, unless `optax.MultiSteps`
accumulates gradients; the average does not change between two updates.

Reference:
  Polyak and Juditsky (1992), Acceleration of Stochastic Approximation by Averaging.
"""

from fmjax.train._compilation import compiler_options
from fmjax.train.states import Info, TrainState, init
from fmjax.train.steps import make_step, repeat, skip_nonfinite

__all__ = [
    "Info",
    "TrainState",
    "compiler_options",
    "init",
    "make_step",
    "repeat",
    "skip_nonfinite",
]
