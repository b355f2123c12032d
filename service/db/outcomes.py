"""What the end of a job does to what it was about: per kind a function in a table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TypeVar

from pydantic import ValidationError
from sqlalchemy import select
from sqlalchemy.orm import Session

from service.core.errors import Invalid
from service.core.failures import Failure
from service.core.metrics import Scope, metric
from service.core.states import State
from service.db import artifacts, evaluators, events, ledger, proxies, subjects, supernets, trial_ends, undefined
from service.db.job_rows import JobRow
from service.db.tables import Predictor, Search, Supernet, now
from service.wire.base import Json, Wire
from service.wire.jobs import JobKind
from service.wire.payloads import EvaluateResult, FitResult, ReplayResult, ScoreResult, TrainSupernetResult

Result = TypeVar("Result", bound=Wire)


@dataclass(frozen=True, slots=True)
class Report:
    """A result that arrived. Unless it is ``current``, only what was measured is kept.

    Latencies that were not older than ``latency_age_s`` when the job was leased were not asked for.
    """

    job: JobRow
    token: int
    result: Json
    seconds: float
    worker: str
    current: bool
    latency_age_s: float

    def since(self) -> datetime:
        """Latencies measured from then on are known."""
        age_s = evaluators.UNTIL_NOW_S if self.job.kind == JobKind.REPLAY else self.latency_age_s
        return (self.job.leased_at or now()) - timedelta(seconds=age_s)


@dataclass(frozen=True, slots=True)
class Verdict:
    """How a job ends, or comes back: then it waits for ``delay_s`` seconds, for a device of ``memory_mb`` MiB if that
    is known. ``seconds`` were paid for it, ``failure`` says what kind of failure it was."""

    state: State
    reason: str = ""
    seconds: float = 0.0
    failure: Failure | None = None
    delay_s: float = 0.0
    memory_mb: int | None = None


@dataclass(frozen=True, slots=True)
class Ended:
    """A job that ended or comes back. ``result`` is kept with it if there is one."""

    job: JobRow
    verdict: Verdict
    result: Json | None = None


SUCCEEDED = Verdict(State.SUCCEEDED)
Searches = dict[int, Search]


def settle(s: Session, searches: Searches, kind: JobKind, reports: Sequence[Report]) -> list[Verdict]:
    """Takes in reports of jobs of one kind; says per report how its job ends. Stale ones end nothing."""
    return _SETTLE[kind](s, searches, reports)


def abandon(s: Session, searches: Searches, kind: JobKind, ended: Sequence[Ended]) -> None:
    """What follows when jobs of one kind end without success."""
    _ABANDON[kind](s, searches, ended)


def finish_reused(
    s: Session, searches: Searches, reused: Sequence[tuple[subjects.Subject, Mapping[str, ledger.Known]]]
) -> None:
    """Ends trials whose metrics have all become known while they waited; their study links what they use."""
    counted = subjects.analytic([subject for subject, _ in reused])
    _record_counted(s, [(subject, counted[subject.job.id]) for subject, _ in reused])
    ledger.link(s, [(subject.study.id, [each.measurement_id for each in known.values()]) for subject, known in reused])
    ends = []
    for subject, known in reused:
        if subject.trial is not None:
            values = {**counted[subject.job.id], **{name: each.value for name, each in known.items()}}
            metrics = {name: values[name] for name in subject.wanted}
            ends.append(trial_ends.TrialEnd(subject.trial, State.SUCCEEDED, metrics=metrics, reused=True))
    trial_ends.end_trials(s, searches, ends)


# ---------------------------------------------------------------------- evaluate


def _evaluated(s: Session, searches: Searches, reports: Sequence[Report]) -> list[Verdict]:
    about = subjects.read(s, [report.job for report in reports])
    kind = _EVALUATIONS[JobKind(reports[0].job.kind)]
    parsed = [_parse(kind, report) for report in reports]
    counted = subjects.analytic([about[report.job.id] for report in reports])
    devices = {result.device for result in parsed if not isinstance(result, Verdict)}
    depend_on = {device: subjects.circumstances(about.values(), device) for device in devices}
    entries, owners, verdicts = [], [], [SUCCEEDED] * len(reports)
    for index, (report, result) in enumerate(zip(reports, parsed, strict=True)):
        if isinstance(result, Verdict):
            verdicts[index] = result
            continue
        subject = about[report.job.id]
        # What follows from the architecture alone is counted here, whatever a worker says.
        measured = {n: v for n, v in result.metrics.items() if _belongs(n, result)}
        entries.append(
            ledger.Entry(
                architecture_id=subject.architecture_id,
                circumstances=depend_on[result.device][report.job.id],
                values={**counted[report.job.id], **measured},
                seconds=_paid_s(report, result),
                job_id=report.job.id,
                token=report.token,
                worker=report.worker,
                study_id=subject.study.id,
                spreads=result.spreads,
            )
        )
        owners.append(index)
    ledger.record_all(s, entries)
    # A lease asks for what is not known yet, so the rest of a trial's metrics is in the ledger.
    questions = {}
    for index, entry in zip(owners, entries, strict=True):
        report = reports[index]
        rest = tuple(n for n in about[report.job.id].wanted if n not in entry.values)
        if rest:
            questions[index] = ledger.Question(entry.architecture_id, rest, entry.circumstances, report.since())
    answers = dict(zip(questions, ledger.known(s, list(questions.values())), strict=True))
    ends, links = [], []
    for index, entry in zip(owners, entries, strict=True):
        report, subject, known = reports[index], about[reports[index].job.id], answers.get(index, {})
        if not report.current:
            continue
        values = {**{name: each.value for name, each in known.items()}, **entry.values}
        missing = [name for name in subject.wanted if name not in values]
        if missing:
            reason = f"the evaluator did not report {', '.join(missing)}"
            verdicts[index] = Verdict(State.FAILED, reason, report.seconds, Failure.BUG)
            continue
        links.append((subject.study.id, [each.measurement_id for each in known.values()]))
        if subject.trial is not None:
            metrics = {name: values[name] for name in subject.wanted}
            ends.append(trial_ends.TrialEnd(subject.trial, State.SUCCEEDED, metrics=metrics, seconds=entry.seconds))
    ledger.link(s, links)
    trial_ends.end_trials(s, searches, ends)
    return verdicts


_EVALUATIONS: Mapping[JobKind, type[EvaluateResult]] = {
    JobKind.EVALUATE: EvaluateResult,
    JobKind.REPLAY: ReplayResult,
}


def _belongs(name: str, result: EvaluateResult) -> bool:
    """Whether a reported metric may be kept: counted ones are not, nor those of another device than was measured on."""
    if metric(name).scope is Scope.ANALYTIC:
        return False
    return isinstance(result, ReplayResult) or name.partition("@")[2] in ("", result.device)


def _paid_s(report: Report, result: EvaluateResult) -> float:
    """A replay costs what it had cost to measure: searches see the price of what they ask for."""
    return result.seconds if isinstance(result, ReplayResult) else report.seconds


def _record_counted(s: Session, counted: Sequence[tuple[subjects.Subject, Mapping[str, float]]]) -> None:
    depend_on = subjects.circumstances(subject for subject, _ in counted)
    ledger.record_all(
        s,
        [
            ledger.Entry(subject.architecture_id, depend_on[subject.job.id], dict(values), study_id=subject.study.id)
            for subject, values in counted
        ],
    )


def _end_trials(s: Session, searches: Searches, ended: Sequence[Ended]) -> None:
    about = subjects.read(s, [each.job for each in ended])
    ends = []
    for each in ended:
        subject = about.get(each.job.id)
        if subject is not None and subject.trial is not None:
            ends.append(
                trial_ends.TrialEnd(
                    subject.trial, each.verdict.state, each.verdict.reason, seconds=each.verdict.seconds
                )
            )
    trial_ends.end_trials(s, searches, ends)


# ---------------------------------------------------------------------- train_supernet


def _trained(s: Session, searches: Searches, reports: Sequence[Report]) -> list[Verdict]:
    results = [_parse(TrainSupernetResult, report) for report in reports]
    absent = artifacts.missing(s, [r.weights for r in results if not isinstance(r, Verdict)])
    verdicts = []
    stored = _supernets(s, [report.job for report in reports])
    for report, result in zip(reports, results, strict=True):
        if isinstance(result, Verdict):
            verdicts.append(result)
        elif result.weights in absent:
            verdicts.append(_not_uploaded(result.weights))
        else:
            verdicts.append(SUCCEEDED)
            if report.current:
                supernet = stored[report.job.id]
                supernet.state, supernet.weights, supernet.summary = supernets.READY, result.weights, result.summary
                supernets.ended(s, supernet)
    return verdicts


def _untrained(s: Session, searches: Searches, ended: Sequence[Ended]) -> None:
    stored = _supernets(s, [each.job for each in ended])
    for each in ended:
        supernet = stored[each.job.id]
        supernet.state = supernets.CREATED if each.verdict.state is State.CANCELLED else supernets.FAILED
        supernet.summary = {"reason": each.verdict.reason}
        supernets.ended(s, supernet)


def _supernets(s: Session, jobs: Sequence[JobRow]) -> dict[int, Supernet]:
    wanted = {job.supernet_id for job in jobs}
    found = {each.id: each for each in s.scalars(select(Supernet).where(Supernet.id.in_(wanted)))}
    return {job.id: found[job.supernet_id] for job in jobs if job.supernet_id is not None}


# ---------------------------------------------------------------------- fit


def _fitted(s: Session, searches: Searches, reports: Sequence[Report]) -> list[Verdict]:
    results = [_parse(FitResult, report) for report in reports]
    absent = artifacts.missing(s, [r.artifact for r in results if not isinstance(r, Verdict)])
    stored = _predictors(s, [report.job for report in reports])
    verdicts = []
    for report, result in zip(reports, results, strict=True):
        if isinstance(result, Verdict):
            verdicts.append(result)
        elif result.artifact in absent:
            verdicts.append(_not_uploaded(result.artifact))
        else:
            verdicts.append(SUCCEEDED)
            if report.current:
                predictor = stored[report.job.id]
                predictor.state, predictor.artifact = State.SUCCEEDED, result.artifact
                predictor.summary = result.summary
                _tell_predictor(s, predictor)
    return verdicts


def _unfitted(s: Session, searches: Searches, ended: Sequence[Ended]) -> None:
    stored = _predictors(s, [each.job for each in ended])
    for each in ended:
        predictor = stored[each.job.id]
        predictor.state, predictor.summary = each.verdict.state, {"reason": each.verdict.reason}
        _tell_predictor(s, predictor)


def _tell_predictor(s: Session, predictor: Predictor) -> None:
    body: Json = {"predictor": predictor.id, "metric": predictor.metric, "ask": predictor.ask, "state": predictor.state}
    events.emit(s, "predictor.ready", predictor.study_id, predictor.search_id, body)


def _predictors(s: Session, jobs: Sequence[JobRow]) -> dict[int, Predictor]:
    wanted = {job.predictor_id for job in jobs}
    found = {each.id: each for each in s.scalars(select(Predictor).where(Predictor.id.in_(wanted)))}
    return {job.id: found[job.predictor_id] for job in jobs if job.predictor_id is not None}


# ---------------------------------------------------------------------- score, and kinds that only have a result


def _scored(s: Session, searches: Searches, reports: Sequence[Report]) -> list[Verdict]:
    about = subjects.read(s, [report.job for report in reports if report.job.trial_id is not None])
    counted = subjects.analytic(list(about.values()))
    entries: list[ledger.Entry] = []
    undefined_: list[undefined.Entry] = []
    verdicts, ends = [], []
    for report in reports:
        result = _parse(ScoreResult, report)
        if isinstance(result, Verdict):
            verdicts.append(result)
            continue
        try:
            scored, refused = proxies.entries(s, report.job, report.token, report.worker, result)
        except Invalid as error:
            reason = f"the result was refused: {error.field}: {error.message}"
            verdicts.append(Verdict(State.FAILED, reason, report.seconds, Failure.BUG))
            continue
        entries += scored
        undefined_ += refused
        subject = about.get(report.job.id)
        if subject is None or subject.trial is None or not report.current:
            verdicts.append(SUCCEEDED)
            continue
        values = {**counted[report.job.id], **scored[0].values}
        verdict = _of_trial(subject, values, refused[0].reasons, report.seconds)
        verdicts.append(verdict)
        if verdict is SUCCEEDED:
            metrics = {name: values[name] for name in subject.wanted}
            ends.append(trial_ends.TrialEnd(subject.trial, State.SUCCEEDED, metrics=metrics, seconds=report.seconds))
    ledger.record_all(s, entries)
    undefined.record_all(s, undefined_)
    trial_ends.end_trials(s, searches, ends)
    return verdicts


def _of_trial(
    subject: subjects.Subject, values: Mapping[str, float], reasons: Mapping[str, str], seconds: float
) -> Verdict:
    """How a trial ends that was scored: a proxy that is not defined for its network makes it infeasible."""
    for name in subject.wanted:
        if name in reasons:
            return Verdict(State.INFEASIBLE, undefined.words(name, reasons[name]), seconds, Failure.INFEASIBLE)
    missing = [name for name in subject.wanted if name not in values]
    if missing:
        return Verdict(State.FAILED, f"the worker did not report {', '.join(missing)}", seconds, Failure.BUG)
    return SUCCEEDED


def _keep(s: Session, searches: Searches, reports: Sequence[Report]) -> list[Verdict]:
    return [SUCCEEDED for _ in reports]


def _nothing(s: Session, searches: Searches, ended: Sequence[Ended]) -> None:
    return


def _parse(kind: type[Result], report: Report) -> Result | Verdict:
    """The result, or why the job fails: a worker that answers nonsense must not hold up the others of its batch."""
    try:
        return kind.model_validate(report.result)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        field = ".".join(map(str, first["loc"]))
        return Verdict(State.FAILED, f"the result was refused: {field}: {first['msg']}", report.seconds, Failure.BUG)


def _not_uploaded(digest: str) -> Verdict:
    return Verdict(State.FAILED, f"the result names artifact {digest}, which was never uploaded", failure=Failure.BUG)


_SETTLE: Mapping[JobKind, Callable[[Session, Searches, Sequence[Report]], list[Verdict]]] = {
    JobKind.EVALUATE: _evaluated,
    JobKind.TRAIN_SUPERNET: _trained,
    JobKind.FIT: _fitted,
    JobKind.PREDICT: _keep,
    JobKind.SCORE: _scored,
    JobKind.REPLAY: _evaluated,
    JobKind.EXPORT: _keep,
    JobKind.IMPORT: _keep,
}
_ABANDON: Mapping[JobKind, Callable[[Session, Searches, Sequence[Ended]], None]] = {
    JobKind.EVALUATE: _end_trials,
    JobKind.TRAIN_SUPERNET: _untrained,
    JobKind.FIT: _unfitted,
    JobKind.PREDICT: _nothing,
    JobKind.SCORE: _end_trials,
    JobKind.REPLAY: _end_trials,
    JobKind.EXPORT: _nothing,
    JobKind.IMPORT: _nothing,
}
