"""SIGTERM and SIGHUP: a training saves its step, everything else ends where it stands."""

import os
import pathlib
import signal
import socket
import subprocess
import sys
import threading
import time
import types

import numpy as np
import pytest

from experiments.run import cli, loop, signals
from tests.experiments.run import kills, test_loop
from tests.experiments.run.test_loop import assert_same_bits, fit, metrics, saved_steps


@pytest.fixture(autouse=True)
def handlers():
    """The handlers of this process before a test; they must be there after it too."""
    own = {signum: signal.getsignal(signum) for signum in (signal.SIGTERM, signal.SIGHUP)}
    before = dict.fromkeys(own, signal.SIG_DFL)
    for signum, handler in before.items():
        signal.signal(signum, handler)  # under nohup SIGHUP is ignored, here and in a training
    yield before
    now = {signum: signal.getsignal(signum) for signum in before}
    for signum, handler in own.items():
        signal.signal(signum, handler)
    assert now == before


def signaled(step, *signums):
    """Batches that raise the signals before they give the one for this step."""

    def start(first):
        for number, batch in enumerate(test_loop.BATCHES(first), start=first + 1):
            if number == step:
                for signum in signums:
                    signal.raise_signal(signum)
            yield batch

    return start


def left(function, *args, **options):
    """The exit code with which a function ends the program."""
    with pytest.raises(SystemExit) as caught:
        function(*args, **options)
    return caught.value.code


@pytest.mark.parametrize("signums", [[signal.SIGTERM], [signal.SIGHUP, signal.SIGHUP]])
def test_a_training_saves_its_step_and_continues_bit_for_bit(tmp_path, capsys, signums):
    straight = fit(tmp_path / "straight", 10, log_every=3)
    capsys.readouterr()
    options = {"workdir": tmp_path / "run", "num_steps": 10, "log_every": 100}
    assert left(fit, batches=signaled(7, *signums), **options) == 128 + signums[0]
    err = capsys.readouterr().err
    name = signal.Signals(signums[0]).name
    line = f"stopped by {name}: step 7 of 10 is saved, the same command continues from there.\n"
    assert err == line
    assert saved_steps(tmp_path / "run") == [5, 7]  # not at the next look at the loss
    assert [line["step"] for line in metrics(tmp_path / "run")] == [5]
    assert_same_bits(fit(**options | {"log_every": 3}), straight)
    assert metrics(tmp_path / "run")[1:] == metrics(tmp_path / "straight")[3:]


def test_a_state_that_is_not_finite_is_not_saved(tmp_path):
    def batches(first):
        for number, batch in enumerate(signaled(7, signal.SIGTERM)(first), start=first + 1):
            yield batch | {"step": np.full(test_loop.BATCH, number)}

    explode = test_loop.explodes_at(6, np.nan)
    with pytest.raises(FloatingPointError, match="at step 7; the last checkpoint is step 5"):
        fit(tmp_path, 10, loss=explode, batches=batches, log_every=100)
    assert saved_steps(tmp_path) == [5]


def test_an_evaluation_ends_at_once_and_the_last_checkpoint_stands(tmp_path, capsys):
    def evaluate(params, key):
        signal.raise_signal(signal.SIGTERM)
        raise AssertionError

    def train(**options):
        with signals.ending():
            fit(tmp_path, 10, save_every=2, **options)

    assert left(train, evaluate=evaluate) == 143
    assert capsys.readouterr().err == (
        "stopped by SIGTERM: the same command continues from the last checkpoint.\n"
    )
    assert saved_steps(tmp_path) == [2, 4]
    assert [line["step"] for line in metrics(tmp_path)] == [1, 2, 3, 4]
    # It came just before the step after which one evaluates: the same.
    assert left(train, batches=signaled(5, signal.SIGTERM)) == 143
    assert saved_steps(tmp_path) == [2, 4]
    assert_same_bits(fit(tmp_path, 10, save_every=2), fit(tmp_path / "straight", 10))
    assert metrics(tmp_path) == metrics(tmp_path / "straight")


