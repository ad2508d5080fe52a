"""How many dimensions the data have around a point, as an exact field and as a network see it.

Beside the paper On the Closed-Form of Flow Matching, arXiv 2506.03719: the field that flow matching
regresses on knows n points and no manifold. The local intrinsic dimension at a point is the energy
of the noise given that the noisy state is the point itself (`fmjax.posterior.dimension`; FLIPD,
arXiv 2406.03537, has the same limit). It is computed at several noises sigma / alpha by the same
function of

1. laws whose dimension is known, a Gaussian of rank 3 and a sphere's surface in 10 dimensions: of
   the law itself, and of the exact field of n draws, at these and at new points;
2. images: of the exact field of the training images, and of a network trained on them, at held-out
   images, for every class;
3. by a second route: the eigenvalues of the gain above 1/2, the directions wider than the noise.

Run:    python -m experiments.closed_form.dimension                    (digits, no network)
        python -m experiments.closed_form.dimension --dataset mnist --data-dir DIR --num-images 50
Time:   4 minutes for the digits on two CPU cores.
Expect: of the laws 3 and 2; of n points 0 as t tends to 1, at noises below the gaps between them. A
        network has no such end. Of the digits the 8 has the largest dimension, the 1 the smallest.
"""

import dataclasses
import functools
import math
import os
from typing import Any

import jax
import numpy as np

from experiments.closed_form._dimension import measures, pictures, tables
from experiments.closed_form._dimension.laws import Law, laws
from experiments.closed_form._dimension.measures import Field
from experiments.closed_form._generalization.measures import points, train
from experiments.images import data, labels, training
from experiments.images.options import Source, Training
from experiments.run import arrays as run_arrays
from experiments.run import cli, devices, loop, options
from experiments.run import pictures as run_pictures
from experiments.run.folder import write_json
from experiments.run.options import Free, Place
from experiments.run.saved import Network


@dataclasses.dataclass(frozen=True)
class Measures:
    """What is measured."""

    times: tuple[float, ...] = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
    """Times in (0, 1), increasing; at t the noise is (1 - t) / t in units of the data."""
    num_draws: int = 4000
    """Points of each law whose exact field is taken, at least 2."""
    num_points: int = 200
    """Points at which the dimension of a law and of its draws is computed, at least 2."""
    num_images: int = 200
    """Images, training and held-out, at which it is computed, at least 2."""
    num_spectra: int = 32
    """Of these points and images those whose spectrum is computed, at least 2."""
    eval_batch_size: int = 20
    """Points at a time; memory grows with it."""

    def check(self) -> None:
        """Raises ValueError for times or numbers that cannot be measured."""
        options.check_times(self.times)
        if list(self.times) != sorted(self.times):
            message = f"times must increase, got {self.times}: the noise falls along a table."
            raise ValueError(message)
        counts = ("num_draws", "num_points", "num_images", "num_spectra")
        bounds = {name: (2, math.inf) for name in counts}
        options.check_bounds(self, bounds | {"eval_batch_size": (1, math.inf)})


@dataclasses.dataclass(frozen=True)
class Config:
    """The options, each with its default: a run on the digits in four minutes."""

    workdir: Place = None
    """Run folder; None is runs/closed_form/dimension/DATASET. The same command continues it."""
    seed: int = 0
    """Seed of the laws, the split, the network and all noise, an integer >= 0."""
    source: Source = Source()
    training: Training = Training()
    measures: Free[Measures] = Measures()

    def check(self) -> None:
        """Raises ValueError for options that would only fail after the training."""
        options.check_parts(self)


Found = tuple[dict[str, Any], dict[str, np.ndarray]]
"""The numbers of one data set, and the arrays of its figures."""


def compare(
    fields: dict[str, tuple[Field, np.ndarray]], bank: np.ndarray, asked: Measures
) -> dict[str, np.ndarray]:
    """Returns what fields say of the dimension at the points of each.

    Args:
      fields: from each name to a field and the points `[n, *dims]` at which it is asked; the one
        that is named "bank" is asked at points of the bank.
      bank: `[m, *dims]`, of which the points held are counted.
      asked: what to measure.

    Returns:
      By the name of each field the dimension, as "directions_of_NAME" the number of wide
      directions, as "spectrum_of_NAME" the eigenvalues, and "points_held"; `[times, n]`, the
      spectra with an axis of their entries behind.
    """
    given, found = {"size": asked.eval_batch_size}, {}
    for name, (field, where) in fields.items():
        found[name] = measures.dimensions(field, where, asked.times, **given, label=name)
        few = where[: asked.num_spectra]
        spectrum = measures.spectra(field, few, asked.times, **given, label=name)
        found |= {
            f"spectrum_of_{name}": spectrum,
            f"directions_of_{name}": measures.directions(spectrum),
        }
    held = measures.effective_numbers(bank, fields["bank"][1], asked.times, **given, label="bank")
    return found | {"points_held": held}


