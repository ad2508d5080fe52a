"""The options of every experiment: each is a flag of its own name, and the defaults make sense."""

import dataclasses
import importlib

import pytest

from experiments import PAPERS, __main__
from experiments.run import cli, options

NAMES = [
    f"experiments.{folder}.{name}"
    for folder in (*PAPERS, "benchmarks")
    for name in __main__.names(folder)
]


def _leaves(config):
    """Yields every option with its value, those of parts among them."""
    for name, value in vars(config).items():
        if dataclasses.is_dataclass(value):
            yield from _leaves(value)
        else:
            yield name, value


def _other(value):
    """Another value of an option, and what is typed for it; None where there is no obvious one."""
    if value is False:
        return True, []
    if isinstance(value, int | float):
        return value + 1, [str(value + 1)]
    if isinstance(value, tuple) and value and isinstance(value[0], int | float):
        return value[:1], [str(value[0])]
    return None


@pytest.mark.parametrize("name", NAMES)
def test_every_option_is_a_flag_of_its_own_name(name):
    config_type, received = importlib.import_module(name).Config, []
    leaves = list(_leaves(config_type()))
    assert len({option for option, _ in leaves}) == len(leaves)
    others = {option: _other(value) for option, value in leaves if _other(value)}
    arguments = [
        word
        for option, (_, typed) in others.items()
        for word in (f"--{option.replace('_', '-')}", *typed)
    ]
    cli.run(lambda config: received.append(config), config_type, args=arguments)
    wanted = dict(leaves) | {option: value for option, (value, _) in others.items()}
    assert dict(_leaves(received[0])) == wanted


@pytest.mark.parametrize("name", NAMES)
def test_the_defaults_pass_their_checks_and_folders_are_no_part_of_a_run(name):
    config = importlib.import_module(name).Config()
    config.check()
    folders = {option for option, _ in _leaves(config)} & {"workdir", "data_dir", "sequences"}
    assert options.places(config) == folders
    assert folders <= options.free(config)
