"""Confirmations: the best of a search, measured again on seeds that no trial ever saw.

They are jobs without trials: no search sees their values, and their seeds put them into contexts of their own, so that
no front does either. What is known already is not paid for again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import count, islice

from sqlalchemy import select
from sqlalchemy.orm import Session

from service.core import pareto
from service.core.errors import Conflict, Invalid, NotFound
from service.core.evaluators import TABLE
from service.core.metrics import Scope, metric
from service.core.objectives import minimised
from service.core.states import OPEN, State
from service.db import confirmed, evaluators, jobs, ledger, spaces, studies, subjects, trial_ends, workers
from service.db.paging import checked_id, slice_of
from service.db.searches import row as search_row
from service.db.tables import Architecture, Confirmation, Job, Search, Study, Trial, now
from service.wire.base import Json, Page
from service.wire.confirmations import ConfirmationOut, ConfirmIn
from service.wire.jobs import JobKind
from service.wire.studies import EvaluatorSpec

SPLIT = "validation"

Place = tuple[int, int]
"""Architecture id and seed: one measurement of a confirmation."""


def create(s: Session, search_id: int, body: ConfirmIn) -> ConfirmationOut:
    """Queues the measurements; those that are known, or wait already, are not made again.

    While nothing has changed the same request gives the same confirmation; what failed in it, or was lost or cancelled,
    is queued again. Raises `Conflict` where there is nothing to confirm, or no way to measure on a fresh seed, and
    `Invalid` for an evaluator or a metric that cannot be.
    """
    # Locked, so that two equal requests make one confirmation.
    search = trial_ends.lock_searches(s, [checked_id(search_id, "search")]).get(search_id)
    if search is None:
        raise NotFound("search", search_id)
    study = s.get_one(Study, search.study_id)
    wanted = {
        "evaluator": _evaluator(s, study, body.evaluator),
        "metrics": _metrics(study, body.metrics),
        "seeds": fresh_seeds(body.seeds),
        "chosen": _chosen(s, search, study, body.best),
    }
    made = select(Confirmation).where(Confirmation.search_id == search.id).order_by(Confirmation.id.desc())
    for stored in s.scalars(made):
        if all(getattr(stored, name) == value for name, value in wanted.items()):
            break
    else:
        stored = Confirmation(study_id=study.id, search_id=search.id, created_at=now(), **wanted)
        s.add(stored)
        s.flush()
    _queue(s, study, stored)
    return _view(s, stored)


def get(s: Session, confirmation_id: int) -> ConfirmationOut:
    """One confirmation, or `NotFound`."""
    stored = s.get(Confirmation, checked_id(confirmation_id, "confirmation"))
    if stored is None:
        raise NotFound("confirmation", confirmation_id)
    return _view(s, stored)


def page(s: Session, search_id: int, size: int, token: str | None = None) -> Page[ConfirmationOut]:
    """The confirmations of a search, newest first."""
    query = select(Confirmation).where(Confirmation.search_id == search_row(s, search_id).id)
    rows, following = slice_of(s, query, [Confirmation.id], size, token, descending=True)
    return Page(items=[_view(s, found[0]) for found in rows], next_page_token=following)


def newest(s: Session, study_name: str, number: int) -> list[ConfirmationOut]:
    """At most so many confirmations of a study's searches, newest first."""
    query = select(Confirmation).where(Confirmation.study_id == studies.row(s, study_name).id)
    return [_view(s, stored) for stored in s.scalars(query.order_by(Confirmation.id.desc()).limit(number))]


def fresh_seeds(number: int) -> list[int]:
    """The first seeds that no trial is measured on."""
    return list(islice((seed for seed in count(1) if seed != studies.EVALUATION_SEED), number))


# ---------------------------------------------------------------------- what is asked for


def _evaluator(s: Session, study: Study, given: EvaluatorSpec | None) -> Json:
    evaluator: Json = study.evaluator if given is None else given.model_dump(mode="json")
    name = evaluator["name"]
    if name == TABLE:
        raise Conflict(
            f"a table holds one value for each architecture and no fresh seeds: name another evaluator to confirm "
            f"study {study.name!r}, for example 'training'"
        )
    if given is not None:
        studies.check_evaluator(s, name)
    if evaluators.reads_data(s, name) and not workers.is_announced(s, study.task["digest"]):
        raise Conflict(f"no worker has announced {study.task['dataset']!r}, which the evaluator {name!r} reads")
    if name == studies.SUPERNET_EVALUATOR and studies.weights(s, study) is None:
        raise Conflict(f"study {study.name!r} has no trained super-network for the evaluator {name!r}")
    return evaluator


def _metrics(study: Study, given: Sequence[str] | None) -> list[str]:
    seeded = [name for name in study.metrics if metric(name).scope is Scope.TASK]
    if given is None:
        objectives = {each["metric"] for each in study.objectives}
        chosen = [name for name in seeded if name in objectives]
        if not chosen:
            raise Conflict(f"no objective of study {study.name!r} depends on a seed: there is nothing to confirm")
        return chosen
    for index, name in enumerate(given):
        if name not in seeded:
            why = "does not depend on a seed" if name in study.metrics else f"is not measured by study {study.name!r}"
            raise Invalid(
                f"metrics.{index}", f"{name!r} {why}; those that can be confirmed: {', '.join(seeded) or 'none'}"
            )
    return list(dict.fromkeys(given))


