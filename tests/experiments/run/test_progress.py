"""Progress and the metrics for TensorBoard: what stands in a log, a terminal, and the files."""

import fcntl
import json
import os
import pathlib
import pty
import struct
import subprocess
import sys
import termios

import pytest

from experiments.run import board, cli, progress
from tests.experiments.run import test_loop, test_rehearsal

ROOT = pathlib.Path(progress.__file__).parents[2]
JOB = """
import sys, tempfile
import numpy as np
from experiments.run import batches, progress
from tests.experiments.run import test_loop
progress.QUIET_SECONDS = 0.0
test_loop.fit(tempfile.mkdtemp(), 4)
batches.in_batches(lambda x: x, np.arange(40.0), size=8, label="held-out")
for item in progress.each("abc", "letters", unit="letter"):
    pass
"""


def _run(stderr):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", "COLUMNS": "80"}
    command = [sys.executable, "-c", JOB]
    return subprocess.Popen(command, stderr=stderr, cwd=ROOT, env=environment)


@pytest.mark.slow
def test_a_log_holds_whole_lines_and_nothing_is_written_over(tmp_path):
    with (tmp_path / "log").open("wb") as log:
        assert _run(log).wait() == 0
    said = (tmp_path / "log").read_bytes()
    assert b"\r" not in said
    assert b"\x1b" not in said
    lines = said.decode().splitlines()
    assert any(line.startswith("train: step 4/4, loss ") for line in lines)
    assert "held-out: 40 examples" in lines
    assert any(line.startswith("held-out: batch 1/") and line.endswith(" left") for line in lines)
    assert any(line.startswith("letters: letter 2/3, 00:00 left") for line in lines)


@pytest.mark.slow
def test_a_terminal_shows_bars():
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    process = _run(theirs)
    os.close(theirs)
    said = b""
    try:
        while part := os.read(ours, 4096):
            said += part
    except OSError:  # Linux's way to say that the other side is closed
        pass
    assert process.wait() == 0
    for words in (b"train:", b"held-out:", b"letters:", b"%|"):
        assert words in said
    assert b"\r" in said
    assert b"train: step" not in said  # a line of a log


def test_lines_come_every_ten_seconds(capsys, monkeypatch):
    now = iter([0.0, 1.0, 4.0, 11.0, 12.0, 22.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(now))
    assert list(progress.each([7, 8, 9, 10, 11], "fields", unit="batch")) == [7, 8, 9, 10, 11]
    # After 2 of 5 in 11 seconds 16.5 are left, after 4 in 22 seconds 5.5.
    wanted = ["fields: batch 2/5, 00:16 left", "fields: batch 4/5, 00:05 left"]
    assert capsys.readouterr().err.splitlines() == wanted
    assert list(progress.each([1], "quiet", unit="batch", shows=False)) == [1]
    assert capsys.readouterr().err == ""


def _events(place):
    """Reads the files of TensorBoard by their format: length, checksum, event, checksum."""
    from tensorboardX.proto.event_pb2 import Event

    (file,) = place.glob("events.out.tfevents.*")
    content, found = file.read_bytes(), {}
    while content:
        (size,) = struct.unpack("<Q", content[:8])
        event = Event.FromString(content[12 : 12 + size])
        content = content[16 + size :]
        for value in event.summary.value:
            found.setdefault(event.step, {})[value.tag] = value.simple_value
    return found


def _assert_same(place):
    lines = [json.loads(line) for line in (place / "metrics.jsonl").read_text().splitlines()]
    wanted = {line.pop("step"): line for line in lines}
    found = _events(place / "tensorboard")
    assert found.keys() == wanted.keys()
    for step, line in wanted.items():
        del line["checksum"]
        kept = {name: value for name, value in line.items() if value is not None}
        assert found[step] == pytest.approx(kept, rel=1e-6)


def test_tensorboard_gets_every_number_of_the_metrics(tmp_path):
    with board.kept(asked=True):
        test_loop.fit(tmp_path / "run", 10)
    _assert_same(tmp_path / "run")


def test_tensorboard_has_no_line_twice_when_a_run_goes_on(tmp_path):
    test_loop.fit(tmp_path / "run", 5)
    assert not (tmp_path / "run" / "tensorboard").exists()
    for _ in range(2):
        with board.kept(asked=True):
            test_loop.fit(tmp_path / "run", 10)
        _assert_same(tmp_path / "run")


def test_the_command_writes_for_tensorboard_if_asked(tmp_path, capsys):
    arguments = ["--workdir", str(tmp_path / "run")]
    cli.run(test_rehearsal.main, test_rehearsal.Config, args=[*arguments, "--tensorboard"])
    for place in (tmp_path / "run", tmp_path / "run" / "second"):
        _assert_same(place)
    with pytest.raises(SystemExit) as left:  # where there are no metrics there is no such option
        cli.run(
            test_rehearsal.main,
            test_rehearsal.Config,
            args=[*arguments, "--tensorboard"],
            metrics=False,
        )
    assert left.value.code == 2


def test_what_is_missing_for_tensorboard_is_said_before_anything_is_written(
    tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(board.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(SystemExit) as left:
        cli.run(
            test_rehearsal.main,
            test_rehearsal.Config,
            args=["--workdir", str(tmp_path / "run"), "--tensorboard"],
        )
    assert left.value.code == 1
    assert "error: --tensorboard needs the package tensorboardX: run pip" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
    with board.kept(asked=True):
        monkeypatch.undo()
        with pytest.raises(ValueError, match="--tensorboard writes to local folders, got gs://"):
            board.check("gs://bucket/run")
