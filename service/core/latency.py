"""What the latency protocol leaves open, and what it takes where nobody says; docs/latency.md states the protocol.

The options are part of what a latency depends on, so they belong to its context. Those of `DEFAULT` are left out of
it: a context that names none is that of version 1 with these.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

VERSION = 1
"""Of the protocol. A new one gives other values for the same network and device: it would go into the context."""


@dataclass(frozen=True, slots=True)
class Options:
    """Times are milliseconds; `service.evaluation.latency.LatencyProtocol` says what each is for."""

    warmup: int = 2
    least: int = 5
    most: int = 50
    budget_ms: float = 20.0
    noise: float = 0.15
    rounds: int = 3


DEFAULT = Options()
_DEFAULTS: Mapping[str, float] = asdict(DEFAULT)


def departures(given: Any) -> dict[str, Any]:
    """Those of an evaluator's options under ``latency`` that are not the default's; numbers as floats.

    They come as somebody wrote them: whatever is no object is taken as none, since no evaluator runs with it.
    """
    if not isinstance(given, Mapping):
        return {}
    return {
        name: value if isinstance(value, bool) or not isinstance(value, int | float) else float(value)
        for name, value in sorted(given.items())
        if name not in _DEFAULTS or value != _DEFAULTS[name]
    }
