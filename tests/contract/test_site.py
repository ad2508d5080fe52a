"""The site: what it changes in the pages, and a build with warnings as errors."""

import html.parser
import importlib.util
import json
import os
import pathlib
import subprocess
import sys
import urllib.parse

import pytest

import fmjax

ROOT = pathlib.Path(__file__).parents[2]


def _of_the_site(name):
    """Returns a module of docs/site, which is no package."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / "site" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


pages, text = _of_the_site("pages"), _of_the_site("text")
NAMES = {
    f"fmjax.{module}.{name}"
    for module in fmjax.__all__
    if not module.startswith("_")
    for name in getattr(fmjax, module).__all__
}


def test_a_list_is_set_apart_and_its_contents_stand_at_four_columns():
    page = "Two:\n* one\n  more\n  - inner\n    deep\n\n        code\n* two\n\nSo\n1. f\n   g"
    wanted = (
        "Two:\n\n*   one\n    more\n\n    -   inner\n        deep\n\n            code\n*   two\n\n"
        "So\n\n1.  f\n    g"
    )
    assert text.four_columns(page) == wanted
    assert text.four_columns(wanted) == wanted


def test_a_list_within_a_block_of_code_stays():
    page = "```\n* no\n  list\n```\n* yes\n  ```python\n  x = 1\n  ```"
    wanted = "```\n* no\n  list\n```\n\n*   yes\n    ```python\n    x = 1\n    ```"
    assert text.four_columns(page) == wanted


@pytest.mark.parametrize(
    ("link", "wanted"),
    [
        ("[page](notation.md#a)", "[page](notation.md#a)"),
        ("[room](../experiments/fdm#mixture)", "[room](../experiments/fdm/README.md#mixture)"),
        ("[the `tests`](../tests/fmjax)", "the `tests`"),
        ("[license](../LICENSE) and [page](notation.md)", "license and [page](notation.md)"),
        ("[gone](gone.md)", "[gone](gone.md)"),
        ("[one](../experiments/1.ipynb)", "[one](../experiments/1.md)"),
        ("[here](#below)", "[here](#below)"),
        ("[web](https://arxiv.org)", "[web](https://arxiv.org)"),
        ("![p](figures/p.png)", "![p](figures/p.png)"),
        (
            "![p](https://raw.githubusercontent.com/OWNER/fmjax/main/docs/figures/p.png)",
            "![p](../docs/figures/p.png)",
        ),
    ],
)
def test_links_lead_to_what_the_site_has(link, wanted):
    site = {"docs/notation.md", "docs/figures/p.png", "experiments/fdm/README.md"}
    site |= {"experiments/1.md"}
    elsewhere = {"experiments/fdm", "experiments/1.ipynb", "tests/fmjax", "LICENSE"}
    exists = (site | elsewhere).__contains__
    assert text.links(link, "docs/page.md", site, exists) == wanted


def test_names_of_functions_become_references():
    public = {"posterior": ["mean", "trace"], "paths": ["mean"]}

    def changed(line):
        return text.functions(line, public)

    assert changed("`fmjax.posterior.mean` ") == "[`fmjax.posterior.mean`][fmjax.posterior.mean] "
    assert changed("`posterior.mean(x)`") == "[`posterior.mean(x)`][fmjax.posterior.mean]"
    assert changed("`fmjax.posterior`") == "[`fmjax.posterior`][fmjax.posterior]"
    assert changed("`posterior.other`, `posterior`, `mean`") == (
        "`posterior.other`, `posterior`, `mean`"
    )
    row = "| `posterior.trace`, `mean` | `mean` |"
    wanted = (
        "| [`posterior.trace`][fmjax.posterior.trace], [`mean`][fmjax.posterior.mean] | `mean` |"
    )
    assert changed(row) == wanted
    row = "| `fmjax.posterior` | `trace`, `other` |"
    wanted = "| [`fmjax.posterior`][fmjax.posterior] | [`trace`][fmjax.posterior.trace], `other` |"
    assert changed(row) == wanted
    for same in ("    `posterior.mean`", "# `posterior.mean`", "[`posterior.mean`](page.md)"):
        assert changed(same) == same


def test_keys_of_the_bibliography_become_references():
    assert text.citations("[xing2026divergence; chen2018neural]") == (
        "[xing2026divergence][], [chen2018neural][]"
    )
    for same in ("[0.64, 0.0]", "[n, 2]", "[xing2026divergence](page.md)"):
        assert text.citations(same) == same


def test_the_gallery_shows_every_figure_with_the_caption_of_its_page():
    source = (ROOT / "docs" / "gallery.md").read_text()
    page = pages.with_pictures(source)
    for path in (ROOT / "docs" / "figures").iterdir():
        assert f"](figures/{path.name})\n\n*" in page
    assert "](figures/" in source
    assert "\n* [" not in page


def test_emphasis_within_a_caption_does_not_stop_the_site():
    # A nested repetition in the pattern once tried every way to cut the lines into pieces.
    figure = "![a](a.png)\n\n*" + 40 * "some words of a line\n" + "{}end.*\n"
    assert pages._FIGURE.search(figure.format(""))[1] == "a.png"
    assert pages._FIGURE.search(figure.format("*more*; ")) is None


def test_a_figure_without_a_caption_is_named():
    with pytest.raises(ValueError, match=r"no page of the experiments shows none\.png"):
        pages.with_pictures("* [None](figures/none.png)\n")


def test_the_summary_for_programs_names_every_function():
    summary = pages.for_programs({"papers/": "Papers"})
    assert "- [Papers](papers/)" in summary
    for name in NAMES:
        module = name.split(".")[1]
        assert f"- [{name}](api/{module}/#{name})" in summary


class _Page(html.parser.HTMLParser):
    """The anchors, links, pictures and formulas of a page."""

    def __init__(self, path):
        super().__init__()
        self.ids, self.links, self.tags = set(), [], []
        self.feed(path.read_text())

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.tags.append(tag)
        self.ids |= {attributes[key] for key in ("id", "name") if attributes.get(key)}
        self.links += [attributes[key] for key in ("href", "src") if attributes.get(key)]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The built site: its folder, and its pages by their paths."""
    pytest.importorskip("mkdocs")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-5000:]
    return folder, {path: _Page(path) for path in folder.rglob("*.html")}


