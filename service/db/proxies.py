"""Zero-cost proxies of untrained architectures, as jobs whose scores become measurements."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from sqlalchemy.orm import Session

from search_spaces.plugins import names as plugin_names
from search_spaces.space import Genes, InvalidArchitecture, SearchSpace, distinct
from service.core.errors import Conflict, Invalid
from service.core.metrics import Circumstances, Scope, metric
from service.core.objectives import ANALYTIC
from service.db import architectures, jobs, ledger, spaces, studies, workers
from service.db.rows import chunks
from service.db.tables import Job, Study
from service.wire.jobs import JobKind, ScoreOut
from service.wire.payloads import ScoreResult
from service.wire.studies import ArchitectureRef, ScoreIn

PER_JOB = 16
"""Architectures in one job."""

BATCH = 64
"""Images of the minibatch that untrained networks are scored on."""


def score(s: Session, study_name: str, body: ScoreIn) -> ScoreOut:
    """Queues the scoring of what is not scored yet.

    Raises `Invalid` for a proxy that is none, an architecture outside the space, or neither or both of
    ``architectures`` and ``sample``.
    """
    study = studies.row(s, study_name)
    for index, name in enumerate(body.proxies):
        if name not in plugin_names("proxies"):
            allowed = plugin_names("proxies")
            raise Invalid(f"proxies.{index}", f"no proxy named {name!r}", allowed=allowed)
    space = spaces.load(spaces.row(s, study.space_id))
    genes = _genes(space, body)
    if not workers.is_announced(s, study.task["digest"]):
        raise Conflict(
            f"no worker has announced {study.task['dataset']!r}, the data set of study {study.name!r}: proxies are "
            "scored on its images"
        )
    ids = architectures.ensure(s, space, genes)
    circumstances = circumstances_of(study, body.seed)
    for index, name in enumerate(body.proxies):
        if name in ANALYTIC and name not in space.counted:
            raise Invalid(f"proxies.{index}", f"the study's space counts no {name!r}")
    measured = tuple(dict.fromkeys(name for name in body.proxies if metric(name).scope is not Scope.ANALYTIC))
    counted = {name: space.cost(genes)[name].tolist() for name in body.proxies if name in ANALYTIC}
    if counted:
        rows = [{name: float(values[index]) for name, values in counted.items()} for index in range(len(ids))]
        ledger.record_all(
            s, [ledger.Entry(each, circumstances, row, study_id=study.id) for each, row in zip(ids, rows, strict=True)]
        )
    known = ledger.known(s, [ledger.Question(each, measured, circumstances) for each in ids])
    ledger.link(s, [(study.id, [one.measurement_id for one in answer.values()]) for answer in known])
    todo = [each for each, answer in zip(ids, known, strict=True) if len(answer) < len(measured)]
    made = jobs.enqueue_all(
        s,
        JobKind.SCORE,
        [
            {
                "study_id": study.id,
                "needs_dataset": study.task["digest"],
                "payload": {"architectures": list(some), "proxies": list(measured), "seed": body.seed},
            }
            for some in chunks(todo, PER_JOB)
        ],
    )
    return ScoreOut(jobs=[job.id for job in made], reused=len(ids) - len(todo))


def circumstances_of(study: Study, seed: int) -> Circumstances:
    """What scores depend on: data and initialisation, nothing of how a study evaluates."""
    return Circumstances(
        dataset=study.task["digest"],
        split="train",
        evaluator="score",
        options={"batch": BATCH},
        weights=None,
        seed=seed,
    )


def entries(s: Session, job: Job, token: int, worker: str, result: ScoreResult) -> list[ledger.Entry]:
    """What a job's result says, for the ledger. `Invalid` if it is not about the architectures that were asked."""
    ids, asked = job.payload["architectures"], set(job.payload["proxies"])
    for field, length in (("scores", len(result.scores)), ("seconds", len(result.seconds))):
        if length != len(ids):
            raise Invalid(field, f"has {length} items for {len(ids)} architectures")
    study = s.get_one(Study, job.study_id)
    circumstances = circumstances_of(study, job.payload["seed"])
    return [
        ledger.Entry(
            architecture_id=each,
            circumstances=circumstances,
            values={name: value for name, value in scores.items() if name in asked},
            seconds=seconds,
            job_id=job.id,
            token=token,
            worker=worker,
            study_id=study.id,
        )
        for each, scores, seconds in zip(ids, result.scores, result.seconds, strict=True)
    ]


def _genes(space: SearchSpace, body: ScoreIn) -> Genes:
    if (body.architectures is None) == (body.sample is None):
        raise Invalid("architectures", "give either `architectures` or `sample`, one of the two")
    if body.sample is not None:
        return space.sample(body.sample, np.random.default_rng(body.seed))
    return distinct(space.canonical(_referred(space, body.architectures or [])))


def _referred(space: SearchSpace, refs: Sequence[ArchitectureRef]) -> Genes:
    rows = []
    for index, ref in enumerate(refs):
        field = f"architectures.{index}"
        if (ref.config is None) == (ref.genes is None):
            raise Invalid(field, "give either `config` or `genes`, one of the two")
        try:
            row = space.from_configs([ref.config]) if ref.config is not None else space.check([ref.genes])
        except InvalidArchitecture as error:
            part = "config" if ref.config is not None else "genes"
            raise Invalid(f"{field}.{part}.{error.field}".rstrip("."), error.message) from error
        rows.append(row)
    if not rows:
        raise Invalid("architectures", "is empty")
    return np.concatenate(rows)
