"""Run folders: named in full, only where a run is found again, and holding only what is theirs."""

import importlib.util
import os
import stat
import unicodedata

from etils import epath


def absolute(path: str | os.PathLike) -> epath.Path:
    """Returns the path in full; ~ is the home folder, gs:// stays.

    Raises:
      ValueError: if it holds one of * ? [ and the backslash or a folder gs:, with which orbax does
        not find its checkpoints again; a control character, such as a new line; what is no text;
        or if it begins like a bucket of a kind that is not known.
    """
    path = os.fspath(path)
    if "://" not in path:
        path = os.path.abspath(os.path.expanduser(path))
        path = path.replace("//", "/")  # at its beginning, where it may have a meaning of its own
    patterns = set("*?[\\") - {os.sep}
    wrong = [c for c in path if c in patterns or unicodedata.category(c) in ("Cc", "Cs")]
    wrong += ["gs:"] if "gs:/" in f"{path}/"[5:] else []
    if wrong:
        message = (
            f"a run in {path!a} would lose its checkpoints, because of {wrong[0]!a}: give a path "
            "without * ? [ \\ and control characters. Nothing was written."
        )
        raise ValueError(message)
    try:
        return epath.Path(path)
    except KeyError as error:
        message = f"no folders are known that begin with {error}: give a local path, or gs://."
        raise ValueError(message) from error


def check_own(folder: epath.Path) -> None:
    """Raises ValueError if a run folder holds a link that leads out of it, or what is no file.

    What a run writes or deletes in such a folder would be somewhere else. The folder itself, and
    those above it, may be links.
    """
    if "://" in os.fspath(folder):
        return
    whole = os.path.realpath(folder)
    for place, folders, files in os.walk(whole):
        for name in (*folders, *files):
            _check_own(whole, os.path.join(place, name))


def _check_own(whole: str, path: str) -> None:
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:  # the run that writes there has just removed it
        return
    if stat.S_ISLNK(mode):
        target = os.path.realpath(path)
        if os.path.commonpath([target, whole]) != whole:
            message = (
                f"{path!a} is a link out of its run folder, to {target!a}: a run writes in its own "
                "folder only. Put there what it leads to, or give another --workdir."
            )
            raise ValueError(message)
    elif not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        message = f"{path!a} is no file and no folder: remove it, or give another --workdir."
        raise ValueError(message)


def check_reachable(path: epath.Path) -> None:
    """Raises ImportError where the package that reads and writes a bucket is not installed."""
    if os.fspath(path).startswith("gs://") and importlib.util.find_spec("gcsfs") is None:
        message = (
            f"{path} is in a bucket, and the package gcsfs is needed to reach it: run "
            'pip install -e ".[experiments,gcs]".'
        )
        raise ImportError(message)
