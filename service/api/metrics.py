"""Prometheus metrics, in a registry per application."""

from __future__ import annotations

from typing import final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from service.core.states import SearchState, State

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


@final
class Metrics:
    """Counters that requests move, and gauges that are set from the database when they are read."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
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
        self._jobs = Gauge("frontier_jobs", "Jobs in the database, by state.", ["state"], registry=self._registry)
        self._searches = Gauge(
            "frontier_searches", "Searches in the database, by state.", ["state"], registry=self._registry
        )
        self._waiting = Gauge(
            "frontier_waiting_leases", "Workers in a long-poll for jobs on this process.", registry=self._registry
        )
        self._leases = Counter("frontier_leases", "Jobs handed to workers by this process.", registry=self._registry)
        self._expired = Counter(
            "frontier_lease_expiries", "Leases that this process saw run out.", registry=self._registry
        )

    def answered(self, method: str, route: str, status: int, seconds: float) -> None:
        """One request was answered."""
        self._requests.labels(method, route, str(status)).inc()
        self._seconds.labels(method, route).observe(seconds)

    def leased(self, count: int) -> None:
        """So many jobs were handed out."""
        self._leases.inc(count)

    def expired(self, count: int) -> None:
        """So many leases ran out."""
        self._expired.inc(count)

    def waiting(self, change: int) -> None:
        """A worker began (+1) or ended (-1) to wait for jobs."""
        self._waiting.inc(change)

    def text(self, jobs: dict[State, int], searches: dict[SearchState, int]) -> bytes:
        """The exposition, with the database's counts of this moment."""
        for state in State:
            self._jobs.labels(state.value).set(jobs.get(state, 0))
        for search_state in SearchState:
            self._searches.labels(search_state.value).set(searches.get(search_state, 0))
        return generate_latest(self._registry)
