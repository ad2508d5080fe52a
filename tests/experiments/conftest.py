"""Settings for the tests of the experiments: programs are kept, but not in a user's folder."""

import jax
import pytest

from experiments.run import layout, programs
from tests.oracles import tiny

_ON_ALL = layout.make_mesh


@pytest.fixture(autouse=True)
def _keep_no_programs(monkeypatch):
    monkeypatch.setattr(programs, "keep", lambda: None)
    monkeypatch.setenv("JAX_ENABLE_COMPILATION_CACHE", "0")  # for the processes that a test starts


@pytest.fixture(scope="module", autouse=True)
def _compile_once(request, tmp_path_factory):
    """Keeps compiled programs for the whole session: the tiny runs repeat one another's.

    The papers' experiments train on one device, for which programs compile in two thirds of the
    time. The tests of `experiments.run` are about several devices, and count programs.
    """
    if ".experiments.run." in request.module.__name__:
        yield
        return
    base = tmp_path_factory.getbasetemp()
    # The processes of pytest-xdist have folders of their own in one folder.
    shared = base.parent if hasattr(request.config, "workerinput") else base
    with tiny.compiled_once(shared / "programs"), pytest.MonkeyPatch.context() as patch:
        patch.setattr(layout, "make_mesh", _one_device)
        yield


@pytest.fixture
def all_devices(monkeypatch):
    """Gives one test of a paper's experiment all devices."""
    monkeypatch.setattr(layout, "make_mesh", _ON_ALL)


def _one_device():
    auto = (jax.sharding.AxisType.Auto,) * 2
    return jax.make_mesh((1, 1), ("data", "model"), axis_types=auto, devices=jax.devices()[:1])
