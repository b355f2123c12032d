"""Checks of the options a space is made from: values arrive as JSON, so every type is checked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from search_spaces.space import InvalidSpace

T = TypeVar("T")
LARGEST = 65_536
"""Bound of every integer option: beyond any real width or resolution, and counts stay far inside int64."""


def integer(field: str, value: Any, *, least: int = 1, most: int = LARGEST) -> int:
    """An int within ``least..most``. Raises `InvalidSpace` naming the field."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidSpace(f"{field}: must be an integer, got {value!r}", field)
    if not least <= value <= most:
        raise InvalidSpace(f"{field}: must be {least} to {most}, got {value}", field)
    return value


def odd(field: str, value: Any) -> int:
    """A positive odd int. Raises `InvalidSpace` naming the field."""
    if integer(field, value) % 2 == 0:
        raise InvalidSpace(f"{field}: must be odd, got {value}", field)
    return int(value)


def number(field: str, value: Any, *, most: float = 64.0) -> float:
    """A positive finite float. Raises `InvalidSpace` naming the field."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidSpace(f"{field}: must be a number, got {value!r}", field)
    if not 0 < value <= most:
        raise InvalidSpace(f"{field}: must be above 0 and at most {most:g}, got {value}", field)
    return float(value)


def boolean(field: str, value: Any) -> bool:
    """Raises `InvalidSpace` naming the field."""
    if not isinstance(value, bool):
        raise InvalidSpace(f"{field}: must be true or false, got {value!r}", field)
    return value


def one_of(*allowed: str) -> Callable[[str, Any], str]:
    """A check that a value is one of these words."""

    def check(field: str, value: Any) -> str:
        if not isinstance(value, str) or value not in allowed:
            raise InvalidSpace(f"{field}: must be one of {list(allowed)}, got {value!r}", field)
        return value

    return check


def many(
    field: str, values: Any, check: Callable[[str, Any], T], *, length: int | None = None, distinct: bool = False
) -> list[T]:
    """A non-empty list whose items pass ``check``; of ``length`` items if given; without repeats if ``distinct``.

    Raises `InvalidSpace` naming the field, with the index of the offending item in the message.
    """
    if isinstance(values, str | bytes) or not isinstance(values, Sequence):
        raise InvalidSpace(f"{field}: must be a list, got {values!r}", field)
    if not values:
        raise InvalidSpace(f"{field}: must not be empty", field)
    if length is not None and len(values) != length:
        raise InvalidSpace(f"{field}: must have {length} items, has {len(values)}", field)
    checked = []
    for index, value in enumerate(values):
        try:
            checked.append(check(field, value))
        except InvalidSpace as error:
            raise InvalidSpace(f"{field}[{index}]{str(error).removeprefix(field)}", field) from None
    if distinct and len(set(checked)) != len(checked):
        raise InvalidSpace(f"{field}: items repeat: {list(values)}", field)
    return checked
