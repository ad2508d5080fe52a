"""One writer for each run folder: writer.json in it says who that is, and is locked meanwhile.

The kernel keeps the lock (flock) and drops it when the process ends, in whatever way; a file that
a dead process has left is taken over. So it is on local disks and on network disks with locks,
such as NFS. On a disk without locks a warning says so. A bucket (gs://) has none: there nobody
notices two writers. To read a run takes no lock, and a run in a folder that cannot be written is
shown as it is.
"""

import contextlib
import datetime
import errno
import json
import os
import socket
import sys
from typing import TextIO

from etils import epath

from experiments.run import errors, records

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

NAME = "writer.json"
_READ_ONLY = {errno.EROFS, errno.EACCES, errno.EPERM}
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL}
_held: dict[str, TextIO] = {}  # the lock ends when its file is closed, so with the process
_only_read: set[str] = set()


def take(folder: epath.Path) -> bool:
    """Makes this process the writer of a run folder, until it ends or calls `release`.

    A run folder that cannot be written is opened for reading: what this process would write there
    is left out, as `may_write` tells.

    Args:
      folder: made if it is not there.

    Returns:
      Whether the folder is open since this call.

    Raises:
      BlockingIOError: if another process is the writer; nothing is changed.
      OSError: if the folder cannot be written, and holds no run.
    """
    place = os.fspath(folder)
    if place in _held:
        if _is_in_place(_held[place], place):
            return False
        release(folder)  # somebody has moved the folder away
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ".writable").write_text("")
        (folder / ".writable").unlink()
        if "://" not in place:
            _take(place)
    except BlockingIOError:
        raise
    except OSError as error:
        if error.errno not in _READ_ONLY or not (folder / "config.json").exists():
            message = (
                f"cannot write the run folder {folder} ({error.strerror or error}): give another "
                "--workdir or change its permissions."
            )
            raise OSError(message) from error
        _only_read.add(place)
        message = f"{place} is read-only: what it holds is shown, nothing is written there"
        print(message, file=sys.stderr, flush=True)
    return True


def _take(place: str) -> None:
    """Locks the file in a folder and writes down who has done so."""
    file = _locked(place)
    if file is not None:
        _held[place] = file
        file.truncate(0)
        file.write(json.dumps(_writer()) + "\n")
        file.flush()


def release(folder: epath.Path) -> None:
    """Lets others write in a run folder; does nothing if this process is not its writer."""
    place = os.fspath(folder)
    file = _held.pop(place, None)
    if file is not None:
        with file, contextlib.suppress(OSError):  # of a folder that is gone, or read-only by now
            if _is_in_place(file, place):
                os.unlink(os.path.join(place, NAME))


def release_all() -> None:
    """Lets others write in all folders in which this process does; forgets those only read."""
    for place in list(_held):
        release(epath.Path(place))
    _only_read.clear()


def only_read(folder: epath.Path) -> None:
    """Leaves out what this process would write in a folder, until it calls `release_all`.

    Args:
      folder: which need not be there.
    """
    _only_read.add(os.fspath(folder))


def may_write(path: epath.Path) -> bool:
    """Returns whether a file may be written: False in a run folder that is only read.

    Raises:
      FileNotFoundError: if this process is the writer of the run folder, and that is gone.
    """
    places = {os.fspath(place) for place in (path, *path.parents)}
    for place in places & _held.keys():
        if not os.path.isdir(place):
            raise FileNotFoundError(errno.ENOENT, "The run folder is gone", place)
    return not places & _only_read


def _locked(place: str) -> TextIO | None:
    """Opens and locks the file; None if the disk has no locks."""
    while fcntl is not None:
        file = open(os.path.join(place, NAME), "a+")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            with file:
                if isinstance(error, BlockingIOError):
                    raise BlockingIOError(_in_use(place, file)) from error
            if error.errno not in _NO_LOCKS:
                raise
            break
        if _is_in_place(file, place):
            return file
        file.close()  # its last writer has just removed it
    message = f"warning: the disk of {place} has no locks: start no second run in it."
    print(message, file=sys.stderr, flush=True)
    return None


def _is_in_place(file: TextIO, place: str) -> bool:
    """Returns whether the open file is the one that has the name now."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(os.path.join(place, NAME)))
    except FileNotFoundError:
        return False


def _writer() -> dict[str, str | int]:
    since = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    return {"host": socket.gethostname(), "pid": os.getpid(), "since": since}


def _in_use(place: str, file: TextIO) -> str:
    """Says who writes in a folder."""
    file.seek(0)
    try:
        found = records.parsed(file.read().encode())
        who = errors.short("process {pid} on {host} writes there since {since}".format(**found))
    except (ValueError, KeyError):  # it has just begun
        who = "another process writes there"
    return (
        f"{place} is in use: {who}. Wait for its end or stop it, or give another --workdir. "
        "Nothing was changed."
    )
