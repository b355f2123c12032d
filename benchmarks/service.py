"""The service under load, on both databases.

    python -m benchmarks.service [--database sqlite|postgresql|both] [--quick]

One `frontier api` and one `frontier controller` run as processes of their own over an empty database; this process
calls them over HTTP. PostgreSQL is the one that pgserver brings, with the settings it comes with (every commit reaches
the disk); SQLite is in WAL mode as the service sets it. Everything runs on one machine, clients included.

- trials: eight workers (threads of this process) lease batches of 16 and complete each in one call. A trial is three
  metrics, an event and the ledger look-up. Trials are queued before the clock starts, and the first tenth is not timed.
- Optuna: one study in RDBStorage on the same kind of database, ask, six categorical parameters, tell; RandomSampler, in
  this process, once with one thread and once with eight. It stores no metrics but one value, and no events.
- import: NDJSON, one metric of one architecture given as config in each row, three rows for each architecture. From
  the first byte of the upload of a file on disk to the end of the job, which is asked for five times a second.
  Meanwhile a worker sends a heartbeat every 50 ms: the longest wait for an answer.
- front: of the study with the imported measurements, by four sets of two or three metrics in turn, while two workers
  complete up to 320 of its trials a second. Cold: the first request to a fresh API process, and then one for each set.
- page: 100 trials of a study, at twenty depths in turn; the trials were written as rows beforehand.
- idle: 200 workers in long-polls of 2 s, and no job; meanwhile `/healthz` is asked for every 50 ms.
- memory: the largest resident set of the API process in all of it, looked at every 50 ms.

Seeds are fixed: rows and values are the same in every run. Written to benchmarks/results/service.json.
"""

from __future__ import annotations

import argparse
import json
import platform
import sqlite3
import tempfile
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from rich.console import Console
from rich.table import Table

from benchmarks import service_loads as loads
from benchmarks import service_world as world
from benchmarks.service_processes import DIALECTS, Service, databases
from service.client import Client
from service.db.session import Database

RESULTS = Path(__file__).parent / "results" / "service.json"


@dataclass(frozen=True, slots=True)
class Sizes:
    rows: int
    trials: int
    peer_trials: int
    listed: int
    requests: int


FULL = Sizes(rows=1_000_000, trials=16_000, peer_trials=800, listed=1_000_000, requests=400)
IDLE = 200
QUICK = Sizes(rows=30_000, trials=3_200, peer_trials=160, listed=20_000, requests=80)

