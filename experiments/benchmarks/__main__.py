"""Runs the benchmarks one after the other and rewrites their tables in the README of this folder.

    python -m experiments.benchmarks                          all of them
    python -m experiments.benchmarks --only sampling steps    some

Each runs with its defaults (`python -m experiments.benchmarks.NAME --help`). Its tables are
written between its two markers as soon as they are measured, with the machine, its load, the
versions and the commit; what stands outside of the markers is kept.
"""

import dataclasses
import importlib
import pathlib
import sys

from experiments.benchmarks import _page
from experiments.run import cli, devices, options
from experiments.run.options import Place

# Those against peers first, then those of the papers.
NAMES = (
    "divergences",
    "steps",
    "sampling",
    "likelihoods",
    "couplings",
    "first_step",
    "scaling",
    "calls",
    "closed_form",
    "fdm",
    "uncertainty",
)


@dataclasses.dataclass(frozen=True)
class Config:
    """The options, each with its default."""

    only: tuple[str, ...] = NAMES
    """The benchmarks to run."""
    page: Place = None
    """The page to rewrite; None is the README of this folder."""
    figures: Place = None
    """Folder of the pictures; None is docs/figures of the repository."""

    def check(self) -> None:
        """Raises ValueError for an unknown benchmark."""
        options.check_among(self, "only", NAMES)


def measure(name: str, figures: pathlib.Path, commit: str) -> str:
    """Returns what stands between the markers of a benchmark: where it was measured, its tables.

    Args:
      name: of the benchmark.
      figures: the folder into which it draws its picture, if it has one.
      commit: of the code.
    """
    module = importlib.import_module(f"experiments.benchmarks.{name}")
    config = module.Config()
    if hasattr(config, "figure"):
        config = dataclasses.replace(config, figure=str(figures / f"benchmarks_{name}.png"))
    config.check()
    before = _page.load()
    tables = module.report(config)
    command = f"python -m experiments.benchmarks --only {name}"
    stamp = _page.stamp(command, (before, _page.load()), commit)
    return f"{stamp}\n\n{tables}"


def main(config: Config) -> None:
    """Measures every benchmark and writes its tables into the page."""
    config.check()
    page = pathlib.Path(config.page or pathlib.Path(__file__).with_name("README.md"))
    here = pathlib.Path(__file__).parents[2] / "docs" / "figures"
    figures = pathlib.Path(config.figures) if config.figures else here
    for name in config.only:
        _page.replace(page.read_text(), name, "")  # a page without markers is said first
    devices.announce()
    commit = _page.commit()  # before the page is changed
    for name in config.only:
        print(f"{name} ...", file=sys.stderr, flush=True)
        body = measure(name, figures, commit)
        page.write_text(_page.replace(page.read_text(), name, body))
        print(f"\n{body}", flush=True)


if __name__ == "__main__":
    cli.run(main, Config)
