"""The names of run folders: in full, and only those in which a run is found again."""

import importlib.util
import os
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


def check_reachable(path: epath.Path) -> None:
    """Raises ImportError where the package that reads and writes a bucket is not installed."""
    if os.fspath(path).startswith("gs://") and importlib.util.find_spec("gcsfs") is None:
        message = (
            f"{path} is in a bucket, and the package gcsfs is needed to reach it: run "
            'pip install -e ".[experiments,gcs]".'
        )
        raise ImportError(message)
