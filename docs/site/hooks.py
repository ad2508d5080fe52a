"""Makes the site of the repository's pages: what mkdocs calls while it builds.

The pages lie where a reader of the repository finds them, and have the same paths here, so that
links between them are the same. Pages that are made of others come from `pages.py`, changes of
the text from `text.py`.
"""

import fnmatch
import html
import pathlib
import re
from collections.abc import Iterator
from typing import Any

import bibliography
import pages
import text
from latex2mathml import converter
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

_MATH = re.compile(
    r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.S
)  # as pymdownx.arithmatex leaves it
_BAR = '<mo stretchy="false">&#x0007C;</mo>'  # of an absolute value; no relation
_titles: dict[str, str] = {}


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Collects the files of the site, and fills the patterns of the navigation."""
    keys = bibliography.page(pages.ROOT / "docs" / "references.bib")
    made = pages.reference() | pages.notebooks() | {"docs/bibliography.md": keys}
    found = [_file(config, path) for path in pages.written()]
    found += [_file(config, path, content=content) for path, content in made.items()]
    own = [file for file in files if not (pages.ROOT / "docs" / file.src_uri).exists()]
    config.nav = _filled(config.nav, [file.src_uri for file in found])
    return Files([*own, *found])  # own: of the theme and the plugins


def _file(config: MkDocsConfig, path: str, content: str | None = None) -> File:
    """Returns a file of the site at its path in the repository, served without `docs/`."""
    source = {"content": content} if content else {"abs_src_path": str(pages.ROOT / path)}
    file = File.generated(config, path, **source)
    file.dest_uri = file.dest_uri.removeprefix("docs/")
    return file


def _filled(nav: list, paths: list[str]) -> list:
    """Returns the navigation with each pattern replaced by the paths that no entry names."""
    named = set(re.findall(r"[\w/.-]+\.md", str(nav)))

    def fill(items: list) -> Iterator[Any]:
        for item in items:
            if isinstance(item, dict):
                (title, below), *_ = item.items()
                yield {title: below if isinstance(below, str) else list(fill(below))}
            elif "*" in item:
                yield from (p for p in paths if fnmatch.fnmatch(p, item) and p not in named)
            else:
                yield item

    return list(fill(nav))


def on_page_markdown(markdown: str, *, page: Page, files: Files, **_: Any) -> str:
    """Makes a page that was written for the repository one of the site."""
    path, public = page.file.src_uri, pages.public()
    site = {file.src_uri for file in files}
    if path == "docs/gallery.md":
        markdown = pages.with_pictures(markdown)
    markdown = text.links(markdown, path, site, lambda p: (pages.ROOT / p).exists())
    if not path.startswith("docs/api/"):
        markdown = text.outside_of_fences(
            lambda part: text.functions(text.citations(part), public), markdown
        )
    return text.four_columns(markdown)


def on_page_content(content: str, **_: Any) -> str:
    """Makes MathML of the formulas, which a browser shows without a script."""
    return _MATH.sub(_formula, content)


def _formula(found: re.Match[str]) -> str:
    display = "block" if found[1] == "div" else "inline"
    formula = converter.convert(html.unescape(found[2]), display=display)
    return formula.replace(_BAR, _BAR.replace("<mo", '<mo lspace="0" rspace="0"'))


def on_page_context(context: Any, *, page: Page, **_: Any) -> Any:
    """Keeps the titles of the pages for `llms.txt`."""
    _titles[page.url or "./"] = page.title
    return context


def on_post_build(*, config: MkDocsConfig) -> None:
    """Writes `llms.txt`, the summary for programs that read."""
    pathlib.Path(config.site_dir, "llms.txt").write_text(pages.for_programs(_titles))
