"""What a run says about its devices at its start."""

import functools
import http.server
import importlib.metadata
import importlib.util
import os
import pathlib
import subprocess
import sys
import threading
import types

import jax
import pytest
from jax._src import distributed

from experiments.run import devices

announce = devices.announce.__wrapped__  # says it at every call


@pytest.fixture
def installed(monkeypatch):
    """Pretends that these plugins of accelerators are installed, by their versions."""
    jax.devices()  # JAX looks for plugins when it starts, and must find the real ones

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


# What is named in part, or is not there.


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (
            {"JAX_COORDINATOR_ADDRESS": "localhost:1"},
            r"must be defined.*; JAX_COORDINATOR_ADDRESS is localhost:1, JAX_NUM_PROCESSES is not",
        ),
        (
            {"JAX_COORDINATOR_ADDRESS": "localhost:1", "JAX_NUM_PROCESSES": "two"},
            r"invalid literal.*'two'; .*JAX_NUM_PROCESSES is two, JAX_PROCESS_ID is not set\)",
        ),
        ({"JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "0"}, "JAX_COORDINATOR_ADDRESS is not set"),
        ({"JAX_PROCESS_ID": "1"}, "JAX_PROCESS_ID is 1"),
    ],
)
def test_processes_that_are_named_in_part_are_refused(monkeypatch, given, words):
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    # jax joins others only before it has started its devices, which these tests have.
    monkeypatch.setattr(distributed.xla_bridge, "backends_are_initialized", lambda: False)
    with pytest.raises(ValueError, match=words) as caught:
        devices.join_hosts()
    assert str(caught.value).startswith("cannot join the processes of this run (")
    assert str(caught.value).endswith("or none of them to run alone.")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (RuntimeError("Unable to find 'cuda': unknown.\nMore of it."), r" \(Unable .* unknown.\)"),
        (AssertionError(), ""),
    ],
)
def test_a_platform_without_its_plugin_is_named(monkeypatch, platforms, error, reason):
    def none():
        raise error

    platforms("cuda")
    monkeypatch.setattr(jax, "process_count", none)
    words = rf"^JAX_PLATFORMS is 'cuda', but JAX has no such device{reason}: install .* or unset"
    with pytest.raises(ValueError, match=words) as caught:
        devices.join_hosts()
    assert "\n" not in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize(
    "given", [{"JAX_PLATFORMS": "cuda"}, {"JAX_COORDINATOR_ADDRESS": "localhost:1"}]
)
def test_a_command_says_so_in_one_line(tmp_path, given):
    root = str(pathlib.Path(devices.__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-m", "experiments.fdm.mixture"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": root} | given,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


# The hosts of a TPU slice.


@pytest.fixture
def metadata(monkeypatch, platforms):
    """A machine of Compute Engine with libtpu, whose metadata a server on loopback tells."""
    attributes = {}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            found = attributes.get(self.path.rpartition("/")[2])
            asked = self.headers["Metadata-Flavor"] == "Google"
            self.send_response(200 if found and asked else 404)
            self.end_headers()
            self.wfile.write((found or "").encode())

        def log_message(self, *_):
            pass

    server = http.server.HTTPServer(("localhost", 0), Handler)
    threading.Thread(target=functools.partial(server.serve_forever, 0.01), daemon=True).start()
    monkeypatch.setenv("GCE_METADATA_IP", f"localhost:{server.server_port}")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name == "libtpu")
    monkeypatch.delenv("TPU_SKIP_MDS_QUERY", raising=False)  # JAX sets it where it sees no chips
    platforms(None)
    yield attributes
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    ("workers", "joined"), [("slice-a1b2,slice-c3d4", True), ("slice-a1b2", False), (None, False)]
)
def test_the_hosts_of_a_tpu_slice_are_joined_by_their_metadata(
    metadata, monkeypatch, workers, joined
):
    calls = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda **options: calls.append(options))
    monkeypatch.setattr(devices, "_of_slice", devices._of_slice.__wrapped__)
    metadata["worker-network-endpoints"] = workers
    devices.join_hosts()
    assert len(calls) == joined


def test_metadata_are_asked_where_there_is_a_tpu(metadata, platforms, monkeypatch):
    metadata["worker-network-endpoints"] = "a,b"
    platforms("cpu")
    assert devices._of_slice.__wrapped__() == ""
    platforms("tpu,cpu")
    assert devices._of_slice.__wrapped__() == "a,b"
    monkeypatch.setenv("TPU_SKIP_MDS_QUERY", "1")
    assert devices._of_slice.__wrapped__() == ""
