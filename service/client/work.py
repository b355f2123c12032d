"""The queue and its workers."""

from __future__ import annotations

import builtins
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import TypeVar, final

from service.client.errors import JobFailed, WaitTimeout
from service.client.http import Http
from service.client.resources import PAGE, every, part
from service.core.failures import Failure
from service.core.states import OPEN, State
from service.wire.base import Page
from service.wire.jobs import (
    CancelledOut,
    CompleteBatch,
    Completed,
    CompletedBatch,
    DeviceOut,
    FailIn,
    FailuresOut,
    HeartbeatIn,
    HeartbeatOut,
    JobKind,
    JobOut,
    JobsIn,
    Lease,
    LeaseIn,
    LeasesOut,
    RetriedOut,
    WorkerIn,
    WorkerOut,
)

_QUICKEST_LOOK_S = 0.1
_SLOWEST_LOOK_S = 1.0

_Done = TypeVar("_Done", RetriedOut, CancelledOut)


def _batches(send: Callable[[JobsIn], _Done], body: JobsIn) -> Iterator[_Done]:
    """The answers to one request after the other, until all jobs were looked at."""
    following: int | None = body.after
    while following is not None:
        done = send(body.model_copy(update={"after": following}))
        yield done
        following = done.next


@final
class Jobs:
    """Jobs: to watch, and to work on."""

    def __init__(self, http: Http) -> None:
        self._http = http

    def get(self, job: int) -> JobOut:
        """One job, by its id."""
        return self._http.get(JobOut, f"/v1/jobs/{job}")

    def page(
        self,
        size: int = PAGE,
        token: str | None = None,
        *,
        state: State | None = None,
        kind: JobKind | None = None,
        study: str | None = None,
        search: int | None = None,
        worker: str | None = None,
        failure: Failure | None = None,
        dead: bool = False,
    ) -> Page[JobOut]:
        """One page of jobs, newest first. ``dead``: those whose attempts are used up, FAILED or LOST."""
        query = {
            "page_size": size,
            "page_token": token,
            "state": state,
            "kind": kind,
            "study": study,
            "search": search,
            "worker": worker,
            "failure": failure,
            "dead": dead or None,
        }
        return self._http.get(Page[JobOut], "/v1/jobs", query)

    def list(
        self,
        *,
        state: State | None = None,
        kind: JobKind | None = None,
        study: str | None = None,
        search: int | None = None,
        worker: str | None = None,
        failure: Failure | None = None,
        dead: bool = False,
    ) -> Iterator[JobOut]:
        """All jobs, newest first, or those that pass every filter given."""
        return every(
            lambda token: self.page(
                token=token,
                state=state,
                kind=kind,
                study=study,
                search=search,
                worker=worker,
                failure=failure,
                dead=dead,
            )
        )

    def failures(
        self,
        *,
        kind: JobKind | None = None,
        study: str | None = None,
        search: int | None = None,
        since: datetime | None = None,
    ) -> FailuresOut:
        """Dead letters, and jobs that wait for another try, grouped by kind, class of failure and reason.

        ``since``: only failures from this time on, with its time zone.
        """
        query = {
            "kind": kind,
            "study": study,
            "search": search,
            "since": None if since is None else since.isoformat(),
        }
        return self._http.get(FailuresOut, "/v1/jobs:failures", query)

    def retry(self, body: JobsIn) -> RetriedOut:
        """Puts dead letters back into the queue, at most ``limit`` of them; `retry_all` goes on to the last."""
        return self._http.post(RetriedOut, "/v1/jobs:retry", body)

    def cancel_some(self, body: JobsIn) -> CancelledOut:
        """Cancels jobs, at most ``limit`` of them; `cancel_all` goes on to the last."""
        return self._http.post(CancelledOut, "/v1/jobs:cancel", body)

    def retry_all(self, body: JobsIn) -> RetriedOut:
        """Puts all dead letters back that pass the filters, batch by batch; says what became of which."""
        parts = builtins.list(_batches(self.retry, body))
        return RetriedOut(
            retried=[job for part in parts for job in part.retried],
            left_alone=[each for part in parts for each in part.left_alone],
            next=None,
        )

    def cancel_all(self, body: JobsIn) -> CancelledOut:
        """Cancels all open jobs that pass the filters, batch by batch; says what became of which."""
        parts = builtins.list(_batches(self.cancel_some, body))
        return CancelledOut(
            cancelled=[job for part in parts for job in part.cancelled],
            stopping=[job for part in parts for job in part.stopping],
            left_alone=[each for part in parts for each in part.left_alone],
            next=None,
        )

    def wait(
        self, job: int, on_progress: Callable[[JobOut], None] | None = None, timeout_s: float | None = None
    ) -> JobOut:
        """Waits until a job ends, and returns it.

        ``on_progress`` is called with the job whenever it changed. Raises `JobFailed` unless it succeeded, and
        `WaitTimeout` when ``timeout_s`` seconds have passed.
        """
        began = time.monotonic()
        pause, before = _QUICKEST_LOOK_S, None
        while True:
            found = self.get(job)
            if found != before and on_progress is not None:
                on_progress(found)
            before = found
            if found.state not in OPEN:
                if found.state is not State.SUCCEEDED:
                    raise JobFailed(found)
                return found
            if timeout_s is not None and time.monotonic() - began > timeout_s:
                raise WaitTimeout(found, timeout_s)
            time.sleep(pause)
            pause = min(pause * 1.5, _SLOWEST_LOOK_S)

    def cancel(self, job: int) -> JobOut:
        """Cancels a job; a worker that has it hears of it with its next heartbeat."""
        return self._http.post(JobOut, f"/v1/jobs/{job}:cancel")

    # ------------------------------------------------------------------ for workers

    def lease(self, body: LeaseIn) -> builtins.list[Lease]:
        """Leases jobs, waiting up to ``wait_s`` seconds for the first. Never repeated: a lost answer leaves its jobs
        leased until their leases run out."""
        path, wait_s = "/v1/jobs:lease", body.wait_s
        return self._http.post(LeasesOut, path, body, repeatable=False, wait_s=wait_s).leases

    def heartbeat(self, job: int, body: HeartbeatIn) -> HeartbeatOut:
        """Extends a lease. Raises `Stale` if it is lost."""
        return self._http.post(HeartbeatOut, f"/v1/jobs/{job}:heartbeat", body)

    def complete(self, body: CompleteBatch) -> CompletedBatch:
        """Reports results. Safe to repeat: the token says which lease a result belongs to."""
        return self._http.post(CompletedBatch, "/v1/jobs:complete", body)

    def fail(self, job: int, body: FailIn) -> Completed:
        """Ends a job without a result, or hands it back. Raises `Stale` if the lease is lost."""
        return self._http.post(Completed, f"/v1/jobs/{job}:fail", body)


