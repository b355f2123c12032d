"""A user's function as the evaluator of a worker."""

from __future__ import annotations

from collections.abc import Mapping

from service.core import functions
from service.core.errors import Invalid
from service.evaluation.architectures import rows_of, space_of
from service.evaluation.toolbox import Report
from service.wire.payloads import EvaluatePayload


def call(function: functions.Function, asked: EvaluatePayload, report: Report) -> dict[str, float]:
    """The metrics that the function measures of the architecture.

    Raises `Invalid` for another split than the search's, which a function is not told about, and for an answer that
    is none; and what the function and ``report`` raise.
    """
    if asked.split != "validation":
        raise Invalid("split", f"a function measures what searches see, it is not asked for the {asked.split} split")
    space = space_of(asked.space)
    row = rows_of(space, [asked.genes])

    def send(step: int, metrics: Mapping[str, float], total: int | None) -> None:
        report(step, total or step, "", metrics)

    trial = functions.Running(
        metrics=tuple(asked.metrics),
        fidelity=asked.fidelity,
        seed=asked.seed,
        genes=tuple(row[0].tolist()),
        options=asked.evaluator.options,
        send=send,
    )
    return functions.evaluate(function, dict(space.to_configs(row)[0]), trial)
