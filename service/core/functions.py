"""Functions that evaluate: what a user brings instead of an evaluator.

A function takes a configuration and the `Running` trial, trains or measures, and returns the metrics::

    def train(config, trial):
        for epoch in range(10):
            ...
            trial.report(epoch + 1, {"error": error})
        return {"error": error}

`Client.optimize` and ``frontier worker --evaluator`` call the same functions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias, final

from service.core.errors import Invalid


class Send(Protocol):
    """Where `Running.report` goes."""

    def __call__(self, step: int, metrics: Mapping[str, float], total: int | None) -> None:
        """Raises what ends the trial."""


@final
@dataclass(frozen=True, slots=True)
class Running:
    """A trial that is being evaluated.

    Attributes:
        metrics: what is asked for; what is known already, or counted by the server, is left out.
        fidelity: in (0, 1], share of the full evaluation: of the epochs, for example.
        seed: of everything random in it. Trials of a search share one, so that they differ in the architecture alone.
        genes: one option index per choice; the configuration says the same in words.
        options: of the study's evaluator.
        number: of the trial within its search, from 1; None if this is no trial of a search.
    """

    metrics: tuple[str, ...]
    fidelity: float
    seed: int
    genes: tuple[int, ...]
    options: Mapping[str, Any]
    send: Send = field(repr=False)
    number: int | None = None

    def report(self, step: int, metrics: Mapping[str, float] | None = None, total: int | None = None) -> None:
        """Tells how far it is: after ``step`` steps, of ``total`` if that is known, with what is measured so far.

        A report also keeps the trial; values that are not finite are left out. Raises `Stopped` when the result is not
        wanted any more: let it pass, or catch it to tidy up.
        """
        self.send(step, finite(metrics or {}), total)


Function: TypeAlias = Callable[[dict[str, Any], Running], Mapping[str, float] | float]


def evaluate(function: Function, config: dict[str, Any], trial: Running) -> dict[str, float]:
    """What the function measures. Raises `Invalid` for an answer that is none, and what the function raises."""
    return answered(function(config, trial), trial.metrics)


def answered(answer: Any, wanted: tuple[str, ...]) -> dict[str, float]:
    """Metric → value, of what a function returned: an object with the metrics, or the number if one is asked for.

    Raises `Invalid` for anything else, for a metric that is missing, and for a value that is no finite number.
    """
    if not isinstance(answer, Mapping):
        if len(wanted) != 1:
            raise Invalid(
                "metrics", f"the function returned {answer!r:.100}, wanted is a dict with {', '.join(wanted)}"
            )
        answer = {wanted[0]: answer}
    given: Mapping[Any, Any] = answer
    values: dict[str, float] = {}
    for name, value in given.items():
        try:
            values[str(name)] = float(value)
        except (TypeError, ValueError) as error:
            raise Invalid(f"metrics.{name}", f"the function returned {value!r:.100}, which is no number") from error
        if not math.isfinite(values[str(name)]):
            raise Invalid(f"metrics.{name}", f"the function returned {value!r:.100}, which is not finite")
    missing = [name for name in wanted if name not in values]
    if missing:
        raise Invalid(f"metrics.{missing[0]}", f"the function returned {', '.join(values) or 'nothing'} without it")
    return values


def finite(metrics: Mapping[str, float]) -> dict[str, float]:
    """Those of the values that are finite numbers: what can be stored."""
    return {name: float(value) for name, value in metrics.items() if math.isfinite(float(value))}