TARGETS: tuple[tuple[str, str, str, float], ...] = (
    ("import_rows_per_s", "imported rows/s", ">=", 20_000),
    ("heartbeat_longest_s", "longest heartbeat meanwhile, s", "<=", 1.0),
    ("trials_per_s", "lease to complete, trials/s", ">=", 1_000),
    ("front_warm_p95_ms", "front, warm, p95, ms", "<=", 50),
    ("front_cold_s", "front, cold, s", "<=", 5),
    ("page_p95_ms", "page of 100 trials, p95, ms", "<=", 30),
    ("healthz_p95_ms", "/healthz beside 200 idle workers, p95, ms", "<=", 50),
    ("api_peak_mb", "API memory, peak, MiB", "<=", 400),
)
"""(field, in words, relation, target)."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--database", choices=[*DIALECTS, "both"], default="both")
    parser.add_argument("--quick", action="store_true", help="small sizes; writes no file")
    arguments = parser.parse_args()
    sizes = QUICK if arguments.quick else FULL
    wanted = DIALECTS if arguments.database == "both" else (arguments.database,)
    measured = {dialect: _measure(dialect, sizes) for dialect in wanted}
    _show(measured)
    if not arguments.quick:
        RESULTS.parent.mkdir(exist_ok=True)
        before = json.loads(RESULTS.read_text())["measured"] if RESULTS.exists() else {}
        result = {
            "protocol": __doc__,
            "targets": {field: f"{relation} {target:g}" for field, _, relation, target in TARGETS},
            "measured": {**before, **measured},
        }
        RESULTS.write_text(json.dumps(result, indent=2) + "\n")


def _measure(dialect: str, sizes: Sizes) -> dict[str, Any]:
    console = Console(stderr=True)
    busy = psutil.getloadavg()[0]
    with (
        tempfile.TemporaryDirectory() as folder,
        databases(dialect, Path(folder)) as (url, peer_url),
        Service(Path(folder) / "home", url) as service,
    ):
        database = Database(url)
        try:
            with Client(service.url) as client:
                world.found(client)

            console.log(f"{dialect}: trials")
            warm = sizes.trials // 10
            world.queue_trials(database, "leased", warm + sizes.trials, 0)
            spent = service.cpu_seconds("api")
            found: dict[str, Any] = {"trials_per_s": loads.trials_per_second(service.url, warm, sizes.trials)}
            found["api_cpu_ms_per_trial"] = 1000 * (service.cpu_seconds("api") - spent) / (warm + sizes.trials)
            for threads in (1, world.WORKERS):
                rate = loads.optuna_trials_per_second(peer_url, threads, sizes.peer_trials)
                found[f"optuna_trials_per_s_{threads}_threads"] = rate

            console.log(f"{dialect}: idle workers")
            with loads.idle_workers(service.url, IDLE):
                seconds = loads.health_seconds(service.url, sizes.requests)
            found |= {"healthz_p50_ms": _ms(seconds, 50), "healthz_p95_ms": _ms(seconds, 95)}

            console.log(f"{dialect}: import")
            # Architectures that the file does not hold, so that all must be measured.
            beyond = 9**6 - 40_000
            world.queue_trials(database, "measured", 40_000 if sizes is FULL else 8_000, beyond)
            with loads.heartbeats(service.url) as waits:
                file = Path(folder) / "measurements.ndjson"
                found["import_rows_per_s"] = sizes.rows / loads.import_rows(service.url, sizes.rows, file)
            found["heartbeat_longest_s"] = max(waits)

            console.log(f"{dialect}: fronts")
            loads.front_seconds(service.url, 2 * len(world.SETS))
            with loads.writes(service.url) as written:
                seconds, size = loads.front_seconds(service.url, sizes.requests)
            found |= {"front_warm_p50_ms": _ms(seconds, 50), "front_warm_p95_ms": _ms(seconds, 95)}
            found |= {"front_largest": size, "front_writes_per_s": written[0] / sum(seconds)}

            console.log(f"{dialect}: pages")
            world.insert_trials(database, "paged", sizes.listed)
            loads.page_seconds(service.url, sizes.listed, 20)
            seconds = loads.page_seconds(service.url, sizes.listed, sizes.requests)
            found |= {"page_p50_ms": _ms(seconds, 50), "page_p95_ms": _ms(seconds, 95)}

            service.restart_api()
            cold, _ = loads.front_seconds(service.url, len(world.SETS))
            found |= {"front_cold_s": cold[0], "front_cold_others_s": cold[1:]}
        finally:
            database.dispose()
        found |= {f"{name}_peak_mb": peak for name, peak in service.peak_mb.items()}
    return {**found, "sizes": asdict(sizes), "machine": _machine(busy)}


def _ms(seconds: list[float], percentile: float) -> float:
    return float(np.percentile(seconds, percentile)) * 1000


def _machine(busy: float) -> dict[str, Any]:
    names = ("frontier-nas", "sqlalchemy", "psycopg", "fastapi", "uvicorn", "pydantic", "numpy", "optuna", "pgserver")
    return {
        "platform": platform.platform(),
        "cores": psutil.cpu_count(),
        "memory_mb": psutil.virtual_memory().total // 2**20,
        "load_before": busy,
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        "versions": {name: version(name) for name in names},
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _show(measured: dict[str, dict[str, Any]]) -> None:
    table = Table("", *measured, "target", box=None, header_style="bold")
    for field, words, relation, target in TARGETS:
        cells = []
        for found in measured.values():
            met = found[field] >= target if relation == ">=" else found[field] <= target
            cells.append(f"{found[field]:,.3g} {'met' if met else 'not met'}")
        table.add_row(words, *cells, f"{relation} {target:g}")
    for threads in (1, world.WORKERS):
        rates = [f"{found[f'optuna_trials_per_s_{threads}_threads']:,.3g}" for found in measured.values()]
        table.add_row(f"Optuna ask/tell, {threads} threads, trials/s", *rates, "")
    Console().print(table)


if __name__ == "__main__":
    main()
