"""Settings for the tests of the experiments: no program is kept in the cache folder of a user."""

import pytest

from experiments.run import lock, programs


@pytest.fixture(autouse=True)
def _keep_no_programs(monkeypatch):
    monkeypatch.setattr(programs, "keep", lambda: None)
    monkeypatch.setenv("JAX_ENABLE_COMPILATION_CACHE", "0")  # for the processes that a test starts


@pytest.fixture(autouse=True)
def _release_the_folders():
    yield
    lock.release_all()
