"""Several processes on one machine, joined over loopback: the run of one process in any layout."""

import os
import pathlib
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest

from experiments.run import loop
from experiments.uncertainty import maps
from tests.experiments.run import test_layout
from tests.oracles import tiny

ROOT = str(pathlib.Path(loop.__file__).parents[2])
STEPS = 4
JOIN = """
import dataclasses, os, sys
import jax
devices = int(os.environ["DEVICES"])
jax.config.update("jax_num_cpu_devices", devices // int(sys.argv[1]))
# As in the process of the tests: what is compiled otherwise is rounded otherwise.
jax.config.update("jax_disable_most_optimizations", True)
from experiments.run import loop
folder = loop.open_run(sys.argv[2], dataclasses.make_dataclass("Config", [])())
# After the processes have met, because it asks for the devices:
import numpy as np
from tests.experiments.run import test_layout
assert (jax.process_count(), jax.device_count()) == (int(sys.argv[1]), devices)
"""


def run(count, code, *arguments, devices=8):
    """Runs the code in several processes that are joined, and returns what they said on stderr."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        address = f"localhost:{probe.getsockname()[1]}"
    names = {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": str(count)}
    names |= {"PYTHONPATH": ROOT, "DEVICES": str(devices)}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", JOIN + code, str(count), *map(str, arguments)],
            env=os.environ | names | {"JAX_PROCESS_ID": str(index)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(count)
    ]
    try:
        errors = [process.communicate(timeout=900)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0] * count, errors
    return errors


@pytest.mark.slow
@pytest.mark.parametrize(
    ("count", "model"),
    [
        (2, 1),
        pytest.param(2, 8, marks=pytest.mark.long),
        pytest.param(4, 1, marks=pytest.mark.long),
        (4, 2),
    ],
)
def test_processes_give_the_losses_of_one_device(tmp_path, count, model):
    code = """
state = [test_layout.fit(folder, steps, model=int(sys.argv[3])) for steps in (2, 4)][1]
own = state.ema_params["first"].sharding.shard_shape((test_layout.WIDTH,) * 2)
assert own[1] == test_layout.WIDTH // int(sys.argv[3])
from experiments.run import layout
np.savez(f"{folder}/{jax.process_index()}.npz", **layout.on_host(state.ema_params))
"""
    errors = run(count, code, tmp_path, model)
    losses, averaged = test_layout.single_device(STEPS)
    lines = loop.run_folder.read_metrics(tmp_path)
    np.testing.assert_allclose([line["loss"] for line in lines], losses, rtol=1e-5)
    for index in range(count):
        for name, array in np.load(tmp_path / f"{index}.npz").items():
            np.testing.assert_allclose(array, averaged[name], rtol=1e-4, atol=1e-6)
    assert ["train: step" in text for text in errors] == [True] + [False] * (count - 1)
    # What several processes have saved is restored by one, in one layout after another.
    for again in (1, 4):
        state = test_layout.fit(tmp_path, STEPS, model=again)
        for name, array in test_layout.layout.on_host(state.ema_params).items():
            np.testing.assert_array_equal(array, np.load(tmp_path / "0.npz")[name])


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, pytest.param(4, marks=pytest.mark.long)])
def test_processes_measure_together_and_all_have_the_results(tmp_path, count):
    code = """
import time
from experiments.run import batches
from experiments.run.folder import remembered
shapes = []
def function(keys, x):
    shapes.append(x.shape)  # of one device
    return x**2 + jax.vmap(jax.random.uniform)(keys)
keys, x = jax.random.split(jax.random.key(5), 21), np.arange(21, dtype=np.float32)
made = []
def make():
    made.append(1)
    return {"values": batches.in_batches(function, keys, x, size=16, label="squares")}
number = jax.process_index()
for options in ({"a": 1}, {"a": 1}, {"a": 2}):
    if number:
        time.sleep(0.5)  # when process 0 has written, nobody may take what it finds for its own
    kept = remembered(f"{folder}/kept.json", options, make)
assert (len(made), shapes) == (2, [(2,)])
np.savez(f"{folder}/{number}.npz", kept=kept["values"])
"""
    errors = run(count, code, tmp_path)
    keys, x = jax.random.split(jax.random.key(5), 21), np.arange(21)
    expected = x**2 + np.array([jax.random.uniform(key) for key in keys])
    for index in range(count):
        np.testing.assert_allclose(np.load(tmp_path / f"{index}.npz")["kept"], expected, rtol=1e-6)
    assert ["squares: 21 examples" in text for text in errors] == [True] + [False] * (count - 1)


@pytest.mark.long
def test_two_processes_give_the_results_of_an_experiment(tmp_path):
    code = """
from tests.oracles import tiny
from experiments.uncertainty import maps
maps.main(tiny.replace(tiny.SMALL, workdir=f"{folder}/run"))
"""
    run(2, code, tmp_path / "two", devices=2)
    maps.main(tiny.replace(tiny.SMALL, workdir=str(tmp_path / "one")))
    one, two = (tiny.results(tmp_path / place) for place in ("one", "two/run"))
    assert jax.tree.structure(one) == jax.tree.structure(two)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
        assert a == b if isinstance(a, str) else np.isclose(a, b, rtol=1e-3, atol=1e-5)
