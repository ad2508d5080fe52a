"""Where a run comes from: module, commit, versions, devices and every session."""

import dataclasses
import datetime
import importlib.machinery
import json
import platform
import subprocess
import sys

import flax
import jax
import numpy as np
import optax

import fmjax
from experiments.run import folder, provenance


@dataclasses.dataclass(frozen=True)
class _Config:
    rate: float = 0.5


def _record(path):
    return json.loads((path / "provenance.json").read_text())


def test_every_session_of_a_run_is_recorded(tmp_path):
    before = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
    folder.open_folder(tmp_path, _Config(), data="crc32 1")
    (tmp_path / "metrics.jsonl").write_text("")
    first = _record(tmp_path)
    assert (first["module"], first["facts"]) == (__name__, ["data"])
    (session,) = first["sessions"]
    started = datetime.datetime.fromisoformat(session["started"])
    assert before <= started <= datetime.datetime.now(datetime.UTC)
    packages = {"jax": jax, "flax": flax, "optax": optax, "numpy": np, "fmjax": fmjax}
    versions = {name: package.__version__ for name, package in packages.items()}
    versions["jaxlib"] = jax.lib.__version__
    assert session["versions"] == versions | {"python": platform.python_version()}
    devices = {"platform": "cpu", "kind": jax.devices()[0].device_kind}
    devices |= {"count": 8, "processes": 1, "mesh": {"data": 8, "model": 1}}
    assert session["devices"] == devices
    folder.open_folder(tmp_path, _Config(), data="crc32 1")
    assert _record(tmp_path)["sessions"][0] == session
    assert len(_record(tmp_path)["sessions"]) == 2
    # It is not part of the options: another machine or version may continue.
    config = folder.read_json(tmp_path / "config.json")
    assert config == {"rate": 0.5, "data": "crc32 1"}


def test_a_folder_that_holds_no_run_yet_begins_anew(tmp_path):
    for rate in (0.5, 0.25):
        folder.open_folder(tmp_path, _Config(rate))
    assert len(_record(tmp_path)["sessions"]) == 1


def test_the_module_of_a_program_is_the_name_it_was_started_with(monkeypatch):
    spec = importlib.machinery.ModuleSpec("experiments.paper.name", None)
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", spec)
    made = dataclasses.make_dataclass("Config", [])
    made.__module__ = "__main__"  # Python 3.12 and newer overwrite what the namespace says
    config = made()
    assert provenance.module_of(config) == "experiments.paper.name"


def test_the_commit_of_the_code(tmp_path):
    def git(*words):
        command = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-C", str(tmp_path), *words]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    code = tmp_path / "code"
    code.mkdir()
    (code / "a.py").write_text("1")
    git("init", "-q")
    git("add", ".")
    git("commit", "-qm", "one")
    git("tag", "-a", "v1", "-m", "one")
    find = provenance.commit.__wrapped__  # without its memory
    assert find(code) == git("rev-parse", "HEAD")
    (code / "a.py").write_text("2")
    assert find(code) == git("rev-parse", "HEAD") + "-dirty"
    # Another folder in a repository that does not hold it, and no repository at all.
    (tmp_path / "venv").mkdir()
    (tmp_path / "venv" / "b.py").write_text("1")
    assert find(tmp_path / "venv") is None


def test_no_commit_outside_git(tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert provenance.commit.__wrapped__(tmp_path) is None
    monkeypatch.setenv("PATH", "")
    assert provenance.commit.__wrapped__(tmp_path) is None
