"""Numbers, times and names as people read them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from service.core.metrics import metric
from service.db.standing import title

_LABELS: Mapping[str, str] = {
    "error": "Error",
    "loss": "Loss",
    "macs": "MACs",
    "params": "Parameters",
    "latency_ms": "Latency",
}
# d3-format strings of axes and tooltips by unit; what is not listed has three or four digits.
_AXES: Mapping[str, tuple[str, str]] = {
    "fraction": (".2~%", ".2%"),
    "MACs": (".3~s", ".4~s"),
    "parameters": (".3~s", ".4~s"),
}
_PREFIXES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
_SUMMARY_ITEMS = 7


def value(name: str, number: float | None) -> str:
    """A value of a metric with its unit: ``12.3 %``, ``1.2 M``, ``0.42 ms``."""
    if number is None:
        return "–"
    match metric(name).unit:
        case "fraction":
            return f"{100 * number:.2f} %".replace("-", "−")
        case "MACs" | "parameters":
            return count(number)
        case "ms":
            return f"{plain(number)} ms"
        case _:
            return plain(number)


def plain(number: float | None, digits: int = 3) -> str:
    """A number with so many significant digits, never in exponents where people need none."""
    if number is None or not math.isfinite(number):
        return "–"
    if number == 0:
        return "0"
    # Of the rounded number: 0.9996 has as many digits before the point as 1.00.
    magnitude = math.floor(math.log10(abs(float(f"{number:.{digits - 1}e}"))))
    if -4 <= magnitude < 6:
        return f"{number:.{max(digits - 1 - magnitude, 0)}f}".replace("-", "−")
    return f"{number:.{digits - 1}e}".replace("-", "−")


def fixed(number: float, digits: int = 2) -> str:
    """A number with so many digits behind the point."""
    # Adding 0 makes the negative zero that rounding leaves a plain one.
    return f"{round(number, digits) + 0.0:.{digits}f}".replace("-", "−")


def count(number: float) -> str:
    """A count with a prefix: ``950``, ``1.2 M``, ``305 M``."""
    for factor, prefix in _PREFIXES:
        # From 999.5 on, three digits would round up to the next prefix.
        if abs(number) >= 0.9995 * factor:
            return f"{plain(number / factor)} {prefix}"
    return f"{number:.0f}"


def heading(name: str) -> str:
    """A metric's name where its values carry their unit: ``Latency on cpu-a``."""
    base, _, device = name.partition("@")
    text = _LABELS.get(base) or title(base).replace("_", " ")
    return f"{text} on {device}" if device else text


def whole(number: int) -> str:
    """A whole number, all of it: ``26,000``."""
    return f"{number:,}"


def label(name: str) -> str:
    """A metric's name with its unit: ``Latency on cpu-a (ms)``."""
    on = heading(name)
    unit = metric(name).unit
    if unit == "fraction":
        return f"{on} (%)"
    return on if unit in ("", "MACs", "parameters", "score") else f"{on} ({unit})"


def axis(name: str) -> dict[str, Any]:
    """What a plot needs to know of a metric's axis."""
    known = metric(name)
    ticks, hover = _AXES.get(known.unit, (".3~g", ".4~g"))
    return {
        "metric": name,
        "title": label(name),
        "label": label(name),
        "ticks": ticks,
        "hover": hover,
        "unit": known.unit if known.unit == "ms" else "",
        "direction": str(known.direction),
    }


def duration(seconds: float) -> str:
    """Seconds as ``0.4 s``, ``4 min 12 s``, ``3 h 20 min``."""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours:,} h {minutes} min"


def when(time: datetime) -> str:
    """A time in UTC, to the minute."""
    return time.astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")


def duration_since(time: datetime) -> str:
    """How long ago a time was."""
    return f"{duration(max((datetime.now(UTC) - time.astimezone(UTC)).total_seconds(), 0.0))} ago"


def duration_until(time: datetime) -> str:
    """How long it is until a time; ``now`` once it has come."""
    left = (time.astimezone(UTC) - datetime.now(UTC)).total_seconds()
    return f"in {duration(left)}" if left > 0 else "now"


def words(name: str) -> str:
    """A name of the interface as people write it: ``out of memory``."""
    return name.replace("_", " ")


def capitalised(text: str) -> str:
    """A sentence's beginning; the rest stays as it is."""
    return text[:1].upper() + text[1:]


def short_key(key: str) -> str:
    """The first digits of an architecture's key: enough to tell them apart on a page."""
    return key[:8]


def clip(text: str, length: int = 80) -> str:
    """At most so many characters."""
    return text if len(text) <= length else text[: length - 1].rstrip() + "…"


def config_summary(config: Mapping[str, Any], items: int = _SUMMARY_ITEMS) -> str:
    """The few choices that say most: those whose names are nested least come first."""
    shown = _most_telling(tuple(config), items)
    text = ", ".join(f"{name} {config[name]}" for name in shown)
    left = len(config) - len(shown)
    return f"{text} and {left} more" if left else text


@lru_cache(maxsize=4096)
def _most_telling(names: tuple[str, ...], items: int) -> tuple[str, ...]:
    """Whole levels of nesting, outermost first: half a list of blocks says nothing. Of the first level what fits."""
    levels = sorted({name.count(".") for name in names})
    shown: list[str] = []
    for level in levels:
        more = [name for name in names if name.count(".") == level]
        if len(shown) + len(more) > items:
            return tuple(shown or more[:items])
        shown += more
    return tuple(shown)
