"""The page of the bibliography, made of docs/references.bib."""

import pathlib
import re

from pybtex.database import Entry, parse_file
from pybtex.richtext import Text

_HEAD = """# Bibliography

The keys at the end of docstrings. The entries are in [references.bib](references.bib).
"""
_WHERE = ("journal", "booktitle", "publisher", "school", "howpublished", "note")


def page(file: pathlib.Path) -> str:
    """Returns the page: of every entry its key as a heading, and the entry as a paragraph."""
    entries = parse_file(str(file)).entries
    return _HEAD + "".join(f"\n### {key}\n\n{_entry(entries[key])}\n" for key in sorted(entries))


def _entry(entry: Entry) -> str:
    """Returns an entry in words: authors, title, where and when, and its preprint."""
    fields = entry.fields
    where = next((_words(fields[name]) for name in _WHERE if name in fields), "")
    number = fields.get("eprint", "")
    preprint = f"[arXiv {number}](https://arxiv.org/abs/{number})" if number else ""
    parts = (where, fields.get("volume", ""), fields["year"], preprint)
    return f"{_authors(entry)}. *{_words(fields['title'])}.* {', '.join(p for p in parts if p)}."


def _authors(entry: Entry) -> str:
    """Returns the names of the authors, or of the editors where there are none."""
    people = entry.persons.get("author") or entry.persons.get("editor")
    names = [
        "and others" if str(one) == "others" else
        _words(" ".join([*one.first_names, *one.middle_names, *one.prelast_names, *one.last_names]))
        for one in people
    ]  # fmt: skip
    *most, last = names
    return f"{', '.join(most)} and {last}".replace("and and others", "and others") if most else last


def _words(latex: str) -> str:
    """Returns a field without the braces and dashes of LaTeX."""
    return re.sub(r"\s+", " ", Text.from_latex(latex).render_as("text")).replace("*", "\\*")
