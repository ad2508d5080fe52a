"""Trajectories of two chaotic systems, and the rare event that is asked of each.

| system          | dz/dt in data units                        | states | every | saved | dropped |
|-----------------|--------------------------------------------|--------|-------|-------|---------|
| Lorenz          | F(20 z) / 20, F as in (1)                  | 3      | 0.1   | 90    | 30      |
| FitzHugh-Nagumo | 5 G(z / 5), G as in (2), two coupled units | 4      | 6     | 310   | 250     |

    F(x, y, z) = (10 (y - x), x (28 - z) - y, x y - 8 z / 3)                      (1)
    G: dx_i/dt = x_i (a - x_i) (x_i - 1) - y_i + k (x_j - x_i),
       dy_i/dt = b_i x_i - c y_i,     a = -0.025794, b = (0.0065, 0.0135),
                                      c = 0.02, k = 0.128                         (2)

A trajectory starts from Gaussian noise, z ~ N(0, I) for Lorenz and z ~ N(0, 0.2^2 I) for
FitzHugh-Nagumo. Its states are saved at equal times from 0 on, the first are dropped until it has
reached the attractor, and 60 remain: one example of shape `[60, d]`. What is conditioned on after
training is `E = {C > 0}`:

    Lorenz             C = 0.6 - mean of |rfft of the first state|, frequency 0 left out     (3)
    FitzHugh-Nagumo    C = max over time of (x_1 + x_2) / 2, minus 2.5                       (4)

(3) is a trajectory that stays in one lobe, (4) an extreme event: both units fire at once. Of 32,000
trajectories 0.197 +- 0.002 and 0.034 +- 0.001 are in the event; the paper says 0.034 of the second.

Both systems are chaotic, so no solver follows a single trajectory to the end: in any precision the
result is another trajectory of the same law. It is integrated in float64 nevertheless, where the
tolerances mean what they say, and kept in float32.

References:
  Finzi et al. (2023), User-defined Event Sampling and Uncertainty Quantification in Diffusion
  Models for Physical Dynamical Systems, arXiv 2306.07526.
  Huang et al. (2025), Improving Flow Matching by Aligning Flow Divergence, arXiv 2602.00869.
  Ansmann et al. (2013), Extreme events in excitable systems and mechanisms of their generation,
  arXiv 1311.5776 (the coupled units).
"""

import os
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple, NoReturn

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from experiments.run import arrays, numbers, paths, progress
from fmjax import _compat

Array = jax.Array
Key = jax.Array

_MAX_SOLVER_STEPS = 100_000  # FitzHugh-Nagumo takes about 800


class System(NamedTuple):
    """An autonomous differential equation and how its trajectories are recorded.

    Attributes:
      name: names the cache file, so a system of your own needs a name of its own.
      field: `z[d] -> [d]`, dz/dt in data units.
      initial: `key -> [d]`, draws the start.
      save_every: time between two saved states.
      num_steps: number of saved states, that at time 0 included.
      num_dropped: number of them, from the first, that are dropped.
      event: C, `x[num_steps - num_dropped, d] -> []`, positive where the event happens.
      states: names of the d states, with the unit that the data are in.
    """

    name: str
    field: Callable[[Array], Array]
    initial: Callable[[Key], Array]
    save_every: float
    num_steps: int
    num_dropped: int
    event: Callable[[Array], Array]
    states: tuple[str, ...]


def lorenz() -> System:
    """Returns the Lorenz system in units of 20, whose event (3) is a stay in one lobe."""
    return System(
        name="lorenz",
        field=_lorenz_field,
        initial=lambda key: jax.random.normal(key, (3,)),
        save_every=0.1,
        num_steps=90,
        num_dropped=30,
        event=_lorenz_event,
        states=("x / 20", "y / 20", "z / 20"),
    )


def _lorenz_field(z: Array) -> Array:
    x, y, z = 20.0 * z  # eq. (1)
    return jnp.stack([10.0 * (y - x), x * (28.0 - z) - y, x * y - 8.0 / 3.0 * z]) / 20.0


def _lorenz_event(x: Array) -> Array:
    return 0.6 - jnp.mean(jnp.abs(jnp.fft.rfft(x[:, 0])[1:]))  # eq. (3)


def fitzhugh_nagumo() -> System:
    """Returns two coupled FitzHugh-Nagumo units in units of 1 / 5, whose event is (4)."""
    return System(
        name="fitzhugh_nagumo",
        field=_fitzhugh_nagumo_field,
        initial=lambda key: 0.2 * jax.random.normal(key, (4,)),
        save_every=6.0,
        num_steps=310,
        num_dropped=250,
        event=_fitzhugh_nagumo_event,
        states=("$5x_1$", "$5x_2$", "$5y_1$", "$5y_2$"),
    )


def _fitzhugh_nagumo_field(z: Array) -> Array:
    x, y = z[:2] / 5.0, z[2:] / 5.0
    b = jnp.asarray([0.0065, 0.0135], z.dtype)
    excitation = x * (-0.025794 - x) * (x - 1.0) - y + 0.128 * (x[::-1] - x)  # eq. (2)
    return 5.0 * jnp.concatenate([excitation, b * x - 0.02 * y])


def _fitzhugh_nagumo_event(x: Array) -> Array:
    return jnp.max(0.5 * (x[:, 0] + x[:, 1])) - 2.5  # eq. (4)


