"""The ask/tell loop: takes trials of a search, calls a function, and sends what it measured, until the search ends."""

from __future__ import annotations

import logging
import threading
import time
import traceback
from collections.abc import Callable
from typing import Literal, Protocol, TypeVar, final

from pydantic import ValidationError

from service.client.errors import ApiError
from service.client.patience import passing, pause_s
from service.client.pulse import TrialPulse
from service.client.resources import Searches, Studies
from service.client.trials import Trials
from service.core import functions
from service.core.errors import Infeasible, Invalid, Stop
from service.core.failures import Failure
from service.core.states import SearchState
from service.wire.searches import SearchIn, SearchOut, TrialOut
from service.wire.studies import StudyOut
from service.wire.trials import SuggestedTrial, SuggestIn, TrialCompleteIn, TrialEndOut, TrialFailIn

LEASE_S = 60.0
"""A trial whose process dies waits again after this time."""
WAIT_S = 20.0
_LOOK_S = 0.2
_LIVE = frozenset({SearchState.RUNNING, SearchState.PAUSED})

Answer = TypeVar("Answer")
log = logging.getLogger("frontier.optimize")


class Resources(Protocol):
    """The parts of a client that the loop uses."""

    searches: Searches
    studies: Studies
    trials: Trials


def choose(
    client: Resources, study: str, designer: str, budget: int, search: int | str | None, resume: bool
) -> SearchOut:
    """The search to go on with, or a new one; see `Client.optimize`. Raises ValueError for one that is not meant."""
    if isinstance(search, int):
        found = client.searches.get(search)
        if found.study != study:
            raise ValueError(f"search {search} belongs to study {found.study!r}, not to {study!r}")
        return found
    if search is not None:
        if not resume and any(each.name == search for each in client.searches.list(study)):
            raise ValueError(f"study {study!r} has a search {search!r} already: resume=True goes on with it")
        return client.searches.create(study, SearchIn(name=search, designer=designer, budget=budget))
    if resume:
        for each in reversed(list(client.searches.list(study))):
            if each.state in _LIVE and (each.designer, each.budget) == (designer, budget):
                return each
    return client.searches.create(study, SearchIn(designer=designer, budget=budget))


