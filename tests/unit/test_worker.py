"""The worker against a small server of its own: heartbeats, cancelled and lost jobs, drain, a server that is away."""

from __future__ import annotations

import hashlib
import json
import signal
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, final

import httpx
import pytest

from service.client import ApiError, Client, ConnectionFailed, DigestMismatch
from service.client.errors import error_of
from service.core.errors import Infeasible, Invalid, OutOfMemory, Unavailable
from service.evaluation import handler
from service.evaluation.toolbox import Artifacts, Report, Toolbox
from service.wire.base import Json
from service.wire.jobs import Device, JobKind, WorkerIn
from service.worker import Worker
from service.worker import loop as loop_module
from service.worker.process import _drain_on_signals, announcement, cached_artifacts, read_datasets

Handler = Callable[[Json, Toolbox, Report, bytes | None], Json]
WAIT_S = 20.0


@final
class Server:
    """What the worker sees of a server: a queue of leases, and a record of what it said. Behind httpx's transport."""

    def __init__(self) -> None:
        self.waiting: list[Json] = []
        self.seen: list[tuple[str, Json]] = []
        self.files: dict[str, bytes] = {}
        self.ended = threading.Event()
        self.cancelled = self.stale = self.known = False
        self.refuse_files, self.refused_files = False, 0
        self.away = 0
        """So many requests find nobody."""
        self.answers: dict[str, list[httpx.Response]] = {}
        """Paths → answers to give before the usual one."""
        self._lock = threading.Lock()

    def lease(self, job: int = 1, kind: str = "fit", lease_s: float = 30.0, **more: Any) -> None:
        """Queues a job."""
        now = datetime.now(UTC)
        lease = {"job": job, "kind": kind, "token": 7, "attempt": 1, "expires_at": (now + timedelta(30)).isoformat()}
        self.waiting.append({**lease, "lease_s": lease_s, "payload": {}, **more})

    def of(self, path: str) -> list[Json]:
        """The bodies of all requests whose path ends so."""
        with self._lock:
            return [body for seen, body in self.seen if seen.endswith(path)]

    def __call__(self, request: httpx.Request) -> httpx.Response:
        path = request.url.path
        with self._lock:
            if self.away:
                self.away -= 1
                raise httpx.ConnectError("nobody is there", request=request)
            if path.startswith("/v1/artifacts/"):
                return self._file(request, path.rsplit("/", 1)[1])
            body = json.loads(request.content or b"{}")
            self.seen.append((path, body))
            for suffix, answers in self.answers.items():
                if path.endswith(suffix) and answers:
                    return answers.pop(0)
            return self._answer(path, body)

    def _answer(self, path: str, body: Json) -> httpx.Response:
        if path == "/v1/workers":
            self.known = True
            return httpx.Response(200, json={**body, "alive": True, "jobs": [], "last_seen_at": "2030-01-01T00:00:00Z"})
        if path == "/v1/jobs:lease":
            if not self.known:
                return problem(404, "no such worker")
            return httpx.Response(200, json={"leases": [self.waiting.pop(0)] if self.waiting else []})
        if path.endswith(":heartbeat"):
            if self.stale:
                return problem(409, "the lease is over", "urn:frontier:stale")
            return httpx.Response(200, json={"expires_at": "2030-01-01T00:00:00Z", "stop": self.cancelled})
        self.ended.set()
        if path == "/v1/jobs:complete":
            items = [{"job": each["job"], "accepted": True, "state": "SUCCEEDED"} for each in body["results"]]
            return httpx.Response(200, json={"items": items})
        return httpx.Response(200, json={"job": 1, "accepted": True, "state": body["state"]})

    def _file(self, request: httpx.Request, digest: str) -> httpx.Response:
        if self.refuse_files:
            self.refused_files += 1
            return problem(507, "the disk is full")
        if request.method == "PUT":
            self.files[digest] = request.content
            return httpx.Response(200, json={"digest": digest, "size": len(request.content)})
        if digest not in self.files:
            return problem(404, "no such file")
        return httpx.Response(200, content=self.files[digest] if request.method == "GET" else b"")


def problem(status: int, detail: str, kind: str = "about:blank") -> httpx.Response:
    return httpx.Response(status, json={"type": kind, "title": "x", "status": status, "detail": detail, "errors": []})


def refused(status: int, detail: str) -> ApiError:
    """What the client makes of a problem."""
    return error_of(problem(status, detail))


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    with Client("http://frontier.test", transport=httpx.MockTransport(server)) as made:
        yield made


