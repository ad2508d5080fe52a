"""The folder of a run, and the check that a resumed run has the options it began with.

    config.json      the options of the run; another config is refused
    provenance.json  the experiment, the commit, versions, devices and start of every session
    metrics.jsonl    one JSON object per line: step, loss, grad_norm, steps_per_second (without
                     compilation and evaluations), and what an evaluation returned
    evaluation.json  what was measured of a network at the end, and with which options
    writer.json      the process that writes in the folder now (`experiments.run.lock`)

Every file is complete or not there, and holds a checksum of what it says, so that damage is noticed
when it is read. Of several processes only process 0 writes.
"""

import contextlib
import contextvars
import json
import os
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import jax
import numpy as np
from etils import epath

from experiments.run import (
    checksums,
    configs,
    errors,
    layout,
    lines,
    lock,
    options,
    paths,
    provenance,
    records,
)

T = TypeVar("T")
_opened: contextvars.ContextVar[list | None] = contextvars.ContextVar("opened", default=None)


@contextlib.contextmanager
def noticing() -> Iterator[list[tuple[Any, epath.Path]]]:
    """Gives a list to which every run folder that is opened in the context is added.

    Each comes with the options that it was opened with.
    """
    token = _opened.set(found := [])
    try:
        yield found
    finally:
        _opened.reset(token)


def open_folder(workdir: str | os.PathLike, config: Any, **facts: Any) -> epath.Path:
    """Creates or reopens a run folder.

    Args:
      workdir: the folder, made if it is not there; may be gs://.
      config: a dataclass, recorded in config.json with its parts. What is a `Place` or `Free`
        (`experiments.run.options`) may change from call to call: no training depends on it, and
        the same networks are then measured anew.
      **facts: what else makes the run what it is, recorded and compared like the options.

    Returns:
      The folder.

    Raises:
      ValueError: if the folder holds a run of another config, one whose config.json is missing
        or damaged, or a link out of it; nothing in it is changed.
      ImportError: if it is gs:// and the package that reaches a bucket is not installed.
      BlockingIOError: if another process writes in the folder; nothing in it is changed.
      OSError: if the folder cannot be written.
    """
    folder = paths.absolute(workdir)
    paths.check_reachable(folder)
    if jax.process_index() == 0:
        paths.check_own(folder)
        is_new = lock.take(folder)
        try:
            _record(folder, config, facts)
        except BaseException:
            if is_new:
                lock.release(folder)
            raise
    if (opened := _opened.get()) is not None:
        opened.append((config, folder))
    return folder


def _record(folder: epath.Path, config: Any, facts: dict[str, Any]) -> None:
    """Records the options and this session, unless the folder holds another run."""
    configs.check_same(folder, config, facts)
    path, settings = folder / "config.json", configs.settings(config, facts)
    before = configs.recorded(path) if path.exists() else None
    reshaped = before is None or before.keys() != settings.keys()
    if reshaped or configs.differences(before, settings, skip=options.places(config)):
        # Other measurements, a run that failed before it recorded anything, or one of a version
        # that recorded the same options without their parts.
        write_json(path, settings)
    origin = folder / "provenance.json"
    known = (
        field(origin, "sessions", list) if origin.exists() and configs.holds_a_run(folder) else []
    )
    write_json(origin, provenance.record(known, config, facts))


def read_config(folder: epath.Path, config_type: type) -> Any:
    """Reads the options of a run.

    Args:
      folder: the run folder.
      config_type: the dataclass of its options.

    Returns:
      An instance of `config_type`, as the run had it.

    Raises:
      ValueError: if config.json is damaged, or does not hold these options and no other.
    """
    recorded = configs.recorded(folder / "config.json")
    facts = field(folder / "provenance.json", "facts", list)
    try:
        return options.build(config_type, {k: v for k, v in recorded.items() if k not in facts})
    except ValueError as error:
        message = (
            f"{folder} holds a run of another version of {config_type.__module__}: "
            f"{errors.first_line(error)}. Check out the commit that its provenance.json names, or "
            "train again in another --workdir."
        )
        raise ValueError(message) from error


