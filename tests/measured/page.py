"""The page docs/measured.md, which `python -m tests.measured` writes.

The page is one table, a row for every number. The tests beside this file run the same groups,
assert that every number stays under its bar, and that the page lists the rows that exist.
"""

import pathlib
from collections.abc import Callable, Iterator, Sequence

from tests.measured import closed_form, fdm, identities, meanflow, posterior
from tests.measured.identities import Row

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "measured.md"
GROUPS: tuple[Callable[[], Iterator[Row]], ...] = tuple(
    group
    for module in (identities, posterior, meanflow, fdm, closed_form)
    for group in module.GROUPS
)
HEAD = """# Measured

Every identity of the library against a second route, one row for every number.

* **group**: the function in [tests/measured](../tests/measured) that measures the row;
  [papers](papers.md) refers to it by that name.
* **measured**: for an exact identity, the largest absolute error in float64, or the largest error
  relative to the largest value where the row says *relative* (in float32 at the highest precision
  of matrix products). For a random estimate, its distance from the truth in standard errors, where
  the row says so.
* **bar**: what the number must stay under. The bars are the library's promises, and
  `tests/measured` asserts them row by row. The bar of a random estimate is five standard errors.

The rows about the posterior use a shifted, skewed mixture of three Gaussians with full
covariances. `tests/oracles/mixture.py` computes its velocity, score and covariance without the
library.

One bar is wider than the others: the float32 covariance along the variance-exploding path near the
noise. There sigma is 32 and the variance of the data is about 1, so the covariance is a difference
of numbers a thousand times larger than itself. A float32 velocity does not hold it to 1e-5, and the
bar grows with that factor.

This page is generated; do not edit it. `python -m tests.measured` measures every group, which takes
about half an hour on two CPU cores; `python -m tests.measured GROUP ...` measures some groups.

| group | what | function | source | measured | bar |
|---|---|---|---|---|---|
"""


def line(group: str, row: Row) -> str:
    """Returns a row of a group as a line of the table."""
    number = f"{row.value:.1e} | {row.bar:.1e}"
    return f"| `{group}` | {row.what} | `{row.function}` | {row.equation} | {number} |"


def fixed(line: str) -> list[str]:
    """Returns the cells of a line without the measured number, which rounding changes."""
    *cells, _, bar = [cell.strip() for cell in line.strip("| \n").split(" | ")]
    return [*cells, bar]


def listed() -> dict[str, list[list[str]]]:
    """Returns the lines of the page by group, without the measured numbers."""
    return {name: [fixed(text) for text in lines] for name, lines in written().items()}


def written() -> dict[str, list[str]]:
    """Returns the lines of the page as they stand, by group; none where there is no page."""
    found: dict[str, list[str]] = {}
    for text in PAGE.read_text().splitlines() if PAGE.exists() else ():
        if text.startswith("| `"):
            found.setdefault(text.split("`")[1], []).append(text)
    return found


def main(names: Sequence[str] = ()) -> None:
    """Measures groups and writes the page, once after every group.

    Args:
      names: the groups to measure; the rows of the others stay as they are. All groups if empty.

    Raises:
      ValueError: if there is no group of such a name.
    """
    groups = {group.__name__: group for group in GROUPS}
    if unknown := [name for name in names if name not in groups]:
        message = f"no groups {', '.join(unknown)}: the groups are {', '.join(groups)}."
        raise ValueError(message)
    lines = written() if names else {}
    for name in names or groups:
        lines[name] = [line(name, row) for row in groups[name]()]
        print("\n".join(lines[name]), flush=True)
        rows = (row for key in groups for row in lines.get(key, ()))
        PAGE.write_text(HEAD + "\n".join(rows) + "\n")