@pytest.fixture
def worker(client: Client, tmp_path: Path) -> Worker:
    toolbox = Toolbox(cached_artifacts(client, tmp_path / "cache"), {}, "cpu")
    told = WorkerIn(name="w1", kinds=list(JobKind), device=Device(name="cpu-x-1t", type="cpu", memory_mb=1))
    return Worker(client, toolbox, told, wait_s=0.05, drain_s=5.0, progress_s=0.02)


@pytest.fixture
def run(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Handler], threading.Thread]]:
    """Starts the worker in a thread, with this as the handler of all jobs."""
    threads: list[threading.Thread] = []
    monkeypatch.setattr(loop_module, "pause_s", lambda failures: 0.01)

    def start(function: Handler) -> threading.Thread:
        monkeypatch.setattr(handler, "HANDLERS", dict.fromkeys(JobKind, function))
        threads.append(threading.Thread(target=worker.run, daemon=True))
        threads[0].start()
        return threads[0]

    yield start
    worker.drain(0.0)
    for thread in threads:
        thread.join(WAIT_S)
        assert not thread.is_alive(), "the worker does not end"


def until(condition: Callable[[], object]) -> None:
    """Waits for something that must come to be."""
    end = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.005)


def work_on(report: Report) -> None:
    """Reports until that raises."""
    for step in range(10_000):
        report(step, 10_000, "working")
        time.sleep(0.005)


Run = Callable[[Handler], threading.Thread]


# ---------------------------------------------------------------------- results


def test_a_result_is_reported_once_with_its_token(server: Server, run: Run) -> None:
    server.lease(job=5)
    run(lambda payload, toolbox, report, checkpoint: {"answer": 42})
    until(lambda: server.ended.is_set())
    until(lambda: len(server.of("jobs:lease")) >= 3)
    (body,) = server.of("jobs:complete")
    assert body["worker"] == "w1"
    (result,) = body["results"]
    assert (result["job"], result["token"], result["result"]) == (5, 7, {"answer": 42})
    assert result["seconds"] >= 0
    assert len(server.of("/v1/workers")) == 1


def test_jobs_follow_one_another(server: Server, run: Run) -> None:
    for job in (1, 2, 3):
        server.lease(job=job)
    run(lambda payload, toolbox, report, checkpoint: {})
    until(lambda: len(server.of("jobs:complete")) == 3)
    assert [body["results"][0]["job"] for body in server.of("jobs:complete")] == [1, 2, 3]


@pytest.mark.parametrize(
    ("error", "state", "failure", "reason"),
    [
        (Infeasible("too deep"), "INFEASIBLE", "infeasible", "too deep"),
        (OutOfMemory("too wide"), "FAILED", "out_of_memory", "too wide"),
        (Invalid("options.x", "is odd"), "FAILED", "invalid", "options.x: is odd"),
        (Unavailable("no such data set here"), "FAILED", "unavailable", "no such data set here"),
        (ConnectionFailed("nobody answers"), "FAILED", "unavailable", "nobody answers"),
        (DigestMismatch("other bytes"), "FAILED", "unavailable", "other bytes"),
        (refused(503, "restarting"), "FAILED", "unavailable", "restarting"),
        (refused(404, "no artifact"), "FAILED", "invalid", "no artifact"),
        (ConnectionResetError("by peer"), "FAILED", "unavailable", "ConnectionResetError: by peer"),
        (OSError("disk full"), "FAILED", "bug", "OSError: disk full"),
        (ZeroDivisionError("by zero"), "FAILED", "bug", "ZeroDivisionError: by zero"),
    ],
)
def test_failures_have_a_class(
    error: Exception, state: str, failure: str, reason: str, server: Server, run: Run
) -> None:
    def fail(payload: Json, toolbox: Toolbox, report: Report, checkpoint: bytes | None) -> Json:
        raise error

    server.lease()
    run(fail)
    until(lambda: server.ended.is_set())
    (body,) = server.of("/v1/jobs/1:fail")
    assert (body["state"], body["failure"], body["reason"], body["token"]) == (state, failure, reason, 7)
    assert ("Traceback" in (body["traceback"] or "")) == reason.startswith(type(error).__name__)
    assert not server.of("jobs:complete")


def test_a_result_outlives_a_server_that_is_away(server: Server, run: Run) -> None:
    def leave(payload: Json, toolbox: Toolbox, report: Report, checkpoint: bytes | None) -> Json:
        server.away = 14  # more than the client's own tries
        return {"precious": True}

    monkey = pytest.MonkeyPatch()
    monkey.setattr("service.client.http.pause_s", lambda number: 0.001)
    server.lease()
    run(leave)
    until(lambda: server.of("jobs:complete"))
    monkey.undo()
    assert server.of("jobs:complete")[0]["results"][0]["result"] == {"precious": True}


