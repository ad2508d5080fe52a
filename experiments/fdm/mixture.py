"""Flow and divergence matching on a line: four Gaussian peaks, where everything is known.

Paper: Improving Flow Matching by Aligning Flow Divergence, arXiv 2602.00869, figures 1 to 3. The
mixture, the network and the weight are ours, for the paper's are not known to us.

Small networks learn the velocity from noise to four peaks on the linear path, once by flow matching
alone (FM) and once by flow and divergence matching (FDM): the same networks, data, noise and
number of steps, another weight of the penalty. Every seed has its own network, and all are trained
at once. Then

1. the densities of both flows against the true ones, and the whole path (figures 2 and 3);
2. the errors of velocity and divergence during training (figure 1);
3. the total variation distance against its bounds: half the mean absolute residual, of the
   marginal law (theorem 3.3) and of the conditional one (theorem 4.1). The second grows without
   limit towards the data, for the true velocity as well.

Run:    python -m experiments.fdm.mixture
Time:   2 minutes on two CPU cores.
Expect: the table of experiments/fdm/README.md.
"""

import dataclasses
import math
import os
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import fmjax
from experiments.fdm import _laws
from experiments.fdm._mixture import measures, pictures, tables
from experiments.run import arrays as run_arrays
from experiments.run import checkpoints, cli, layout, loop, options, several
from experiments.run import pictures as run_pictures
from experiments.run.batches import Batches, drawn
from experiments.run.folder import read_metrics, write_json
from experiments.run.options import Free, Place
from experiments.run.saved import Network
from fmjax.types import Array, Key, PyTree

path = measures.path  # linear, the paper does not name its path
PICTURED = (0.6, 0.85, 1.0)  # figure 2
# The first in the run folder itself, where a run that was interrupted is recognized.
PLACES = {"FM": ".", "FDM": "FDM"}


@dataclasses.dataclass(frozen=True)
class Training:
    """The networks and their training, by Adam."""

    width: int = 64
    """Size of the hidden layers of a network."""
    depth: int = 2
    """Residual blocks of a network."""
    batch_size: int = 256
    """Examples per step and network, a multiple of the number of devices."""
    num_steps: int = 4000
    """Training steps."""
    learning_rate: float = 2e-3
    """Learning rate of Adam at the start; it falls to zero along a cosine."""
    ema_decay: float = 0.999
    """Decay of the moving average of the parameters, per step."""
    save_every: int = 250
    """Steps between checkpoints and between evaluations of the errors."""
    max_skipped: Free[int] = 0
    """Steps, of those between two lines of the metrics, that may be skipped for a loss or gradient
    that is not finite; they are counted. 0 stops the run at the first that is seen."""

    def check(self) -> None:
        """Raises ValueError for numbers out of their bounds."""
        bounds = {"num_steps": (1, math.inf), "batch_size": (1, math.inf)}
        options.check_bounds(self, bounds | {"learning_rate": (1e-12, 1e12)})


@dataclasses.dataclass(frozen=True)
class Measures:
    """Where and how exactly densities are compared."""

    num_times: int = 40
    """Times at which densities are compared, spread evenly up to 1; a multiple of 20."""
    tolerance: float = 1e-5
    """Relative and absolute tolerance of a step of the likelihood's adaptive solver."""

    def check(self) -> None:
        """Raises ValueError for a tolerance out of its bounds, or times that are not reported."""
        options.check_bounds(self, {"tolerance": (1e-7, 0.5)})
        if self.num_times < 20 or self.num_times % 20:
            message = (
                f"num_times must be a multiple of 20, got {self.num_times}: 0.25, 0.6 and 0.85 are "
                "among the times that are reported."
            )
            raise ValueError(message)


