"""The controller's side of searches: what a designer sees of one, and what it answered."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sqlalchemy import Row, func, insert, select
from sqlalchemy.orm import Session

from search_spaces.space import FloatArray, SearchSpace
from service.core.errors import Conflict, Invalid, NotFound, Stale
from service.core.history import History
from service.core.metrics import Circumstances, Scope, metric
from service.core.objectives import ANALYTIC, Constraint, Objective, minimised, violations
from service.core.states import SearchState, State
from service.db import (
    architectures,
    evaluators,
    events,
    jobs,
    ledger,
    proxies,
    shares,
    spaces,
    studies,
    trial_ends,
    undefined,
)
from service.db.claims import Claim, Progress
from service.db.job_rows import TrialRow
from service.db.paging import checked_id
from service.db.tables import Architecture, Ask, Search, Space, Study, Trial, now
from service.search.designer import Suggestions
from service.wire.base import Json, Metrics
from service.wire.jobs import JobKind

__all__ = ["Claim", "Progress", "Snapshot", "change_state", "finish", "record_ask", "seen", "snapshot"]


@dataclass(frozen=True, slots=True)
class _End:
    """How a trial had ended for somebody who saw the ends of its search up to some number."""

    state: str
    metrics: Metrics
    paid_s: float


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What an ask sees. ``completion`` is the last end seen, ``pending`` the numbers of the trials still open."""

    search: Search
    study: Study
    space: SearchSpace
    objectives: tuple[Objective, ...]
    constraints: tuple[Constraint, ...]
    history: History
    completion: int
    pending: list[int]


def snapshot(s: Session, search_id: int, ask: int | None = None) -> Snapshot:
    """What the next ask sees; or what a stored one had seen, so that it can be asked again.

    Pending trials are shown as QUEUED: whether a worker has them already must not change what is suggested.
    """
    found = s.execute(
        select(Search, Study, Space)
        .join(Study, Study.id == Search.study_id)
        .join(Space, Space.id == Study.space_id)
        .where(Search.id == checked_id(search_id, "search"))
        .execution_options(populate_existing=True)
    ).one_or_none()
    if found is None:
        raise NotFound("search", search_id)
    search, study, stored = found
    completion, state, below = search.completions, search.designer_state, search.asks
    if ask is not None:
        asked = s.get(Ask, (search_id, ask))
        if asked is None:
            raise NotFound("ask", ask)
        completion, state, below = asked.seen["completion"], asked.state_before, ask
    query = (
        select(
            Trial.number,
            Trial.ask,
            Architecture.genes,
            Trial.fidelity,
            Trial.state,
            Trial.metrics,
            Trial.predicted,
            Trial.probe,
            Trial.paid_s,
            Trial.memo,
            Trial.completion,
            Trial.earlier,
            Trial.evaluation,
        )
        .join(Architecture, Architecture.id == Trial.architecture_id)
        .where(Trial.search_id == search_id, Trial.ask < below)
        .order_by(Trial.number)
    )
    rows = s.execute(query).all()
    space, objectives, constraints = spaces.load(stored), studies.objectives(study), studies.constraints(study)
    ends = [_end_by(completion, row) for row in rows]
    metrics: list[Metrics] = [{} if end is None else end.metrics for end in ends]
    means = [{name: said["mean"] for name, said in row[6].items()} for row in rows]
    history = History(
        numbers=np.array([row[0] for row in rows], dtype=np.int64),
        asks=np.array([row[1] for row in rows], dtype=np.int64),
        genes=architectures.unpack([row[2] for row in rows], len(space.choices)),
        fidelity=np.array([row[3] for row in rows], dtype=np.float64),
        states=np.array([State.QUEUED.value if end is None else end.state for end in ends], dtype="U10"),
        objectives=minimised(objectives, metrics),
        violations=violations(constraints, metrics),
        predicted=minimised(objectives, means),
        probe=np.array([row[7] for row in rows], dtype=bool),
        evaluation=np.array([row[12] for row in rows], dtype=bool),
        cost_s=np.array([0.0 if end is None else end.paid_s for end in ends], dtype=np.float64),
        features=_scores(metrics),
        memo=tuple(row[9] for row in rows),
        state=state,
    )
    pending = [row[0] for row, end in zip(rows, ends, strict=True) if end is None]
    return Snapshot(search, study, space, objectives, constraints, history, completion, pending)