def test_a_result_that_the_server_breaks_on_is_given_up(server: Server, run: Run) -> None:
    server.answers["jobs:complete"] = [problem(500, "division by zero") for _ in range(50)]
    server.lease()
    run(lambda payload, toolbox, report, checkpoint: {})
    until(lambda: server.of(":fail"))
    assert 2 <= len(server.of("jobs:complete")) < 20
    assert "refused the result" in server.of(":fail")[0]["reason"]


def test_a_result_that_the_server_refuses_is_a_failure(server: Server, run: Run) -> None:
    server.answers["jobs:complete"] = [problem(422, "result.x: no")]
    server.lease()
    run(lambda payload, toolbox, report, checkpoint: {})
    until(lambda: server.of(":fail"))
    assert server.of(":fail")[0]["failure"] == "bug"
    assert len(server.of("jobs:complete")) == 1


# ---------------------------------------------------------------------- heartbeats


def test_heartbeats_carry_progress_and_the_newest_checkpoint(server: Server, run: Run) -> None:
    done = threading.Event()

    def train(payload: Json, toolbox: Toolbox, report: Report, checkpoint: bytes | None) -> Json:
        for epoch in range(1, 4):
            report(epoch, 3, f"epoch {epoch}", {"loss": 1.0 / epoch, "broken": float("nan")}, b"state %d" % epoch)
        while not done.is_set():
            report(3, 3, "waiting")
            time.sleep(0.005)
        return {}

    server.lease()
    run(train)
    digest = hashlib.sha256(b"state 3").hexdigest()
    until(lambda: any(body.get("checkpoint") == digest for body in server.of(":heartbeat")))
    until(lambda: any((body.get("progress") or {}).get("note") == "waiting" for body in server.of(":heartbeat")))
    done.set()
    assert server.files[digest] == b"state 3"
    beats = [body["progress"] for body in server.of(":heartbeat") if body.get("progress")]
    sent = [beat["metrics"] for beat in beats if "metrics" in beat]
    assert sent == [{"loss": 1.0}, {"loss": 0.5}, {"loss": 1 / 3}], "each report's metrics are sent, and sent once"
    assert all(body["token"] == 7 for body in server.of(":heartbeat"))


def test_a_handler_that_says_nothing_keeps_its_lease(server: Server, run: Run) -> None:
    done = threading.Event()

    def ponder(payload: Json, toolbox: Toolbox, report: Report, checkpoint: bytes | None) -> Json:
        done.wait(WAIT_S)
        return {}

    server.lease(lease_s=0.06)
    run(ponder)
    until(lambda: len(server.of(":heartbeat")) >= 4)
    done.set()
    until(lambda: server.ended.is_set())


def test_a_short_job_costs_no_heartbeat(server: Server, run: Run, worker: Worker) -> None:
    worker._progress_s = 60.0
    server.lease()
    run(lambda payload, toolbox, report, checkpoint: report(1, 1, "done", {"error": 0.5}) or {})  # type: ignore[func-returns-value]
    until(lambda: server.ended.is_set())
    assert not server.of(":heartbeat")


def test_reports_not_yet_sent_precede_the_result(server: Server, run: Run) -> None:
    def quick(payload: Json, toolbox: Toolbox, report: Report, checkpoint: bytes | None) -> Json:
        time.sleep(0.03)
        for step in range(5):
            report(step, 5, "", {"loss": float(step)})
        return {}

    server.lease()
    run(quick)
    until(lambda: server.ended.is_set())
    sent = [body["progress"]["metrics"]["loss"] for body in server.of(":heartbeat") if "metrics" in body["progress"]]
    assert sent == [0.0, 1.0, 2.0, 3.0, 4.0]


def test_a_failed_heartbeat_is_sent_again(server: Server, run: Run) -> None:
    server.answers[":heartbeat"] = [problem(500, "a hiccup"), problem(500, "another")]

    def train(payload: Json, toolbox: Toolbox, report: Report, checkpoint: bytes | None) -> Json:
        report(1, 2, "one", {"loss": 1.0}, b"state")
        until(lambda: len(server.of(":heartbeat")) >= 3)
        return {}

    server.lease(lease_s=0.06)
    run(train)
    until(lambda: server.ended.is_set())
    third = server.of(":heartbeat")[2]
    assert third["progress"]["metrics"] == {"loss": 1.0}
    assert third["checkpoint"] == hashlib.sha256(b"state").hexdigest()


