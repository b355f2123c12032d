"""The contract of leases as a state machine, on both databases: a plain model says what each call must do.

Searches of different needs ask, workers of different devices lease, report and fall silent, with tokens old and new;
people pause, cancel, extend and try again; time passes as it is told to. After each step the database is held against
the model, and at the end against `frontier db check`. More of it: ``--hypothesis-profile`` with more examples. The same
calls from many threads at once: `test_lease_threads`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import delete, select, update

from service.core.errors import Conflict, Stale
from service.core.failures import Failure
from service.core.states import COUNTED, DEAD, FAILURES, OPEN, SearchState, State
from service.db import checks, events, queue, retries, searches, tables, workers
from service.db.artifacts import ArtifactStore
from service.db.session import Database
from service.wire.base import Json
from service.wire.jobs import CompleteBatch, CompleteIn, Device, FailIn, HeartbeatIn, JobKind, JobsIn, LeaseIn, WorkerIn
from service.wire.spaces import DatasetOut, Resources, Task
from tests.clock import Clock, stopped
from tests.queue_model import AHEAD_S, Held, Job, Model, Search, Trial, Value, names
from tests.world import CPU, DIGITS, GPU, World

LETTERS = DatasetOut(name="letters", digest="e" * 64, shape=[1, 8, 8], classes=26, counts=DIGITS.counts)
LARGE = Device(name="cpu-large", type="cpu", memory_mb=4000)
SMALL_GPU = Device(name="gpu-small", type="cuda", memory_mb=1000)
WEIGHTS = "a" * 64
STUDIES: dict[str, dict[str, Any]] = {
    "study": {},
    "letters": {"task": Task(dataset="letters")},
    "cuda": {"resources": Resources(device_type="cuda")},
    "large": {"resources": Resources(memory_mb=2000)},
    "timed": {"metrics": ["latency_ms@gpu-b"]},
    "timed-anywhere": {"metrics": ["latency_ms"]},
}
WORKERS: list[dict[str, Any]] = [
    {"device": CPU},
    {"device": GPU, "datasets": [DIGITS, LETTERS]},
    {"device": LARGE, "datasets": [DIGITS, LETTERS]},
    {"device": CPU, "datasets": []},
    {"device": GPU, "kinds": [JobKind.FIT]},
    {"device": LARGE, "evaluators": ["supernet"]},
    {"device": SMALL_GPU},
]
NAMES = ("w0", "w1", "w2")
DAY_S = 86400.0

VERBS: dict[str, tuple[list[SearchState], SearchState]] = {
    "pause": ([SearchState.RUNNING], SearchState.PAUSED),
    "resume": ([SearchState.PAUSED], SearchState.RUNNING),
    "cancel": ([SearchState.RUNNING, SearchState.PAUSED], SearchState.CANCELLED),
}
INTERVENTIONS = (
    *("pause", "pause", "resume", "resume", "resume", "extend", "extend"),
    *("cancel a job", "cancel a job", "cancel jobs", "cancel", "done", "failed"),
)

# Among however many there are.
PLACES = st.integers(0, 1000)
SECONDS = st.sampled_from([0.0, 0.5, 3.0, 100.0])


@dataclass(frozen=True)
class Said:
    """A worker's report: of which of all leases that were ever made, and what is wrong with it.

    A ``stranger`` is a worker from before a backup was put back: it has the lease's token, but never the lease.
    """

    place: int
    mood: str
    seconds: float
    stranger: bool


MOODS = st.sampled_from(["good", "good", "good", "more", "less", "nan", "none"])
REPORTS = st.lists(
    st.builds(Said, PLACES, MOODS, SECONDS, st.sampled_from([False, False, False, True])), min_size=1, max_size=5
)
ASKS = st.tuples(st.sampled_from(NAMES), st.integers(1, 4), st.booleans())
ASKED = st.lists(ASKS, min_size=1, max_size=3)
LEASES_S = st.sampled_from([2.0, 30.0, 9 * DAY_S])
ENDS = st.one_of(
    st.tuples(st.sampled_from([State.FAILED, State.QUEUED]), st.sampled_from(Failure)),
    st.sampled_from([(State.QUEUED, Failure.DRAINED), (State.FAILED, Failure.OUT_OF_MEMORY)]),
    st.just((State.INFEASIBLE, Failure.INFEASIBLE)),
    st.just((State.CANCELLED, Failure.CANCELLED)),
)


class LeaseMachine(RuleBasedStateMachine):
    """One database, its searches and workers, and every lease that was ever handed out."""

    database_url: str
    clock: Clock
    folder: Path

    def __init__(self) -> None:
        super().__init__()
        self.world = World(Database(self.database_url))
        self.database = self.world.database
        with self.database.write() as s:  # each example finds empty tables
            for table in (tables.Search, tables.StudyMeasurement, tables.Measurement, tables.Event):
                s.execute(delete(table))
            s.execute(update(tables.Counter).values(value=0))
        self.model = Model()
        self.held: list[Held] = []
        self.pool = self.world.genes(24)
        rows = [tuple(row) for row in self.pool.tolist()]
        self.keys = dict(zip(rows, self.world.space.keys(self.pool), strict=True))
        self.macs = dict(zip(rows, self.world.space.cost(self.pool)["macs"].tolist(), strict=True))
        self.values = 0
        self.told: dict[int, int] = {}
        """How often each trial's end was told."""
        self.heard = 0
        for name, given in zip(NAMES, WORKERS, strict=False):
            self._announce(name, given)

    def teardown(self) -> None:
        try:
            found = {each.name: each.problems for each in checks.run(self.database, ArtifactStore(self.folder))}
            assert not any(found.values()), found
        finally:
            self.database.dispose()

    # ------------------------------------------------------------------ searches

    @initialize(study=st.sampled_from(sorted(STUDIES)), count=st.integers(1, 8))
    def two_searches_ask(self, study: str, count: int) -> None:
        for place, name in enumerate(("study", study)):
            self.a_search_begins(name, 100, 0, 1.0, 50)
            self.a_search_asks(place, 5 * place, count, False)

    @precondition(lambda self: len(self.model.searches) < 5)
    @rule(
        study=st.sampled_from(sorted(STUDIES)),
        budget=st.sampled_from([3, 100]),
        priority=st.sampled_from([0, 0, -1]),
        share=st.sampled_from([1.0, 1.0, 3.0]),
        max_failures=st.sampled_from([0, 50]),
    )
    def a_search_begins(self, study: str, budget: int, priority: int, share: float, max_failures: int) -> None:
        made = self.world.search(study, budget=budget, priority=priority, share=share, max_failures=max_failures)
        wanted = ("error", "macs", *STUDIES[study].get("metrics", ()))
        dataset = LETTERS if study == "letters" else DIGITS
        needs = STUDIES[study].get("resources", Resources())
        self.model.searches[made.id] = Search(made.id, budget, priority, max_failures, wanted, dataset.digest, needs)

    @rule(place=PLACES, first=st.integers(0, 23), count=st.integers(1, 8), loaded=st.booleans())
    def a_search_asks(self, place: int, first: int, count: int, loaded: bool) -> None:
        """For architectures that others ask for too. What is known ends at once; a device is not known yet."""
        search = self._search(place)
        if search.state is not SearchState.RUNNING:
            with self.database.write() as s:
                assert searches.claim(s, search.id, "c1", 60) is None
            return
        genes = self.pool[[(first + index) % len(self.pool) for index in range(count)]]
        before = [self.model.measured(Trial(0, search, tuple(row)), None, self.clock.now()) for row in genes.tolist()]
        ids = self.world.ask(search.id, genes, search.asks)
        search.asks += 1
        with self.database.write() as s:
            if loaded:
                s.execute(update(tables.Job).where(tables.Job.trial_id.in_(ids)).values(needs_weights=WEIGHTS))
            made = {job.trial_id: job for job in s.scalars(select(tables.Job).where(tables.Job.trial_id.in_(ids)))}
        for trial_id, row, known in zip(ids, genes, before, strict=True):
            trial = self.model.trials[trial_id] = Trial(trial_id, search, tuple(row.tolist()))
            if known.keys() >= set(names(trial)):
                assert trial_id not in made
                self.model.end(trial, State.SUCCEEDED, self._metrics(trial, known), reused=True)
            else:
                job = made[trial_id]
                weights = WEIGHTS if loaded else None
                self.model.jobs[job.id] = Job(job.id, trial, job.turn, weights, search.resources.memory_mb)

    @rule(place=PLACES, what=st.sampled_from(INTERVENTIONS), more=st.integers(0, 5))
    def somebody_intervenes(self, place: int, what: str, more: int) -> None:
        """Most of what people do spares most of the work: else little would be left to be leased."""
        if what in VERBS:
            self._tell(place, what)
        elif what in ("done", "failed"):
            self._finish(place, SearchState(what.upper()))
        elif what == "extend":
            self._extend(place, more)
        elif what == "cancel a job":
            self._cancel_job(place)
        else:
            self._cancel_jobs(place)

    def _tell(self, place: int, verb: str) -> None:
        search = self._search(place)
        sources, target = VERBS[verb]
        if search.state not in (*sources, target):
            with pytest.raises(Conflict), self.database.write() as s:
                searches.set_state(s, search.id, verb)
            return
        with self.database.write() as s:
            searches.set_state(s, search.id, verb)
        if search.state is not target:
            if target is SearchState.CANCELLED:
                self.model.stop(search, target)
            search.state = target

    def _finish(self, place: int, state: SearchState) -> None:
        search = self._search(place)
        if search.state is SearchState.RUNNING:
            claim = self.world.claim(search.id)
            with self.database.write() as s:
                searches.finish(s, claim, state, "a test")
            self.model.stop(search, state)

    def _extend(self, place: int, more: int) -> None:
        search = self._search(place)
        if search.state in (SearchState.FAILED, SearchState.CANCELLED):
            with pytest.raises(Conflict), self.database.write() as s:
                searches.extend(s, search.id, search.budget + more)
            return
        with self.database.write() as s:
            searches.extend(s, search.id, search.budget + more)
        search.budget += more
        if more and search.state is SearchState.DONE:
            search.state = SearchState.RUNNING

    def _cancel_job(self, place: int) -> None:
        if not self.model.jobs:
            return
        job = list(self.model.jobs.values())[place % len(self.model.jobs)]
        with self.database.write() as s:
            queue.cancel(s, job.id)
        if job.state is State.LEASED:
            job.cancelled = True
        elif job.state is State.QUEUED:
            self.model.end(job.trial, State.CANCELLED)

    def _cancel_jobs(self, place: int) -> None:
        search = self._search(place)
        waiting = list(self.model.of_search(search, State.QUEUED))
        at_work = list(self.model.of_search(search, State.LEASED))
        with self.database.write() as s:
            said = retries.cancel(s, JobsIn(search=search.id))
        assert (said.cancelled, said.stopping) == ([job.id for job in waiting], [job.id for job in at_work])
        for job in waiting:
            self.model.end(job.trial, State.CANCELLED)
        for job in at_work:
            job.cancelled = True

    # ------------------------------------------------------------------ jobs

    @rule(name=st.sampled_from(NAMES), given=st.sampled_from([*WORKERS, *WORKERS[:3]]))
    def a_worker_announces_itself(self, name: str, given: dict[str, Any]) -> None:
        self._announce(name, given)

    @rule(asked=ASKED, lease_s=LEASES_S)
    def workers_lease(self, asked: Sequence[tuple[str, int, bool]], lease_s: float) -> None:
        self._lease(asked, lease_s)

    @rule(asked=ASKED, lease_s=LEASES_S, after=st.sampled_from([0.0, 1.0, 400.0]), reports=REPORTS)
    def workers_work(
        self, asked: Sequence[tuple[str, int, bool]], lease_s: float, after: float, reports: Sequence[Said]
    ) -> None:
        """Lease, and report some of it a while later."""
        old = len(self.held)
        self._lease(asked, lease_s)
        self.clock.move(after)
        if new := self.held[old:]:
            self._report([(new[said.place % len(new)], said) for said in reports], apart=len(asked) > 1)

    @rule(asked=ASKED, seconds=SECONDS, ends=st.lists(ENDS, min_size=1, max_size=4))
    def workers_give_up(
        self, asked: Sequence[tuple[str, int, bool]], seconds: float, ends: Sequence[tuple[State, Failure]]
    ) -> None:
        """Lease, and fail at some of it."""
        old = len(self.held)
        self._lease(asked, 30.0)
        for held, end in zip(self.held[old:], ends, strict=False):
            self._fail(held, end, seconds)

    @rule(asked=ASKED, seconds=st.sampled_from([3.0, 33.0]))
    def workers_fall_silent(self, asked: Sequence[tuple[str, int, bool]], seconds: float) -> None:
        """Lease, and are not heard of in time."""
        self._lease(asked, 2.0)
        self.clock.move(seconds)
        self.leases_run_out(0.0)

    def _lease(self, asked: Sequence[tuple[str, int, bool]], lease_s: float) -> None:
        """One or several in one transaction. What the ledger has learnt meanwhile ends instead of being handed out."""
        time = self.clock.now()
        before = self.model.due(time)
        bodies = [
            LeaseIn(worker=name, count=count, weights=[WEIGHTS] if loaded else []) for name, count, loaded in asked
        ]
        with self.database.write() as s:
            answers = queue.lease(s, bodies, lease_s)
            ended = s.scalars(
                select(tables.Trial)
                .join(tables.Job, tables.Job.trial_id == tables.Trial.id)
                .where(tables.Job.id.in_([job.id for job in before]), tables.Trial.state == State.SUCCEEDED)
            ).all()
        assert len({lease.job for leases in answers for lease in leases}) == sum(map(len, answers)), "given twice"
        for body, leases in zip(bodies, answers, strict=True):
            assert len(leases) <= body.count
            for lease in leases:
                held = Held(lease, body.worker, self.model.workers[body.worker].device.name)
                self.model.lease(held, time)
                self.held.append(held)
        for each in ended:
            self._reused(each, bodies)
        left = [job for job in before if job.state is State.QUEUED]
        for body, leases in zip(bodies, answers, strict=True):
            mine = [job for job in left if self.model.can_run(job, self.model.workers[body.worker])]
            # Who looked eight times and found only what was known looks no further.
            assert len(leases) == body.count or not mine or len(ended) >= 8, "a worker goes away empty-handed"
            for lease in leases:
                for job in mine:
                    self._check_turn(self.model.jobs[lease.job], job, bool(body.weights))
        for one, some in zip(bodies, answers, strict=True):
            for other, rest in zip(bodies, answers, strict=True):
                if self.model.workers[one.worker] == self.model.workers[other.worker].model_copy(
                    update={"name": one.worker}
                ) and bool(one.weights) == bool(other.weights):
                    assert len(some) == one.count or len(rest) <= len(some) + 1, "shared unevenly"

    def _reused(self, ended: tables.Trial, bodies: Sequence[LeaseIn]) -> None:
        """A trial ended that was not handed out: it was due, and all was known on the device of one that asked."""
        trial, time = self.model.trials[ended.id], self.clock.now()
        (job,) = [job for job in self.model.jobs.values() if job.trial is trial]
        askers = [self.model.workers[body.worker] for body in bodies]
        devices = {each.device.name for each in askers if self.model.can_run(job, each)}
        possible = [
            self._metrics(trial, self.model.measured(trial, device, time))
            for device in devices
            if self.model.is_known(trial, device, time)
        ]
        assert ended.metrics in possible
        self.model.end(trial, State.SUCCEEDED, ended.metrics, reused=True)

    @staticmethod
    def _check_turn(taken: Job, left: Job, favours: bool) -> None:
        """Nobody jumps the queue but those whose super-network is loaded, and they not far."""
        if taken.place < left.place:
            return
        assert favours, f"{taken.place} went before {left.place}"
        assert taken.weights == WEIGHTS
        assert taken.place[0] == left.place[0]
        assert taken.turn <= left.turn + AHEAD_S

    @precondition(lambda self: self.held)
    @rule(place=PLACES, done=st.integers(1, 3))
    def a_worker_is_heard_of(self, place: int, done: int) -> None:
        held = self._held(place)
        job, body = self.model.jobs[held.lease.job], HeartbeatIn(token=held.lease.token, progress={"done": done})
        if not self.model.current(held):
            with pytest.raises(Stale), self.database.write() as s:
                queue.heartbeat(s, job.id, body)
            return
        with self.database.write() as s:
            beat = queue.heartbeat(s, job.id, body)
        assert beat.stop == job.cancelled
        assert beat.expires_at > self.clock.now()
        job.leased_until = beat.expires_at
        assert (beat.expires_at - self.clock.now()).total_seconds() == job.lease_s

    @precondition(lambda self: self.held)
    @rule(reports=REPORTS, apart=st.booleans())
    def workers_report(self, reports: Sequence[Said], apart: bool) -> None:
        """Any leases, also those that are over, and some twice."""
        self._report([(self._held(said.place), said) for said in reports], apart)

    def _report(self, reports: Sequence[tuple[Held, Said]], apart: bool) -> None:
        """In one call; a body for each, or for each worker."""
        given: list[tuple[str, Held, Said, CompleteIn]] = []
        for held, said in reports:
            result = self._result(held, said.mood)
            body = CompleteIn(job=held.lease.job, token=held.lease.token, result=result, seconds=said.seconds)
            given.append(("stranger" if said.stranger else held.worker, held, said, body))
        if apart:
            bodies = [CompleteBatch(worker=name, results=[body]) for name, *_, body in given]
        else:
            given.sort(key=lambda each: each[0])
            by_worker = groupby(given, key=lambda each: each[0])
            bodies = [CompleteBatch(worker=name, results=[body for *_, body in some]) for name, some in by_worker]
        with self.database.write() as s:
            answers = [each for answer in queue.complete(s, bodies) for each in answer.items]
        accepted: dict[tuple[int, int, str], bool] = {}
        current: list[tuple[Held, Said, CompleteIn]] = []
        for name, held, said, body in given:
            # What is current is so for the whole call; of the same report only the first counts.
            if (place := (body.job, body.token, name)) not in accepted:
                job = self.model.jobs[body.job]
                newest = (job.token, job.worker) == (body.token, name)
                is_current = newest and self.model.current(held)
                accepted[place] = is_current or (newest and job.answered)
                if is_current:
                    current.append((held, said, body))
                if is_current or not accepted[place]:
                    self._record(held, name, body)
        for each in current:
            self._settle(*each)
        for (name, *_, body), answer in zip(given, answers, strict=True):
            assert (answer.job, answer.accepted) == (body.job, accepted[body.job, body.token, name])
            assert not answer.accepted or answer.state is self.model.jobs[body.job].state

    def _result(self, held: Held, mood: str) -> Json:
        """A report in which every number is new."""
        asked = list(held.lease.payload["metrics"])
        if mood == "less":
            asked = asked[1:]
        elif mood == "more":
            asked.append("loss")
        metrics = {}
        for name in asked:
            self.values += 1
            metrics[name] = self.values / 8192
        if mood == "nan":
            metrics["error"] = float("nan")
        return {} if mood == "none" else {"metrics": metrics, "device": held.device}

    def _record(self, held: Held, worker: str, body: CompleteIn) -> None:
        metrics = body.result.get("metrics", {})
        if any(value != value for value in metrics.values()):
            return
        trial = self.model.jobs[body.job].trial
        for name, value in metrics.items():
            place = self.model.place(trial, name, held.device)
            self.model.record(place, Value(value, self.clock.now(), (body.job, body.token, worker)))

    def _settle(self, held: Held, said: Said, body: CompleteIn) -> None:
        """The newest lease's report ends the trial: as a success if it holds all that was asked for and not known."""
        job = self.model.jobs[body.job]
        job.answered = True
        job.trial.paid_s += said.seconds
        if said.mood in ("nan", "none"):
            self.model.end(job.trial, State.FAILED)
            return
        leased = job.leased_at or self.clock.now()
        values = {**self.model.measured(job.trial, held.device, leased), **body.result["metrics"]}
        if set(names(job.trial)) - values.keys():
            self.model.end(job.trial, State.FAILED)
        else:
            self.model.end(job.trial, State.SUCCEEDED, self._metrics(job.trial, values))

    @precondition(lambda self: self.held)
    @rule(place=PLACES, end=ENDS, seconds=SECONDS)
    def a_worker_gives_up(self, place: int, end: tuple[State, Failure], seconds: float) -> None:
        self._fail(self._held(place), end, seconds)

    def _fail(self, held: Held, end: tuple[State, Failure], seconds: float) -> None:
        state, failure = end
        job, alive = self.model.jobs[held.lease.job], self._alive()
        body = FailIn(token=held.lease.token, state=state, failure=failure, reason="a test", seconds=seconds)
        if not self.model.current(held):
            # A repeated answer may be the one that was lost; whatever it is, it changes nothing.
            try:
                with self.database.write() as s:
                    answer = queue.fail(s, job.id, body)
            except Stale:
                return
            assert answer.state is job.state
            assert job.token == body.token
            return
        with self.database.write() as s:
            answer = queue.fail(s, job.id, body)
        job.attempts -= failure is Failure.DRAINED
        job.trial.paid_s += seconds
        if state in (State.FAILED, State.QUEUED):
            self.model.fails(job, failure, State.FAILED, self.clock.now(), alive)
        else:
            self.model.end(job.trial, state)
        assert answer.state is job.state

    @rule(ahead=st.sampled_from([0.0, 0.0, 5.0, 100.0]))
    def leases_run_out(self, ahead: float) -> None:
        """By now, or by the clock of somebody whose clock is ahead."""
        time = self.clock.ahead(ahead)
        over = [
            job
            for job in self.model.jobs.values()
            if job.state is State.LEASED and job.leased_until is not None and job.leased_until < time
        ]
        with self.database.write() as s:
            assert queue.expire(s, time if ahead else None) == len(over)
        for job in over:
            self.model.fails(job, Failure.LOST, State.LOST, time, ())

    @rule(seconds=st.sampled_from([0.5, 1.0, 2.0, 5.0, 33.0, 333.0, 8 * DAY_S]))
    def time_passes(self, seconds: float) -> None:
        self.clock.move(seconds)

    # ------------------------------------------------------------------ people

    @precondition(lambda self: any(job.state in DEAD for job in self.model.jobs.values()))
    @rule(place=PLACES, dry=st.sampled_from([False, False, True]))
    def dead_letters_are_tried_again(self, place: int, dry: bool) -> None:
        """They wait as if their search had asked for them now."""
        found = [search for search in self.model.searches.values() if any(self.model.of_search(search, *DEAD))]
        search = found[place % len(found)]
        dead = [job.id for job in self.model.of_search(search, *DEAD)]
        again = self.model.retriable(search)
        with self.database.write() as s:
            said = retries.retry(s, JobsIn(search=search.id, dry_run=dry))
            turns = dict(s.execute(select(tables.Job.id, tables.Job.turn)).all())
        assert said.retried == [job.id for job in again]
        assert sorted(said.retried + [left.job for left in said.left_alone]) == sorted(dead)
        if not dry:
            self.model.retry(again)
            for job in again:
                assert turns[job.id] >= job.turn
                job.turn = turns[job.id]

    # ------------------------------------------------------------------ what always holds

    @invariant()
    def the_database_is_as_the_model_says(self) -> None:
        with self.database.read() as s:
            jobs = {job.id: job for job in s.scalars(select(tables.Job))}
            trials = {trial.id: trial for trial in s.scalars(select(tables.Trial))}
            for event in events.after(s, self.heard, limit=10_000):
                self.heard = event.number
                if event.kind == "trial.ended":
                    self.told[event.body["trial"]] = self.told.get(event.body["trial"], 0) + 1
        assert jobs.keys() == self.model.jobs.keys()
        for job in self.model.jobs.values():
            row, waits, works = jobs[job.id], job.state is State.QUEUED, job.state is State.LEASED
            assert row.state == trials[job.trial.id].state == job.state, f"job {job.id}"
            assert (row.token, row.attempts, row.cancelled) == (job.token, job.attempts, job.cancelled)
            assert (row.turn, row.needs_memory_mb) == (job.turn, job.memory_mb)
            assert row.worker == job.worker
            assert row.leased_until == (job.leased_until if works else None)
            assert not waits or row.not_before == job.not_before
        assert trials.keys() == self.model.trials.keys()
        for trial in self.model.trials.values():
            found = trials[trial.id]
            assert found.state == trial.state
            assert (found.metrics if trial.state is State.SUCCEEDED else {}) == trial.metrics
            assert (found.reused, found.paid_s) == (trial.reused, trial.paid_s)
            assert trial.ends == self.told.get(trial.id, 0), "an end is told once"
            assert trial.ends + (trial.state in OPEN) == trial.opened, "a trial ends once whenever it is opened"
            assert len(found.earlier or ()) == trial.opened - 1

    @invariant()
    def searches_count_right_and_number_their_ends(self) -> None:
        with self.database.read() as s:
            for search in self.model.searches.values():
                shown, progress = searches.get(s, search.id), searches.progress(s, search.id)
                mine = [trial for trial in self.model.trials.values() if trial.search is search]
                counts = {name: number for name, number in shown.counts.model_dump().items() if number}
                assert shown.state is search.state
                assert counts == self.model.counts(search)
                assert shown.reused == sum(trial.reused for trial in mine)
                assert shown.paid_s == pytest.approx(sum(trial.paid_s for trial in mine))
                assert (progress.trials, progress.completions) == (len(mine), search.completions)
                assert progress.open == sum(trial.state in OPEN for trial in mine)
                assert progress.counted == sum(trial.state in COUNTED for trial in mine)
                assert progress.failures == sum(trial.state in FAILURES for trial in mine)
                rows = s.execute(
                    select(tables.Trial.completion, tables.Trial.earlier).where(tables.Trial.search_id == search.id)
                ).all()
                numbers = [number for number, _ in rows if number is not None]
                for _, earlier in rows:
                    numbers += [end[name] for end in earlier or () for name in ("completion", "reopened")]
                assert sorted(numbers) == list(range(1, search.completions + 1))

    @invariant()
    def what_was_measured_is_kept_once(self) -> None:
        keys = {}
        with self.database.read() as s:
            keys = {row.id: row.key for row in s.scalars(select(tables.Architecture))}
            rows = s.scalars(select(tables.Measurement).where(tables.Measurement.metric != "macs")).all()
            counted = s.scalars(select(tables.Measurement).where(tables.Measurement.metric == "macs")).all()
        found = sorted(
            (keys[row.architecture_id], row.metric, row.attempt, row.value, row.job_id, row.token, row.worker)
            for row in rows
        )
        told = [
            (self.keys[genes], name, attempt, each.value, *each.report)
            for (genes, name, _), values in self.model.ledger.items()
            for attempt, each in enumerate(values)
        ]
        assert found == sorted(told)
        assert len({row.architecture_id for row in counted}) == len(counted)

    # ------------------------------------------------------------------ helpers

    def _announce(self, name: str, given: dict[str, Any]) -> None:
        known: dict[str, Any] = {"kinds": [JobKind.EVALUATE], "datasets": [DIGITS], "evaluators": ["training"]}
        body = WorkerIn(name=name, **{**known, **given})
        with self.database.write() as s:
            workers.announce(s, body)
        self.model.workers[name] = body

    def _search(self, place: int) -> Search:
        return list(self.model.searches.values())[place % len(self.model.searches)]

    def _held(self, place: int) -> Held:
        """A lease; half of the time one of the newest ones."""
        newest = self.held[-6:] if place % 2 else self.held
        return newest[place // 2 % len(newest)]

    def _alive(self) -> list[str]:
        with self.database.read() as s:
            return [name for name in NAMES if workers.get(s, name).alive]

    def _metrics(self, trial: Trial, known: dict[str, float]) -> dict[str, float]:
        """A trial's metrics: what was measured, and what is counted."""
        values = {**known, "macs": float(self.macs[trial.genes])}
        return {name: values[name] for name in trial.search.wanted}


def test_the_contract_of_leases_as_a_state_machine(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = stopped(monkeypatch)
    database = Database(database_url)
    world = World(database).found()
    world.worker("w", datasets=[DIGITS, LETTERS])
    for name, given in STUDIES.items():
        if name != "study":
            world.study(name=name, **given)
    with database.write() as s:  # it was there for its data sets
        s.execute(delete(tables.Worker))
    database.dispose()
    machine = type("Machine", (LeaseMachine,), {"database_url": database_url, "clock": clock, "folder": tmp_path})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=max(1, settings().max_examples // 8),
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
