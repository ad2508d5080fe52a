"""Where a run comes from: the file provenance.json beside config.json.

    module     the experiment, as `python -m` takes it
    facts      what config.json holds beside the options, such as the fingerprint of the data
    sessions   for every call of the command: when it started, the commit, versions and devices

A run that continues adds a session. Nothing in here is compared with the options of a call.
"""

import datetime
import functools
import importlib.metadata
import pathlib
import platform
import subprocess
import sys
from collections.abc import Iterable
from typing import Any

import jax

from experiments.run import layout

PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy")


def module_of(config: Any) -> str:
    """Names the module in which the options are defined, as `python -m` takes it.

    Args:
      config: an instance of a class.
    """
    name = type(config).__module__
    spec = getattr(sys.modules[name], "__spec__", None) if name == "__main__" else None
    return spec.name if spec else name


def record(before: list[Any], config: Any, facts: Iterable[str]) -> dict[str, Any]:
    """Makes the record of a run that starts now, or continues now.

    Args:
      before: the sessions of a run that continues, else none.
      config: the options.
      facts: the names of what else config.json holds.

    Returns:
      What provenance.json holds, with one more session.
    """
    sessions = [*before, session()]
    return {"module": module_of(config), "facts": sorted(facts), "sessions": sessions}


def session() -> dict[str, Any]:
    """Describes this call: its start, the commit, versions of packages, and the devices."""
    versions = {name: importlib.metadata.version(name) for name in PACKAGES}
    fmjax = importlib.import_module("fmjax").__version__
    return {
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": commit(pathlib.Path(__file__).parent),
        "versions": {**versions, "fmjax": fmjax, "python": platform.python_version()},
        "devices": {
            "platform": jax.default_backend(),
            "kind": jax.devices()[0].device_kind,
            "count": jax.device_count(),
            "processes": jax.process_count(),
            "mesh": dict(layout.make_mesh().shape),
        },
    }


@functools.cache
def commit(folder: pathlib.Path) -> str | None:
    """Returns the commit of the code in a folder, None where git does not know the code.

    The hash ends in -dirty if a file differs from the commit.

    Args:
      folder: with files that the repository must hold: one that lies around an installed copy of
        the code does not count.
    """

    def git(*words: str) -> str:
        command = ["git", "-C", str(folder), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        if not git("ls-files"):
            return None
        return git("describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")
    except (OSError, subprocess.CalledProcessError):  # no git, or no repository
        return None
