"""What a run says about its devices at its start."""

import importlib.metadata
import types

import jax
import pytest

from experiments.run import devices

announce = devices.announce.__wrapped__  # says it at every call


@pytest.fixture
def installed(monkeypatch):
    """Pretends that these plugins of accelerators are installed, by their versions."""

    def install(**versions):
        plugins = [types.SimpleNamespace(name=n, version=v) for n, v in versions.items()]
        entries = [
            types.SimpleNamespace(dist=plugin) for plugin in plugins if plugin.name != "libtpu"
        ]
        monkeypatch.setattr(importlib.metadata, "entry_points", lambda *, group: entries)
        named = lambda *, name: [plugin for plugin in plugins if plugin.name == name]
        monkeypatch.setattr(importlib.metadata, "distributions", named)

    return install


@pytest.fixture
def platforms():
    """Sets what the user asks for (JAX_PLATFORMS)."""
    before = jax.config.jax_platforms
    yield lambda value: jax.config.update("jax_platforms", value)
    jax.config.update("jax_platforms", before)


def test_the_devices_are_said_once_on_stderr(installed, capsys):
    installed()
    devices.announce.cache_clear()
    devices.announce()
    devices.announce()
    out, err = capsys.readouterr()
    assert (out, err) == ("", f"devices: 8 x {jax.devices()[0].device_kind} (cpu)\n")


@pytest.mark.parametrize("name", ["jax-cuda12-plugin", "libtpu"])
def test_an_accelerator_that_is_passed_over_is_warned_of(installed, platforms, capsys, name):
    platforms(None)
    installed(**{name: "0.7.2"})
    announce()
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("devices: ")
    ours = importlib.metadata.version("jaxlib")
    assert f"warning: computes on a CPU though {name} 0.7.2 is installed" in second
    assert f"jaxlib {ours}. " in second
    assert "JAX_PLATFORMS=cpu" in second


def test_a_cpu_that_was_asked_for_is_no_warning(installed, platforms, capsys):
    platforms("cpu")
    installed(**{"jax-cuda12-plugin": "0.7.2"})
    announce()
    assert capsys.readouterr().err.count("\n") == 1
