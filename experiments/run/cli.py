"""From a frozen dataclass to a command line and back to one clear error.

An experiment ends in two lines:

    if __name__ == "__main__":
        cli.run(main, Config)

The fields of `Config` are the options, their docstrings (units included) are the help and
their values the defaults; the fields of a part, a nested dataclass, have flags of their own names
(`experiments.run.options`). A mistake of the user ends the program with one line and exit code
1, a wrong option with tyro's own message and exit code 2. A mistake of ours keeps its
traceback: an error counts as the user's only if this repository's own code raised it, not a
library below, or if the operating system refused a file.
"""

import contextlib
import dataclasses
import errno
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any

import jax
import tyro
from etils import epath

from experiments.run import board, devices, folder, layout, lock, programs, rehearsal, signals

_OURS = ("experiments", "fmjax")
_FULL = ": make room, then run the same command again, which continues from the last checkpoint."
_ADVICE = {errno.ENOSPC: _FULL, errno.EDQUOT: _FULL}


@dataclasses.dataclass(frozen=True)
class Machine:
    """What every command has, and no result depends on."""

    compilation_cache: bool = True
    """Keep compiled programs in the user's cache folder: the same command then starts sooner."""
    model_devices: int = 1
    """Devices among which one copy of the parameters, their average and the optimizer's state is
    split; 1 keeps them whole on every device."""


@dataclasses.dataclass(frozen=True)
class Trainer(Machine):
    """What every command that trains has."""

    dry_run: bool = False
    """Print the data, the number of parameters, and what memory and time the training will take by
    a few real steps of it; then stop, and write nothing."""


@dataclasses.dataclass(frozen=True)
class Logger(Trainer):
    """What every command has whose trainings write metrics.jsonl."""

    tensorboard: bool = False
    """Write the metrics in the format of TensorBoard too, into a folder tensorboard/ beside each
    metrics.jsonl; needs the extra tensorboard."""


def run(
    main: Callable[[Any], object],
    config_type: type,
    *,
    args: Sequence[str] | None = None,
    metrics: bool = True,
) -> None:
    """Parses the command line into a config and runs the experiment on it.

    Args:
      main: `config -> anything`; the first paragraph of its module's docstring heads the help.
      config_type: a dataclass whose fields all have a default and a docstring, or are such
        dataclasses.
      args: the options; `sys.argv[1:]` if not given.
      metrics: whether its trainings, if it has any, write metrics.jsonl, as `loop.fit` does.

    Raises:
      SystemExit: code 1 after a user's mistake, 2 after a wrong option, 130 after Ctrl-C, 143
        after SIGTERM, 129 after SIGHUP; help exits with 0.
    """
    module = sys.modules[main.__module__]
    title = (module.__doc__ or "").split("\n\n")[0]
    machine = (Logger if metrics else Trainer) if hasattr(module, "restore") else Machine
    parsed = tyro.cli(
        _command(config_type, machine),
        prog=_program(module),
        description=title,
        args=args,
        config=(tyro.conf.OmitArgPrefixes,),
    )
    names = (field.name for field in dataclasses.fields(config_type))
    config = config_type(**{name: getattr(parsed, name) for name in names})
    if parsed.machine.compilation_cache:
        programs.keep()
    is_dry = getattr(parsed.machine, "dry_run", False)
    dry = rehearsal.of(config, module.restore) if is_dry else contextlib.nullcontext()
    try:
        split = layout.split(parsed.machine.model_devices)
        kept = board.kept(asked=getattr(parsed.machine, "tensorboard", False))
        with signals.ending(), split, kept, dry:
            _run(main, config)
    except Exception:  # a mistake of ours
        if devices.is_one_of_several():
            traceback.print_exc()
            devices.leave(1)
        raise
    finally:
        lock.release_all()


def _run(main: Callable[[Any], object], config: Any) -> None:
    """Runs the experiment; what the user can mend becomes one line."""
    try:
        devices.join_hosts()
        with folder.noticing() as opened:
            main(config)
        for place in (place for options, place in opened if options is config):
            _report(place)
    except KeyboardInterrupt:
        _leave("interrupted; the same command continues from the last checkpoint.", code=130)
    except OSError as error:
        _leave(f"error: {error}{_ADVICE.get(error.errno, '')}", code=1)
    except (ValueError, ArithmeticError, ImportError) as error:
        if not _raised_by(error, (*_OURS, main.__module__)):
            raise
        _leave(f"error: {error}", code=1)
    except jax.errors.JaxRuntimeError as error:
        if not devices.has_lost_another(error):
            raise
        _leave(f"error: {devices.loss(error)}", code=1)


def _report(place: epath.Path) -> None:
    """Writes the page of a run that has ended, on process 0."""
    if jax.process_index() == 0 and lock.may_write(place):
        from experiments.run import report  # imports matplotlib, which no refused command waits for

        report.write(place)


def _command(config_type: type, machine: type[Machine]) -> type:
    """Returns the dataclass of all options of a command: those of the experiment and `machine`."""
    fields = [("machine", machine, machine())]
    return dataclasses.make_dataclass("Command", fields, bases=(config_type,), frozen=True)


def _program(module: Any) -> str | None:
    """Returns how the module was started with -m, None (tyro's choice) if it was not."""
    spec = getattr(module, "__spec__", None)
    return f"python -m {spec.name}" if spec else None


def _raised_by(error: BaseException, packages: Sequence[str]) -> bool:
    """Returns whether the innermost frame, the one of the `raise`, stands in the packages."""
    traceback = error.__traceback__
    while traceback.tb_next is not None:
        traceback = traceback.tb_next
    name = traceback.tb_frame.f_globals.get("__name__", "")
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def _leave(message: str, *, code: int) -> None:
    """Prints one line to stderr and ends the program."""
    print(message, file=sys.stderr)
    lock.release_all()
    devices.leave(code)
    raise SystemExit(code)
