"""A page of HTML that needs nothing beside itself: text, tables, trees of numbers, pictures.

Everything that comes from a run, names of folders among it, is a text like any other: it is
escaped, and what no reader would see is written out. There is no script, and the page itself
forbids whatever would be fetched.
"""

import base64
import html
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any

from experiments.run import checksums

_ROWS = 24  # longer tables are folded
_COLUMNS, _FILLED = 16, 0.6  # the most columns of a table, the least share of its cells
_CELLS = 8  # numbers in one cell; longer lists are folded
_UNSEEN = {"\u202a", "\u202b", "\u202c", "\u202d", "\u202e", "\u2066", "\u2067", "\u2068", "\u2069"}
_STYLE = """
:root { color-scheme: light dark; --paper: #ffffff; --ink: #1b1f24; --soft: #5b6470;
  --line: #d7dce2; --card: #f5f7f9; }
@media (prefers-color-scheme: dark) { :root { --paper: #14181d; --ink: #e4e8ec; --soft: #9aa4af;
  --line: #343c45; --card: #1d232a; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem; max-width: 72rem; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.5rem; line-height: 1.25; margin: 0.5rem 0; }
h2 { font-size: 1.2rem; margin: 2.5rem 0 0.75rem; border-bottom: 1px solid var(--line); }
h3, h4, h5, h6 { font-size: 1rem; margin: 1.25rem 0 0.25rem; }
nav a { display: inline-block; margin-right: 1rem; } a { color: inherit; }
p, figcaption, summary, .legend { color: var(--soft); }
summary { cursor: pointer; padding: 0.25rem 0; }
.wide { overflow-x: auto; margin: 0.5rem 0; }
table { border-collapse: collapse; font-size: 0.875rem; font-variant-numeric: tabular-nums; }
th, td { padding: 0.25rem 0.75rem 0.25rem 0; border-bottom: 1px solid var(--line); text-align: left;
  vertical-align: top; overflow-wrap: normal; }
thead th, td.number { text-align: right; white-space: nowrap; }
thead th:first-child { text-align: left; } tbody th { font-weight: normal; color: var(--soft); }
.grid { display: grid; gap: 1.25rem;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 21rem), 1fr)); }
.grid.large { grid-template-columns: repeat(auto-fill, minmax(min(100%, 30rem), 1fr)); }
figure { margin: 0; } svg { width: 100%; height: auto; }
img { width: 100%; height: auto;
  background: #ffffff; border: 1px solid var(--line); padding: 0.5rem; }
.legend span { white-space: nowrap; }
.key { display: inline-block; width: 1.5rem; border-top-width: 3px; vertical-align: middle;
  margin: 0 0.35rem 0 1rem; }
.list { background: var(--card); padding: 0.5rem; font: 0.8125rem/1.4 ui-monospace, monospace; }
"""


def text(value: Any) -> str:
    """Returns a value as text of a page, with what is not to be seen written out."""
    unseen = lambda c: c in _UNSEEN or (unicodedata.category(c) in ("Cc", "Cs") and c not in "\n\t")  # noqa: E731
    return html.escape("".join(ascii(c)[1:-1] if unseen(c) else c for c in str(value)))


def document(title: str, parts: Iterable[tuple[str, str]], head: str = "") -> str:
    """Returns a whole page.

    Args:
      title: of the page, any text.
      parts: heading and HTML of each part; those without HTML are left out.
      head: HTML below the title.
    """
    parts = [(name, body) for name, body in parts if body]
    links = "".join(f'<a href="#{_anchor(name)}">{text(name)}</a>' for name, _ in parts)
    bodies = "".join(
        f'<section id="{_anchor(name)}"><h2>{text(name)}</h2>\n{body}</section>\n'
        for name, body in parts
    )
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        f"<title>{text(title)}</title>\n<style>{_STYLE}</style></head>\n"
        f"<body><h1>{text(title)}</h1>\n{head}\n<nav>{links}</nav>\n{bodies}</body></html>\n"
    )


def _anchor(name: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in name.lower())


def number(value: float) -> str:
    """Returns a number in five digits, with all of them as its machine-readable value."""
    short = f"{value:.5g}" if isinstance(value, float) else str(value)
    return f'<data value="{value!r}">{short}</data>'