@pytest.mark.parametrize(("seconds", "waited_for"), [(0.02, range(20, 25)), (1e-5, range(3))])
def test_a_device_is_a_second_behind_when_a_signal_comes(monkeypatch, seconds, waited_for):
    clock, waits = [0.0], []
    monkeypatch.setattr(signals, "time", types.SimpleNamespace(monotonic=lambda: clock[0]))
    monkeypatch.setattr(signals, "_LAG_SECONDS", 0.1)
    device = [0.0]  # when each of its steps is done; the program starts one in 1e-3 seconds

    def wait(done):
        waits.append(done)
        clock[0] = max(clock[0], done)

    def step():
        clock[0] += 1e-3
        device.append(done := max(clock[0], device[-1]) + seconds)
        return types.SimpleNamespace(
            is_ready=lambda: clock[0] >= done, block_until_ready=lambda: wait(done)
        )

    with signals.Held() as held:
        for number in range(30):
            held.asked(lambda _: False, range(number, number + 1), step())
            assert device[-1] - clock[0] < 0.1 + 3 * seconds
    assert len(waits) in waited_for


def test_a_signal_after_the_last_step_goes_to_the_handler_before(tmp_path):
    got = []
    before = signal.signal(signal.SIGHUP, lambda signum, frame: got.append(signum))
    try:
        with signals.Held() as held:
            signal.raise_signal(signal.SIGHUP)
            assert (got, held.signum) == ([], signal.SIGHUP)
        assert got == [signal.SIGHUP]
        with pytest.raises(ZeroDivisionError), signals.Held():
            print(signal.raise_signal(signal.SIGHUP) or 1 / 0)
        assert got == [signal.SIGHUP]  # the mistake ends the program already
    finally:
        signal.signal(signal.SIGHUP, before)


def test_what_nohup_ignores_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with signals.ending(), signals.Held() as held:
            signal.raise_signal(signal.SIGHUP)
            assert held.signum is None
    finally:
        signal.signal(signal.SIGHUP, before)


def test_outside_the_main_thread_nothing_is_set(handlers):
    seen = []

    def body():
        with signals.ending(), signals.Held() as held, held.let_through():
            seen.append({signum: signal.getsignal(signum) for signum in handlers})

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    assert seen == [handlers]


def test_a_command_ends_with_a_line_and_128_and_the_signal(capsys):
    main = lambda config: signal.raise_signal(signal.SIGHUP)
    assert left(cli.run, main, test_loop.Config, args=[]) == 129
    assert capsys.readouterr().err.startswith("stopped by SIGHUP: the same command continues")


COMMAND = ["-m", "experiments.fdm.mixture", "--no-compilation-cache", "--num-steps", "100000"]


