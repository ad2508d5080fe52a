"""Is the target of flow matching noisy? The exact velocity against the velocity of single pairs.

Paper: On the Closed-Form of Flow Matching, arXiv 2506.03719, section 3.1 and figure 1. No network
and no training: the exact velocity u of a finite data set is known in closed form, so

1. the cosine of u and x1 - x0 at x_t, as histograms and as a mean over time (figure 1a);
2. the share of pairs with a cosine above 0.9, for images subsampled to several sizes (figure 1c);
3. beside the paper: when the posterior weight of the true point passes 1/2, against the time at
   which the information of Gaussian data of the same covariance reaches the entropy of the data.

Run:    python -m experiments.closed_form.cosine                       (no data set on disk)
        python -m experiments.closed_form.cosine --datasets photographs  (sizes up to 256)
        python -m experiments.closed_form.cosine --datasets moons digits mnist --data-dir DIR
Time:   6 seconds on two CPU cores; with MNIST, 20,000 images of CIFAR-10 and the photographs 2.5
        minutes.
Expect: the paper, in words: on two moons all cosines are near 1 only at intermediate to large t, on
        CIFAR-10 before t = 0.2; the more dimensions, the earlier and sharper. Ours: 0.74 on moons
        at t = 0.6, 0.99 on 20,000 images of CIFAR-10 at t = 0.21; more in
        experiments/closed_form/README.md.
"""

import dataclasses
import functools
import math
import os
from typing import Any

import jax
import numpy as np

import fmjax
from experiments.closed_form._cosine import measures, photographs, pictures
from experiments.images import data, own
from experiments.run import cli, loop, options, points
from experiments.run import pictures as run_pictures
from experiments.run.folder import remembered, write_json
from experiments.run.options import Free, Place
from fmjax.types import Key


@dataclasses.dataclass(frozen=True)
class Moons:
    """The two moons."""

    moons_points: int = 50_000
    """Points of the moons."""
    moons_noise: float = 0.2
    """Standard deviation of the noise on moons of radius one, at least 0.01."""
    moons_scale: float = 3.0
    """Factor by which the moons are then enlarged, positive."""
    moons_shift: float = -1.0
    """What is then added to both coordinates."""

    def check(self) -> None:
        """Raises ValueError for numbers out of their bounds; the law itself checks its noise."""
        bounds = {
            "moons_points": (2, math.inf),
            "moons_scale": (1e-6, 1e6),
            "moons_shift": (-1e6, 1e6),
        }
        options.check_bounds(self, bounds)


@dataclasses.dataclass(frozen=True)
class Measures:
    """What is measured of every data set."""

    num_pairs: int = 256
    """Pairs of noise and data, at least 2, the same at all times."""
    num_times: int = 51
    """Times from 0.01 to 0.99, one more than a multiple of 5: six of them have a histogram."""
    eval_batch_size: Free[int] = 64
    """Pairs at a time; memory grows with its product with the number of points."""

    def check(self) -> None:
        """Raises ValueError for numbers out of their bounds."""
        bounds = {"num_pairs": (2, math.inf), "num_times": (6, math.inf)}
        options.check_bounds(self, bounds | {"eval_batch_size": (1, math.inf)})
        if self.num_times % 5 != 1:
            message = (
                f"num_times must be one more than a multiple of 5, got {self.num_times}: the six "
                "times of the histograms are among them."
            )
            raise ValueError(message)


@dataclasses.dataclass(frozen=True)
class Config:
    """The options, each with its default."""

    datasets: Free[tuple[str, ...]] = ("moons", "digits")
    """Any of moons, digits, photographs, mnist, fashion_mnist, cifar10, cifar10_subset, and paths
    of your own: points, in .npy or .csv files of numbers [n, d], taken as they are; and images, in
    .npz files with an array "images", uint8 [n, h, w] or [n, h, w, c] (and "held_out" images and
    "levels" of a pixel, if you have them), .npy files of such an array, and folders of PNG or JPEG
    files. Of images the training part is used; photographs are 550 crops of 256x256 pixels of the
    two of scikit-learn."""
    data_dir: Place = None
    """Folder of data sets prepared by tensorflow-datasets; None is its default folder, to which
    a missing data set is downloaded. Only for data sets of tensorflow-datasets."""
    workdir: Place = None
    """Run folder; None is runs/closed_form/cosine. The same command continues it, and what has been
    measured of a data set is not repeated."""
    seed: int = 0
    """Seed of the moons, of the pairs and of the split of images without one, an integer >= 0."""
    sizes: Free[tuple[int, ...]] = (4, 8, 16, 32, 64, 128, 256)
    """Sides, in pixels, to which images are subsampled; those below the images' own are used."""
    moons: Moons = Moons()
    measures: Measures = Measures()

    def check(self) -> None:
        """Raises ValueError for options that would fail later, or would measure the wrong thing."""
        labels = [own.label(name) for name in self.datasets]
        if not labels or len(set(labels)) < len(labels):
            message = f"datasets must be one or more of different names, got {self.datasets}."
            raise ValueError(message)
        options.check_bounds(self, {"seed": (0, 2**32 - 1)})
        options.check_parts(self)
        if any(side < 1 for side in self.sizes) or len(set(self.sizes)) < len(self.sizes):
            message = f"sizes must be different positive numbers of pixels, got {self.sizes}."
            raise ValueError(message)


