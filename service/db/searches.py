"""Searches: made, shown, paused, cancelled. `service.db.claims` and `service.db.asks` are what controllers do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from service.core.errors import Conflict, Invalid, NotFound
from service.core.pareto import hypervolume
from service.core.states import OPEN, SearchState
from service.db import events, proxies, spaces, studies, supernets, tallies, trial_ends
from service.db.asks import Snapshot, change_state, finish, record_ask, snapshot
from service.db.claims import Claim, Progress, claim, progress, release, release_all, renew, running
from service.db.paging import checked_id, slice_of
from service.db.rows import body_of, refuse_other
from service.db.tables import Search, Study, Supernet, Trial, now
from service.search.ask import make_designer
from service.wire.base import Json, Page
from service.wire.searches import SearchIn, SearchOut, TrialCounts

__all__ = [
    "Claim",
    "Progress",
    "Snapshot",
    "claim",
    "counts",
    "create",
    "extend",
    "finish",
    "get",
    "page",
    "progress",
    "record_ask",
    "release",
    "release_all",
    "renew",
    "row",
    "running",
    "set_state",
    "snapshot",
]

_VERBS: Mapping[str, tuple[AbstractSet[SearchState], SearchState]] = {
    # verb: from these states to that one
    "pause": ({SearchState.RUNNING}, SearchState.PAUSED),
    "resume": ({SearchState.PAUSED}, SearchState.RUNNING),
    "cancel": ({SearchState.RUNNING, SearchState.PAUSED}, SearchState.CANCELLED),
}


def create(s: Session, study_name: str, body: SearchIn) -> tuple[SearchOut, bool]:
    """Starts a search; the bool says whether it is new. A stored name with another body is a `Conflict`.

    Raises `Invalid` for a designer or options that cannot be, `Conflict` while the super-network is not trained, and
    for a designer that scores by zero-cost proxies what cannot be scored.
    """
    # Locked: the numbers of a study's searches are gapless, and a name is looked for before it is taken.
    study = studies.row(s, study_name, lock=True)
    given = body_of(body)
    stored = _named(s, study.id, body.name) if body.name is not None else None
    if stored is not None:
        refuse_other("search", body.name, stored.body, given, SearchIn)
        return _views(s, [stored])[0], False
    _refuse_untrained(s, study)
    space = spaces.load(spaces.row(s, study.space_id))
    made = make_designer(body.designer, space, studies.objectives(study), studies.constraints(study), {}, body.options)
    proxies.refuse_unscored(s, study, space, made.scores)
    study.searches += 1
    search = Search(
        study_id=study.id,
        number=study.searches,
        name=body.name or _free_name(s, study, body.designer),
        body=given,
        created_at=now(),
        **body.model_dump(mode="json", exclude={"name"}),
    )
    s.add(search)
    s.flush()
    described: Json = {"search": search.id, "number": search.number, "name": search.name, "designer": search.designer}
    events.emit(s, "search.created", study.id, search.id, described)
    return _views(s, [search])[0], True


def get(s: Session, search_id: int) -> SearchOut:
    """One search, or `NotFound`."""
    return _views(s, [row(s, search_id)])[0]


def page(s: Session, size: int, token: str | None = None, *, study: str | None = None) -> Page[SearchOut]:
    """Searches of a study, or all, in the order in which they were made."""
    query = select(Search)
    if study is not None:
        query = query.where(Search.study_id == studies.row(s, study).id)
    rows, following = slice_of(s, query, [Search.id], size, token)
    return Page(items=_views(s, [found[0] for found in rows]), next_page_token=following)


def counts(s: Session) -> dict[SearchState, int]:
    """How many searches are in each state."""
    grouped = select(Search.state, func.count()).group_by(Search.state)
    return {SearchState(state): number for state, number in s.execute(grouped)}


def row(s: Session, search_id: int) -> Search:
    """The stored row, or `NotFound`."""
    found = s.get(Search, checked_id(search_id, "search"))
    if found is None:
        raise NotFound("search", search_id)
    return found


def set_state(s: Session, search_id: int, verb: str) -> SearchOut:
    """``pause``, ``resume`` or ``cancel``. Where the search is there already nothing changes; else a `Conflict`."""
    if verb not in _VERBS:
        raise Invalid("verb", f"must be one of {sorted(_VERBS)}, is {verb!r}")
    sources, target = _VERBS[verb]
    search = trial_ends.lock_searches(s, [checked_id(search_id, "search")]).get(search_id)
    if search is None:
        raise NotFound("search", search_id)
    if search.state in sources:
        change_state(s, search, target, f"{verb} was asked for")
        s.flush()
    elif search.state != target:
        raise Conflict(f"search {search_id} is {search.state}: {verb} is for one that is {', '.join(sorted(sources))}")
    return _views(s, [search])[0]


def extend(s: Session, search_id: int, budget: int) -> SearchOut:
    """Gives a search a larger budget; one that is DONE goes on from where it stood. With the budget that it has
    nothing changes. Raises `Invalid` for a smaller one, `Conflict` where the search failed or was cancelled."""
    search = trial_ends.lock_searches(s, [checked_id(search_id, "search")]).get(search_id)
    if search is None:
        raise NotFound("search", search_id)
    if search.state in (SearchState.FAILED, SearchState.CANCELLED):
        raise Conflict(f"search {search_id} is {search.state}: only one that runs, is paused or DONE is extended")
    if budget < search.budget:
        raise Invalid("budget", f"must be larger than the {search.budget} that search {search_id} has, is {budget}")
    if budget > search.budget:
        search.budget = budget
        # What a controller is about to write, it decided with the old budget: the fence keeps it out.
        search.token += 1
        search.controller, search.leased_until = None, None
        done = search.state == SearchState.DONE
        search.ended_at = None
        state = SearchState.RUNNING if done else SearchState(search.state)
        change_state(s, search, state, f"the budget was extended to {budget}")
        s.flush()
    return _views(s, [search])[0]


# ---------------------------------------------------------------------- helpers


def _named(s: Session, study_id: int, name: str) -> Search | None:
    return s.scalars(select(Search).where(Search.study_id == study_id, Search.name == name)).one_or_none()


def _free_name(s: Session, study: Study, designer: str) -> str:
    """``designer-number``, or with a further number if a person has given that name to another search."""
    taken = set(s.scalars(select(Search.name).where(Search.study_id == study.id)))
    base = f"{designer}-{study.searches}"
    return next(name for i in range(len(taken) + 1) if (name := f"{base}-{i + 1}" if i else base) not in taken)


def _refuse_untrained(s: Session, study: Study) -> None:
    if study.supernet_id is None:
        return
    supernet = s.get_one(Supernet, study.supernet_id)
    if supernet.state != supernets.READY:
        raise Conflict(f"super-network {supernet.name!r} is {supernet.state}: train it before a search uses it")


def _views(s: Session, searches: Sequence[Search]) -> list[SearchOut]:
    ids = [search.id for search in searches]
    # Those that have ended are not counted again.
    waiting = (
        select(Trial.search_id, Trial.state, func.count(), func.coalesce(func.sum(Trial.paid_s), 0.0))
        .where(Trial.search_id.in_(ids), Trial.state.in_(OPEN))
        .group_by(Trial.search_id, Trial.state)
    )
    counts: dict[int, dict[str, int]] = {}
    paid: dict[int, float] = {}
    for search_id, state, number, seconds in s.execute(waiting):
        counts.setdefault(search_id, {})[state.lower()] = number
        paid[search_id] = paid.get(search_id, 0.0) + seconds
    of_study = {
        study.id: study for study in s.scalars(select(Study).where(Study.id.in_({x.study_id for x in searches})))
    }
    ended = tallies.of(s).of(s, searches, of_study)
    for each, tally in ended.items():
        counts.setdefault(each, {}).update({state.lower(): number for state, number in tally.counts.items()})
    return [
        SearchOut(
            id=search.id,
            study=of_study[search.study_id].name,
            name=search.name,
            number=search.number,
            designer=search.designer,
            options=search.options,
            budget=search.budget,
            batch=search.batch,
            slack=search.slack,
            probe_share=search.probe_share,
            max_failures=search.max_failures,
            share=search.share,
            priority=search.priority,
            state=SearchState(search.state),
            reason=search.reason,
            counts=TrialCounts(**counts.get(search.id, {})),
            evaluated=ended[search.id].evaluated,
            undefined=ended[search.id].undefined,
            reused=ended[search.id].reused,
            paid_s=ended[search.id].paid_s + paid.get(search.id, 0.0),
            hypervolume=_volume(of_study[search.study_id], ended[search.id]),
            created_at=search.created_at,
            ended_at=search.ended_at,
        )
        for search in searches
    ]


def _volume(study: Study, tally: tallies.Tally) -> float | None:
    """What its own full evaluations dominate, once there are any."""
    return None if tally.front is None else hypervolume(studies.objectives(study), tally.front)
