"""The queue and its workers."""

from __future__ import annotations

import builtins
import time
from collections.abc import Callable, Iterator
from typing import final

from service.client.errors import JobFailed, WaitTimeout
from service.client.http import Http
from service.client.resources import PAGE, every, part
from service.core.states import OPEN, State
from service.wire.base import Page
from service.wire.jobs import (
    CompleteBatch,
    Completed,
    CompletedBatch,
    FailIn,
    HeartbeatIn,
    HeartbeatOut,
    JobKind,
    JobOut,
    Lease,
    LeaseIn,
    LeasesOut,
    WorkerIn,
    WorkerOut,
)

_QUICKEST_LOOK_S = 0.1
_SLOWEST_LOOK_S = 1.0


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
    ) -> Page[JobOut]:
        """One page of jobs, newest first."""
        query = {
            "page_size": size,
            "page_token": token,
            "state": state,
            "kind": kind,
            "study": study,
            "search": search,
        }
        return self._http.get(Page[JobOut], "/v1/jobs", query)

    def list(
        self,
        *,
        state: State | None = None,
        kind: JobKind | None = None,
        study: str | None = None,
        search: int | None = None,
    ) -> Iterator[JobOut]:
        """All jobs, newest first."""
        return every(lambda token: self.page(token=token, state=state, kind=kind, study=study, search=search))

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
