"""The processes in which steps are done: what a designer does to its process, it does to nobody else.

Designers and predictors are other people's code. One may loop for ever, hold the interpreter's lock, end the process
or crash it: in a process of its own it can be killed, whatever it does. A hand does one step after the other; it opens
the database itself, so that what goes to and fro is a few numbers as JSON.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from enum import StrEnum
from functools import partial
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import final

import structlog
from sqlalchemy.exc import SQLAlchemyError

from service.controller.stepping import Stepper
from service.core.errors import FrontierError, Stale
from service.db.artifacts import ArtifactStore
from service.db.asks import Claim
from service.db.outages import outage
from service.db.session import Database
from service.logs import configure

_log = structlog.get_logger(__name__)

# Copies of one process that has imported what steps need and started no threads: each new hand is there at once, and
# shares that memory.
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["__main__", __name__])
_ENDS_S = 5.0


class Result(StrEnum):
    """What became of a step."""

    DONE = "done"
    LOST = "lost"
    """The search is another controller's by now, or stopped."""
    OUTAGE = "outage"
    PASSING = "passing"
    """Something failed that may not the next time: a file system, memory."""
    FAILED = "failed"
    TOO_LONG = "too long"
    DIED = "died"


@dataclass(frozen=True, slots=True)
class Answer:
    """How a step ended. ``wrote``: there is news of the search; ``reason``: of what failed."""

    result: Result
    wrote: bool = False
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Means:
    """What hands work with: the database's URL, the folder of artifacts, and how long a designer may take."""

    url: str
    folder: Path
    limit_s: float
    log_level: str


@final
class Hand:
    """One process. It does one step at a time."""

    def __init__(self, means: Means) -> None:
        self._limit_s = means.limit_s
        self.connection, theirs = _CONTEXT.Pipe()
        self._process = _CONTEXT.Process(target=_serve, args=(theirs, means), name="hand", daemon=True)
        self._process.start()
        theirs.close()

    def begin(self, held: Claim, waited_s: float) -> None:
        """Starts a step of the search that is ``held``."""
        order = {"search": held.search_id, "token": held.token, "waited_s": waited_s}
        try:
            self.connection.send_bytes(json.dumps(order).encode())
        except OSError:  # it has died: `answer` says so
            _log.warning("hand_lost", search=held.search_id)

    def answer(self) -> Answer | None:
        """What became of the step; None while it goes on. After `DIED` and `TOO_LONG` the hand is of no use."""
        try:
            if not self.connection.poll():
                return None
            said = json.loads(self.connection.recv_bytes())
        except (EOFError, OSError):
            return self._death()
        return Answer(Result(said["result"]), said["wrote"], said["reason"])

    def end(self) -> None:
        """Kills the process. The database rolls back what it was writing."""
        self._process.kill()
        self._process.join(_ENDS_S)
        self.connection.close()

    def _death(self) -> Answer:
        self._process.join(_ENDS_S)
        code = self._process.exitcode
        if code == -signal.SIGALRM:
            return Answer(Result.TOO_LONG, reason=f"took longer than {self._limit_s:g} s for one ask")
        if code is not None and code < 0:
            return Answer(Result.DIED, reason=f"its process was killed by signal {-code} ({signal.strsignal(-code)})")
        return Answer(Result.DIED, reason=f"its process ended with code {code}")


def _serve(connection: Connection, means: Means) -> None:
    """Does steps until the controller ends."""
    # Ctrl-C reaches all processes of a terminal; the controller says when it is over.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    configure(means.log_level, "controller")
    threading.Thread(target=_end_with_controller, name="controller", daemon=True).start()
    database = Database(means.url)
    stepper = Stepper(database, ArtifactStore(means.folder), partial(_limited, means.limit_s))
    while True:
        try:
            order = json.loads(connection.recv_bytes())
        except (EOFError, OSError):
            break
        answer = _step(stepper, Claim(order["search"], order["token"]), order["waited_s"])
        connection.send_bytes(json.dumps(asdict(answer)).encode())
    database.dispose()


def _step(stepper: Stepper, held: Claim, waited_s: float) -> Answer:
    try:
        return Answer(Result.DONE, wrote=stepper.step(held, waited_s))
    except Stale:
        return Answer(Result.LOST)
    except (OSError, MemoryError) as error:
        _log.warning("step failed", search=held.search_id, exc_info=error)
        return Answer(Result.PASSING, reason=f"{type(error).__name__}: {error}")
    except (Exception, SystemExit) as error:
        found = outage(error)
        if found is not None:
            return Answer(Result.OUTAGE, reason=found.detail)
        _log.error("step failed", search=held.search_id, exc_info=error)
        return Answer(Result.FAILED, reason=_said(error))


def _said(error: BaseException) -> str:
    if isinstance(error, SQLAlchemyError):
        return f"{type(error).__name__}: what it suggests cannot be stored"
    message = error.message if isinstance(error, FrontierError) else str(error)
    return f"{type(error).__name__}: {message}"[:2000]


@contextmanager
def _limited(seconds: float) -> Iterator[None]:
    """The system kills this process if the block takes longer: not even native code that holds the interpreter's lock
    goes on for ever, nor when the controller was killed."""
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _end_with_controller() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
