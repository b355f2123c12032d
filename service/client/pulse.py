"""The heartbeat of a trial that is evaluated in this process, and its reports."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from types import TracebackType
from typing import Self, final

from service.client.errors import ApiError, FrontierClientError
from service.client.patience import passing
from service.client.trials import Trials
from service.core.errors import Stop
from service.wire.trials import ReportIn, SuggestedTrial

_PENDING = 1000
"""Reports that wait for a server that is away; as many as it keeps of a trial."""
_JOIN_S = 2.0

log = logging.getLogger("frontier.optimize")


@final
class TrialPulse:
    """Keeps a trial while it is evaluated. Use it in a ``with`` statement; `send` is the function's side.

    Reports are sent at once. While the server is away they wait here, and the evaluation goes on.
    """

    def __init__(self, trials: Trials, given: SuggestedTrial) -> None:
        self._trials, self._given = trials, given
        self._alive = ReportIn(token=given.token, step=0)
        self._pending: list[ReportIn] = []
        self._stop: str | None = None
        self._away = False
        self._sending = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat_on, name=f"trial-{given.trial}", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        # It may be waiting for a server that is away; it then ends by itself.
        self._thread.join(timeout=_JOIN_S)

    def send(self, step: int, metrics: Mapping[str, float], total: int | None) -> None:
        """See `service.core.functions.Running.report`. Raises `Stop`, which ends the trial."""
        self._alive = ReportIn(token=self._given.token, step=step, total=total)
        self._pending.append(self._alive.model_copy(update={"metrics": dict(metrics)}))
        del self._pending[:-_PENDING]
        if not self._away:
            self._beat()
        if self._stop is not None:
            raise Stop(self._stop)

    def end(self, reason: str) -> None:
        """Lets the next report raise."""
        self._stop = reason

    def _beat(self) -> None:
        """Sends what waits, or a report of nothing new."""
        with self._sending:
            try:
                while self._stop is None:
                    waiting = self._pending[0] if self._pending else None
                    answer = self._trials.report(self._given.trial, waiting or self._alive)
                    self._away = False
                    if answer.decision == "stop":
                        self._stop = answer.reason
                    if waiting is None:
                        return
                    if self._pending and self._pending[0] is waiting:
                        del self._pending[0]
                    if not self._pending:
                        return
            except FrontierClientError as error:
                self._away = passing(error)
                if not self._away and isinstance(error, ApiError):
                    self._stop = f"the trial is lost: {error}"
                log.warning("trial %d: report not taken: %s", self._given.number, error)

    def _beat_on(self) -> None:
        while not self._ended.wait(self._given.lease_s / 3):
            self._beat()
