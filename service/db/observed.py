"""What Prometheus is told from the database: totals over all processes, since no process saw everything."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import case, func, select
from sqlalchemy.orm import Session

from service.core.objectives import ANALYTIC
from service.core.states import SearchState, State
from service.db import front, queue, searches
from service.db.tables import Ask, Counter, Search, Study
from service.wire.searches import RankAudit

ASK_SECONDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
"""Upper bounds of the buckets of the time to a suggestion, in seconds."""

_STUDIES = 20
"""So many studies with running searches have their predictors' ranks shown, the newest ones."""


@dataclass(frozen=True, slots=True)
class AskTimes:
    """Seconds from when an ask was due until its trials waited for workers; ``below`` counts per `ASK_SECONDS`."""

    count: int
    total_s: float
    below: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Observed:
    """One moment of the database. ``audits``: (study, metric) → how its predictions rank the probes."""

    jobs: Mapping[State, int]
    searches: Mapping[SearchState, int]
    lease_expiries: int
    asks: AskTimes
    audits: Mapping[tuple[str, str], RankAudit]


def read(
    s: Session, known: Mapping[tuple[str, str, int], RankAudit]
) -> tuple[Observed, dict[tuple[str, str, int], RankAudit]]:
    """This moment, and its audits by (study, metric, completions): given back, those need not be computed again."""
    audits = _audits(s, known)
    seen = Observed(
        jobs=queue.counts(s),
        searches=searches.counts(s),
        lease_expiries=s.scalars(select(Counter.value).where(Counter.name == "lease_expiries")).one(),
        asks=_ask_times(s),
        audits={(study, metric): audit for (study, metric, _), audit in audits.items()},
    )
    return seen, audits


def _ask_times(s: Session) -> AskTimes:
    buckets = [func.count(case((Ask.took_s <= bound, 1))) for bound in ASK_SECONDS]
    count, total, *below = s.execute(select(func.count(), func.coalesce(func.sum(Ask.took_s), 0.0), *buckets)).one()
    return AskTimes(count, float(total), tuple(below))


def _audits(s: Session, known: Mapping[tuple[str, str, int], RankAudit]) -> dict[tuple[str, str, int], RankAudit]:
    running = (
        select(Study.id, func.sum(Search.completions))
        .join(Search, Search.study_id == Study.id)
        .where(Study.id.in_(select(Search.study_id).where(Search.state == SearchState.RUNNING)))
        .group_by(Study.id)
        .order_by(Study.id.desc())
        .limit(_STUDIES)
    )
    completions = dict(s.execute(running).all())
    found = {}
    for study in s.scalars(select(Study).where(Study.id.in_(completions)).order_by(Study.id)).all():
        for metric in (each["metric"] for each in study.objectives if each["metric"] not in ANALYTIC):
            place = (study.name, metric, int(completions[study.id]))
            found[place] = known[place] if place in known else front.predicted(s, study.name, metric).probes
    return found