def record_ask(
    s: Session,
    held: Claim,
    ask_number: int,
    suggestions: Suggestions,
    predictions: Sequence[Mapping[str, Mapping[str, float]]],
    predictors: Mapping[str, int],
    seen: Json,
    wanted: Sequence[str],
    took_s: float = 0.0,
) -> list[int]:
    """Stores an ask and its trials, in order; returns the trials' ids.

    A trial of which all wanted metrics are known in the study's circumstances ends at once, reused; for the others
    jobs are queued. Latencies are known only once a device is, at the lease.

    Args:
        held: the controller's lease; raises `Stale` if another has the search, it stopped, or this ask was made.
        ask_number: must be the number of asks so far.
        suggestions: what the designer answered; its state becomes the search's.
        predictions: per suggestion metric → mean, epistemic_std and std.
        predictors: metric → id of the predictor that made the predictions.
        seen: what the ask had seen: last completion, pending trials, digests of predictors.
        wanted: metrics of suggestions that name none.
        took_s: seconds since the ask was due.
    """
    search = trial_ends.lock_searches(s, [held.search_id]).get(held.search_id)
    if search is None or search.token != held.token:
        raise Stale(f"search {held.search_id} is advanced by another controller")
    if search.state != SearchState.RUNNING or search.asks != ask_number:
        raise Stale(f"search {held.search_id} is {search.state} with {search.asks} asks, not before ask {ask_number}")
    study = s.get_one(Study, search.study_id)
    weights = studies.weights(s, study)
    s.add(Ask(search_id=search.id, number=ask_number, seen=seen, state_before=search.designer_state, took_s=took_s))
    search.asks += 1
    search.designer_state = dict(suggestions.state)
    body: Json = {"ask": ask_number, "trials": len(suggestions.items)}
    events.emit(s, "ask", study.id, search.id, body)
    if not suggestions.items:
        return []
    space = spaces.load(spaces.row(s, study.space_id))
    genes = np.stack([item.genes for item in suggestions.items])
    trials = _trials(s, search, study, space, genes, suggestions, predictions, predictors, wanted)
    needed = evaluators.needs(s, study, weights)
    works = _works(s, study, trials, needed)
    ends = _reuse(s, study, weights, space, genes, trials, works)
    trial_ends.end_trials(s, {search.id: search}, ends)
    ended = {end.trial.id for end in ends}
    queued = [trial for trial in trials if trial.id not in ended]
    due = shares.turns(s, search, len(queued))
    made = [_job(study, works[tuple(trial.wanted)], trial) for trial in queued]
    jobs.enqueue_trials(
        s, [{**each, "priority": search.priority, "turn": turn} for each, turn in zip(made, due, strict=True)]
    )
    trial_ends.queued(s, queued)
    return [trial.id for trial in trials]


def finish(s: Session, held: Claim, state: SearchState, reason: str) -> None:
    """Ends a search; what is still open in it is cancelled. `Stale` if another controller has it."""
    search = trial_ends.lock_searches(s, [held.search_id]).get(held.search_id)
    if search is None or search.token != held.token:
        raise Stale(f"search {held.search_id} is advanced by another controller")
    if search.state in (SearchState.DONE, SearchState.FAILED, SearchState.CANCELLED):
        raise Stale(f"search {held.search_id} is {search.state} already")
    if state in (SearchState.RUNNING, SearchState.PAUSED):
        raise Conflict(f"{state} is no end")
    change_state(s, search, state, reason)


def change_state(s: Session, search: Search, state: SearchState, reason: str) -> None:
    """Puts a (locked) search into a state and tells of it; an end cancels what is open."""
    search.state, search.reason = state, reason
    if state not in (SearchState.RUNNING, SearchState.PAUSED):
        search.ended_at = now()
        search.controller, search.leased_until = None, None
        trial_ends.cancel_open(s, search, f"the search ended: {reason or state}")
    body = {"search": search.id, "name": search.name, "number": search.number, "state": state.value, "reason": reason}
    events.emit(s, "search.state", search.study_id, search.id, body)


def _scores(metrics: Sequence[Metrics]) -> dict[str, FloatArray]:
    """Score → (n, 1), NaN where a trial has none: what zero-cost proxies gave, and counts."""
    names = sorted({name for row in metrics for name in row if metric(name).scope in (Scope.INITIAL, Scope.ANALYTIC)})
    return {name: np.array([[row.get(name, np.nan)] for row in metrics], dtype=np.float64) for name in names}


def _end_by(completion: int, trial: Row[*tuple[Any, ...]]) -> _End | None:
    """The end that a trial had when the ends up to this number were seen; None if it was open.

    A trial that is tried again had failed, without metrics, from the number of that end until it was reopened.
    """
    if trial.completion is not None and trial.completion <= completion:
        return _End(trial.state, trial.metrics, trial.paid_s)
    for end in trial.earlier or ():
        if end["completion"] <= completion < end["reopened"]:
            return _End(end["state"], {}, end["paid_s"])
    return None


# ---------------------------------------------------------------------- the parts of an ask


