"""The heartbeat of one lease: keeps it, carries progress and checkpoints, and brings back what the server wants."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Self, final

import structlog

from service.client import Client, NotFound, Stale
from service.core.errors import JobError, LeaseLost, Stop
from service.wire.base import Json
from service.wire.jobs import HeartbeatIn, Lease

PROGRESS_S = 1.0
"""Progress is sent this often at most; where there is none, a lease is renewed after a third of its time."""
_JOIN_S = 2.0
_PENDING = 100
"""Reports with metrics that wait to be sent: beyond it, every second one is dropped."""

log = structlog.get_logger("frontier.worker")


class Drained(JobError):
    """The worker is to end: the job goes back to the queue."""


@final
class Pulse:
    """The heartbeat of one lease. `report` is the handler's side; use it in a ``with`` statement."""

    def __init__(
        self,
        client: Client,
        lease: Lease,
        put: Callable[[bytes], str],
        drained: Callable[[], bool],
        *,
        progress_s: float = PROGRESS_S,
    ) -> None:
        self._client, self._lease, self._put, self._drained = client, lease, put, drained
        self._progress_s = progress_s
        self._began = self._last = time.monotonic()
        self._lock = threading.Lock()
        self._wake, self._ended = threading.Event(), threading.Event()
        self._stop, self._lost = threading.Event(), threading.Event()
        self._progress: Json = {}
        self._pending: list[Json] = []
        self._checkpoint: bytes | None = None
        self._stored: str | None = None
        self._thread = threading.Thread(target=self._beat_on, name=f"pulse-{lease.job}", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._wake.set()
        # It may be waiting for a server that is away; it then ends by itself.
        self._thread.join(timeout=_JOIN_S)

    def report(
        self,
        done: float,
        total: float,
        note: str = "",
        metrics: Mapping[str, float] | None = None,
        checkpoint: bytes | None = None,
    ) -> None:
        """See `service.evaluation.toolbox.Report`. Raises `LeaseLost`, `Stop`, `Drained`."""
        with self._lock:
            self._progress = {"done": done, "total": total, "note": note}
            if metrics:
                # The server appends each report's metrics to the job's: every one is sent, and sent once.
                kept = {name: value for name, value in metrics.items() if math.isfinite(value)}
                self._pending.append({**self._progress, "metrics": kept})
                if len(self._pending) > _PENDING:
                    del self._pending[:-1:2]
            if checkpoint is not None:
                self._checkpoint = checkpoint
        if self._lost.is_set():
            raise LeaseLost(f"job {self._lease.job}: the lease is lost")
        if self._stop.is_set():
            raise Stop(f"job {self._lease.job} was cancelled")
        if self._drained():
            raise Drained("the worker was asked to end")
        if time.monotonic() - self._last >= self._progress_s:
            self._wake.set()

    def settle(self) -> None:
        """Sends the metrics that were reported and not sent yet, unless the job was too short for any heartbeat."""
        if self._pending and time.monotonic() - self._began >= self._progress_s:
            try:
                self.beat()
            except Exception as error:
                log.warning("last reports not sent", job=self._lease.job, error=str(error))

    def beat(self) -> None:
        """Sends what there is to send, the newest checkpoint with it. Raises what the client raises."""
        with self._lock:
            pending, self._pending = self._pending, []
            progress, checkpoint, self._checkpoint = self._progress, self._checkpoint, None
        try:
            if checkpoint is not None:
                self._stored = self._put(checkpoint)
                checkpoint = None
            # Reports with metrics go as they were made; progress since then can wait for the next heartbeat.
            while len(pending) > 1:
                self._send(pending[0])
                del pending[0]
            self._send(pending[0] if pending else progress)
            pending = []
        finally:
            with self._lock:
                self._pending = pending + self._pending
                self._checkpoint = self._checkpoint or checkpoint

    def _send(self, progress: Json) -> None:
        body = HeartbeatIn(token=self._lease.token, progress=progress or None, checkpoint=self._stored)
        if self._client.jobs.heartbeat(self._lease.job, body).stop:
            self._stop.set()

    def _beat_on(self) -> None:
        pause = self._lease.lease_s / 3
        while True:
            self._wake.wait(pause)
            if self._ended.is_set():
                return
            self._wake.clear()
            self._last = time.monotonic()
            try:
                self.beat()
            except (Stale, NotFound):
                self._lost.set()
                return
            except Exception as error:
                # Whatever it is, the next heartbeat may work, and the handler is not to be disturbed by it.
                log.warning("heartbeat failed", job=self._lease.job, error=str(error))
            self._last = time.monotonic()
