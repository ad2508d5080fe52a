"""Two runs side by side: where they come from, the options that differ, and their numbers.

    python -m experiments compare RUN RUN

A run is a folder that holds config.json and, at its end, results.json. The numbers of both are
listed by their dotted names, with the difference of the second from the first; equal ones are
counted. A row of numbers, such as one for each image, is compared by its mean.
"""

import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from etils import epath

from experiments.run import checksums, folder, options, paths

_ROW = 8  # numbers; longer rows are compared by their mean
_ASIDE = {"workdir", checksums.NAME}


def compare(first: str | os.PathLike, second: str | os.PathLike) -> str:
    """Compares two runs.

    Args:
      first: a run folder.
      second: a run folder, of the same experiment or another one.

    Returns:
      Lines of text.

    Raises:
      ValueError: if a folder is no run, has no results yet, or is damaged.
    """
    places = [paths.absolute(place) for place in (first, second)]
    names = [str(place) for place in places]
    origins = [_origin(place) for place in places]
    opted = [options.flat(_read(place, "config.json")) for place in places]
    found = [dict(numbers(_read(place, "results.json"))) for place in places]
    differing = [
        [name, *(_written(one.get(name, "absent")) for one in opted)]
        for name in {**opted[0], **opted[1]}
        if name not in _ASIDE and opted[0].get(name, "absent") != opted[1].get(name, "absent")
    ]
    head = [["", *names], ["experiment", *(origin[0] for origin in origins)]]
    head += [["commit", *(origin[1] for origin in origins)]]
    parts = [_aligned(head)]
    parts += [_aligned([["options that differ", "", ""], *differing])] if differing else []
    parts += [_results(*found)]
    return "\n\n".join(parts)


def numbers(tree: Any, name: str = "") -> Iterator[tuple[str, float]]:
    """Lists the numbers of a tree of dicts and lists by their dotted names.

    A list of more than 8 numbers counts as one, its mean; text, truth values and null are left out.
    """
    if isinstance(tree, dict):
        for key, part in tree.items():
            if key not in _ASIDE:
                yield from numbers(part, f"{name}.{key}" if name else str(key))
    elif isinstance(tree, list) and len(tree) > _ROW and all(map(_is_number, tree)):
        yield f"{name}, mean of {len(tree)}", float(np.mean(tree))
    elif isinstance(tree, list):
        for index, part in enumerate(tree):
            yield from numbers(part, f"{name}[{index}]")
    elif _is_number(tree):
        yield name, float(tree)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _read(place: epath.Path, name: str) -> dict[str, Any]:
    """Returns what a file of a run holds."""
    file = place / name
    if not file.exists():
        what = (
            "has no results yet: run its command to the end"
            if (place / "config.json").exists()
            else "is no run folder: give the one that holds config.json"
        )
        message = f"{place} {what}."
        raise ValueError(message)
    return folder.read_json(file)


def _origin(place: epath.Path) -> tuple[str, str]:
    """Returns the experiment and the commit of the last session, as far as they are recorded."""
    file = place / "provenance.json"
    recorded = folder.read_json(file) if file.exists() else {}
    last = (recorded.get("sessions") or [{}])[-1]
    return recorded.get("module", "unknown"), (last.get("commit") or "unknown")[:10]


def _results(first: dict[str, float], second: dict[str, float]) -> str:
    """Writes the numbers that differ, and how many are equal."""
    same = [name for name in first if first[name] == second.get(name)]
    rows = [
        [name, *map(_number, (first.get(name), second.get(name))), _difference(first, second, name)]
        for name in {**first, **second}
        if name not in same
    ]
    lines = _aligned([["numbers that differ", "", "", "difference"], *rows]) if rows else ""
    ending = f"{len(same)} numbers are equal, {len(rows)} are not."
    return f"{lines}\n\n{ending}" if lines else ending


def _difference(first: dict[str, float], second: dict[str, float], name: str) -> str:
    """Writes how far the second number is from the first, in percent of the first."""
    if name not in first or name not in second:
        return ""
    gap = second[name] - first[name]
    return f"{gap:+.3g}" + (f" ({gap / abs(first[name]):+.1%})" if first[name] else "")


def _number(value: float | None) -> str:
    return "absent" if value is None else f"{value:.6g}"


def _written(value: Any) -> str:
    return value if isinstance(value, str) else " ".join(str(value).split())


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    """Writes rows of cells in columns."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ("  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)
