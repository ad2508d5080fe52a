"""The lines of metrics.jsonl, each with the checksum of all lines up to it.

A flipped byte, a line that is missing, stands there twice or in another order: each breaks the
chain of checksums. The lines of an older version have none; they must be JSON with growing steps.
"""

import functools
import json
from typing import Any, NamedTuple

from etils import epath

from experiments.run import checksums, errors, records

_CHAIN = lambda before, line: checksums.of_record(line, before)  # noqa: E731


class Lines(NamedTuple):
    """The record of a training, as far as it is whole.

    Attributes:
      lines: the whole lines before the first damage, without their checksums.
      texts: the same as they stand in the file.
      damage: what is wrong with the line after them; "" if the file ends there.
    """

    lines: list[dict[str, Any]]
    texts: list[bytes]
    damage: str

    @property
    def last(self) -> int:
        """The step of the last whole line, 0 if there is none."""
        return self.lines[-1]["step"] if self.lines else 0

    @property
    def checksum(self) -> int:
        """The checksum of the lines, which the next line continues."""
        return functools.reduce(_CHAIN, self.lines, 0)

    def damage_until(self, step: int, checksum: int | None) -> str:
        """Says what is wrong with the record up to a step; "" if nothing is.

        Args:
          step: of a checkpoint.
          checksum: of the record up to this step as the checkpoint has it, None if it has none.
        """
        lines = self.until(step)
        if checksum is None:
            whole = self.last >= step or not self.damage
        else:  # a record may begin after the step, where an older one was moved away
            whole = lines.checksum == checksum or not (self.damage or lines.lines)
        return "" if whole else f"of metrics.jsonl, {self.damage or 'the last lines are missing'}"

    def wrong(self, name: str) -> str:
        """Says where something of this name is no number; "" if nothing is."""
        is_number = lambda value: value is None or type(value) in (int, float)  # noqa: E731
        steps = [line["step"] for line in self.lines if not is_number(line.get(name))]
        return f"its {name} of step {steps[0]} is no number" if steps else ""

    def until(self, step: int) -> "Lines":
        """Returns the lines up to a step."""
        kept = sum(line["step"] <= step for line in self.lines)
        return Lines(self.lines[:kept], self.texts[:kept], "")


def read(file: epath.Path) -> Lines | None:
    """Reads the lines before the first damage.

    Args:
      file: metrics.jsonl.

    Returns:
      The lines, None if there is no such file.
    """
    if not file.exists():
        return None
    found, checksum, signed = Lines([], [], ""), 0, False
    if not file.is_file():
        return found._replace(damage="it is no file")
    for number, text in enumerate(file.read_bytes().splitlines(keepends=True), start=1):
        try:
            line = _parsed(text, found.last, signed=signed)
            content = checksums.checked(line, checksum)
        except ValueError as error:
            return found._replace(damage=f"line {number} is damaged ({error})")
        signed, checksum = checksums.is_signed(line), _CHAIN(checksum, content)
        found.lines.append(content)
        found.texts.append(text)
    return found


def _parsed(text: bytes, last: int, *, signed: bool) -> dict[str, Any]:
    """Returns what a line holds, or says what is wrong with it."""
    if not text.endswith(b"\n"):
        raise ValueError("it is cut off")
    line = records.parsed(text)
    step = line.get("step")
    if type(step) is not int or step <= last:
        message = f"a step after {last} is wanted, got {errors.short(step)}"
        raise ValueError(message)
    if signed and not checksums.is_signed(line):
        message = f"its {checksums.NAME} is missing"
        raise ValueError(message)
    return line


def text(step: int, values: dict[str, Any], before: int) -> tuple[str, int]:
    """Makes the next line.

    Args:
      step: of the line.
      values: what else it holds, as JSON can.
      before: the checksum of the lines before it.

    Returns:
      The line, and the checksum of all lines up to it.
    """
    line = {"step": step, **values}
    return json.dumps(checksums.signed(line, before)) + "\n", _CHAIN(before, line)
