"""Which column of a file means what."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Protocol, final

from service.core.errors import Invalid

METRIC_NAME = re.compile(r"[a-zA-Z][a-zA-Z0-9_]{0,62}(@[A-Za-z0-9_.:\-]{1,80})?")

FIELDS = (
    "key",
    "config",
    "genes",
    "arch",
    "metric",
    "value",
    "metrics",
    "split",
    "seed",
    "fidelity",
    "device",
    "seconds",
    "attempt",
    "worker",
    "created_at",
    "context",
)
"""What a row may say, besides ``config.CHOICE`` and ``metrics.NAME``."""

_MEASURED = ("metric", "value", "metrics")
_ARCHITECTURE = ("config", "genes", "arch")
CONFIG, METRICS = "config.", "metrics."
NOTATION = "notation"
"""What `frontier spaces sample` calls ``arch``."""


class Columns(Protocol):
    """What a reader needs to know of a file's columns."""

    def resolve(self, names: Collection[str]) -> tuple[dict[str, str], list[str]]:
        """Target → column, of rows with these columns, and the columns that are errors."""

    def resolve_header(self, names: Sequence[str]) -> dict[str, str]:
        """Target → column of a file that has a header. Raises `Invalid` for one with which no row can be right."""

    def unknown(self, name: str) -> str:
        """What is said of a column that is an error."""


@final
class Listing:
    """Columns of a file that lists architectures: ``config``, ``config.CHOICE``, ``genes`` and ``arch``, which may be
    called ``notation``. All others are passed over."""

    def __init__(self, choices: Sequence[str]) -> None:
        self._choices = frozenset(choices)

    def resolve(self, names: Collection[str]) -> tuple[dict[str, str], list[str]]:
        """As `Columns` says; no column is an error, but a choice that the space has not."""
        read, unknown = {}, []
        for name in names:
            choice = name.removeprefix(CONFIG) if name.startswith(CONFIG) else None
            if name in _ARCHITECTURE or choice in self._choices:
                read[name] = name
            elif choice is not None:
                unknown.append(name)
        if NOTATION in names and "arch" not in read:
            read["arch"] = NOTATION
        return read, unknown

    def resolve_header(self, names: Sequence[str]) -> dict[str, str]:
        """As `Columns` says."""
        _refuse_repeated(names)
        read, unknown = self.resolve(names)
        if unknown:
            raise Invalid(f"columns.{unknown[0]}", self.unknown(unknown[0]) + _more(unknown))
        if not read:
            raise Invalid(
                "columns",
                f"none names the architecture: config, config.CHOICE, genes, arch or notation; found are {_few(names)}",
            )
        return read

    def unknown(self, name: str) -> str:
        """As `Columns` says."""
        return _no_choice(self._choices)


@final
class Layout:
    """Finds the columns to read. A *target* is a name of `FIELDS`, ``config.CHOICE`` or ``metrics.NAME``.

    Args:
        choices: Names of the space's choices.
        columns: Target → name of the column it is read from; an empty name leaves out the column of the target's name.
        metrics: Metric → name of its column. If there are any, nothing else is read as a metric.

    With a mapping, columns that mean nothing are passed over; without one they are errors. Raises `Invalid` for a
    target that is none.
    """

    def __init__(self, choices: Sequence[str], columns: Mapping[str, str], metrics: Mapping[str, str]) -> None:
        self._choices = frozenset(choices)
        self._only_mapped_metrics = bool(metrics)
        self._foreign = bool(columns or metrics)
        for target in columns:
            if not self._is_target(target) or (metrics and _is_measured(target)):
                known = [each for each in FIELDS if not (metrics and _is_measured(each))]
                raise Invalid("column", f"{target!r} is no field of a row: {', '.join(known)}, config.CHOICE")
        for name, source in metrics.items():
            if METRIC_NAME.fullmatch(name) is None:
                raise Invalid("metric", f"{name!r} is no name of a metric: `name` or `name@device`")
            if not source:
                raise Invalid("metric", f"{name!r} needs the name of a column")
        self._mapped = {**columns, **{METRICS + name: source for name, source in metrics.items()}}

    def source(self, target: str) -> str:
        """The name under which a file has a target."""
        return self._mapped.get(target) or target

    def resolve(self, names: Collection[str]) -> tuple[dict[str, str], list[str]]:
        """Target → column, of a file or rows with these columns, and the columns that mean nothing."""
        there = frozenset(names)
        read = {target: source for target, source in self._mapped.items() if source and source in there}
        used = set(read.values())
        unknown = []
        for name in names:
            if name in self._mapped:
                continue
            if self._is_target(name) and not (self._only_mapped_metrics and _is_measured(name)):
                read[name] = name
            elif name not in used and not self._foreign:
                unknown.append(name)
        return read, unknown

    def resolve_header(self, names: Sequence[str]) -> dict[str, str]:
        """Target → column of a file that has a header. Raises `Invalid` for one with which no row can be right."""
        places = _refuse_repeated(names)
        read, unknown = self.resolve(names)
        for source in self._mapped.values():
            if source and source not in places:
                raise Invalid(f"columns.{source}", f"is not in the file, which has {_few(names)}")
        if unknown:
            raise Invalid(f"columns.{unknown[0]}", self.unknown(unknown[0]) + _more(unknown))
        if not any(target in _ARCHITECTURE or target.startswith(CONFIG) for target in read):
            raise Invalid(
                "columns", f"none names the architecture: config, config.CHOICE, genes or arch; found are {_few(names)}"
            )
        if not any(_is_measured(target) for target in read):
            raise Invalid("columns", f"none holds values: metric and value, or metrics.NAME; found are {_few(names)}")
        return read

    def unknown(self, name: str) -> str:
        """What is said of a column that means nothing."""
        if name.startswith(CONFIG):
            return _no_choice(self._choices)
        if name.startswith(METRICS):
            return "is no name of a metric: `name` or `name@device`"
        return f"is no field of a row: {', '.join(FIELDS)}, config.CHOICE, metrics.NAME; map other columns by name"

    def _is_target(self, name: str) -> bool:
        if name.startswith(CONFIG):
            return name[len(CONFIG) :] in self._choices
        if name.startswith(METRICS):
            return METRIC_NAME.fullmatch(name[len(METRICS) :]) is not None
        return name in FIELDS


def _refuse_repeated(names: Sequence[str]) -> dict[str, int]:
    """Column → its number, from 1. Raises `Invalid` for a name that is there twice."""
    places: dict[str, int] = {}
    for number, name in enumerate(names, 1):
        if places.setdefault(name, number) != number:
            raise Invalid(f"columns.{name}", f"is there twice, as columns {places[name]} and {number}")
    return places


def _no_choice(choices: Collection[str]) -> str:
    return f"the space has no such choice, choices are {_few(sorted(choices))}"


def _is_measured(target: str) -> bool:
    return target in _MEASURED or target.startswith(METRICS)


def _few(names: Iterable[str], most: int = 12) -> str:
    listed = list(names)
    text = ", ".join(repr(name) for name in listed[:most])
    return f"{text} and {len(listed) - most} more" if len(listed) > most else text or "none"


def _more(unknown: Sequence[str]) -> str:
    return f" (so are {_few(unknown[1:], 5)})" if len(unknown) > 1 else ""
