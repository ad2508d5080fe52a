"""The floors of the house, the public names, and what `import fmjax` may cost."""

import ast
import pathlib
import re
import subprocess
import sys

import pytest

import fmjax

ROOT = pathlib.Path(fmjax.__file__).parent

# A module may import fmjax modules of a lower floor only; the files of a package share its floor.
FLOORS = [
    {"types", "_compat"},
    {"_checks"},
    {"_assignment", "_jacobian"},
    set("paths divergence estimators couplings metrics train models _krylov".split()),
    {"predictions", "samplers", "_bank", "collapse", "times"},
    {"likelihood", "toy", "simplex", "strain"},
    {"empirical", "posterior", "path_error"},
    {"losses", "onestep", "events"},
]
FLOOR = {module: floor for floor, modules in enumerate(FLOORS) for module in modules}
# Who may import what beside jax, numpy and the standard library.
ALLOWED = {
    "chex": {"_checks"},
    "diffrax": {"samplers"},
    "flax": {"models"},
    "matfree": {"estimators", "_krylov"},
    "optax": {"simplex", "train"},
    "scipy": {"paths", "simplex"},
}


def _files():
    return sorted(ROOT.rglob("*.py"))


def _module(path):
    """Returns the package's name for every file of a sub-package, else the file's own name."""
    return path.relative_to(ROOT).with_suffix("").parts[0]


def _imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide the floor"
            if node.module in {"fmjax", "experiments"}:
                yield from (f"{node.module}.{alias.name}" for alias in node.names)
            else:
                yield node.module


@pytest.mark.parametrize("path", _files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_modules_import_lower_floors_only(path):
    module = _module(path)
    if module == "__init__":
        return  # what it loads is tested below
    for name in _imports(path):
        top, *rest = name.split(".")
        if top == "fmjax":
            lower = rest[0]
            same_package = lower == module and path.parent != ROOT
            assert same_package or FLOOR[lower] < FLOOR[module], f"{module} imports {lower}"
        elif top in ALLOWED:
            assert module in ALLOWED[top], f"{module} imports {top}"
        else:
            assert top in {"jax", "numpy"} | sys.stdlib_module_names, f"{module} imports {top}"


def _names(path):
    """Yields the dotted names that a file imports, and those that it reads from a module."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    bound = {
        alias.asname or alias.name: f"{node.module}.{alias.name}"
        for node in nodes
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    yield from bound.values()
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            yield f"{bound.get(node.value.id, node.value.id)}.{node.attr}"


@pytest.mark.parametrize("path", _files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_what_is_private_to_a_package_or_a_module_is_used_there_only(path):
    mine = _module(path)
    for name in _names(path):
        top, *rest = name.split(".")
        if top == "fmjax" and rest[0] != mine:
            # `fmjax._bank` is the library's own; `fmjax.posterior._operator` is posterior's.
            private = [part for part in rest[1:] if part.startswith("_")]
            assert not private, f"{mine} uses {name}: move it to a module `fmjax/_*.py`"


@pytest.mark.slow
def test_the_experiments_use_the_public_names_of_the_library():
    files = sorted((ROOT.parent / "experiments").rglob("*.py"))
    names = {name for path in files for name in _names(path) if name.startswith("fmjax.")}
    private = {name for name in names if "._" in name and "__" not in name}
    assert {".".join(name.split(".")[:2]) for name in private} <= {"fmjax._compat"}


SHIMS = {"jax.enable_x64": "fmjax/_compat.py", "nnx.List": "fmjax/models/layers.py"}


@pytest.mark.parametrize("name", SHIMS)
def test_names_that_the_oldest_jax_lacks_are_taken_from_their_shim(name):
    # tests/__init__.py supplies the first one to the tests, so nothing else would notice.
    users = [
        path.relative_to(ROOT.parent).as_posix()
        for folder in ("fmjax", "experiments")
        for path in sorted((ROOT.parent / folder).rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and ast.unparse(node) == name
    ]
    assert set(users) <= {SHIMS[name]}


@pytest.mark.slow
def test_import_fmjax_is_light():
    heavy = (
        "diffrax", "flax", "matfree", "orbax", "tensorflow_datasets", "optax", "matplotlib",
        "sklearn",
    )  # fmt: skip
    code = (
        "import sys, fmjax\n"
        f"print([name for name in {heavy} if name in sys.modules])\n"
        "fmjax.paths.linear()\n"
        f"print([name for name in {heavy} if name in sys.modules])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd="/"
    )
    assert done.stdout.split() == ["[]", "[]"]


def test_every_public_module_loads_on_first_use_and_is_listed():
    for name in fmjax._MODULES:
        assert getattr(fmjax, name).__name__ == f"fmjax.{name}"
    assert set(fmjax._MODULES) <= set(dir(fmjax))
    on_disk = {p.stem for p in ROOT.glob("*.py")} | {p.parent.name for p in ROOT.glob("*/*.py")}
    assert set(fmjax._MODULES) == {name for name in on_disk if not name.startswith("_")}


def test_a_type_checker_sees_the_modules_that_are_loaded_on_first_use():
    tree = ast.parse((ROOT / "__init__.py").read_text())
    (block,) = (
        node
        for node in tree.body
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    )
    (imports,) = block.body
    assert isinstance(imports, ast.ImportFrom)
    assert imports.module == "fmjax"
    assert tuple(alias.name for alias in imports.names) == fmjax._MODULES
    # A type checker follows `__all__` only where it is written out, name by name.
    (names,) = (
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
    )
    assert names == fmjax.__all__ == ["__version__", *fmjax._MODULES]
    assert (ROOT / "py.typed").is_file()


def test_the_gate_names_tests_that_exist():
    gate = (ROOT.parent / ".ci" / "run").read_text()
    patterns = re.findall(r"'\*/(?:\w+/)?(test_\w+\.py)'", gate)
    assert "test_contract.py" in patterns
    for name in patterns:
        assert len(list((ROOT.parent / "tests").rglob(name))) == 1, f".ci/run names {name}"


def test_a_wrong_module_name_is_answered_with_the_right_ones():
    with pytest.raises(AttributeError, match=r"no attribute 'sampler'.*samplers"):
        _ = fmjax.sampler


def test_the_installed_version_is_the_one_in_the_code():
    from importlib.metadata import version

    assert version("fmjax") == fmjax.__version__


def test_the_citation_names_the_version_in_the_code():
    text = (ROOT.parent / "CITATION.cff").read_text()
    assert f"\nversion: {fmjax.__version__}\n" in text
