"""The notebooks are written as they should be, and run, with small numbers in their parameters."""

import ast
import importlib
import json
import pathlib
import re
import uuid

import jax
import nbclient
import nbformat
import pytest
from IPython.core.inputtransformer2 import TransformerManager

ROOT = pathlib.Path(__file__).parents[3]
FOLDER = ROOT / "experiments" / "notebooks"
FILES = sorted(FOLDER.glob("*.ipynb"))
BADGE = "https://colab.research.google.com/assets/colab-badge.svg"
ADDRESS = r"github(?:\.com)?/([\w-]+)/([\w-]+)"  # of the repository, also within Colab's

# What makes each of them small.
SMALL = {
    "1_flow_matching": {"num_steps": 20, "width": 16, "num_samples": 50, "side": 7},
    "2_divergence_and_likelihood": {
        "side": 7,
        "num_keys": 4,
        "num_points": 4,
        "dimensions": (4,),
    },
    "3_uncertainty_of_images": {
        "folder": "maps",
        "num_steps": 3,
        "num_images": 4,
        "times": (0.3, 0.7),
    },
    "4_closed_form": {
        "num_digits": 100,
        "num_pairs": 16,
        "num_samples": 20,
        "num_steps": 20,
        "num_points": 600,
    },
    "5_divergence_matching": {"num_steps": 10, "num_seeds": 2, "weight": 0.5, "size": 61},
    "6_one_step": {"num_steps": 20, "width": 16, "num_samples": 50},
    "7_ask_your_own_model": {"num_steps": 20, "width": 16, "num_points": 16, "side": 7},
    "8_exact_fields": {
        "num_digits": 100,
        "num_points": 20,
        "num_steps": 200,
        "side": 7,
        "num_pairs": 20,
    },
}
# Those that compile for more than half a minute.
LONG = {
    "3_uncertainty_of_images",
    "5_divergence_matching",
    "7_ask_your_own_model",
    "8_exact_fields",
}


def _read(path):
    return nbformat.read(path, as_version=4)


def _code(notebook):
    """Returns the code cells as Python, magics turned into calls."""
    plain = TransformerManager().transform_cell
    return [plain(cell.source) for cell in notebook.cells if cell.cell_type == "code"]


def _tagged(notebook, tag):
    """Returns the index of the only cell with a tag."""
    tags = [cell.metadata.get("tags", []) for cell in notebook.cells]
    (index,) = [index for index, names in enumerate(tags) if tag in names]
    return index


each = pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)


def test_every_notebook_has_its_small_run():
    assert [path.stem for path in FILES] == sorted(SMALL)


@each
def test_the_file_is_valid_and_holds_no_outputs(path):
    notebook = _read(path)
    nbformat.validate(notebook)
    assert [cell.id for cell in notebook.cells] == [
        f"cell-{index:02d}" for index in range(len(notebook.cells))
    ]
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert cell.outputs == []
            assert cell.execution_count is None
    # As nbformat writes it, so that a notebook saved by Jupyter makes no other difference.
    text = path.read_text()
    assert text == json.dumps(json.loads(text), indent=1, ensure_ascii=False, sort_keys=True) + "\n"


@each
def test_it_opens_with_a_title_two_sentences_and_its_badge(path):
    first = _read(path).cells[0].source
    title, words, badge = first.split("\n\n")
    assert title.startswith(f"# {path.stem[0]} · ")
    assert len(re.findall(r"[.?]( |\n|$)", words.replace("\n", " "))) in {2, 3}
    ((owner, name),) = set(re.findall(ADDRESS, badge))
    place = f"https://colab.research.google.com/github/{owner}/{name}/blob/main/"
    assert badge == f"[![Open in Colab]({BADGE})]({place}experiments/notebooks/{path.name})"


@each
def test_it_installs_names_its_device_and_has_parameters(path):
    notebook = _read(path)
    install, parameters = _tagged(notebook, "install"), _tagged(notebook, "parameters")
    assert install == 1
    assert "devices.announce()" in notebook.cells[2].source
    assert parameters > 2
    body = ast.parse(notebook.cells[parameters].source).body
    assert all(isinstance(line, ast.Assign) for line in body)
    assert {line.targets[0].id for line in body} == set(SMALL[path.stem])
    first = _read(FILES[0])
    assert notebook.cells[install] == first.cells[install]


@each
def test_its_code_compiles_and_uses_public_names_only(path):
    for source in _code(_read(path)):
        tree = ast.parse(source)
        compile(tree, path.name, "exec")
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    _assert_public(alias.name)
            elif isinstance(node, ast.ImportFrom):
                for alias in node.names:
                    _assert_public(f"{node.module}.{alias.name}")
            elif isinstance(node, ast.Attribute):
                name = ast.unparse(node)
                if re.fullmatch(r"fmjax(\.\w+)+", name):
                    _assert_public(name)


def _assert_public(name):
    """Asserts that a dotted name of ours exists, and that no part of it is private."""
    if name.split(".")[0] not in {"fmjax", "experiments"}:
        return
    assert not re.search(r"(^|\.)_", name), name
    value, *rest = [], *name.split(".")
    value = importlib.import_module(rest.pop(0))
    for part in rest:
        if not hasattr(value, part):
            importlib.import_module(f"{value.__name__}.{part}")
        value = getattr(value, part)


def test_the_address_of_the_repository_has_one_form():
    found = {place for path in FILES for place in re.findall(ADDRESS, path.read_text())}
    assert len(found) == 1, found
    ((owner, name),) = found
    assert name == "fmjax"
    # Where it is not known, the page says how to fill it in.
    assert owner != "OWNER" or "s#OWNER/fmjax#" in (FOLDER / "README.md").read_text()


@each
def test_it_is_in_the_table(path):
    assert f"| [{path.stem}]({path.name}) |" in (FOLDER / "README.md").read_text()


@each
def test_its_links_resolve(path):
    for cell in _read(path).cells:
        if cell.cell_type == "markdown":
            for target in re.findall(r"\]\(([^)#]+)", cell.source):
                assert target.startswith("http") or (FOLDER / target).exists(), target


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.long if name in LONG else pytest.mark.slow)
        for name in SMALL
    ],
)
def test_it_runs(name, tmp_path, monkeypatch):
    notebook = _read(FOLDER / f"{name}.ipynb")
    small = dict(SMALL[name])
    if "folder" in small:
        small["folder"] = str(tmp_path / small["folder"])
    lines = "\n".join(f"{key} = {value!r}" for key, value in small.items())
    cell = nbformat.v4.new_code_cell(lines, id=uuid.uuid4().hex[:8])
    notebook.cells.insert(_tagged(notebook, "parameters") + 1, cell)
    # The settings of this process, for the one that is started.
    monkeypatch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
    monkeypatch.setenv("JAX_ENABLE_COMPILATION_CACHE", "1")
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", jax.config.jax_compilation_cache_dir)
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.02")
    monkeypatch.setenv("PYDEVD_DISABLE_FILE_VALIDATION", "1")
    # A kernel starts where the notebook is, and must find the root by itself.
    place = {"metadata": {"path": str(FOLDER)}}
    nbclient.NotebookClient(notebook, timeout=1200, resources=place).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    printed = "".join(output.text for output in outputs if output.output_type == "stream")
    assert "devices: " in printed
    assert "Warning" not in printed
    if name != "3_uncertainty_of_images":  # after three steps there are no edges to measure on
        assert not re.search(r"\bnan\b", printed), printed
