"""Flow and divergence matching of real DNA: sequences of a file, such as promoters.

Paper: Improving Flow Matching by Aligning Flow Divergence, arXiv 2602.00869, its section on
promoters (after Stark et al., arXiv 2402.05841). The paper's 100,000 human promoters of 1,024
letters and the Sei network of its SP-MSE cannot be had here, so this takes any file of sequences
(`experiments/fdm/_promoters/sequences.py`), conditions on one of its columns, and measures what
needs no private weights. The paper's code penalizes a finite difference of the probabilities; ours
is the loss that the paper means, the square of the conditional residual within the simplex.

A network of dilated convolutions predicts the letters from a noisy sequence, once by cross-entropy
alone (FM) and once with the divergence penalty (FDM): the same start, data and noise, the same
number of steps. Samples with the labels of held-out sequences are compared with these: letters by
position, words of 3 to 6 letters, the TATA box and the initiator in their places, and the Frechet
distance and SP-MSE of a classifier that the experiment trains; beside them what as many training
sequences score.

Run:    python -m experiments.fdm.promoters --sequences human_promoters_300.csv.gz --start 249
        python -m experiments.fdm.promoters --sequences ecoli_mpra_165.csv.gz --condition expression
Time:   22 minutes on two CPU cores beside other runs.
Expect: the table of experiments/fdm/README.md.
"""

import dataclasses
import os
import pathlib
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import jax
import numpy as np
import optax
from flax import nnx

import fmjax
from experiments.fdm._dna import quick
from experiments.fdm._promoters import (
    classifier,
    losses,
    measures,
    motifs,
    network,
    pictures,
    sequences,
    tables,
)
from experiments.fdm._promoters.options import Measures, Source, Training
from experiments.fdm._promoters.sequences import LETTERS
from experiments.run import arrays as run_arrays
from experiments.run import checkpoints, cli, clock, layout, loop, options
from experiments.run import pictures as run_pictures
from experiments.run.folder import read_metrics, remembered, write_json
from experiments.run.options import Free, Place
from experiments.run.saved import Network
from fmjax import simplex
from fmjax.types import Array, PyTree

PATHS = {"linear": simplex.linear, "dirichlet": quick.dirichlet}


@dataclasses.dataclass(frozen=True)
class Config:
    """The options, each with its default."""

    workdir: Place = None
    """Run folder; None is runs/fdm/promoters/NAME_OF_THE_FILE/PATH. The same command continues
    it."""
    seed: int = 0
    """Seed of the networks, the order of the data and all noise, an integer >= 0."""
    path: Literal["dirichlet", "linear"] = "dirichlet"
    """The path from uniform noise to letters."""
    weights: tuple[float, ...] = (0.1,)
    """Weights of the divergence penalty, a network of FDM for each; FM has none."""
    source: Source = Source()
    training: Training = Training()
    measures: Free[Measures] = Measures()

    def check(self) -> None:
        """Raises ValueError for options that would only fail after the training."""
        options.check_bounds(self, {"seed": (0, 2**32 - 1)})
        options.check_different(self, "weights")
        options.check_parts(self)


def methods(config: Config) -> dict[str, tuple[float, str]]:
    """Returns the weight of every network and its place in the run folder, by its name.

    The first is in the run folder itself, where a run that was interrupted is recognized.
    """
    penalized = {f"FDM {weight:g}": (weight, f"FDM_{weight:g}") for weight in config.weights}
    return {"FM": (0.0, ".")} | penalized


def read(config: Config) -> sequences.Sequences:
    """Returns the data of a run, or says what does not fit them before anything is written."""
    asked, source = config.measures, config.source
    data = sequences.read(source.sequences, source.condition, source.num_bins)
    if asked.start is not None:
        motifs.check_start(asked.start, data.train.letters.shape[1])
    held_out = len(data.held_out.letters)
    if asked.num_samples > held_out:
        message = (
            f"--num-samples {asked.num_samples} is more than the {held_out} held-out sequences "
            "that samples are compared with."
        )
        raise ValueError(message)
    references(config, data)  # or says that there are too few
    return data


