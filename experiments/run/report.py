"""A run on one page: report.html in its folder, which opens in any browser without a network.

    python -m experiments report RUN

Every experiment writes it at its end. The page holds what the folder does: the numbers of
results.json in tables, figures, the curves of metrics.jsonl, options, and where the run comes from.
"""

import ast
import os
import pathlib

from etils import epath

from experiments.run import configs, curves, folder, page, paths, saved

NAME = "report.html"
_PNG = b"\x89PNG\r\n\x1a\n"


def write(place: str | os.PathLike) -> epath.Path:
    """Writes the page of a run into its folder, in the place of an older one.

    Args:
      place: the run folder.

    Returns:
      The file.

    Raises:
      ValueError: if the folder is no run, or is damaged; nothing is written.
      OSError: if the folder cannot be written.
    """
    place = paths.absolute(place)
    content = make(place)
    folder.replace(place / NAME, content.encode())
    return place / NAME


def make(place: str | os.PathLike) -> str:
    """Returns the page of a run.

    Args:
      place: the run folder; the run need not have ended.

    Raises:
      ValueError: if the folder is no run, or is damaged.
    """
    place = paths.absolute(place)
    paths.check_reachable(place)
    saved.check_is_run(place)
    paths.check_own(place)
    options = configs.recorded(place / "config.json")
    module = folder.field(place / "provenance.json", "module", str)
    parts = (
        ("Results", _results(place)),
        ("Figures", _figures(place)),
        ("Curves", curves.curves(_metrics(place))),
        ("Options", page.tree(options)),
        ("Environment", _environment(place)),
    )
    head = f"<p>{page.text(_about(module))}</p>\n<p>{page.text(place)}</p>"
    return page.document(module, parts, head)


def _about(module: str) -> str:
    """Returns the first line of an experiment's docstring; "" of what is none of this project."""
    if module not in saved.known():
        return ""
    root = pathlib.Path(__file__).parents[1]
    file = root.joinpath(*module.split(".")[1:]).with_suffix(".py")
    return (ast.get_docstring(ast.parse(file.read_text())) or "").split("\n")[0]


def _results(place: epath.Path) -> str:
    file = place / "results.json"
    if not file.exists():
        return "<p>There are no results yet: the command was not run to its end.</p>\n"
    return page.tree(folder.read_json(file))


def _figures(place: epath.Path) -> str:
    files = sorted((place / "figures").glob("*.png"))
    drawn = [page.picture(file.stem, _png(file)) for file in files]
    return f'<div class="grid large">{"".join(drawn)}</div>\n' if drawn else ""


def _png(file: epath.Path) -> bytes:
    content = file.read_bytes()
    if not content.startswith(_PNG):
        message = f"{file} is damaged (it is no PNG image): the same command draws it anew."
        raise ValueError(message)
    return content


def _metrics(place: epath.Path) -> curves.Series:
    """Returns the lines of every training of a run, by the folder of each."""
    patterns = ("metrics.jsonl", "*/metrics.jsonl", "*/*/metrics.jsonl")
    files = [file for pattern in patterns for file in sorted(place.glob(pattern))]
    names = [os.path.relpath(file.parent, place) for file in files]
    return {
        "the run itself" if name == "." else name: folder.read_metrics(file.parent)
        for name, file in zip(names, files, strict=True)
    }


def _environment(place: epath.Path) -> str:
    sessions = folder.field(place / "provenance.json", "sessions", list)
    return page.tree({"sessions": sessions})
