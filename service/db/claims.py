"""Who advances a search: a controller that holds its lease, fenced by a token that grows with every new holder."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import and_, case, func, or_, select, update
from sqlalchemy.orm import Session

from service.core.errors import NotFound
from service.core.states import FAILURES, SearchState
from service.db import tallies
from service.db.paging import checked_id
from service.db.tables import Search, Study, Trial, now


@dataclass(frozen=True, slots=True)
class Claim:
    """A controller's lease of a search; ``token`` is the fence."""

    search_id: int
    token: int


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a search is. ``counted`` trials are those the budget counts, ``completions`` the last end's number."""

    state: SearchState
    asks: int
    trials: int
    open: int
    counted: int
    failures: int
    completions: int
    budget: int
    batch: int
    slack: int
    max_failures: int


def running(s: Session) -> list[int]:
    """Ids of the searches that are to be advanced."""
    return list(s.scalars(select(Search.id).where(Search.state == SearchState.RUNNING).order_by(Search.id)))


def claim(s: Session, search_id: int, controller: str, lease_s: float) -> Claim | None:
    """Leases a running search, or renews the controller's own lease; None while another controller has it."""
    time = now()
    free = or_(Search.controller.is_(None), Search.leased_until < time)
    own = and_(Search.controller == controller, Search.controller.is_not(None))
    statement = (
        update(Search)
        .where(Search.id == search_id, Search.state == SearchState.RUNNING, or_(own, free))
        .values(
            controller=controller,
            leased_until=time + timedelta(seconds=lease_s),
            token=case((own, Search.token), else_=Search.token + 1),
        )
        .returning(Search.token)
    )
    token = s.execute(statement, execution_options={"synchronize_session": False}).scalar_one_or_none()
    return None if token is None else Claim(search_id, token)


def release(s: Session, held: Claim) -> None:
    """Gives a search back, so that another controller need not wait for the lease to run out."""
    statement = update(Search).where(Search.id == held.search_id, Search.token == held.token)
    s.execute(statement.values(leased_until=now()), execution_options={"synchronize_session": False})


def progress(s: Session, search_id: int) -> Progress:
    """How far a search is, by what ended since it was last asked; or `NotFound`."""
    newest = select(func.coalesce(func.max(Trial.number), 0)).where(Trial.search_id == Search.id).scalar_subquery()
    query = (
        select(Search, Study, newest)
        .join(Study, Study.id == Search.study_id)
        .where(Search.id == checked_id(search_id, "search"))
        .execution_options(populate_existing=True)
    )
    found = s.execute(query).one_or_none()
    if found is None:
        raise NotFound("search", search_id)
    search, study, trials = found
    tally = tallies.of(s).of(s, [search], {study.id: study})[search.id]
    return Progress(
        state=SearchState(search.state),
        asks=search.asks,
        trials=trials,
        open=trials - sum(tally.counts.values()),
        counted=tally.evaluated,
        failures=sum(tally.counts.get(state, 0) for state in FAILURES),
        completions=search.completions,
        budget=search.budget,
        batch=search.batch,
        slack=search.slack,
        max_failures=search.max_failures,
    )
