"""Which step is next: searches are shared with other controllers by leases, and done by several hands.

A controller leases a search for one step and gives it back with what the step writes, so that work goes to whoever has
a hand free, and of a controller that was killed only the steps that it was doing wait for their leases. While a step
goes on its lease is renewed; where it is lost (the search was cancelled or paused, or the machine slept) the step is
stopped, as it could not write any more.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from dataclasses import dataclass
from multiprocessing.connection import wait
from types import FrameType
from typing import final

import structlog
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from service.controller.hands import Answer, Hand, Means, Result
from service.core.errors import Stale
from service.core.pauses import pause_s
from service.core.states import OPEN, SearchState, State
from service.db import events, predictors, searches
from service.db.artifacts import ArtifactStore
from service.db.asks import Claim
from service.db.outages import outage
from service.db.session import Database
from service.garbage import collect_rarely
from service.importer import Importer
from service.settings import Settings

_log = structlog.get_logger(__name__)

_LOOK_S = 1.0
"""Without news in the event table everything is still looked at this often: leases of other controllers run out
without an event. Leases of jobs are taken back by API processes."""
_SLOW_S = 5.0
"""Searches whose last step took longer are known as slow."""
_YOUNG_S = 1.0
"""Steps that go on for longer are not waited for: another hand is started."""
_YOUNG = max(2, min(4, os.cpu_count() or 1))
"""Steps at the same time that began a moment ago, and hands that are kept without work."""
_TRIES = 3
"""How often in a row a step may fail of what passes, or kill its process, before its search fails."""
_LONGEST_PAUSE_S = 5.0
_IMPORTER_ENDS_S = 10.0


@dataclass(slots=True)
class _Step:
    """A step that goes on."""

    held: Claim
    hand: Hand
    began: float


@final
class Controller:
    """Advances the searches whose leases it gets. ``name`` is unique among controllers.

    Args:
        lease_s: How long others wait for the searches of a controller that was killed.
        poll_s: Seconds between looks for news.
        step_s: How long a designer may compute for one ask; its search fails beyond.
        steps: So many steps go on at the same time at most. Hands are started while those there are busy with steps
            that take longer; the last place is kept for searches that are not known as slow.
    """

    def __init__(
        self,
        database: Database,
        store: ArtifactStore,
        name: str,
        *,
        lease_s: float,
        poll_s: float,
        step_s: float = 600.0,
        steps: int = 8,
        log_level: str = "WARNING",
    ) -> None:
        self._database = database
        self._means = Means(database.url, store.folder, step_s, log_level)
        self._name = name
        self._lease_s = lease_s
        self._poll_s = poll_s
        self._most = steps
        self._steps: dict[int, _Step] = {}
        self._idle: list[Hand] = []
        self._failed: list[tuple[Claim, str]] = []
        self._slow: set[int] = set()
        self._tries: dict[int, int] = {}
        self._not_before: dict[int, float] = {}
        self._due_since: dict[int, float] = {}
        self._seen = -1
        self._look_at = 0.0
        self._waiting = False  # whether a search was due that no hand was free for
        self._renewed = time.monotonic()

    def run(self, stop: threading.Event) -> None:
        """Until ``stop`` is set; steps that go on then are given up. A database that is away is waited for."""
        failures = 0
        try:
            while not stop.is_set():
                try:
                    self._pass()
                    failures = 0
                except (SQLAlchemyError, OSError) as error:
                    found = outage(error)
                    if isinstance(error, SQLAlchemyError) and found is None:
                        raise
                    failures += 1
                    _log.warning(
                        "waiting", cause=None if found is None else found.cause, error=str(error.__cause__ or error)
                    )
                self._rest(stop, pause_s(failures, _LONGEST_PAUSE_S) if failures else self._poll_s)
        finally:
            self._close()

    def _pass(self) -> None:
        self._take_in()
        self._keep()
        self._begin()

    # ------------------------------------------------------------------ steps that go on

    def _take_in(self) -> None:
        """What became of steps that ended."""
        for step in list(self._steps.values()):
            answer = step.hand.answer()
            if answer is not None:
                del self._steps[step.held.search_id]
                self._ended(step, answer)
        while self._failed:
            held, reason = self._failed[0]
            try:
                with self._database.write() as s:
                    searches.finish(s, held, SearchState.FAILED, reason)
            except Stale:
                _log.info("search lost", search=held.search_id)
            self._failed.pop(0)
            self._look_at = 0.0

    def _ended(self, step: _Step, answer: Answer) -> None:
        search = step.held.search_id
        (self._slow.add if time.monotonic() - step.began > _SLOW_S else self._slow.discard)(search)
        if answer.result in (Result.DIED, Result.TOO_LONG) or len(self._idle) >= _YOUNG:
            step.hand.end()
        else:
            self._idle.append(step.hand)
        # A step can make another one due. One that found nothing to do is not begun again before there is news.
        if answer.wrote or self._waiting:
            self._look_at = 0.0
        match answer.result:
            case Result.DONE | Result.LOST:
                self._tries.pop(search, None)
                if answer.wrote:
                    self._due_since.pop(search, None)
            case Result.OUTAGE:
                self._not_before[search] = time.monotonic() + pause_s(_TRIES)
            case Result.FAILED | Result.TOO_LONG:
                self._fail(step.held, answer.reason)
            case Result.PASSING | Result.DIED:
                tries = self._tries[search] = self._tries.get(search, 0) + 1
                _log.warning("step failed", search=search, tries=tries, reason=answer.reason)
                if tries == _TRIES:
                    self._fail(step.held, f"{answer.reason}, {tries} times in a row")
                else:
                    self._not_before[search] = time.monotonic() + pause_s(tries)

    def _fail(self, held: Claim, reason: str) -> None:
        self._tries.pop(held.search_id, None)
        self._failed.append((held, f"the designer failed: {reason}"))

    def _keep(self) -> None:
        """Renews the leases of steps that go on."""
        if not self._steps:
            self._renewed = time.monotonic()
        if time.monotonic() - self._renewed < self._lease_s / 3:
            return
        with self._database.write() as s:
            lost = [step for step in self._steps.values() if not searches.renew(s, step.held, self._lease_s)]
        self._renewed = time.monotonic()
        for step in lost:
            # One that has just ended has given its search back: that is no loss.
            if not step.hand.connection.poll():
                _log.info("step stopped", search=step.held.search_id)
                del self._steps[step.held.search_id]
                step.hand.end()

    # ------------------------------------------------------------------ steps that begin

    def _begin(self) -> None:
        """Starts the steps that are due, as far as there are hands for them."""
        with self._database.read() as s:
            last = events.last(s)
            if last == self._seen and time.monotonic() < self._look_at:
                return
            due = self._due(s)
        self._look_at, self._seen = time.monotonic() + _LOOK_S, last
        chosen: list[int] = []
        # Those that wait longest first; slow ones behind the others.
        for search in sorted(due, key=lambda each: (each in self._slow, self._due_since[each])):
            if self._has_place(search, len(chosen)):
                chosen.append(search)
        self._waiting = len(chosen) < len(due)
        if not chosen:
            return
        # Before the claims: the first hand of a controller takes seconds to start, and meanwhile no lease is renewed.
        while len(self._idle) < len(chosen):
            self._idle.append(Hand(self._means))
        with self._database.write() as s:
            claims = [searches.claim(s, search, self._name, self._lease_s) for search in chosen]
        for held in claims:
            if held is not None:
                now = time.monotonic()
                hand = self._idle.pop()
                self._steps[held.search_id] = _Step(held, hand, now)
                hand.begin(held, now - self._due_since[held.search_id])

    def _due(self, s: Session) -> list[int]:
        """Searches that something is to be done for, and that no other controller has."""
        now = time.monotonic()
        ids = searches.running(s, self._name)
        due = []
        for search in ids:
            if search in self._steps:
                continue
            progress = searches.progress(s, search)
            if not progress.due:
                self._due_since.pop(search, None)
                continue
            self._due_since.setdefault(search, now)
            fitting = progress.end is None and _fits(s, search, progress.asks)
            if not fitting and self._not_before.get(search, 0.0) <= now:
                due.append(search)
        self._forget(set(ids))
        return due

    def _forget(self, known: set[int]) -> None:
        """Drops what is remembered of searches that run no more, or elsewhere."""
        gone = (self._tries.keys() | self._not_before.keys() | self._due_since.keys() | self._slow) - known
        for search in gone - self._steps.keys():
            self._tries.pop(search, None)
            self._not_before.pop(search, None)
            self._due_since.pop(search, None)
            self._slow.discard(search)

    def _has_place(self, search: int, chosen: int) -> bool:
        busy = len(self._steps) + chosen
        if busy >= self._most or (search in self._slow and busy >= self._most - 1 > 0):
            return False
        now = time.monotonic()
        return chosen + sum(now - step.began <= _YOUNG_S for step in self._steps.values()) < _YOUNG

    # ------------------------------------------------------------------ the end

    def _rest(self, stop: threading.Event, seconds: float) -> None:
        """Waits for a step's end, for ``stop``, or so long."""
        until = time.monotonic() + seconds
        while not stop.is_set() and (left := until - time.monotonic()) > 0:
            if not self._steps:
                stop.wait(left)
            elif wait([step.hand.connection for step in self._steps.values()], min(left, 0.1)):
                return

    def _close(self) -> None:
        for hand in [*(step.hand for step in self._steps.values()), *self._idle]:
            hand.end()
        self._steps.clear()
        self._idle.clear()
        try:
            with self._database.write() as s:
                searches.release_all(s, self._name)
        except SQLAlchemyError as error:
            _log.warning("leases were left to run out", error=str(error))


def _fits(s: Session, search: int, ask: int) -> bool:
    """Whether an ask waits for its predictors to be fitted."""
    return any(State(row.state) in OPEN for row in predictors.for_ask(s, search, ask))


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
    controller = Controller(
        database,
        store,
        name,
        lease_s=settings.lease_s,
        poll_s=settings.poll_s,
        step_s=settings.step_s,
        steps=settings.steps,
        log_level=settings.log_level,
    )
    collect_rarely()
    try:
        importing.start()
        controller.run(stop)
    finally:
        # It ends between two transactions, and hands its job back.
        stop.set()
        importing.join(_IMPORTER_ENDS_S)
        database.dispose()
