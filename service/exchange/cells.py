"""Single values of a row: what each field may hold, from typed values and from texts (CSV)."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from search_spaces.space import Bools, FloatArray
from service.exchange.layout import METRIC_NAME

LARGEST_INTEGER = 2**63 - 1
LARGEST_ATTEMPT = 2**31 - 1
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

_DEVICE = re.compile(r"[A-Za-z0-9_.:\- ()/+@]{1,80}")
_INTEGER = re.compile(r"[+-]?[0-9]{1,19}")
_LONGEST_CONTEXT = 20_000
_MICROSECOND = timedelta(microseconds=1)

Json: TypeAlias = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Bad:
    """A value that cannot be; the message says what it must be."""

    message: str


Parse: TypeAlias = Callable[[Any, bool], Any]
"""(value, whether it is a text) → the parsed value, or `Bad`."""


@dataclass(frozen=True, slots=True)
class Parsed:
    """A column whose different values were parsed once each: values repeat a lot.

    Attributes:
        items: What the different values are, in the order in which they come; `Bad` among them.
        places: (n,): where in ``items`` each row's is.
    """

    items: list[Any]
    places: NDArray[np.int64]

    def bad(self) -> list[tuple[int, str]]:
        """Index of the row and message, of values that cannot be."""
        wrong = np.array([type(item) is Bad for item in self.items], dtype=bool)
        if not wrong.any():
            return []
        return [(row, self.items[self.places[row]].message) for row in np.flatnonzero(wrong[self.places]).tolist()]

    def good(self, default: Any) -> list[Any]:
        """The items, with ``default`` in the places of those that cannot be."""
        return [default if type(item) is Bad else item for item in self.items]


def parsed(values: Sequence[Any], texts: bool, parse: Parse, default: Any = None) -> Parsed:
    """Each different value parsed, ``default`` for None."""
    # 1, 1.0 and True are equal and hash alike, but not all of them are integers.
    alike = len(set(map(type, values)) - {type(None)}) < 2
    known: Sequence[Any] = values if alike else list(zip(map(type, values), values, strict=True))
    try:
        numbers = dict(zip(dict.fromkeys(known), count()))
        different: Sequence[Any] = list(numbers) if alike else [value for _, value in numbers]
        places = np.fromiter(map(numbers.__getitem__, known), np.int64, len(values))
    except TypeError:
        different, places = values, np.arange(len(values))  # lists and objects cannot be looked up
    return Parsed([default if value is None else parse(value, texts) for value in different], places)


def said(values: Sequence[Any]) -> Bools:
    """(n,): rows that say anything."""
    if type(None) not in set(map(type, values)):
        return np.ones(len(values), dtype=bool)
    return np.fromiter((value is not None for value in values), bool, len(values))


def numbers(values: Sequence[Any], texts: bool) -> tuple[FloatArray, Bools, dict[int, str]]:
    """Values (n,), which of them are there (n,), and index → message of those that are no finite number."""
    there = said(values)
    bad: dict[int, str] = {}
    try:
        found = np.array(_floats(values, texts), dtype=np.float64)
    except (ValueError, TypeError, OverflowError):
        found = np.zeros(len(values))
        for index, value in enumerate(values):
            if value is not None:
                one = finite(value, texts)
                if isinstance(one, Bad):
                    bad[index] = one.message
                else:
                    found[index] = one
    for index in np.flatnonzero(~np.isfinite(found)).tolist():
        bad[index] = f"must be a finite number, is {values[index]}"
        found[index] = 0.0
    return found, there, bad


def _floats(values: Sequence[Any], texts: bool) -> Sequence[float]:
    """The values as floats, 0 for None. Raises an error if any value is no number."""
    kinds = set(map(type, values))
    if kinds == {float}:
        return values
    kinds -= {type(None)}
    if texts:
        # Python reads 1_000 as a number, nobody else does.
        if kinds and any("_" in value for value in values if value is not None):
            raise ValueError
    elif not kinds <= {int, float}:
        raise TypeError
    return [0.0 if value is None else float(value) for value in values]


def finite(value: Any, texts: bool) -> float | Bad:
    """A finite number."""
    wrong = Bad(f"must be a finite number, is {_shown(value)}")
    if not (type(value) is str and "_" not in value if texts else type(value) in (int, float)):
        return wrong
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return wrong
    return number if np.isfinite(number) else wrong


def seconds(value: Any, texts: bool) -> float | Bad:
    """A duration."""
    number = finite(value, texts)
    if isinstance(number, Bad) or number < 0:
        return Bad(f"must be seconds, 0 or more, is {_shown(value)}")
    return number


def fidelity(value: Any, texts: bool) -> float | Bad:
    """A share of the full evaluation."""
    number = finite(value, texts)
    if isinstance(number, Bad) or not 0 < number <= 1:
        return Bad(f"must be above 0 and at most 1, is {_shown(value)}")
    return number


def seed(value: Any, texts: bool) -> int | Bad:
    """A seed."""
    return _integer(value, texts, LARGEST_INTEGER)


def attempt(value: Any, texts: bool) -> int | Bad:
    """A number of a replicate."""
    return _integer(value, texts, LARGEST_ATTEMPT)


def _integer(value: Any, texts: bool, most: int) -> int | Bad:
    if texts and _INTEGER.fullmatch(value):
        value = int(value)
    # Tables hold integers as floats where some are missing.
    if type(value) is float and value.is_integer():
        value = int(value)
    if type(value) is not int or not 0 <= value <= most:
        return Bad(f"must be an integer from 0 to {most}, is {_shown(value)}")
    return value


def split(value: Any, texts: bool) -> str | Bad:
    """A split that evaluations measure on."""
    return value if value in ("validation", "test") else Bad(f"must be validation or test, is {_shown(value)}")


def device(value: Any, texts: bool) -> str | Bad:
    """A device's name."""
    if type(value) is str and _DEVICE.fullmatch(value):
        return value
    return Bad(f"must be the name of a device, 1 to 80 letters, digits and _.:- ()/+@, is {_shown(value)}")


