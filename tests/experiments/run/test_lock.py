"""One writer for each run folder, whatever becomes of the one before."""

import errno
import fcntl
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys

import pytest
from etils import epath

from experiments.run import cli, folder, lock
from tests.experiments.run.test_loop import Config, contents

WRITER = """
import dataclasses, sys, time
from etils import epath
from experiments.run import lock
print(lock.take(epath.Path(sys.argv[1])), flush=True)
time.sleep(60)
"""


@pytest.fixture
def writer(tmp_path):
    """Another process that writes in the folder."""
    command = [sys.executable, "-c", WRITER, str(tmp_path)]
    path = {"PYTHONPATH": str(pathlib.Path(lock.__file__).parents[2])}
    process = subprocess.Popen(command, env=os.environ | path, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "True\n"
    yield process
    process.kill()
    process.communicate()


def test_a_second_process_is_told_who_writes_and_takes_over_from_a_dead_one(tmp_path, writer):
    before = contents(tmp_path)
    with pytest.raises(BlockingIOError, match="is in use: ") as caught:
        folder.open_folder(tmp_path, Config())
    who = f"{tmp_path} is in use: process {writer.pid} on {socket.gethostname()} writes there since"
    assert str(caught.value).startswith(who)
    assert str(caught.value).endswith("Nothing was changed.")
    assert contents(tmp_path) == before
    assert json.loads((tmp_path / lock.NAME).read_text())["pid"] == writer.pid

    writer.send_signal(signal.SIGKILL)
    writer.wait()
    assert (tmp_path / lock.NAME).exists()
    folder.open_folder(tmp_path, Config())
    assert json.loads((tmp_path / lock.NAME).read_text())["pid"] == os.getpid()


def test_a_command_leaves_the_folder_to_the_next_one(tmp_path, capsys):
    def main(config):
        folder.open_folder(tmp_path, config)
        folder.open_folder(tmp_path, config)  # the same process may open it again
        assert (tmp_path / lock.NAME).exists()
        if config.name:
            raise ValueError(config.name)

    cli.run(main, Config, args=[])
    assert not (tmp_path / lock.NAME).exists()
    with pytest.raises(SystemExit):
        cli.run(main, Config, args=["--name", "a mistake"])
    assert not (tmp_path / lock.NAME).exists()


def test_a_folder_that_is_refused_is_left_as_it_was(tmp_path):
    (tmp_path / "metrics.jsonl").write_text("")
    with pytest.raises(ValueError, match=r"holds a run but no config\.json"):
        folder.open_folder(tmp_path, Config())
    assert os.listdir(tmp_path) == ["metrics.jsonl"]


def test_a_lock_that_is_removed_while_one_waits_for_it_is_taken_anew(tmp_path, monkeypatch):
    flock, first = fcntl.flock, []

    def late(file, operation):
        if not first:  # the writer before has ended between `open` and here
            first.append(os.unlink(tmp_path / lock.NAME))
        flock(file, operation)

    monkeypatch.setattr(fcntl, "flock", late)
    assert lock.take(epath.Path(tmp_path))
    assert json.loads((tmp_path / lock.NAME).read_text())["pid"] == os.getpid()


def test_a_folder_that_was_moved_away_is_another_one(tmp_path):
    (tmp_path / "run").mkdir()
    assert lock.take(epath.Path(tmp_path / "run"))
    assert not lock.take(epath.Path(tmp_path / "run"))
    (tmp_path / "run").rename(tmp_path / "old")
    (tmp_path / "run").mkdir()
    assert lock.take(epath.Path(tmp_path / "run"))


def test_a_disk_without_locks_is_warned_of(tmp_path, monkeypatch, capsys):
    def none(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", none)
    assert lock.take(epath.Path(tmp_path))
    line = f"warning: the disk of {tmp_path} has no locks: start no second run in it.\n"
    assert capsys.readouterr().err == line


def test_a_writer_that_has_not_said_who_it_is_refuses_too(tmp_path):
    with (tmp_path / lock.NAME).open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(BlockingIOError, match="is in use: another process writes there"):
            lock.take(epath.Path(tmp_path))
