"""The loads of the service's benchmark: each function times one of its definitions, over HTTP."""

from __future__ import annotations

import base64
import http.client
import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, final
from urllib.parse import urlsplit

import httpx
import numpy as np

from benchmarks import service_world as world
from service.wire.base import Json

BATCH = 16
_BEAT_S = 0.05
_BLOCK = 2**20
_LOOK_S = 0.2
_WRITER_PAUSE_S = 0.1
_POLL_S = 2.0
"""Long-polls last so long: as long as those of `frontier worker`."""


@final
class Caller:
    """One connection that stays open. The plainest client there is, so that the client's own work is small beside
    what is measured."""

    def __init__(self, url: str) -> None:
        self._connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=600)

    def __call__(self, method: str, path: str, body: Json | None = None) -> Any:
        text = None if body is None else json.dumps(body)
        self._connection.request(method, path, text, {"Content-Type": "application/json"} if text else {})
        answer = self._connection.getresponse()
        content = answer.read()
        if answer.status >= 400:
            raise SystemExit(f"{method} {path}: {answer.status} {content[:500]!r}")
        return json.loads(content)


def lease_and_complete(call: Caller, worker: int) -> int:
    """One batch: leased, and completed in one call. The number of trials, 0 if none waits."""
    name = f"bench-{worker}"
    leases = call("POST", "/v1/jobs:lease", {"worker": name, "count": BATCH})["leases"]
    if not leases:
        return 0
    genes = np.array([each["payload"]["genes"] for each in leases], dtype=np.int8)
    results = [
        {
            "job": each["job"],
            "token": each["token"],
            "seconds": 1.0,
            "result": {"device": world.DEVICE, "metrics": dict(zip(world.METRICS, values, strict=True))},
        }
        for each, values in zip(leases, world.values_of(genes).tolist(), strict=True)
    ]
    done = call("POST", "/v1/jobs:complete", {"worker": name, "results": results})["items"]
    if not all(each["accepted"] for each in done):
        raise SystemExit("a result was refused")
    return len(leases)


def trials_per_second(url: str, warm: int, timed: int) -> float:
    """Trials leased and completed a second by eight workers; the first ``warm`` of all are not timed."""
    lock, began, ended, done = threading.Lock(), 0.0, 0.0, 0

    def work(worker: int) -> None:
        nonlocal began, ended, done
        call = Caller(url)
        while count := lease_and_complete(call, worker):
            with lock:
                at = time.perf_counter()
                if done < warm <= done + count:
                    began = at
                done += count
                if done <= warm + timed:
                    ended = at

    with ThreadPoolExecutor(world.WORKERS) as pool:
        list(pool.map(work, range(world.WORKERS)))
    return (min(done, warm + timed) - warm) / (ended - began)


