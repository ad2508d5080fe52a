"""Flow and divergence matching of letters: the toy task of DNA, whose exact field is known.

Paper: Improving Flow Matching by Aligning Flow Divergence, arXiv 2602.00869, the toy experiment of
its section on DNA (after Stark et al., arXiv 2402.05841): four positions of 40 letters, each with
its own random law. The paper's code penalizes a gradient that is zero there; ours is the loss that
the paper means, the square of the conditional residual within the simplex (`fmjax.simplex`).

Networks predict the letters from a noisy sequence, once by cross-entropy alone (FM) and once with
the divergence penalty (FDM): the same start, data, noise and number of steps. Several seeds are
trained at once. Then

1. the predictions against the exact ones at five times: the divergence of Kullback and Leibler in
   nats per position, which is what the cross-entropy has above its least value;
2. marginals of samples against the law: total variation and both KL, beside as many fresh draws.

Run:    python -m experiments.fdm.dna
        python -m experiments.fdm.dna --path linear --weight 0.01
Time:   23 minutes on two CPU cores beside other work, 10 of CPU time.
Expect: the table of experiments/fdm/README.md.
"""

import dataclasses
import math
import os
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import fmjax
from experiments.fdm._dna import law as laws
from experiments.fdm._dna import measures, pictures, quick, tables
from experiments.fdm._dna.law import Letters
from experiments.run import arrays as run_arrays
from experiments.run import checkpoints, cli, layout, loop, numbers, options, several
from experiments.run import pictures as run_pictures
from experiments.run.batches import Batches, drawn
from experiments.run.folder import read_metrics, write_json
from experiments.run.options import Free, Place
from experiments.run.saved import Network
from fmjax import simplex
from fmjax.types import Array, Key, PyTree

PATHS = {"linear": simplex.linear, "dirichlet": quick.dirichlet}
# The first in the run folder itself, where a run that was interrupted is recognized.
PLACES = {"FM": ".", "FDM": "FDM"}


@dataclasses.dataclass(frozen=True)
class Training:
    """The networks and their training, by Adam."""

    width: int = 128
    """Size of the hidden layers of a network, as of the paper's."""
    depth: int = 3
    """Residual blocks of a network."""
    batch_size: int = 256
    """Sequences per step and network, a multiple of the number of devices."""
    num_steps: int = 3000
    """Training steps."""
    learning_rate: float = 1e-3
    """Learning rate of Adam at the start; it falls to zero along a cosine."""
    penalty_every: int = 4
    """The penalty is computed for every so manieth sequence of a batch, with one random probe."""
    ema_decay: float = 0.999
    """Decay of the moving average of the parameters, per step."""
    save_every: int = 500
    """Steps between checkpoints and between evaluations."""
    max_skipped: Free[int] = 0
    """Steps, of those between two lines of the metrics, that may be skipped for a loss or gradient
    that is not finite; they are counted. 0 stops the run at the first that is seen."""

    def check(self) -> None:
        """Raises ValueError for numbers out of their bounds."""
        bounds = {"num_steps": (1, math.inf), "learning_rate": (1e-12, 1e12)}
        bounds |= {"batch_size": (1, math.inf), "penalty_every": (1, self.batch_size)}
        options.check_bounds(self, bounds)


@dataclasses.dataclass(frozen=True)
class Measures:
    """How exactly the networks are measured."""

    num_samples: int = 20_000
    """Samples of every network, at least 2."""
    solver_steps: int = 100
    """Euler steps of a sample."""
    num_states: int = 1024
    """Noisy sequences at each time on which predictions are compared, at least 2."""

    def check(self) -> None:
        """Raises ValueError for numbers out of their bounds."""
        least = {"num_samples": 2, "solver_steps": 1, "num_states": 2}
        options.check_bounds(self, {name: (low, math.inf) for name, low in least.items()})


