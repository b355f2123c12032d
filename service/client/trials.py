"""Trials: to look at, and to evaluate."""

from __future__ import annotations

from typing import final

from service.client.http import Http
from service.wire.searches import TrialOut
from service.wire.trials import (
    ReportIn,
    ReportOut,
    SuggestIn,
    SuggestOut,
    TrialCompleteIn,
    TrialEndOut,
    TrialFailIn,
)


@final
class Trials:
    """Trials. `Client.optimize` is the whole loop of what is here."""

    def __init__(self, http: Http) -> None:
        self._http = http

    def get(self, trial: int) -> TrialOut:
        """One trial, by its id."""
        return self._http.get(TrialOut, f"/v1/trials/{trial}")

    def suggest(self, search: int, body: SuggestIn | None = None) -> SuggestOut:
        """Takes trials of a search (by its id), waiting up to ``wait_s`` seconds for the first.

        Never repeated: a lost answer leaves its trials leased until their leases run out.
        """
        asked = body or SuggestIn()
        path = f"/v1/searches/{search}/trials:suggest"
        return self._http.post(SuggestOut, path, asked, repeatable=False, wait_s=asked.wait_s)

    def report(self, trial: int, body: ReportIn) -> ReportOut:
        """Sends intermediate metrics and extends the lease. Raises `Stale` if it is lost."""
        return self._http.post(ReportOut, f"/v1/trials/{trial}:report", body)

    def complete(self, trial: int, body: TrialCompleteIn) -> TrialEndOut:
        """Sends the result. Raises `Invalid` for a metric that is missing: the trial can be completed again."""
        return self._http.post(TrialEndOut, f"/v1/trials/{trial}:complete", body)

    def fail(self, trial: int, body: TrialFailIn) -> TrialEndOut:
        """Ends a trial without a result, or hands it back. Raises `Stale` if the lease is lost."""
        return self._http.post(TrialEndOut, f"/v1/trials/{trial}:fail", body)