@pytest.mark.slow
def test_a_process_is_stopped_in_seconds_and_goes_on(tmp_path):
    root = str(pathlib.Path(loop.__file__).parents[2])
    command = [sys.executable, *COMMAND, "--workdir", "run"]
    steps = []
    for _ in range(2):
        run = subprocess.Popen(
            command,
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": root},
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            lines = [run.stderr.readline()]
            while "train: step" not in lines[-1]:
                assert lines[-1], "".join(lines)  # else it has ended
                lines.append(run.stderr.readline())
            time.sleep(0.3)
            run.send_signal(signal.SIGTERM)
            begun = time.monotonic()
            rest = run.communicate(timeout=60)[1]
        finally:
            run.kill()
        assert time.monotonic() - begun < 10
        assert run.returncode == 143
        assert "Traceback" not in rest
        steps.append(int(rest.split("step ")[-1].split()[0]))
    assert f"continuing: step {steps[0]} of 100000" in "".join(lines)
    assert 0 < steps[0] < steps[1]


HOST = """
import dataclasses, sys
import jax
jax.config.update("jax_num_cpu_devices", 4)
from experiments.run import batches, cli, loop
Config = dataclasses.make_dataclass("Config", [], frozen=True)
def main(config):
    folder = loop.open_run("run", config)
    from tests.experiments.run import test_loop  # asks for the devices
    rows = batches.batches(test_loop.ROWS, test_loop.BATCH, seed=0)
    def start(first):
        for step, batch in enumerate(rows(first), start=first + 1):
            if sys.argv[2:] == [str(step)] and jax.process_index() == 1:
                raise ValueError("a mistake in the data.")
            yield batch
    every = {"save_every": 20, "eval_every": 10**6}
    test_loop.fit(folder, int(sys.argv[1]), batches=start, **every)
cli.run(main, Config, args=[])
"""


@pytest.fixture
def hosts(tmp_path):
    """Starts two processes that train together; the second one fails before a step."""
    started = []

    def start(num_steps, *failing):
        with socket.socket() as probe:
            probe.bind(("localhost", 0))
            address = f"localhost:{probe.getsockname()[1]}"
        root = str(pathlib.Path(loop.__file__).parents[2])
        names = {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": "2", "PYTHONPATH": root}
        both = [
            subprocess.Popen(
                [sys.executable, "-c", HOST, str(num_steps), *map(str, failing)],
                cwd=tmp_path,
                env=os.environ | names | {"JAX_PROCESS_ID": str(index)},
                stderr=subprocess.PIPE,
                text=True,
            )
            for index in range(2)
        ]
        started.extend(both)
        return both

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stderr.close()


@pytest.mark.slow
@pytest.mark.parametrize(
    "signum", [signal.SIGTERM, pytest.param(signal.SIGHUP, marks=pytest.mark.long)]
)
def test_of_two_hosts_one_is_told_and_both_save_the_same_step(tmp_path, hosts, signum):
    both = hosts(10**6)
    while not (tmp_path / "run" / "metrics.jsonl").exists():
        time.sleep(0.1)
        assert [process.poll() for process in both] == [None, None]
    both[1].send_signal(signum)
    errors = [process.communicate(timeout=200)[1] for process in both]
    assert [process.returncode for process in both] == [143, 128 + signum], errors
    step = saved_steps(tmp_path / "run")[-1]
    for error in errors:
        assert f": step {step} of 1000000 is saved, the same command continues" in error
        assert "Traceback" not in error
    both = hosts(step + 5)
    errors = [process.communicate(timeout=200)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], errors
    assert f"continuing: step {step} of {step + 5}" in errors[0]


@pytest.mark.slow
@pytest.mark.parametrize(
    "victim",
    [
        pytest.param(None, id="fails"),
        pytest.param(0, id="the first dies", marks=pytest.mark.long),
        pytest.param(1, id="one dies"),
    ],
)
def test_of_two_hosts_one_ends_and_the_other_does_not_wait_for_it(tmp_path, hosts, victim):
    both = hosts(10**6, *([50] if victim is None else []))
    if victim is None:
        assert "error: a mistake in the data.\n" in both[1].communicate(timeout=200)[1]
        assert both[1].returncode == 1
        other = both[0]
    else:
        while not (tmp_path / "run" / "checkpoints" / "20").exists():
            time.sleep(0.1)
            assert [process.poll() for process in both] == [None, None]
        both[victim].kill()
        both[victim].communicate()
        other = both[1 - victim]
    begun = time.monotonic()
    error = other.communicate(timeout=60)[1]
    assert time.monotonic() - begun < 30
    assert other.returncode != 0
    assert "another task died" in error or "has lost another one" in error
    # A save that was cut off may have left its folder beside the whole ones.
    (newest,) = kills.saved_steps(tmp_path).values()
    step = newest + 5
    both = hosts(step)
    errors = [process.communicate(timeout=200)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], errors
    assert f"continuing: step {step - 5} of {step}" in errors[0]
