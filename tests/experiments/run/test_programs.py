"""Compiled programs are kept where the user's caches are, unless the user says otherwise."""

import pathlib
import subprocess
import sys

import pytest

from experiments.run import cli

JOB = '''"""A job."""
import dataclasses, functools
import jax, jax.numpy as jnp
from experiments.run import cli

@dataclasses.dataclass(frozen=True)
class Config:
    size: int = 8
    """Rows."""

def main(config):
    x = jnp.ones((config.size, config.size))
    f = lambda x: functools.reduce(lambda x, i: jnp.sin(x @ x) + jnp.sort(x * i), range(60), x)
    jax.block_until_ready(jax.jit(f)(x))

if __name__ == "__main__":
    cli.run(main, Config)
'''


@pytest.fixture
def run(tmp_path):
    """Runs the job in a process of its own; returns what it left below the folder of caches."""
    (tmp_path / "job.py").write_text(JOB)
    root = str(pathlib.Path(cli.__file__).parents[2])

    def run(*options, **environment):
        environment = {"PYTHONPATH": root, "HOME": str(tmp_path / "home")} | environment
        command = [sys.executable, str(tmp_path / "job.py"), *options]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        assert (done.returncode, done.stderr) == (0, "")
        return {
            path.relative_to(tmp_path): path.stat().st_mtime_ns
            for path in tmp_path.rglob("*-cache")
        }

    return run


@pytest.mark.slow
def test_a_second_run_reads_the_programs_of_the_first(run):
    first = run()
    assert first
    folder = pathlib.Path("home", ".cache", "fmjax", "programs")
    assert {path.parent for path in first} == {folder}
    assert run() == first


@pytest.mark.slow
def test_the_option_and_the_settings_of_jax_come_first(run, tmp_path):
    assert not run("--no-compilation-cache")
    assert not run(JAX_ENABLE_COMPILATION_CACHE="0")
    own, caches = tmp_path / "own", tmp_path / "caches"
    kept = run(XDG_CACHE_HOME=str(caches))
    assert {path.parent for path in kept} == {pathlib.Path("caches", "fmjax", "programs")}
    options = {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    kept = set(run(JAX_COMPILATION_CACHE_DIR=str(own), **options)) - set(kept)
    assert {path.parent for path in kept} == {pathlib.Path("own")}
