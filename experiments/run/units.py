"""Durations and numbers of bytes as they are printed."""


def duration(seconds: float) -> str:
    """Writes a duration in a unit that suits it."""
    units = ((7200, 3600, "h"), (120, 60, "min"), (1, 1, "s"), (0, 1e-3, "ms"))
    unit, name = next((unit, name) for least, unit, name in units if seconds >= least)
    return f"{seconds / unit:.3g} {name}"


def size(count: int) -> str:
    """Writes a number of bytes in a unit that suits it."""
    units = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (0, "bytes"))
    unit, name = next((unit, name) for unit, name in units if count >= unit)
    return f"{count / (unit or 1):.3g} {name}"