def table(rows: Sequence[Sequence[Any]], head: Sequence[str] = ()) -> str:
    """Returns a table whose first column names the rows; a long one is folded.

    Args:
      rows: of names, and of what `tree` takes for a cell: numbers, words, lists of them.
      head: names of the columns.
    """
    top = "".join(f"<th>{text(name)}</th>" for name in head)
    body = "".join(
        f"<tr><th>{text(name)}</th>{''.join(map(_cell, cells))}</tr>\n" for name, *cells in rows
    )
    whole = (
        f"<table>{f'<thead><tr>{top}</tr></thead>' if head else ''}<tbody>{body}</tbody></table>"
    )
    return _folded(f'<div class="wide">{whole}</div>\n', f"{len(rows)} rows", len(rows) > _ROWS)


def _folded(body: str, what: str, is_long: bool) -> str:  # noqa: FBT001
    return f"<details><summary>{text(what)}</summary>{body}</details>\n" if is_long else body


def _cell(value: Any) -> str:
    if _is_number(value):
        return f'<td class="number">{number(value)}</td>'
    return f"<td>{_leaf(value)}</td>"


def _leaf(value: Any) -> str:
    """Returns a number, a word or a list of them."""
    if _is_number(value):
        return number(value)
    if not isinstance(value, list):
        return "none" if value is None else text(value)
    if len(value) <= _CELLS:
        return ", ".join(map(_leaf, value))
    numbers = [part for part in value if _is_number(part)]
    span = f", {min(numbers):.4g} to {max(numbers):.4g}" if numbers else ""
    whole = ", ".join(repr(p) if _is_number(p) else _leaf(p) for p in value)
    return _folded(f'<div class="list">{whole}</div>', f"{len(value)} values{span}", is_long=True)


def tree(value: Any, above: str = "") -> str:
    """Returns everything that a tree of JSON holds, as tables where it has their form.

    Args:
      value: dicts and lists of them, down to numbers, words, truth values and None.
      above: the name of the tree, for its headings.
    """
    named = value if isinstance(value, dict) else {str(k): part for k, part in enumerate(value)}
    named = {name: part for name, part in named.items() if name != checksums.NAME}
    plain = {name: part for name, part in named.items() if _is_leaf(part)}
    head = f"<h3>{text(above)}</h3>\n" if above else ""
    if named and not plain and (rows := _rows(named)):
        return head + rows
    done = [head + table(list(plain.items()))] if plain else []
    for name, part in named.items():
        if name not in plain:
            done.append(tree(part, f"{above}, {name}" if above else name))
    return "".join(done)


def _rows(parts: dict[str, Any]) -> str:
    """Returns a table if the parts are its rows, with much the same cells, else ""."""
    if not all(map(_is_row, parts.values())):
        return ""
    flat = {name: dict(_cells(part)) for name, part in parts.items()}
    columns = list(dict.fromkeys(column for row in flat.values() for column in row))
    filled = sum(map(len, flat.values())) / (len(columns) * len(flat))
    if len(columns) > _COLUMNS or filled < _FILLED:
        return ""
    rows = [[name, *(row.get(column, "") for column in columns)] for name, row in flat.items()]
    return table(rows, ["", *columns])


def _cells(part: dict[str, Any], before: str = "") -> Iterable[tuple[str, Any]]:
    for name, value in part.items():
        if isinstance(value, dict):
            yield from _cells(value, f"{before}{name} ")
        else:
            yield f"{before}{name}", value


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_leaf(value: Any) -> bool:
    """Tells whether a value stands in one cell: a list does if it holds no dict."""
    return all(map(_is_leaf, value)) if isinstance(value, list) else not isinstance(value, dict)


def _is_row(value: Any) -> bool:
    parts = value.values() if isinstance(value, dict) else ()
    return bool(parts) and all(_is_leaf(part) or _is_row(part) for part in parts)


def picture(name: str, png: bytes) -> str:
    """Returns a figure from the bytes of a PNG file."""
    source = base64.b64encode(png).decode()
    return (
        f'<figure><img alt="{text(name)}" src="data:image/png;base64,{source}">'
        f"<figcaption>{text(name)}</figcaption></figure>\n"
    )
