"""Numbers and lists of numbers by name, written as YAML: how transformer spaces publish their architectures.

What is read is the part of YAML that such files use: ``NAME: 3``, ``NAME: [3, 4]``, and ``NAME:`` followed by one
``- 3`` per line. Comments and empty lines are skipped, and names come in any order.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TypeAlias

from search_spaces.space import InvalidArchitecture, Option

Number: TypeAlias = int | float

_NUMBER = re.compile(r"-?[0-9]{1,9}(\.[0-9]{1,9})?")
_LINE = re.compile(r"([A-Za-z][\w-]*):\s*(.*)")


def write(values: Mapping[str, Number | list[Number]]) -> str:
    """One line per name, lists in brackets."""
    shown = {name: f"[{', '.join(map(str, v))}]" if isinstance(v, list) else v for name, v in values.items()}
    return "\n".join(f"{name}: {value}" for name, value in shown.items())


def read(text: str, names: Sequence[str]) -> dict[str, Number | list[Number]]:
    """The values of all ``names``, and of no others. Raises `InvalidArchitecture` as if it were row 0."""
    found: dict[str, Number | list[Number]] = {}
    items: list[Number] | None = None
    for count, raw in enumerate(text.splitlines(), 1):
        line = raw.partition("#")[0].strip()
        if not line:
            continue
        if line.startswith("- "):
            if items is None:
                raise refused(f"line {count}: an item of no list")
            items.append(_number(line[2:], count))
            continue
        matched = _LINE.fullmatch(line)
        if matched is None:
            raise refused(f"line {count}: must be 'name: value', got {line!r}")
        name, value = matched.groups()
        if name not in names:
            raise refused(f"line {count}: no such name {name!r}, names are {list(names)}")
        if name in found:
            raise refused(f"line {count}: {name} is there twice")
        items = None
        if not value:
            found[name] = items = []
        elif value.startswith("[") and value.endswith("]"):
            found[name] = [_number(each, count) for each in value[1:-1].split(",")]
        else:
            found[name] = _number(value, count)
    missing = [name for name in names if name not in found]
    if missing:
        raise refused(f"{missing[0]} is missing")
    return found


def one(name: str, value: Number | list[Number], options: Sequence[Option]) -> int:
    """The index of a single value among the options. Raises `InvalidArchitecture` as if it were row 0."""
    if isinstance(value, list):
        raise refused(f"{name} must be one number")
    return _index(name, value, options)


def several(name: str, value: Number | list[Number], options: Sequence[Option], *, least: int, most: int) -> list[int]:
    """Indices among the options, padded with 0 to ``most``. Raises `InvalidArchitecture` as if it were row 0."""
    if not isinstance(value, list) or not least <= len(value) <= most:
        raise refused(f"{name} must be a list of {least} to {most}")
    found = [_index(f"{name}[{place}]", each, options) for place, each in enumerate(value)]
    return found + [0] * (most - len(found))


def refused(message: str) -> InvalidArchitecture:
    """The error for a text that is no architecture."""
    return InvalidArchitecture(message, row=0, field="notation")


def _index(where: str, value: Number, options: Sequence[Option]) -> int:
    if value not in options:
        raise refused(f"{where} is {value!r}, options are {list(options)}")
    return list(options).index(value)


def _number(text: str, line: int) -> Number:
    text = text.strip()
    matched = _NUMBER.fullmatch(text)
    if matched is None:
        raise refused(f"line {line}: must be a number, got {text!r}")
    return float(text) if matched.group(1) else int(text)