def _trials(
    s: Session,
    search: Search,
    study: Study,
    space: SearchSpace,
    genes: Any,
    suggestions: Suggestions,
    predictions: Sequence[Mapping[str, Mapping[str, float]]],
    predictors: Mapping[str, int],
    wanted: Sequence[str],
) -> list[TrialRow]:
    ids = architectures.ensure(s, space, genes)
    first = s.scalars(select(func.coalesce(func.max(Trial.number), 0)).where(Trial.search_id == search.id)).one() + 1
    objectives = {each["metric"] for each in study.objectives}
    time = now()
    rows = []
    for index, (item, said) in enumerate(zip(suggestions.items, predictions, strict=True)):
        metrics = list(wanted if item.metrics is None else item.metrics)
        rows.append(
            {
                "search_id": search.id,
                "study_id": study.id,
                "number": first + index,
                "ask": search.asks - 1,
                "architecture_id": ids[index],
                "fidelity": item.fidelity,
                "wanted": metrics,
                "suggestion": item.reason,
                "probe": item.probe,
                "evaluation": objectives <= set(metrics),
                "memo": dict(item.memo),
                "predicted": _predicted(index, said, predictors),
                "created_at": time,
            }
        )
    # Not as objects: SQLite would insert those one by one to learn their ids in order.
    s.execute(insert(Trial), rows)
    return trial_ends.trials(s, Trial.search_id == search.id, Trial.number >= first)


def _predicted(index: int, said: Mapping[str, Mapping[str, float]], predictors: Mapping[str, int]) -> Json:
    for name, numbers in said.items():
        if not all(math.isfinite(value) for value in numbers.values()):
            raise Invalid(f"predictions.{index}.{name}", f"must be finite numbers, are {dict(numbers)}")
    return {name: {**numbers, "predictor": predictors.get(name)} for name, numbers in said.items()}


def _works(s: Session, study: Study, trials: Sequence[TrialRow], needed: Json) -> dict[tuple[str, ...], Json]:
    """What kind of job measures these metrics, and what its worker must have: proxies alone are scored."""
    return {
        wanted: proxies.needs(study) if proxies.is_scored(s, study, wanted) else needed
        for wanted in dict.fromkeys(tuple(trial.wanted) for trial in trials)
    }


def _reuse(
    s: Session,
    study: Study,
    weights: str | None,
    space: SearchSpace,
    genes: Any,
    trials: Sequence[TrialRow],
    works: Mapping[tuple[str, ...], Json],
) -> list[trial_ends.TrialEnd]:
    """Ends of the trials that need not be measured; the study links what they use."""
    depend_on: dict[tuple[float, str], Circumstances] = {}
    questions = []
    for trial in trials:
        kind = works[tuple(trial.wanted)]["kind"]
        if (trial.fidelity, kind) not in depend_on:
            scoring = evaluators.scoring(kind, study.evaluator["name"])
            given = studies.circumstances_with(study, weights, fidelity=trial.fidelity, scoring=scoring)
            depend_on[trial.fidelity, kind] = given
        questions.append(ledger.Question(trial.architecture_id, tuple(trial.wanted), depend_on[trial.fidelity, kind]))
    answers = ledger.known(s, questions, evaluators.latency_age_s(study))
    refused = undefined.known(s, questions)
    costs = {name: values.tolist() for name, values in space.cost(genes).items() if name in ANALYTIC}
    ends, links, entries = [], [], []
    for index, (trial, question, known) in enumerate(zip(trials, questions, answers, strict=True)):
        why = next((undefined.words(name, why) for name, why in refused[index].items() if name not in known), None)
        if why is not None:
            ends.append(trial_ends.TrialEnd(trial, State.INFEASIBLE, why, reused=True))
            continue
        counted = {n: float(costs[n][index]) for n in trial.wanted if metric(n).scope is Scope.ANALYTIC}
        if set(trial.wanted) - counted.keys() - known.keys():
            continue
        values = {**counted, **{name: one.value for name, one in known.items()}}
        ends.append(
            trial_ends.TrialEnd(trial, State.SUCCEEDED, metrics={n: values[n] for n in trial.wanted}, reused=True)
        )
        links.append((study.id, [one.measurement_id for one in known.values()]))
        entries.append(ledger.Entry(trial.architecture_id, question.circumstances, counted, study_id=study.id))
    ledger.record_all(s, entries)
    ledger.link(s, links)
    return ends


def _job(study: Study, needed: Json, trial: TrialRow) -> dict[str, Any]:
    devices = [device for name in trial.wanted if (device := name.partition("@")[2])]
    scored = needed["kind"] == JobKind.SCORE
    return {
        **needed,
        "payload": proxies.payload_of_trial(trial.architecture_id, trial.wanted) if scored else {},
        "study_id": study.id,
        "search_id": trial.search_id,
        "trial_id": trial.id,
        "architecture_id": trial.architecture_id,
        "needs_device": devices[0] if devices and needed["kind"] == JobKind.EVALUATE else None,
    }


def seen(s: Session, search_id: int) -> list[tuple[int, Json]]:
    """(number, what it had seen) of every ask of a search, in order; or `NotFound`."""
    if s.get(Search, checked_id(search_id, "search")) is None:
        raise NotFound("search", search_id)
    query = select(Ask.number, Ask.seen).where(Ask.search_id == search_id).order_by(Ask.number)
    return list(s.execute(query))
