"""Docstrings are complete and their examples run; the README's code runs; the links resolve."""

import doctest
import importlib
import inspect
import pathlib
import pydoc
import re

import jax
import jax.numpy as jnp
import pytest

import fmjax
from tests import slow
from tests.measured import page as measured

ROOT = pathlib.Path(__file__).parents[2]
MODULES = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for path in sorted((ROOT / "fmjax").rglob("*.py"))
    if path != ROOT / "fmjax" / "__init__.py"
]


# Examples that take a second or more to compile.
HEAVY = re.compile(
    r"acceleration|conditioned|distributions|intervals|leave_one_out|lipschitz|log_normal|log_prob|"
    r"manifold|matvec|memoryless|mixtures|models\.|neighbors|path_error\.(on_grid|gap|relative)|"
    r"pointwise.duhamel|reweighted|samplers\.|spearman|spectrum.extremes|calibration"
)


def _public():
    for name in MODULES:
        module = importlib.import_module(name)
        for key, value in vars(module).items():
            mine = getattr(value, "__module__", None) == name and not key.startswith("_")
            if mine and (inspect.isfunction(value) or inspect.isclass(value)):
                yield pytest.param(value, id=f"{name}.{key}")


def _docstrings_with_examples():
    for name in ["fmjax", *MODULES]:
        module = importlib.import_module(name)
        for test in doctest.DocTestFinder().find(module, name):
            if test.examples:
                # A reader pastes an example into a fresh interpreter: it imports what it uses.
                test.globs = {}
                marks = [pytest.mark.slow] if HEAVY.search(test.name) else []
                yield pytest.param(test, id=test.name, marks=marks)


@pytest.mark.parametrize("test", list(_docstrings_with_examples()))
def test_the_example_of_a_docstring_runs_in_a_fresh_interpreter(test):
    report = []
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    results = runner.run(test, out=report.append)
    assert results.attempted == len(test.examples)
    assert results.failed == 0, "".join(report)


@pytest.mark.parametrize("value", list(_public()))
def test_docstrings_say_what_a_reader_needs(value):
    text = inspect.getdoc(value)
    assert text, "no docstring"
    if not inspect.isfunction(value) or "._" in value.__module__ or "layers" in value.__module__:
        return
    arguments = [name for name in inspect.signature(value).parameters if not name.startswith("_")]
    if arguments:
        section = text.split("Args:")[1].split("Returns:")[0]
        missing = [
            name for name in arguments if not re.search(rf"^\s*\*{{0,2}}{name}:", section, re.M)
        ]
        assert not missing, f"arguments without a word: {missing}"
    assert "Returns:" in text
    assert "Example:" in text
    # A formula has a source, at the function or at the head of its module.
    assert "Reference" in text + inspect.getdoc(inspect.getmodule(value))


@pytest.mark.parametrize("value", list(_public()))
def test_help_prints_the_names_of_types_and_not_their_expansions(value):
    if not inspect.isfunction(value):
        return
    for name, parameter in inspect.signature(value).parameters.items():
        assert isinstance(parameter.annotation, str), f"{name}: {parameter.annotation}"


def test_help_of_a_function_reads_as_its_source():
    # Python 3.13 gives each parameter a line; until then the names of types are quoted.
    text = pydoc.plain(pydoc.render_doc(fmjax.posterior.trace)).replace("'", "")
    signature = " ".join(text[: text.index("->")].split())
    assert "velocity: Velocity, path: Path, x: Array, t: Array" in signature
    assert "Callable" not in signature


def test_every_reference_key_is_in_the_bibliography():
    known = set(re.findall(r"^@\w+\{(\w+),", (ROOT / "docs" / "references.bib").read_text(), re.M))
    cited = set()
    for path in (ROOT / "fmjax").rglob("*.py"):
        for keys in re.findall(
            r"\[([a-z]+\d{4}[a-z]*(?:;\s*[a-z]+\d{4}[a-z]*)*)\]", path.read_text()
        ):
            cited |= set(re.split(r";\s*", keys))
    assert cited
    assert cited <= known, f"cited but not listed: {sorted(cited - known)}"


# The first block always; the training of the second takes two minutes.
BLOCKS = [
    block
    for page in (ROOT / "README.md", ROOT / "docs" / "start.md")
    for block in re.findall(r"```python\n(.*?)```", page.read_text(), re.S)
]


@slow.but_the_first("block", BLOCKS, ids=range(len(BLOCKS)))
def test_the_code_of_the_first_pages_runs(block):
    names = {}
    exec(compile(block, "page", "exec"), names)
    for name, leaf in ((n, leaf) for n in names for leaf in jax.tree.leaves(names[n])):
        if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jnp.floating):
            assert jnp.isfinite(leaf).all(), name


def test_the_readme_shows_code_and_a_picture_before_line_40():
    lines = (ROOT / "README.md").read_text().splitlines()
    code = lines[lines.index("```python") + 1 : lines.index("```")]
    assert lines.index("```") < 40
    assert len([line for line in code if line]) <= 12
    assert any(line.startswith("![") for line in lines[:40])
    assert any("jax.jit(jax.vmap(partial(fmjax.samplers" in line for line in lines)


PAGES = [
    *ROOT.glob("*.md"),
    *(ROOT / "docs").rglob("*.md"),
    *(ROOT / "experiments").rglob("README.md"),
]


def _anchors(page):
    """Returns the anchors that GitHub makes of the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.M)
    return {re.sub(r"[^\w\- ]", "", text).lower().replace(" ", "-") for text in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_of_the_pages_resolve(page):
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text()):
        if target.startswith("http"):
            continue
        name, _, anchor = target.partition("#")
        file = page.parent / name if name else page
        assert file.exists(), f"links to {target}"
        assert not anchor or anchor in _anchors(file), f"links to {target}"


def test_every_figure_is_shown_on_a_page():
    shown = {
        target
        for page in PAGES
        for target in re.findall(r"!\[[^\]]*\]\([^)]*?([\w.-]+\.png)\)", page.read_text())
    }
    assert shown == {path.name for path in (ROOT / "docs" / "figures").iterdir()}


def test_the_tests_and_groups_that_the_page_of_the_papers_names_exist():
    rows = [line for line in (ROOT / "docs" / "papers.md").read_text().splitlines() if "`" in line]
    groups = {group.__name__ for group in measured.GROUPS}
    named = {name for row in rows if row.startswith("|") for name in _tests_of(row)}
    assert len(named) > 50
    for name in named:
        if name.endswith(".py"):
            folder = "experiments" if "/" in name else "fmjax"
            assert (ROOT / "tests" / folder / name).exists(), name
        else:
            assert name in groups, name


def _tests_of(row):
    """Returns the names in the last cell of a row: files of tests and groups of measured rows."""
    return re.findall(r"`([\w./]+)`", row.strip("| ").rsplit(" | ", 1)[-1])


def test_the_functions_that_the_page_of_the_papers_names_exist():
    page = (ROOT / "docs" / "papers.md").read_text()
    for name in re.findall(r"`((?:[a-z_]+\.)+[a-zA-Z_]\w*)[`(]", page):
        module, *rest = name.split(".")
        if module in {"experiments", "tests"} or name.endswith((".py", ".md")):
            continue
        value = fmjax if module == "fmjax" else getattr(fmjax, module)
        for part in rest:
            assert hasattr(value, part), name
            value = getattr(value, part)