def optuna_trials_per_second(url: str, threads: int, count: int) -> float:
    """Trials asked for, with six categorical parameters, and told a second by a study in Optuna's RDB storage."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    storage = optuna.storages.RDBStorage(url)
    study = optuna.create_study(storage=storage, sampler=optuna.samplers.RandomSampler(seed=0))

    def work(number: int) -> None:
        for _ in range(number):
            trial = study.ask()
            for choice in world.CHOICES:
                trial.suggest_categorical(choice["name"], choice["options"])
            study.tell(trial, 0.5)

    work(10)
    began = time.perf_counter()
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, [count // threads] * threads))
    seconds = time.perf_counter() - began
    storage.engine.dispose()
    return (count // threads) * threads / seconds


def import_rows(url: str, rows: int, file: Path) -> float:
    """Seconds from the first byte of the upload to the end of the job that imports it; ``file`` is written before."""
    with file.open("wb") as written:
        written.writelines(world.lines(rows))
    began = time.perf_counter()
    with httpx.Client(base_url=url, timeout=3600, trust_env=False) as http, file.open("rb") as content:
        path = "/v1/studies/measured/measurements:import?format=ndjson"
        answer = http.post(path, content=iter(lambda: content.read(_BLOCK), b"")).raise_for_status().json()
        while "state" in answer and answer["state"] in ("QUEUED", "LEASED"):
            time.sleep(_LOOK_S)
            answer = http.get(f"/v1/jobs/{answer['id']}").raise_for_status().json()
    result = answer.get("result", answer)
    if result is None or result["new"] != rows:
        raise SystemExit(f"the import failed: {answer}")
    return time.perf_counter() - began


@contextmanager
def heartbeats(url: str) -> Iterator[list[float]]:
    """A worker that holds a job and says so twenty times a second meanwhile; the seconds that each answer took."""
    call, waits, stop = Caller(url), [0.0], threading.Event()
    (lease,) = call("POST", "/v1/jobs:lease", {"worker": "bench-0", "count": 1})["leases"]

    def beat() -> None:
        while not stop.wait(_BEAT_S):
            began = time.perf_counter()
            call("POST", f"/v1/jobs/{lease['job']}:heartbeat", {"token": lease["token"]})
            waits.append(time.perf_counter() - began)

    with ThreadPoolExecutor(1) as pool:
        beating = pool.submit(beat)
        try:
            yield waits
        finally:
            stop.set()
            beating.result()


@contextmanager
def writes(url: str) -> Iterator[list[int]]:
    """Two workers that lease and complete a batch every tenth of a second meanwhile; how many trials they ended."""
    stop, done = threading.Event(), [0]

    def write(worker: int) -> None:
        call = Caller(url)
        while not stop.wait(_WRITER_PAUSE_S):
            count = lease_and_complete(call, worker)
            if not count:
                raise SystemExit("no trial is left to be written while fronts are read: queue more")
            done[0] += count

    with ThreadPoolExecutor(2) as pool:
        writing = [pool.submit(write, worker) for worker in range(2)]
        try:
            yield done
        finally:
            stop.set()
            for each in writing:
                each.result()


@contextmanager
def idle_workers(url: str, count: int) -> Iterator[None]:
    """So many workers that wait for a job, each in a long-poll of its own, while there is none."""
    stop, waiting = threading.Event(), threading.Semaphore(0)

    def wait(worker: int) -> None:
        call = Caller(url)
        call("GET", "/healthz")
        waiting.release()
        while not stop.is_set():
            name = f"bench-{worker % world.WORKERS}"
            if call("POST", "/v1/jobs:lease", {"worker": name, "count": 1, "wait_s": _POLL_S})["leases"]:
                raise SystemExit("there was a job: the workers were not idle")

    with ThreadPoolExecutor(count) as pool:
        polls = [pool.submit(wait, worker) for worker in range(count)]
        for _ in range(count):
            waiting.acquire()
        time.sleep(_POLL_S)  # all of them have been at it for a while
        try:
            yield
        finally:
            stop.set()
            for each in polls:
                each.result()


def health_seconds(url: str, count: int) -> list[float]:
    """Seconds of so many requests for `/healthz`, one every twentieth of a second."""
    call = Caller(url)
    seconds = []
    for _ in range(count):
        time.sleep(_BEAT_S)
        seconds.append(timed(lambda: call("GET", "/healthz")))
    return seconds


def front_seconds(url: str, count: int) -> tuple[list[float], int]:
    """Seconds of requests for the front of `measured`, by any two or three metrics in turn; and its largest size."""
    call, size = Caller(url), 0
    seconds = []
    for index in range(count):
        wanted = "&".join(f"metrics={name}" for name in world.SETS[index % len(world.SETS)])
        began = time.perf_counter()
        found = call("GET", f"/v1/studies/measured/front?{wanted}")
        seconds.append(time.perf_counter() - began)
        size = max(size, len(found["points"]))
    return seconds, size


def page_seconds(url: str, trials: int, count: int) -> list[float]:
    """Seconds of pages of 100 trials of `paged`, at depths from the first to the last page in turn."""
    call = Caller(url)
    first = call("GET", "/v1/studies/paged/trials?page_size=1")["items"][0]["id"]
    seconds = []
    for index in range(count):
        last_seen = first + int((trials - 101) * (index % 20) / 19)
        # The token of a reader who got that far.
        token = base64.urlsafe_b64encode(json.dumps([last_seen]).encode()).decode().rstrip("=")
        began = time.perf_counter()
        found = call("GET", f"/v1/studies/paged/trials?page_size=100&page_token={token}")
        seconds.append(time.perf_counter() - began)
        if len(found["items"]) != 100:
            raise SystemExit(f"a page of {len(found['items'])} trials after id {last_seen}")
    return seconds


def timed(do: Callable[[], object]) -> float:
    """Seconds that a call takes."""
    began = time.perf_counter()
    do()
    return time.perf_counter() - began