@dataclasses.dataclass(frozen=True)
class Config:
    """The options, each with its default."""

    workdir: Place = None
    """Run folder; None is runs/fdm/dna/PATH. The same command continues it."""
    seed: int = 0
    """Seed of the networks, the data and all noise, an integer >= 0."""
    num_seeds: int = 3
    """Networks of either method, at least 2: each with its own start, data and noise."""
    path: Literal["dirichlet", "linear"] = "dirichlet"
    """The path from uniform noise to letters."""
    weight: float = 1.0
    """Weight of the divergence penalty in FDM, not negative; FM has 0. On the linear path even 0.01
    is too much."""
    letters: Letters = Letters()
    training: Training = Training()
    measures: Free[Measures] = Measures()

    def check(self) -> None:
        """Raises ValueError for options that would only fail after the training."""
        bounds = {"seed": (0, 2**32 - 1), "num_seeds": (2, 100), "weight": (0, 1e6)}
        options.check_bounds(self, bounds)
        options.check_parts(self)


def path_of(config: Config) -> simplex.Path:
    """Returns the path of a run."""
    return PATHS[config.path](config.letters.num_classes)


def batches(config: Config) -> Batches:
    """Returns `start_step -> iterator` over fresh sequences, `[batch, seeds, length]`."""
    law, shape = laws.probabilities(config.letters), (config.training.batch_size, config.num_seeds)
    return drawn(lambda rng: {"x1": laws.sample(rng, law, *shape)}, shape[0], seed=config.seed)


def make_loss(
    apply: Callable[..., Array], path: simplex.Path, weight: float, every: int
) -> Callable[[PyTree, Key, PyTree], Array]:
    """Returns the mean over the networks of what each of them minimizes, eq. (17)."""

    def one(params: PyTree, key: Key, batch: dict[str, Array]) -> Array:
        x1 = batch["x1"]
        logits = partial(apply, params)
        key_time, key_noise, key_probe = jax.random.split(key, 3)

        def example(weight: float, key: Key, x: Array, x1: Array, t: Array) -> Array:
            probe = partial(fmjax.divergence.hutchinson, key)
            return simplex.fdm(logits, path, x, x1, t, weight=weight, divergence=probe)

        ts = fmjax.times.stratified(key_time, (len(x1),))
        x = jax.vmap(path.sample)(jax.random.split(key_noise, len(x1)), x1, ts)
        keys = jax.random.split(key_probe, len(x1))
        return fmjax.losses.probe_every(every, example, weight, keys, x, x1, ts)

    return several.mean_loss(one, own="x1")


def networks(config: Config) -> tuple[Callable[..., Array], PyTree]:
    """Returns the network, `(params, x, t) -> logits`, and the first parameters of all seeds."""
    shape = (config.letters.length, config.letters.num_classes)
    size = {"width": config.training.width, "depth": config.training.depth}
    one = lambda seed: fmjax.models.MLP(shape, **size, rngs=nnx.Rngs(seed))  # noqa: E731
    make = lambda seed: fmjax.models.functional(one(seed))  # noqa: E731
    network, params = several.networks(make, seed=config.seed, count=config.num_seeds)

    def apply(params: PyTree, x: Array, t: Array) -> Array:
        return network(params, shape[1] * x - 1, t)  # of order one, at the noise

    return apply, params


def make_errors(
    apply: Callable[..., Array], config: Config, path: simplex.Path
) -> Callable[[PyTree], Array]:
    """Returns a function from the parameters to the errors at every time, `[seeds, times]`."""
    law = laws.probabilities(config.letters)
    rng, key = np.random.default_rng([config.seed, 1]), jax.random.key(config.seed)
    x1 = jnp.asarray(laws.sample(rng, law, config.measures.num_states))
    law = jnp.asarray(law, jnp.float32)

    def one(params: PyTree) -> Array:
        return measures.along_the_path(partial(apply, params), path, law, key, x1)

    return jax.jit(jax.vmap(one))


