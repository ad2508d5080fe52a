"""Which pages the site has, and those that are made of others: functions, gallery, bibliography."""

import importlib
import inspect
import json
import pathlib
import re
from collections.abc import Mapping

import fmjax

ROOT = pathlib.Path(__file__).parents[2]
MODULES = tuple(name for name in fmjax.__all__ if not name.startswith("_"))
# Written for the repository, and read by the site as they are.
WRITTEN = (
    "README.md",
    "CHANGELOG.md",
    "docs/**/*.md",
    "experiments/**/README.md",
    "docs/figures/*.png",
    "docs/references.bib",
    "docs/site/*.css",
)
ELSEWHERE = ("docs/package.md",)  # what a package index shows
_BADGE = re.compile(r"\[!\[Open in Colab\].*")
_FIGURE = re.compile(r"!\[[^\]]*\]\([^)]*?([\w.-]+\.png)\)\n+\*((?:[^*\n]+\n)*[^*\n]+)\*\n")


def written() -> list[str]:
    """Returns the paths of all files that the site takes as they are."""
    found = {path for pattern in WRITTEN for path in glob(pattern)}
    return sorted(found - set(ELSEWHERE))


def glob(pattern: str) -> set[str]:
    """Returns the paths of the repository that match a pattern."""
    return {path.relative_to(ROOT).as_posix() for path in ROOT.glob(pattern)}


def public() -> dict[str, list[str]]:
    """Returns of every module of the library the names that it makes public."""
    return {name: list(getattr(fmjax, name).__all__) for name in MODULES}


def first_line(value: object) -> str:
    """Returns the first line of a docstring."""
    return (inspect.getdoc(value) or "").split("\n")[0]


# The functions.


def reference() -> dict[str, str]:
    """Returns the pages of the public modules by their paths."""
    return {
        f"docs/api/{name}.md": f"# fmjax.{name} {{ #fmjax.{name} }}\n\n::: fmjax.{name}\n"
        for name in MODULES
    }


def _module(name: str) -> object:
    return importlib.import_module(f"fmjax.{name}")


# The notebooks.


def notebooks() -> dict[str, str]:
    """Returns the notebooks as pages of text and code, without outputs, by their paths."""
    paths = sorted(glob("experiments/notebooks/*.ipynb"))
    return {path.removesuffix(".ipynb") + ".md": _notebook(ROOT / path) for path in paths}


def _notebook(path: pathlib.Path) -> str:
    cells = json.loads(path.read_text())["cells"]
    parts = [(cell["cell_type"], "".join(cell["source"])) for cell in cells]
    shown = [text if kind == "markdown" else f"```python\n{text}\n```" for kind, text in parts]
    return _BADGE.sub(f"Run it: `experiments/notebooks/{path.name}`.", "\n\n".join(shown)) + "\n"


# The gallery.


def with_pictures(gallery: str) -> str:
    """Returns the gallery with its figures as pictures, with captions and links to their pages."""
    shown = _captions()

    def picture(item: re.Match[str]) -> str:
        title, file = item[1], item[2]
        if file not in shown:
            message = (
                f"no page of the experiments shows {file} with a caption: put a paragraph in "
                "single asterisks under the picture."
            )
            raise ValueError(message)
        caption, page, heading = shown[file]
        name = "the front page" if page == "README.md" else heading
        there = f"[{name}](../{page}#{slug(heading)})"
        return f"**{title}**, from {there}\n\n![{title}](figures/{file})\n\n*{caption}*\n\n"

    return re.sub(r"^\* \[([^\]]+)\]\(figures/([\w.-]+\.png)\)\n", picture, gallery, flags=re.M)


def _captions() -> dict[str, tuple[str, str, str]]:
    """Returns of every figure that a page shows its caption, that page and the section of it."""
    found = {}
    for page in ("README.md", *sorted(glob("experiments/**/README.md"))):
        text = (ROOT / page).read_text()
        for figure in _FIGURE.finditer(text):
            heading = re.findall(r"^#+ (.*)$", text[: figure.start()], re.M)[-1]
            found[figure[1]] = (" ".join(figure[2].split()), page, heading)
    return found


def slug(heading: str) -> str:
    """Returns the anchor of a heading, as GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", heading).lower().replace(" ", "-")


# For programs that read.


def for_programs(titles: Mapping[str, str]) -> str:
    """Returns the text of llms.txt.

    Args:
      titles: the titles of the pages by their addresses, relative to the site.

    Returns:
      What fmjax is, its pages, and of every public function its first line.
    """
    lines = [_PROGRAMS.strip(), "", "## Pages", ""]
    lines += [f"- [{title}]({address})" for address, title in titles.items()]
    for module, names in public().items():
        lines += ["", f"## fmjax.{module}", "", f"{first_line(_module(module))}", ""]
        for name in names:
            value = getattr(_module(module), name)
            what = f": {first_line(value)}" if callable(value) else ""
            lines.append(f"- [fmjax.{module}.{name}](api/{module}/#fmjax.{module}.{name}){what}")
    return "\n".join(lines) + "\n"


_PROGRAMS = """
# fmjax

> Flow matching in JAX as pure functions: velocity fields, their Jacobians, and the uncertainty that
> a Jacobian contains.

- A velocity is any function `(x, t) -> dx` of one example; the caller writes `jax.vmap` and
  `jax.jit`.
- Time runs from noise at t = 0 to data at t = 1.
- Arguments: a typed `key` first, then functions and shared data, then the arrays of one example,
  then options by keyword. `functools.partial` binds the left part.
- Networks of flax nnx become functions by `fmjax.models.functional`; those of linen and equinox and
  plain functions need no bridge.
- Experiments run as `python -m experiments.PAPER.NAME`; `python -m experiments` lists them.
"""