@final
class Devices:
    """What workers compute on."""

    def __init__(self, http: Http) -> None:
        self._http = http

    def get(self, name: str) -> DeviceOut:
        """One device."""
        return self._http.get(DeviceOut, f"/v1/devices/{part(name)}")

    def page(self, size: int = PAGE, token: str | None = None) -> Page[DeviceOut]:
        """One page of devices."""
        return self._http.get(Page[DeviceOut], "/v1/devices", {"page_size": size, "page_token": token})

    def list(self) -> Iterator[DeviceOut]:
        """All devices."""
        return every(lambda token: self.page(token=token))


@final
class Workers:
    """Workers."""

    def __init__(self, http: Http) -> None:
        self._http = http

    def announce(self, body: WorkerIn) -> WorkerOut:
        """Tells the server what a worker can do. A second announcement replaces the first."""
        return self._http.post(WorkerOut, "/v1/workers", body)

    def get(self, name: str) -> WorkerOut:
        """One worker."""
        return self._http.get(WorkerOut, f"/v1/workers/{part(name)}")

    def page(self, size: int = PAGE, token: str | None = None) -> Page[WorkerOut]:
        """One page of workers."""
        return self._http.get(Page[WorkerOut], "/v1/workers", {"page_size": size, "page_token": token})

    def list(self) -> Iterator[WorkerOut]:
        """All workers."""
        return every(lambda token: self.page(token=token))
