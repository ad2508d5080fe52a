"""Which cases of a test run always, and which only with `-m slow`."""

from collections.abc import Callable, Iterable

import pytest


def but_the_first(names: str | tuple[str, ...], values: Iterable, **options):
    """Parametrizes a test as pytest does, and marks every case but the first as slow.

    The first case shows in every run that the function does what it says; the others, shapes or
    laws or solvers that take the time of a compilation each, run with
    `python -m pytest -m "slow and not long"`.
    """
    first, *others = values
    marked = [
        pytest.param(*(value if isinstance(names, tuple) else (value,)), marks=pytest.mark.slow)
        for value in others
    ]
    return pytest.mark.parametrize(names, [first, *marked], **options)


def those(values: Iterable, chosen: Callable) -> list:
    """Marks as slow the values that are chosen, and returns all of them."""
    return [
        pytest.param(value, marks=pytest.mark.slow) if chosen(value) else value for value in values
    ]
