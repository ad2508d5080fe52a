"""What an error of another library says, in one line."""

from typing import Any


def first_line(error: Exception) -> str:
    """Returns the first line of an error's message, its type if it has none, cut at 160 letters."""
    return short(error) or type(error).__name__


def short(value: Any) -> str:
    """Returns the first line of what a value is as text, cut at 160 letters."""
    return next(iter(str(value).splitlines()), "")[:160]
