"""Imports: a file of measurements is checked as a whole, then written in short transactions.

Nothing is written before every row was checked, unless bad rows are to be left out. What was written once changes
nothing when it comes again, so an import that was killed is simply run again. Small files are imported by the request
that brings them, large ones are jobs that an `Importer` takes from the queue.
"""

from __future__ import annotations

import errno
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import IO, TypeAlias, final

import numpy as np
import structlog
from sqlalchemy.orm import Session

from service.core.errors import FrontierError, Invalid, NotFound, Stale, Stop
from service.core.failures import Failure
from service.core.pauses import pause_s
from service.core.states import State
from service.db import ending, imports, jobs, queue
from service.db.artifacts import ArtifactStore
from service.db.imports import Meaning, Taken, Target, Written
from service.db.ledger import context_of
from service.db.outages import outage
from service.db.session import Database
from service.db.tables import now
from service.exchange import Errors, Layout, Rows, Spool, read
from service.exchange.report import describe
from service.exchange.spool import Records, ordered
from service.wire.exchange import ImportOut, TableFormat
from service.wire.jobs import CompleteBatch, CompleteIn, FailIn, HeartbeatIn, HeartbeatOut

PAUSE_S = 0.01
"""Between two transactions of one import: others that wait to write get their turn."""

_BEAT_S = 1.0
_IDLE_S = 0.5
_LONGEST_PAUSE_S = 5.0

WRITERS: Mapping[str, int] = {"sqlite": 1, "postgresql": 3}
"""Transactions of one import at the same time. Of disjoint keys, they wait for each other at their ends alone."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far an import is.

    ``done``: rows checked; while writing, the measurements of one transaction, ``new`` of them new.
    ``force``: to be kept even if the last one was kept a moment ago.
    """

    phase: str
    done: int
    total: int | None
    note: str
    new: int
    force: bool


