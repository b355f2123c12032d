"""Evaluators of studies: which there are, their options where the server reads them, and what their jobs need."""

from __future__ import annotations

from pydantic import ValidationError
from sqlalchemy import select
from sqlalchemy.orm import Session

from search_spaces.plugins import names as plugin_names
from service.core.errors import Invalid
from service.core.evaluators import EXTERNAL, TABLE
from service.core.scoring import Scoring
from service.db import jobs, ledger
from service.db.tables import Space, Study, Worker
from service.wire.base import Json
from service.wire.jobs import JobKind
from service.wire.studies import EvaluatorSpec, TableOptions

UNTIL_NOW_S = 1000 * 365 * 86400.0
"""Age of everything that was ever measured."""


def filled(s: Session, given: EvaluatorSpec, study_name: str, space: Space) -> EvaluatorSpec:
    """The evaluator of a new study as it is kept: a table is named, so that no two of them are taken for one.

    What a study holds itself is not in the circumstances of what is replayed from it: ``scale`` tells them apart.
    Raises `Invalid` for a table that is not there or of another space. Other evaluators check their options at work.
    """
    if given.name != TABLE:
        return given
    options = _table_options(given.options)
    if options.study in (None, study_name):
        options = TableOptions(study=study_name, scale=None)
    else:
        _check_table(s, options, space)
    return EvaluatorSpec(name=TABLE, options=options.model_dump(mode="json"))


def table_of(s: Session, study: Study) -> tuple[Study, TableOptions]:
    """The study whose values a study of the evaluator ``table`` replays, and the options."""
    options = _table_options(study.evaluator["options"])
    table = study
    if options.study != study.name:
        table = s.scalars(select(Study).where(Study.name == options.study)).one_or_none() or study
        if table is study:
            raise Invalid("evaluator.options.study", f"there is no study {options.study!r} any more to be replayed")
    return table, options


def reads_data(s: Session, name: str) -> bool:
    """Whether the workers that have this evaluator read the images of the task's data set.

    Plug-ins do. Of other names their workers decide: those that run a function announce no data sets.
    """
    if name in (EXTERNAL, TABLE):
        return False
    if name in plugin_names("evaluators"):
        return True
    return any(
        name in evaluators and held for evaluators, held in s.execute(select(Worker.evaluators, Worker.datasets))
    )


def needs(s: Session, study: Study, weights: str | None) -> Json:
    """Columns of `Job` that say what kind of job evaluates for a study, and what its worker must have.

    Workers that have loaded ``weights``, those of the study's super-network, are preferred. A replay needs nothing.
    """
    name = study.evaluator["name"]
    if name == TABLE:
        return {
            "kind": JobKind.REPLAY,
            "needs_dataset": None,
            "needs_evaluator": None,
            "needs_weights": None,
            **jobs.needs(None),
        }
    data = study.task["digest"] if reads_data(s, name) else None
    return {
        "kind": JobKind.EVALUATE,
        "needs_dataset": data,
        "needs_evaluator": name,
        "needs_weights": weights,
        **jobs.needs(study.resources),
    }


def scoring(kind: str, evaluator: str) -> Scoring | None:
    """How proxies are scored in jobs of this kind: as usual where the service's workers do it, beside what an evaluator
    measures that is a plug-in or in jobs of their own. None where whoever evaluates tells, or a table."""
    ours = kind == JobKind.SCORE or (kind == JobKind.EVALUATE and evaluator in plugin_names("evaluators"))
    return Scoring() if ours else None


def latency_age_s(study: Study, otherwise: float = ledger.LATENCY_AGE_S) -> float:
    """How old a metric of device scope may be to be used: those of a table are as they are."""
    return UNTIL_NOW_S if study.evaluator["name"] == TABLE else otherwise


def _table_options(given: Json) -> TableOptions:
    try:
        return TableOptions.model_validate(given)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(["evaluator.options", *map(str, first["loc"])])
        message = first["msg"]
        if first["type"] == "extra_forbidden":
            message = f"there is no such option, there are {', '.join(TableOptions.model_fields)}"
        raise Invalid(field, message) from error


def _check_table(s: Session, options: TableOptions, space: Space) -> None:
    field = "evaluator.options.study"
    digest = s.scalars(
        select(Space.digest).join(Study, Study.space_id == Space.id).where(Study.name == options.study)
    ).one_or_none()
    if digest is None:
        raise Invalid(field, f"there is no study {options.study!r}")
    if digest != space.digest:
        raise Invalid(field, f"{options.study!r} is of another space than {space.name!r}: its values belong to others")