def test_a_checkpoint_that_could_not_be_stored_is_stored_later(server: Server, run: Run) -> None:
    digest = hashlib.sha256(b"state").hexdigest()

    def train(payload: Json, toolbox: Toolbox, report: Report, checkpoint: bytes | None) -> Json:
        server.refuse_files = True
        time.sleep(0.03)
        report(1, 2, "one", checkpoint=b"state")
        until(lambda: server.refused_files)
        server.refuse_files = False
        until(lambda: any(body.get("checkpoint") == digest for body in server.of(":heartbeat")))
        return {}

    server.lease(lease_s=0.06)
    run(train)
    until(lambda: server.ended.is_set())
    assert server.files[digest] == b"state"


def test_a_cancelled_job_stops_at_its_next_report(server: Server, run: Run) -> None:
    server.cancelled = True
    server.lease()
    run(lambda payload, toolbox, report, checkpoint: work_on(report) or {})  # type: ignore[func-returns-value]
    until(lambda: server.ended.is_set())
    (body,) = server.of(":fail")
    assert (body["state"], body["failure"]) == ("CANCELLED", "cancelled")


def test_a_lost_lease_drops_the_job_without_a_word(server: Server, run: Run) -> None:
    server.stale = True
    server.lease(job=1)
    server.lease(job=2)
    seen: list[int] = []

    def train(payload: Json, toolbox: Toolbox, report: Report, checkpoint: bytes | None) -> Json:
        seen.append(len(seen))
        if len(seen) == 1:
            work_on(report)
        return {}

    run(train)
    until(lambda: server.of("jobs:complete"))
    assert [body["results"][0]["job"] for body in server.of("jobs:complete")] == [2]
    assert not server.of(":fail")


def test_a_result_of_a_lost_lease_is_still_sent_once(server: Server, run: Run) -> None:
    server.stale = True

    def ignore(payload: Json, toolbox: Toolbox, report: Report, checkpoint: bytes | None) -> Json:
        until(lambda: server.of(":heartbeat"))
        return {"late": True}

    server.lease(lease_s=0.06)
    run(ignore)
    until(lambda: server.ended.is_set())
    until(lambda: len(server.of("jobs:lease")) >= 2)
    assert [body["results"][0]["result"] for body in server.of("jobs:complete")] == [{"late": True}]


def test_a_resumed_job_gets_its_checkpoint(server: Server, run: Run) -> None:
    digest = hashlib.sha256(b"half way").hexdigest()
    server.files[digest] = b"half way"
    server.lease(job=1, checkpoint=digest)
    server.lease(job=2, checkpoint="0" * 64)
    got: list[bytes | None] = []
    run(lambda payload, toolbox, report, checkpoint: got.append(checkpoint) or {})  # type: ignore[func-returns-value]
    until(lambda: len(server.of("jobs:complete")) == 2)
    assert got == [b"half way", None]


# ---------------------------------------------------------------------- a server that comes and goes


