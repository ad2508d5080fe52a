"""Lists the experiments: `python -m experiments`; compares two runs, or writes the page of one.

    python -m experiments compare RUN RUN
    python -m experiments report RUN

Nothing is imported for the list: each line is read from the docstring of an experiment, its first
line and the paragraph that begins with "Time:".
"""

import ast
import pathlib
import sys
import textwrap
from collections.abc import Callable, Sequence

from experiments import PAPERS

FOLDER = pathlib.Path(__file__).parent

_END = """python -m experiments.PAPER.NAME --help explains the options.
python -m experiments.PAPER.NAME --dry-run tells what memory and time a training will take.
python -m experiments compare RUN RUN puts two runs side by side.
python -m experiments report RUN writes RUN/report.html, the run on one page.
What came out, with numbers and figures: experiments/README.md."""


def names(folder: str) -> list[str]:
    """Returns the modules of a folder that can be run, in the order of the alphabet."""
    files = sorted((FOLDER / folder).glob("[a-z]*.py"))
    return [path.stem for path in files if "__main__" in path.read_text()]


def describe(folder: str, name: str) -> tuple[str, str]:
    """Returns the first line of an experiment's docstring and the time that a run takes.

    Raises:
      ValueError: if the docstring does not say how long a run takes.
    """
    text = ast.get_docstring(ast.parse((FOLDER / folder / f"{name}.py").read_text())) or ""
    times = [line.removeprefix("Time:") for line in text.splitlines() if line.startswith("Time:")]
    if not times:
        message = f'the docstring of experiments/{folder}/{name}.py has no line "Time: ...".'
        raise ValueError(message)
    return text.splitlines()[0], times[0].split(";")[0].split(",")[0].strip().rstrip(".")


def paper(folder: str) -> str:
    """Returns the first line of the docstring of a folder: its paper."""
    return ast.get_docstring(ast.parse((FOLDER / folder / "__init__.py").read_text())) or folder


def listing() -> str:
    """Returns the list of all experiments and benchmarks, by paper."""
    lines = []
    for folder in (*PAPERS, "benchmarks"):
        lines += [textwrap.fill(paper(folder), 96), ""]
        for name in names(folder):
            what, time = describe(folder, name)
            lines += [f"  experiments.{folder}.{name}    {time}", f"      {what}"]
        lines.append("")
    return "\n".join([*lines, _END])


def main(arguments: Sequence[str]) -> None:
    """Prints the list, compares two runs, or writes the page of one.

    Raises:
      SystemExit: code 1 if a folder is no run, is damaged or cannot be written, 2 after a wrong
        argument.
    """
    if not arguments:
        print(listing())
        return
    name, *runs = arguments
    if (name, len(runs)) not in (("compare", 2), ("report", 1)):
        message = (
            f"python -m experiments takes no argument, compare RUN RUN or report RUN, got "
            f"{' '.join(arguments)}: run one experiment as python -m experiments.PAPER.NAME."
        )
        print(message, file=sys.stderr)
        raise SystemExit(2)
    try:
        print(_command(name)(*runs))
    except (ValueError, ImportError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(1) from None


def _command(name: str) -> Callable[..., object]:
    """Returns a command; it imports JAX, for which the list does not wait."""
    from experiments.run import compare, report

    return {"compare": compare.compare, "report": report.write}[name]


if __name__ == "__main__":
    main(sys.argv[1:])
