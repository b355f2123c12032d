"""What holds in every healthy database, on both dialects: each check finds what breaks it, and says where."""

from __future__ import annotations

from collections import Counter as Counted
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice

from sqlalchemy import and_, exists, func, literal, or_, select, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session, aliased

from service.core.errors import NotFound
from service.core.states import OPEN, State
from service.db.artifacts import ArtifactStore, digest_of
from service.db.session import Database
from service.db.tables import Artifact, Base, Counter, Event, Job, Measurement, Predictor, Search, Supernet, Trial

LISTED = 20
"""Problems that are listed of one check; the others are counted."""

Report = Callable[[int, int], None]
"""Told what is done and what there is in all."""


@dataclass(frozen=True, slots=True)
class Check:
    """What a check found. ``more``: problems beyond those listed."""

    name: str
    problems: tuple[str, ...] = ()
    more: int = 0

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems


def run(
    database: Database, store: ArtifactStore, *, deep: bool = False, report: Report = lambda _done, _total: None
) -> Iterator[Check]:
    """Checks everything, each as it was at one moment, while others write. Ends early where the rest cannot be read.

    ``deep`` reads every artifact and compares its digest; ``report`` is told the bytes.
    """
    try:
        problem = database.schema_problem()
    except SQLAlchemyError as error:
        yield Check("connection", (f"the database cannot be reached: {_said(error)}",))
        return
    yield Check("connection")
    yield Check("schema", () if problem is None else (f"the database {problem}",))
    yield _checked(database, "integrity", _INTEGRITY[database.dialect])
    if problem is not None:
        return
    for name, check in _INVARIANTS.items():
        yield _checked(database, name, check)
    try:
        with database.read() as s:
            registered = _registered(s)
    except SQLAlchemyError as error:
        yield _unreadable("artifacts", error)
        return
    # Files are read when the transaction is over: there may be many, and large ones.
    yield _limited("artifacts", _artifacts(registered, store, deep, report))


def _checked(database: Database, name: str, check: Callable[[Session], Iterable[str]]) -> Check:
    try:
        with database.read() as s:
            return _limited(name, check(s))
    except SQLAlchemyError as error:
        return _unreadable(name, error)


def _unreadable(name: str, error: SQLAlchemyError) -> Check:
    return Check(name, (f"cannot be read: {_said(error)}",))


def _limited(name: str, problems: Iterable[str]) -> Check:
    found = iter(problems)
    return Check(name, tuple(islice(found, LISTED)), sum(1 for _ in found))


def _said(error: SQLAlchemyError) -> str:
    return " ".join(str(error.__cause__ or error).split())


# ---------------------------------------------------------------------- what the database promises


def _sqlite(s: Session) -> Iterator[str]:
    for (said,) in s.execute(text("PRAGMA integrity_check")):
        if said != "ok":
            yield str(said)
    for table, row, parent, _ in s.execute(text("PRAGMA foreign_key_check")):
        yield f"row {row} of {table} refers to a row of {parent} that is not there"


def _postgresql(s: Session) -> Iterator[str]:
    for (index,) in s.execute(text("SELECT indexrelid::regclass::text FROM pg_index WHERE NOT indisvalid")):
        yield f"index {index} is not valid: REINDEX makes it anew"
    # The server enforces them, but not on what a restore with its triggers switched off put in.
    for table in Base.metadata.sorted_tables:
        for key in table.foreign_keys:
            parent = key.column.table.alias()
            there = exists().where(parent.c[key.column.name] == key.parent)
            lost = select(func.count()).select_from(table).where(key.parent.is_not(None), ~there)
            if number := s.execute(lost).scalar_one():
                yield f"{number} rows of {table.name} refer to rows of {key.column.table.name} that are not there"


_INTEGRITY: Mapping[str, Callable[[Session], Iterator[str]]] = {"sqlite": _sqlite, "postgresql": _postgresql}


# ---------------------------------------------------------------------- what this program promises


def _events(s: Session) -> Iterator[str]:
    counter = s.get(Counter, "events")
    if counter is None:
        yield "the counter of the events is missing"
        return
    first, last, kept = s.execute(
        select(func.min(Event.number), func.max(Event.number), func.count(Event.number))
    ).one()
    if last is None:
        return
    if last != counter.value:
        yield f"the newest event is {last}, but the counter stands at {counter.value}"
    if kept != last - first + 1:
        before = func.lag(Event.number).over(order_by=Event.number).label("before")
        pairs = select(before, Event.number).subquery()
        gaps = select(pairs).where(pairs.c.number > pairs.c.before + 1).order_by(pairs.c.number)
        for left, right in s.execute(gaps):
            yield f"there is no event between {left} and {right}"


def _ended_trials(s: Session) -> Iterator[str]:
    query = (
        select(Trial.id, Trial.search_id, Trial.state, Job.id, Job.state)
        .join(Job, Job.trial_id == Trial.id)
        .where(Trial.state.not_in(OPEN), Job.state.in_(OPEN))
        .order_by(Trial.id)
    )
    for trial, search, state, job, still in s.execute(query):
        yield f"trial {trial} of search {search} is {state}, but its job {job} is {still}"