def watched(config: Config, data: sequences.Sequences, count: int) -> sequences.Part:
    """Returns so many of the held-out sequences, drawn once for the run."""
    rng = np.random.default_rng([config.seed, 1])
    chosen = rng.permutation(len(data.held_out.letters))[:count]
    return sequences.Part(*(rows[chosen] for rows in data.held_out))


def references(config: Config, data: sequences.Sequences) -> tuple[sequences.Part, np.ndarray]:
    """Returns the held-out sequences to compare with, and training ones of the same labels."""
    part = watched(config, data, config.measures.num_samples)
    rng = np.random.default_rng([config.seed, 2])
    places = measures.paired(rng, data.train.labels, part.labels)
    return part, data.train.letters[places]


def networks(config: Config, data: sequences.Sequences) -> tuple[Callable[..., Array], PyTree]:
    """Returns the network, `(params, x, t, context=label) -> logits`, and its first parameters."""
    asked, rngs = config.training, nnx.Rngs(config.seed)
    size = (asked.channels, asked.rounds, asked.kernel_size)
    shape = (data.train.letters.shape[1], len(LETTERS))
    module = network.Logits(shape, len(data.classes), *size, rngs=rngs)
    return fmjax.models.functional(module)


def train(
    config: Config,
    weight: float,
    made: tuple[Callable[..., Array], PyTree],
    data: sequences.Sequences,
    folder: os.PathLike,
) -> PyTree:
    """Returns the averaged parameters, trained with this weight or restored."""
    (apply, params), path, asked = made, PATHS[config.path](len(LETTERS)), config.training
    state = loop.fit(
        losses.of_training(apply, path, weight, asked.penalty_every),
        params,
        classifier.labeled(data.train, asked.batch_size, seed=config.seed),
        optax.adam(optax.cosine_decay_schedule(asked.learning_rate, asked.num_steps)),
        losses.held_out(
            apply, path, watched(config, data, 512), size=asked.batch_size, seed=config.seed
        ),
        workdir=folder,
        num_steps=asked.num_steps,
        seed=config.seed,
        max_skipped=asked.max_skipped,
        ema_decay=asked.ema_decay,
        eval_every=asked.save_every,
        save_every=asked.save_every,
    )
    return layout.on_host(state.ema_params)


def step_ratio(
    config: Config, made: tuple[Callable[..., Array], PyTree], data: sequences.Sequences
) -> float:
    """Returns the time of a gradient with the penalty over one without, on the same batch."""
    (apply, params), asked = made, config.training
    path = PATHS[config.path](len(LETTERS))
    batch = next(classifier.labeled(data.train, asked.batch_size, seed=config.seed)(0))

    def gradient(weight: float) -> Callable[[], Array]:
        loss = losses.of_training(apply, path, weight, asked.penalty_every)
        compiled = jax.jit(jax.grad(loss), compiler_options=fmjax.train.compiler_options())
        return partial(compiled, params, jax.random.key(0), batch)

    taken = clock.seconds({"FM": gradient(0.0), "FDM": gradient(max(config.weights))})
    return taken["FDM"] / taken["FM"]


def restore(config: Config, folder: Any) -> dict[str, Network]:
    """Tells how the networks of a run are read, by method; the velocity is that of class 0."""
    data, path = read(config), PATHS[config.path](len(LETTERS))
    apply, like = networks(config, data)
    averaged = partial(checkpoints.averaged, like=like, num_steps=config.training.num_steps)
    first = lambda params, x, t: apply(params, x, t, context=0)  # noqa: E731
    velocity = lambda params: simplex.as_velocity(partial(first, params), path)  # noqa: E731
    return {
        name: Network(apply, partial(averaged, folder / place), path, lambda: data, velocity)
        for name, (_, place) in methods(config).items()
    }