def _chosen(s: Session, search: Search, study: Study, best: int) -> list[Json]:
    """The best architectures of a search's own full evaluations, each with the metrics that speak for it."""
    query = (
        select(Trial.architecture_id, Trial.id, Trial.metrics, Architecture.key)
        .join(Architecture, Architecture.id == Trial.architecture_id)
        .where(Trial.search_id == search.id, Trial.state == State.SUCCEEDED, Trial.evaluation, Trial.fidelity == 1.0)
        .order_by(Trial.number)
    )
    first: dict[int, Json] = {}
    for architecture, trial, metrics, key in s.execute(query):
        first.setdefault(architecture, {"architecture": architecture, "key": key, "trial": trial, "metrics": metrics})
    found = list(first.values())
    measured = [each["metrics"] for each in found]
    objectives = studies.objectives(study)
    leaders = pareto.leaders(objectives, minimised(objectives, measured), studies.within(study, measured), best)
    if not len(leaders):
        raise Conflict(f"search {search.id} has no full evaluation that keeps all constraints: nothing to confirm yet")
    return [found[index] for index in leaders.tolist()]


# ---------------------------------------------------------------------- measurements


def _queue(s: Session, study: Study, stored: Confirmation) -> None:
    """Queues what is neither known nor waiting; what is known is linked to the study."""
    weights = studies.weights_used(study, stored.evaluator, studies.weights(s, study))
    answers = _known(s, study, stored)
    links = [one.measurement_id for answer in answers.values() for one in answer.values()]
    ledger.link(s, [(study.id, links)])
    newest = _newest_jobs(s, study, stored)
    todo = [
        place
        for place, answer in answers.items()
        if len(answer) < len(stored.metrics) and (place not in newest or State(newest[place].state) in _AGAIN)
    ]
    other = {} if stored.evaluator == study.evaluator else {"evaluator": stored.evaluator}
    reads_data = evaluators.reads_data(s, stored.evaluator["name"])
    jobs.enqueue_all(
        s,
        JobKind.EVALUATE,
        [
            {
                "study_id": study.id,
                "architecture_id": architecture,
                "needs_dataset": study.task["digest"] if reads_data else None,
                "needs_evaluator": stored.evaluator["name"],
                "needs_weights": weights,
                "payload": {"split": SPLIT, "seed": seed, "metrics": stored.metrics, **other},
            }
            for architecture, seed in todo
        ],
    )


_AGAIN = frozenset({State.FAILED, State.LOST, State.CANCELLED, State.SUCCEEDED})
"""Ends after which a measurement that is not there is tried again; INFEASIBLE would be infeasible again."""


def _known(s: Session, study: Study, stored: Confirmation) -> dict[Place, dict[str, ledger.Known]]:
    """Architecture and seed → what the ledger knows, in the order in which they are shown."""
    weights = studies.weights_used(study, stored.evaluator, studies.weights(s, study))
    places = [(each["architecture"], seed) for each in stored.chosen for seed in stored.seeds]
    questions = [
        ledger.Question(
            architecture,
            tuple(stored.metrics),
            studies.circumstances_with(study, weights, SPLIT, evaluator=stored.evaluator, seed=seed),
        )
        for architecture, seed in places
    ]
    return dict(zip(places, ledger.known(s, questions), strict=True))


def _newest_jobs(s: Session, study: Study, stored: Confirmation) -> dict[Place, Job]:
    """The newest job of each measurement; one made for another confirmation counts too."""
    query = select(Job).where(
        Job.study_id == study.id,
        Job.kind == JobKind.EVALUATE,
        Job.trial_id.is_(None),
        Job.architecture_id.in_([each["architecture"] for each in stored.chosen]),
    )
    found: dict[Place, Job] = {}
    for job in s.scalars(query.order_by(Job.id).execution_options(populate_existing=True)):
        payload = job.payload
        if (
            job.architecture_id is not None
            and payload.get("split") == SPLIT
            and subjects.evaluator_of(job, study) == stored.evaluator
            and set(stored.metrics) <= set(payload["metrics"])
        ):
            found[job.architecture_id, payload["seed"]] = job
    return found


def _view(s: Session, stored: Confirmation) -> ConfirmationOut:
    study = s.get_one(Study, stored.study_id)
    known, newest = _known(s, study, stored), _newest_jobs(s, study, stored)
    missing = [place for place, answer in known.items() if len(answer) < len(stored.metrics)]
    waiting = {place for place in missing if place in newest and State(newest[place].state) in OPEN}
    values: Mapping[Place, Mapping[str, float]] = {
        place: {name: one.value for name, one in answer.items()} for place, answer in known.items()
    }
    failed = [(place, newest[place]) for place in missing if place not in waiting and place in newest]
    return confirmed.view(
        stored, study, spaces.load(spaces.row(s, study.space_id)), _genes(s, stored), values, len(waiting), failed
    )


def _genes(s: Session, stored: Confirmation) -> dict[int, bytes]:
    wanted = [each["architecture"] for each in stored.chosen]
    return dict(s.execute(select(Architecture.id, Architecture.genes).where(Architecture.id.in_(wanted))).all())
