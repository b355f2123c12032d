"""How far searches have come, kept in memory: counts, seconds paid and hypervolumes that follow the ends of trials.

The ends of a search's trials are numbered in commit order, and what has ended stays as it is: each request reads only
what ended since the last one. To try a trial again takes a number too, which no trial has then: where numbers are
missing, the search is counted anew.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import final

import numpy as np
from sqlalchemy import bindparam, select
from sqlalchemy.orm import Session

from service.core import pareto
from service.core.objectives import Values, minimised
from service.core.states import COUNTED, State
from service.db import studies
from service.db.rows import table_of
from service.db.tables import Search, Study, Trial
from service.wire.base import Metrics

INFO = "frontier_tallies"
"""Where a session has the `Tallies` of its database (`Session.info`)."""

KEPT = "frontier_committed"
"""True in sessions that see only what is committed (`Session.info`)."""

_STREAMED = 2000
"""Trials that are in memory at once."""

_TRIALS = table_of(Trial)
_ENDED = (
    select(*(_TRIALS.c[name] for name in ("state", "reused", "paid_s", "evaluation", "fidelity", "metrics")))
    .where(_TRIALS.c.search_id == bindparam("search"))
    .where(_TRIALS.c.completion > bindparam("seen"), _TRIALS.c.completion <= bindparam("newest"))
    .order_by(_TRIALS.c.completion)
)


@dataclass(frozen=True, slots=True)
class Tally:
    """The ended trials of one search, up to the end numbered ``seen``: how many by state, how many that the budget
    counts, how many cheap ones that asked for what is ``undefined``, how many of all were reused, and the seconds paid.
    ``front`` (n, m) are the minimised objectives that no
    other full evaluation dominates, None before the first full evaluation."""

    seen: int = 0
    counts: Mapping[str, int] = field(default_factory=dict)
    evaluated: int = 0
    undefined: int = 0
    reused: int = 0
    paid_s: float = 0.0
    front: Values | None = None


@final
class Tallies:
    """Those of one database. Threads share it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: dict[int, Tally] = {}

    def of(self, s: Session, searches: Sequence[Search], of_study: Mapping[int, Study]) -> dict[int, Tally]:
        """Search → its tally. ``of_study``: the searches' studies by id."""
        with self._lock:
            known = {search.id: self._known.get(search.id, Tally()) for search in searches}
        result = {each.id: _followed(s, each, of_study[each.study_id], known[each.id]) for each in searches}
        # A transaction that writes may yet be rolled back: nobody else is to see what it sees.
        if s.info.get(KEPT, False):
            with self._lock:
                for search_id, tally in result.items():
                    if tally.seen > self._known.get(search_id, Tally()).seen:
                        self._known[search_id] = tally
        return result


def of(s: Session) -> Tallies:
    """Those of the session's database."""
    found: Tallies = s.info[INFO]
    return found


def _followed(s: Session, search: Search, study: Study, before: Tally) -> Tally:
    if search.completions <= before.seen:
        return before
    found, ends = _counted(s, search, study, before)
    if before.seen and ends < search.completions - before.seen:
        found, _ = _counted(s, search, study, Tally())
    return found


def _counted(s: Session, search: Search, study: Study, before: Tally) -> tuple[Tally, int]:
    """The tally with what ended since, and how many trials that were."""
    wanted = {"search": search.id, "seen": before.seen, "newest": search.completions}
    objectives = studies.objectives(study)
    counts, evaluated, front = dict(before.counts), before.evaluated, before.front
    undefined = before.undefined
    reused, paid_s, ends = before.reused, before.paid_s, 0
    for part in s.execute(_ENDED, wanted, execution_options={"yield_per": _STREAMED}).partitions():
        full: list[Metrics] = []
        for state, was_reused, paid, evaluation, fidelity, metrics in part:
            counts[state] = counts.get(state, 0) + 1
            evaluated += evaluation and state in COUNTED
            undefined += not evaluation and state == State.INFEASIBLE
            reused += was_reused
            paid_s += paid
            if evaluation and fidelity == 1.0 and state in COUNTED:
                full.append(metrics)
        ends += len(part)
        if full:
            values = minimised(objectives, full)[studies.within(study, full)]
            values = values if front is None else np.concatenate([front, values])
            front = values[pareto.nondominated(values, duplicates=False)]
    return Tally(search.completions, counts, evaluated, undefined, reused, paid_s, front), ends