Beat: TypeAlias = Callable[[Session | None, Progress], None]
"""Told of progress, in the transaction of a session or outside of one; raises to end the import."""

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Plan:
    """How a file is read: its format, whether bad rows are left out, and field or metric → column."""

    study: str
    format: TableFormat
    skip_bad: bool
    columns: dict[str, str]
    metrics: dict[str, str]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a file. One that was ``refused`` has errors; nothing of it was written unless ``out`` says so."""

    out: ImportOut
    refused: bool


def import_file(
    database: Database,
    plan: Plan,
    file: IO[bytes],
    folder: Path,
    beat: Beat = lambda _s, _progress: None,
    *,
    new: int = 0,
    measured_at: datetime | None = None,
) -> Outcome:
    """Imports a file that can be sought in. ``folder`` holds what is put aside meanwhile.

    ``new``: measurements that an earlier run of the same import wrote. ``measured_at``: for rows that do not say it.
    Raises `NotFound` for a study that is not there, `Invalid` for a mapping to what is no field.
    """
    with database.read() as s:
        into = imports.target(s, plan.study)
    layout = Layout([choice.name for choice in into.space.choices], plan.columns, plan.metrics)
    errors = Errors()
    rows = Rows(into.space, layout, into.circumstances, context_of, errors)
    size = file.seek(0, 2)
    file.seek(0)
    parts = Spool.parts_for(size, packed=plan.format == "parquet")
    with Spool(folder, len(into.space.choices), parts) as spool:
        run = _Run(database, into, rows, spool, errors, beat, new, measured_at or now())
        try:
            run.check(plan.format, file, layout, size)
        except Invalid as error:
            errors.add(0, error.field, error.message)
            return Outcome(run.result(), refused=True)
        if errors.total and not plan.skip_bad:
            return Outcome(run.result(), refused=True)
        known = errors.total
        run.write()
        return Outcome(run.result(), refused=errors.total > known and not plan.skip_bad)


@dataclass(slots=True)
class _Run:
    """One run of an import."""

    database: Database
    into: Target
    rows: Rows
    spool: Spool
    errors: Errors
    beat: Beat
    new: int
    time: datetime
    done: int = 0
    refused: int = 0

    def check(self, kind: TableFormat, file: IO[bytes], layout: Layout, size: int) -> None:
        """Reads and checks every row, and puts the good ones aside."""
        for batch in read(kind, file, layout):
            self.spool.add(self.rows.take(batch))
            share = round(100 * file.tell() / max(size, 1))
            self.beat(None, self._progress("checking", self.rows.count, f"checked {share} % of the file"))
        for part in self.spool.parts():
            records = self.spool.read(part)
            if (records["attempt"] >= 0).any():
                self.spool.replace(part, self._without_conflicts(records))
                self.beat(None, self._progress("checking", self.rows.count, "comparing with what is stored"))

    def write(self) -> None:
        """Writes what was put aside, a number of measurements with their links in each transaction."""
        meaning = self._meaning()
        self.beat(None, self._progress("writing", 0, "begins to write", force=True))
        with self.database.write() as s:
            imports.store_contexts(s, meaning)
        writers = WRITERS[self.database.dialect]
        with ThreadPoolExecutor(writers) as pool:
            open_ones: deque[tuple[Records, Future[Written]]] = deque()
            try:
                for some in self._chunks():
                    if len(open_ones) == writers:
                        self._take_in(*open_ones.popleft())
                    open_ones.append((some, pool.submit(self._write, some, meaning)))
                while open_ones:
                    self._take_in(*open_ones.popleft())
            finally:
                for _, future in open_ones:
                    future.cancel()

    def _chunks(self) -> Iterator[Records]:
        """What was put aside, in the order of keys, as much at a time as one transaction writes.

        An architecture is in one of them, unless it has more measurements than that: whoever comes to one that another
        transaction is about to store waits for the end of that.
        """
        for part in self.spool.parts():
            records = ordered(self.spool.read(part))
            begins = (records["hi"][1:] != records["hi"][:-1]) | (records["lo"][1:] != records["lo"][:-1])
            edges = np.concatenate([[0], np.flatnonzero(begins) + 1, [len(records)]])
            start = 0
            while start < len(records):
                end = int(edges[np.searchsorted(edges, start + imports.CHUNK, side="right") - 1])
                end = end if end > start else start + imports.CHUNK
                yield records[start:end]
                start = end

    def _write(self, some: Records, meaning: Meaning) -> Written:
        with self.database.write() as s:
            written = imports.write(s, self.into, some, meaning, self.time)
            body = {"rows": len(some), "total": self.spool.count}
            ending.emit(s, "measurements.imported", self.into.study_id, body=body)
            self.beat(s, self._progress("writing", len(some), "writes", new=written.new))
        if len(some) < self.spool.count:
            time.sleep(PAUSE_S)
        return written

    def _take_in(self, some: Records, future: Future[Written]) -> None:
        written = future.result()
        self.done += len(some)
        self.new += written.new
        self.refused += len(written.refused)
        self._note(some, written.refused)

    def result(self) -> ImportOut:
        """What became of the file so far."""
        return ImportOut(
            rows=self.rows.count,
            new=self.new,
            unchanged=max(self.done - self.new - self.refused, 0),
            skipped=self.rows.bad,
            errors=self.errors.first(),
            errors_total=self.errors.total,
        )

    def _meaning(self) -> Meaning:
        return Meaning.of(self.rows.metrics, self.rows.contexts, self.rows.workers)

    def _without_conflicts(self, records: Records) -> Records:
        """The records of rows whose attempts are free: nothing else is said of them, in the file or in the database."""
        names = ("row", "attempt", "context", "metric", "lo", "hi")
        records = records[np.lexsort([records[name] for name in names])]
        place = records[["hi", "lo", "metric", "context", "attempt"]]
        begins = np.ones(len(records), dtype=bool)
        begins[1:] = place[1:] != place[:-1]
        first = np.maximum.accumulate(np.where(begins, np.arange(len(records)), 0))
        named = records["attempt"] >= 0
        differs = named & (records["value"] != records["value"][first])
        found = {
            index: f"row {records['row'][first[index]]} says {records['value'][first[index]]:.17g} of the same attempt"
            for index in np.flatnonzero(differs).tolist()
        }
        todo = np.flatnonzero(named & ~differs)
        meaning = self._meaning()
        for start in range(0, len(todo), imports.CHUNK):
            some = todo[start : start + imports.CHUNK]
            with self.database.read() as s:
                stored = imports.conflicts(s, self.into, records[some], meaning)
            found.update({int(some[index]): message for index, message in stored.items()})
        self._note(records, found)
        bad = np.unique(records["row"][list(found)])
        self.rows.bad += len(bad)
        return records[~np.isin(records["row"], bad)]

    def _note(self, records: Records, messages: Mapping[int, str]) -> None:
        for index, message in messages.items():
            self.errors.add(int(records["row"][index]), "attempt", message)

    def _progress(self, phase: str, done: int, note: str, *, new: int = 0, force: bool = False) -> Progress:
        total = self.spool.count if phase == "writing" else None
        return Progress(phase, done, total, note, new, force)


# ---------------------------------------------------------------------- in the background


class _Interrupted(Exception):
    """The process is asked to end."""


def _passes(error: Exception) -> bool:
    """Whether waiting can help: the database is away, busy or full, or the disk is."""
    return outage(error) is not None or (isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT))


@final
class Importer:
    """Does the queue's imports, one at a time. ``name`` is unique among importers."""

    def __init__(self, database: Database, store: ArtifactStore, folder: Path, name: str, lease_s: float) -> None:
        self._database = database
        self._store = store
        self._folder = folder
        self._name = name
        self._lease_s = lease_s
        self._stop = threading.Event()

    def run(self, stop: threading.Event) -> None:
        """Until ``stop`` is set; the import that is going on then is handed back, to be gone on with."""
        self._stop = stop
        failures = 0
        while not stop.is_set():
            try:
                busy, failures = self.pass_once(), 0
            except Exception as error:
                if not _passes(error):
                    raise
                busy, failures = False, failures + 1
                _log.warning("waiting", error=str(error))
            if not busy:
                stop.wait(pause_s(failures, _LONGEST_PAUSE_S) if failures else _IDLE_S)

    def pass_once(self) -> bool:
        """Does one import, if one waits. True if one did."""
        with self._database.write() as s:
            taken = imports.take(s, self._name, self._lease_s)
        if taken is None:
            return False
        began = time.monotonic()
        try:
            outcome = self._import(taken)
        except Stale:
            _log.warning("import lost", job=taken.job)
        except _Interrupted:
            self._fail(taken, State.QUEUED, Failure.DRAINED, "the importer was asked to end", began)
        except Stop:
            with self._database.read() as s:
                new = jobs.row(s, taken.job).progress.get("new", 0)
            said = (
                f"cancelled; {new} new measurements had been written"
                if new
                else "cancelled before anything was written"
            )
            self._fail(taken, State.CANCELLED, Failure.CANCELLED, said, began)
        except Exception as error:
            if _passes(error):
                raise  # the lease runs out, and somebody goes on
            expected = isinstance(error, FrontierError)
            if not expected:
                _log.exception("import failed", job=taken.job)
            said = error.message if isinstance(error, FrontierError) else f"{type(error).__name__}: {error}"
            failure = Failure.INVALID if isinstance(error, Invalid | NotFound) else Failure.BUG
            self._fail(taken, State.FAILED, failure, said, began, None if expected else traceback.format_exc())
        else:
            self._end(taken, outcome, time.monotonic() - began)
        return True

    def _import(self, taken: Taken) -> Outcome:
        about = taken.payload
        plan = Plan(taken.study, about.format, about.skip_bad, about.columns, about.metrics)
        folder = self._folder
        with self._store.path(about.artifact).open("rb") as file:
            return import_file(
                self._database,
                plan,
                file,
                folder,
                self._beat_of(taken),
                new=taken.new,
                measured_at=taken.created_at,
            )

    def _beat_of(self, taken: Taken) -> Beat:
        last = time.monotonic()

        def beat(s: Session | None, progress: Progress) -> None:
            nonlocal last
            if self._stop.is_set():
                raise _Interrupted
            if s is not None:
                answer = self._heartbeat(s, taken, progress, within=True)
            elif not progress.force and time.monotonic() - last < min(_BEAT_S, self._lease_s / 3):
                return
            else:
                with self._database.write() as own:
                    answer = self._heartbeat(own, taken, progress, within=False)
            last = time.monotonic()
            if answer.stop:
                raise Stop("cancelled")

        return beat

    def _heartbeat(self, s: Session, taken: Taken, progress: Progress, *, within: bool) -> HeartbeatOut:
        """Keeps the lease and the progress; what is ``within`` a transaction adds to what others wrote before."""
        before = jobs.row(s, taken.job, lock=True).progress
        done = progress.done + (before.get("done", 0) if within else 0)
        body = {
            "phase": progress.phase,
            "done": done,
            "total": progress.total,
            "note": f"wrote {done} of {progress.total}" if within else progress.note,
            "new": before.get("new", 0) + progress.new,
        }
        return queue.heartbeat(s, taken.job, HeartbeatIn(token=taken.token, progress=body))

    def _end(self, taken: Taken, outcome: Outcome, seconds: float) -> None:
        result = outcome.out.model_dump(mode="json")
        with self._database.write() as s:
            if not outcome.refused:
                one = CompleteIn(job=taken.job, token=taken.token, result=result, seconds=seconds)
                queue.complete(s, [CompleteBatch(worker=self._name, results=[one])])
                return
            reason = describe(outcome.out.errors, outcome.out.errors_total)[:2000]
            failure = Failure.INVALID
            body = FailIn(token=taken.token, state=State.FAILED, failure=failure, reason=reason, seconds=seconds)
            if queue.fail(s, taken.job, body).accepted:
                jobs.row(s, taken.job).result = result

    def _fail(
        self, taken: Taken, state: State, failure: Failure, reason: str, began: float, trace: str | None = None
    ) -> None:
        body = FailIn(
            token=taken.token,
            state=state,
            failure=failure,
            reason=reason[:2000],
            traceback=trace,
            seconds=time.monotonic() - began,
        )
        try:
            with self._database.write() as s:
                queue.fail(s, taken.job, body)
        except (Stale, NotFound):
            _log.warning("import lost", job=taken.job)