def check_facts(folder: str | os.PathLike, **facts: Any) -> None:
    """Raises ValueError if a run was started with other facts, such as those of its data.

    Args:
      folder: the run folder; of a run that has not begun no facts are known.
      **facts: as they were given to `open_folder`.
    """
    file = epath.Path(folder) / "config.json"
    recorded = read_json(file) if file.exists() else records.plain(facts)
    for name, now in records.plain(facts).items():
        if (there := recorded.get(name, "absent")) != now:
            message = (
                f"{folder} holds a run with other {name} ({errors.short(there)} there, {now} now): "
                f"restore the {name} of that run."
            )
            raise ValueError(message)


def write_json(path: str | os.PathLike, value: dict[str, Any]) -> None:
    """Writes JSON as a whole or not at all, on process 0, with a checksum as the last entry.

    Args:
      path: the file; an older one is replaced.
      value: a dict of dicts, lists, numbers, strings, NumPy and jax arrays; a number that is not
        finite becomes null.
    """
    if jax.process_index() == 0:
        text = json.dumps(checksums.signed(records.plain(value)), indent=2) + "\n"
        replace(epath.Path(path), text.encode())


def remembered(
    file: str | os.PathLike, options: dict[str, Any], make: Callable[[], dict[str, Any]]
) -> dict[str, Any]:
    """Returns a measurement as JSON gives it back; made only if its file holds no such one.

    For all processes to call: process 0 reads and writes, and all of them make it or none does.

    Args:
      file: where it is kept; its folder is made if it is not there.
      options: what the measurement depends on beside the training. One of others is replaced.
      make: returns what was measured, by names other than "options".

    Raises:
      ValueError: if the file is damaged.
      ArithmeticError: if a number of the measurement is not finite, which JSON could not hold;
        nothing is written.
    """
    file, options = epath.Path(file), json.loads(json.dumps(records.plain(options)))
    kept = _kept(file)
    if kept.get("options") != options:
        made = make()
        _check_finite(file, made)
        write_json(file, {"options": options, **made})
        kept = json.loads(json.dumps(records.plain(made)))
    return {name: value for name, value in kept.items() if name != "options"}


def _kept(file: epath.Path) -> dict[str, Any]:
    """Returns on every process what process 0 finds in a file, nothing if it is not there."""
    return layout.said_by_first({} if jax.process_index() or not file.exists() else read_json(file))


def _check_finite(file: epath.Path, made: dict[str, Any]) -> None:
    for name, value in made.items():
        numbers = [leaf for leaf in jax.tree.leaves(value) if not isinstance(leaf, str)]
        if not all(np.isfinite(leaf).all() for leaf in numbers):
            message = (
                f"{name}, to be kept in {file}, is not finite: what was measured has diverged; "
                "train with a smaller learning rate, in another --workdir. Nothing was written."
            )
            raise ArithmeticError(message)


def read_json(file: epath.Path) -> dict[str, Any]:
    """Returns what `write_json` has written, or says that it is damaged."""
    try:
        return records.read(file)
    except ValueError as error:
        message = f"{file} is damaged ({error}): move it away and it is made again."
        raise ValueError(message) from error


def field(file: epath.Path, name: str, kind: type[T]) -> T:
    """Returns what a file of JSON holds under a name, or says that it is damaged."""
    value = read_json(file).get(name)
    if isinstance(value, kind):
        return value
    message = f"{file} is damaged (its {name} is no {kind.__name__}): restore it from a copy."
    raise ValueError(message)


def read_metrics(folder: str | os.PathLike, name: str = "step") -> list[dict[str, float]]:
    """Returns the lines of a training's metrics.jsonl that hold a number of this name, in order.

    Raises:
      ValueError: if the file is not there or damaged.
    """
    file = epath.Path(folder) / "metrics.jsonl"
    found = lines.read(file)
    damage = "there is no such file" if found is None else found.damage or found.wrong(name)
    if damage:
        message = (
            f"{file}, the record of a finished training, is missing or damaged ({damage}): restore "
            "it from a copy, or give another --workdir. Nothing was changed."
        )
        raise ValueError(message)
    return [line for line in found.lines if line.get(name) is not None]


def replace(path: epath.Path, content: bytes) -> None:
    """Writes a file beside its place and moves it there, so that it is never half written.

    Its folder is made if it is not there. In a run folder that is only read nothing is written.
    """
    if not lock.may_write(path):
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f"{path.name}.{os.getpid()}.tmp")  # two processes may write one
    try:
        beside.write_bytes(content)
        beside.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)
        raise