@dataclasses.dataclass(frozen=True)
class Config:
    """The options, each with its default: a run of two minutes."""

    workdir: Place = None
    """Run folder; None is runs/fdm/mixture. The same command continues it."""
    seed: int = 0
    """Seed of the networks, the data and all noise, an integer >= 0."""
    num_seeds: int = 3
    """Networks of either method, at least 2: each with its own start, data and noise."""
    weight: float = 1.0
    """Weight of the divergence penalty in FDM, not negative; FM has 0."""
    num_pairs: int = 4096
    """Pairs of noise and data on which errors and the conditional bound are evaluated."""
    training: Training = Training()
    measures: Free[Measures] = Measures()

    def check(self) -> None:
        """Raises ValueError for options that would only fail after the training."""
        bounds = {
            "seed": (0, 2**32 - 1),
            "num_seeds": (2, 100),
            "weight": (0, 1e6),
            "num_pairs": (2, math.inf),
        }
        options.check_bounds(self, bounds)
        options.check_parts(self)


def batches(config: Config) -> Batches:
    """Returns `start_step -> iterator` over fresh data, `[batch, seeds]`, without end."""
    shape = (config.training.batch_size, config.num_seeds)
    return drawn(lambda rng: {"x": measures.sample_data(rng, *shape)}, shape[0], seed=config.seed)


def make_loss(apply: Callable[..., Array], weight: float) -> Callable[[PyTree, Key, PyTree], Array]:
    """Returns the mean over the networks of what each of them minimizes, eq. (17)."""
    matching = partial(fmjax.losses.match_trace, divergence=fmjax.divergence.unrolled)

    def one(params: PyTree, key: Key, batch: dict[str, Array]) -> Array:
        x1 = batch["x"]
        velocity = partial(apply, params)
        fdm = partial(fmjax.losses.fdm, velocity, path, weight=weight, matching=matching)
        key_noise, key_time = jax.random.split(key)
        x0 = jax.random.normal(key_noise, x1.shape)
        return jax.vmap(fdm)(x0, x1, fmjax.times.stratified(key_time, x1.shape)).mean()

    return several.mean_loss(one, own="x")


def pairs(config: Config, part: int) -> tuple[Array, Array, Array]:
    """Returns noise, data and times `[num_pairs]` to evaluate on, the same for every network."""
    rng, n = np.random.default_rng([config.seed, part]), config.num_pairs
    x0, x1 = np.float32(rng.standard_normal(n)), measures.sample_data(rng, n)
    return jnp.asarray(x0), jnp.asarray(x1), jnp.asarray(np.float32((np.arange(n) + 0.5) / n))


def make_errors(apply: Callable[..., Array], config: Config) -> Callable[[PyTree], dict]:
    """Returns a function from the parameters to the mean errors of each network (part 2)."""
    held_out = pairs(config, 1)

    def one(params: PyTree) -> dict[str, Array]:
        values = jax.vmap(partial(measures.errors, partial(apply, params)))(*held_out)
        return jax.tree.map(jnp.mean, values)

    return jax.jit(jax.vmap(one))


def networks(config: Config) -> tuple[Callable[..., Array], PyTree]:
    """Returns the network, `(params, x, t) -> dx`, and the first parameters of all seeds."""
    size = {"width": config.training.width, "depth": config.training.depth}
    one = lambda seed: fmjax.models.MLP((), **size, rngs=nnx.Rngs(seed))  # noqa: E731
    make = lambda seed: fmjax.models.functional(one(seed))  # noqa: E731
    return several.networks(make, seed=config.seed, count=config.num_seeds)


def train(
    config: Config,
    weight: float,
    network: tuple[Callable[..., Array], PyTree],
    errors: Callable[[PyTree], dict[str, Array]],
    folder: os.PathLike,
) -> PyTree:
    """Returns the averaged parameters of all seeds, trained with this weight or restored."""
    (apply, params), options = network, config.training

    def evaluate(params: PyTree, key: Key) -> dict[str, float]:  # noqa: ARG001
        return {name: float(values.mean()) for name, values in errors(params).items()}

    state = loop.fit(
        make_loss(apply, weight),
        params,
        batches(config),
        optax.adam(optax.cosine_decay_schedule(options.learning_rate, options.num_steps)),
        evaluate,
        workdir=folder,
        num_steps=options.num_steps,
        seed=config.seed,
        max_skipped=options.max_skipped,
        ema_decay=options.ema_decay,
        eval_every=options.save_every,
        save_every=options.save_every,
    )
    return layout.on_host(state.ema_params)


