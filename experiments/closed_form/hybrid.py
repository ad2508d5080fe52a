"""When a sample is decided: the exact field of the training images up to tau, a learned one after.

Paper: On the Closed-Form of Flow Matching, arXiv 2506.03719, section 3.3 and figure 3. A network is
trained by flow matching on all training images, neither flipped nor dequantized. From the same
noises, samples follow the exact field of these images on [0, tau] and the network on [tau, 1]:
tau = 0 is the network alone, tau = 1 makes copies of training images. Measured over tau is the
distance of the samples to the nearest training image: where it stays as it is at tau = 0, it did
not matter that the network is not exact; where it has fallen, what made the image new is over.

Run:    python -m experiments.closed_form.hybrid                       (digits, no network)
        python -m experiments.closed_form.hybrid --dataset mnist --data-dir DIR
            --channels 32 64 64 --num-noises 64
        the paper's scale, a network of 29 M parameters, on a GPU:
            --dataset cifar10 --channels 160 320 320 640 --dropout 0.1 --num-steps 500000
            --batch-size 128 --learning-rate 2e-4 --ema-decay 0.9999 --save-every 10000
Time:   2 minutes for the digits on two CPU cores.
Expect: flat up to some tau before the predicted collapse, then falling; on CIFAR-10 (the paper, by
        a perceptual distance) flat up to 0.2, and from 0.3 or 0.4 on the image of tau = 1.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import diffrax
import jax
import numpy as np

import fmjax
from experiments.closed_form._generalization import measures, pictures
from experiments.images import classifier, data, training
from experiments.images.features import Embedding
from experiments.images.options import Features, Source, Training
from experiments.run import arrays as run_arrays
from experiments.run import batches, cli, devices, loop, options
from experiments.run import pictures as run_pictures
from experiments.run.folder import write_json
from experiments.run.options import Free, Place
from experiments.run.saved import Network
from fmjax.types import Array, Key, PyTree, Velocity

path = measures.path


def pixels(x: np.ndarray) -> np.ndarray:
    """Returns images as they are, so that distances are between pixels, each in [-1, 1]."""
    return x


@dataclasses.dataclass(frozen=True)
class Measures:
    """What is drawn, at which times of taking over."""

    taus: tuple[float, ...] = tuple(i / 20 for i in range(21))
    """Times at which the network takes over, increasing from 0 to 1."""
    num_noises: int = 256
    """Noises, at least 4, the same for every tau."""
    solver_steps: int = 100
    """Steps of Euler's method on either side of tau."""
    eval_batch_size: int = 64
    """Images evaluated at a time; memory grows with it."""

    def check(self) -> None:
        """Raises ValueError for times or numbers that cannot be measured."""
        taus = np.float32(self.taus)  # as they are used; NaN does not increase
        ends = len(taus) > 2 and (taus[0], taus[-1]) == (0.0, 1.0)
        if not ends or not (np.diff(taus) > 0).all():
            message = f"taus must increase from 0 to 1, at least one between them, got {self.taus}."
            raise ValueError(message)
        bounds = {"num_noises": (4, math.inf), "solver_steps": (1, math.inf)}
        options.check_bounds(self, bounds | {"eval_batch_size": (1, math.inf)})


@dataclasses.dataclass(frozen=True)
class Config:
    """The options, each with its default: a run on the digits in two minutes."""

    workdir: Place = None
    """Run folder; None is runs/closed_form/hybrid/DATASET. The same command continues it."""
    seed: int = 0
    """Seed of the split, the network and all noise, an integer >= 0."""
    source: Source = Source()
    training: Training = Training(dropout=0.0, num_steps=3000, weight_decay=0.0)
    features: Free[Features] = Features()
    measures: Free[Measures] = Measures()

    def check(self) -> None:
        """Raises ValueError for options that would only fail after the training."""
        options.check_parts(self)


def restore(config: Config, folder: Any) -> dict[str, Network]:
    """Tells how the network of a run is read."""
    images = training.recorded(config.source, config.seed, folder)
    return {"flow": training.trained(config.training, images, folder)}


def generate(
    exact: Velocity, learned: Velocity, x0: Array, tau: Array | float, *, num_steps: int
) -> Array:
    """Returns the sample that follows the exact field up to tau and the learned one after.

    By Euler's method: its last evaluation is a step before 1, where the exact field is singular,
    and that step ends on a training point once the posterior is a single one.

    Args:
      exact: the field on [0, tau].
      learned: the field on [tau, 1].
      x0: `[*dims]`, the noise.
      tau: an array in (0, 1), or the number 0.0 or 1.0, where only one velocity is followed.
      num_steps: steps on either side.
    """
    solve = functools.partial(fmjax.samplers.fixed, num_steps=num_steps, solver=diffrax.Euler())
    return fmjax.samplers.hybrid([exact, learned], [0.0, tau, 1.0], x0, solve=solve)


