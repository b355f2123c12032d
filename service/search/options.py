"""Options of designers: one table per designer, read by one function."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from service.core.errors import Invalid

_HUGE = 2.0**63


@dataclass(frozen=True, slots=True)
class Option:
    """One option of a designer.

    Attributes:
        name: as the user writes it.
        default: also gives the type: int, float (an int will do), str, bool or an object (Mapping).
        description: what it does, with its unit.
        low, high: inclusive bounds of numbers; None is open.
        allowed: the values of a str, all of them.
    """

    name: str
    default: int | float | str | bool | Mapping[str, Any]
    description: str
    low: float | None = None
    high: float | None = None
    allowed: tuple[str, ...] = ()

    def check(self, value: Any) -> Any:
        """The value, numbers of a float option as float. Raises `Invalid` for ``options.NAME``."""
        field = f"options.{self.name}"
        if isinstance(self.default, bool):
            if not isinstance(value, bool):
                raise Invalid(field, f"must be true or false, got {value!r}", allowed=[True, False])
            return value
        if isinstance(self.default, int | float):
            return self._number(field, value)
        if isinstance(self.default, str):
            if value not in self.allowed:
                raise Invalid(field, f"is {value!r}, must be one of: {', '.join(self.allowed)}", allowed=self.allowed)
            return value
        if not isinstance(value, Mapping):
            raise Invalid(field, f"must be an object, got {value!r}")
        return dict(value)

    def _number(self, field: str, value: Any) -> int | float:
        whole = isinstance(self.default, int)
        known = isinstance(value, int if whole else int | float) and not isinstance(value, bool)
        number = float(value) if known and abs(value) < _HUGE else math.nan
        fits = not math.isnan(number)
        fits = fits and (self.low is None or number >= self.low) and (self.high is None or number <= self.high)
        if not fits:
            bounds = [f"at least {self.low:g}"] if self.low is not None else []
            bounds += [f"at most {self.high:g}"] if self.high is not None else []
            kind = "a whole number" if whole else "a number"
            raise Invalid(
                field,
                f"must be {kind}{', ' if bounds else ''}{' and '.join(bounds)}; got {value!r}",
                low=self.low,
                high=self.high,
            )
        return int(value) if whole else number


def read(table: Sequence[Option], given: Mapping[str, Any]) -> dict[str, Any]:
    """Every option of the table by name, defaults filled in. Raises `Invalid` for what is unknown or out of range."""
    known = {option.name: option for option in table}
    for name in given:
        if name not in known:
            names = ", ".join(known) or "none"
            raise Invalid(f"options.{name}", f"is not an option here, options are: {names}", allowed=list(known))
    return {name: option.check(given.get(name, option.default)) for name, option in known.items()}
