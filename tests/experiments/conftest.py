"""Settings for the tests of the experiments: one device, and no programs in a user's folder."""

import jax
import pytest

from experiments.run import layout, programs

_ON_ALL = layout.make_mesh


@pytest.fixture(autouse=True)
def _keep_no_programs(monkeypatch):
    monkeypatch.setattr(programs, "keep", lambda: None)
    monkeypatch.setenv("JAX_ENABLE_COMPILATION_CACHE", "0")  # for the processes that a test starts


@pytest.fixture(scope="module", autouse=True)
def _on_one_device(request):
    """Trains the papers' experiments on one device: programs compile in two thirds of the time.

    The tests of `experiments.run` are about several devices, and count programs.
    """
    with pytest.MonkeyPatch.context() as patch:
        if ".experiments.run." not in request.module.__name__:
            patch.setattr(layout, "make_mesh", _one_device)
        yield


@pytest.fixture
def all_devices(monkeypatch):
    """Gives one test of a paper's experiment all devices."""
    monkeypatch.setattr(layout, "make_mesh", _ON_ALL)


def _one_device():
    auto = (jax.sharding.AxisType.Auto,) * 2
    return jax.make_mesh((1, 1), ("data", "model"), axis_types=auto, devices=jax.devices()[:1])