def _summed(title: str, found: dict[str, np.ndarray], asked: Measures) -> dict[str, Any]:
    """Returns the rows of a data set, and the noise to which its bank means something."""
    without = {k: v for k, v in found.items() if not k.startswith("spectrum_of_")}
    rows = measures.rows(without, asked.times)
    return {"title": title, "rows": rows, "meaningful_to": measures.meaningful(rows)}


def of_law(law: Law, asked: Measures, rng: np.random.Generator) -> Found:
    """Measures a law and the exact field of its draws.

    Args:
      law: whose dimension is known.
      asked: what to measure.
      rng: for the draws.
    """
    bank, new = law.draw(rng, asked.num_draws), law.draw(rng, asked.num_points)
    fields = {
        "law": (Field(law.apply, law.params), new),
        "bank": (measures.of_bank(bank), bank[: asked.num_points]),
        "bank_at_new": (measures.of_bank(bank), new),
    }
    found = compare(fields, bank, asked)
    known = {"dimension": law.dimension, "ambient": bank.shape[1], "num_bank": len(bank)}
    return _summed(law.title, found, asked) | known, found


def of_images(
    network: Field, images: data.Images, classes: labels.Labels, asked: Measures
) -> Found:
    """Measures a network of images and the exact field of the images that it was trained on.

    Args:
      network: the network.
      images: the data set.
      classes: of the images.
      asked: what to measure.
    """
    bank, count = points(images, len(images.train)), asked.num_images
    held_out = data.centers(images.held_out[:count], images.levels)
    fields = {
        "network": (network, held_out),
        "bank": (measures.of_bank(bank), bank[:count]),
        "bank_at_new": (measures.of_bank(bank), held_out),
    }
    found = compare(fields, bank, asked)
    known = {"ambient": int(bank[0].size), "num_bank": len(bank)}
    by_class = {
        "network": measures.by_class(found["network"], classes.held_out[:count]),
        "bank": measures.by_class(found["bank"], classes.train[:count]),
    }
    shown = {"images": held_out, "classes": classes.held_out[:count]}
    return _summed("", found, asked) | known | {"classes": by_class}, found | shown


def restore(config: Config, folder: os.PathLike) -> dict[str, Network]:
    """Tells how the network of a run is read."""
    images = training.recorded(config.source, config.seed, folder)
    return {"flow": training.trained(config.training, images, folder)}


def main(config: Config) -> None:
    """Trains or continues, measures, and leaves everything under the run folder."""
    config.check()
    devices.check_batch(config.training.batch_size)
    name, images = training.load(config.source, config.seed)
    classes = labels.matching(config.source, config.seed, images)
    facts = {"data": data.fingerprint(images), "labels": labels.fingerprint(classes)}
    folder = config.workdir or f"runs/closed_form/dimension/{name}"
    folder = loop.open_run(folder, config, **facts)
    key, _ = training.keys(config.seed)
    fit = functools.partial(train, config.training, images, len(images.train))
    network = Field(*fit(folder, key, seed=config.seed))
    asked, rng = config.measures, np.random.default_rng([config.seed, 1])
    # Near the noise the identity multiplies errors of the Jacobian: no TF32 or bfloat16 products.
    with jax.default_matmul_precision("highest"):
        found = {key: of_law(law, asked, rng) for key, law in laws(config.seed).items()}
        found["images"] = of_images(network, images, classes, asked)
    if jax.process_index() != 0:
        return  # one process writes
    results = {key: numbers for key, (numbers, _) in found.items()}
    results["images"]["title"] = data.title(name)
    arrays = {key: drawn for key, (_, drawn) in found.items()}
    write_json(folder / "results.json", results)
    run_arrays.write(folder / "arrays.npz", arrays)
    with run_pictures.style():
        run_pictures.save(folder / "figures", pictures.figures(results, arrays))
    print(tables.report(results))
    print(f"everything is in {folder}: config.json, results.json, arrays.npz, figures/")


if __name__ == "__main__":
    cli.run(main, Config)