def train(
    config: Config,
    weight: float,
    network: tuple[Callable[..., Array], PyTree],
    errors: Callable[[PyTree], Array],
    folder: os.PathLike,
) -> PyTree:
    """Returns the averaged parameters of all seeds, trained with this weight or restored."""
    (apply, params), path, asked = network, path_of(config), config.training

    def evaluate(params: PyTree, key: Key) -> dict[str, float]:  # noqa: ARG001
        return {"surplus": float(errors(params).mean())}

    state = loop.fit(
        make_loss(apply, path, weight, asked.penalty_every),
        params,
        batches(config),
        optax.adam(optax.cosine_decay_schedule(asked.learning_rate, asked.num_steps)),
        evaluate,
        workdir=folder,
        num_steps=asked.num_steps,
        seed=config.seed,
        max_skipped=asked.max_skipped,
        ema_decay=asked.ema_decay,
        eval_every=asked.save_every,
        save_every=asked.save_every,
    )
    return layout.on_host(state.ema_params)


def restore(config: Config, folder: Any) -> dict[str, Network]:
    """Tells how the networks of a run are read, by method and by number."""
    (apply, like), path = networks(config), path_of(config)
    read = partial(checkpoints.averaged, like=like, num_steps=config.training.num_steps)
    velocity = lambda params: simplex.as_velocity(partial(apply, params), path)  # noqa: E731
    law = partial(laws.probabilities, config.letters)
    return {
        f"{name}/{index}": Network(
            apply, partial(read, folder / place), path, law, velocity=velocity, index=index
        )
        for name, place in PLACES.items()
        for index in range(config.num_seeds)
    }


def evaluate(
    trained: dict[str, PyTree], apply: Callable[..., Array], errors: Callable, config: Config
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns the numbers of the run, and the arrays its figures are drawn from."""
    law, path, asked = laws.probabilities(config.letters), path_of(config), config.measures
    keys = jax.random.split(jax.random.key(config.seed + 1), (config.num_seeds, asked.num_samples))
    how = {"path": path, "keys": keys, "num_steps": asked.solver_steps}
    frequencies = {
        name: measures.marginals(apply, params, law.shape, **how)
        for name, params in trained.items()
    }
    rng = np.random.default_rng([config.seed, 2])
    frequencies |= measures.references(law, rng=rng, **how)
    apart = lambda values: measures.apart(values, law, asked.num_samples)  # noqa: E731
    results = {
        name: {reading: apart(values) for reading, values in found.items()}
        for name, found in frequencies.items()
    }
    surplus = {name: np.asarray(errors(params)) for name, params in trained.items()}
    for name, values in surplus.items():
        rows = zip(measures.TIMES, values.T, strict=True)
        results[name]["surplus"] = [{"t": t, **numbers.summary(value)} for t, value in rows]
    return results, {"law": law, "surplus": surplus, "frequencies": frequencies}


def main(config: Config) -> None:
    """Trains or continues all networks, evaluates, and leaves everything under the run folder."""
    config.check()
    folder = loop.open_run(config.workdir or f"runs/fdm/dna/{config.path}", config)
    weights = {"FM": 0.0, "FDM": config.weight}
    places = {name: folder / place for name, place in PLACES.items()}
    network = networks(config)
    errors = make_errors(network[0], config, path_of(config))
    trained = {
        name: train(config, weight, network, errors, places[name])
        for name, weight in weights.items()
    }
    if jax.process_index() != 0:
        return  # one process evaluates and writes
    results, arrays = evaluate(trained, network[0], errors, config)
    run_arrays.write(folder / "arrays.npz", arrays)
    history = {name: read_metrics(place, "surplus") for name, place in places.items()}
    write_json(folder / "results.json", results | {"history": history})
    with run_pictures.style():
        made = pictures.figures(arrays, history, title=f"{config.path.capitalize()} path")
        run_pictures.save(folder / "figures", made)
    print(tables.report(results, folder))


if __name__ == "__main__":
    cli.run(main, Config)
