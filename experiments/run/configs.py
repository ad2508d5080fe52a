"""The file config.json of a run: read, and compared with the options of a call."""

import dataclasses
import json
from collections.abc import Collection
from typing import Any

from etils import epath

from experiments.run import checksums, errors, options, records


def check_same(folder: epath.Path, config: Any, facts: dict[str, Any]) -> None:
    """Raises ValueError if a folder holds another run, or one without its options.

    Args:
      folder: which need not be there.
      config: the options, a dataclass.
      facts: by their names, as they are recorded beside the options.
    """
    path = folder / "config.json"
    if not holds_a_run(folder):
        return
    if not path.exists():
        message = (
            f"{folder} holds a run but no config.json: restore it, or give another --workdir. "
            "Nothing was changed."
        )
        raise ValueError(message)
    before = recorded(path)
    if differing := differences(before, settings(config, facts), skip=options.free(config)):
        message = (
            f"{folder} holds a run with other options: {differing}; give another --workdir, or the "
            "same options to continue that run. Nothing was changed."
        )
        raise ValueError(message)


def settings(config: Any, facts: dict[str, Any]) -> dict[str, Any]:
    """Returns options and facts as config.json holds them."""
    return records.plain(dataclasses.asdict(config) | facts)


def holds_a_run(folder: epath.Path) -> bool:
    """Returns whether anything was recorded or saved in the folder or a network's folder."""
    names = ("checkpoints/*", "metrics.jsonl", "results.json", "evaluation.json")
    places = ("", "*/", "*/*/")  # as seed_0/weight_0.1
    patterns = (f"{place}{name}" for place in places for name in names)
    return any(True for pattern in patterns for _ in folder.glob(pattern))


def recorded(path: epath.Path) -> dict[str, Any]:
    """Returns the recorded config, or says that it is damaged."""
    try:
        return records.read(path)
    except ValueError as error:
        message = (
            f"{path} is damaged ({error}): restore it, or give another --workdir. If you have "
            f"edited it, remove its {checksums.NAME}."
        )
        raise ValueError(message) from error


def differences(before: dict[str, Any], config: dict[str, Any], *, skip: Collection[str]) -> str:
    """Returns how the recorded config differs from this one; "" if it does not.

    Args:
      before: the recorded config, with its parts.
      config: this one.
      skip: names of options that may differ.
    """
    before, config, absent = options.flat(before), options.flat(config), "absent"
    say = lambda value: errors.short(json.dumps(value))  # noqa: E731
    found = [
        f"{errors.short(name)} ({say(before.get(name, absent))} there, "
        f"{say(config.get(name, absent))} now)"
        for name in {**before, **config}
        if name not in skip and before.get(name, absent) != config.get(name, absent)
    ]
    more = f" and {len(found) - 4} more" if len(found) > 4 else ""
    return ", ".join(found[:4]) + more
