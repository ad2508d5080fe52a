"""The guides and the pages of the papers: their code runs, their commands and numbers are true."""

import importlib
import pathlib
import re
import shlex

import jax
import jax.numpy as jnp
import matplotlib as mpl
import pytest

import fmjax
from experiments.run import cli

ROOT = pathlib.Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [*sorted((DOCS / "guides").glob("*.md")), *sorted((DOCS / "theory").glob("*.md"))]
BLOCKS = [
    pytest.param(block, id=f"{page.stem}-{number}", marks=[] if quick else [pytest.mark.slow])
    for page in PAGES
    for number, block in enumerate(re.findall(r"```python\n(.*?)```", page.read_text(), re.S))
    for quick in [(page.stem, number) in {("machines", 0), ("images", 0), ("network", 1)}]
]
COMMANDS = sorted(
    {
        command
        for page in [ROOT / "README.md", *DOCS.rglob("*.md")]
        for block in re.findall(r"```sh\n(.*?)```", page.read_text(), re.S)
        for command in re.findall(
            r"python -m (experiments\.\w+\.\w+(?:[^\n#;&>'\"]|\"[^\"\n]*\")*)",
            block.replace("\\\n", " "),
        )
        if "..." not in command
    }
)


@pytest.mark.parametrize("block", BLOCKS)
def test_a_block_pastes_into_a_fresh_interpreter_and_runs(block, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {}
    # As on a user's machine, where JAX lets shapes of different ranks meet.
    with mpl.rc_context({"backend": "agg"}), jax.numpy_rank_promotion("allow"):
        exec(compile(block, "page", "exec"), names)
    for name, value in names.items():
        if isinstance(value, jax.Array) and jnp.issubdtype(value.dtype, jnp.floating):
            assert jnp.isfinite(value).all(), name


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_of_the_pages_has_its_experiment_and_its_options(command):
    name, *arguments = shlex.split(command)
    module, received = importlib.import_module(name), []
    cli.run(lambda config: received.append(config), module.Config, args=arguments)
    received[0].check()


def test_the_commands_of_the_pages_are_found():
    assert "experiments.uncertainty.maps --num-rivals 128" in {c.strip() for c in COMMANDS}
    assert len(COMMANDS) > 20


def test_every_figure_is_in_the_gallery_once():
    listed = re.findall(
        r"^\* \[[^\]]+\]\(figures/([\w.-]+)\)$", (DOCS / "gallery.md").read_text(), re.M
    )
    assert sorted(listed) == sorted(path.name for path in (DOCS / "figures").iterdir())


def _section(page, anchor):
    """Returns the text of the section with an anchor."""
    sections = re.split(r"^#+ ", page.read_text(), flags=re.M)
    return next(text for text in sections if text.split("\n")[0] == anchor)


def test_a_measured_number_stands_in_the_table_that_it_links_to():
    cited = [
        (page, *found)
        for page in DOCS.rglob("*.md")
        for found in re.findall(r"\[([\d.,]+)\]\(([^)#]+)#(\w+)\)", page.read_text())
    ]
    assert len(cited) > 30
    for page, number, target, anchor in cited:
        text = _section((page.parent / target).resolve(), anchor)
        assert re.search(rf"(?<![\d.]){re.escape(number)}(?![\d.])", text), f"{page.name}: {number}"


@pytest.mark.parametrize("page", [*sorted(DOCS.glob("*.md")), *PAGES], ids=lambda page: page.stem)
def test_the_functions_that_a_page_names_exist(page):
    for name in re.findall(r"`fmjax((?:\.[a-zA-Z_]\w*)+)[`(]", page.read_text()):
        value = fmjax
        for part in name.split(".")[1:]:
            assert hasattr(value, part), f"fmjax{name}"
            value = getattr(value, part)