def restore(config: Config, folder: Any) -> dict[str, Network]:
    """Tells how the networks of a run are read, by method and by number."""
    apply, like = networks(config)
    read = partial(checkpoints.averaged, like=like, num_steps=config.training.num_steps)
    law = lambda: _laws.LINE  # noqa: E731
    return {
        f"{name}/{index}": Network(apply, partial(read, folder / place), path, law, index=index)
        for name, place in PLACES.items()
        for index in range(config.num_seeds)
    }


def make_measure(apply: Callable[..., Array], config: Config) -> Callable[[PyTree], dict]:
    """Returns a function from the parameters to what is known of each network.

    Returns:
      `params -> dict` of `density`, `[seeds, times, grid]`; `total_variation` and `bound`,
      `[seeds, times]`; and `conditional_bound`, `[seeds, len(NEAR_DATA)]`.
    """
    times = jnp.asarray(spread(config.measures.num_times), jnp.float32)
    true, held_out = measures.CELL * measures.true_densities(times), pairs(config, 2)[:2]

    def one(params: PyTree) -> dict[str, Array]:
        velocity = partial(apply, params)
        density = measures.densities(velocity, times, tolerance=config.measures.tolerance)
        distances = jax.vmap(fmjax.metrics.total_variation)(true, measures.CELL * density)
        return {
            "density": density,
            "total_variation": distances,
            "bound": measures.bound(velocity, times),
            "conditional_bound": measures.conditional_bound(velocity, *held_out),
        }

    return jax.jit(jax.vmap(one))


def spread(num_times: int) -> np.ndarray:
    """Returns the times at which densities are compared."""
    return np.arange(1, num_times + 1) / num_times


def evaluate(
    methods: dict[str, dict[str, np.ndarray]], config: Config
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns the numbers of the run, and the arrays its figures are drawn from."""
    times, held_out = spread(config.measures.num_times), pairs(config, 2)[:2]
    results = {name: measures.tables(made, times) for name, made in methods.items()}
    exact = jax.jit(partial(measures.conditional_bound, measures.true_velocity))(*held_out)
    rows = [{"t": measures.NEAR_DATA[i], "mean": exact[i]} for i in measures.DECADES]
    results["true velocity"] = {"conditional_bound": rows}
    true = np.asarray(measures.true_densities(jnp.asarray(times, jnp.float32)))
    return results, {"times": times, "true": true, "exact": np.asarray(exact), "methods": methods}


def main(config: Config) -> None:
    """Trains or continues all networks, evaluates, and leaves everything under the run folder."""
    config.check()
    folder = loop.open_run(config.workdir or "runs/fdm/mixture", config)
    weights = {"FM": 0.0, "FDM": config.weight}
    places = {name: folder / place for name, place in PLACES.items()}
    network = networks(config)
    errors, measure = make_errors(network[0], config), make_measure(network[0], config)
    trained = {
        name: train(config, weight, network, errors, places[name])
        for name, weight in weights.items()
    }
    if jax.process_index() != 0:
        return  # one process evaluates and writes
    with jax.default_matmul_precision("highest"):
        made = {name: jax.device_get(measure(p) | errors(p)) for name, p in trained.items()}
        results, arrays = evaluate(made, config)
    run_arrays.write(folder / "arrays.npz", arrays)
    arrays["history"] = {name: read_metrics(place, "flow") for name, place in places.items()}
    write_json(folder / "results.json", results | {"history": arrays["history"]})
    with run_pictures.style():
        run_pictures.save(folder / "figures", pictures.figures(arrays, pictured=PICTURED))
    print(tables.report(results, tuple(weights), folder))


if __name__ == "__main__":
    cli.run(main, Config)