def test_a_worker_waits_for_the_server(server: Server, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.client.http.pause_s", lambda number: 0.001)
    server.away = 30
    server.lease()
    run(lambda payload, toolbox, report, checkpoint: {})
    until(lambda: server.ended.is_set())


def test_a_server_that_forgot_the_worker_is_told_again(server: Server, run: Run) -> None:
    run(lambda payload, toolbox, report, checkpoint: {})
    until(lambda: server.of("jobs:lease"))
    server.known = False
    server.lease()
    until(lambda: server.ended.is_set())
    assert len(server.of("/v1/workers")) == 2


def test_a_worker_that_is_not_wanted_ends(server: Server, worker: Worker) -> None:
    server.answers["/v1/workers"] = [problem(401, "no key")]
    with pytest.raises(ApiError, match="no key"):
        worker.run()


# ---------------------------------------------------------------------- drain


def test_a_drained_worker_finishes_a_short_job(server: Server, run: Run, worker: Worker) -> None:
    started, go = threading.Event(), threading.Event()

    def short(payload: Json, toolbox: Toolbox, report: Report, checkpoint: bytes | None) -> Json:
        started.set()
        go.wait(WAIT_S)
        report(1, 1)
        return {"finished": True}

    server.lease()
    server.lease(job=2)
    thread = run(short)
    assert started.wait(WAIT_S)
    worker.drain()
    go.set()
    thread.join(WAIT_S)
    assert not thread.is_alive()
    assert [body["results"][0]["job"] for body in server.of("jobs:complete")] == [1]
    assert len(server.waiting) == 1, "a drained worker took another job"
    assert not server.of(":fail")


def test_a_drained_worker_hands_back_a_long_job_with_its_checkpoint(server: Server, run: Run, worker: Worker) -> None:
    def long(payload: Json, toolbox: Toolbox, report: Report, checkpoint: bytes | None) -> Json:
        report(1, 10, "one", checkpoint=b"epoch one")
        worker.drain(0.0)
        report(2, 10, "two", checkpoint=b"epoch two")
        return {"went": "on"}

    server.lease()
    thread = run(long)
    thread.join(WAIT_S)
    (body,) = server.of(":fail")
    assert (body["state"], body["failure"]) == ("QUEUED", "drained")
    assert server.of(":heartbeat")[-1]["checkpoint"] == hashlib.sha256(b"epoch two").hexdigest()
    assert not server.of("jobs:complete")


def test_a_job_leased_while_draining_goes_straight_back(server: Server, worker: Worker) -> None:
    server.lease()
    lease = Client("http://frontier.test", transport=httpx.MockTransport(server))
    worker.drain()
    server.known = True
    from service.wire.jobs import LeaseIn

    (taken,) = lease.jobs.lease(LeaseIn(worker="w1"))
    worker.work(taken)
    assert server.of(":fail")[0]["failure"] == "drained"


def test_a_drained_worker_does_not_wait_for_a_server_for_ever(
    server: Server, run: Run, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.client.http.pause_s", lambda number: 0.001)

    def leave(payload: Json, toolbox: Toolbox, report: Report, checkpoint: bytes | None) -> Json:
        server.away = 10**9
        worker.drain(0.05)
        return {}

    server.lease()
    thread = run(leave)
    thread.join(WAIT_S)
    assert not thread.is_alive()


def test_signals_drain(worker: Worker) -> None:
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        _drain_on_signals(worker)
        signal.raise_signal(signal.SIGTERM)
        assert worker._draining
        assert not worker._past_deadline()
        signal.raise_signal(signal.SIGINT)
        assert worker._past_deadline()
    finally:
        for number, old in before.items():
            signal.signal(number, old)


# ---------------------------------------------------------------------- announcement


def test_what_a_worker_says_of_itself() -> None:
    datasets = read_datasets("digits, again=digits")
    assert [dataset.name for dataset in datasets.values()] == ["again"], "the same content is one data set"
    device = Device(name="cpu-x-1t", type="cpu", memory_mb=1)
    told = announcement(None, device, datasets, None)
    assert set(told.kinds) == set(handler.HANDLERS)
    assert told.evaluators == ["supernet", "training"]
    assert announcement("me", device, datasets, [JobKind.FIT]).kinds == [JobKind.FIT]
    with pytest.raises(ValueError, match="no handler for import"):
        announcement("me", device, datasets, [JobKind.IMPORT])


def test_data_sets_need_different_names(tmp_path: Path) -> None:
    import numpy as np

    np.savez(tmp_path / "x.npz", x=np.arange(40 * 16, dtype=np.uint8).reshape(40, 4, 4), y=np.arange(40) % 2)
    with pytest.raises(ValueError, match="named 'digits'"):
        read_datasets(f"digits,digits=npz:{tmp_path / 'x.npz'}")
    assert len(read_datasets(f"digits,other=npz:{tmp_path / 'x.npz'},")) == 2


def test_artifacts_of_a_job_are_waited_for(server: Server, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.client.http.pause_s", lambda number: 0.001)
    monkeypatch.setattr("service.client.artifacts.pause_s", lambda number: 0.001)
    digest = hashlib.sha256(b"weights").hexdigest()
    server.files[digest] = b"weights"
    got: list[bytes] = []

    def read(payload: Json, toolbox: Toolbox, report: Report, checkpoint: bytes | None) -> Json:
        server.away = 20
        got.append(toolbox.artifacts.get(digest).read_bytes())
        server.away = 20
        return {"made": toolbox.artifacts.put(b"result")}

    server.lease()
    run(read)
    until(lambda: server.ended.is_set())
    assert got == [b"weights"]
    assert hashlib.sha256(b"result").hexdigest() in server.files


def test_artifacts_are_callables_of_the_toolbox() -> None:
    artifacts = Artifacts(get=lambda digest: Path(digest), put=lambda data: "x")
    assert Toolbox(artifacts, {}).artifacts.put(b"") == "x"
