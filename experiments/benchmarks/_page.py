"""The page of the benchmarks: tables between markers, and where they come from.

    <!-- sampling: begin -->
    what is measured; rewritten by the command
    <!-- sampling: end -->

What is outside of the markers is written by hand and kept.
"""

import importlib.metadata
import importlib.util
import os
import pathlib
import platform
from collections.abc import Callable, Sequence
from typing import Any

import jax

from experiments.run import devices, provenance

# The package of every module that a peer is imported by.
PEERS = {
    "torch": "torch",
    "torchcfm": "torchcfm",
    "flow_matching": "flow_matching",
    "torchdiffeq": "torchdiffeq",
    "ot": "POT",
}


def missing(*modules: str) -> list[str]:
    """Returns which of the modules are not installed."""
    return [name for name in modules if importlib.util.find_spec(name) is None]


def replace(text: str, name: str, body: str) -> str:
    """Returns a page with another body between the markers of a benchmark.

    Args:
      text: the page.
      name: of the benchmark.
      body: Markdown.

    Raises:
      ValueError: unless the page has both markers once, in their order.
    """
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
        message = f"the page must have the line {begin} once and after it {end} once."
        raise ValueError(message)
    before, rest = text.split(begin)
    after = rest.split(end)[1]
    return f"{before}{begin}\n{body.strip()}\n{end}{after}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Returns a table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines).replace("|  |", "| |")


def show(config: Any, report: Callable[[Any], str]) -> None:
    """Checks the options of a benchmark, measures, and prints its tables.

    Args:
      config: the options of the benchmark.
      report: from the options to the tables in Markdown.
    """
    config.check()
    devices.announce()
    print("\n" + report(config))


def stamp(command: str, load: tuple[float, float], commit: str) -> str:
    """Returns one sentence: the command, machine, load, versions and commit of a table.

    Args:
      command: as it is typed.
      load: processes that wanted a core, before and after.
      commit: of the code, asked before the page is changed.
    """
    installed = {"jax": "jax"} | {m: p for m, p in PEERS.items() if not missing(m)}
    versions = ", ".join(f"{p} {importlib.metadata.version(p)}" for p in installed.values())
    return (
        f"`{command}`, {processor()}, {os.cpu_count()} cores, device "
        f"{jax.devices()[0].device_kind}, load {load[0]:.1f} before and {load[1]:.1f} after, "
        f"Python {platform.python_version()}, {versions}, commit {commit}:"
    )


def commit() -> str:
    """Returns the commit of the code in ten digits, "-dirty" behind it if it was changed since."""
    found = provenance.commit(pathlib.Path(__file__).parent) or "unknown"
    return found[:10] + ("-dirty" if found.endswith("-dirty") else "")


def processor() -> str:
    """Names the processor, as Linux does, else by its architecture."""
    cpuinfo = pathlib.Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def load() -> float:
    """Returns how many processes wanted a core in the last minute, on average."""
    return os.getloadavg()[0]
