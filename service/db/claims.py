"""Who advances a search: a controller that holds its lease, fenced by a token that grows with every new holder."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, and_, case, func, or_, select, update
from sqlalchemy.orm import Session

from service.core.errors import NotFound
from service.core.states import FAILURES, OPEN, SearchState
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
    """How far a search is. ``counted`` trials are those the budget counts, ``completions`` the last end's number.

    Of the ``open`` ones ``scored`` are cheap: the budget will not count them. A proxy that is not defined for a network
    is no failure.
    """

    state: SearchState
    asks: int
    trials: int
    open: int
    scored: int
    counted: int
    failures: int
    completions: int
    budget: int
    batch: int
    slack: int
    max_failures: int

    @property
    def end(self) -> tuple[SearchState, str] | None:
        """How it ends by now, and why; None while it goes on."""
        if self.failures > self.max_failures:
            return SearchState.FAILED, f"{self.failures} trials failed, more than the {self.max_failures} allowed"
        if self.counted >= self.budget and not self.open:
            return SearchState.DONE, f"the budget of {self.budget} evaluations is spent"
        return None

    @property
    def due(self) -> bool:
        """Whether there is something to do: to end it, or to ask its designer."""
        if self.state != SearchState.RUNNING:
            return False
        if self.end is not None:
            return True
        return self.left > 0 and self.open <= self.slack

    @property
    def left(self) -> int:
        """Evaluations that the budget has left to ask for."""
        return self.budget - self.counted - (self.open - self.scored)


def running(s: Session, controller: str) -> list[int]:
    """Ids of the searches that this controller may advance: those that run and that no other one has."""
    query = select(Search.id).where(Search.state == SearchState.RUNNING, _free(now()) | _of(controller))
    return list(s.scalars(query.order_by(Search.id)))


def claim(s: Session, search_id: int, controller: str, lease_s: float) -> Claim | None:
    """Leases a running search, or renews the controller's own lease; None while another controller has it."""
    time = now()
    free, own = _free(time), _of(controller)
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


def renew(s: Session, held: Claim, lease_s: float) -> bool:
    """Pushes the end of a lease on; False if it is lost: another controller has the search, or it does not run."""
    statement = (
        update(Search)
        .where(
            Search.id == held.search_id,
            Search.token == held.token,
            Search.state == SearchState.RUNNING,
            Search.controller.is_not(None),
        )
        .values(leased_until=now() + timedelta(seconds=lease_s))
        .returning(Search.id)
    )
    return s.execute(statement, execution_options={"synchronize_session": False}).one_or_none() is not None


def release(s: Session, held: Claim) -> None:
    """Gives a search back: whoever has its hands free first goes on with it."""
    statement = update(Search).where(Search.id == held.search_id, Search.token == held.token)
    s.execute(statement.values(controller=None, leased_until=None), execution_options={"synchronize_session": False})


def release_all(s: Session, controller: str) -> None:
    """Gives back whatever a controller has."""
    statement = update(Search).where(_of(controller)).values(controller=None, leased_until=None)
    s.execute(statement, execution_options={"synchronize_session": False})


def progress(s: Session, search_id: int) -> Progress:
    """How far a search is, by what ended since it was last asked; or `NotFound`."""
    newest = select(func.coalesce(func.max(Trial.number), 0)).where(Trial.search_id == Search.id).scalar_subquery()
    scored = (
        select(func.count())
        .where(Trial.search_id == Search.id, Trial.state.in_(OPEN), ~Trial.evaluation)
        .scalar_subquery()
    )
    query = (
        select(Search, Study, newest, scored)
        .join(Study, Study.id == Search.study_id)
        .where(Search.id == checked_id(search_id, "search"))
        .execution_options(populate_existing=True)
    )
    found = s.execute(query).one_or_none()
    if found is None:
        raise NotFound("search", search_id)
    search, study, trials, cheap = found
    tally = tallies.of(s).of(s, [search], {study.id: study})[search.id]
    return Progress(
        state=SearchState(search.state),
        asks=search.asks,
        trials=trials,
        open=trials - sum(tally.counts.values()),
        scored=cheap,
        counted=tally.evaluated,
        failures=sum(tally.counts.get(state, 0) for state in FAILURES) - tally.undefined,
        completions=search.completions,
        budget=search.budget,
        batch=search.batch,
        slack=search.slack,
        max_failures=search.max_failures,
    )


def _free(time: datetime) -> ColumnElement[bool]:
    return or_(Search.controller.is_(None), Search.leased_until < time)


def _of(controller: str) -> ColumnElement[bool]:
    return and_(Search.controller == controller, Search.controller.is_not(None))
