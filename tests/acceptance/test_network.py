"""A network that delays, cuts and repeats: clients and workers end in the right state, and nothing is doubled."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest
from sqlalchemy import func, select

from service.app import create_app
from service.client import Client, FrontierClientError, Invalid
from service.client import optimize as loop
from service.client.patience import passing
from service.core.functions import Running
from service.core.states import SearchState, State
from service.db import events
from service.db.session import Database
from service.db.tables import Base, Job, Measurement, Search, Space, Study, Trial
from service.settings import Settings
from service.wire.searches import SearchIn
from service.wire.spaces import SpaceIn
from service.wire.studies import CloneIn, EvaluatorSpec
from service.wire.trials import ReportIn, SuggestedTrial, SuggestIn, TrialCompleteIn
from tests.acceptance.processes import until
from tests.chaos import Fleet
from tests.proxy import FAULTS, STREAM, Fault, Proxy, all_kinds, first_tries
from tests.published import CHOICES, METRICS, TABLE, check_study, check_trials, publish, study
from tests.serving import ask, served
from tests.tables import encode

Answer = TypeVar("Answer")
SEED = 3
OWN, REPLAYED = 24, 40


def count(database: Database, table: type[Base], *where: Any) -> int:
    with database.read() as s:
        return s.scalars(select(func.count()).select_from(table).where(*where)).one()


@pytest.mark.parametrize("fault", FAULTS)
def test_whatever_becomes_of_first_tries_each_call_is_done_once(
    database: Database, tmp_path: Path, fault: Fault
) -> None:
    settings = Settings(home=tmp_path, port=0, poll_s=0.02)
    with (
        served(settings, create_app(settings, database)) as server,
        Proxy(server.url, first_tries(fault)) as proxy,
        Client(proxy.url) as client,
    ):
        space = client.spaces.create(SpaceIn(name="five", plugin="declared", options={"choices": CHOICES}))
        assert space == client.spaces.get("five")
        own = client.studies.create(study("own", EvaluatorSpec(name="external")))
        assert own.created_at == client.studies.get("own").created_at
        client.studies.clone("own", CloneIn(name="clone", objectives=own.objectives))
        # Without a name, so that only the Idempotency-Key says that it is the same search.
        search = client.searches.create("own", SearchIn(designer="random", budget=3))
        assert [each.id for each in client.searches.list("own")] == [search.id]
        assert client.searches.pause(search.id).state is SearchState.PAUSED
        assert client.searches.resume(search.id).state is SearchState.RUNNING
        assert client.searches.extend(search.id, 4).budget == 4
        data = bytes(range(256)) * 400
        assert client.artifacts.read(client.artifacts.upload(data)) == data
        some = list(TABLE.values())[:200]
        client.studies.import_measurements("own", io.BytesIO(encode("ndjson", some)), format="ndjson")
        assert client.studies.get("own").measurements == len(METRICS) * len(some)

        ask(server, search.id, 4, seed=1)
        given = taken(client, search.id)
        for step in range(1, 4):
            client.trials.report(given.trial, ReportIn(token=given.token, step=step, metrics={"error": 1 / step}))
        result = TrialCompleteIn(token=given.token, metrics={"error": 0.5, "loss": 1.5}, seconds=2.0)
        ended = client.trials.complete(given.trial, result)
        assert (ended.accepted, ended.state) == (True, State.SUCCEEDED)
        assert client.searches.cancel(search.id).state is SearchState.CANCELLED
        with pytest.raises(Invalid, match="choices"):
            client.spaces.create(SpaceIn(name="none", plugin="declared", options={"choices": []}))
    assert {met for _, met in proxy.met} == {fault, Fault.PASS}
    assert [count(database, each) for each in (Space, Study, Search, Trial)] == [1, 2, 1, 4]
    with database.read() as s:
        job = s.scalars(select(Job).where(Job.trial_id == given.trial)).one()
        assert [each["step"] for each in job.progress["reports"]] == [1, 2, 3]
        assert {each.value for each in s.scalars(select(Measurement).where(Measurement.job_id == job.id))} == {0.5, 1.5}
    assert count(database, Measurement, Measurement.attempt > 0) == 0
    assert count(database, Measurement) == len(METRICS) * (len(some) + 1)


def taken(client: Client, search: int) -> SuggestedTrial:
    """A trial, however often one must be asked for: that is never repeated, as its answer may be lost."""
    return patiently(lambda: client.trials.suggest(search, SuggestIn()).trials[0])


def patiently(call: Callable[[], Answer]) -> Answer:
    for _ in range(20):
        try:
            return call()
        except FrontierClientError as error:
            if not passing(error):
                raise
    raise AssertionError("nothing passes")


@pytest.mark.timeout(900)
def test_a_pipeline_and_a_worker_behind_a_bad_network(
    database: Database, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A trial whose handing out was not heard of is handed out again when its lease is over.
    monkeypatch.setattr(loop, "LEASE_S", 5.0)
    with (
        Fleet(tmp_path, database_url, lease_s=2.0, apis=1, controllers=1, workers=0) as fleet,
        fleet.client() as direct,
        Proxy(fleet.urls[0], all_kinds(SEED, passing=3), SEED) as proxy,
        Client(proxy.url) as client,
    ):
        publish(direct, 0.001)
        direct.studies.create(study("own", EvaluatorSpec(name="external")))
        heard = Heard(proxy.url)
        fleet.worker("worker", proxy.url)
        wanted = SearchIn(name="replay", designer="evolution", budget=REPLAYED, batch=8)
        replayed = client.searches.create("replayed", wanted).id
        own = client.optimize("own", evaluated, designer="evolution", budget=OWN, workers=2)
        until("the end of the replays", lambda: _ended(direct, replayed), 600)
        with database.read() as s:
            numbers = [event.number for event in events.after(s, 0, None, 10**6)]
        until("all events", lambda: len(heard.numbers) >= len(numbers))
        found = {search: list(direct.searches.trials(search)) for search in (own.id, replayed)}
        assert own.state is direct.searches.get(replayed).state is SearchState.DONE
    assert fleet.crashed == []
    assert {fault for _, fault in proxy.met} == set(Fault)
    assert proxy.met[STREAM, Fault.PASS] > 1, "the stream was cut"
    assert heard.numbers == numbers == list(range(1, len(numbers) + 1)), "each event once, in order"
    assert count(database, Search) == 2
    for name, search, budget in (("own", own.id, OWN), ("replayed", replayed, REPLAYED)):
        check_trials(found[search], budget)
        check_study(database, name, found[search])


def evaluated(config: dict[str, Any], trial: Running) -> dict[str, float]:
    """What the table says, with a report on the way."""
    metrics: dict[str, float] = TABLE[tuple(trial.genes)]["metrics"]
    trial.report(1, {"error": metrics["error"]}, total=2)
    return metrics


def _ended(client: Client, search: int) -> bool:
    return client.searches.get(search).state is not SearchState.RUNNING


class Heard:
    """Numbers of the events that a client of its own hears, from the first."""

    def __init__(self, url: str) -> None:
        self.numbers: list[int] = []
        self._client = Client(url, tries=50)
        threading.Thread(target=self._follow, name="events", daemon=True).start()

    def _follow(self) -> None:
        for event in self._client.events(after=0):
            self.numbers.append(event.number)
