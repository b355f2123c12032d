"""Trials, as they are shown."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import select
from sqlalchemy.orm import Session

from service.core.errors import Invalid, NotFound
from service.core.states import State
from service.db import spaces, studies
from service.db.architectures import unpack
from service.db.paging import checked_id, slice_of
from service.db.tables import Architecture, Space, Study, Trial
from service.wire.base import Page
from service.wire.searches import PredictionOut, TrialOut

ORDERS = ("oldest", "newest")
"""By id. Within a search that is the order of the numbers."""


def page(
    s: Session,
    size: int,
    token: str | None = None,
    *,
    study: str | None = None,
    search: int | None = None,
    states: Sequence[State] = (),
    probe: bool | None = None,
    order: str = "oldest",
) -> Page[TrialOut]:
    """Trials that pass every filter given, in one of `ORDERS`."""
    if order not in ORDERS:
        raise Invalid("order", f"must be one of {', '.join(ORDERS)}, is {order!r}")
    query = select(Trial)
    if study is not None:
        query = query.where(Trial.study_id == studies.row(s, study).id)
    if search is not None:
        query = query.where(Trial.search_id == checked_id(search, "search"))
    if states:
        query = query.where(Trial.state.in_(states))
    if probe is not None:
        query = query.where(Trial.probe.is_(probe))
    # The same order, by the index that serves the filter.
    key = Trial.id if search is None else Trial.number
    rows, following = slice_of(s, query, [key], size, token, descending=order == "newest")
    return Page(items=_views(s, [found[0] for found in rows]), next_page_token=following)


def get(s: Session, trial_id: int) -> TrialOut:
    """One trial, or `NotFound`."""
    found = s.get(Trial, checked_id(trial_id, "trial"))
    if found is None:
        raise NotFound("trial", trial_id)
    return _views(s, [found])[0]


def several(s: Session, ids: Sequence[int]) -> list[TrialOut]:
    """Those of these trials that are there, by id."""
    return _views(s, s.scalars(select(Trial).where(Trial.id.in_(ids)).order_by(Trial.id)).all())


def _views(s: Session, trials: Sequence[Trial]) -> list[TrialOut]:
    wanted = {trial.architecture_id for trial in trials}
    stored = {each.id: each for each in s.scalars(select(Architecture).where(Architecture.id.in_(wanted)))}
    of_study = select(Study.id, Space).join(Space, Space.id == Study.space_id)
    named = s.execute(of_study.where(Study.id.in_({trial.study_id for trial in trials}))).all()
    genes: dict[int, list[int]] = {}
    configs: dict[int, dict[str, str | int | float]] = {}
    for study_id, row in named:
        space = spaces.load(row)
        ids = sorted({trial.architecture_id for trial in trials if trial.study_id == study_id})
        rows = unpack([stored[each].genes for each in ids], len(space.choices))
        genes.update(zip(ids, rows.tolist(), strict=True))
        configs.update(zip(ids, space.to_configs(rows), strict=True))
    return [
        TrialOut(
            id=trial.id,
            search=trial.search_id,
            number=trial.number,
            ask=trial.ask,
            key=stored[trial.architecture_id].key,
            config=configs[trial.architecture_id],
            genes=genes[trial.architecture_id],
            state=State(trial.state),
            reason=trial.reason,
            suggestion=trial.suggestion,
            probe=trial.probe,
            evaluation=trial.evaluation,
            fidelity=trial.fidelity,
            metrics=trial.metrics,
            predicted={name: PredictionOut(**said) for name, said in trial.predicted.items()},
            reused=trial.reused,
            paid_s=trial.paid_s,
            created_at=trial.created_at,
            ended_at=trial.ended_at,
        )
        for trial in trials
    ]
