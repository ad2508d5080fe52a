"""The rooms of `experiments/`: who may import whom, the length of files, and the list of runs."""

import ast
import pathlib
import subprocess
import sys

import pytest

from experiments import PAPERS, __main__

ROOT = pathlib.Path(__main__.__file__).parent
FILES = sorted(path for path in ROOT.rglob("*.py") if path.name != "__init__.py")
# What a room may import beside its own files; a paper also its own workshops.
GROUND = {
    "__main__": {"run"},  # the door
    "run": set(),
    "images": {"run"},
    **{folder: {"run", "images"} for folder in (*PAPERS, "benchmarks")},
}
# A module of the ground floor whose second user is planned; the entry goes when that one is there.
AWAITED = {}
OUTSIDE = {
    "orbax": {"run/checkpoints.py", "run/stored.py"},
    "tensorflow_datasets": {"images/prepared.py"},
}


def _parts(path):
    return path.relative_to(ROOT).with_suffix("").parts


def _imports(path):
    """Yields the dotted names that a file imports, modules of packages in full."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide the floor"
            folder = ROOT.parent.joinpath(*node.module.split("."))
            whole = folder.is_dir()  # then modules are imported, else names of one
            yield from (f"{node.module}.{a.name}" if whole else node.module for a in node.names)


def _id(path):
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", FILES, ids=_id)
def test_a_room_imports_lower_floors_only(path):
    mine = _parts(path)
    for name in _imports(path):
        top, *rest = name.split(".")
        if top in OUTSIDE:
            assert _id(path) in OUTSIDE[top], f"{_id(path)} imports {top}"
        if top == "fmjax" and mine[0] == "run":
            assert rest[0] in {"train", "types"}, f"{_id(path)} imports {name}"
        if top != "experiments" or rest == ["PAPERS"]:
            continue
        room, *below = rest
        if room != mine[0]:
            assert room in GROUND[mine[0]], f"{_id(path)} imports {name}"
        elif room in PAPERS and len(mine) == 2:  # an experiment
            assert below[0].startswith("_"), f"{_id(path)} imports the experiment {name}"
        elif room in PAPERS:  # a workshop
            allowed = {mine[1]}
            shared = below[0].startswith("_") and len(below) == 1  # a file of the whole paper
            assert below[0] in allowed or shared, f"{_id(path)} imports {name}"


def test_no_module_of_the_ground_floor_serves_a_single_experiment():
    users = {}
    for path in FILES:
        for name in set(_imports(path)):
            users.setdefault(name, set()).add(_parts(path)[:2])
    for path in FILES:
        parts = _parts(path)
        mine = users.get(".".join(("experiments", *parts)), set())
        if parts[0] in {"run", "images"} and _id(path) not in AWAITED:
            rooms = {room for room, *_ in mine}
            assert len(mine) > 1 or (rooms and rooms <= {parts[0], "__main__"}), _id(path)
    assert not [name for name in AWAITED.values() if (ROOT / name).exists()]


@pytest.mark.parametrize("path", FILES, ids=_id)
def test_a_file_is_at_most_300_lines(path):
    assert len(path.read_text().splitlines()) <= 300


def test_the_list_names_every_experiment_without_importing_any():
    code = (
        "import runpy, sys\n"
        "runpy.run_module('experiments', run_name='__main__')\n"
        "print(sorted({'jax', 'fmjax', 'orbax'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    for folder in (*PAPERS, "benchmarks"):
        for name in __main__.names(folder):
            assert f"  experiments.{folder}.{name}  " in done.stdout
            what, time = __main__.describe(folder, name)
            assert what.endswith((".", "?"))
            assert what in done.stdout
            assert any(unit in time for unit in ("second", "minute", "hour"))
    assert "experiments.uncertainty.maps  " in done.stdout


def test_an_experiment_that_trains_tells_how_its_networks_are_read():
    for folder in PAPERS:
        for name in __main__.names(folder):
            tree = ast.parse((ROOT / folder / f"{name}.py").read_text())
            functions = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
            trains = name not in {"audit", "cosine", "measurements"}
            assert ("restore" in functions) == trains, name


def test_an_experiment_has_its_tests_and_a_line_in_the_table():
    page = (ROOT / "README.md").read_text()
    for folder in PAPERS:
        for name in __main__.names(folder):
            assert f"`experiments.{folder}.{name}`" in page
            tests = (ROOT.parent / "tests" / "experiments" / folder).glob("test_*.py")
            assert any(f"experiments.{folder}.{name}" in _imports(path) for path in tests)


def test_without_the_extra_one_line_says_what_to_install():
    hidden = (
        "from importlib import util; find = util.find_spec; "
        "util.find_spec = lambda name: None if name in {'tqdm', 'tyro'} else find(name); "
        "import experiments"
    )
    done = subprocess.run(
        [sys.executable, "-c", hidden], cwd=ROOT.parent, capture_output=True, text=True, check=False
    )
    *_, last = done.stderr.splitlines()
    assert last.startswith("ImportError: the experiments need tqdm, tyro, which the library")
    assert last.endswith('run pip install -e ".[experiments]".')
