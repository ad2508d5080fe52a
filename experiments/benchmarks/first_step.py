"""Seconds from the command to the first training step, and how much of them is compilation.

The training runs as a command of its own, in the loop of every experiment: imports, folder, data,
compilation, one step. Cold, no compiled program is kept from before; cached, the programs of an
earlier run are read from the user's cache folder, as every experiment does. The peer is a script of
torchcfm that takes one step of the same perceptron. The commands run in turn.

Run:    python -m experiments.benchmarks.first_step
        python -m experiments.benchmarks.first_step --networks perceptron --turns 5
Time:   2 minutes on two CPU cores.
Expect: no bar; the share of compilation that is left with the cache.
"""

import dataclasses
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time

from experiments.benchmarks import _page, _turns
from experiments.run import cli, options

NAMES = ("perceptron", "U-Net")


@dataclasses.dataclass(frozen=True)
class Config:
    """The options, each with its default."""

    networks: tuple[str, ...] = NAMES
    """Networks to start, of perceptron and U-Net."""
    turns: int = 3
    """Runs of each command."""

    def check(self) -> None:
        """Raises ValueError for an unknown network, or a number out of its bounds."""
        options.check_among(self, "networks", NAMES)
        options.check_bounds(self, {"turns": (1, 1e9)})


def start(name: str, cache: str) -> tuple[float, float]:
    """Returns the seconds from the command to its first step, and the share of compilation.

    Args:
      name: of a network, or torchcfm.
      cache: the folder in which compiled programs are kept.
    """
    given = {k: v for k, v in os.environ.items() if "CACHE" not in k}
    command = [sys.executable, "-m", "experiments.benchmarks._start", name]
    begin = time.time()
    done = subprocess.run(
        command,
        env=given | {"XDG_CACHE_HOME": cache},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        message = f"the first step of {name} failed: {done.stderr.strip().splitlines()[-1]}"
        raise ValueError(message)
    result = json.loads(done.stdout.splitlines()[-1])
    seconds = result["ready"] - begin
    return seconds, result["compiling"] / seconds


def rows(config: Config, name: str) -> list[list[str]]:
    """Returns the rows of one network: cold, cached, and the peer where there is one."""
    kinds = ["cold", "cached"]
    with_peer = name == "perceptron" and not _page.missing("torch", "torchcfm")
    kinds += ["torchcfm"] if with_peer else []
    taken: dict[str, list[tuple[float, float]]] = {kind: [] for kind in kinds}
    with tempfile.TemporaryDirectory() as kept:
        start(name, kept)  # fills the cache, and reads all files once
        if with_peer:
            start("torchcfm", kept)
        for _ in range(config.turns):
            for kind in kinds:
                with tempfile.TemporaryDirectory() as empty:
                    command = kind if kind == "torchcfm" else name
                    taken[kind].append(start(command, empty if kind == "cold" else kept))
    cells = []
    for kind in kinds:
        seconds, shares = zip(*taken[kind], strict=True)
        over = [a[0] / b[0] for a, b in zip(taken[kind], taken["cached"], strict=True)]
        share = f"{100 * statistics.median(shares):.0f} %" if kind != "torchcfm" else ""
        row = [f"{name}, {kind}", f"{statistics.median(seconds):.1f}", share, _turns.spread(over)]
        cells.append(row)
    if name == "perceptron" and not with_peer:
        cells.append([f"{name}, torchcfm", "not installed", "", ""])
    return cells


def report(config: Config) -> str:
    """Measures and returns one table in Markdown."""
    head = ["first step of", "seconds", "of them compiling", "time over ours, cached"]
    return _page.table(head, [row for name in config.networks for row in rows(config, name)])


def main(config: Config) -> None:
    """Measures and prints one table in Markdown."""
    _page.show(config, report)


if __name__ == "__main__":
    cli.run(main, Config)