def own(name: str, train: np.ndarray) -> System:
    """Returns what stands for the system of a user's own trajectories.

    The event is that the largest value of the first channel is above the 0.9-quantile of those of
    the training trajectories. Times count the states.

    Args:
      name: of the trajectories.
      train: `[n, length, channels]`.
    """
    level = float(np.quantile(train[..., 0].max(axis=1), 0.9))

    def unknown(_: Array) -> NoReturn:
        message = f"nothing is known of the system of {name} but its trajectories."
        raise ValueError(message)

    return System(
        name=name,
        field=unknown,
        initial=unknown,
        save_every=1.0,
        num_steps=train.shape[1],
        num_dropped=0,
        event=lambda x: jnp.max(x[:, 0]) - level,
        states=tuple(f"channel {channel}" for channel in range(train.shape[2])),
    )


def simulate(
    system: System,
    key: Key,
    n: int,
    *,
    rtol: float = 1e-6,
    atol: float = 1e-6,
    batch_size: int = 500,
    cache: str | os.PathLike | None = None,
) -> np.ndarray:
    """Returns trajectories of a system, simulated or read from an earlier call's file.

    Trajectory i starts from `system.initial(fold_in(key, i))`, so that neither n nor the batch
    size changes it but for rounding, which chaos makes visible.

    Args:
      system: `lorenz()`, `fitzhugh_nagumo()` or your own.
      key: a random key.
      n: number of trajectories.
      rtol: relative tolerance of the solver, Dormand and Prince's of order 5.
      atol: absolute tolerance.
      batch_size: trajectories that are integrated at once; a batch takes the steps of its
        slowest.
      cache: folder for a file named after the system and every argument, made if it is not
        there; a file appears in it as a whole or not at all. None keeps nothing.

    Returns:
      float32 `[n, num_steps - num_dropped, d]`.

    Raises:
      ValueError: if `n` or `batch_size` is not positive, or a cached file is damaged.
      ArithmeticError: if a trajectory is not finite.
    """
    if n < 1 or batch_size < 1:
        message = f"n and batch_size must be positive, got {n} and {batch_size}: they count."
        raise ValueError(message)
    options = {"rtol": rtol, "atol": atol}
    if cache is None:
        return _simulate(system, key, n, batch_size, options)
    path = paths.absolute(cache) / _file_name(system, key, n, options)
    if path.exists():
        return _load(path, (n, system.num_steps - system.num_dropped, len(system.states)))
    trajectories = _simulate(system, key, n, batch_size, options)
    arrays.write(path, {"trajectories": trajectories})
    return trajectories


def _simulate(
    system: System, key: Key, n: int, batch_size: int, options: dict[str, float]
) -> np.ndarray:
    """Integrates all trajectories, batch by batch."""
    size = min(batch_size, n)

    def batches() -> Iterator[np.ndarray]:
        for start in progress.each(range(0, n, size), system.name, unit="batch"):
            # The last batch is filled up with earlier ones, so that one program serves all.
            yield np.asarray(run(jnp.arange(start, start + size) % n), np.float32)

    with _compat.enable_x64(True):  # noqa: FBT003
        one = partial(_trajectory, system, **options)
        run = jax.jit(jax.vmap(lambda i: one(system.initial(jax.random.fold_in(key, i)))))
        trajectories = np.concatenate(list(batches()))[:n]
    if not np.isfinite(trajectories).all():
        message = f"{system.name}: a trajectory is not finite; take smaller rtol and atol."
        raise ArithmeticError(message)
    return trajectories


def _trajectory(system: System, start: Array, *, rtol: float, atol: float) -> Array:
    """Returns one trajectory, `[num_steps - num_dropped, d]`, in the dtype of its start."""
    saved = system.save_every * np.arange(system.num_dropped, system.num_steps)
    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(lambda t, z, _: system.field(z)),  # noqa: ARG005
        diffrax.Dopri5(),
        t0=0.0,
        t1=saved[-1],
        dt0=None,
        y0=start,
        saveat=diffrax.SaveAt(ts=saved),
        stepsize_controller=diffrax.PIDController(rtol=rtol, atol=atol),
        max_steps=_MAX_SOLVER_STEPS,
    )
    return solution.ys


def _file_name(system: System, key: Key, n: int, options: dict[str, float]) -> str:
    """Returns a name that changes with everything that the trajectories depend on."""
    bits = numbers.crc32(jax.random.key_data(key))
    saved = f"{system.save_every:g}x{system.num_dropped}-{system.num_steps}"
    tolerances = "_".join(f"{name}{value:g}" for name, value in options.items())
    return f"{system.name}_{saved}_n{n}_{tolerances}_key{bits}.npz"


def _load(path: epath.Path, shape: tuple[int, ...]) -> np.ndarray:
    """Reads a cached file, or says that it is damaged."""
    try:
        trajectories = arrays.read(path)["trajectories"]
    except (ValueError, KeyError) as error:
        message = f"{path} is damaged ({error}): delete it, and it is made again."
        raise ValueError(message) from error
    if trajectories.shape != shape:
        message = (
            f"{path} holds shape {trajectories.shape}, expected {shape}: delete it, and it is "
            "made again."
        )
        raise ValueError(message)
    return trajectories