def generate_all(
    apply: Callable[..., Array], params: PyTree, points: np.ndarray, noise: Array, asked: Measures
) -> np.ndarray:
    """Returns the samples of every tau, `[len(taus), n, h, w, c]`.

    Args:
      apply: `(params, x, t) -> dx` of one example.
      params: the parameters.
      points: `[m, h, w, c]`, what the network was trained on.
      noise: `[n, h, w, c]`.
      asked: the times, and how to follow the fields.
    """
    bank = fmjax.empirical.prepare(points)

    def one(params: PyTree, bank: PyTree, x0: Array, tau: Array | float) -> Array:
        exact = functools.partial(fmjax.empirical.velocity, path, bank)
        learned = functools.partial(apply, params)
        return generate(exact, learned, x0, tau, num_steps=asked.solver_steps)

    def alone(tau: float) -> Callable[..., Array]:
        return lambda params, bank, x0, _: one(params, bank, x0, tau)

    compiled = lambda f: jax.jit(jax.vmap(f, in_axes=(None, None, 0, 0)))  # noqa: E731
    ends = {tau: compiled(alone(tau)) for tau in (0.0, 1.0)}
    between, drawn = compiled(one), []  # one program for every other tau
    for tau in asked.taus:
        many = functools.partial(ends.get(tau, between), params, bank)
        taus, label = np.full(len(noise), tau, np.float32), f"samples, tau = {tau:g}"
        size = asked.eval_batch_size
        drawn.append(batches.in_batches(many, noise, taus, size=size, label=label))
    return np.stack(drawn)


def followed(distance: np.ndarray) -> np.ndarray:
    """Returns four noises to show, from near to far at tau = 0.

    Args:
      distance: `[len(taus), n]`, n >= 4.
    """
    order = np.argsort(distance[0])
    return order[(2 * np.arange(4) + 1) * len(order) // 8]


def evaluate(
    network: tuple[Callable[..., Array], PyTree],
    images: data.Images,
    asked: Measures,
    key: Key,
    *,
    embeddings: dict[str, measures.Embed],
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns the numbers of the run, and the arrays its figure is drawn from.

    Args:
      network: `apply` and its parameters.
      images: the data set.
      asked: what to draw.
      key: for the noise.
      embeddings: from the name of a space to the embedding into it; the first is reported.
    """
    points = measures.points(images, len(images.train))
    held_out = data.centers(images.held_out[: asked.num_noises], images.levels)
    noise = jax.random.normal(key, (asked.num_noises, *points.shape[1:]))
    samples = generate_all(*network, points, noise, asked)
    distances = functools.partial(measures.distances, samples, points, held_out)
    found = {name: distances(embed) for name, embed in embeddings.items()}
    which = followed(next(iter(found.values()))["distance"])
    results = {
        "taus": asked.taus,
        "collapse_time": measures.collapse_time(measures.variances(points), points),
        "spaces": {name: _summary(space) for name, space in found.items()},
    }
    arrays = {
        "images": samples[:, which],
        "distances": {name: space["distance"][:, which] for name, space in found.items()},
    }
    return results, arrays


def _summary(space: dict[str, Any]) -> dict[str, Any]:
    """Returns the distances over the noises as means with standard errors, one for each tau."""
    values = np.asarray(space["distance"], np.float64)
    error = values.std(axis=1, ddof=1) / values.shape[1] ** 0.5
    return space | {"distance": values.mean(axis=1), "standard_error": error}


def table(results: dict[str, Any]) -> str:
    """Returns the summary that is printed at the end of a run."""
    lines = []
    for name, space in results["spaces"].items():
        lines.append(
            f"distance to the nearest training image in {name}; of held-out images "
            f"{space['held_out']:.3f}, of training images to each other {space['within']:.3f}"
        )
        lines.append("  tau   distance           memorized   nearest as for tau = 1")
        columns = (space[k] for k in ("distance", "standard_error", "memorized", "decided"))
        for tau, mean, error, share, decided in zip(results["taus"], *columns, strict=True):
            lines.append(f" {tau:4.2f}   {mean:.3f} ± {error:.3f}   {share:9.1%}   {decided:9.1%}")
    lines.append(f"collapse of the posterior predicted at t = {results['collapse_time']:.3f}")
    return "\n".join(lines)


def main(config: Config, *, features: Embedding | None = None) -> None:
    """Trains or continues, evaluates, and leaves everything under the run folder.

    Args:
      config: the options.
      features: in which images are compared beside pixels, instead of a classifier's.
    """
    config.check()
    devices.check_batch(config.training.batch_size)
    name, images = training.load(config.source, config.seed)
    choose = classifier.embedder(config.features, config.source, config.seed, images, features)
    folder = config.workdir or f"runs/closed_form/hybrid/{name}"
    folder = loop.open_run(folder, config, data=data.fingerprint(images))
    embedded = choose(folder)
    embeddings = {"pixels": pixels} | ({embedded.name: embedded.embed} if embedded else {})
    key_loss, key_evaluate = training.keys(config.seed)
    count, seed = len(images.train), config.seed
    network = measures.train(config.training, images, count, folder, key_loss, seed=seed)
    results, arrays = evaluate(
        network, images, config.measures, key_evaluate, embeddings=embeddings
    )
    if jax.process_index() != 0:
        return  # one process writes
    facts = embedded.facts() if embedded else {}
    write_json(folder / "results.json", facts | results)
    run_arrays.write(folder / "arrays.npz", arrays)
    with run_pictures.style():
        picture = pictures.hybrid(results, arrays, dataset=data.title(name))
        run_pictures.save(folder / "figures", {"hybrid": picture})
    print(table(results))
    print(f"everything is in {folder}: config.json, metrics.jsonl, results.json, figures/")


if __name__ == "__main__":
    cli.run(main, Config)
