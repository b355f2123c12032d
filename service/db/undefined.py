"""Zero-cost proxies that are not defined for an architecture: no value, but as good an answer as one.

Stored once for each (architecture, proxy, context), with the reason, and looked up with what is measured: a network
that has no score is not scored again and again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from service.core.metrics import Circumstances, Scope, context_digest, metric
from service.db.ledger import Question, context_of
from service.db.rows import chunks, insert_new
from service.db.tables import Context, UndefinedScore, now
from service.wire.base import Json


@dataclass(frozen=True, slots=True)
class Entry:
    """What one report says of one architecture: proxy → why it is not defined."""

    architecture_id: int
    circumstances: Circumstances
    reasons: Mapping[str, str]


def record_all(s: Session, entries: Sequence[Entry]) -> None:
    """Keeps the reasons; what is there already stays."""
    time, rows, bodies = now(), {}, {}
    for entry in entries:
        for name, reason in entry.reasons.items():
            body = context_of(entry.circumstances, name)
            digest = context_digest(body)
            bodies[digest] = body
            place = (entry.architecture_id, name, digest)
            rows[place] = dict(zip(_PLACE, place, strict=True)) | {"reason": reason, "created_at": time}
    insert_new(s, Context, [{"digest": each, "body": bodies[each]} for each in sorted(bodies)])
    insert_new(s, UndefinedScore, [rows[place] for place in sorted(rows)])


def known(s: Session, questions: Sequence[Question]) -> list[dict[str, str]]:
    """Per question the proxies among its metrics that are known to be undefined, with the reason."""
    digests: dict[tuple[int, str], str] = {}
    for question in questions:
        for name in question.metrics:
            place = (id(question.circumstances), name)
            if metric(name).scope is Scope.INITIAL and place not in digests:
                digests[place] = context_digest(context_of(question.circumstances, name))
    if not digests:
        return [{} for _ in questions]
    found: dict[tuple[int, str, str], str] = {}
    table = UndefinedScore
    query = select(table.architecture_id, table.metric, table.context_digest, table.reason).where(
        table.metric.in_({name for _, name in digests}), table.context_digest.in_(set(digests.values()))
    )
    for some in chunks(sorted({question.architecture_id for question in questions})):
        for architecture, name, digest, reason in s.execute(query.where(table.architecture_id.in_(some))):
            found[architecture, name, digest] = reason
    answers: list[Json] = []
    for question in questions:
        places = {name: digests.get((id(question.circumstances), name), "") for name in question.metrics}
        reasons = {name: found.get((question.architecture_id, name, digest)) for name, digest in places.items()}
        answers.append({name: reason for name, reason in reasons.items() if reason is not None})
    return answers


def words(name: str, reason: str) -> str:
    """Why a trial that asked for a proxy is infeasible."""
    return f"{name} is not defined: {reason}"


_PLACE = ("architecture_id", "metric", "context_digest")