def _keys(seed: int) -> Key:
    """Returns the keys of the moons and of the pairs."""
    return jax.random.split(jax.random.key(seed))


def moons(asked: Moons, seed: int) -> np.ndarray:
    """Returns the points in the plane, `[n, 2]`."""
    law = fmjax.toy.moons(asked.moons_noise)
    keys = jax.random.split(_keys(seed)[0], asked.moons_points)
    points = jax.jit(jax.vmap(law.sample))(keys)
    return np.float32(asked.moons_scale * np.asarray(points) + asked.moons_shift)


def load(config: Config, name: str) -> np.ndarray:
    """Returns a data set as float32, points `[n, d]` or, in [-1, 1], images `[n, h, w, c]`."""
    if name == "moons":
        return moons(config.moons, config.seed)
    if name == "photographs":
        return photographs.photographs()
    if points.holds(name):
        return points.read(name, "[n, d]")
    images = data.load(name, data_dir=config.data_dir, seed=config.seed)
    return data.centers(images.train, images.levels)


def sized(bank: np.ndarray, sizes: tuple[int, ...]) -> list[np.ndarray]:
    """Returns the data set at every size, the least first and last as it is."""
    if bank.ndim == 2:
        return [bank]
    smaller = [side for side in sorted(sizes) if side < min(bank.shape[1:3])]
    return [*(photographs.subsample(bank, side) for side in smaller), bank]


def measure(asked: Measures, seed: int, name: str, bank: np.ndarray) -> dict[str, Any]:
    """Returns what is known of one data set at one size, with its name."""
    label = f"{data.title(name)} {measures.size_of(bank.shape[1:])}".rstrip()
    found = measures.measure(
        bank,
        _keys(seed)[1],
        np.linspace(0.01, 0.99, asked.num_times),
        num_pairs=asked.num_pairs,
        size=asked.eval_batch_size,
        label=label,
    )
    return {"label": label} | found


def report(found: dict[str, list[dict[str, Any]]], folder: os.PathLike) -> str:
    """Returns the summary that is printed at the end of a run."""
    entries = [entry for entries in found.values() for entry in entries]
    width = max(len(entry["label"]) for entry in entries)
    times = "".join(f"{row['t']:6.2f}" for row in measures.pictured(entries[0]))
    lines = ["mean cosine of exact and conditional velocity; collapse time, predicted and measured"]
    lines.append(f" {'t':{width}s}      d       n{times}   predicted  measured")
    for entry in entries:
        means = "".join(f"{row['mean_cosine']:6.2f}" for row in measures.pictured(entry))
        late = f"> {entry['rows'][-1]['t']:.2f}"
        measured = late if entry["measured"] is None else f"{entry['measured']:.3f}"
        lines.append(
            f" {entry['label']:{width}s}{entry['dimension']:7d}{entry['num_points']:8d}{means}"
            f"{entry['predicted']:12.3f}{measured:>10s}"
        )
    lines.append(f"everything is in {folder}: config.json, results.json, figures/")
    return "\n".join(lines)


def kept(config: Config, folder: Any, name: str, bank: np.ndarray) -> dict[str, Any]:
    """Returns `measure` and what it was measured of, read back where that was done before."""
    facts = {"data": measures.fingerprint(bank)}
    file = folder / name / f"{bank[0].size}" / "evaluation.json"
    make = functools.partial(measure, config.measures, config.seed, name, bank)
    return remembered(file, facts, make) | facts


def main(config: Config) -> None:
    """Measures every data set at every size, and leaves everything under the run folder."""
    config.check()
    folder = loop.open_run(config.workdir or "runs/closed_form/cosine", config)
    # Mistakes come first.
    banks = {own.label(name): load(config, name) for name in config.datasets}
    found = {
        name: [kept(config, folder, name, bank) for bank in sized(whole, config.sizes)]
        for name, whole in banks.items()
    }
    if jax.process_index() != 0:
        return  # one process writes
    write_json(folder / "results.json", found)
    with run_pictures.style():
        run_pictures.save(folder / "figures", pictures.figures(found))
    print(report(found, folder))


if __name__ == "__main__":
    cli.run(main, Config)