@pytest.mark.slow
def test_every_public_function_is_documented_on_the_page_of_its_module(site):
    folder, found = site
    for name in NAMES:
        page = folder / "api" / name.split(".")[1] / "index.html"
        assert name in found[page].ids, name


@pytest.mark.slow
def test_every_link_within_the_site_leads_somewhere(site):
    folder, found = site
    for path, page in found.items():
        if path.name == "404.html":  # its links begin at the address of the site
            continue
        for link in page.links:
            address = urllib.parse.urlsplit(link)
            if address.scheme or address.netloc:
                continue
            there = (path.parent / urllib.parse.unquote(address.path)).resolve()
            there = there / "index.html" if there.is_dir() else there
            assert there.is_file(), f"{path.relative_to(folder)}: {link}"
            if address.fragment and there in found and not address.fragment.startswith("__"):
                fragment = urllib.parse.unquote(address.fragment)
                assert fragment in found[there].ids, f"{path.relative_to(folder)}: {link}"


@pytest.mark.slow
def test_formulas_are_mathml_and_lists_are_lists(site):
    folder, found = site
    theory = [path for path in found if "theory" in path.parts]
    assert len(theory) == 4
    for path in theory:
        assert found[path].tags.count("math") >= 5
        assert "arithmatex" not in path.read_text()
        assert "$" not in path.read_text().split("<article")[1].split("</article>")[0]
    assert found[folder / "api" / "divergence" / "index.html"].tags.count("ul") > 5


def _list(folder):
    """The page that lists the notebooks."""
    return folder / "experiments" / "notebooks" / "index.html"


@pytest.mark.slow
def test_every_notebook_is_a_page_with_its_code_and_formulas(site):
    folder, found = site
    room = ROOT / "experiments" / "notebooks"
    for path in room.glob("*.ipynb"):
        page = folder / "experiments" / "notebooks" / path.stem / "index.html"
        cells = json.loads(path.read_text())["cells"]
        code = sum(cell["cell_type"] == "code" for cell in cells)
        assert page.read_text().count('<div class="highlight">') >= code
        assert any(f"{path.stem}/" in link for link in found[_list(folder)].links)
        assert "OWNER" in page.read_text()  # of the first cell
        assert "badge" not in page.read_text()
        assert "math" in found[page].tags or "$" not in str(cells)


@pytest.mark.slow
def test_the_site_asks_nobody_else(site):
    _, found = site
    for page in found.values():
        loaded = [link for link in page.links if link.endswith((".js", ".css", ".png", ".svg"))]
        assert loaded
        assert [link for link in loaded if link.startswith(("http:", "https:", "//"))] == []


@pytest.mark.slow
def test_the_summary_lies_beside_the_pages(site):
    folder, found = site
    summary = (folder / "llms.txt").read_text()
    addresses = [line.split("](")[1].split(")")[0] for line in summary.splitlines() if "](" in line]
    assert len(addresses) > len(NAMES)
    for address in addresses:
        path, _, fragment = address.partition("#")
        page = folder / path / "index.html"
        assert not fragment or fragment in found[page].ids
