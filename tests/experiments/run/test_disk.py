"""A disk that is full, read-only or gone: one error, and the last checkpoint stands."""

import contextlib
import errno
import os
import resource
import shutil
import time

import jax
import numpy as np
import pytest
from etils import epath

from experiments.run import arrays, checkpoints, cli, devices, folder, lock, loop, pictures
from tests.experiments.run import test_loop
from tests.experiments.run.test_loop import Config, assert_same_bits, contents, fit


def failing(at, fail, place):
    """Batches before one of which something happens, after the checkpoint of step 5 is written."""

    def start(first):
        for number, batch in enumerate(test_loop.BATCHES(first), start=first + 1):
            if number == at:
                latest = time.monotonic() + 60
                while not (place / "checkpoints" / "5").exists():
                    assert time.monotonic() < latest, "the checkpoint was not written"
                    time.sleep(0.01)
                fail()
            yield batch

    return start


@contextlib.contextmanager
def room():
    """Lets files be written again at the end."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def fill():
    """Lets every write into a file fail, as on a full disk; folders can still be made."""
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # of orbax's threads
@pytest.mark.parametrize("log_every", [1, 5], ids=["in the log", "in a checkpoint"])
def test_a_full_disk_is_one_error_and_the_run_goes_on(tmp_path, caplog, monkeypatch, log_every):
    monkeypatch.setattr(loop.Log, "write", lambda *_: None) if log_every == 5 else None
    with room(), pytest.raises(OSError, match=r"File too large|RESOURCE_EXHAUSTED|os_error") as e:
        fit(tmp_path, 10, batches=failing(8, fill, tmp_path), log_every=log_every)
    assert "\n" not in str(e.value)
    assert caplog.records == []  # orbax would log a traceback of each of its threads
    assert (tmp_path / "checkpoints" / "5").exists()
    monkeypatch.undo()
    assert_same_bits(fit(tmp_path, 10), fit(tmp_path / "straight", 10))


def test_no_room_for_another_folder_ends_at_once(tmp_path, monkeypatch):
    def full(make):
        def none(path, *args, **options):
            if f"{os.sep}10.orbax" in os.fspath(path):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)
            return make(path, *args, **options)

        return none

    for name in ("mkdir", "makedirs"):
        monkeypatch.setattr(os, name, full(getattr(os, name)))
    begun = time.monotonic()
    words = r"could not save .*\(No space left on device\): make room .* saved steps are \[5\]"
    with pytest.raises(OSError, match=words):
        fit(tmp_path, 10)
    assert time.monotonic() - begun < 100  # orbax's threads wait 300 s for the folder
    monkeypatch.undo()
    assert int(fit(tmp_path, 10).step) == 10


@pytest.mark.parametrize("log_every", [1, 100])
def test_a_folder_that_is_gone_is_not_made_anew(tmp_path, monkeypatch, log_every):
    place = loop.open_run(tmp_path / "run", Config())
    options = {"log_every": log_every, "eval_every": 100}
    batches = failing(8, lambda: shutil.rmtree(place), place)
    if log_every == 100:
        monkeypatch.setattr(loop.Log, "write", lambda *_: None)
    with pytest.raises(OSError, match=r"No such file .*metrics.jsonl|the folder is gone"):
        fit(place, 10, batches=batches, **options)
    with pytest.raises(FileNotFoundError, match="The run folder is gone"):
        folder.write_json(place / "results.json", {})
    assert not place.exists()
    loop.open_run(place, Config())
    assert int(fit(place, 10).step) == 10


def test_a_full_disk_is_told_in_one_line(capsys):
    def main(config):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(SystemExit):
        cli.run(main, Config, args=[])
    assert capsys.readouterr().err == (
        "error: [Errno 28] No space left on device: make room, then run the same command again, "
        "which continues from the last checkpoint.\n"
    )


def test_a_file_that_cannot_be_written_leaves_nothing(tmp_path):
    with room():
        fill()
        with pytest.raises(OSError, match="File too large"):
            folder.write_json(tmp_path / "a.json", {"a": 1})
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def read_only(monkeypatch):
    """Lets all writing fail, also for root."""

    def refuse(*_, **__):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    def on():
        path = type(epath.Path("/"))
        for name in ("write_text", "write_bytes", "replace", "unlink", "rename"):
            monkeypatch.setattr(path, name, refuse)
        monkeypatch.setattr(checkpoints.Manager, "save", refuse)

    return on


def test_a_finished_run_is_shown_from_a_folder_that_is_read_only(tmp_path, read_only, capsys):
    def command(num_steps):
        place = loop.open_run(tmp_path, Config(), num_steps=4)
        state = fit(place, num_steps)
        measured = folder.remembered(place / "deep" / "evaluation.json", {"n": 1}, lambda: {"a": 1})
        folder.write_json(place / "results.json", measured)
        arrays.write(place / "arrays.npz", {"a": np.ones(3)})
        with pictures.style():
            pictures.save(place / "figures", {"a": pictures.Figure()})
        return state

    first = command(5)
    before = contents(tmp_path)
    lock.release_all()
    read_only()
    capsys.readouterr()
    assert_same_bits(command(5), first)
    err = capsys.readouterr().err.splitlines()
    assert err[0] == f"{tmp_path} is read-only: what it holds is shown, nothing is written there"
    other = folder.remembered(tmp_path / "evaluation.json", {"n": 2}, lambda: {"a": (3,)})
    assert other == {"a": [3]}  # measured, not kept
    assert contents(tmp_path) == before
    with pytest.raises(OSError, match="read-only, and its training has not ended"):
        command(6)
    with pytest.raises(ValueError, match="holds a run with other options"):
        loop.open_run(tmp_path, Config(learning_rate=3.0), num_steps=4)
    with pytest.raises(OSError, match="cannot write the run folder"):
        loop.open_run(tmp_path / "other", Config())
    assert contents(tmp_path) == before


def test_a_process_that_is_lost_while_a_checkpoint_is_saved_is_no_full_disk(monkeypatch, tmp_path):
    lost = jax.errors.JaxRuntimeError("INTERNAL: Gloo: Connection reset by peer")
    monkeypatch.setattr(devices, "is_one_of_several", lambda: True)
    with pytest.raises(jax.errors.JaxRuntimeError, match="reset by peer"):
        with checkpoints.failure_named(tmp_path):
            raise lost
    with pytest.raises(OSError, match=r"could not save .*\(RESOURCE_EXHAUSTED.* steps are none"):
        with checkpoints.failure_named(tmp_path):
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: no memory")
