"""Markdown as GitHub reads it, made into Markdown as Python-Markdown reads it, and its links.

The pages are written for the repository. Python-Markdown wants four columns where GitHub takes two,
and the site has no files of code to link to.
"""

import posixpath
import re
from collections.abc import Callable, Collection, Mapping

_ITEM = re.compile(r"([*+-]|\d+[.)]) +")
_FENCE = re.compile(r"^( *)(```.*?^\1```)", re.M | re.S)
_LINK = re.compile(r"\]\(([^()\s]+)\)")
_TEXT_AND_LINK = r"(?<!!)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(({})\)"
_SPAN = re.compile(r"(?<![`\[])`([^`\n]+)`(?![`\]])")
_KEYS = re.compile(r"\[([a-z]+\d{4}[a-z]*(?:;\s*[a-z]+\d{4}[a-z]*)*)\](?![(\[])")
# Where the repository will be; it has no address yet.
_HOME = re.compile(
    r"https://(?:github\.com/OWNER/fmjax/(?:blob|tree|raw)|raw\.githubusercontent\.com/OWNER/fmjax)"
    r"/(?:main|HEAD)/"
)


def four_columns(text: str) -> str:
    """Returns the text with the contents of list items at four columns, and lists set apart."""
    lines, out, fenced, k, in_list = text.split("\n"), [], False, 0, False
    while k < len(lines):
        item = None if fenced else _ITEM.match(lines[k])
        if item is None:
            fenced ^= lines[k].startswith("```")
            in_list &= bool(lines[k].strip())
            out.append(lines[k])
            k += 1
            continue
        if out and out[-1].strip() and not in_list:
            out.append("")
        block, k = [lines[k][item.end() :]], k + 1
        while k < len(lines) and (not lines[k].strip() or lines[k].startswith(" " * item.end())):
            block.append(lines[k][item.end() :])
            k += 1
        first, *rest = four_columns("\n".join(block)).split("\n")
        out.append(f"{item[1]:<4}{first}")
        out += [f"    {line}" if line.strip() else "" for line in rest]
        in_list = bool(block[-1].strip())
    return "\n".join(out)


def outside_of_fences(change: Callable[[str], str], text: str) -> str:
    """Returns the text with everything but its fenced blocks of code changed."""
    pieces, start = [], 0
    for fence in _FENCE.finditer(text):
        pieces += [change(text[start : fence.start()]), fence[0]]
        start = fence.end()
    return "".join([*pieces, change(text[start:])])


def links(text: str, page: str, site: Collection[str], exists: Callable[[str], bool]) -> str:
    """Returns the text of a page with its links made for the site.

    Args:
      text: Markdown.
      page: the path of the page in the repository.
      site: the paths of all files of the site.
      exists: whether the repository has a path.

    Returns:
      The text: a folder with a page becomes that page, and a link to what the repository has and
      the site has not, such as code, becomes its words. What exists nowhere stays, for the builder
      to warn of.
    """
    folder = posixpath.dirname(page)
    text = _HOME.sub(lambda _: posixpath.relpath(".", folder or ".") + "/", text)
    for target in dict.fromkeys(_LINK.findall(text)):
        name, _, anchor = target.partition("#")
        if not name or ":" in name:
            continue
        path = posixpath.normpath(posixpath.join(folder, name))
        index = posixpath.normpath(f"{path}/README.md")
        if path in site or not exists(path):
            continue
        if path.endswith(".ipynb") and path.replace(".ipynb", ".md") in site:
            text = text.replace(f"]({target})", f"]({target.replace('.ipynb', '.md')})")
            continue
        if index in site:
            there = posixpath.relpath(index, folder or ".") + (f"#{anchor}" if anchor else "")
            text = text.replace(f"]({target})", f"]({there})")
        else:
            text = re.sub(_TEXT_AND_LINK.format(re.escape(target)), r"\1", text)
    return text


def citations(text: str) -> str:
    """Returns the text with keys of the bibliography, [key] or [key; key], as references to it."""
    return _KEYS.sub(lambda keys: ", ".join(f"[{k.strip()}][]" for k in keys[1].split(";")), text)


def functions(text: str, public: Mapping[str, Collection[str]]) -> str:
    """Returns the text with public functions in code spans as references to their documentation.

    Args:
      text: Markdown, without fenced blocks.
      public: of every module its public names.

    Returns:
      The text. In a table a bare name is one of the last module named in its cell, or of the module
      that a cell before it in its row holds alone.
    """
    return "\n".join(
        _row(line, public) if line.startswith("|") else _referring(line, public, None)
        for line in text.split("\n")
    )


def _row(line: str, public: Mapping[str, Collection[str]]) -> str:
    """Returns a row of a table with its public names as references."""
    cells, module = [], ""
    for cell in line.split("|"):
        cells.append(_referring(cell, public, module))
        alone = re.fullmatch(r"\s*`fmjax\.(\w+)`\s*", cell)
        module = alone[1] if alone else module
    return "|".join(cells)


def _referring(text: str, public: Mapping[str, Collection[str]], module: str | None) -> str:
    """Returns a text with its public names as references, bare ones too if a module is given."""
    if text.startswith("    ") or text.startswith("#"):
        return text
    table = module is not None

    def reference(span: re.Match[str]) -> str:
        nonlocal module
        words = re.fullmatch(r"(?:fmjax\.)?(\w+)(?:\.(\w+))?((?:\(.*\))?)", span[1])
        if words is None:
            return span[0]
        first, name = words[1], words[2]
        if name in public.get(first, ()):
            module = first
            return f"[{span[0]}][fmjax.{first}.{name}]"
        if span[1] == f"fmjax.{first}" and first in public:
            return f"[{span[0]}][fmjax.{first}]"
        if table and not name and first in public.get(module, ()):
            return f"[{span[0]}][fmjax.{module}.{first}]"
        return span[0]

    return _SPAN.sub(reference, text)
