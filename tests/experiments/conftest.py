"""Settings for the tests of the experiments: programs are kept, but not in a user's folder."""

import pytest

from experiments.run import programs
from tests.oracles import tiny


@pytest.fixture(autouse=True)
def _keep_no_programs(monkeypatch):
    monkeypatch.setattr(programs, "keep", lambda: None)
    monkeypatch.setenv("JAX_ENABLE_COMPILATION_CACHE", "0")  # for the processes that a test starts


@pytest.fixture(scope="module", autouse=True)
def _compile_once(request, tmp_path_factory):
    """Keeps compiled programs for the whole session: the tiny runs repeat one another's."""
    if ".experiments.run." in request.module.__name__:  # whose tests count and time them
        yield
        return
    base = tmp_path_factory.getbasetemp()
    # The processes of pytest-xdist have folders of their own in one folder.
    shared = base.parent if hasattr(request.config, "workerinput") else base
    with tiny.compiled_once(shared / "programs"):
        yield
