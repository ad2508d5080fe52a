"""Options in parts: nested frozen dataclasses whose fields keep their flags.

    @dataclasses.dataclass(frozen=True)
    class Config:
        source: Source = Source()              # a part: --dataset, --data-dir, ...
        measures: Free[Measures] = Measures()  # no training depends on any option of this part
        workdir: Place = None                  # nor on this one, a folder

        def check(self):
            options.check_parts(self)  # and then what concerns several of them

A helper takes the part that it needs. A part says in its own `check` what its options must be, and
names of options are unique over all parts, for they are the flags of the command line.
"""

import dataclasses
import math
import types
from collections.abc import Collection, Mapping
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import numpy as np

from experiments.run import errors

T = TypeVar("T")
_FREE, _PLACE = "no training depends on it", "where something lies"
Free = Annotated[T, _FREE]
"""Marks an option or a part on which no training depends: it may change in a run folder."""
Place = Annotated[str | None, _PLACE]
"""A folder of the run or of its data: recorded once, and no part of what the run is."""
_JSON = {int: (int,), float: (float, int), str: (str,), bool: (bool,)}  # True is no int


def flat(options: Any) -> dict[str, Any]:
    """Lists all options by their names, without their parts.

    Args:
      options: a dataclass of options, or the same as nested dicts.

    Returns:
      From the name of each option to its value, in their order.
    """
    found = {}
    for name, value in (options if isinstance(options, dict) else vars(options)).items():
        part = isinstance(value, dict) or dataclasses.is_dataclass(value)
        found |= flat(value) if part else {name: value}
    return found


def places(options: Any) -> set[str]:
    """Names the options that are a `Place`.

    Args:
      options: a dataclass of options, with or without parts.
    """
    return _marked(options, {_PLACE})


def free(options: Any) -> set[str]:
    """Names the options on which no training depends, the places among them.

    Args:
      options: a dataclass of options, with or without parts.
    """
    return _marked(options, {_FREE, _PLACE})


def _marked(options: Any, marks: set[str]) -> set[str]:
    hints, found = get_type_hints(type(options), include_extras=True), set()
    for field in dataclasses.fields(options):
        value, own = getattr(options, field.name), getattr(hints[field.name], "__metadata__", ())
        if marks.isdisjoint(own):
            found |= _marked(value, marks) if dataclasses.is_dataclass(value) else set()
        else:
            found |= set(flat({field.name: value}))
    return found


def fixed(options: Any) -> dict[str, Any]:
    """Lists the options that are neither `Free` nor a `Place`, by their names.

    Args:
      options: a dataclass of options, with or without parts.

    Returns:
      From the name of each option to its value, in their order.
    """
    without = free(options)
    return {name: value for name, value in flat(options).items() if name not in without}


def check_parts(config: Any) -> None:
    """Calls the `check` of every part that has one.

    Args:
      config: a dataclass of options; its fields that are dataclasses are the parts.

    Raises:
      ValueError: for the first option that would only fail after the training.
    """
    for part in vars(config).values():
        if dataclasses.is_dataclass(part) and hasattr(part, "check"):
            part.check()


def build(options_type: type[T], values: dict[str, Any]) -> T:
    """Makes a dataclass of options from what JSON holds of it.

    Args:
      options_type: the dataclass, with or without parts.
      values: from the name of every field to its value; a part is a dict, a tuple a list.

    Raises:
      ValueError: if a field is missing, a name is not the name of a field, or a value is not of
        the type of its field.
    """
    hints, names = get_type_hints(options_type), [f.name for f in dataclasses.fields(options_type)]
    if differing := [name for name in names if name not in values]:
        message = f"it lacks {', '.join(differing)}"
        raise ValueError(message)
    if differing := [name for name in values if name not in names]:
        message = f"it has {', '.join(differing)}, unknown here"
        raise ValueError(message)
    made = {}
    for name in names:
        try:
            made[name] = _made(hints[name], values[name])
        except ValueError as error:
            message = f"{name}: {error}"
            raise ValueError(message) from error
    return options_type(**made)


def _made(hint: Any, value: Any) -> Any:
    """Returns a part as its dataclass, a list, which JSON makes of a tuple, as a tuple."""
    origin, kinds = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):  # of one type and None
        return None if value is None else _made(kinds[0], value)
    if dataclasses.is_dataclass(hint) and isinstance(value, dict):
        return build(hint, value)
    if origin is tuple and isinstance(value, list):
        kinds = kinds[:1] * len(value) if Ellipsis in kinds else kinds
        if len(kinds) == len(value):
            return tuple(map(_made, kinds, value))
    if type(value) in _JSON.get(hint, ()) or (origin is Literal and value in kinds):
        return value
    message = f"{errors.short(repr(value))} is no {getattr(hint, '__name__', hint)}"
    raise ValueError(message)


def check_bounds(options: Any, bounds: Mapping[str, tuple[float, float]]) -> None:
    """Raises ValueError for the first option outside its bounds.

    Args:
      options: a part of the options.
      bounds: from the name of each number to its least and greatest value.
    """
    for name, (low, high) in bounds.items():
        value = getattr(options, name)
        if not low <= value <= high:
            limit = f"at least {low:g}" if high == math.inf else f"between {low:g} and {high:g}"
            message = f"{name} must be {limit}, got {value}."
            raise ValueError(message)


def check_different(options: Any, *names: str) -> None:
    """Raises ValueError unless each of these options is different numbers that are not negative."""
    for name in names:
        values = getattr(options, name)
        if not values or len(set(values)) < len(values) or min(values) < 0:
            message = f"{name} must be different numbers that are not negative, got {values}."
            raise ValueError(message)


def check_among(options: Any, name: str, known: Collection[Any]) -> None:
    """Raises ValueError unless an option is one or more of what is known.

    Args:
      options: a part of the options.
      name: of a tuple of names or numbers.
      known: what it may hold, in the order of the message.
    """
    values = getattr(options, name)
    if not values or set(values) - set(known):
        message = f"{name} must be of {', '.join(map(str, known))}, got {values}."
        raise ValueError(message)


def check_not_one(options: Any, name: str, reason: str) -> None:
    """Raises ValueError for the number 1, where 0 is none and a spread needs two.

    Args:
      options: a part of the options.
      name: of the number.
      reason: why one is not enough.
    """
    if getattr(options, name) == 1:
        message = f"{name} must be 0 or at least 2, got 1: {reason}."
        raise ValueError(message)


def check_times(times: tuple[float, ...]) -> None:
    """Raises ValueError unless the times of the measurements are distinct and inside (0, 1)."""
    used = np.float32(times)  # as they are used
    if not len(used) or not ((used > 0) & (used < 1)).all() or len(set(used)) < len(used):
        message = (
            f"times must be distinct numbers between 0 and 1, got {times}: at 0 the posterior is "
            "the law of the data, at 1 it is a point."
        )
        raise ValueError(message)
