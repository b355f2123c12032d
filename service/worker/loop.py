"""The loop: lease, handle, report."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar, final

import structlog

from service.client import ApiError, Client, NotFound
from service.client.patience import passing, pause_s
from service.core.errors import LeaseLost
from service.core.failures import Failure
from service.core.states import State
from service.evaluation.handler import handle
from service.evaluation.toolbox import Artifacts, Toolbox
from service.wire.base import Json
from service.wire.jobs import CompleteBatch, CompleteIn, FailIn, Lease, LeaseIn, WorkerIn
from service.worker.failures import describe_failure
from service.worker.pulse import PROGRESS_S, Drained, Pulse

POLL_S = 2.0
"""A long poll lasts so long at most: an idle worker heeds SIGTERM within that time."""
DRAIN_S = 10.0
_SLICE_S = 0.1
_BROKEN = 8
"""So many answers of status 500 to one request are taken as final."""

Answer = TypeVar("Answer")
log = structlog.get_logger("frontier.worker")


@final
class Worker:
    """Runs jobs one after another until it is drained."""

    def __init__(
        self,
        client: Client,
        toolbox: Toolbox,
        announcement: WorkerIn,
        *,
        wait_s: float = POLL_S,
        drain_s: float = DRAIN_S,
        progress_s: float = PROGRESS_S,
    ) -> None:
        self._client, self._announcement = client, announcement
        self._wait_s, self._drain_s, self._progress_s = wait_s, drain_s, progress_s
        # A plain value: a signal's handler may interrupt whoever holds a lock, and must take none.
        self._draining = False
        self._deadline = float("inf")
        artifacts = Artifacts(
            get=lambda digest: self._patiently(lambda: toolbox.artifacts.get(digest)),
            put=lambda data: self._patiently(lambda: toolbox.artifacts.put(data)),
        )
        self._put = toolbox.artifacts.put
        self._toolbox = toolbox.with_artifacts(artifacts)

    def drain(self, seconds: float | None = None) -> None:
        """No new jobs; the present one is handed back if it does not finish in time. For signals and other threads."""
        self._deadline = min(self._deadline, time.monotonic() + (self._drain_s if seconds is None else seconds))
        self._draining = True

    def run(self) -> None:
        """Works until drained. Raises `ApiError` when the server refuses this worker (a wrong key, for example)."""
        known, failures = False, 0
        while not self._draining:
            try:
                if not known:
                    self._client.workers.announce(self._announcement)
                    log.info("announced", worker=self._announcement.name, device=self._announcement.device.name)
                    known = True
                asked = LeaseIn(
                    worker=self._announcement.name, count=1, wait_s=self._wait_s, weights=self._toolbox.weights
                )
                leases = self._client.jobs.lease(asked)
            except Exception as error:
                if not passing(error) and not (known and isinstance(error, NotFound)):
                    raise
                # The server may have been replaced by one that does not know this worker.
                known, failures = False, failures + 1
                log.warning("no jobs to be had", error=str(error), failures=failures)
                self._pause(pause_s(failures))
                continue
            failures = 0
            for lease in leases:
                self.work(lease)
        log.info("drained", worker=self._announcement.name)

    def work(self, lease: Lease) -> None:
        """Runs one leased job and reports what came of it."""
        began = time.perf_counter()
        pulse = Pulse(self._client, lease, self._put, self._past_deadline, progress_s=self._progress_s)
        with pulse:
            try:
                if self._draining:
                    raise Drained("the worker was asked to end")
                checkpoint = self._checkpoint(lease)
                result = handle(lease.kind, lease.payload, self._toolbox, pulse.report, checkpoint)
                pulse.settle()
            except LeaseLost as error:
                log.warning("lease lost", job=lease.job, reason=error.message)
                return
            except Exception as error:
                if isinstance(error, Drained):
                    self._last_beat(pulse, lease)
                failure = describe_failure(error, lease, time.perf_counter() - began)
                log.warning(
                    "ended without a result",
                    job=lease.job,
                    kind=lease.kind,
                    failure=failure.failure,
                    reason=failure.reason,
                )
                self._fail(lease, failure)
            else:
                self._complete(lease, result, time.perf_counter() - began)

    def _checkpoint(self, lease: Lease) -> bytes | None:
        if lease.checkpoint is None:
            return None
        try:
            return self._toolbox.artifacts.get(lease.checkpoint).read_bytes()
        except NotFound:
            log.warning("checkpoint is gone, starting afresh", job=lease.job)
            return None

    def _last_beat(self, pulse: Pulse, lease: Lease) -> None:
        try:
            pulse.beat()
        except Exception as error:
            log.warning("last checkpoint not sent", job=lease.job, error=str(error))

    def _complete(self, lease: Lease, result: Json, seconds: float) -> None:
        results = [CompleteIn(job=lease.job, token=lease.token, result=result, seconds=seconds)]
        body = CompleteBatch(worker=self._announcement.name, results=results)
        try:
            answer = self._patiently(lambda: self._client.jobs.complete(body)).items[0]
        except Drained:
            log.error("result not delivered: the server is away and this worker must end", job=lease.job)
        except ApiError as error:
            log.error("result refused", job=lease.job, error=str(error))
            reason = f"the server refused the result: {error}"[:2000]
            self._fail(lease, FailIn(token=lease.token, state=State.FAILED, failure=Failure.BUG, reason=reason))
        else:
            log.info("done", job=lease.job, kind=lease.kind, seconds=round(seconds, 3), accepted=answer.accepted)

    def _fail(self, lease: Lease, failure: FailIn) -> None:
        try:
            self._patiently(lambda: self._client.jobs.fail(lease.job, failure))
        except Drained:
            log.error("failure not delivered: the server is away and this worker must end", job=lease.job)
        except ApiError as error:
            # A lost lease, most likely: the job is somebody else's.
            log.warning("failure not accepted", job=lease.job, error=str(error))

    def _past_deadline(self) -> bool:
        return time.monotonic() >= self._deadline

    def _patiently(self, call: Callable[[], Answer]) -> Answer:
        """Calls until the server answers. Raises `Drained` when it is away and the worker has no more time."""
        failures = 0
        while True:
            try:
                return call()
            except Exception as error:
                if not passing(error):
                    raise
                if self._past_deadline():
                    raise Drained(f"the server cannot be reached: {error}") from error
                failures += 1
                if failures > _BROKEN and isinstance(error, ApiError) and error.status == 500:
                    # The server breaks on this very request: it will for ever.
                    raise
                log.warning("waiting for the server", error=str(error), failures=failures)
                self._pause(pause_s(failures))

    def _pause(self, seconds: float) -> None:
        """Sleeps; a drain that begins meanwhile cuts it short, and one that has begun bounds it."""
        before = self._draining
        end = min(time.monotonic() + seconds, self._deadline)
        while before == self._draining and (left := end - time.monotonic()) > 0:
            time.sleep(min(left, _SLICE_S))
