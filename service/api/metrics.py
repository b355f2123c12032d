"""Prometheus metrics, in a registry per application.

What this process does is counted here; what all processes did is read from the database when Prometheus asks.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from sqlalchemy import Connection, Engine, event
from sqlalchemy.orm import Session

from service.core.states import SearchState, State
from service.db import observed
from service.db.observed import ASK_SECONDS, Observed
from service.wire.searches import RankAudit

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_STATEMENTS = frozenset({"select", "insert", "update", "delete", "begin"})
_BEGAN = "frontier_statement_began"


@final
class Metrics:
    """Counters that requests move, and gauges that are set from the database when they are read."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._audits: Mapping[tuple[str, str, int], RankAudit] = {}
        self._requests = Counter(
            "frontier_http_requests",
            "Requests answered, by method, route template and status.",
            ["method", "route", "status"],
            registry=self._registry,
        )
        self._seconds = Histogram(
            "frontier_http_request_seconds",
            "Seconds until the answer began, by method and route template; long-polls and streams wait on purpose.",
            ["method", "route"],
            buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
            registry=self._registry,
        )
        self._database = Histogram(
            "frontier_database_seconds",
            "Seconds per statement of this process; begin includes waiting for SQLite's one writer.",
            ["statement"],
            buckets=(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5, 30),
            registry=self._registry,
        )
        self._waiting = Gauge(
            "frontier_waiting_leases", "Workers in a long-poll for jobs on this process.", registry=self._registry
        )
        self._streams = Gauge(
            "frontier_event_streams", "Streams of events that are open on this process.", registry=self._registry
        )
        self._leases = Counter("frontier_leases", "Jobs handed to workers by this process.", registry=self._registry)
        self._busy = Counter(
            "frontier_worker_busy_seconds",
            "Seconds of work that workers reported to this process, by worker.",
            ["worker"],
            registry=self._registry,
        )

    def answered(self, method: str, route: str, status: int, seconds: float) -> None:
        """One request was answered."""
        self._requests.labels(method, route, str(status)).inc()
        self._seconds.labels(method, route).observe(seconds)

    def leased(self, count: int) -> None:
        """So many jobs were handed out."""
        self._leases.inc(count)

    def waiting(self, change: int) -> None:
        """A worker began (+1) or ended (-1) to wait for jobs."""
        self._waiting.inc(change)

    def streaming(self, change: int) -> None:
        """A stream of events was opened (+1) or has ended (-1)."""
        self._streams.inc(change)

    def busy(self, worker: str, seconds: float) -> None:
        """A worker reported so many seconds of work."""
        self._busy.labels(worker).inc(seconds)

    def watch(self, engine: Engine) -> Callable[[], None]:
        """Times every statement of an engine until the function that is returned is called."""

        kinds = {kind: self._database.labels(kind) for kind in (*_STATEMENTS, "other")}

        def before(connection: Connection, *_: Any) -> None:
            connection.info[_BEGAN] = time.perf_counter()

        def after(connection: Connection, _cursor: Any, statement: str, *_: Any) -> None:
            word = statement[:10].partition(" ")[0].lower()
            kind = word if word in _STATEMENTS else "other"
            kinds[kind].observe(time.perf_counter() - connection.info.pop(_BEGAN))

        event.listen(engine, "before_cursor_execute", before)
        event.listen(engine, "after_cursor_execute", after)

        def stop() -> None:
            event.remove(engine, "before_cursor_execute", before)
            event.remove(engine, "after_cursor_execute", after)

        return stop

    def text(self, s: Session) -> bytes:
        """The exposition, with what the database says at this moment."""
        seen, self._audits = observed.read(s, self._audits)
        shown = CollectorRegistry()
        shown.register(_Once(list(_families(seen))))
        return generate_latest(self._registry) + generate_latest(shown)


@final
class _Once:
    """A collector of families that are there already."""

    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterator[Metric]:
        yield from self._families


def _families(seen: Observed) -> Iterator[Metric]:
    jobs = GaugeMetricFamily("frontier_jobs", "Jobs in the database, by state.", labels=["state"])
    for state in State:
        jobs.add_metric([state.value], seen.jobs.get(state, 0))
    yield jobs
    searches = GaugeMetricFamily("frontier_searches", "Searches in the database, by state.", labels=["state"])
    for search_state in SearchState:
        searches.add_metric([search_state.value], seen.searches.get(search_state, 0))
    yield searches
    expiries = CounterMetricFamily("frontier_lease_expiries", "Leases that ran out, seen by any process.")
    expiries.add_metric([], seen.lease_expiries)
    yield expiries
    asks = HistogramMetricFamily(
        "frontier_suggestion_seconds",
        "Seconds from when an ask of a search was due until its trials waited for workers, fits included.",
    )
    buckets = [(str(bound), float(below)) for bound, below in zip(ASK_SECONDS, seen.asks.below, strict=True)]
    asks.add_metric([], [*buckets, ("+Inf", float(seen.asks.count))], seen.asks.total_s)
    yield asks
    tau = GaugeMetricFamily(
        "frontier_predictor_probe_tau",
        "Kendall tau between predicted and measured on the probes of a study with a running search; bound is its 95 % "
        "interval's low or high end, or value.",
        labels=["study", "metric", "bound"],
    )
    for (study, metric), audit in seen.audits.items():
        bounds = {"value": audit.kendall_tau, "low": audit.ci_low, "high": audit.ci_high}
        for bound, value in bounds.items():
            if value is not None:
                tau.add_metric([study, metric, bound], value)
    yield tau