@final
class Loop:
    """One process's part in a search. ``device`` is what latencies are measured on."""

    def __init__(
        self,
        client: Resources,
        study: StudyOut,
        search: int,
        function: functions.Function,
        worker: str,
        device: str,
        on_trial: Callable[[TrialOut], None] | None,
    ) -> None:
        self._client, self._study, self._search = client, study, search
        self._function, self._on_trial = function, on_trial
        self._worker, self._device = worker, device
        self._leaving = threading.Event()
        self._lock = threading.Lock()
        self._running: dict[int, tuple[SuggestedTrial, TrialPulse]] = {}
        self._error: BaseException | None = None

    def run(self, workers: int) -> None:
        """Works until the search has ended, calling the function in ``workers`` threads (one: in this one).

        Ctrl-C hands back what is being evaluated and goes on up, as does what the server refuses or ``on_trial``
        raises.
        """
        if workers == 1:
            self._work()
            return
        threads = [threading.Thread(target=self._guarded, name=f"optimize-{i}", daemon=True) for i in range(workers)]
        for thread in threads:
            thread.start()
        try:
            for thread in threads:
                while thread.is_alive():
                    thread.join(_LOOK_S)
        except BaseException:
            self._leave()
            raise
        if self._error is not None:
            raise self._error

    def _guarded(self) -> None:
        try:
            self._work()
        except BaseException as error:
            self._error = self._error or error
            self._leaving.set()  # the others finish their trials

    def _work(self) -> None:
        asked = SuggestIn(worker=self._worker, count=1, wait_s=WAIT_S, lease_s=LEASE_S)
        while not self._leaving.is_set():
            answer = self._patiently(lambda: self._client.trials.suggest(self._search, asked))
            for given in answer.trials:
                self._evaluate(given)
            if answer.done:
                return

    def _evaluate(self, given: SuggestedTrial) -> None:
        pulse = TrialPulse(self._client.trials, given)
        with self._lock:
            self._running[given.trial] = (given, pulse)
        try:
            with pulse:
                ended = self._measure(given, pulse)
        except BaseException:  # Ctrl-C, or an end of the process: somebody else may have it
            self._hand_back(given)
            raise
        finally:
            with self._lock:
                self._running.pop(given.trial, None)
        if self._on_trial is not None and ended is not None:
            found = self._patiently(lambda: self._client.trials.get(given.trial))
            with self._lock:
                self._on_trial(found)

    def _measure(self, given: SuggestedTrial, pulse: TrialPulse) -> TrialEndOut | None:
        """Calls the function and sends what came of it; None if the trial is somebody else's by now."""
        trial = functions.Running(
            metrics=tuple(given.metrics),
            fidelity=given.fidelity,
            seed=given.seed,
            genes=tuple(given.genes),
            options=self._study.evaluator.options,
            send=pulse.send,
            number=given.number,
        )
        began = time.perf_counter()
        try:
            values = functions.evaluate(self._function, dict(given.config), trial)
        except Exception as error:
            return self._fail(given, failure_of(error, given.token, time.perf_counter() - began))
        seconds = time.perf_counter() - began
        try:
            body = TrialCompleteIn(
                token=given.token,
                metrics=values,
                seconds=seconds,
                device=next((name for metric in given.metrics if (name := metric.partition("@")[2])), self._device),
                worker=self._worker,
            )
            return self._patiently(lambda: self._client.trials.complete(given.trial, body))
        except (ApiError, ValidationError) as error:
            reason = f"the result was refused: {error}"[:2000]
            return self._fail(given, TrialFailIn(token=given.token, state="FAILED", reason=reason, seconds=seconds))

    def _fail(self, given: SuggestedTrial, body: TrialFailIn) -> TrialEndOut | None:
        if body.state == "FAILED":
            log.warning("trial %d failed: %s", given.number, body.reason)
        try:
            return self._patiently(lambda: self._client.trials.fail(given.trial, body))
        except ApiError as error:
            # A lost lease, most likely: the trial is somebody else's.
            log.warning("trial %d: its end was not taken: %s", given.number, error)
            return None

    def _leave(self) -> None:
        """Hands back what the threads are evaluating; their functions cannot be ended from here."""
        self._leaving.set()
        with self._lock:
            running = list(self._running.values())
        for given, pulse in running:
            pulse.end("the loop was interrupted")
            self._hand_back(given)

    def _hand_back(self, given: SuggestedTrial) -> None:
        body = TrialFailIn(token=given.token, state="QUEUED", reason=f"{self._worker} was interrupted")
        try:
            self._client.trials.fail(given.trial, body)
        except Exception as error:  # its lease runs out by itself
            log.warning("trial %d was not handed back: %s", given.number, error)

    def _patiently(self, call: Callable[[], Answer]) -> Answer:
        """Calls until the server answers: it may be restarted meanwhile."""
        failures = 0
        while True:
            try:
                return call()
            except Exception as error:
                if not passing(error) or self._leaving.is_set():
                    raise
                failures += 1
                log.warning("waiting for the server: %s", error)
                self._leaving.wait(pause_s(failures))


def failure_of(error: Exception, token: int, seconds: float) -> TrialFailIn:
    """What is told of a trial whose function raised this, or answered what is none."""
    trace: str | None = None
    failure: Failure | None = None
    state: Literal["FAILED", "INFEASIBLE", "CANCELLED"] = "FAILED"
    match error:
        case Stop():
            state, reason = "CANCELLED", error.message
        case Infeasible():
            state, reason = "INFEASIBLE", error.message
        case Invalid():
            failure, reason = Failure.INVALID, f"{error.field}: {error.message}"
        case _:
            # Torch's error is known by its name: a client needs no torch.
            if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
                failure = Failure.OUT_OF_MEMORY
            reason = f"{type(error).__name__}: {error}"
            trace = "".join(traceback.format_exception(error))[-100_000:]
    return TrialFailIn(
        token=token, state=state, reason=reason[:2000] or state, traceback=trace, failure=failure, seconds=seconds
    )
