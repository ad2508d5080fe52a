"""What an error of another library says, in one line."""


def first_line(error: Exception) -> str:
    """Returns the first line of an error's message, its type if it has none, cut at 160 letters."""
    return next(iter(str(error).splitlines()), type(error).__name__)[:160]
