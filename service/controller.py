"""Advances searches: history → designer → trials and jobs.

Every step reads in one short transaction, computes without one, and writes in one that re-checks the lease (fence)
and the number of the ask. So a controller can be killed anywhere, and several can share the work: what one of them
computed for a search that another holds by then is dropped.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import FrameType
from typing import Any

import numpy as np
import structlog
from sqlalchemy.exc import OperationalError

from predictors.predictor import Predictor
from search_spaces.plugins import load
from service.core.errors import FrontierError, Stale
from service.core.states import OPEN, SearchState, State
from service.db import asks, events, predictors, searches
from service.db.artifacts import ArtifactStore
from service.db.asks import Claim, Progress, Snapshot
from service.db.session import Database
from service.importer import Importer
from service.search.ask import ask, make_designer, predict
from service.search.designer import Designer, FitRequest, Suggestions
from service.settings import Settings

_log = structlog.get_logger(__name__)

_IDLE_LOOK_S = 1.0
"""Without news in the event table everything is still looked at this often: claims of other controllers run out
without an event. Leases of jobs are taken back by API processes."""

_IMPORTER_ENDS_S = 10.0


@dataclass(frozen=True, slots=True)
class Mismatch:
    """An ask that, asked again, suggests something else than what is stored."""

    ask: int
    stored: list[list[int]]
    again: list[list[int]]


class Controller:
    """Advances all running searches whose lease it gets. ``name`` is unique among controllers."""

    def __init__(self, database: Database, store: ArtifactStore, name: str, *, lease_s: float, poll_s: float) -> None:
        self._database = database
        self._name = name
        self._lease_s = lease_s
        self._poll_s = poll_s
        self._loaded = lru_cache(maxsize=64)(lambda family, digest: _load(store, family, digest))
        self._seen = -1
        self._due_since: dict[int, float] = {}
        self._looked_at = 0.0

    def run(self, stop: threading.Event) -> None:
        """Until ``stop`` is set. A database that is away or locked is waited for."""
        while not stop.is_set():
            try:
                busy = self.pass_once()
            except OperationalError as error:
                _log.warning("database unavailable", error=str(error.orig))
                stop.wait(1.0)
                continue
            if not busy:
                stop.wait(self._poll_s)
        self._release()

    def pass_once(self) -> bool:
        """Looks at every running search once if there is news. True if anything was written."""
        with self._database.read() as s:
            last = events.last(s)
            due = last != self._seen or time.monotonic() - self._looked_at >= _IDLE_LOOK_S
            ids = searches.running(s) if due else []
        if not due:
            return False
        self._looked_at = time.monotonic()
        wrote = [self._step_safely(search_id) for search_id in ids]
        # News of the steps themselves count as seen only if there were none: a step can make another one due.
        self._seen = -1 if any(wrote) else last
        return any(wrote)

    def _step_safely(self, search_id: int) -> bool:
        """One broken search does not hold up the others: it fails, and says why."""
        try:
            return self.step(search_id)
        except Stale:
            return False
        except OperationalError:
            raise
        except Exception as error:
            _log.exception("search failed", search=search_id)
            reason = f"the designer failed: {type(error).__name__}: {error}"
            with self._database.write() as s:
                held = searches.claim(s, search_id, self._name, self._lease_s)
                if held is not None:
                    searches.finish(s, held, SearchState.FAILED, reason)
            return True

    def step(self, search_id: int) -> bool:
        """Does what is due for one search: ends it, asks for fits, or asks its designer. True if it wrote.

        Raises `Stale` if another controller took the search meanwhile.
        """
        with self._database.read() as s:
            progress = searches.progress(s, search_id)
        if progress.state != SearchState.RUNNING or not _is_due(progress):
            self._due_since.pop(search_id, None)
            return False
        self._due_since.setdefault(search_id, time.monotonic())
        with self._database.write() as s:
            held = searches.claim(s, search_id, self._name, self._lease_s)
        if held is None:
            return False
        # Read again under the lease: another controller may have asked between the two.
        with self._database.read() as s:
            progress = searches.progress(s, search_id)
            end = _end(progress)
            found = searches.snapshot(s, search_id) if end is None and _is_due(progress) else None
        if end is not None:
            with self._database.write() as s:
                searches.finish(s, held, *end)
            return True
        if found is None:
            return False
        return self._ask(held, found, progress)

    def _ask(self, held: Claim, found: Snapshot, progress: Progress) -> bool:
        count = min(progress.batch, progress.budget - progress.counted - progress.open)
        wants = _designer(found, {}).wants(found.history)
        fitted, versions = {}, {}
        if wants:
            ready = self._fitted(held, found, wants)
            if ready is None:
                return False
            for row in ready:
                # A fit that failed leaves its metric without a predictor; the designer does with what there is.
                if row.artifact is not None:
                    fitted[row.metric] = self._loaded(row.family, row.artifact)
                    versions[row.metric] = (row.id, row.artifact)
        designer, suggestions = _ask_designer(found, fitted, progress.asks, count)
        if not suggestions.items:
            if progress.open:
                return False
            with self._database.write() as s:
                searches.finish(s, held, SearchState.DONE, "the space is exhausted: no further architecture to suggest")
            return True
        predictions = predict(designer, np.stack([item.genes for item in suggestions.items]))
        seen = {
            "count": count,
            "completion": found.completion,
            "pending": found.pending,
            "predictors": {metric: digest for metric, (_, digest) in versions.items()},
        }
        ids = {metric: version for metric, (version, _) in versions.items()}
        wanted = list(found.study.metrics)
        took_s = time.monotonic() - self._due_since.pop(held.search_id)
        with self._database.write() as s:
            searches.record_ask(s, held, progress.asks, suggestions, predictions, ids, seen, wanted, took_s)
        _log.info("asked", search=held.search_id, ask=progress.asks, trials=len(suggestions.items))
        return True

    def _fitted(self, held: Claim, found: Snapshot, wants: tuple[FitRequest, ...]) -> list[Any] | None:
        """The ended fits of this ask, or None while there are open ones; queues those that are missing."""
        number = found.search.asks
        with self._database.read() as s:
            rows = {row.metric: row for row in predictors.for_ask(s, held.search_id, number)}
        missing = [(index, want) for index, want in enumerate(wants) if want.metric not in rows]
        if missing:
            complete = int(found.history.complete.sum())
            with self._database.write() as s:
                for index, want in missing:
                    seed = [found.study.seed, found.search.number, number, index]
                    predictors.request(s, held, number, want, found.completion, complete, seed)
            return None
        if any(State(row.state) in OPEN for row in rows.values()):
            return None
        return [rows[want.metric] for want in wants]

    def verify(self, search_id: int) -> tuple[int, list[Mismatch]]:
        """Asks every ask of a search again from what was stored: (how many, those that now suggest something else).

        Equal answers are promised for the same library versions and type of machine.
        """
        wrong = []
        with self._database.read() as s:
            stored, numbers = searches.snapshot(s, search_id), asks.seen(s, search_id)
        for number, seen in numbers:
            with self._database.read() as s:
                found = searches.snapshot(s, search_id, number)
            families = {want.metric: want.family for want in _designer(found, {}).wants(found.history)}
            fitted = {metric: self._loaded(families[metric], digest) for metric, digest in seen["predictors"].items()}
            _, suggestions = _ask_designer(found, fitted, number, seen["count"])
            again = [item.genes.tolist() for item in suggestions.items]
            then = stored.history.genes[stored.history.asks == number].tolist()
            if again != then:
                wrong.append(Mismatch(number, then, again))
        return len(numbers), wrong

    def _release(self) -> None:
        try:
            with self._database.write() as s:
                for search_id in searches.running(s):
                    held = searches.claim(s, search_id, self._name, self._lease_s)
                    if held is not None:
                        searches.release(s, held)
        except (OperationalError, FrontierError) as error:
            _log.warning("leases were left to run out", error=str(error))


def _is_due(progress: Progress) -> bool:
    if _end(progress) is not None:
        return True
    return progress.counted + progress.open < progress.budget and progress.open <= progress.slack


def _end(progress: Progress) -> tuple[SearchState, str] | None:
    if progress.failures > progress.max_failures:
        return SearchState.FAILED, f"{progress.failures} trials failed, more than the {progress.max_failures} allowed"
    if progress.counted >= progress.budget and not progress.open:
        return SearchState.DONE, f"the budget of {progress.budget} evaluations is spent"
    return None


def _designer(found: Snapshot, fitted: Mapping[str, Predictor]) -> Designer:
    search = found.search
    return make_designer(search.designer, found.space, found.objectives, found.constraints, fitted, search.options)


def _ask_designer(
    found: Snapshot, fitted: Mapping[str, Predictor], number: int, count: int
) -> tuple[Designer, Suggestions]:
    designer = _designer(found, fitted)
    suggestions = ask(
        designer,
        found.history,
        count,
        seed=found.study.seed,
        search_number=found.search.number,
        ask_number=number,
        probe_share=found.search.probe_share,
    )
    return designer, suggestions


def _load(store: ArtifactStore, family: str, digest: str) -> Predictor:
    predictor: Predictor = load("predictors", family).load(store.read(digest))
    return predictor


def run_controller(settings: Settings) -> None:
    """Runs a controller until SIGTERM or SIGINT."""
    stop = threading.Event()

    def ask_to_stop(_signal: int, _frame: FrameType | None) -> None:
        stop.set()

    signal.signal(signal.SIGTERM, ask_to_stop)
    signal.signal(signal.SIGINT, ask_to_stop)
    database = Database(settings.database)
    name = f"{socket.gethostname().lower()[:40]}-{os.getpid()}"
    store = ArtifactStore(settings.artifact_folder)
    importer = Importer(database, store, settings.artifact_folder, name, settings.lease_s)
    importing = threading.Thread(target=importer.run, args=(stop,), name="importer", daemon=True)
    try:
        importing.start()
        Controller(database, store, name, lease_s=settings.lease_s, poll_s=settings.poll_s).run(stop)
    finally:
        # It ends between two transactions, and hands its job back.
        stop.set()
        importing.join(_IMPORTER_ENDS_S)
        database.dispose()