def sampled(
    config: Config,
    trained: dict[str, PyTree],
    apply: Callable[..., Array],
    part: sequences.Part,
) -> dict[str, np.ndarray]:
    """Returns the samples of every network, one for each label, from the same noise."""
    shape, path = (part.letters.shape[1], len(LETTERS)), PATHS[config.path](len(LETTERS))
    how = {"num_steps": config.measures.solver_steps, "size": 2 * config.training.batch_size}
    key = jax.random.key(config.seed + 1)
    return {
        name: measures.generated(
            apply, params, path, shape, part.labels, key, label=f"samples of {name}", **how
        )
        for name, params in trained.items()
    }


def evaluate(
    config: Config,
    sets: dict[str, np.ndarray],
    labels: np.ndarray,
    found: classifier.Found | None,
    embed: measures.Embed | None,
) -> dict[str, Any]:
    """Returns the numbers of the sets of sequences."""
    others, start = sets["held out"], config.measures.start
    how = {
        "start": start,
        "features": found and found.features,
        "embed": embed or (found and found.probabilities),
    }
    apart = {
        name: measures.apart(letters, others, labels, **how)
        for name, letters in sets.items()
        if name != "held out"
    }
    own = {
        motif.name: measures.by_class(others, motif, labels, measures.background(others), start)
        for motif in (() if start is None else motifs.MOTIFS)
    }
    told = found and {"accuracy": found.accuracy, "most": found.most}
    return {"sets": apart, "motifs_held_out": own or None, "classifier": told}


def main(config: Config, embed: measures.Embed | None = None) -> None:
    """Trains or continues both networks, evaluates, and leaves everything under the run folder.

    Args:
      config: the options.
      embed: what SP-MSE compares, letters `[n, length]` to `[n]` or `[n, k]`, such as a mean of
        Sei's outputs; None is the class probabilities of the experiment's own classifier.
    """
    config.check()
    data = read(config)
    name = pathlib.Path(config.source.sequences).name.split(".")[0]
    folder = loop.open_run(
        config.workdir or f"runs/fdm/promoters/{name}/{config.path}",
        config,
        data=sequences.fingerprint(data),
    )
    made = networks(config, data)
    trained = {
        method: train(config, weight, made, data, folder / place)
        for method, (weight, place) in methods(config).items()
    }
    found = None
    if len(data.classes) > 1:
        steps = config.measures.classifier_steps
        how = {"channels": config.training.channels, "batch_size": config.training.batch_size}
        place = folder / f"classifier_{steps}"
        found = classifier.fit(data, place, num_steps=steps, seed=config.seed, **how)
    part, others = references(config, data)
    sets = sampled(config, trained, made[0], part)
    sets, labels = sets | {"training data": others, "held out": part.letters}, part.labels
    results = evaluate(config, sets, labels, found, embed)
    if jax.process_index() != 0:
        return  # one process writes
    history = {
        method: read_metrics(folder / place, "held_out_loss")
        for method, (_, place) in methods(config).items()
    }
    results |= {
        "num_samples": len(labels),
        "classes": list(data.classes),
        "held_out_loss": {method: rows[-1]["held_out_loss"] for method, rows in history.items()},
        "step_ratio": remembered(
            folder / "cost.json",
            {"weights": config.weights, **vars(config.training)},
            lambda: {"ratio": step_ratio(config, made, data)},
        )["ratio"],
    }
    run_arrays.write(folder / "arrays.npz", sets | {"labels": labels})
    write_json(folder / "results.json", results | {"history": history})
    with run_pictures.style():
        title = f"{name}, {config.path} path, seed {config.seed}"
        figures = pictures.figures(
            results, sets, labels, history, start=config.measures.start, title=title
        )
        run_pictures.save(folder / "figures", figures)
    print(tables.report(results, folder))


if __name__ == "__main__":
    cli.run(main, Config)