def worker(value: Any, texts: bool) -> str | Bad:
    """Who measured."""
    if type(value) is str and 0 < len(value) <= 63 and value.isprintable():
        return value
    return Bad(f"must be a name of 1 to 63 printable characters, is {_shown(value)}")


def metric(value: Any, texts: bool) -> str | Bad:
    """A metric's name."""
    if type(value) is str and METRIC_NAME.fullmatch(value):
        return value
    return Bad(f"must be the name of a metric, `name` or `name@device`, is {_shown(value)}")


def key(value: Any, texts: bool) -> str | Bad:
    """An architecture's key."""
    return value if type(value) is str else Bad(f"must be 32 hex digits, is {_shown(value)}")


def time(value: Any, texts: bool) -> int | Bad:
    """Microseconds since 1970 UTC, of a time or its ISO 8601 text; one without a zone is UTC."""
    try:
        found = datetime.fromisoformat(value) if type(value) is str else value
        if isinstance(found, datetime):
            aware = found if found.tzinfo is not None else found.replace(tzinfo=UTC)
            if 1970 <= aware.astimezone(UTC).year <= 9000:
                return (aware - EPOCH) // _MICROSECOND
    except (ValueError, OverflowError):
        pass
    return Bad(f"must be a time as 2025-01-31T12:00:00Z, from 1970 on, is {_shown(value)}")


def context(value: Any, texts: bool) -> str | Bad:
    """A context, as canonical JSON."""
    if type(value) is str:
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return Bad("must be a JSON object, is no JSON")
    if type(value) is not dict:
        return Bad(f"must be an object, is {_shown(value)}")
    try:
        text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False)
        text.encode()
    except (ValueError, TypeError, RecursionError):
        return Bad("must be a JSON object of finite numbers and Unicode text")
    if "\\u0000" in text or len(text) > _LONGEST_CONTEXT:
        return Bad(f"must be a JSON object without NUL characters, of at most {_LONGEST_CONTEXT} characters")
    return text


def loaded(value: Any, kind: type[Any], what: str) -> Any:
    """A value that CSV and Parquet hold as JSON text: ``kind``, or `Bad`."""
    if type(value) is str:
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return Bad(f"must be {what} as JSON, is {_shown(value)}")
    return value if type(value) is kind else Bad(f"must be {what}, is {_shown(value)}")


def _shown(value: Any) -> str:
    text = ascii(value) if isinstance(value, str) else repr(value)
    return text if len(text) <= 80 else f"{text[:80]}…"
