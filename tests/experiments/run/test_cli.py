"""The command line: defaults in the help, a config from options, one line for a mistake."""

import ast
import dataclasses
import pathlib
import subprocess
import sys

import pytest

from experiments.run import cli, layout


@dataclasses.dataclass(frozen=True)
class Config:
    """Options of a small job."""

    num_steps: int = 1234
    """Training steps."""
    learning_rate: float = 0.005
    """Of Adam, per step."""
    dataset: str = "digits"
    """Name of a data set."""
    data_dir: str | None = None
    """Folder of prepared data sets."""
    center: bool = True
    """Whether the mean is removed."""
    times: tuple[float, ...] = (0.1, 0.5)
    """Times in [0, 1]."""


def caught(config: Config) -> list[Config]:
    """What `main` receives after a round trip over the command line."""
    received = []
    options = [f"--num-steps={config.num_steps}", f"--learning-rate={config.learning_rate}"]
    options += [f"--dataset={config.dataset}", "--times", *map(str, config.times)]
    options += ["--center" if config.center else "--no-center"]
    options += [f"--data-dir={config.data_dir}"] if config.data_dir else []
    cli.run(lambda config: received.append(config), Config, args=options)
    return received


def leave(main, args=()):
    """Runs `main`, which must end the program, and returns the exit code."""
    with pytest.raises(SystemExit) as left:
        cli.run(main, Config, args=args)
    return left.value.code


@pytest.mark.parametrize(
    "config",
    [Config(), Config(7, 1e-4, "a b.npz", "/tmp/x", False, (0.25,))],
    ids=["defaults", "all"],
)
def test_options_round_trip(config):
    assert caught(config) == [config]


def test_no_options_are_the_defaults():
    received = []
    cli.run(lambda config: received.append(config), Config, args=[])
    assert received == [Config()]


def test_sys_argv_is_read(monkeypatch):
    received = []
    monkeypatch.setattr(sys, "argv", ["job", "--num-steps", "3"])
    cli.run(lambda config: received.append(config), Config)
    assert received == [Config(num_steps=3)]


def test_model_devices_splits_what_the_experiment_trains():
    shapes = []
    record = lambda _: shapes.append(dict(layout.make_mesh().shape))
    cli.run(record, Config, args=["--model-devices", "2"])
    cli.run(record, Config, args=[])
    assert shapes == [{"data": 4, "model": 2}, {"data": 8, "model": 1}]


def test_help_shows_units_and_defaults(capsys):
    def main(config):
        raise AssertionError(config)

    assert leave(main, ["--help"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    for part in ("--num-steps", "1234", "Training steps", "0.005", "per step", "digits", "None"):
        assert part in text
    assert "The command line: defaults in the help" in text  # the docstring of main's module


def test_unknown_option_leaves_with_code_2(capsys):
    assert leave(print, ["--num-stepps=3"]) == 2
    assert "num-stepps" in capsys.readouterr().err


def raise_ours(error):
    def main(config):
        del config
        raise error

    return main


@pytest.mark.parametrize(
    "error",
    [
        ValueError("batch_size must be positive, got -1."),
        FloatingPointError("loss is nan at step 3."),
        FileNotFoundError("no file a.npz."),
        PermissionError("cannot write b."),
        ModuleNotFoundError("needs c."),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_users_mistake_is_one_line(error, capsys):
    assert leave(raise_ours(error)) == 1
    assert capsys.readouterr().err == f"error: {error}\n"


def test_ctrl_c_says_how_to_go_on(capsys):
    assert leave(raise_ours(KeyboardInterrupt())) == 130
    assert "continues" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("main", "error"),
    [
        (lambda config: config + 1, TypeError),
        (lambda config: ast.literal_eval(f"f({config.num_steps})"), ValueError),
    ],
    ids=["another exception", "raised inside a library"],
)
def test_a_mistake_of_ours_keeps_its_traceback(main, error):
    with pytest.raises(error):
        cli.run(main, Config, args=[])


@pytest.mark.slow
def test_in_a_process_of_its_own_there_is_no_traceback(tmp_path):
    job = tmp_path / "job.py"
    job.write_text(
        '"""A job."""\nimport dataclasses\n'
        "from experiments.images import data\nfrom experiments.run import cli\n\n"
        '@dataclasses.dataclass(frozen=True)\nclass Config:\n    dataset: str = "digits"\n'
        '    """Data set."""\n\n'
        "if __name__ == '__main__':\n"
        "    cli.run(lambda config: data.load(config.dataset), Config)\n"
    )
    command = [sys.executable, str(job), "--dataset", "digitz"]
    root = str(pathlib.Path(cli.__file__).parents[2])
    done = subprocess.run(
        command, capture_output=True, text=True, env={"PYTHONPATH": root}, check=False
    )
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("error: unknown data set 'digitz'")
    assert done.stderr.count("\n") == 1