def _open_trials(s: Session) -> Iterator[str]:
    at_work = exists().where(Job.trial_id == Trial.id, Job.state.in_(OPEN))
    query = select(Trial.id, Trial.search_id, Trial.state).where(Trial.state.in_(OPEN), ~at_work).order_by(Trial.id)
    for trial, search, state in s.execute(query):
        yield f"trial {trial} of search {search} is {state}, but no job waits or works for it"


def _leases(s: Session) -> Iterator[str]:
    endless = (Job.state == State.LEASED, or_(Job.leased_until.is_(None), Job.worker.is_(None)))
    for job, kind, worker in s.execute(select(Job.id, Job.kind, Job.worker).where(*endless).order_by(Job.id)):
        yield f"job {job} ({kind}) is LEASED " + ("by nobody" if worker is None else f"by {worker}, without an end")


def _completions(s: Session) -> Iterator[str]:
    """The ends of each search are numbered 1, 2, ...; a trial that was tried again has more than one."""
    number = Trial.completion
    sums = select(
        Trial.search_id, func.count(number), func.count(number.distinct()), func.min(number), func.max(number)
    )
    plain = sums.where(number.is_not(None)).group_by(Trial.search_id)
    whole = {search: last for search, *counts, first, last in s.execute(plain) if first == 1 and {last} == set(counts)}
    for search, completions in s.execute(select(Search.id, Search.completions).order_by(Search.id)):
        if whole.get(search, 0) == completions:
            continue
        numbered = select(Trial.completion).where(Trial.search_id == search)
        ended: Counted[int] = Counted(each for each in s.scalars(numbered) if each is not None)
        for earlier in s.scalars(select(Trial.earlier).where(Trial.search_id == search, Trial.earlier.is_not(None))):
            # To be tried again has a number too: it is a change that whoever follows the search must see.
            ended.update(number for each in earlier for number in (each["completion"], each["reopened"]))
        numbers = set(range(1, completions + 1))
        for wrong, why in (
            (sorted(numbers - set(ended)), "no trial has"),
            (sorted(set(ended) - numbers), f"beyond the {completions} that were counted, but trials have"),
            (sorted(each for each, times in ended.items() if times > 1), "several trials have"),
        ):
            if wrong:
                yield f"search {search}: {why} the completions {_some(wrong)}"


def _attempts(s: Session) -> Iterator[str]:
    one, other = aliased(Measurement), aliased(Measurement)
    place = ("architecture_id", "metric", "context_digest", "attempt")
    alike = and_(*(getattr(one, name) == getattr(other, name) for name in place))
    query = select(one.id, other.id, one.metric, one.architecture_id).join(other, and_(alike, one.id < other.id))
    for first, second, metric, architecture in s.execute(query.order_by(one.id)):
        yield f"measurements {first} and {second} are the same attempt of {metric} of architecture {architecture}"


_INVARIANTS: Mapping[str, Callable[[Session], Iterator[str]]] = {
    "events": _events,
    "ended trials": _ended_trials,
    "open trials": _open_trials,
    "leases": _leases,
    "completions": _completions,
    "attempts": _attempts,
}


def _some(numbers: list[int]) -> str:
    shown = ", ".join(map(str, numbers[:LISTED]))
    return f"{shown} and {len(numbers) - LISTED} more" if len(numbers) > LISTED else shown


# ---------------------------------------------------------------------- files


@dataclass(frozen=True, slots=True)
class _Registered:
    digest: str
    size: int
    users: str


def _registered(s: Session) -> list[_Registered]:
    users: dict[str, list[str]] = {}
    for query in (
        select(Supernet.weights, literal("weights of super-network "), Supernet.name),
        select(Predictor.artifact, literal("predictor "), Predictor.id),
        select(Job.checkpoint, literal("checkpoint of job "), Job.id),
    ):
        for digest, kind, name in s.execute(query.where(query.selected_columns[0].is_not(None))):
            users.setdefault(digest, []).append(f"{kind}{name}")
    stored = s.execute(select(Artifact.digest, Artifact.size).order_by(Artifact.digest))
    return [_Registered(digest, size, ", ".join(users.get(digest, ["uploaded"]))) for digest, size in stored]


def _artifacts(registered: list[_Registered], store: ArtifactStore, deep: bool, report: Report) -> Iterator[str]:
    done, total = 0, sum(each.size for each in registered)
    for each in registered:
        about = f"artifact {each.digest} ({each.users})"
        try:
            size = store.path(each.digest).stat().st_size
            if size != each.size:
                yield f"{about} has {size} bytes, it had {each.size} when it was stored"
            elif deep and digest_of(store.path(each.digest)) != each.digest:
                yield f"{about} is damaged: its content has another digest"
        except NotFound:
            yield f"{about} is not in the artifact folder"
        except OSError as error:
            yield f"{about} cannot be read: {error.strerror}"
        done += each.size
        report(done, total)
