"""Checks of the options a space is made from: values arrive as JSON, so every type is checked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from search_spaces.space import InvalidSpace

T = TypeVar("T")
LARGEST = 4096
"""Bound of widths and resolutions: beyond any real one, and counts of operations stay inside int64."""


def small(field: str, value: Any) -> int:
    """An int within 1..16. Raises `InvalidSpace` naming the field."""
    return integer(field, value, most=16)


def integer(field: str, value: Any, *, least: int = 1, most: int = LARGEST) -> int:
    """An int within ``least..most``. Raises `InvalidSpace` naming the field."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidSpace(f"must be an integer, got {value!r}", field)
    if not least <= value <= most:
        raise InvalidSpace(f"must be {least} to {most}, got {value}", field)
    return value


def odd(field: str, value: Any) -> int:
    """An odd int within 1..31. Raises `InvalidSpace` naming the field."""
    if integer(field, value, most=31) % 2 == 0:
        raise InvalidSpace(f"must be odd, got {value}", field)
    return int(value)


def number(field: str, value: Any, *, most: float = 8.0) -> float:
    """A positive finite float. Raises `InvalidSpace` naming the field."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidSpace(f"must be a number, got {value!r}", field)
    if not 0 < value <= most:
        raise InvalidSpace(f"must be above 0 and at most {most:g}, got {value}", field)
    return float(value)


def boolean(field: str, value: Any) -> bool:
    """Raises `InvalidSpace` naming the field."""
    if not isinstance(value, bool):
        raise InvalidSpace(f"must be true or false, got {value!r}", field)
    return value


def one_of(*allowed: str) -> Callable[[str, Any], str]:
    """A check that a value is one of these words."""

    def check(field: str, value: Any) -> str:
        if not isinstance(value, str) or value not in allowed:
            raise InvalidSpace(f"must be one of {list(allowed)}, got {value!r}", field)
        return value

    return check


def many(
    field: str,
    values: Any,
    check: Callable[[str, Any], T],
    *,
    most: int = 16,
    length: int | None = None,
    distinct: bool = False,
) -> list[T]:
    """A list of 1 to ``most`` items, or of ``length``, that pass ``check``; without repeats if ``distinct``.

    Raises `InvalidSpace` naming the field, with the index of the offending item in the message.
    """
    if isinstance(values, str | bytes) or not isinstance(values, Sequence):
        raise InvalidSpace(f"must be a list, got {values!r}", field)
    if not values:
        raise InvalidSpace("must not be empty", field)
    if length is None and len(values) > most:
        raise InvalidSpace(f"must have at most {most} items, has {len(values)}", field)
    if length is not None and len(values) != length:
        raise InvalidSpace(f"must have {length} items, has {len(values)}", field)
    checked = []
    for index, value in enumerate(values):
        try:
            checked.append(check(field, value))
        except InvalidSpace as error:
            raise InvalidSpace(f"item {index} {error.message}", field) from None
    if distinct and len(set(checked)) != len(checked):
        raise InvalidSpace(f"items repeat: {list(values)}", field)
    return checked
